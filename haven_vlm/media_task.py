"""Looking at all selected media of some kinds: what tagging, previewing and updating have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from haven_vlm.applying import Applier
from haven_vlm.checking import offered, other_servers
from haven_vlm.earlier_runs import finish_earlier, unknown_before
from haven_vlm.errors import LedgerError
from haven_vlm.facts import Example, Kind, TagRef
from haven_vlm.files import write_atomically
from haven_vlm.image_task import ImageTask
from haven_vlm.marks import Marks, ensure_marks, find_marks
from haven_vlm.report_book import ReportBook
from haven_vlm.reports import MediumReport, RunReport, Status, WorkResult
from haven_vlm.selection import select
from haven_vlm.task_context import TaskContext, TaskResult, kind_of_ids, learning_of, listed, terms_of, vr_tag_id_of
from haven_vlm.videos import VideoRun, VideoWork
from haven_vlm_utility import count_text

log = logging.getLogger(__name__)

KEPT_REPORTS = 50
"""Reports of so many runs are kept; older ones are deleted."""


async def work_on_media(context: TaskContext, kinds: Sequence[Kind], *, write: bool, recall: bool) -> TaskResult:
    """Select, look, write and report.

    Args:
        write: change something in Stash; else the report is all there is.
        recall: apply the present settings to what is known, to media with the update tag.

    Raises:
        ConfigError: the arguments of the task contradict it.
        StashError, LedgerError: nothing could be begun.
    """
    began = context.clock()
    started = context.now().isoformat(timespec="seconds")
    lines: list[str] = []
    applier = Applier(context.gateway, context.journal)
    if write:
        lines = await finish_earlier(context, applier)
        marks = await ensure_marks(context.gateway, applier, context.run_id, context.settings)
    else:
        marks = await find_marks(context.gateway, context.settings)
    mark = marks.update if recall else marks.trigger
    lines += await unknown_before(context, marks, kinds)
    if context.options.ids:
        kinds = (kind_of_ids(context.options, kinds),)
    ids = {kind: await _selection(context, kind, marks, mark, recall=recall) for kind in kinds}
    missing = await _missing(context, kinds[0], ids) if context.options.ids else ()
    selected = sum(map(len, ids.values())) + len(missing)
    if not selected:
        nothing = _nothing_to_do(context, mark, marks, kinds, write=write)
        return TaskResult("\n".join([nothing, *context.journal.notices, *lines]), ok=True)
    context.progress.media(selected - len(missing))
    if there := [count_text(len(some), str(kind)) for kind, some in ids.items() if some]:
        log.info("To look at: %s", ", ".join(there))
    if not recall and there:
        await context.pool.prepared()  # which models will answer decides which answers are known already
    vr_tag_id = await vr_tag_id_of(context.gateway) if ids.get(Kind.SCENE) else ""
    results = [WorkResult(missing, "")]
    name = f"{started[:19].replace(':', '')}-run{context.run_id}"
    async with ReportBook(context.data_dir / "reports", name) as book:
        for kind, some in ids.items():
            if some and not any(r.ended_because for r in results):
                work = await _work(context, kind, applier, marks, book, write=write, recall=recall, vr_tag_id=vr_tag_id)
                results.append(await work(some, mark))
        result = WorkResult(
            tuple(m for r in results for m in r.media), next((r.ended_because for r in results if r.ended_because), "")
        )
        seconds = context.clock() - began
        done = await _report(context, result, book, started, seconds, written=write, selected=selected)
    forgotten = await _forget_unused(context) if write and not result.ended_because else ""
    return replace(done, text="\n".join([done.text + forgotten, *context.journal.notices, *lines]))


async def _missing(context: TaskContext, kind: Kind, ids: dict[Kind, list[str]]) -> tuple[MediumReport, ...]:
    """Take out of what was named by number what is not in Stash: that it is not done must not look like success."""
    found = await context.gateway.media(kind, ids[kind])
    missing = [i for i in ids[kind] if i not in found]
    ids[kind] = [i for i in ids[kind] if i in found]
    reports = tuple(MediumReport(kind, i, "", Status.FAILED, f"there is no such {kind} in Stash") for i in missing)
    for report in reports:
        context.progress.trouble(report.reason)
        log.warning("%s", report.line)
    return reports


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


async def _examples(context: TaskContext) -> Sequence[Example]:
    """What the user's own markers have to show a model, if it may be shown some."""
    if not context.settings.examples or context.settings.engine != "built-in":
        return ()
    from haven_vlm.example_pictures import Album  # only now: most runs show no examples, and start sooner

    return await Album(await learning_of(context), context.open_video).examples()


async def _work(
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
            analyzer=context.make_analyzer(terms, recall, () if recall else await _examples(context)),
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
        return f"Nothing to do: no {listed(kinds, 'or')} fits what was asked for."
    if mark.name in marks.created and write:
        return (
            f"The tag “{mark.name}” did not exist yet; it does now. Put it on the {listed(kinds, 'and')} you want "
            "looked at, and start the task again."
        )
    return f"Nothing to do: no {listed(kinds, 'or')} is tagged “{mark.name}”."


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
