"""The table of platforms: what it says of pip's answers, and that the page holds one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from release import wheels
from release.wheels import MOST_MB, PLATFORMS, PYTHONS, Found, into_page, main, reason, table

FINE = Found({"av-19.0.2-cp312-abi3-win_amd64.whl": 36_000_000, "pillow-13.0.0-x.whl": 7_000_000})


def test_the_table_has_a_row_per_platform_and_a_column_per_python() -> None:
    text = table({(platform, python): FINE for platform in PLATFORMS for python in PYTHONS})
    lines = text.splitlines()
    assert len(lines) == 2 + len(PLATFORMS)
    assert all(line.count("|") == len(PYTHONS) + 2 for line in lines)
    assert text.count("43 MB (PyAV 19.0.2)") == len(PLATFORMS) * len(PYTHONS)


def test_the_command_fails_when_a_set_is_incomplete_or_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(tags: Sequence[str], python: str) -> Found:
        if "win_amd64" in tags and python == "3.14":
            return Found({}, "No matching distribution found for av")
        return Found({"x.whl": 61_000_000}) if "musllinux_1_2_aarch64" in tags else FINE

    assert main([], ask) == 1
    said = capsys.readouterr().out
    assert "✗ No matching distribution found for av" in said and "61 MB ✗ too large" in said
    assert main([], lambda tags, python: FINE) == 0


def test_what_pip_complains_of_names_no_address() -> None:
    text = "ERROR: Could not find https://mirror.example/x\nERROR: No matching distribution found for av (from y)\n"
    assert reason(text) == "No matching distribution found for av"
    assert reason("ERROR: HTTP error 404 while getting https://mirror.example/x") == "HTTP error 404 while getting"
    assert reason("") == "pip failed"


def test_the_page_holds_a_complete_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = wheels.PAGE.read_text(encoding="utf-8")
    assert all(f"| {platform} |" in text for platform in PLATFORMS)
    assert text.count(" MB (PyAV") == len(PLATFORMS) * len(PYTHONS) and "✗" not in text
    assert f"larger than {MOST_MB} MB" in text
    page = tmp_path / "platforms.md"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(wheels, "PAGE", page)
    main(["--write"], lambda tags, python: FINE)
    assert "43 MB (PyAV 19.0.2)" in page.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="marks"):
        into_page("no marks", "table")
