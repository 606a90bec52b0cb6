"""What the user says about results: entered once, in effect at once, kept for good."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.facts import Kind, Medium
from haven_vlm.journal import Journal
from haven_vlm.undoing import Scope
from tests.ledger.harness import League, Process, apply_in_new_run, on, only, span

WRONG = Correction(Kind.SCENE, "7", Verdict.REJECTED, Source.REVIEW, "3", before=(1000, 2000), at=5.0)


async def only_correction(running: Process) -> Correction:
    (correction,) = await running.journal.corrections.all()
    return correction


# --- noticed in Stash -----------------------------------------------------------------------------------------


async def test_a_deleted_marker_is_a_rejection(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, set(), span(scene, made.dunk, 10_000, 20_000))
    run, _ = await apply_in_new_run(running, wanted)
    await running.applier.name_tags({"slam dunk": made.stash.tags[made.dunk]})
    marker = only(made, scene)
    made.stash.unmark(marker.id)
    for _ in range(2):
        await apply_in_new_run(running, wanted)
    correction = await only_correction(running)
    assert correction == Correction(
        Kind.SCENE,
        scene.id,
        Verdict.REJECTED,
        Source.STASH,
        made.dunk,
        before=(10_000, 20_000),
        at=correction.at,
        tag="slam dunk",
        identity=scene.files[0].identity,
        marker_id=marker.id,
        run_id=run,
        id=correction.id,
    )
    assert correction.at > 0


async def test_another_span_is_a_move(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, set(), span(scene, made.dunk, 10_000, 20_000))
    await apply_in_new_run(running, wanted)
    made.stash.edit(only(made, scene).id, lambda m: replace(m, start_ms=12_000, end_ms=None))
    await apply_in_new_run(running, wanted)
    correction = await only_correction(running)
    assert (correction.verdict, correction.before, correction.after) == (
        Verdict.MOVED,
        (10_000, 20_000),
        (12_000, 12_001),
    )


async def test_another_tag_is_a_rejection_and_an_addition(made: League, scene: Medium, running: Process) -> None:
    await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.dunk, 0, 1000)))
    made.stash.edit(only(made, scene).id, lambda m: replace(m, primary_tag_id=made.block))
    await apply_in_new_run(running, made.desired(scene, set()))
    said = [(c.verdict, c.tag_id, c.before, c.after) for c in await running.journal.corrections.all()]
    assert said == [(Verdict.REJECTED, made.dunk, (0, 1000), None), (Verdict.ADDED, made.block, None, (0, 1000))]


async def test_another_title_says_nothing(made: League, scene: Medium, running: Process) -> None:
    await apply_in_new_run(running, made.desired(scene, set(), span(scene, made.dunk, 0, 1000)))
    made.stash.edit(only(made, scene).id, lambda m: replace(m, title="the famous one"))
    await apply_in_new_run(running, made.desired(scene, set()))
    assert await running.journal.corrections.all() == []
    assert only(made, scene).title == "the famous one"


async def test_a_tag_that_was_taken_off_is_a_rejection(made: League, running: Process) -> None:
    image = made.stash.image(made.tag_me)
    wanted = made.desired(image, {made.dunk})
    run, _ = await apply_in_new_run(running, wanted)
    made.stash.take_off((Kind.IMAGE, image.id), made.dunk)
    await apply_in_new_run(running, wanted)
    correction = await only_correction(running)
    assert (correction.kind, correction.tag_id, correction.before) == (Kind.IMAGE, made.dunk, None)
    assert (correction.run_id, correction.identity) == (run, ""), "it has no file"


async def test_a_cleared_medium_says_nothing(made: League, scene: Medium, running: Process) -> None:
    wanted = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    await apply_in_new_run(running, wanted)
    made.stash.take_off((Kind.SCENE, scene.id), made.dunk, made.tagged)
    made.stash.unmark(only(made, scene).id)
    await apply_in_new_run(running, wanted)
    assert await running.journal.corrections.all() == []


# --- recorded by others ---------------------------------------------------------------------------------------


async def test_a_recorded_rejection_keeps_runs_from_adding_it(made: League, scene: Medium, running: Process) -> None:
    whole = Correction(Kind.SCENE, scene.id, Verdict.REJECTED, Source.REVIEW, made.foul)
    moved = replace(whole, verdict=Verdict.MOVED, tag_id=made.dunk, before=(10_000, 20_000), after=(90_000, 95_000))
    await running.journal.corrections.record(whole, moved)
    wanted = made.desired(scene, {made.foul}, span(scene, made.dunk, 11_000, 20_000))
    _, applied = await apply_in_new_run(running, wanted)
    assert (applied.kept_for_user, made.stash.markers_of(scene.id)) == (2, [])
    assert made.foul not in on(made, scene)


async def test_a_confirmation_takes_a_rejection_back(made: League, scene: Medium, running: Process) -> None:
    whole = Correction(Kind.SCENE, scene.id, Verdict.REJECTED, Source.REVIEW, made.foul)
    part = replace(whole, tag_id=made.dunk, before=(10_000, 20_000))
    await running.journal.corrections.record(whole, part)
    added = replace(part, verdict=Verdict.ADDED, before=None, after=part.before)
    await running.journal.corrections.record(replace(whole, verdict=Verdict.CONFIRMED), added)
    await apply_in_new_run(running, made.desired(scene, {made.foul}, span(scene, made.dunk, 10_000, 20_000)))
    assert made.foul in on(made, scene)
    assert only(made, scene).start_ms == 10_000


async def test_the_same_word_twice_is_one_correction(journal: Journal) -> None:
    await journal.corrections.record(WRONG)
    again = replace(WRONG, source=Source.FLAG, at=9.0, tag="Dunk", model="tiny", run_id=4, marker_id="8", identity="i")
    await journal.corrections.record(again)
    (kept,) = await journal.corrections.all()
    assert replace(kept, id=0) == replace(again, source=Source.REVIEW), "who said it first, and all that is known"
    assert (await journal.statistics()).corrections == 1


async def test_the_latest_word_is_the_last(journal: Journal) -> None:
    right = replace(WRONG, verdict=Verdict.CONFIRMED, at=6.0)
    for correction in (WRONG, right, replace(WRONG, at=7.0)):
        await journal.corrections.record(correction)
    assert [c.verdict for c in await journal.corrections.all()] == [Verdict.CONFIRMED, Verdict.REJECTED]


async def test_corrections_are_found_by_what_they_are_about(journal: Journal) -> None:
    image = Correction(Kind.IMAGE, "7", Verdict.REJECTED, Source.FLAG, "")
    foul = replace(WRONG, verdict=Verdict.CONFIRMED, tag_id="4", tag="Foul")
    await journal.corrections.record(WRONG, image, foul)
    await journal.corrections.name_tags({"3": "Dunk", "4": "Hard foul"})
    store = journal.corrections
    assert [c.tag_id for c in await store.all(tag="Dunk")] == ["3"]
    assert [c.tag_id for c in await store.all(tag="Foul")] == ["4"], "the name it was recorded under"
    assert [c.tag_id for c in await store.all(kind=Kind.IMAGE)] == [""]
    assert [c.tag_id for c in await store.all(kind=Kind.SCENE, medium_id="7")] == ["3", "4"]
    assert len(await store.all(verdict=Verdict.REJECTED)) == 2
    assert (await store.all(kind=Kind.SCENE, medium_id="8")) == []


async def test_what_is_collected_is_remembered(journal: Journal) -> None:
    moved = replace(WRONG, verdict=Verdict.MOVED, after=(5, 6))
    right = replace(WRONG, verdict=Verdict.CONFIRMED)
    await journal.corrections.record(WRONG, moved, right)
    store = journal.corrections
    first, second = await store.uncollected(Kind.SCENE, "7")
    assert (first.verdict, second.verdict) == (Verdict.REJECTED, Verdict.MOVED)
    await store.collected([first.id], "2026-01-01")
    await store.record(WRONG)
    assert await store.uncollected(Kind.SCENE, "7") == [second]
    assert await store.uncollected_media() == [(Kind.SCENE, "7")]
    assert await journal.corrections.find(WRONG) == (first.id, "2026-01-01")
    assert await journal.corrections.find(moved) == (second.id, "")
    assert await journal.corrections.find(replace(WRONG, medium_id="8")) is None


async def test_media_with_something_to_collect_come_in_pages(journal: Journal) -> None:
    store = journal.corrections
    await store.record(*(replace(WRONG, medium_id=str(n)) for n in (1, 2, 10)))
    await store.record(replace(WRONG, kind=Kind.IMAGE, before=None), replace(WRONG, before=(7, 8), medium_id="2"))
    seen = [(Kind.IMAGE, "7")]
    assert await store.uncollected_media(limit=1) == seen
    while page := await store.uncollected_media(seen[-1], limit=2):
        seen += page
    assert seen[1:] == [(Kind.SCENE, "1"), (Kind.SCENE, "10"), (Kind.SCENE, "2")]


async def test_corrections_outlive_pruning_and_undo(made: League, scene: Medium, running: Process) -> None:
    await apply_in_new_run(running, made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000)))
    await running.journal.corrections.record(replace(WRONG, medium_id=scene.id, tag_id=made.dunk))
    await running.undoer.undo(await running.journal.start_run("undo"), Scope())
    await running.journal.prune(unused_days=1, until=running.journal.now())
    assert (await only_correction(running)).tag_id == made.dunk
    assert made.dunk in made.stash.tags


async def test_an_older_ledger_brings_its_rejections_along(path: Path) -> None:
    async with Journal(path) as journal:
        await journal.corrections.record(replace(WRONG, before=None))
    with closing(sqlite3.connect(path)) as db:
        for statement in (
            "DROP TABLE corrections",
            "DROP TABLE vocabulary_tags",
            "DELETE FROM migrations WHERE name LIKE '0004%'",
        ):
            db.execute(statement)
        db.commit()
    async with Journal(path) as journal:
        (kept,) = await journal.corrections.all()
    assert replace(kept, id=0) == replace(WRONG, before=None, source=Source.STASH)


@pytest.mark.parametrize(
    "change",
    [
        {"before": (5, 5)},
        {"after": (1, 2)},
        {"verdict": Verdict.MOVED},
        {"verdict": Verdict.ADDED},
        {"verdict": Verdict.CONFIRMED, "tag_id": ""},
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(WRONG, **change)  # type: ignore[arg-type]
