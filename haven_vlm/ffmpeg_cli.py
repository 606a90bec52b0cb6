"""The `ffmpeg` program as a second decoder, for files that PyAV cannot decode and an installed ffmpeg can.

Slow (a process for each frame) and only ever a fallback. Times are exact all the same: everything from a little
before the wanted time is decoded, and the last picture up to it taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

from PIL import Image

from haven_vlm.errors import MediaUnreadable
from haven_vlm.facts import Frame, Glimpse, VideoInfo
from haven_vlm.location import PLAYLISTS
from haven_vlm.other_programs import bare
from haven_vlm.picture import Preparation, fitted, frame_from_image

CALL_TIMEOUT_S = 60.0
"""Most that one call of the program may take before it is killed."""
LEADS_S = (2, 20)
"""How far before the wanted time decoding begins; the second when the first shows no picture."""
MAX_OUTPUT_BYTES = 2**30
"""Most that one call may print: a file that claims a million frames a second must not fill the memory."""
_FILES_ONLY = ("-protocol_whitelist", "file,pipe")
"""A playlist that calls itself a video must not make the program connect anywhere."""
MAX_FAILURES = 5
"""Calls in a row without a picture after which the file is given up."""

_SHOWN = re.compile(rb"showinfo.* pts_time:\s*(-?[0-9.]+)")


def ffmpeg_is_here() -> bool:
    """Whether both programs are on the path."""
    return all(shutil.which(name) for name in ("ffmpeg", "ffprobe"))


class CliSource:
    """One video read by the ffmpeg program. Blocking; implements `FrameSource`. Bars and eyes are left alone."""

    def __init__(self, path: str, preparation: Preparation, *, step: Callable[[], None] = lambda: None) -> None:
        """
        Raises:
            MediaUnreadable: ffprobe finds no video in it either.
        """
        self._path = path
        self._target = f"file:{path}"  # a name such as “concat:x” shall mean a file
        self._preparation = preparation
        self._step = step
        self._bad = 0
        self._every_frame: tuple[str, ...] = ("-fps_mode", "passthrough")
        self.info, self._start_s = self._probed()
        self._size = fitted(self.info.width_px, self.info.height_px, preparation.max_side_px)

    @property
    def bad_frames(self) -> int:
        """See `FrameSource.bad_frames`."""
        return self._bad

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between two frames."""

    def frames(self, wanted_ms: Iterable[int], *, snap_ms: int = 0) -> Iterator[Frame]:
        """See `FrameSource.frames`; times are never moved to a keyframe."""
        failures = 0
        for at_ms in sorted({t for t in wanted_ms if t >= 0}):
            frame = self._frame(at_ms)
            failures = 0 if frame else failures + 1
            if frame is not None:
                yield frame
                continue
            self._bad += 1
            if failures == MAX_FAILURES:
                raise MediaUnreadable(f"“{self._path}” gives no more pictures, neither to PyAV nor to ffmpeg.")

    def survey(self) -> Iterator[Glimpse]:
        """See `FrameSource.survey`: here a look every ten seconds, as keyframes cannot be had cheaply."""
        for at_ms in range(0, self.info.duration_ms or 0, 10_000):
            frame = self._frame(at_ms)
            if frame is not None:
                yield Glimpse(frame.shown_ms, frame.luma)

    def measure(self) -> int:
        """See `FrameSource.measure`."""
        wanted = ("-select_streams", "V:0", "-show_entries", "packet=pts_time,duration_time", "-of", "csv=p=0")
        done = self._call("ffprobe", "-v", "error", *_FILES_ONLY, *wanted, self._target)
        end_s = self._start_s
        for line in done.stdout.decode("ascii", "replace").splitlines():
            times = [_number(part) for part in line.split(",")[:2]]
            if times[0] is not None:
                end_s = max(end_s, times[0] + (times[-1] or 0.0 if len(times) == 2 else 0.0))
        return round((end_s - self._start_s) * 1000)

    def _frame(self, at_ms: int) -> Frame | None:
        width, height = self._size
        if self.info.duration_ms and at_ms > self.info.duration_ms + 1000:
            return None
        for lead_s in LEADS_S:
            begin_s = max(0.0, at_ms / 1000 - lead_s)
            until_s = self._start_s + at_ms / 1000 + 0.0005
            done = self._call(
                *("ffmpeg", "-nostdin", "-hide_banner", "-v", "info", "-nostats", "-copyts"),
                *("-ss", f"{begin_s:.4f}", *_FILES_ONLY, "-i", self._target, "-map", "0:V:0", "-an", "-sn", "-dn"),
                *("-vf", f"trim=end={until_s:.4f},scale={width}:{height}:flags=area,showinfo"),
                *(*self._every_frame, "-fs", str(MAX_OUTPUT_BYTES), "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
            )
            if b"Unrecognized option 'fps_mode'" in done.stderr:
                self._every_frame = ("-vsync", "0")  # what ffmpeg before 5.1 calls it
                return self._frame(at_ms)
            size, times = width * height * 3, _SHOWN.findall(done.stderr)
            if size <= len(done.stdout) < MAX_OUTPUT_BYTES - size and times:
                count = len(done.stdout) // size
                image = Image.frombytes("RGB", self._size, done.stdout[(count - 1) * size : count * size])
                shown_ms = round((float(times[min(count, len(times)) - 1]) - self._start_s) * 1000)
                return frame_from_image(image, self._preparation, at_ms=at_ms, shown_ms=max(0, shown_ms))
            if begin_s == 0:
                break
        return None

    def _probed(self) -> tuple[VideoInfo, float]:
        done = self._call(
            *("ffprobe", "-v", "error", *_FILES_ONLY, "-select_streams", "V:0", "-of", "json", "-show_entries"),
            "stream=codec_name,width,height,sample_aspect_ratio,start_time,duration,avg_frame_rate:stream_side_data"
            ":format=duration,format_name",
            self._target,
        )
        try:
            answer = json.loads(done.stdout or b"{}")
            stream = answer["streams"][0]
            width, height = int(stream["width"]), int(stream["height"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise MediaUnreadable(f"“{self._path}” holds no video, neither for PyAV nor for ffmpeg.") from None
        if not PLAYLISTS.isdisjoint(str(answer.get("format", {}).get("format_name", "")).split(",")):
            # its pictures would be those of another file, one that perhaps must not be shown to anybody
            raise MediaUnreadable(f"“{self._path}” is a playlist, not a video.")
        aspect = _ratio(str(stream.get("sample_aspect_ratio", "1:1")).replace(":", "/")) or Fraction(1)
        width = max(1, round(width * aspect))
        turns = [int(d["rotation"]) for d in stream.get("side_data_list", []) if "rotation" in d]
        if turns and turns[0] % 180:
            width, height = height, width
        start_s = _number(stream.get("start_time")) or 0.0
        length = _number(stream.get("duration"))
        if not length:
            length = _number(answer.get("format", {}).get("duration"))
            if length and str(answer["format"].get("format_name", "")).startswith("matroska"):
                length -= start_s  # counts from zero, not from the first picture
        rate = _ratio(str(stream.get("avg_frame_rate", "")))
        info = VideoInfo(
            duration_ms=round(length * 1000) if length and length > 0 else None,
            width_px=width,
            height_px=height,
            frames_per_second=float(rate) if rate else None,
            codec=str(stream.get("codec_name", "")),
        )
        return info, start_s

    def _call(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        self._step()
        try:
            return subprocess.run(
                command, capture_output=True, timeout=CALL_TIMEOUT_S, env=bare(os.environ), check=False
            )
        except (subprocess.TimeoutExpired, OSError):
            return subprocess.CompletedProcess(command, 1, b"", b"")


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _ratio(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
