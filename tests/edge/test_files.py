"""Files of ours are whole or absent, and a memory that is lost costs nothing but time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from haven_vlm.files import JsonMemory, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "report.json"
    write_atomically(file, "old ✓")
    assert file.read_text(encoding="utf-8") == "old ✓"

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, "new")
    assert [p.name for p in file.parent.iterdir()] == ["report.json"]
    assert file.read_text(encoding="utf-8") == "old ✓"


def test_text_that_cannot_be_utf_8_is_written_all_the_same(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "name \udc80")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "name \\udc80"


async def put(file: Path, key: str, value: Mapping[str, int]) -> None:
    async with JsonMemory(file) as memory:
        memory.put(key, value)
        assert memory.get(key) == value


async def got(file: Path, key: str) -> Mapping[str, int] | None:
    async with JsonMemory(file) as memory:
        return memory.get(key)


async def test_what_was_put_is_there_for_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    await put(file, "a", {"limit": 4})
    await put(file, "b", {"limit": 8})
    assert await got(file, "a") == {"limit": 4}
    assert await got(file, "c") is None


async def test_two_runs_at_once_keep_what_each_learned(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    async with JsonMemory(file) as one, JsonMemory(file) as other:
        one.put("a", {"limit": 4})
        await put(file, "b", {"limit": 8})
        other.put("c", {"limit": 2})
    assert [await got(file, key) for key in "abc"] == [{"limit": 4}, {"limit": 8}, {"limit": 2}]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 3}', "\x00"])
async def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text(content, encoding="utf-8")
    assert await got(file, "a") is None
    await put(file, "a", {"x": 1})
    assert await got(file, "a") == {"x": 1}


async def test_a_memory_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    await put(tmp_path / "file" / "endpoints.json", "a", {"x": 1})
    assert "cannot be kept" in caplog.text
