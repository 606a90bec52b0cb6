"""Galleries: their images looked at, all or every so many, and the tags that enough of them share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from haven_vlm.applying import Applier
from haven_vlm.errors import (
    BusyError,
    HavenError,
    LedgerError,
    LocalOutageError,
    MediaError,
    MediaUnreachable,
    OutageError,
    StashError,
    StashUnauthorized,
)
from haven_vlm.facts import Kind, Medium, TagRef
from haven_vlm.image_engine import union
from haven_vlm.image_looking import ImageLooker, TagsInStash, how_settled
from haven_vlm.marks import Marks
from haven_vlm.ownership import Desired
from haven_vlm.ports import Settled
from haven_vlm.progress import Progress
from haven_vlm.reports import MediumReport, Status, WorkResult
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm_utility import count_text, first_error

log = logging.getLogger(__name__)

IMAGES_AT_ONCE = 64
"""Images of one gallery under way at once; most of them wait for a ticket."""
PAGE = 100
"""Images described by one request to Stash."""


@dataclass(frozen=True, slots=True)
class GalleryWork:
    """What working on galleries needs; one for a run."""

    settings: Settings
    gateway: StashCollections
    looker: ImageLooker
    applier: Applier
    tags: TagsInStash
    progress: Progress
    marks: Marks
    run_id: int
    write: bool
    """False: a preview."""
    only_marked: bool = True
    """False: the galleries were selected otherwise; they need not carry the mark."""


@dataclass(slots=True)
class _Tally:
    """What the images of a gallery said so far."""

    looked: int = 0
    """Images that could be looked at, with or without an analysis."""
    analysed: int = 0
    with_tag: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    """Why images could not be looked at → how many."""
    problems: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    reused: int = 0
    inherited: int = 0
    left_network: int = 0

    @property
    def coverage(self) -> float:
        """Share of the images that could be looked at which were analysed."""
        return self.analysed / self.looked if self.looked else 0.0

    def shared(self, least_share: float) -> list[str]:
        """Tags that at least this share of the analysed images has, sorted."""
        return sorted(t for t, n in self.with_tag.items() if n >= least_share * self.analysed)


class GalleryRun:
    """Works through galleries; their images are looked at, and not written to."""

    def __init__(self, work: GalleryWork, *, mark: TagRef) -> None:
        """`mark` is the tag that selected the galleries; it goes off when a gallery is done."""
        self._work = work
        self._mark = mark

    async def run(self, ids: Sequence[str]) -> WorkResult:
        """Work on these galleries; never raises for a single one.

        Raises:
            StashUnauthorized: the login does not hold any more.
            LedgerError: nothing can be kept any more.
        """
        reports: list[MediumReport] = []
        waiting: Iterator[str] = iter(ids)

        async def worker() -> None:
            for gallery_id in waiting:
                report = await self._gallery(gallery_id)
                reports.append(report)
                if report.status is not Status.TAGGED:
                    self._work.progress.trouble(report.cause or report.reason)
                log.log(logging.INFO if report.status is Status.TAGGED else logging.WARNING, "%s", report.line)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._work.settings.concurrent_task_limit, len(ids))):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            error = first_error(errors, HavenError)
            if not isinstance(error, OutageError):
                raise error from None
            return WorkResult(tuple(reports), str(error))  # what was answered is in the ledger, and the marks are on
        return WorkResult(tuple(reports), "")

    async def _gallery(self, gallery_id: str) -> MediumReport:
        lane = f"gallery {gallery_id}"
        with self._work.progress.working(lane):
            return await self._settle(gallery_id, lane)

    async def _settle(self, gallery_id: str, lane: str) -> MediumReport:
        bare = MediumReport(Kind.GALLERY, gallery_id, "", Status.SKIPPED)
        try:
            gallery = await self._work.gateway.medium(Kind.GALLERY, gallery_id)
            if gallery is None:
                return replace(bare, reason="it is no longer in Stash")
            bare = replace(bare, title=gallery.title)
            if self._work.only_marked and self._mark.id not in gallery.tag_ids:
                return replace(bare, reason=f"it is no longer tagged {self._mark.name}")
            tally = await self._look(gallery, lane)
            return await self._conclude(gallery, tally, bare)
        except LocalOutageError as exc:
            return replace(bare, status=Status.FAILED, reason=str(exc))  # what may leave the network can go on
        except (OutageError, StashUnauthorized, LedgerError):
            raise  # the same would happen to every other gallery
        except BusyError as exc:
            return replace(bare, reason=str(exc))
        except StashError as exc:
            self._work.tags.forget()
            return replace(bare, status=Status.FAILED, reason=str(exc))
        except Exception as exc:  # a mistake of ours with one gallery must not cost the others
            log.error("Unexpected error at %s", lane, exc_info=exc)
            reason = f"unexpected error ({type(exc).__name__}: {exc}); the log has the details, please report it"
            return replace(bare, status=Status.FAILED, reason=reason)

    async def _look(self, gallery: Medium, lane: str) -> _Tally:
        work = self._work
        local_only = work.marks.local_only.id in gallery.tag_ids
        ids = (await work.gateway.gallery_image_ids(gallery.id))[:: work.settings.gallery_every]
        work.progress.begin(lane, gallery.title)
        work.progress.plan(lane, len(ids))
        work.looker.expect(len(ids))
        tally, room, left = _Tally(), asyncio.Semaphore(IMAGES_AT_ONCE), len(ids)
        try:
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(ids), PAGE):
                    page = ids[start : start + PAGE]
                    found = await work.gateway.media(Kind.IMAGE, page)
                    for image_id in page:
                        left -= 1
                        if (image := found.get(image_id)) is None:
                            work.looker.left_out()
                            continue
                        await room.acquire()
                        group.create_task(self._image(image, tally, room, lane, local_only=local_only))
        except BaseExceptionGroup as errors:
            raise first_error(errors, HavenError) from None
        finally:
            for _ in range(left):
                work.looker.left_out()
        return tally

    async def _image(
        self, image: Medium, tally: _Tally, room: asyncio.Semaphore, lane: str, *, local_only: bool
    ) -> None:
        how = Settled.FAILED
        try:
            analysis = await self._work.looker.look(image, local_only=local_only)
        except MediaUnreachable as exc:
            tally.looked += 1  # it may be fine: without it, the gallery's shares would be a guess
            tally.problems[str(exc)] += 1
        except MediaError as exc:
            tally.unreadable[str(exc)] += 1
        else:
            how = how_settled(analysis)
            tally.looked += 1
            tally.asked += analysis.asked
            tally.reused += analysis.reused
            tally.inherited += analysis.inherited
            tally.left_network += analysis.left_network
            tally.problems.update(analysis.problems)
            if analysis.coverage >= self._work.settings.min_coverage:
                tally.analysed += 1
                tally.with_tag.update(union(analysis.samples.values(), self._work.settings).keys())
        finally:
            room.release()
        self._work.progress.done(lane, how=how)  # not of what a stop or an outage cut short

    async def _conclude(self, gallery: Medium, tally: _Tally, bare: MediumReport) -> MediumReport:
        work = self._work
        report = replace(
            bare,
            samples=tally.looked,
            coverage=tally.coverage,
            asked=tally.asked,
            reused=tally.reused,
            inherited=tally.inherited,
            left_network=tally.left_network,
            problems=dict(tally.problems + tally.unreadable),
        )
        if not tally.looked:
            return await self._faulty(gallery, replace(report, reason=_nothing_there(tally)))
        if tally.coverage < work.settings.min_coverage:
            causes = "; ".join(f"{n}× {problem}" for problem, n in tally.problems.most_common(3))
            reason = (
                f"only {tally.analysed} of {count_text(tally.looked, 'image')} could be analysed, "
                f"{work.settings.min_coverage:.0%} are demanded{f' ({causes})' if causes else ''}; nothing was written"
            )
            return replace(report, status=Status.INCOMPLETE, reason=reason)
        names = tally.shared(work.settings.gallery_share) if work.settings.create_tags else []
        tags = await work.tags.find(names)
        desired = Desired(
            medium=gallery,
            tag_ids=frozenset(tag.id for tag in tags.values()),
            mark_on=frozenset({work.marks.tagged.id} - {""}),  # a preview does not create what is missing
            mark_off=frozenset({self._mark.id, work.marks.errored.id} - {""}),
        )
        (desired,) = await work.tags.up_to_date([desired])
        report = replace(report, status=Status.TAGGED, tags=work.tags.names(names))
        if not work.write:
            planned = await work.applier.preview(desired)
            return replace(report, kept_for_user=len(planned.rejected_tags))
        applied = await work.applier.apply(work.run_id, desired)
        if applied.gone:
            return replace(bare, reason="it was deleted from Stash in the meantime")
        return replace(report, kept_for_user=applied.kept_for_user)

    async def _faulty(self, gallery: Medium, report: MediumReport) -> MediumReport:
        """None of its images can be read: mark it so, keep the trigger tag and all that stands there."""
        errored = self._work.marks.errored.id
        if self._work.write and errored not in gallery.tag_ids:
            await self._work.applier.mark(self._work.run_id, gallery, errored)
        return replace(report, status=Status.ERRORED)


def _nothing_there(tally: _Tally) -> str:
    if not tally.unreadable:
        return "it has no image"
    cause, count = tally.unreadable.most_common(1)[0]
    return f"none of its images can be read ({count}× {cause})"
