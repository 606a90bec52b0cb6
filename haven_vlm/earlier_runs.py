"""What earlier runs left behind: begun writes to be finished, and media tagged by a ledger that is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from haven_vlm.applying import Applier
from haven_vlm.facts import Kind
from haven_vlm.marks import Marks
from haven_vlm.reviewing import Reviewer
from haven_vlm.task_context import TaskContext
from haven_vlm.undoing import Undoer, resume_pending
from haven_vlm_utility import count_text

log = logging.getLogger(__name__)


async def finish_earlier(context: TaskContext, applier: Applier) -> list[str]:
    """Carry out to the end what a killed run, or a killed undo, had begun to write; lines about it for the user."""
    undoer = Undoer(context.gateway, context.journal, applier)
    resumed = await resume_pending(context.journal, applier, undoer)
    lines = []
    if resumed.finished:
        finished = count_text(len(resumed.finished), "medium")
        lines.append(f"Finished what an earlier run had begun to write: {finished}.")
        log.info("%s", lines[0])

    async def this_run() -> int:
        return context.run_id

    reviewer = Reviewer(context.gateway, context.journal, applier, context.settings, start_run=this_run)
    if decided := await reviewer.resume_pending():
        lines.append(f"Finished what an interrupted review had begun: {count_text(decided, 'decision')}.")
        log.info("%s", lines[-1])
    for medium, reason in resumed.failed.items():
        lines.append(f"What an earlier run had begun to write to {medium} cannot be finished: {reason}")
        log.warning("%s", lines[-1])
    return lines


async def unknown_before(context: TaskContext, marks: Marks, kinds: Sequence[Kind]) -> list[str]:
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
