"""Scenes, one after the other and several at once: select, look, conclude, write. Each failure stays with its scene."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from haven_vlm.applying import Applier
from haven_vlm.errors import (
    HavenError,
    LedgerError,
    LocalOutageError,
    MediaError,
    MediaUnreachable,
    OutageError,
    StashError,
    StashUnauthorized,
)
from haven_vlm.facts import Kind, MarkerDraft, Medium, Outcome, TagRef
from haven_vlm.marks import Marks
from haven_vlm.media_access import OpenVideo, opened_video, preparation_for
from haven_vlm.ownership import Desired
from haven_vlm.picture import Preparation
from haven_vlm.ports import (
    Analysis,
    Analyzer,
    FrameReader,
    VideoJob,
)
from haven_vlm.privacy import redact
from haven_vlm.progress import Progress
from haven_vlm.reports import MediumReport, Status, WorkResult
from haven_vlm.run_lock import Claims
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashGateway
from haven_vlm.timeline import Findings, conclude
from haven_vlm_utility import first_error, map_path

log = logging.getLogger(__name__)


class SceneBook(Protocol):
    """Where reports of single scenes go, with all that was seen."""

    async def scene(
        self,
        report: MediumReport,
        analysis: Analysis,
        open_video: Callable[[Preparation], AbstractAsyncContextManager[FrameReader]],
    ) -> None:
        """Take in a scene that is done; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class VideoWork:
    """What working on scenes needs; one for a run."""

    settings: Settings
    gateway: StashGateway
    analyzer: Analyzer
    applier: Applier
    claims: Claims
    progress: Progress
    marks: Marks
    preparation: Preparation
    open_video: OpenVideo
    run_id: int
    write: bool
    """False: a preview."""
    recall: bool = False
    """True: look at no new moments, only ask about new terms."""
    only_marked: bool = True
    """False: the user named the scenes; they need not carry the mark."""
    vr_tag_id: str = ""
    """Id of the tag that Stash's own settings name for VR scenes; empty: none."""
    book: SceneBook | None = None
    """Takes in every scene that was looked at, for the report."""


class VideoRun:
    """Works through scenes with a bounded number of workers."""

    def __init__(self, work: VideoWork, *, mark: TagRef) -> None:
        """`mark` is the tag that selected the scenes; it goes off when a scene is done."""
        self._work = work
        self._mark = mark
        self._specs = {t.name: t for t in work.settings.tag_list}

    async def run(self, ids: Sequence[str]) -> WorkResult:
        """Work on these scenes; never raises for a single scene.

        What would befall every other scene too (no endpoint, no login, no ledger) ends the run, and is said.
        """
        waiting: Iterator[str] = iter(ids)
        reports: list[MediumReport] = []
        ended_because = ""

        async def worker() -> None:
            for scene_id in waiting:
                report = await self._scene(scene_id)
                reports.append(report)
                if report.status is not Status.TAGGED:
                    self._work.progress.trouble(report.cause or report.reason)
                log.log(logging.INFO if report.status is Status.TAGGED else logging.WARNING, "%s", report.line)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._work.settings.concurrent_task_limit, len(ids))):
                    group.create_task(worker())
        except BaseExceptionGroup as group:
            error = first_error(group, HavenError)
            if not isinstance(error, OutageError | LedgerError | StashUnauthorized):
                raise error from None
            ended_because = str(error)  # all that was answered is in the ledger, and the marks are still on
        return WorkResult(tuple(reports), ended_because)

    async def _scene(self, scene_id: str) -> MediumReport:
        """Work on one scene; whatever goes wrong with it becomes its report."""
        lane = f"scene {scene_id}"
        with self._work.progress.working(lane):
            return await self._settle(scene_id, lane)

    async def _settle(self, scene_id: str, lane: str) -> MediumReport:
        medium: Medium | None = None
        try:
            async with self._work.claims.claim(Kind.SCENE, scene_id) as ours:
                if not ours:
                    return _report(scene_id, None, Status.SKIPPED, "another run is working on it")
                medium = await self._work.gateway.medium(Kind.SCENE, scene_id)
                if medium is None:
                    return _report(scene_id, None, Status.SKIPPED, "it is no longer in Stash")
                self._work.progress.begin(lane, medium.title)
                if self._work.only_marked and self._mark.id not in medium.tag_ids:
                    return _report(scene_id, medium, Status.SKIPPED, f"it is no longer tagged {self._mark.name}")
                return await self._look_and_write(medium, lane)
        except LocalOutageError as exc:
            return _report(scene_id, medium, Status.FAILED, str(exc))  # scenes that may leave can still be answered
        except (OutageError, StashUnauthorized, LedgerError):
            raise  # the same would happen to every other scene
        except StashError as exc:
            return _report(scene_id, medium, Status.FAILED, str(exc))
        except Exception as exc:  # a mistake of ours with one scene must not cost the thousand others
            log.error("Unexpected error at %s", lane, exc_info=exc)
            reason = redact(
                f"unexpected error ({type(exc).__name__}: {exc}); the log has the details, please report it"
            )
            return _report(scene_id, medium, Status.FAILED, reason)

    async def _look_and_write(self, medium: Medium, lane: str) -> MediumReport:
        work = self._work
        if not medium.files:
            return await self._faulty(medium, "it has no file")
        try:
            analysis = await work.analyzer.analyse(self._job(medium, lane))
        except MediaUnreachable as exc:
            return _report(medium.id, medium, Status.FAILED, str(exc))
        except MediaError as exc:
            return await self._faulty(medium, str(exc))
        report = await self._conclude(medium, analysis)
        if work.book is not None:
            await work.book.scene(report, analysis, lambda small: self._open(medium, small, again=True))
        return report

    async def _conclude(self, medium: Medium, analysis: Analysis) -> MediumReport:
        work = self._work
        if analysis.coverage < work.settings.min_coverage:
            reason = _too_little(analysis, work.settings.min_coverage)
            if _is_mediums_fault(analysis, work.settings.min_coverage):
                return await self._faulty(medium, reason, analysis, cause="too much of the file cannot be decoded")
            cause = "too few of the frames could be analysed"
            return _report(medium.id, medium, Status.INCOMPLETE, reason, analysis, cause=cause)
        findings = conclude(analysis.samples, analysis.duration_ms, work.settings)
        return await self._write(medium, analysis, findings)

    def _job(self, medium: Medium, lane: str) -> VideoJob:
        work, file = self._work, medium.files[0]
        preparation = preparation_for(medium, work.preparation, vr_tag_id=work.vr_tag_id)
        local_only = work.marks.local_only.id in medium.tag_ids or not work.settings.allow_remote_media
        return VideoJob(
            lane=lane,
            label=medium.label,
            identity=file.identity,
            duration_ms=round(file.duration_s * 1000) if file.duration_s else None,
            picture=preparation.key,
            open_reader=lambda: self._open(medium, preparation),
            local_only=local_only,
            known_times_only=work.recall,
            path=map_path(file.path, work.settings.path_mutation),
        )

    def _open(
        self, medium: Medium, preparation: Preparation, *, again: bool = False
    ) -> AbstractAsyncContextManager[FrameReader]:
        work = self._work
        return opened_video(
            medium,
            gateway=work.gateway,
            settings=work.settings,
            open_video=work.open_video,
            preparation=preparation,
            again=again,
        )

    async def _write(self, medium: Medium, analysis: Analysis, findings: Findings) -> MediumReport:
        work, settings = self._work, self._work.settings
        wanted = sorted(findings.tags) if settings.create_tags else []
        spans = findings.spans if settings.create_markers else ()
        tags = await self._in_stash({*wanted, *(s.tag for s in spans)})
        names = {t.name: t.stash_name for t in settings.tag_list}
        desired = Desired(
            medium=medium,
            tag_ids=frozenset(tags[n].id for n in wanted if n in tags),
            markers=tuple(
                MarkerDraft(medium.id, names[s.tag], s.start_ms, s.end_ms, tags[s.tag].id)
                for s in spans
                if s.tag in tags
            ),
            mark_on=frozenset({work.marks.tagged.id}) - {""},  # in a preview some may not exist yet
            mark_off=frozenset({*self._done_mark(analysis), work.marks.errored.id}) - {""},
        )
        created = removed = kept = 0
        if work.write:
            applied = await work.applier.apply(work.run_id, desired)
            if applied.gone:
                return _report(medium.id, medium, Status.SKIPPED, "it was deleted from Stash in the meantime", analysis)
            created, removed, kept = applied.markers_created, applied.markers_removed, applied.kept_for_user
        else:
            planned = await work.applier.preview(desired)
            # a tag that a run would have to create has no markers yet: all of its spans would become some
            created = len(planned.markers_created) + sum(s.tag not in tags for s in spans)
            removed = len(planned.markers_destroyed)
            kept = len(planned.left_to_user) + len(planned.rejected_tags)
        return MediumReport(
            kind=medium.kind,
            id=medium.id,
            title=medium.title,
            status=Status.TAGGED,
            tags=tuple(names[n] for n in wanted),
            spans=tuple(spans),
            samples=len(analysis.samples),
            coverage=analysis.coverage,
            asked=analysis.asked,
            reused=analysis.reused,
            inherited=analysis.inherited,
            left_network=analysis.left_network,
            markers_created=created,
            markers_removed=removed,
            kept_for_user=kept,
            problems=analysis.problems,
            is_unfinished=analysis.is_unfinished,
        )

    def _done_mark(self, analysis: Analysis) -> tuple[str, ...]:
        """The mark that goes off; it stays on a scene that another run has to finish."""
        return () if analysis.is_unfinished else (self._mark.id,)

    async def _in_stash(self, names: Collection[str]) -> dict[str, TagRef]:
        """Names of the vocabulary → tags in Stash, found by name or alias, created when missing.

        Looked up for every scene: the user may delete or merge tags while a run goes on. In a preview those that
        would have to be created are left out.
        """
        work = self._work
        wanted = {self._specs[n].stash_name: self._specs[n].definition for n in names}
        if not wanted:
            return {}
        if work.write:
            found = await work.applier.ensure_tags(work.run_id, wanted, parent_id=work.marks.parent.id)
        else:
            found = await work.gateway.find_tags(list(wanted))
        tags = {n: found[self._specs[n].stash_name] for n in names if self._specs[n].stash_name in found}
        if work.write:
            await work.applier.name_tags(tags)
        return tags

    async def _faulty(
        self, medium: Medium, reason: str, analysis: Analysis | None = None, *, cause: str = ""
    ) -> MediumReport:
        """The medium itself is at fault: mark it so, keep the trigger tag and all that stands there."""
        work = self._work
        if work.write and work.marks.errored.id not in medium.tag_ids:
            await work.applier.mark(work.run_id, medium, work.marks.errored.id)
        return _report(medium.id, medium, Status.ERRORED, reason, analysis, cause=cause)


def _is_mediums_fault(analysis: Analysis, demanded: float) -> bool:
    """Whether pictures that cannot be decoded would alone bring the coverage below what is demanded."""
    undecodable = sum(s.outcome is Outcome.UNDECODABLE for s in analysis.samples.values())
    return undecodable > len(analysis.samples) * (1 - demanded)


def _too_little(analysis: Analysis, demanded: float) -> str:
    causes = "; ".join(f"{count}× {problem}" for problem, count in Counter(analysis.problems).most_common(3))
    analysed = sum(s.outcome.analysed for s in analysis.samples.values())
    return (
        f"only {analysed} of {len(analysis.samples)} frames could be analysed, {demanded:.0%} are demanded"
        f"{f' ({causes})' if causes else ''}; nothing was written"
    )


def _report(
    medium_id: str,
    medium: Medium | None,
    status: Status,
    reason: str,
    analysis: Analysis | None = None,
    *,
    cause: str = "",
) -> MediumReport:
    return MediumReport(
        kind=Kind.SCENE,
        id=medium_id,
        title=medium.title if medium else "",
        status=status,
        reason=reason,
        cause=cause,
        samples=len(analysis.samples) if analysis else 0,
        coverage=analysis.coverage if analysis else 0.0,
        asked=analysis.asked if analysis else 0,
        reused=analysis.reused if analysis else 0,
        inherited=analysis.inherited if analysis else 0,
        left_network=analysis.left_network if analysis else 0,
        problems=analysis.problems if analysis else {},
    )
