"""What a run writes, in which order, and what happens when Stash, its user or another run gets in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from haven_vlm.errors import BusyError, StashGone, StashRefused, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium
from haven_vlm.ownership import Desired
from haven_vlm.undoing import Scope
from tests.fakes import FakeGateway
from tests.ledger.harness import League, Process, apply_in_new_run, failing, on, only, process, span

WRITES = {"add_tags", "remove_tags", "create_markers", "destroy_markers", "create_tag", "destroy_tags"}


async def test_new_things_come_before_old_ones_go_and_the_trigger_goes_last(
    made: League, scene: Medium, running: Process
) -> None:
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    made.stash.put_on((Kind.SCENE, scene.id), made.tag_me)
    running.gateway.calls.clear()
    _, applied = await apply_in_new_run(running, made.desired(scene, {made.foul}, span(scene, made.foul, 0, 1000)))
    assert [c for c in running.gateway.calls if c in WRITES] == [
        "create_markers",
        "add_tags",
        "destroy_markers",
        "remove_tags",
    ]
    assert (applied.markers_created, applied.markers_removed, applied.markers_kept) == (1, 1, 0)
    assert sorted(applied.tags_removed) == sorted([made.dunk, made.tag_me])
    assert on(made, scene) == {made.favourite, made.tagged, made.foul}


async def test_nothing_to_do_writes_nothing(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000, made.block))
    await apply_in_new_run(running, wanted)
    marker = only(made, scene)
    running.gateway.calls.clear()
    _, applied = await apply_in_new_run(running, wanted)
    assert not WRITES & {*running.gateway.calls}
    assert applied.markers_kept == 1
    assert only(made, scene) == marker


async def test_a_preview_writes_nothing_anywhere(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    made.stash.take_off((Kind.SCENE, scene.id), made.dunk)
    made.stash.unmark(only(made, scene).id)
    before, ledger = made.stash.snapshot(), await running.journal.statistics()
    plan = await running.applier.preview(made.desired(scene, {made.dunk, made.foul}, *wanted.markers or ()))
    assert plan.tags_added == (made.foul,)
    assert plan.rejected_tags == {made.dunk}
    assert plan.left_to_user == wanted.markers
    assert (made.stash.snapshot(), await running.journal.statistics()) == (before, ledger)


async def test_what_was_there_before_us_is_never_ours(made: League, scene: Medium, running: Process) -> None:
    made.stash.put_on((Kind.SCENE, scene.id), made.dunk)
    mine = made.stash.mark(span(scene, made.dunk, 0, 1000, title="mine"))
    _, applied = await apply_in_new_run(
        running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1100), span(scene, made.foul, 0, 1000))
    )
    assert (applied.markers_created, applied.kept_for_user) == (1, 1)
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert only(made, scene) == mine
    assert on(made, scene) == {made.tag_me, made.favourite, made.dunk}


EDITS: list[tuple[str, Callable[[Marker], Marker]]] = [
    ("moved", lambda m: replace(m, start_ms=200)),
    ("lengthened", lambda m: replace(m, end_ms=1200)),
    ("made a point", lambda m: replace(m, end_ms=None)),
    ("renamed", lambda m: replace(m, title="What a dunk")),
    ("tagged", lambda m: replace(m, tag_ids=("7",))),
]


@pytest.mark.parametrize("edit", [e for _, e in EDITS], ids=[name for name, _ in EDITS])
async def test_a_marker_the_user_edited_is_theirs(
    made: League, scene: Medium, running: Process, edit: Callable[[Marker], Marker]
) -> None:
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    made.stash.edit(only(made, scene).id, edit)
    theirs = only(made, scene)
    _, applied = await apply_in_new_run(running, wanted)
    assert applied.kept_for_user == 1
    await apply_in_new_run(running, made.desired(scene, set()))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert only(made, scene) == theirs


async def test_a_deleted_marker_is_not_made_again_nor_one_much_like_it(
    made: League, scene: Medium, running: Process
) -> None:
    await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.dunk, 10_000, 20_000)))
    made.stash.unmark(only(made, scene).id)
    for start, end in ((10_000, 20_000), (11_000, 19_000), (8_000, 21_000)):
        await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.dunk, start, end)))
        assert made.stash.markers_of(scene.id) == []
    elsewhere = [span(scene, made.dunk, 30_000, 31_000), span(scene, made.foul, 10_000, 20_000)]
    longer = span(scene, made.dunk, 0, 60_000)
    await apply_in_new_run(running, made.desired(scene, set(), *elsewhere, longer))
    assert len(made.stash.markers_of(scene.id)) == 3, "only that event was rejected, not the tag"


async def test_a_tag_the_user_took_off_stays_off(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, {made.dunk, made.foul})
    await apply_in_new_run(running, wanted)
    made.stash.take_off((Kind.SCENE, scene.id), made.dunk)
    _, applied = await apply_in_new_run(running, wanted)
    assert applied.kept_for_user == 1
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    await apply_in_new_run(running, wanted)
    assert on(made, scene) == {made.favourite, made.tagged, made.foul}


async def test_a_library_restored_from_a_backup_is_no_heap_of_corrections(
    made: League, scene: Medium, running: Process
) -> None:
    """Everything of ours is gone, the mark included: the medium counts as never looked at."""
    before = (dict(made.stash.media), dict(made.stash.stands))
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    after = made.stash.snapshot()
    made.stash.media, made.stash.stands = before
    await apply_in_new_run(running, wanted)
    assert made.stash.snapshot() == after
    assert (await running.journal.statistics()).rejected_tags == 0


async def test_a_mark_alone_leaves_results_as_they_are(made: League, scene: Medium, running: Process) -> None:
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    marker = only(made, scene)
    run = await running.journal.start_run("tag_videos")
    await running.applier.mark(run, scene, made.errored)
    assert on(made, scene) == {made.favourite, made.tagged, made.dunk, made.errored}
    assert only(made, scene) == marker
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    assert made.errored not in on(made, scene)


async def test_images_have_tags_and_no_markers(made: League, running: Process) -> None:
    image = made.stash.image(made.tag_me)
    await apply_in_new_run(running, made.desired(image, {made.dunk}))
    assert on(made, image) == {made.tagged, made.dunk}
    assert "markers" not in running.gateway.calls
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert on(made, image) == {made.tag_me}


# --- changes to the library itself ----------------------------------------------------------------------------


async def test_a_renamed_tag_and_a_moved_file_change_nothing(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    made.stash.rename_tag(made.dunk, "Slam dunk")
    made.stash.move_file((Kind.SCENE, scene.id), "/elsewhere/final.mp4")
    running.gateway.calls.clear()
    await apply_in_new_run(running, wanted)
    assert not WRITES & {*running.gateway.calls}
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert made.stash.stands == {}


async def test_markers_of_a_merged_tag_stay_ours(made: League, scene: Medium, running: Process) -> None:
    drafts = [span(scene, made.dunk, 0, 1000), span(scene, made.foul, 0, 1000, made.dunk, made.block)]
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, *drafts))
    made.stash.merge_tags(made.dunk, made.block)
    wanted = made.desired(
        scene, {made.block}, span(scene, made.block, 0, 1000), span(scene, made.foul, 0, 1000, made.block)
    )
    running.gateway.calls.clear()
    _, applied = await apply_in_new_run(running, wanted)
    assert not {"create_markers", "destroy_markers"} & {*running.gateway.calls}
    assert applied.markers_kept == 2
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert made.stash.stands == {}
    assert made.block in on(made, scene), "who put a merged tag there nobody can tell: so it is the user's"


async def test_a_deleted_tag_is_no_correction(made: League, scene: Medium, running: Process) -> None:
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.foul, 0, 1000, made.dunk)))
    made.stash.delete_tag(made.dunk)
    await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.foul, 0, 1000)))
    assert (await running.journal.statistics()).rejected_tags == 0
    assert only(made, scene).tag_ids == ()
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert made.stash.stands == {}


async def test_a_tag_deleted_while_we_write_is_left_out(made: League, scene: Medium, running: Process) -> None:
    running.gateway.before["add_tags"] = [lambda: made.stash.delete_tag(made.foul)]
    await apply_in_new_run(running, made.desired(scene, {made.dunk, made.foul}, span(scene, made.dunk, 0, 1000)))
    assert on(made, scene) == {made.favourite, made.tagged, made.dunk}


async def test_a_tag_deleted_while_markers_are_made_is_left_out(made: League, scene: Medium, running: Process) -> None:
    running.gateway.before["create_markers"] = [lambda: made.stash.delete_tag(made.foul)]
    await apply_in_new_run(
        running, made.desired(scene, set(), span(scene, made.dunk, 0, 1000), span(scene, made.foul, 0, 1000))
    )
    assert only(made, scene).primary_tag_id == made.dunk


async def test_merging_scenes_takes_our_markers_along(made: League, scene: Medium, running: Process) -> None:
    other = made.stash.scene()
    mine = made.stash.mark(span(other, made.foul, 0, 1000, title="mine"))
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    made.stash.merge_scenes(scene.id, other.id)
    await apply_in_new_run(running, made.desired(other, set(), span(other, made.block, 0, 1000)))
    assert {m.primary_tag_id for m in made.stash.markers_of(other.id)} == {made.foul, made.block}
    assert mine in made.stash.markers_of(other.id)


async def test_undo_finds_markers_that_merging_scenes_moved(made: League, scene: Medium, running: Process) -> None:
    other = made.stash.scene()
    mine = made.stash.mark(span(other, made.foul, 0, 1000, title="mine"))
    run, _ = await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    made.stash.merge_scenes(scene.id, other.id)
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=run))
    assert made.stash.markers_of(other.id) == [mine]
    assert await running.journal.ownership.touched() == []


async def test_a_scene_that_vanishes_ends_its_plan(made: League, scene: Medium, running: Process) -> None:
    running.gateway.before["add_tags"] = [lambda: made.stash.delete_scene(scene.id)]
    _, applied = await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    assert applied.gone
    assert (await running.journal.statistics()).open_plans == 0
    with pytest.raises(StashGone):
        await running.applier.preview(made.desired(scene, set()))


# --- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["create_markers", "add_tags", "destroy_markers", "remove_tags"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_outage_of_stash_is_finished_by_the_next_run(
    made: League, scene: Medium, path: Path, method: str, when: str
) -> None:
    """Also when the reply was lost and Stash had done it: nothing is made twice."""
    async with process(made.stash, path) as running:
        await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
        made.stash.put_on((Kind.SCENE, scene.id), made.tag_me)
        faults = getattr(running.gateway, when)
        faults[method] = [failing(StashUnavailable("connection lost"))]
        with pytest.raises(StashUnavailable):
            await apply_in_new_run(
                running, made.desired(scene, {made.foul}, span(scene, made.foul, 0, 1), span(scene, made.foul, 5, 9))
            )
        assert made.tag_me in on(made, scene) or (method, when) == ("remove_tags", "after")
    async with process(made.stash, path) as running:
        await running.resume()
        assert len(made.stash.markers_of(scene.id)) == 2
        assert on(made, scene) == {made.favourite, made.tagged, made.foul}
        await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    assert made.stash.stands == {}
    assert on(made, scene) == {made.favourite, made.tag_me}


async def test_half_a_batch_of_markers_is_completed(made: League, scene: Medium, running: Process) -> None:
    running.gateway.cut_markers_at = [2, 1]
    drafts = [span(scene, made.dunk, t * 1000, t * 1000 + 500) for t in range(6)]
    _, applied = await apply_in_new_run(running, made.desired(scene, set(), *drafts))
    assert applied.markers_created == 6
    assert len(made.stash.markers_of(scene.id)) == 6


async def test_stash_that_always_refuses_is_given_up(made: League, scene: Medium, path: Path) -> None:
    gateway = FakeGateway(made.stash)
    gateway.before["create_markers"] = [failing(StashRefused("no")) for _ in range(20)]
    async with process(made.stash, path, gateway=gateway) as running:
        with pytest.raises(StashRefused):
            await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1)))
        assert (await running.journal.statistics()).open_plans == 0
    assert made.tag_me in on(made, scene)


async def test_a_medium_that_never_comes_to_rest_is_given_up(made: League, scene: Medium, path: Path) -> None:
    """Another plugin takes our mark off whenever it is put on."""
    gateway = FakeGateway(made.stash)

    def contrary() -> None:
        made.stash.take_off((Kind.SCENE, scene.id), made.tagged)

    gateway.after["add_tags"] = [contrary for _ in range(50)]
    async with process(made.stash, path, gateway=gateway) as running:
        with pytest.raises(StashRefused, match="keeps changing"):
            await apply_in_new_run(running, made.desired(scene, {made.dunk}))
    assert made.tag_me in on(made, scene)


async def test_two_runs_never_write_to_the_same_medium(made: League, scene: Medium, path: Path) -> None:
    async with process(made.stash, path) as one, process(made.stash, path) as two:
        async with one.journal.claims.claim(Kind.SCENE, scene.id):
            with pytest.raises(BusyError, match="Another run"):
                await apply_in_new_run(two, made.desired(scene, {made.dunk}))
            undone = await two.undoer.undo(await two.journal.start_run("undo"), Scope(media=((Kind.SCENE, scene.id),)))
            assert undone.busy == [f"scene {scene.id}"]
        await apply_in_new_run(two, made.desired(scene, {made.dunk}))


def test_what_contradicts_itself_is_refused(made: League, scene: Medium) -> None:
    with pytest.raises(ValueError, match="both"):
        Desired(scene, tag_ids=frozenset({"1"}), mark_off=frozenset({"1"}))
    with pytest.raises(ValueError, match="another scene"):
        Desired(scene, markers=(replace(span(scene, "1", 0, 1), scene_id="99"),))
    with pytest.raises(ValueError, match="only scenes"):
        Desired(made.stash.image(), markers=(span(scene, "1", 0, 1),))


@pytest.mark.parametrize("returns_late", [True, False])
async def test_a_run_with_another_ledger_at_the_same_moment_leaves_no_marker_twice(
    tmp_path: Path, running: Process, made: League, returns_late: bool
) -> None:
    """A second machine writes to the same Stash: both have looked and found nothing before either has written."""
    scene = made.stash.scene(made.tag_me)
    desired = made.desired(scene, {made.dunk}, span(scene, made.dunk, 1000, 5000), span(scene, made.foul, 0, 900))
    slower = FakeGateway(made.stash)
    slower_has_looked, quicker_has_written, slower_has_written = (asyncio.Event() for _ in range(3))
    quick, slow = running.gateway.create_markers, slower.create_markers

    async def create_first(drafts: Sequence[MarkerDraft]) -> list[Marker]:
        await slower_has_looked.wait()
        created = await quick(drafts)
        quicker_has_written.set()
        if returns_late:
            await slower_has_written.wait()
        return created

    async def create_second(drafts: Sequence[MarkerDraft]) -> list[Marker]:
        slower_has_looked.set()
        await quicker_has_written.wait()
        created = await slow(drafts)
        slower_has_written.set()
        return created

    running.gateway.create_markers = create_first  # type: ignore[method-assign]
    slower.create_markers = create_second  # type: ignore[method-assign]
    async with process(made.stash, tmp_path / "elsewhere" / "ledger.sqlite3", gateway=slower) as other:
        await asyncio.gather(apply_in_new_run(running, desired), apply_in_new_run(other, desired))
        assert [m.id for m in made.stash.markers_of(scene.id)] == ["2", "1"], "those that came first"
        for one in (running, other):
            await one.undoer.undo(await one.journal.start_run("undo"), Scope())
    assert made.stash.markers_of(scene.id) == []
    assert on(made, scene) == {made.tag_me}
