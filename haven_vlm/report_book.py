"""Writes a run's HTML report while the run goes on: each scene's section when it is done, so memory stays flat.

Pictures of the contact sheets are decoded beside the run, one scene at a time, while the model servers are what is
waited for. They cost the run nothing but spare moments: what cannot be had in time or room is left out, and said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from haven_vlm.errors import HavenError
from haven_vlm.facts import Kind, Span
from haven_vlm.live import prune, small_jpeg
from haven_vlm.own_thread import OwnThread
from haven_vlm.picture import Preparation
from haven_vlm.ports import Analysis, FetchBytes, FrameReader
from haven_vlm.report_html import Picture, page, pictures_section, scene_section
from haven_vlm.reports import MediumReport, RunReport, Status
from haven_vlm.stash_ports import StashCollections
from haven_vlm_utility import count_text

log = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 10 * 1024 * 1024
"""JPEGs in one report; they grow by a third when they are written into it."""
MAX_TEXT_BYTES = 10 * 1024 * 1024
"""Sections of scenes in one report, without their pictures."""
PICTURES_PER_SCENE = 24
SPANS_PER_TAG = 4
IMAGES_SHOWN = 300
THUMBNAIL_BYTES = 20 * 1024 * 1024
"""Stash gives the image itself where it cannot make it small."""
WAITING = 16
"""Scenes that may wait for their pictures; one that finds the queue full goes without."""
SCENE_S = 30.0
"""Decoding the pictures of one scene ends after so many seconds."""
PATIENCE_S = 20.0
"""So long the end of a run waits for pictures."""
KEPT = 50
KEPT_BYTES = 200 * 1024 * 1024

SMALL = Preparation(max_side_px=160, jpeg_quality=60)
T = TypeVar("T")
OpenSmall = Callable[[Preparation], AbstractAsyncContextManager[FrameReader]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    report: MediumReport
    analysis: Analysis
    open_video: OpenSmall


class ReportBook:
    """The report of one run; an async context manager. Nothing about it can end a run."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Args:
            folder: where reports lie.
            name: of the file, without its suffix.
        """
        self.file = folder / f"{name}.html"
        self._spool_file = folder / f".{name}.part"
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING)
        self._worker: asyncio.Task[None] | None = None
        self._thread: OwnThread | None = None
        """Makes and writes sections in the order they come: no slow disk and no long section holds up the loop."""
        self._spool: IO[str] | None = None
        self._picture_bytes = 0
        self._text_bytes = 0
        self._without_pictures = 0
        self._without_section = 0

    async def __aenter__(self) -> Self:
        self._thread = OwnThread("report")
        try:
            await self._do(self._open)
        except asyncio.CancelledError:
            await self._leave()
            raise
        except OSError as exc:
            log.warning("No HTML report can be written to %s: %s", self.file.parent, exc)
        self._worker = asyncio.create_task(self._work(), name="report pictures")
        return self

    def _open(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._spool = self._spool_file.open("w+", encoding="utf-8", errors="backslashreplace", newline="\n")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        await self._leave()

    async def _leave(self) -> None:
        """Close and delete the spool, after whatever the thread has still to do."""
        assert self._thread is not None
        self._thread.submit(self._close)
        await self._thread.aclose()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what was buffered cannot be written
            if self._spool is not None:
                self._spool.close()
        with contextlib.suppress(OSError):
            self._spool_file.unlink(missing_ok=True)

    async def _do(self, work: Callable[[], T]) -> T:
        """Do something in the thread. It is done even if whoever waits is cancelled."""
        assert self._thread is not None
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(work)))

    # --- while the run goes on --------------------------------------------------------------------------------

    async def scene(self, report: MediumReport, analysis: Analysis, open_video: OpenSmall) -> None:
        """Take in a scene that is done. Quick: its pictures come later."""
        if self._spool is None:
            return
        one = _Waiting(report, analysis, open_video)
        if report.spans and self._picture_bytes < MAX_PICTURE_BYTES:
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(one)
                return
        self._without_pictures += bool(report.spans)
        await self._put(one, ())

    async def _work(self) -> None:
        while True:
            one = await self._queue.get()
            pictures: list[Picture] = []
            try:
                pictures = await self._pictures(one)
            except asyncio.CancelledError:
                self._without_pictures += 1
                await self._put(one, ())
                raise
            except (HavenError, TimeoutError) as exc:
                log.debug("no pictures of %s %s for the report: %s", one.report.kind, one.report.id, exc)
            except Exception as exc:
                log.debug("no pictures of %s %s for the report", one.report.kind, one.report.id, exc_info=exc)
            self._without_pictures += not pictures
            try:
                await self._put(one, pictures)
            finally:
                self._queue.task_done()

    async def _pictures(self, one: _Waiting) -> list[Picture]:
        wanted = moments(one.report.spans)
        found: list[Picture] = []
        room = MAX_PICTURE_BYTES - self._picture_bytes
        try:
            async with (
                asyncio.timeout(SCENE_S),
                one.open_video(SMALL) as reader,
                contextlib.aclosing(reader.frames(sorted(wanted), snap_ms=500)) as frames,
            ):
                async for frame in frames:
                    room -= len(frame.jpeg)
                    if room < 0:
                        break
                    found.append(Picture(frame.at_ms, wanted[frame.at_ms], frame.jpeg))
        except TimeoutError:
            log.debug("pictures of %s %s took too long", one.report.kind, one.report.id)
        self._picture_bytes += sum(len(p.jpeg) for p in found)
        return found

    async def _put(self, one: _Waiting, pictures: Sequence[Picture]) -> None:
        await self._do(lambda: self._write(one, pictures))

    def _write(self, one: _Waiting, pictures: Sequence[Picture]) -> None:
        if self._text_bytes > MAX_TEXT_BYTES:
            self._without_section += 1
            return
        assert self._spool is not None
        duration_ms, samples = one.analysis.duration_ms, one.analysis.samples
        section = plain = scene_section(one.report, duration_ms=duration_ms, samples=samples)
        if pictures:
            section = scene_section(one.report, duration_ms=duration_ms, samples=samples, pictures=pictures)
        try:
            self._spool.write(section)
        except OSError as exc:
            self._without_section += 1
            log.debug("a section of the report cannot be written: %s", exc)
        self._text_bytes += len(plain)

    # --- at its end -------------------------------------------------------------------------------------------

    async def finish(self, report: RunReport, gateway: StashCollections, fetch: FetchBytes) -> Path | None:
        """Put the report together; returns where it lies, or None when it could not be written."""
        if self._spool is None or self._worker is None:
            return None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), PATIENCE_S)
        self._worker.cancel()
        await asyncio.wait([self._worker])
        while not self._queue.empty():
            self._without_pictures += 1
            await self._put(self._queue.get_nowait(), ())
        images = await self._images(report, gateway, fetch)
        try:
            await self._do(lambda: self._assemble(report, images))
        except OSError as exc:
            log.warning("The HTML report could not be written: %s", exc)
            return None
        return self.file

    def _assemble(self, report: RunReport, images: str) -> None:
        part = self.file.with_name(f".{self.file.name}.part")
        try:
            with part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
                out.writelines(page(report, self._sections(images), left_out=self._left_out()))
            part.replace(self.file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        prune(self.file.parent, "*-run*.html", count=KEPT, size_bytes=KEPT_BYTES)

    def _sections(self, images: str) -> Iterator[str]:
        assert self._spool is not None
        self._spool.seek(0)
        while piece := self._spool.read(1 << 20):
            yield piece
        yield images

    def _left_out(self) -> list[str]:
        sentences = []
        if self._without_pictures:
            some = count_text(self._without_pictures, "scene")
            sentences.append(f"{some} without pictures: there was no room in the report, no time, or no file to read.")
        if self._without_section:
            some = count_text(self._without_section, "scene")
            sentences.append(f"{some} in the table at the end only: the report would have become too large.")
        return sentences

    async def _images(self, report: RunReport, gateway: StashCollections, fetch: FetchBytes) -> str:
        """A contact sheet of tagged images, from the thumbnails that Stash makes."""
        tagged = [m for m in report.media if m.kind is Kind.IMAGE and m.status is Status.TAGGED and m.tags]
        shown = tagged[:IMAGES_SHOWN]
        found: dict[str, Picture] = {}
        room = asyncio.Semaphore(4)

        async def one(medium: MediumReport) -> None:
            async with room:
                if self._picture_bytes > MAX_PICTURE_BYTES:
                    return
                try:
                    data = await fetch(*gateway.thumbnail_url(medium.id), limit_bytes=THUMBNAIL_BYTES)
                except HavenError as exc:
                    log.debug("no thumbnail of image %s: %s", medium.id, exc)
                    return
                if jpeg := await asyncio.to_thread(small_jpeg, data, side_px=SMALL.max_side_px):
                    self._picture_bytes += len(jpeg)
                    found[medium.id] = Picture(0, f"{medium.title or medium.id}: {', '.join(medium.tags)}", jpeg)

        try:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for medium in shown:
                    group.create_task(one(medium))
        except TimeoutError:
            log.debug("not all thumbnails came in time")
        heading = f"{len(found):,} of {count_text(len(tagged), 'tagged image')}"
        return pictures_section(heading, [found[m.id] for m in shown if m.id in found])


def moments(spans: Sequence[Span]) -> dict[int, str]:
    """Times worth a picture → their caption: start and middle of the longest spans of each tag, so many in all."""
    by_tag: dict[str, list[Span]] = {}
    for span in spans:
        by_tag.setdefault(span.tag, []).append(span)
    longest = [sorted(some, key=lambda s: s.start_ms - s.end_ms)[:SPANS_PER_TAG] for some in by_tag.values()]
    wanted: dict[int, str] = {}
    for place in range(SPANS_PER_TAG):  # each tag's longest first, then each one's second
        for some in longest:
            if place < len(some) and len(wanted) < PICTURES_PER_SCENE - 1:
                span = some[place]
                wanted.setdefault(span.start_ms, span.tag)
                wanted.setdefault((span.start_ms + span.end_ms) // 2, span.tag)
    return wanted
