"""Taking back what a run wrote: which part of it is meant, and what is said at the end."""

from __future__ import annotations

from typing import cast

from haven_vlm.applying import Applier
from haven_vlm.earlier_runs import unknown_before
from haven_vlm.marks import find_marks
from haven_vlm.stash_ports import StashGateway
from haven_vlm.task_context import ALL_KINDS, TaskContext, TaskResult, kind_of_ids
from haven_vlm.together import Together
from haven_vlm.undoing import Scope, Undoer
from haven_vlm_utility import count_text


async def undo(context: TaskContext) -> TaskResult:
    """Take back what the last run (or the one named, or all) wrote, except what the user has changed since."""
    options = context.options
    together = Together(context.gateway)
    gateway = cast(StashGateway, together)  # what it does not share it passes on
    undoer = Undoer(gateway, context.journal, Applier(gateway, context.journal, tag_by_tag=True), together=together)
    if options.ids:
        kind = kind_of_ids(options, ALL_KINDS)
        scope = Scope(run_id=options.run, media=tuple((kind, i) for i in options.ids))
    elif options.everything:
        scope = Scope()
    else:
        run = options.run or await undoer.last_run()
        if run is None:
            marks = await find_marks(context.gateway, context.settings)
            lines = await unknown_before(context, marks, ALL_KINDS)
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
