"""One function per task in Stash: what it works on, and what it says at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from haven_vlm.applying import Applier
from haven_vlm.checking import check_everything, offered, other_servers
from haven_vlm.collect_task import CollectTask
from haven_vlm.collecting import summary
from haven_vlm.endpoint_check import as_table
from haven_vlm.errors import ConfigError, LedgerError
from haven_vlm.facts import Kind, TagRef, Term
from haven_vlm.files import write_atomically
from haven_vlm.image_task import ImageTask
from haven_vlm.journal import Journal
from haven_vlm.learning import ConfigFile, Learning
from haven_vlm.marks import Marks, ensure_marks, find_marks
from haven_vlm.media_access import OpenVideo
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.page_data import CheckResult, Verdict
from haven_vlm.picture import Preparation
from haven_vlm.pool_ports import VisionEndpoint
from haven_vlm.ports import Analyzer, FetchBytes
from haven_vlm.progress import Progress
from haven_vlm.report_book import ReportBook
from haven_vlm.reports import RunReport, Status, WorkResult
from haven_vlm.selection import select
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections, StashGateway
from haven_vlm.task_options import Options
from haven_vlm.together import Together
from haven_vlm.undoing import Scope, Undoer, resume_pending
from haven_vlm.videos import VideoRun, VideoWork
from haven_vlm_utility import count_text

log = logging.getLogger(__name__)

KEPT_REPORTS = 50
"""Reports of so many runs are kept; older ones are deleted."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """All that a task works with; made and closed by the connector."""

    settings: Settings
    options: Options
    gateway: StashCollections
    journal: Journal
    pool: Multiplexer
    endpoints: Sequence[VisionEndpoint]
    """Those that the settings name."""
    make_analyzer: Callable[[Sequence[Term], bool], Analyzer]
    """Vocabulary; whether answers of any model count as known."""
    make_clip_analyzer: Callable[[Sequence[Term], bool], Analyzer]
    """The same for clips among the images: a few moments of each, and the wording for stills."""
    fetch: FetchBytes
    progress: Progress
    show_share: Callable[[float, str], None]
    """For tasks that work on no media: the share that is done, 0 to 1, and what is being done."""
    preparation: Preparation
    open_video: OpenVideo
    data_dir: Path
    settings_file: ConfigFile
    stash_version: str
    mode: str
    run_id: int
    login_ages: bool = False
    """Stash knows us by a session that ends some time after its last use, not by a key."""
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = field(default=lambda: datetime.now().astimezone())


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What the user is told, and whether the task did what was asked."""

    text: str
    ok: bool
    report: RunReport | None = None
    """Of the tasks that work on media."""
    html: Path | None = None
    """Its HTML file."""
    check: CheckResult | None = None
    """Of Check Endpoints."""


Task = Callable[[TaskContext], Awaitable[TaskResult]]


def terms_of(settings: Settings) -> tuple[Term, ...]:
    """The vocabulary as the model sees it."""
    return tuple(Term(t.name, t.definition, t.aliases) for t in settings.tag_list)


_ALL = (Kind.SCENE, Kind.IMAGE, Kind.GALLERY)


async def tag_videos(context: TaskContext) -> TaskResult:
    """Look at all scenes with the trigger tag, and write tags and markers."""
    return await _media(context, (Kind.SCENE,), write=True, recall=False)


async def tag_images(context: TaskContext) -> TaskResult:
    """Look at all images with the trigger tag, and at those of galleries that have it, and write tags."""
    return await _media(context, (Kind.IMAGE, Kind.GALLERY), write=True, recall=False)


async def preview(context: TaskContext) -> TaskResult:
    """As tagging, but write nothing except a report. Answers are kept, so tagging later asks nothing again."""
    return await _media(context, _ALL, write=False, recall=False)


async def update(context: TaskContext) -> TaskResult:
    """Apply the present settings to what is known of media with the update tag; ask only about new tags."""
    return await _media(context, _ALL, write=True, recall=True)


async def _media(context: TaskContext, kinds: Sequence[Kind], *, write: bool, recall: bool) -> TaskResult:
    began = context.clock()
    started = context.now().isoformat(timespec="seconds")
    lines: list[str] = []
    applier = Applier(context.gateway, context.journal)
    if write:
        lines = await _finish_earlier(context, applier)
        marks = await ensure_marks(context.gateway, applier, context.run_id, context.settings)
    else:
        marks = await find_marks(context.gateway, context.settings)
    mark = marks.update if recall else marks.trigger
    lines += await _unknown_before(context, marks, kinds)
    if context.options.ids:
        kinds = (_kind_of_ids(context.options, kinds),)
    ids = {kind: await _selection(context, kind, marks, mark, recall=recall) for kind in kinds}
    selected = sum(map(len, ids.values()))
    if not selected:
        nothing = _nothing_to_do(context, mark, marks, kinds, write=write)
        return TaskResult("\n".join([nothing, *context.journal.notices, *lines]), ok=True)
    context.progress.media(selected)
    log.info("To look at: %s", ", ".join(count_text(len(some), str(kind)) for kind, some in ids.items() if some))
    if not recall:
        await context.pool.prepared()  # which models will answer decides which answers are known already
    vr_tag_id = await _vr_tag_id(context.gateway) if ids.get(Kind.SCENE) else ""
    results: list[WorkResult] = []
    name = f"{started[:19].replace(':', '')}-run{context.run_id}"
    async with ReportBook(context.data_dir / "reports", name) as book:
        for kind, some in ids.items():
            if some and not any(r.ended_because for r in results):
                work = _work(context, kind, applier, marks, book, write=write, recall=recall, vr_tag_id=vr_tag_id)
                results.append(await work(some, mark))
        result = WorkResult(
            tuple(m for r in results for m in r.media), next((r.ended_because for r in results if r.ended_because), "")
        )
        seconds = context.clock() - began
        done = await _report(context, result, book, started, seconds, written=write, selected=selected)
    forgotten = await _forget_unused(context) if write and not result.ended_because else ""
    return replace(done, text="\n".join([done.text + forgotten, *context.journal.notices, *lines]))


async def _unknown_before(context: TaskContext, marks: Marks, kinds: Sequence[Kind]) -> list[str]:
    """A line for the user when media were tagged before, and this ledger knows of no run that did it.

    Nothing in Stash proves that a tag or a marker was made by us and left alone by the user, so nothing is adopted.
    """
    if marks.tagged.name in marks.created or any(r.id != context.run_id for r in await context.journal.runs(2)):
        return []
    counts = {kind: len(await context.gateway.media_ids(kind, marks.tagged.id)) for kind in kinds}
    if not any(counts.values()):
        return []
    what = " and ".join(count_text(count, kind) for kind, count in counts.items() if count)
    line = (
        f"The ledger {context.journal.path} is new, yet {what} carried “{marks.tagged.name}” before: an earlier ledger "
        "was lost, or lies in another folder (then point data_dir there). What was written before counts as yours now: "
        "it stays, it is not written twice, and Undo cannot take it back."
    )
    log.warning("%s", line)
    return [line]


def _kind_of_ids(options: Options, kinds: Sequence[Kind]) -> Kind:
    """What the numbers mean that the user gave."""
    kind = options.kind or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"The arguments of the task are wrong: kind: this task works on {_listed(kinds, 'and')}")
    return kind


async def _forget_unused(context: TaskContext) -> str:
    """What `keep_answers` says about old answers is done; a line about it, if there is something to say."""
    days = context.settings.keep_answers
    if days == "forever":
        return ""
    earlier = [run for run in await context.journal.runs(2) if run.id != context.run_id]
    try:
        gone = await context.journal.prune(unused_days=days, until=earlier[0].started_at) if earlier else 0
    except LedgerError as exc:
        return f"\nOld answers could not be forgotten: {exc}"
    if not gone:
        return ""
    return f"\nForgotten, because of no use for {count_text(days, 'day')} (keep_answers): {count_text(gone, 'answer')}."


async def _vr_tag_id(gateway: StashCollections) -> str:
    """Id of the tag that Stash's settings (Interface) name for VR scenes; empty if they name none, or it is gone."""
    name = await gateway.ui_setting("vrTag")
    tag = await gateway.find_tag(name.strip()) if isinstance(name, str) and name.strip() else None
    return tag.id if tag is not None else ""


def _work(
    context: TaskContext,
    kind: Kind,
    applier: Applier,
    marks: Marks,
    book: ReportBook,
    *,
    write: bool,
    recall: bool,
    vr_tag_id: str,
) -> Callable[[Sequence[str], TagRef], Awaitable[WorkResult]]:
    """What works on media of this kind: ids and the tag that selected them → what became of them."""
    settings, terms = context.settings, terms_of(context.settings)
    only_marked = _is_marked_only(context)
    if kind is Kind.SCENE:
        work = VideoWork(
            settings=settings,
            gateway=context.gateway,
            analyzer=context.make_analyzer(terms, recall),
            applier=applier,
            claims=context.journal.claims,
            progress=context.progress,
            marks=marks,
            preparation=context.preparation,
            open_video=context.open_video,
            run_id=context.run_id,
            write=write,
            recall=recall,
            only_marked=only_marked,
            vr_tag_id=vr_tag_id,
            book=book,
        )
        return lambda ids, mark: VideoRun(work, mark=mark).run(ids)
    task = ImageTask(
        settings=settings,
        gateway=context.gateway,
        journal=context.journal,
        pool=context.pool,
        applier=applier,
        marks=marks,
        progress=context.progress,
        preparation=context.preparation,
        open_video=context.open_video,
        clips=context.make_clip_analyzer(terms, recall),
        fetch=context.fetch,
        terms=terms,
        run_id=context.run_id,
        write=write,
        recall=recall,
        only_marked=only_marked,
    )
    return lambda ids, mark: task.run(kind, ids, mark=mark)


async def _finish_earlier(context: TaskContext, applier: Applier) -> list[str]:
    """Carry out to the end what a killed run, or a killed undo, had begun to write; lines about it for the user."""
    undoer = Undoer(context.gateway, context.journal, applier)
    resumed = await resume_pending(context.journal, applier, undoer)
    lines = []
    if resumed.finished:
        finished = count_text(len(resumed.finished), "medium")
        lines.append(f"Finished what an earlier run had begun to write: {finished}.")
        log.info("%s", lines[0])
    for medium, reason in resumed.failed.items():
        lines.append(f"What an earlier run had begun to write to {medium} cannot be finished: {reason}")
        log.warning("%s", lines[-1])
    return lines


def _is_marked_only(context: TaskContext) -> bool:
    """Whether media must still carry the mark when their turn comes."""
    return not context.options.ids and not context.options.everything and context.settings.select == "tagged"


async def _selection(context: TaskContext, kind: Kind, marks: Marks, mark: TagRef, *, recall: bool) -> list[str]:
    """Ids of the media to work on: all of them first, because the marks go off while the run goes on."""
    options, settings = context.options, context.settings
    if options.ids:
        ids = list(options.ids)
    elif recall and options.everything:
        ids = await context.gateway.media_ids(kind, marks.tagged.id) if marks.tagged.id else []
    elif recall or kind is Kind.GALLERY:  # galleries are worked on only when they are tagged
        ids = await context.gateway.media_ids(kind, mark.id) if mark.id else []
    else:
        done = (marks.tagged.id, marks.errored.id)
        ids = await select(context.gateway, kind, settings, trigger_id=mark.id, done_ids=done)
    return ids[: options.limit]


def _nothing_to_do(context: TaskContext, mark: TagRef, marks: Marks, kinds: Sequence[Kind], *, write: bool) -> str:
    if not _is_marked_only(context):
        return f"Nothing to do: no {_listed(kinds, 'or')} fits what was asked for."
    if mark.name in marks.created and write:
        return (
            f"The tag “{mark.name}” did not exist yet; it does now. Put it on the {_listed(kinds, 'and')} you want "
            "looked at, and start the task again."
        )
    return f"Nothing to do: no {_listed(kinds, 'or')} is tagged “{mark.name}”."


def _listed(kinds: Sequence[Kind], last: str) -> str:
    """'scenes, images and galleries', or 'scene, image or gallery'."""
    words = [count_text(2, str(k)).split(" ")[1] if last == "and" else str(k) for k in kinds]
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


async def _report(
    context: TaskContext,
    result: WorkResult,
    book: ReportBook,
    started: str,
    seconds: float,
    *,
    written: bool,
    selected: int,
) -> TaskResult:
    statistics = context.pool.statistics()
    report = RunReport(
        mode=context.mode,
        run_id=context.run_id,
        started=started,
        seconds=seconds,
        media=result.media,
        pool=statistics,
        ended_because=result.ended_because,
        written=written,
        selected=selected,
    )
    html = await book.finish(report, context.gateway, context.fetch)
    try:
        await asyncio.to_thread(_keep, book.file, report)
        where = f"\nReport: {html or book.file.with_suffix('.json')}"
    except OSError as exc:
        where = f"\nThe report could not be written: {exc}"
    failed = set(report.counts) & {Status.ERRORED, Status.FAILED, Status.INCOMPLETE}
    if result.ended_because:
        found = await other_servers([e.base_url for e in context.endpoints])
        where += "".join(f"\n{offered(f)}" for f in found)
    return TaskResult(report.summary() + where, ok=not failed and not result.ended_because, report=report, html=html)


def _keep(file: Path, report: RunReport) -> None:
    write_atomically(file.with_suffix(".json"), report.as_json())
    write_atomically(file.with_suffix(".csv"), report.as_csv())
    for suffix in ("json", "csv"):
        for old in sorted(file.parent.glob(f"*-run*.{suffix}"))[:-KEPT_REPORTS]:
            old.unlink(missing_ok=True)


async def undo(context: TaskContext) -> TaskResult:
    """Take back what the last run (or the one named, or all) wrote, except what the user has changed since."""
    options = context.options
    together = Together(context.gateway)
    gateway = cast(StashGateway, together)  # what it does not share it passes on
    undoer = Undoer(gateway, context.journal, Applier(gateway, context.journal, tag_by_tag=True), together=together)
    if options.ids:
        kind = _kind_of_ids(options, _ALL)
        scope = Scope(run_id=options.run, media=tuple((kind, i) for i in options.ids))
    elif options.everything:
        scope = Scope()
    else:
        run = options.run or await undoer.last_run()
        if run is None:
            marks = await find_marks(context.gateway, context.settings)
            lines = await _unknown_before(context, marks, _ALL)
            lines = ["Nothing to undo: the connector has written nothing that still stands.", *lines]
            return TaskResult("\n".join(lines), ok=True)
        scope = Scope(run_id=run)
    done = await undoer.undo(context.run_id, scope)
    lines = [
        f"Undone for {count_text(done.media, 'medium')}: {count_text(done.tags_removed, 'tag')} and "
        f"{count_text(done.markers_removed, 'marker')} removed, {count_text(done.tags_restored, 'tag')} and "
        f"{count_text(done.markers_restored, 'marker')} restored. What you have changed since was left alone."
    ]
    if done.created_tags_removed:
        lines.append(f"Tags that nothing uses any more were deleted: {', '.join(sorted(done.created_tags_removed))}.")
    lines += [f"{name}: another run is working on it; undo again later." for name in done.busy]
    lines += [f"{name}: {reason}" for name, reason in sorted(done.failed.items())]
    return TaskResult("\n".join(lines), ok=not done.busy and not done.failed)


async def find_marker_settings(context: TaskContext) -> TaskResult:
    """Look for settings of tags that fit the markers the user set by hand; or put what was found into effect."""
    learning = await _learning(context)
    if context.options.apply:
        return TaskResult(await learning.apply_marker_settings(), ok=True)
    return TaskResult(await learning.find_marker_settings(), ok=True)


async def evaluate(context: TaskContext) -> TaskResult:
    """Measure how right each model is, by the markers the user has gone through."""
    return TaskResult(await (await _learning(context)).evaluate(), ok=True)


async def _learning(context: TaskContext) -> Learning:
    return Learning(
        settings=context.settings,
        gateway=context.gateway,
        journal=context.journal,
        file=context.settings_file,
        preparation=context.preparation,
        vr_tag_id=await _vr_tag_id(context.gateway),
        data_dir=context.data_dir,
        now=context.now,
        show=lambda share: context.show_share(share, "learning from your markers"),
        ids=context.options.ids,
        limit=context.options.limit,
    )


async def collect_incorrect_markers(context: TaskContext) -> TaskResult:
    """Keep pictures and lines of what the user flagged, removed or moved; then clear the flags."""
    if context.options.ids or context.options.limit or context.options.everything:
        raise ConfigError("Collect Incorrect Markers takes no ids, limit or everything: it collects all there is.")
    applier = Applier(context.gateway, context.journal)
    await _finish_earlier(context, applier)
    task = CollectTask(
        settings=context.settings,
        gateway=context.gateway,
        journal=context.journal,
        applier=applier,
        marks=await ensure_marks(context.gateway, applier, context.run_id, context.settings),
        progress=context.progress,
        preparation=context.preparation,
        open_video=context.open_video,
        fetch=context.fetch,
        terms=terms_of(context.settings),
        vr_tag_id=await _vr_tag_id(context.gateway),
        run_id=context.run_id,
    )
    done, folder = await task.run(context.data_dir / "incorrect", context.now().strftime("%Y-%m-%dT%H%M%S"))
    return TaskResult(summary(done, str(folder)), ok=not (done.problems or done.settled.problems))


async def check_endpoints(context: TaskContext) -> TaskResult:
    """Try every endpoint, Stash, some files, ledger and disk, and say what works and what to mend."""
    sections = await check_everything(
        settings=context.settings,
        endpoints=context.endpoints,
        gateway=context.gateway,
        stash_version=context.stash_version,
        journal=context.journal,
        data_dir=context.data_dir,
        login_ages=context.login_ages,
    )
    for section in sections:
        for item in section.items:
            if item.verdict is Verdict.PROBLEM:
                log.error("%s: %s %s", section.title, item.text, item.fix)
    ok = all(section.ok for section in sections)
    check = CheckResult(context.run_id, context.now().isoformat(timespec="seconds"), ok, tuple(sections))
    return TaskResult(as_table(sections), ok=ok, check=check)


TASKS: Mapping[str, Task] = {
    "tag_videos": tag_videos,
    "tag_images": tag_images,
    "preview": preview,
    "update": update,
    "undo": undo,
    "find_marker_settings": find_marker_settings,
    "evaluate": evaluate,
    "collect_incorrect_markers": collect_incorrect_markers,
    "check_endpoints": check_endpoints,
}
"""Mode → task."""
