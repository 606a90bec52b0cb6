"""Images, tens of thousands of them: select, look, conclude, write in batches. Each failure stays with its image."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from haven_vlm.applying import Applied
from haven_vlm.batch_writing import BatchWriter
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
from haven_vlm.ports import Analysis, Settled
from haven_vlm.privacy import redact
from haven_vlm.progress import Progress
from haven_vlm.reports import MediumReport, Status, WorkResult
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm_utility import count_text, first_error

log = logging.getLogger(__name__)

WORKERS = 256
"""Images under way at once. Most of them wait for a ticket, and hold nothing but their description."""
PAGE = 100
"""Images described by one request to Stash."""
AHEAD = 400
"""Described images waiting for a worker: a request that writes can keep Stash busy for a while."""
BATCH = 400
"""Images written together: enough that each tag costs one request for many of them."""
BATCH_AGE_S = 20.0
"""So long a result waits at most for others to be written with."""


@dataclass(frozen=True, slots=True)
class ImageWork:
    """What working on images needs; one for a run."""

    settings: Settings
    gateway: StashCollections
    looker: ImageLooker
    writer: BatchWriter
    tags: TagsInStash
    progress: Progress
    marks: Marks
    run_id: int
    write: bool
    """False: a preview."""
    only_marked: bool = True
    """False: the images were selected otherwise; they need not carry the mark."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """What shall be written to one image, and what will be said about it then."""

    desired: Desired
    report: MediumReport


class ImageRun:
    """Works through images in the order given; the fewest possible are in memory at a time."""

    def __init__(self, work: ImageWork, *, mark: TagRef) -> None:
        """`mark` is the tag that selected the images; it goes off when an image is done."""
        self._work = work
        self._mark = mark
        self._reports: list[MediumReport] = []
        self._outbox: asyncio.Queue[_Finding | None] = asyncio.Queue(2 * BATCH)
        self._total = 0

    async def run(self, ids: Sequence[str]) -> WorkResult:
        """Work on these images; never raises for a single one.

        Raises:
            StashUnauthorized: the login does not hold any more.
            LedgerError: nothing can be kept any more.
        """
        self._total = len(ids)
        self._work.looker.expect(len(ids))
        ended_because = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write_all())
                ended_because = await self._look_at_all(ids)
                await self._outbox.put(None)
        except BaseExceptionGroup as errors:
            raise first_error(errors, HavenError) from None
        return WorkResult(tuple(self._reports), ended_because)

    async def _look_at_all(self, ids: Sequence[str]) -> str:
        """Returns why it ended early, if it did: what was looked at until then is written all the same."""
        described: asyncio.Queue[Medium | None] = asyncio.Queue(AHEAD)

        async def worker() -> None:
            while (medium := await described.get()) is not None:
                await self._image(medium)

        async def describe() -> None:
            for start in range(0, len(ids), PAGE):
                page = ids[start : start + PAGE]
                found = await self._described(page)
                for image_id in page:
                    if (medium := found.get(image_id)) is not None:
                        await described.put(medium)
            for _ in range(WORKERS):
                await described.put(None)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(describe())
                for _ in range(WORKERS):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            error = first_error(errors, HavenError)
            if not isinstance(error, OutageError):
                raise error from None
            return str(error)
        return ""

    async def _described(self, page: Sequence[str]) -> dict[str, Medium]:
        """The images of a page that can be worked on; the others are reported."""
        try:
            found = await self._work.gateway.media(Kind.IMAGE, page)
        except StashUnauthorized:
            raise
        except StashError as exc:
            for image_id in page:
                self._leave_out(_bare(image_id, Status.FAILED, str(exc)))
            return {}
        for image_id in page:
            medium = found.get(image_id)
            if medium is None:
                self._leave_out(_bare(image_id, Status.SKIPPED, "it is no longer in Stash"))
            elif self._work.only_marked and self._mark.id not in medium.tag_ids:
                del found[image_id]
                reason = f"it is no longer tagged {self._mark.name}"
                self._leave_out(report_of(medium, Status.SKIPPED, reason))
        return found

    def _leave_out(self, report: MediumReport) -> None:
        self._work.looker.left_out()
        self._work.progress.close(f"image {report.id}")
        self._say(report)

    async def _image(self, medium: Medium) -> None:
        """Look at one image; whatever goes wrong with it becomes its report."""
        lane = f"image {medium.id}"
        self._work.progress.begin(lane, medium.title)
        self._work.progress.plan(lane, 1)
        self._work.progress.look(lane, 0, None)  # Stash has thumbnails of images
        with self._work.progress.working(lane):
            self._work.progress.done(lane, how=await self._settle(medium, lane))

    async def _settle(self, medium: Medium, lane: str) -> Settled:
        try:
            return await self._look_and_conclude(medium)
        except LocalOutageError as exc:
            self._say(report_of(medium, Status.FAILED, str(exc)))  # what may leave the network can go on
        except (OutageError, StashUnauthorized, LedgerError):
            raise  # the same would happen to every other image
        except StashError as exc:
            self._work.tags.forget()
            self._say(report_of(medium, Status.FAILED, str(exc)))
        except Exception as exc:  # a mistake of ours with one image must not cost the thousand others
            log.error("Unexpected error at %s", lane, exc_info=exc)
            reason = redact(
                f"unexpected error ({type(exc).__name__}: {exc}); the log has the details, please report it"
            )
            self._say(report_of(medium, Status.FAILED, reason))
        return Settled.FAILED

    async def _look_and_conclude(self, medium: Medium) -> Settled:
        work = self._work
        try:
            analysis = await work.looker.look(medium)
        except MediaUnreachable as exc:
            self._say(report_of(medium, Status.FAILED, str(exc)))
            return Settled.FAILED
        except MediaError as exc:
            await self._faulty(medium, str(exc))
            return Settled.FAILED
        if analysis.coverage < work.settings.min_coverage:
            self._say(report_of(medium, Status.INCOMPLETE, too_little(analysis), analysis))
            return Settled.FAILED
        found = sorted(union(analysis.samples.values(), work.settings)) if work.settings.create_tags else []
        tags = await work.tags.find(found)
        desired = Desired(
            medium=_light(medium),
            tag_ids=frozenset(tag.id for tag in tags.values()),
            mark_on=frozenset({work.marks.tagged.id} - {""}),  # a preview does not create what is missing
            mark_off=frozenset({self._mark.id, work.marks.errored.id} - {""}),
        )
        report = replace(report_of(medium, Status.TAGGED, "", analysis), tags=work.tags.names(found))
        await self._outbox.put(_Finding(desired, report))
        return how_settled(analysis)

    async def _faulty(self, medium: Medium, reason: str) -> None:
        """The medium itself is at fault: mark it so, keep the trigger tag and all that stands there."""
        errored = self._work.marks.errored.id
        report = report_of(medium, Status.ERRORED, reason)
        if not self._work.write or errored in medium.tag_ids:
            self._say(report)
            return
        await self._outbox.put(_Finding(Desired(_light(medium), mark_on=frozenset({errored})), report))

    # --- writing ----------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        """Write what has been found out, in batches, until there is no more."""
        more = True
        while more:
            batch: list[_Finding] = []
            try:
                async with asyncio.timeout(None) as patience:
                    while more and len(batch) < BATCH:
                        finding = await self._outbox.get()
                        if finding is None:
                            more = False
                        else:
                            batch.append(finding)
                            if len(batch) == 1:
                                patience.reschedule(asyncio.get_running_loop().time() + BATCH_AGE_S)
            except TimeoutError:
                pass
            if batch:
                await self._write(batch)

    async def _write(self, batch: list[_Finding]) -> None:
        work, wanted = self._work, [finding.desired for finding in batch]
        try:
            wanted = await work.tags.up_to_date(wanted)
        except StashUnauthorized:
            raise
        except StashError as exc:
            for finding in batch:
                self._say(replace(finding.report, status=Status.FAILED, reason=str(exc), tags=()))
            return
        results = await (work.writer.write(work.run_id, wanted) if work.write else work.writer.preview(wanted))
        for finding, result in zip(batch, results, strict=True):
            report = finding.report
            if isinstance(result, BusyError):
                report = replace(report, status=Status.SKIPPED, reason=str(result), tags=())
            elif isinstance(result, StashError):
                work.tags.forget()
                report = replace(report, status=Status.FAILED, reason=str(result), tags=())
            elif isinstance(result, Applied):
                report = replace(report, kept_for_user=result.kept_for_user)
                if result.gone:
                    reason = "it was deleted from Stash in the meantime"
                    report = replace(report, status=Status.SKIPPED, reason=reason, tags=())
            else:
                report = replace(report, kept_for_user=len(result.rejected_tags))
            self._say(report)
        log.info("%s of %s", f"{len(self._reports):,}", count_text(self._total, "image"))

    def _say(self, report: MediumReport) -> None:
        self._reports.append(report)
        if report.status is not Status.TAGGED:
            self._work.progress.trouble(report.cause or report.reason)
        # thousands of lines about what went well would bury those about what did not
        log.log(logging.DEBUG if report.status is Status.TAGGED else logging.WARNING, "%s", report.line)


def _light(medium: Medium) -> Medium:
    """The medium without what writing does not need: hundreds wait to be written."""
    return replace(medium, files=(), title="")


def too_little(analysis: Analysis) -> str:
    """Why an image is not written."""
    causes = "; ".join(f"{count}× {problem}" if count > 1 else problem for problem, count in analysis.problems.items())
    return f"it could not be analysed{f' ({causes})' if causes else ''}; nothing was written"


_NO_PROBLEMS: dict[str, int] = {}


def report_of(medium: Medium, status: Status, reason: str, analysis: Analysis | None = None) -> MediumReport:
    """What is said about an image or a gallery."""
    return MediumReport(
        kind=medium.kind,
        id=medium.id,
        title=medium.title,
        status=status,
        reason=reason,
        samples=len(analysis.samples) if analysis else 0,
        coverage=analysis.coverage if analysis else 0.0,
        asked=analysis.asked if analysis else 0,
        reused=analysis.reused if analysis else 0,
        inherited=analysis.inherited if analysis else 0,
        left_network=analysis.left_network if analysis else 0,
        problems=(analysis.problems if analysis else None) or _NO_PROBLEMS,  # one of tens of thousands
    )


def _bare(image_id: str, status: Status, reason: str) -> MediumReport:
    return MediumReport(Kind.IMAGE, image_id, "", status, reason, problems=_NO_PROBLEMS)
