"""A match whose frames carry their truth: clips made on the spot, whose every frame says which tags apply.

    plan = random_plan(600, spans=12, seed=1)
    clip = cached_clip(folder, plan, size=(1920, 1080), fps=30, gop=250)
    truth_of(jpeg_of_any_frame) == plan.at(time_of(jpeg_of_any_frame))

Clips are drawn with Pillow and encoded with PyAV; nothing else is needed. Ten minutes of 1080p take a minute and a half
on two cores, an hour of 720p at 10 frames per second about as long.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

import av
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from demo.court import MAX_TAGS, STRIP_SHARE, TAGS, Canvas, time_of, truth_of
from haven_vlm.facts import Span

__all__ = ["TAGS", "Motion", "Plan", "cached_clip", "random_plan", "time_of", "truth_of", "write_clip"]

Motion = Literal["still", "calm", "busy"]
"""still: nothing moves but the truth. calm: players and ball. busy: the stand behind them scrolls, too."""

DRAWING = 1
"""Version of the drawing; part of the name of a cached clip."""

_QUICK: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "ultrafast", "tune": "fastdecode", "crf": "26", "sc_threshold": "0"},
    "libx265": {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12", "crf": "45"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "40", "b": "0"},
}
"""Options that encode fast, for each encoder; a caller's options win."""


@dataclass(frozen=True)
class Plan:
    """What happens when in a clip. Times are milliseconds from its first frame."""

    duration_ms: int
    spans: tuple[Span, ...] = ()
    """Tags with start (included) and end (not included); they may overlap. Confidence is always 1."""
    tags: tuple[str, ...] = TAGS
    """The vocabulary; at most 16."""
    cuts_ms: tuple[int, ...] = ()
    """Hard cuts to another view, ascending."""
    motion: Motion = "busy"

    def __post_init__(self) -> None:
        if not 1 <= len(self.tags) <= MAX_TAGS or len(set(self.tags)) != len(self.tags):
            raise ValueError(f"a plan has 1 to {MAX_TAGS} different tags")
        strangers = {span.tag for span in self.spans} - set(self.tags)
        if strangers:
            raise ValueError(f"spans of tags that the plan does not have: {', '.join(sorted(strangers))}")
        if self.duration_ms <= 0:
            raise ValueError("a plan lasts at least a millisecond")

    def at(self, at_ms: int) -> frozenset[str]:
        """The tags that apply at a time."""
        return self._sets[bisect_right(self._edges, at_ms)]

    def shot(self, at_ms: int) -> int:
        """Number of the shot at a time, from 0."""
        return bisect_right(self.cuts_ms, at_ms)

    def spans_of(self, tag: str) -> tuple[Span, ...]:
        """The spans of one tag, ascending."""
        return tuple(sorted((s for s in self.spans if s.tag == tag), key=lambda s: s.start_ms))

    @cached_property
    def _edges(self) -> list[int]:
        return sorted({edge for s in self.spans for edge in (s.start_ms, s.end_ms)})

    @cached_property
    def _sets(self) -> list[frozenset[str]]:
        return [frozenset()] + [
            frozenset(s.tag for s in self.spans if s.start_ms <= edge < s.end_ms) for edge in self._edges
        ]


def random_plan(
    seconds: float,
    *,
    tags: Sequence[str] = TAGS,
    spans: int = 12,
    seed: int = 0,
    shortest_s: float = 3.0,
    longest_s: float = 30.0,
    overlap: bool = True,
    cut_every_s: float | None = 8.0,
    motion: Motion = "busy",
) -> Plan:
    """A plan by chance; the same arguments give the same plan on every machine.

    Args:
        spans: how many spans to place; fewer if there is no room. Spans of one tag never touch each other.
        overlap: whether spans of different tags may overlap.
        cut_every_s: mean length of a shot in seconds; None: no cuts.
    """
    dice = random.Random(f"{seconds} {spans} {seed}")
    duration = round(seconds * 1000)
    placed: list[Span] = []
    for number in range(spans):
        tag = tags[number % len(tags)] if number < len(tags) else dice.choice(tags)
        for _ in range(50):
            length = round(1000 * min(dice.uniform(shortest_s, longest_s), seconds * 0.8))
            start = dice.randrange(0, max(1, duration - length))
            others = [s for s in placed if not overlap or s.tag == tag]
            if all(start + length + 2000 <= s.start_ms or s.end_ms + 2000 <= start for s in others):
                placed.append(Span(tag, start, start + length, 1.0))
                break
    cuts: list[int] = []
    if cut_every_s:
        at = dice.uniform(0.5, 1.5) * cut_every_s
        while at < seconds - 0.5:
            cuts.append(round(at * 1000))
            at += dice.uniform(0.4, 1.6) * cut_every_s
    return Plan(duration, tuple(sorted(placed, key=lambda s: (s.start_ms, s.tag))), tuple(tags), tuple(cuts), motion)


def write_clip(
    path: Path,
    plan: Plan,
    *,
    codec: str = "libx264",
    fps: int | Fraction = 30,
    size: tuple[int, int] = (1280, 720),
    gop: int = 250,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    keys_at_cuts: bool = False,
) -> None:
    """Write the clip of a plan; the suffix of `path` decides the container.

    Args:
        fps: frames per second; frame n shows the truth at n / fps seconds, rounded to a millisecond.
        size: width and height in pixels, even numbers.
        gop: most frames from keyframe to keyframe.
        options: encoder options, on top of ones that make it fast.
        keys_at_cuts: make the first frame of each shot a keyframe, as encoders do with filmed footage; drawn scenes
            are too plain for them to notice.
    """
    rate = Fraction(fps)
    painter = _Painter(plan, size)
    chosen = {**_QUICK.get(codec, {}), **(options or {})}
    with av.open(str(path), "w", container_options=dict(container_options or {})) as output:
        stream = output.add_stream(codec, rate=rate, options=chosen)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.colorspace = 1  # BT.709, limited range: what `_Painter` draws in
        stream.codec_context.color_range = 1
        number = shot = 0
        while (at := Fraction(number) / rate * 1000) < plan.duration_ms:
            frame = painter.frame(round(at))
            if keys_at_cuts and plan.shot(round(at)) != shot:
                shot = plan.shot(round(at))
                frame.pict_type = PictureType.I
            frame.pts, frame.time_base = number, 1 / rate
            if pix_fmt != "yuv420p":
                frame = frame.reformat(format=pix_fmt)
            output.mux(stream.encode(frame))
            number += 1
        output.mux(stream.encode(None))


def cached_clip(
    folder: Path,
    plan: Plan,
    *,
    suffix: str = ".mp4",
    codec: str = "libx264",
    fps: int | Fraction = 30,
    size: tuple[int, int] = (1280, 720),
    gop: int = 250,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> Path:
    """As `write_clip`, into `folder` (made if need be), unless the very same clip is there already.

    The name is made of all that shapes the clip. A clip appears whole or not at all, so that several processes
    may share a folder.
    """
    shape = [DRAWING, asdict(plan), suffix, codec, str(fps), size, gop, pix_fmt, sorted((options or {}).items())]
    name = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:20]
    path = folder / f"match-{name}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{name}-{uuid.uuid4().hex[:8]}{suffix}"
        try:
            write_clip(unfinished, plan, codec=codec, fps=fps, size=size, gop=gop, pix_fmt=pix_fmt, options=options)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


class _Painter:
    """Makes the frames of a plan, in the planes of yuv420p: what stands still is drawn once for each state."""

    def __init__(self, plan: Plan, size: tuple[int, int]) -> None:
        if size[0] % 2 or size[1] % 2:
            raise ValueError("width and height of a clip are even numbers")
        self._plan = plan
        self._canvas = Canvas(*size)
        self._state: tuple[int, frozenset[str]] | None = None
        self._base: list[Image.Image] = []
        self._crowd_of = -1
        self._crowd = Image.new("L", (2, 2))

    def frame(self, at_ms: int) -> VideoFrame:
        plan, canvas = self._plan, self._canvas
        state = plan.shot(at_ms), plan.at(at_ms)
        if state != self._state:
            self._base = _planes(canvas.backdrop(*state, plan.tags))
            self._state = state
        shot = state[0]
        planes = [plane.copy() for plane in self._base]
        if plan.motion == "busy":
            if self._crowd_of != shot:
                self._crowd, self._crowd_of = canvas.crowd(shot), shot
            width, height = canvas.crowd_size
            offset = int(at_ms * width / 7000) % width  # the view pans once along the stand in seven seconds
            planes[0].paste(self._crowd.crop((offset, 0, offset + width, height)), (0, canvas.crowd_top))
        if plan.motion != "still":
            pens = [ImageDraw.Draw(plane) for plane in planes]
            for x, y, radius, colour in canvas.movers(shot, at_ms / 1000):
                for pen, value, scale in zip(pens, _yuv(colour), (1, 2, 2), strict=True):
                    pen.ellipse(
                        ((x - radius) / scale, (y - radius) / scale, (x + radius) / scale, (y + radius) / scale),
                        fill=value,
                    )
        planes[0].paste(canvas.strip(at_ms), (0, 0))
        frame = VideoFrame(canvas.width_px, canvas.height_px, "yuv420p")
        for plane, image in zip(frame.planes, planes, strict=True):
            plane.update(image.tobytes())
        frame.colorspace, frame.color_range = 1, 1
        return frame


def _planes(image: Image.Image) -> list[Image.Image]:
    """Y, U and V as grey images as wide as PyAV's lines are, which may be wider than the picture."""
    frame = VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
    frame = frame.reformat(format="yuv420p", dst_colorspace="itu709")
    planes = [Image.frombytes("L", (plane.line_size, plane.height), bytes(plane)) for plane in frame.planes]
    for plane in planes[1:]:
        plane.paste(128, (0, 0, plane.width, round(image.height * STRIP_SHARE / 2)))  # the time strip is grey
    return planes


def _yuv(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """BT.709, limited range."""
    red, green, blue = (c / 255 for c in colour)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (
        round(16 + 219 * luma),
        round(128 + 224 * (blue - luma) / 1.8556),
        round(128 + 224 * (red - luma) / 1.5748),
    )
