"""Decoding off the event loop: each open video has a thread of its own, a bounded queue, and a watchdog.

The thread gives a sign of life before every packet. If none comes for a while although it has work, FFmpeg hangs
in a system call that nothing can interrupt (a dead network drive): the thread is left to itself and the medium
reported as unreachable. A thread that was left closes its file should it ever wake up.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import PurePath
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from haven_vlm.container import PacketFeed
from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame, Glimpse, VideoInfo
from haven_vlm.ffmpeg_cli import CliSource, ffmpeg_is_here
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.picture import Preparation
from haven_vlm.ports import FrameSource

log = logging.getLogger(__name__)

STALL_S = 90.0
"""Seconds without a sign of life after which a thread is given up; longer than FFmpeg's own time limits."""
CLOSE_S = 5.0
"""Seconds that closing waits for the packet at hand."""
AHEAD = 2
"""Prepared frames that may wait for the consumer."""

Opener = Callable[[Callable[[], None]], FrameSource]
"""Opens a medium; the argument is to be called as a sign of life. Runs in the reader's thread."""

Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Waits for an event for at most so many seconds; whether it came."""

T = TypeVar("T")


async def comes_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event on the loop's clock."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def open_video(
    locations: Sequence[Location], preparation: Preparation, *, step: Callable[[], None] = lambda: None
) -> FrameSource:
    """Open a video at the first place where it can be reached; blocking.

    Args:
        locations: where its bytes are, best first: usually the path, then Stash's stream.

    Raises:
        MediaUnreachable: it can be reached at none of them; the message says why not, for each.
        MediaUnreadable: it was reached and is no video.
    """
    reasons: list[str] = []
    for location in locations:
        try:
            return _open_at(location, preparation, step, name=PurePath(locations[0].target).name)
        except MediaUnreachable as exc:
            reasons.append(str(exc).rstrip("."))
    raise MediaUnreachable("; ".join(reasons) + ".")


def _open_at(location: Location, preparation: Preparation, step: Callable[[], None], *, name: str) -> FrameSource:
    try:
        feed = PacketFeed(location)
        try:
            return VideoSource(feed, preparation, name=name, step=step)
        except BaseException:
            feed.close()
            raise
    except MediaUnreadable as exc:
        if location.is_stream or not ffmpeg_is_here():
            raise
        try:
            source = CliSource(location.target, preparation, step=step)
        except MediaUnreadable:
            raise exc from None  # what PyAV says is the clearer sentence
        if next(source.frames([0]), None) is None:
            raise
        log.info("%s Reading it with the ffmpeg program instead.", exc)
        return source


class VideoReader:
    """A video read by a thread of its own; implements `FrameReader`. One pass at a time."""

    def __init__(
        self,
        locations: Sequence[Location],
        preparation: Preparation,
        *,
        stall_s: float = STALL_S,
        opener: Opener | None = None,
        wait: Wait = comes_within,
    ) -> None:
        """
        Args:
            locations: see `open_video`.
            stall_s: seconds without a sign of life after which the medium counts as unreachable.
            opener: opens the medium instead of `open_video`.
            wait: how to wait with a limit; a test has a clock of its own.
        """
        self._label = locations[0].label if locations else "the medium"
        self._open: Opener = opener or (lambda step: open_video(locations, preparation, step=step))
        self._stall_s = stall_s
        self._wait = wait
        self._jobs: queue.SimpleQueue[Callable[[FrameSource], None] | None] = queue.SimpleQueue()
        self._pass: _Pass[Any] | None = None
        self._beats = 0
        self._closing = False
        self._lost = False
        self._thread: threading.Thread | None = None
        self._source: FrameSource | None = None
        self._bad_frames = 0
        """Of a source that is closed."""
        self._info: VideoInfo | None = None

    @property
    def info(self) -> VideoInfo:
        """What the container says about the picture track."""
        if self._info is None:
            raise RuntimeError("the reader is not open")
        return self._info

    @property
    def bad_frames(self) -> int:
        """See `FrameSource.bad_frames`."""
        return self._source.bad_frames if self._source is not None else self._bad_frames

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        opened: _Pass[VideoInfo] = _Pass(loop)
        self._finished = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(loop, opened), name=f"reader of {self._label}", daemon=True
        )
        self._thread.start()
        try:
            self._info = await self._next(opened)
        except BaseException:
            await self._shut()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._shut()

    async def frames(self, wanted_ms: Sequence[int], *, snap_ms: int = 0) -> AsyncGenerator[Frame]:
        """See `FrameReader.frames`."""
        times = tuple(wanted_ms)
        async with aclosing(self._passed(lambda source: source.frames(times, snap_ms=snap_ms))) as passed:
            async for frame in passed:
                yield frame

    async def survey(self) -> tuple[Glimpse, ...]:
        """See `FrameReader.survey`."""
        return tuple([glimpse async for glimpse in self._passed(lambda source: source.survey())])

    async def measure(self) -> int:
        """See `FrameSource.measure`."""
        return max([length async for length in self._passed(lambda source: (source.measure() for _ in range(1)))])

    async def _passed(self, work: Callable[[FrameSource], Iterable[T]]) -> AsyncGenerator[T]:
        if self._lost:
            raise self._loss()
        if self._info is None or self._closing:
            raise RuntimeError("the reader is not open")
        one: _Pass[T] = _Pass(asyncio.get_running_loop())

        def job(source: FrameSource) -> None:
            self._pass = one
            one.fill(work(source))

        self._jobs.put(job)
        try:
            while (item := await self._next(one)) is not None:
                yield item
        finally:
            one.stop()

    async def _next(self, one: _Pass[T]) -> T | None:
        """The next thing out of the thread; None at the end. Watches for signs of life while it waits."""
        while not one.items:
            beats = self._beats
            one.arrived.clear()
            if not await self._wait(one.arrived, self._stall_s) and self._beats == beats and not one.items:
                self._lost = True
                raise self._loss()
        item = one.items.popleft()
        one.room.release()
        if isinstance(item, BaseException):
            try:
                raise item
            finally:
                del item  # it knows this frame by its traceback, and with it all that was open when it was raised
        return item

    def _loss(self) -> MediaUnreachable:
        return MediaUnreachable(
            f"{self._label[:1].upper()}{self._label[1:]} has given no data for {self._stall_s:g} seconds; "
            "the drive or the network hangs."
        )

    async def _shut(self) -> None:
        self._closing = True
        self._jobs.put(None)
        if self._pass is not None:
            self._pass.stop()
        assert self._thread is not None
        if self._lost or not await self._wait(self._finished, CLOSE_S):
            self._lost = True
            log.warning("A thread that hangs in %s is left behind.", self._label)
            return
        await asyncio.to_thread(self._thread.join)

    # --- in the thread ---

    def _run(self, loop: asyncio.AbstractEventLoop, opened: _Pass[VideoInfo]) -> None:
        try:
            try:
                source = self._open(self.beat)
            except _Stopped:
                return
            except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits for the opening
                opened.put(exc)
                return
            with source:
                self._source = source
                opened.put(source.info)
                while (job := self._jobs.get()) is not None:
                    job(source)
        except _Stopped:
            pass  # the loop has gone
        finally:
            # it knows us by its sign of life; left to each other, both would wait for the garbage collection, which
            # counts objects and not the megabytes of decoded pictures behind them
            if self._source is not None:
                self._bad_frames, self._source = self._source.bad_frames, None
            try:
                loop.call_soon_threadsafe(self._finished.set)
            except RuntimeError:
                log.debug("The event loop ended before the reader of %s.", self._label)

    def beat(self) -> None:
        """A sign of life; ends what the thread is doing if nobody wants it any more."""
        self._beats += 1
        if self._closing or (self._pass is not None and self._pass.stopped):
            raise _Stopped


class _Stopped(Exception):
    """Nobody wants what the thread is doing any more."""


class _Pass(Generic[T]):
    """What the thread puts in and the loop takes out, a few at a time. Ends with None or an exception."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.items: deque[T | BaseException | None] = deque()
        self.arrived = asyncio.Event()
        self.room = threading.Semaphore(AHEAD)
        self.stopped = False
        self._loop = loop

    def fill(self, things: Iterable[T]) -> None:
        """In the thread: hand over all of them, waiting for room, and then the end."""
        try:
            for thing in things:
                self.put(thing)
            self.put(None)
        except _Stopped:
            return
        except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits for the frames
            self.put(exc)

    def put(self, item: T | BaseException | None) -> None:
        """In the thread: hand over one thing."""
        self.room.acquire()
        if self.stopped:
            raise _Stopped
        try:
            self._loop.call_soon_threadsafe(self._deliver, item)
        except RuntimeError:  # the loop has been closed
            raise _Stopped from None

    def _deliver(self, item: T | BaseException | None) -> None:
        self.items.append(item)
        self.arrived.set()

    def stop(self) -> None:
        """In the loop: nobody wants any more of it."""
        self.stopped = True
        self.room.release()
        self._deliver(None)
