"""One function per task in Stash: what it works on, and what it says at the end.

What only one of the rarer tasks needs is imported when that one runs: the others start sooner.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from haven_vlm.checking import check_everything
from haven_vlm.endpoint_check import as_table
from haven_vlm.errors import ConfigError
from haven_vlm.facts import Kind
from haven_vlm.media_task import work_on_media
from haven_vlm.page_data import CheckResult, Verdict
from haven_vlm.task_context import ALL_KINDS, Task, TaskContext, TaskResult, learning_of, terms_of, vr_tag_id_of
from haven_vlm_utility import sentences

log = logging.getLogger(__name__)


async def tag_videos(context: TaskContext) -> TaskResult:
    """Look at all scenes with the trigger tag, and write tags and markers."""
    return await work_on_media(context, (Kind.SCENE,), write=True, recall=False)


async def tag_images(context: TaskContext) -> TaskResult:
    """Look at all images with the trigger tag, and at those of galleries that have it, and write tags."""
    return await work_on_media(context, (Kind.IMAGE, Kind.GALLERY), write=True, recall=False)


async def preview(context: TaskContext) -> TaskResult:
    """As tagging, but write nothing except a report. Answers are kept, so tagging later asks nothing again."""
    return await work_on_media(context, ALL_KINDS, write=False, recall=False)


async def update(context: TaskContext) -> TaskResult:
    """Apply the present settings to what is known of media with the update tag; ask only about new tags."""
    return await work_on_media(context, ALL_KINDS, write=True, recall=True)


async def undo(context: TaskContext) -> TaskResult:
    """Take back what a run wrote, except what the user has changed since."""
    from haven_vlm.undo_task import undo as take_back

    return await take_back(context)


async def find_marker_settings(context: TaskContext) -> TaskResult:
    """Look for settings of tags that fit the markers the user set by hand; or put what was found into effect."""
    learning = await learning_of(context)
    if context.options.apply:
        return TaskResult(await learning.apply_marker_settings(), ok=True)
    return TaskResult(await learning.find_marker_settings(), ok=True)


async def evaluate(context: TaskContext) -> TaskResult:
    """Measure how right each model is, by the markers the user has gone through."""
    return TaskResult(await (await learning_of(context)).evaluate(), ok=True)


async def collect_incorrect_markers(context: TaskContext) -> TaskResult:
    """Keep pictures and lines of what the user flagged, removed or moved; then clear the flags."""
    if context.options.ids or context.options.limit or context.options.everything:
        raise ConfigError("Collect Incorrect Markers takes no ids, limit or everything: it collects all there is.")
    from haven_vlm.applying import Applier
    from haven_vlm.collect_task import CollectTask
    from haven_vlm.collecting import summary
    from haven_vlm.earlier_runs import finish_earlier
    from haven_vlm.marks import ensure_marks

    applier = Applier(context.gateway, context.journal)
    await finish_earlier(context, applier)
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
        vr_tag_id=await vr_tag_id_of(context.gateway),
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
                log.error("%s: %s", section.title, sentences(item.text, item.fix))
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
