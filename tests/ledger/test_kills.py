"""A process dies at every moment there is; the next one finishes, and the library looks as if nothing had happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from haven_vlm.facts import Kind
from haven_vlm.undoing import Scope
from tests.fakes import FakeGateway, Killed, Mortality, Snapshot
from tests.ledger.harness import League, Process, apply_in_new_run, process, quick_folder, span

Act = Callable[[Process, League], Awaitable[None]]


def league() -> League:
    """Two scenes to tag, with things of the user's on them."""
    made = League()
    stash = made.stash
    first = stash.scene(made.tag_me, made.favourite)
    stash.scene(made.tag_me)
    stash.mark(span(first, made.favourite, 70_000, 80_000, title="the best part"))
    return made


async def first_run(running: Process, made: League) -> None:
    """Tag both scenes; a tag has to be created on the way."""
    run = await running.journal.start_run("tag_videos")
    one, two = (made.stash.media[Kind.SCENE, i] for i in "12")
    tags = await running.applier.ensure_tags(run, {"Dunk": "", "Steal": "the ball changes hands"}, parent_id="1")
    steal = tags["Steal"].id
    wanted = made.desired(one, {steal, made.dunk}, span(one, made.dunk, 1000, 5000), span(one, steal, 7000, 9000))
    await running.applier.apply(run, wanted)
    await running.applier.apply(run, made.desired(two, {made.foul}, span(two, made.foul, 0, None, made.block)))
    await running.journal.end_run(run, "done")


async def update(running: Process, made: League) -> None:
    """New thresholds: one marker changes, one goes, one stays; a tag goes, another comes."""
    one = made.stash.media[Kind.SCENE, "1"]
    wanted = made.desired(one, {made.dunk, made.block}, span(one, made.dunk, 1000, 6000), span(one, made.block, 0, 500))
    await apply_in_new_run(running, wanted, mode="update")


async def undo_last(running: Process, made: League) -> None:
    """Undo the run before, whatever its number."""
    runs = {"tag_videos", "update"}
    last = max(r.id for r in await running.journal.runs() if r.mode in runs)
    await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=last))


async def undo_all(running: Process, made: League) -> None:
    """Undo everything."""
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())


async def unbroken(path: Path, acts: list[Act]) -> tuple[Snapshot, int]:
    """The library after the acts, and how many moments the last one has."""
    made = league()
    for act in acts[:-1]:
        async with process(made.stash, path) as running:
            await act(running, made)
    mortality = Mortality()
    async with process(made.stash, path, mortality) as running:
        await acts[-1](running, made)
    return made.stash.snapshot(), mortality.moments


async def broken(path: Path, acts: list[Act], at: int, *, resume: bool) -> Snapshot:
    """The same with a death at one moment of the last act; then everything again, and once more everything undone.

    With `resume` the next process first finishes what was under way, as runs do; else it meets it on its way.
    """
    made = league()
    before = made.stash.snapshot()
    for act in acts[:-1]:
        async with process(made.stash, path) as running:
            await act(running, made)
    died = False
    try:
        async with process(made.stash, path, Mortality(at)) as running:
            await acts[-1](running, made)
    except Killed:
        died = True
    assert died
    assert_users_things_stand(made)
    async with process(made.stash, path) as running:
        if resume:
            await running.resume()
            assert_users_things_stand(made)
        await acts[-1](running, made)
    after = made.stash.snapshot()
    async with process(made.stash, path) as running:
        await undo_all(running, made)
        statistics = await running.journal.statistics()
    assert made.stash.snapshot() == before
    assert (statistics.open_plans, statistics.owned_markers, statistics.owned_tags) == (0, 0, 0)
    assert statistics.rejected_spans == statistics.rejected_tags == 0, "a death is no correction"
    return after


def assert_users_things_stand(made: League) -> None:
    assert made.favourite in made.stash.on((Kind.SCENE, "1"))
    assert sum(m.title == "the best part" for m in made.stash.markers_of("1")) == 1


@pytest.mark.parametrize("resume", [True, False], ids=["resumed", "met on the way"])
@pytest.mark.parametrize(
    ("acts", "at_least"),
    [
        pytest.param([first_run], 60, id="a run"),
        pytest.param([first_run, update], 30, id="an update"),
        pytest.param([first_run, update, undo_last], 30, id="undo of the last run"),
        pytest.param([first_run, update, undo_all], 40, id="undo of everything"),
    ],
)
async def test_killed_at_any_moment_it_ends_as_if_unbroken(acts: list[Act], at_least: int, resume: bool) -> None:
    with quick_folder() as folder:
        expected, moments = await unbroken(folder / "unbroken" / "ledger.sqlite3", acts)
        assert moments >= at_least
        for at in range(moments):
            after = await broken(folder / str(at) / "ledger.sqlite3", acts, at, resume=resume)
            assert after == expected, f"died at moment {at}"


async def test_the_user_edits_a_marker_between_death_and_resumption(tmp_path: Path) -> None:
    """A marker that stands in Stash and was never entered is found by its values; edited, it is the user's."""
    made = league()
    path = tmp_path / "ledger.sqlite3"
    gateway = FakeGateway(made.stash)

    def die() -> None:
        raise Killed

    gateway.after["create_markers"] = [die]
    try:
        async with process(made.stash, path, gateway=gateway) as running:
            await first_run(running, made)
    except Killed:
        pass
    (marker,) = (m for m in made.stash.markers_of("1") if m.primary_tag_id == made.dunk)
    made.stash.edit(marker.id, lambda m: replace(m, start_ms=2000))
    async with process(made.stash, path) as running:
        await running.resume()
        await undo_all(running, made)
    assert made.stash.stands[marker.id].start_ms == 2000


async def test_a_marker_of_the_users_that_equals_ours_is_not_taken_for_it(tmp_path: Path) -> None:
    """An undo dies before it can put a marker back; the user has made the very same one meanwhile."""
    made = league()
    path = tmp_path / "ledger.sqlite3"
    scene = made.stash.media[Kind.SCENE, "2"]
    gateway = FakeGateway(made.stash)

    def die() -> None:
        raise Killed

    async with process(made.stash, path) as running:
        await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.dunk, 0, 1000)))
        await apply_in_new_run(running, made.desired(scene, set()), mode="update")
    mine = made.stash.mark(span(scene, made.dunk, 0, 1000))
    gateway.before["create_markers"] = [die]
    with pytest.raises(Killed):
        async with process(made.stash, path, gateway=gateway) as running:
            await undo_last(running, made)
    async with process(made.stash, path) as running:
        await running.resume()
        assert len(made.stash.markers_of("2")) == 2
        await undo_all(running, made)
    assert made.stash.markers_of("2") == [mine]
