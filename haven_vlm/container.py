"""The compressed packets of an open video: in order, with their times, and with what moving about in it costs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

import av
from av.codec.context import ThreadType
from av.packet import Packet
from av.video.stream import VideoStream

from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.location import Location
from haven_vlm.opening import MAX_PIXELS, first_picture_track, open_container

OPEN_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 30.0
"""How long FFmpeg may try to get at bytes before a read fails; checked between its system calls."""
MAX_BAD_READS = 8
"""Failed reads in a row after which a place in the file is given up."""
LARGE_PIXELS = 2600 * 1500
"""Above this few threads decode, or one: each holds pictures of its own. Measured for 4K: H.264 169 and 213 MB with
one and two threads, HEVC 219 and 254."""
MAX_JUMP_S = 3600
"""A packet whose time is further ahead than this, and behind the end, is damaged: no picture stays so long."""
MAX_DURATION_S = 10 * 24 * 3600
"""Containers that claim more are damaged; their claim is not used."""

_COMPLETE_INDEX = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "avi"})
_REORDERED_IN_AVI = frozenset({"h264", "hevc", "libdav1d", "av1", "vc1"})
"""AVI knows one time for a packet, its turn in decoding; FFmpeg can set right only MPEG-4's."""
_SEARCHED = frozenset({"mpegts", "mpeg"})
_UNTIMED = frozenset({"h264", "hevc", "vvc", "m4v", "mpegvideo", "obu", "cavsvideo", "dirac"})


class Piece(NamedTuple):
    """One compressed packet with the times that count, in ticks of the stream."""

    packet: Packet[VideoStream]
    pts: int | None
    """When its picture is shown; None where the container does not say."""
    order: int | None
    """No later packet is shown before this (its decoding time); None where nobody knows."""
    is_key: bool


class DecodingThreads:
    """The threads that all decoders of this process may use together: one for each core.

    The first file that is open gets what is free, up to `MOST`; a decoder always gets one. With many files open
    each has one thread, which wastes nothing; a file alone is not left to a single core.
    """

    MOST = 4
    """More threads than this only cost one decoder memory."""

    def __init__(self, cores: int) -> None:
        self._free = cores
        self._lock = threading.Lock()

    def take(self, at_most: int = MOST) -> int:
        """Threads for one more decoder, at least one; to be given back."""
        with self._lock:
            count = max(1, min(at_most, self.MOST, self._free))
            self._free -= count
        return count

    def give_back(self, count: int) -> None:
        """A decoder has ended."""
        with self._lock:
            self._free += count


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # of a container's share, where the system tells
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


DECODING_THREADS = DecodingThreads(_cores())


class PacketFeed:
    """The packets of the first real video stream of a file, in decoding order. Blocking; one thread at a time.

    It also knows where the container's index says keyframes are, and what reading on and seeking have cost.
    """

    def __init__(
        self,
        location: Location,
        *,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        threads: DecodingThreads = DECODING_THREADS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open the file.

        Raises:
            MediaUnreachable: it is not there, may not be read, or nobody answers.
            MediaUnreadable: it is no video.
        """
        self.location = location
        self.failed_reads = 0
        self.gave_up = False
        """The last read ended because of faults, not at the end of the file."""
        self._clock = clock
        self._threads, self._thread_count = threads, 0
        self._container = open_container(location, (open_timeout_s, read_timeout_s))
        try:
            self.stream = first_picture_track(self._container, location)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        stream = self.stream
        self._packets: Iterator[Packet[VideoStream]] | None = None
        for other in self._container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        context = stream.codec_context
        at_most = DecodingThreads.MOST
        if context.width * context.height > LARGE_PIXELS:
            at_most = 2 if self.codec == "h264" else 1
        self._thread_count = context.thread_count = self._threads.take(at_most)
        if self._thread_count > 1:
            context.thread_type = ThreadType.AUTO
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
        self.format = self._container.format.name
        self.time_base = stream.time_base or Fraction(1, 90_000)
        rate = stream.guessed_rate or stream.average_rate or Fraction(25)
        self.rate = rate if 1 <= rate <= 1000 else Fraction(25)
        self.has_rate = bool(stream.guessed_rate or stream.average_rate)
        self.frame_ticks = max(1, round(1 / self.rate / self.time_base))
        self._is_raw = self.format in _UNTIMED
        self.is_untimed = self._is_raw or (self.format == "avi" and self.codec in _REORDERED_IN_AVI)
        """The file does not say when a picture is shown: they have to be counted from a keyframe on."""
        self.can_seek = not self._is_raw
        self._index_shift = 0
        self._counted = 0
        entries = stream.index_entries
        # what FFmpeg notes there while it searches are not keyframes
        is_index = self.format not in _SEARCHED
        self._index = entries if is_index and len(entries) > 1 else None
        self.index_is_complete = (
            self.format in _COMPLETE_INDEX and len(entries) >= stream.frames and self._is_indexed_to_its_end()
        )
        if self.format.startswith("matroska"):
            self._rewind()  # only now it reads its cues
            self._index = entries if len(entries) > 1 else None
        self._jump_ticks = round(MAX_JUMP_S / self.time_base)
        self.reached: int | None = None
        """Decoding time of the last packet read, in ticks."""
        self._read_cost = _Average(self._guess_read_cost())
        self._seek_cost = _Average(0.3 if self.location.is_stream else 0.004)
        self._seek_began: float | None = None
        self.longest_gop = round(1 / self.time_base)
        """Ticks between keyframes, the longest that was met; a second to begin with."""
        self._last_key: int | None = None
        self._last_stamp: int | None = None
        """The last keyframe read, as the index writes it: mp4 and avi by decoding time."""

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._packets = None
        self._container.close()
        self._threads.give_back(self._thread_count)
        self._thread_count = 0

    # --- what the container says ---

    @property
    def title(self) -> str:
        """For the beginning of a sentence: the file in words."""
        return self.location.title

    @property
    def codec(self) -> str:
        """FFmpeg's name of the video's codec."""
        return str(self.stream.codec_context.name)

    @property
    def start(self) -> int | None:
        """Time of the first picture in ticks, as the container says."""
        return self.stream.start_time

    @property
    def duration_ms(self) -> int | None:
        """Length of the picture track, from its first picture; None where the container does not say."""
        stream, container = self.stream, self._container
        seconds: Fraction | float | None = None
        if stream.duration is not None and stream.time_base:
            seconds = stream.duration * stream.time_base
        elif container.duration is not None:
            tagged = _tagged_duration_s(stream.metadata.get("DURATION", ""))
            seconds = tagged or Fraction(container.duration, av.time_base)
            if self.format.startswith("matroska"):  # counts from zero, not from the first picture
                seconds -= (stream.start_time or 0) * self.time_base
        if seconds is None or not 0 < seconds <= MAX_DURATION_S:
            return None
        return round(seconds * 1000)

    def keyframe_at_or_before(self, ticks: int) -> int | None:
        """Time of the latest keyframe that the index knows to be shown at or before `ticks`."""
        return self._indexed(ticks, backward=True)

    def keyframe_after(self, ticks: int) -> int | None:
        """Time of the first keyframe that the index knows to be shown after `ticks`."""
        return self._indexed(ticks + 1, backward=False)

    def _indexed(self, ticks: int, *, backward: bool) -> int | None:
        if self._index is None:
            return None
        number = self._index.search_timestamp(ticks - self._index_shift, backward=backward)
        return self._index[number].timestamp + self._index_shift if number >= 0 else None

    def _is_indexed_to_its_end(self) -> bool:
        """Whether the index reaches to (nearly) the end: of a file in fragments only some may have been read."""
        length = self.duration_ms
        if self._index is None or length is None:
            return self._index is not None
        last = self._index[len(self._index) - 1].timestamp - (self.stream.start_time or 0)
        return bool(last * self.time_base * 1000 >= 0.8 * length)

    # --- moving ---

    def is_worth_a_seek(self, ticks: int) -> bool:
        """Whether seeking to the keyframe before `ticks` is cheaper than reading on to it, as measured so far."""
        if self.reached is None or not self.can_seek:
            return False
        if self.index_is_complete or self.format.startswith("matroska"):
            landing = self.keyframe_at_or_before(ticks)
            if landing is None or (self._last_stamp is not None and landing - self._index_shift <= self._last_stamp):
                return False
        else:
            landing = ticks - self.longest_gop
        ahead_s = float((landing - self.reached) * self.time_base)
        return ahead_s > 0 and ahead_s * self._read_cost.value > self._seek_cost.value

    def seek(self, ticks: int) -> None:
        """Go to the last keyframe at or before `ticks`, or a little earlier or later where the file has no index.

        Raises:
            MediaUnreadable: this file cannot be moved about in.
            MediaUnreachable: the bytes can no longer be got at.
        """
        self._seek_began = self._clock()
        self._packets, self._last_key, self._last_stamp, self.reached = None, None, None, None
        if not self.can_seek or ticks <= (self.stream.start_time or 0):
            self._rewind()
            return
        try:
            self._container.seek(ticks - self._index_shift, stream=self.stream)
        except (av.error.FFmpegError, OSError, ValueError) as exc:
            if self.location.is_stream and isinstance(exc, OSError):
                raise MediaUnreachable(f"{self.title} broke off.") from None
            self.can_seek = False
            self._rewind()

    def _rewind(self) -> None:
        """Go to the first packet: by time, or to the first byte where times are only searched for."""
        self._packets, self._counted = None, 0
        by_time = not self._is_raw and self.format not in _SEARCHED
        is_broken_off = False
        for attempt in (by_time, not by_time):
            try:
                if attempt:
                    self._container.seek(self.stream.start_time or 0, stream=self.stream)
                else:
                    self._container.seek(0, unsupported_byte_offset=True)
            except (av.error.FFmpegError, OSError, ValueError) as exc:
                is_broken_off = self.location.is_stream and isinstance(exc, OSError)
                continue
            return
        if is_broken_off:
            raise MediaUnreachable(f"{self.title} broke off.")
        raise MediaUnreadable(f"{self.title} cannot be read a second time from its beginning.")

    def read(self) -> Piece | None:
        """The next packet; None at the end, or where nothing more can be read.

        Raises:
            MediaUnreachable: the bytes can no longer be got at.
        """
        began, before = self._clock(), self.reached
        packet = self._next_packet()
        if packet is None:
            return None
        piece = self._timed(packet)
        spent = self._clock() - began
        if self._seek_began is not None:
            self._seek_cost.add(self._clock() - self._seek_began)
            self._seek_began = None
        elif before is not None and self.reached is not None and self.reached > before:
            self._read_cost.add(spent, over=float((self.reached - before) * self.time_base))
        return piece

    def _next_packet(self) -> Packet[VideoStream] | None:
        self.gave_up = False
        for _ in range(MAX_BAD_READS):
            if self._packets is None:
                self._packets = self._container.demux(self.stream)
            try:
                packet = next(self._packets, None)
            except av.error.ExitError:
                raise MediaUnreachable(f"{self.title} gives no more data.") from None
            except (av.error.FFmpegError, OSError, ValueError) as exc:
                self.failed_reads += 1
                self._packets = None
                if self.location.is_stream and isinstance(exc, OSError):
                    raise MediaUnreachable(f"{self.title} broke off.") from None
                continue
            if packet is None or packet.size == 0:
                if packet is not None and packet.dts is not None:
                    continue  # an empty packet in the middle; the one that means the end has no time
                self._packets = None
                return None
            return packet
        self.gave_up = True
        return None

    def _timed(self, packet: Packet[VideoStream]) -> Piece:
        pts, dts, is_key = packet.pts, packet.dts, packet.is_keyframe
        if self._is_raw:
            dts = self._counted * self.frame_ticks
        if self.is_untimed:
            pts = dts if is_key else None  # a keyframe is shown in its turn
        self._counted += 1
        if self._is_absurd(max(pts or 0, dts or 0)):
            pts = dts = None  # it would make all that follows look past
        if is_key:
            if pts is not None and dts is not None and self.index_is_complete:
                self._index_shift = pts - dts
            here = pts if pts is not None else dts
            if here is not None:
                if self._last_key is not None and here > self._last_key:
                    self.longest_gop = max(self.longest_gop, here - self._last_key)
                self._last_key = here
                self._last_stamp = dts if dts is not None and self.index_is_complete else here
        if dts is not None:
            self.reached = dts
        return Piece(packet, pts, dts, is_key)

    def _is_absurd(self, ticks: int) -> bool:
        """Whether a time lies so far ahead of the packet before, and behind the end, that it must be damage."""
        if self.reached is None or ticks - self.reached <= self._jump_ticks:
            return False
        length = self.duration_ms
        return length is None or (ticks - (self.stream.start_time or 0)) * self.time_base * 1000 > length + 60_000

    def _guess_read_cost(self) -> float:
        """Seconds it takes to read a second of the file, before anything was measured."""
        size, length = 0, self.duration_ms
        with suppress(av.error.FFmpegError, OSError, ValueError):
            size = self._container.size
        bytes_per_second = 10e6 if self.location.is_stream else 300e6
        return size / (length / 1000) / bytes_per_second if length and size > 0 else 0.002


class _Average:
    """A mean that follows what is measured, and starts from a guess."""

    def __init__(self, guess: float) -> None:
        self._sum, self._weight = guess, 1.0

    @property
    def value(self) -> float:
        return self._sum / self._weight

    def add(self, amount: float, *, over: float = 1.0) -> None:
        keep = 0.98 ** min(over, 10.0)
        self._sum, self._weight = self._sum * keep + amount, self._weight * keep + over


def _tagged_duration_s(text: str) -> Fraction | None:
    """Matroska's own tag for one track: hours:minutes:seconds.fraction."""
    parts = text.strip().split(":")
    try:
        hours, minutes, seconds = int(parts[0]), int(parts[1]), Fraction(parts[2])
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return hours * 3600 + minutes * 60 + seconds or None
