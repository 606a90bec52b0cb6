"""What an undo takes back, what it brings back, and what it leaves to the user."""

from __future__ import annotations

from dataclasses import replace

import pytest

from haven_vlm.errors import StashRefused
from haven_vlm.facts import Kind, Medium
from haven_vlm.undoing import Scope
from tests.ledger.harness import League, Process, apply_in_new_run, failing, on, only, span

# --- tags we create -------------------------------------------------------------------------------------------


async def test_created_tags_go_with_the_last_thing_that_carried_them(
    made: League, scene: Medium, running: Process
) -> None:
    before = made.stash.snapshot()
    run = await running.journal.start_run("tag_videos")
    tags = await running.applier.ensure_tags(run, {"VLM": ""})
    found = await running.applier.ensure_tags(run, {"Steal": "a", "Pass": "b", "Dunk": "c"}, parent_id=tags["VLM"].id)
    assert found["Dunk"].id == made.dunk
    await running.applier.apply(
        run, made.desired(scene, {found["Steal"].id}, span(scene, found["Pass"].id, 0, 9, found["Steal"].id))
    )
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=run))
    assert sorted(undone.created_tags_removed) == ["Pass", "Steal", "VLM"]
    assert made.stash.snapshot() == before


@pytest.mark.parametrize("use", ["carried", "renamed", "described", "parent", "corrected"])
async def test_a_created_tag_the_user_has_a_use_for_stays(
    made: League, scene: Medium, running: Process, use: str
) -> None:
    run = await running.journal.start_run("tag_videos")
    steal = (await running.applier.ensure_tags(run, {"Steal": ""}))["Steal"].id
    await running.applier.apply(run, made.desired(scene, {steal}))
    if use == "carried":
        made.stash.image(steal)
    elif use == "renamed":
        made.stash.rename_tag(steal, "Theft")
    elif use == "described":
        made.stash.tags[steal] = replace(made.stash.tags[steal], description="my own words")
    elif use == "parent":
        made.stash.tags[made.dunk] = replace(made.stash.tags[made.dunk], parent_ids=(steal,))
    else:
        made.stash.take_off((Kind.SCENE, scene.id), steal)
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert steal in made.stash.tags
    assert steal not in on(made, scene)


async def test_a_name_that_stash_does_not_take_is_said(made: League, running: Process) -> None:
    running.gateway.before["create_tag"] = [failing(StashRefused("tag with name 'VLM TagMe' already exists"))]
    with pytest.raises(StashRefused, match="choose another name"):
        await running.applier.ensure_tags(await running.journal.start_run("tag_videos"), {"VLM_TagMe2": ""})
    assert await running.journal.ownership.created_tags() == []


async def test_a_tag_that_another_run_just_created_is_taken(made: League, running: Process) -> None:
    running.gateway.before["create_tag"] = [lambda: made.stash.rename_tag(made.block, "Steal")]
    found = await running.applier.ensure_tags(await running.journal.start_run("tag_videos"), {"Steal": ""})
    assert found["Steal"].id == made.block
    assert await running.journal.ownership.created_tags() == []


# --- undo -----------------------------------------------------------------------------------------------------


async def test_undoing_a_run_brings_back_what_it_replaced(made: League, scene: Medium, running: Process) -> None:
    first = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000), span(scene, made.foul, 0, 1000))
    one, _ = await apply_in_new_run(running, first)
    between = made.stash.snapshot()
    made.stash.put_on((Kind.SCENE, scene.id), made.tag_me)
    two, _ = await apply_in_new_run(running, made.desired(scene, {made.foul}, span(scene, made.dunk, 0, 1500)))
    assert await running.undoer.last_run() == two
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=two))
    assert made.tag_me in on(made, scene), "the trigger was there before the run"
    made.stash.take_off((Kind.SCENE, scene.id), made.tag_me)
    assert made.stash.snapshot() == between
    assert await running.undoer.last_run() == one
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=one))
    assert made.stash.stands == {}
    assert on(made, scene) == {made.favourite, made.tag_me}
    assert await running.undoer.last_run() is None


async def test_undoing_an_earlier_run_leaves_the_later_ones_results(
    made: League, scene: Medium, running: Process
) -> None:
    one, _ = await apply_in_new_run(
        running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000), span(scene, made.block, 0, 1000))
    )
    await apply_in_new_run(running, made.desired(scene, {made.foul}, span(scene, made.block, 0, 1000)))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=one))
    assert made.stash.markers_of(scene.id) == []
    assert on(made, scene) == {made.favourite, made.foul}
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert on(made, scene) == {made.favourite}


async def test_undoing_an_early_run_leaves_a_tag_that_a_later_one_found_again(
    made: League, scene: Medium, running: Process
) -> None:
    one, _ = await apply_in_new_run(running, made.desired(scene, {made.dunk}))
    await apply_in_new_run(running, made.desired(scene, set()))
    await apply_in_new_run(running, made.desired(scene, {made.dunk}))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=one))
    assert made.dunk in on(made, scene)


async def test_undo_brings_back_no_marker_that_was_rejected_since(
    made: League, scene: Medium, running: Process
) -> None:
    wanted = made.desired(scene, set(), span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    two, _ = await apply_in_new_run(running, made.desired(scene, set()))
    three, _ = await apply_in_new_run(running, wanted)
    made.stash.unmark(only(made, scene).id)
    for run in (three, two):
        await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=run))
    assert made.stash.markers_of(scene.id) == []


async def test_undo_of_one_scene_leaves_the_others(made: League, scene: Medium, running: Process) -> None:
    other = made.stash.scene(made.tag_me)
    run = await running.journal.start_run("tag_videos")
    for one in (scene, other):
        await running.applier.apply(run, made.desired(one, {made.dunk}, span(one, made.dunk, 0, 1000)))
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope(media=((Kind.SCENE, scene.id),)))
    assert (undone.media, undone.markers_removed, undone.tags_removed, undone.tags_restored) == (1, 1, 2, 1)
    assert on(made, scene) == {made.favourite, made.tag_me}
    assert on(made, other) == {made.tagged, made.dunk}


async def test_one_scene_that_stash_refuses_does_not_stop_the_undo(
    made: League, scene: Medium, running: Process
) -> None:
    other = made.stash.scene(made.tag_me)
    run = await running.journal.start_run("tag_videos")
    for one in (scene, other):
        await running.applier.apply(run, made.desired(one, {made.dunk}, span(one, made.dunk, 0, 1000)))
    running.gateway.before["destroy_markers"] = [failing(StashRefused("no")) for _ in range(3)]
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert [*undone.failed] == [f"scene {scene.id}"]
    assert made.stash.markers_of(other.id) == []
    again = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert (again.media, made.stash.markers_of(scene.id)) == (1, [])
