"""What a run says about what earlier ones left behind: begun writes, and media tagged by a ledger that is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from haven_vlm.earlier_runs import finish_earlier, unknown_before
from haven_vlm.errors import ConfigError, StashRefused, StashUnavailable
from haven_vlm.facts import Kind, Medium
from haven_vlm.marks import find_marks
from haven_vlm.settings import Settings
from tests.ledger.harness import League, Process, failing, process

SETTINGS = Settings.model_validate({"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": ["Dunk"]})


def context(running: Process, run_id: int) -> Any:
    """As much of a task's surroundings as looking back needs."""
    parts = SimpleNamespace(gateway=running.gateway, journal=running.journal, settings=SETTINGS, run_id=run_id)
    return cast(Any, parts)


async def cut_short(made: League, scene: Medium, path: Path) -> None:
    """A run that Stash leaves alone in the middle of a write."""
    async with process(made.stash, path) as running:
        running.gateway.before["add_tags"] = [failing(StashUnavailable("Stash does not answer."))]
        with pytest.raises(StashUnavailable):
            await running.applier.apply(await running.journal.start_run("tag_videos"), made.desired(scene, {made.dunk}))


async def test_what_was_begun_is_finished_and_said(made: League, scene: Medium, path: Path) -> None:
    await cut_short(made, scene, path)
    async with process(made.stash, path) as running:
        run = await running.journal.start_run("tag_videos")
        lines = await finish_earlier(context(running, run), running.applier)
        assert lines == ["Finished what an earlier run had begun to write: 1 medium."]
        assert made.dunk in made.stash.on((Kind.SCENE, scene.id))
        assert await finish_earlier(context(running, run), running.applier) == []


async def test_what_stash_refuses_now_is_given_up_and_said(made: League, scene: Medium, path: Path) -> None:
    await cut_short(made, scene, path)
    async with process(made.stash, path) as running:
        run = await running.journal.start_run("tag_videos")
        running.gateway.before["add_tags"] = [failing(StashRefused("this tag is not allowed here"))] * 9
        (line,) = await finish_earlier(context(running, run), running.applier)
        assert line == (
            f"What an earlier run had begun to write to scene {scene.id} cannot be finished: "
            "this tag is not allowed here"
        )
        running.gateway.before.clear()
        assert await finish_earlier(context(running, run), running.applier) == [], "said once"


async def test_media_tagged_by_a_ledger_that_is_lost_are_told_of_once(made: League, scene: Medium, path: Path) -> None:
    async with process(made.stash, path) as running:
        run = await running.journal.start_run("tag_videos")
        marks = await find_marks(running.gateway, SETTINGS)
        kinds = (Kind.SCENE, Kind.IMAGE)
        assert await unknown_before(context(running, run), marks, kinds) == [], "nothing was tagged yet"
        made.stash.put_on((Kind.SCENE, scene.id), made.tagged)
        (line,) = await unknown_before(context(running, run), marks, kinds)
        assert "is new, yet 1 scene carried “VLM_Tagged” before" in line and "point data_dir there" in line
        later = await running.journal.start_run("tag_videos")
        assert await unknown_before(context(running, later), marks, kinds) == [], "this ledger knows of a run"


async def test_two_of_our_tags_that_are_one_in_stash_are_refused_with_the_fix(made: League, path: Path) -> None:
    """Else the trigger would be taken off together with what it asked for."""
    tagged = made.stash.tags[made.tagged]
    made.stash.tags[made.tagged] = replace(tagged, aliases=("VLM_TagMe",))
    del made.stash.tags[made.tag_me]
    async with process(made.stash, path) as running:
        with pytest.raises(ConfigError, match=r"are one tag \(“VLM_Tagged”\).*Remove the alias in Stash"):
            await find_marks(running.gateway, SETTINGS)
