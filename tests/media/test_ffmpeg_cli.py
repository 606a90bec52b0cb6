"""The ffmpeg program as a fallback: the same times, the same sentences. Skipped where it is not installed."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import haven_vlm.reading
from demo.court import time_of
from haven_vlm.container import PacketFeed
from haven_vlm.errors import MediaUnreadable
from haven_vlm.ffmpeg_cli import MAX_FAILURES, CliSource, ffmpeg_is_here
from haven_vlm.location import Location
from haven_vlm.picture import Preparation
from haven_vlm.reading import open_video
from tests.media import odd_files as odd

pytestmark = pytest.mark.skipif(not ffmpeg_is_here(), reason="no ffmpeg program here")

TIMES = [t for t in odd.steady(4) if not 1000 < t < 2200]
"""With a gap, in which the picture before it stays on screen."""


@pytest.mark.parametrize(("name", "start_ms"), [("a.mp4", 0), ("a.mkv", 12_000), ("a.ts", 60_000)])
def test_the_frame_on_screen(tmp_path: Path, name: str, start_ms: int) -> None:
    path = odd.write(tmp_path / name, TIMES, start_ms=start_ms)
    with CliSource(str(path), Preparation()) as source:
        frames = list(source.frames([0, 990, 2000, 2210, 3960]))
        assert [(f.at_ms, f.shown_ms) for f in frames] == [(0, 0), (990, 960), (2000, 1000), (2210, 2200), (3960, 3960)]
        assert [time_of(f.jpeg) for f in frames] == [f.shown_ms for f in frames]
        assert (source.info.width_px, source.info.height_px) == (640, 360)
        assert source.info.codec == "h264"
        assert source.bad_frames == 0
        assert [g.at_ms for g in source.survey()] == [0]
        assert source.measure() == pytest.approx(4000, abs=80)


def test_what_holds_no_video_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no film")
    with pytest.raises(MediaUnreadable, match="neither for PyAV nor for ffmpeg"):
        CliSource(str(path), Preparation())


def test_a_file_that_gives_nothing_more_is_given_up(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "a.mp4", TIMES)
    with CliSource(str(path), Preparation()) as source:
        path.unlink()
        with pytest.raises(MediaUnreadable, match="no more pictures"):
            list(source.frames(range(100)))
        assert source.bad_frames == MAX_FAILURES


def test_it_takes_over_when_pyav_cannot_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = odd.write(tmp_path / "a.mp4", TIMES)

    def no_decoder(location: Location) -> PacketFeed:
        raise MediaUnreadable("PyAV cannot decode this.")

    monkeypatch.setattr(haven_vlm.reading, "PacketFeed", no_decoder)
    with open_video([Location(str(path))], Preparation(max_side_px=320)) as source:
        assert isinstance(source, CliSource)
        frame = next(iter(source.frames([480])))
        with Image.open(io.BytesIO(frame.jpeg)) as image:
            assert image.size == (320, 180)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(MediaUnreadable, match="PyAV cannot decode this"):
        open_video([Location(str(tmp_path / "text.mp4"))], Preparation())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program of one's own before the real one, which it may call as "$REAL"."""
    if sys.platform == "win32":
        pytest.skip("the stand-ins are shell scripts")
    folder = tmp_path / "programs"
    folder.mkdir()

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    return put


def test_an_ffmpeg_of_before_2022_is_spoken_to_in_its_own_words(
    tmp_path: Path, program: Callable[[str, str], None]
) -> None:
    path = odd.write(tmp_path / "a.mp4", TIMES)
    old = """for word in "$@"; do
        if [ "$word" = -fps_mode ]; then echo "Unrecognized option 'fps_mode'." >&2; exit 1; fi
        shift
        if [ "$word" = -vsync ]; then set -- "$@" -fps_mode; elif [ "$word" = 0 ]; then set -- "$@" passthrough
        else set -- "$@" "$word"; fi
    done
    exec "$REAL" "$@\""""
    program("ffmpeg", old)
    with CliSource(str(path), Preparation()) as source:
        assert [(f.at_ms, f.shown_ms) for f in source.frames([990, 2000])] == [(990, 960), (2000, 1000)]
        assert source.bad_frames == 0


def test_a_program_that_hangs_is_ended(
    tmp_path: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = odd.write(tmp_path / "a.mp4", TIMES)
    program("ffprobe", "exec sleep 60")
    monkeypatch.setattr("haven_vlm.ffmpeg_cli.CALL_TIMEOUT_S", 0.01)
    with pytest.raises(MediaUnreadable, match="neither for PyAV nor for ffmpeg"):
        CliSource(str(path), Preparation())


def test_behind_the_end_nothing_is_looked_for(tmp_path: Path) -> None:
    with CliSource(str(odd.write(tmp_path / "a.mp4", TIMES)), Preparation()) as source:
        assert [f.at_ms for f in source.frames([0, 90_000])] == [0]
        assert source.bad_frames == 1


def test_a_survey_leaves_out_what_cannot_be_decoded(tmp_path: Path, program: Callable[[str, str], None]) -> None:
    path = odd.write(tmp_path / "a.mp4", TIMES)
    program("ffmpeg", "exit 1")
    with CliSource(str(path), Preparation()) as source:
        assert list(source.survey()) == []
