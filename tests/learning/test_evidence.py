"""Which scenes a person has gone through, and what counts as true there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.scoring import settings
from haven_vlm.applying import Applier
from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.evidence import Evidence, Gatherer, covers
from haven_vlm.facts import Answer, Kind, Marker, MarkerDraft, Medium, Outcome, Term
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired
from haven_vlm.ports import AnswerKey
from haven_vlm.prompts import build_prompt
from haven_vlm.reviewed import TagTruth
from haven_vlm.stash_ports import MediaFilter
from tests.fakes import FakeGateway, FakeStash, Mortality

PROMPT = build_prompt([Term("Foul"), Term("Dunk")])


@dataclass
class Gateway(FakeGateway):
    """With what gathering asks besides."""

    async def media(self, kind: Kind, ids: object) -> dict[str, Medium]:
        assert isinstance(ids, list)
        return {i: m for i in ids if (m := self.stash.media.get((kind, i))) is not None}

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        return [m for m in self.stash.stands.values() if tag_id in (m.primary_tag_id, *m.tag_ids)]

    async def untag_markers(self, ids: object, tag_id: str, *, primary_tag_id: str | None = None) -> None:
        raise NotImplementedError

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        raise NotImplementedError

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        raise NotImplementedError

    async def find_studios(self, names: object) -> dict[str, str]:
        raise NotImplementedError

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        raise NotImplementedError


class Season:
    """A library whose scenes last 100 s, and a run that found a foul from 20 to 40 s in each."""

    def __init__(self, stash: FakeStash, journal: Journal) -> None:
        self.stash = stash
        self.journal = journal
        self.foul, self.dunk = stash.tag("Foul"), stash.tag("Dunk")
        self.gateway = Gateway(stash, Mortality())
        self.applier = Applier(self.gateway, journal)

    async def scene(self, *, written: bool = True, model: str = "tiny", until_s: int = 100) -> Medium:
        medium = self.stash.scene()
        await self.answers(medium, model=model, until_s=until_s)
        if written:
            draft = MarkerDraft(medium.id, "Foul", 20_000, 40_000, self.foul)
            run = await self.journal.start_run("tag_videos")
            await self.applier.apply(run, Desired(medium, frozenset({self.foul}), (draft,)))
            await self.journal.end_run(run, "done")
        return medium

    async def answers(self, medium: Medium, *, model: str = "tiny", until_s: int = 100) -> None:
        key = AnswerKey(medium.files[0].identity, "small", PROMPT)
        for at in range(0, until_s * 1000, 2000):
            tags = {"Foul": 0.9} if 20_000 <= at < 40_000 else {}
            answer = Answer(Outcome.TAGS if tags else Outcome.NONE, tags, endpoint="e", model=model)
            await self.journal.record(key, at_ms=at, shown_ms=at, answer=answer)

    def marker(self, medium: Medium) -> Marker:
        (marker,) = [m for m in self.stash.stands.values() if m.scene_id == medium.id]
        return marker

    def by_hand(self, medium: Medium, tag: str, start_s: int, end_s: int | None) -> None:
        end = None if end_s is None else end_s * 1000
        self.stash.mark(MarkerDraft(medium.id, "mine", start_s * 1000, end, tag))

    def gatherer(self, **more: object) -> Gatherer:
        wanted = settings(tag_list=["Foul", "Dunk"], **more)
        return Gatherer(self.gateway, self.journal, wanted, prompt=PROMPT, picture=lambda _: "small")

    async def gather(self, *ids: str, limit: int | None = None) -> Evidence:
        return await self.gatherer().gather(ids, limit=limit)

    async def truth(self) -> Mapping[str, Mapping[str, TagTruth]]:
        return {scene.scene_id: scene.truth for scene in (await self.gather()).scenes}


@pytest.fixture
async def season(tmp_path: Path) -> AsyncIterator[Season]:
    async with Journal(tmp_path / "ledger.sqlite") as journal:
        yield Season(FakeStash(), journal)


NO_DUNK = TagTruth((), carried=False)


async def test_what_nobody_touched_teaches_nothing(season: Season) -> None:
    await season.scene()
    assert await season.gather() == Evidence(())


async def test_a_marker_that_was_moved(season: Season) -> None:
    medium = await season.scene()
    season.stash.edit(season.marker(medium).id, lambda m: replace(m, start_ms=25_000))
    assert await season.truth() == {
        medium.id: {"Foul": TagTruth(((25_000, 40_000),), carried=True), "Dunk": NO_DUNK}
    }  # fmt: skip


async def test_a_marker_that_was_deleted_beside_one_that_stayed(season: Season) -> None:
    medium = await season.scene()
    draft = MarkerDraft(medium.id, "Dunk", 50_000, 55_000, season.dunk)
    run = await season.journal.start_run("tag_videos")
    foul = MarkerDraft(medium.id, "Foul", 20_000, 40_000, season.foul)
    await season.applier.apply(run, Desired(medium, frozenset({season.foul}), (foul, draft)))
    (dunk,) = [m for m in season.stash.stands.values() if m.primary_tag_id == season.dunk]
    season.stash.unmark(dunk.id)
    found = await season.truth()
    assert found == {medium.id: {"Foul": TagTruth(((20_000, 40_000),), carried=True), "Dunk": NO_DUNK}}


async def test_where_all_is_gone_the_scene_was_cleared_and_not_corrected(season: Season) -> None:
    medium = await season.scene()
    season.stash.unmark(season.marker(medium).id)
    assert await season.truth() == {}
    # but when the ledger holds it as a correction, it is one
    said = Correction(Kind.SCENE, medium.id, Verdict.REJECTED, Source.REVIEW, season.foul, before=(20_000, 40_000))
    await season.journal.corrections.record(said)
    assert (await season.truth())[medium.id]["Foul"].spans == ()


async def test_markers_by_hand_joined_where_they_touch_and_points_apart(season: Season) -> None:
    medium = await season.scene(written=False)
    for start, end in ((70, 80), (20, 30), (30, 40), (75, 78), (90, None)):
        season.by_hand(medium, season.foul, start, end)
    truth = (await season.truth())[medium.id]["Foul"]
    assert (truth.spans, truth.points_ms) == (((20_000, 40_000), (70_000, 80_000)), (90_000,))
    assert truth.carried is None  # it has no tag, but nobody took one off either


async def test_a_tag_that_was_never_written_there_teaches_nothing(season: Season) -> None:
    """The scene has a dunk by hand; its fouls were found, but never written: they are not wrong for that."""
    medium = await season.scene(written=False)
    season.by_hand(medium, season.dunk, 50, 60)
    assert set((await season.truth())[medium.id]) == {"Dunk"}


async def test_a_tag_that_was_taken_off_is_not_carried(season: Season) -> None:
    medium = await season.scene()
    season.by_hand(medium, season.foul, 60, 70)
    season.stash.take_off((Kind.SCENE, medium.id), season.foul)
    assert (await season.truth())[medium.id]["Foul"].carried is False


async def test_why_scenes_are_left_out_is_said(season: Season) -> None:
    unknown, partly = season.stash.scene(), await season.scene(until_s=60)
    empty = season.stash.scene()
    season.stash.media[Kind.SCENE, empty.id] = replace(empty, files=())
    for medium in (unknown, partly, empty):
        season.by_hand(medium, season.foul, 1, 2)
    good = await season.scene(written=False)
    season.by_hand(good, season.foul, 20, 40)
    found = await season.gather()
    assert [s.scene_id for s in found.scenes] == [good.id]
    assert sorted(why.split(" ")[0] for why in found.left_out) == ["Stash", "the", "the"]
    assert (await season.gather("999")).left_out == {"no longer in Stash": 1}
    few = await season.gather(limit=2)
    assert few.left_out["only 2 are looked at in one run"] == 2


async def test_a_marker_flagged_as_wrong_is_no_truth_before_and_after_the_flag_was_collected(season: Season) -> None:
    medium = await season.scene()
    marker = season.marker(medium)
    flag = season.stash.tag("VLM_Incorrect")
    season.stash.edit(marker.id, lambda m: replace(m, tag_ids=(flag,)))
    assert (await season.truth())[medium.id]["Foul"].spans == ()
    season.stash.edit(marker.id, lambda m: replace(m, tag_ids=()))
    assert await season.truth() == {}  # the flag is gone, and nothing was said
    wrong = Correction(
        Kind.SCENE, medium.id, Verdict.REJECTED, Source.FLAG, season.foul,
        before=(20_000, 40_000), marker_id=marker.id, at=1.0,
    )  # fmt: skip
    await season.journal.corrections.record(wrong)
    assert (await season.truth())[medium.id]["Foul"].spans == ()
    right = replace(wrong, verdict=Verdict.CONFIRMED, source=Source.REVIEW, at=2.0)
    await season.journal.corrections.record(right)
    assert (await season.truth())[medium.id]["Foul"].spans == ((20_000, 40_000),)


async def test_scenes_that_are_named_need_no_correction(season: Season) -> None:
    medium = await season.scene()
    (scene,) = (await season.gather(medium.id)).scenes
    assert scene.truth["Foul"] == TagTruth(((20_000, 40_000),), carried=True)


async def test_answers_of_each_model_apart(season: Season) -> None:
    medium = await season.scene()
    await season.answers(medium, model="large", until_s=30)
    season.by_hand(medium, season.foul, 60, 70)
    gatherer = season.gatherer()
    found = await gatherer.by_model(await gatherer.gather())
    assert {model: len(scenes[0].samples) for model, scenes in found.items()} == {"large": 15, "tiny": 50}


async def test_without_any_tag_in_stash_there_is_nothing(tmp_path: Path) -> None:
    async with Journal(tmp_path / "other.sqlite") as journal:
        empty = Gateway(FakeStash(), Mortality())
        gatherer = Gatherer(empty, journal, settings(tag_list=["Foul"]), prompt=PROMPT, picture=lambda _: "")
        assert await gatherer.gather() == Evidence(())


@pytest.mark.parametrize(
    ("times", "whole"),
    [
        (range(0, 100_000, 2000), True),
        (range(0, 90_000, 2000), False),
        (range(20_000, 100_000, 2000), False),
        (range(0, 100_000, 30_000), True),
        ([50_000], True),
        ([], False),
    ],
)
def test_answers_that_reach_over_the_whole(times: range | list[int], *, whole: bool) -> None:
    assert covers(list(times), 100_000) is whole
