"""A video as a `FrameSource`: which part of its pictures counts, what its times mean, what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Self

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from haven_vlm.container import MAX_DURATION_S, PacketFeed
from haven_vlm.decoding import PictureFinder, Shown
from haven_vlm.errors import MediaUnreadable
from haven_vlm.facts import Frame, Glimpse, VideoInfo
from haven_vlm.frame_image import (
    OddPicture,
    View,
    glimpse_luma,
    image_from_frame,
    orientation,
    probe_of,
    stereo_and_sphere,
    upright_size,
)
from haven_vlm.framing import (
    PROBES,
    WHOLE,
    Box,
    Probe,
    Projection,
    has_no_bars,
    may_be_vr,
    named_projection,
    seen_projection,
    told_projection,
    viewed_part,
    without_bars,
)
from haven_vlm.picture import Preparation, frame_from_image

LATE_START_MS = 500
"""A file whose first picture that can be decoded comes at most this late begins with that picture."""
SURVEY_STEP_MS = 250
"""A survey leaves out keyframes closer than this: in some formats every picture is one."""
MAX_KEYFRAMES_LISTED = 50_000
"""More keyframes than this are not worth listing: every picture is one."""


class VideoSource:
    """One open video. Blocking, not thread-safe: one owner, one worker thread. Implements `FrameSource`."""

    def __init__(
        self,
        feed: PacketFeed,
        preparation: Preparation,
        *,
        name: str = "",
        step: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over an open feed, look at the first picture, and settle what part of the pictures counts.

        Args:
            name: the file's name, for what VR sites write into it.
            step: called before every packet; a sign of life. What it raises ends the reading.

        Raises:
            MediaUnreadable: not one picture can be decoded.
            MediaUnreachable: the bytes can no longer be got at.
        """
        self._feed = feed
        self._preparation = preparation
        self._finder = PictureFinder(feed, step=step)
        first = self._finder.first()
        if first is None:
            raise MediaUnreadable(f"{feed.title} holds no picture that can be decoded ({feed.codec}).")
        self._start = self._beginning(first)
        self._view = View(
            box=self._part_that_counts(first.frame, name),
            pixel_aspect=_pixel_aspect(feed.stream),
            transfer=feed.stream.codec_context.color_trc,
            turn=orientation(first.frame),
        )
        width, height = upright_size(first.frame, self._view)
        self.info = VideoInfo(
            duration_ms=feed.duration_ms,
            width_px=width,
            height_px=height,
            frames_per_second=float(feed.rate) if feed.has_rate else None,
            codec=feed.codec,
            keyframes_ms=self._keyframes() if feed.index_is_complete else None,
        )

    @property
    def bad_frames(self) -> int:
        """See `FrameSource.bad_frames`."""
        return self._finder.bad + self._feed.failed_reads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the decoder and its pictures. May be called twice."""
        self._finder.close()
        self._feed.close()

    # --- what FrameSource promises ---

    def frames(self, wanted_ms: Iterable[int], *, snap_ms: int = 0) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        times = sorted({t for t in wanted_ms if t >= 0})
        limits = [self._limit(t) for t in times]
        self._finder.expect(limits)
        last: tuple[int, Frame] | None = None
        for at_ms, limit in zip(times, limits, strict=True):
            found = self._finder.at(limit, snap=self._ticks(snap_ms))
            if found is None:
                self._finder.bad += 1
                continue
            if last is not None and last[0] == found.pts:
                yield replace(last[1], at_ms=at_ms)
                continue
            try:
                image = image_from_frame(found.frame, self._view, self._preparation)
            except OddPicture:
                self._finder.bad += 1
                continue
            frame = frame_from_image(
                image, self._preparation, at_ms=at_ms, shown_ms=self._ms(found.pts), corrupt=found.corrupt
            )
            last = found.pts, frame
            yield frame

    def survey(self) -> Iterator[Glimpse]:
        """See `FrameSource.survey`."""
        shown = self._finder.keyframe(self._start)
        while shown is not None:
            try:
                yield Glimpse(self._ms(shown.pts), glimpse_luma(shown.frame))
            except OddPicture:
                self._finder.bad += 1
            shown = self._finder.next_keyframe(shown.pts + max(1, self._ticks(SURVEY_STEP_MS)))
        self._finder.go_to(self._start)

    def measure(self) -> int:
        """See `FrameSource.measure`. Reads packets and decodes none."""
        length_ms = self._ms(max(self._start, self._finder.end(self._start)))
        return length_ms if length_ms <= MAX_DURATION_S * 1000 else 0

    # --- times ---

    def _ticks(self, ms: int) -> int:
        return round(Fraction(ms, 1000) / self._feed.time_base)

    def _limit(self, at_ms: int) -> int:
        """The last tick that rounds to `at_ms`: a frame shown up to then is on screen at that time."""
        exact = Fraction(2 * at_ms + 1, 2000) / self._feed.time_base
        whole = exact.numerator // exact.denominator
        return self._start + (whole if whole != exact else whole - 1)

    def _ms(self, ticks: int) -> int:
        return max(0, int((ticks - self._start) * self._feed.time_base * 1000 + Fraction(1, 2)))

    def _keyframes(self) -> tuple[int, ...] | None:
        found: list[int] = []
        ticks = self._feed.keyframe_after(self._start - self._ticks(LATE_START_MS))
        while ticks is not None:
            if len(found) == MAX_KEYFRAMES_LISTED:
                return None
            found.append(self._ms(ticks))
            following = self._feed.keyframe_after(ticks)
            ticks = following if following is None or following > ticks else None
        return tuple(found)

    # --- the beginning ---

    def _beginning(self, first: Shown) -> int:
        said = self._feed.start
        if said is None or first.pts < said or first.pts - said <= self._ticks(LATE_START_MS):
            return first.pts
        return said

    def _part_that_counts(self, first: VideoFrame, name: str) -> Box:
        probes: list[Probe] | None = None

        def several() -> list[Probe]:
            nonlocal probes
            if probes is None:
                probes = self._probes()
            return probes

        projection = wanted = self._preparation.projection
        if wanted in ("auto", "vr"):
            projection = _tagged_projection(first) or named_projection(name)
        if projection == "auto" and wanted == "vr":
            projection = told_projection(first.width, first.height, several())
        if projection == "auto":
            projection = "flat"
            if may_be_vr(first.width, first.height):
                projection = seen_projection(first.width, first.height, several())
        if projection != "flat":
            return viewed_part(projection)
        if not self._preparation.crop_bars:
            return WHOLE
        begins = _probe(first)
        return WHOLE if begins is not None and has_no_bars(begins) else without_bars(several())

    def _probes(self) -> list[Probe]:
        """Keyframes from all over the file; none where it cannot be moved about in."""
        length = self._feed.duration_ms
        if length is None or not self._feed.can_seek:
            return []
        found = []
        for share in PROBES:
            shown = self._finder.keyframe(self._start + self._ticks(round(length * share)))
            if shown is not None and (probe := _probe(shown.frame)) is not None:
                found.append(probe)
        self._finder.go_to(self._start)
        return found


def _probe(frame: VideoFrame) -> Probe | None:
    try:
        return probe_of(frame)
    except OddPicture:
        return None


def _pixel_aspect(stream: VideoStream) -> Fraction:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _tagged_projection(frame: VideoFrame) -> Projection | None:
    """What the container says about a sphere and two eyes (FFmpeg's AVSphericalProjection, AVStereo3DType)."""
    stereo, sphere = stereo_and_sphere(frame)
    if sphere not in (0, 3, 4, 5):  # whole and half equirectangular, fisheye and the like; not cube maps or tiles
        return None
    wide = sphere == 0
    if stereo == 1:
        return "360-left-right" if wide else "180-left-right"
    if stereo == 2:
        return "360-top-bottom" if wide else "180-top-bottom"
    return "360" if wide else "180"
