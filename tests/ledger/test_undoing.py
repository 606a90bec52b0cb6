"""What an undo takes back, what it brings back, and what it leaves to the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from haven_vlm.errors import StashRefused
from haven_vlm.facts import Kind, Medium
from haven_vlm.run_lock import Claims
from haven_vlm.undoing import Scope, resume_pending
from tests.fakes import Killed
from tests.ledger.harness import League, Process, apply_in_new_run, failing, on, only, process, span

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


async def tagged_by_a_run(made: League, running: Process, *media: Medium) -> int:
    run = await running.journal.start_run("tag_videos")
    for medium in media:
        marker = (span(medium, made.dunk, 0, 1000),) if medium.kind is Kind.SCENE else ()
        await running.applier.apply(run, made.desired(medium, {made.dunk}, *marker))
    return run


async def test_what_another_run_works_on_is_named_and_undone_later(
    made: League, scene: Medium, running: Process
) -> None:
    other = made.stash.scene(made.tag_me)
    await tagged_by_a_run(made, running, scene, other)
    async with Claims(running.journal.claims._folder).claim(Kind.SCENE, scene.id):
        undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert (undone.busy, undone.media, made.stash.markers_of(other.id)) == ([f"scene {scene.id}"], 1, [])
    assert made.dunk in on(made, scene)
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert (undone.busy, undone.media, on(made, scene)) == ([], 1, {made.favourite, made.tag_me})


async def test_media_that_are_gone_need_no_undo(made: League, scene: Medium, running: Process) -> None:
    image = made.stash.image()
    await tagged_by_a_run(made, running, scene, image)
    made.stash.delete_scene(scene.id)
    del made.stash.media[Kind.IMAGE, image.id]
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert (undone.media, undone.failed, undone.busy) == (0, {}, [])
    assert await running.undoer.last_run() is None


@pytest.mark.parametrize("named", [False, True])
async def test_a_merged_scene_is_followed_unless_it_was_asked_for_by_its_number(
    made: League, scene: Medium, running: Process, named: bool
) -> None:
    """Who names a scene that is gone does not mean the one that took it in."""
    other = made.stash.scene()
    await tagged_by_a_run(made, running, scene)
    made.stash.merge_scenes(scene.id, other.id)
    scope = Scope(media=((Kind.SCENE, scene.id),)) if named else Scope()
    await running.undoer.undo(await running.journal.start_run("undo"), scope)
    assert len(made.stash.markers_of(other.id)) == (1 if named else 0)


async def test_a_marker_that_the_user_gave_to_another_scene_is_theirs(
    made: League, scene: Medium, running: Process
) -> None:
    other = made.stash.scene()
    await tagged_by_a_run(made, running, scene)
    made.stash.edit(only(made, scene).id, lambda m: replace(m, scene_id=other.id))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert [m.primary_tag_id for m in made.stash.markers_of(other.id)] == [made.dunk]


async def test_tags_stay_while_another_run_may_be_about_to_use_them(
    made: League, scene: Medium, running: Process, path: Path
) -> None:
    run = await running.journal.start_run("tag_videos")
    steal = (await running.applier.ensure_tags(run, {"Steal": ""}))["Steal"].id
    await running.applier.apply(run, made.desired(scene, {steal}))
    async with process(made.stash, path) as other:
        await other.journal.start_run("tag_images")
        undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
        assert (undone.created_tags_removed, on(made, scene)) == ([], {made.favourite, made.tag_me})
    undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert undone.created_tags_removed == ["Steal"]


async def test_a_created_tag_that_the_user_has_put_elsewhere_in_their_tree_stays(
    made: League, scene: Medium, running: Process
) -> None:
    run = await running.journal.start_run("tag_videos")
    steal = (await running.applier.ensure_tags(run, {"Steal": ""}))["Steal"].id
    await running.applier.apply(run, made.desired(scene, {steal}))
    made.stash.tags[steal] = replace(made.stash.tags[steal], parent_ids=(made.favourite,))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert steal in made.stash.tags and steal not in on(made, scene)


# --- an undo that was cut short -------------------------------------------------------------------------------


async def cut_short(made: League, scene: Medium, path: Path) -> None:
    """A run, and an undo of it that is killed before it has changed anything in Stash."""
    async with process(made.stash, path) as first:
        await tagged_by_a_run(made, first, scene)
    with pytest.raises(Killed):
        async with process(made.stash, path) as killed:
            run = await killed.journal.start_run("undo")

            def die() -> None:
                raise Killed

            killed.gateway.before["destroy_markers"] = [die]
            await killed.undoer.undo(run, Scope())
    assert only(made, scene)


async def test_the_next_run_finishes_an_undo(made: League, scene: Medium, path: Path) -> None:
    await cut_short(made, scene, path)
    async with process(made.stash, path) as running:
        resumed = await resume_pending(running.journal, running.applier, running.undoer)
    assert resumed.finished == ((Kind.SCENE, scene.id),)
    assert made.stash.markers_of(scene.id) == [] and on(made, scene) == {made.favourite, made.tag_me}


async def test_an_unfinished_undo_of_a_scene_that_another_run_has_waits(
    made: League, scene: Medium, path: Path
) -> None:
    await cut_short(made, scene, path)
    async with process(made.stash, path) as running:
        async with Claims(running.journal.claims._folder).claim(Kind.SCENE, scene.id):
            resumed = await resume_pending(running.journal, running.applier, running.undoer)
        assert (resumed.busy, resumed.finished) == (((Kind.SCENE, scene.id),), ()) and only(made, scene)
        resumed = await resume_pending(running.journal, running.applier, running.undoer)
        assert resumed.finished == ((Kind.SCENE, scene.id),)


async def test_an_unfinished_undo_that_stash_refuses_is_said_and_not_tried_for_ever(
    made: League, scene: Medium, path: Path
) -> None:
    await cut_short(made, scene, path)
    async with process(made.stash, path) as running:
        running.gateway.before["destroy_markers"] = [failing(StashRefused("no")) for _ in range(3)]
        resumed = await resume_pending(running.journal, running.applier, running.undoer)
        assert resumed.failed == {f"scene {scene.id}": "no"}
        assert await running.journal.ownership.open_plans() == []
        undone = await running.undoer.undo(await running.journal.start_run("undo"), Scope())
        assert (undone.media, made.stash.markers_of(scene.id)) == (1, [])
