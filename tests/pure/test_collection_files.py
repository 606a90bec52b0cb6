"""A collection's folder: what a kill leaves behind, who may write, and a disk that does not want to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from haven_vlm.collection_files import LINES, UNFINISHED, CollectionFolder
from haven_vlm.errors import BusyError, HavenError

LINE = {"correction": 4, "local_only": False, "frames": []}


def test_nothing_collected_leaves_no_folder(tmp_path: Path) -> None:
    folder = CollectionFolder(tmp_path / "incorrect", "now")
    assert folder.open() == []
    folder.finish([])
    folder.close()
    assert not folder.path.exists()


def test_an_interrupted_collection_is_gone_on_with_after_its_last_whole_line(tmp_path: Path) -> None:
    first = CollectionFolder(tmp_path, "first")
    first.open()
    first.add([LINE, LINE | {"correction": 5, "problem": "it is empty"}], {"frames/a.jpg": b"picture"})
    first.add([LINE | {"correction": 6, "problem": "it is gone", "gone": True}], {})
    with (first.path / LINES).open("ab") as handle:
        handle.write(b'{"correction": 7, "local_on')
    first.close()

    second = CollectionFolder(tmp_path, "second")
    assert second.open() == [4, 6], "what has a problem is tried again"
    assert second.name == "first"
    second.add([LINE | {"correction": 7}], {})
    second.finish([])
    second.close()
    found = [json.loads(line)["correction"] for line in (first.path / LINES).read_text(encoding="utf-8").splitlines()]
    assert found == [4, 5, 6, 7]
    assert not (first.path / UNFINISHED).exists()
    assert (first.path / "frames/a.jpg").read_bytes() == b"picture"

    third = CollectionFolder(tmp_path, "first")
    assert third.open() == []
    assert third.name == "first-2", "a finished one is never written to again"
    third.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    one, two = CollectionFolder(tmp_path, "one"), CollectionFolder(tmp_path, "two")
    one.open()
    with pytest.raises(BusyError, match="is collecting"):
        two.open()
    one.close()
    assert two.open() == []
    two.close()
    two.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(HavenError, match=r"cannot be written to .*file"):
        CollectionFolder(tmp_path / "file" / "incorrect", "now").open()


@pytest.mark.parametrize("left", [None, b"", b'{"correction": 4, "local_only": true}\n', b"\0\0\0\0\n"])
def test_whatever_a_kill_left_is_gone_on_with(tmp_path: Path, left: bytes | None) -> None:
    """Before the first line, between two lines, and a line that a power cut left without its content."""
    folder = tmp_path / "first"
    (folder / "frames").mkdir(parents=True)
    (folder / UNFINISHED).touch()
    if left is not None:
        (folder / LINES).write_bytes(left)
    second = CollectionFolder(tmp_path, "second")
    assert second.open() == ([4] if left and b"correction" in left else [])
    assert second.name == "first"
    second.add([LINE | {"correction": 9}], {})
    second.finish([])
    second.close()
    numbers = [json.loads(line)["correction"] for line in (folder / LINES).read_text(encoding="utf-8").splitlines()]
    assert numbers[-1] == 9 and len(numbers) <= 2


def test_an_unfinished_collection_without_a_line_is_finished_empty(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / UNFINISHED).touch()
    again = CollectionFolder(tmp_path, "second")
    assert again.open() == []
    again.finish(["Foul"])
    again.close()
    assert not (folder / UNFINISHED).exists()
