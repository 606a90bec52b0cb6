"""A run through many scenes: what goes wrong with one stays with it, and what would befall all ends the run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.errors import (
    LedgerError,
    LocalOutageError,
    MediaUnreachable,
    MediaUnreadable,
    OutageError,
    StashUnauthorized,
    StashUnavailable,
)
from haven_vlm.facts import Kind, Outcome, Sample
from haven_vlm.marks import Marks, ensure_marks
from haven_vlm.picture import Preparation
from haven_vlm.ports import Analysis, FrameReader, VideoJob
from haven_vlm.progress import Progress
from haven_vlm.reports import MediumReport, Status, WorkResult
from haven_vlm.run_lock import Claims
from haven_vlm.settings import Settings
from haven_vlm.videos import VideoRun, VideoWork
from tests.fakes import FakeStash
from tests.ledger.harness import Process, process

SETTINGS = Settings.model_validate(
    {
        "endpoints": [{"base_url": "http://127.0.0.1:9/v1"}],
        "tag_list": ["Dunk", "Foul"],
        "concurrent_task_limit": 1,
        "min_coverage": 0.5,
    }
)


def seen(tag: str = "Dunk", *, bad: Outcome | None = None, of: int = 10) -> Analysis:
    """Ten seconds of a tag; with `bad`, so many of ten frames were not analysed."""
    samples = {t * 1000: Sample(t * 1000, t * 1000, Outcome.TAGS, {tag: 1.0}) for t in range(10)}
    if bad is not None:
        samples |= {t * 1000: Sample(t * 1000, t * 1000, bad) for t in range(of)}
    problems = {"the answer makes no sense": of} if bad else {}
    return Analysis(samples, 10_000, 10, 0, 0, 0, 0, problems)


@dataclass
class Looks:
    """An `Analyzer`: what each scene shows, or what happens when it is looked at."""

    scenes: dict[str, Analysis | Exception | Callable[[], Analysis]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def analyse(self, job: VideoJob) -> Analysis:
        scene = job.lane.removeprefix("scene ")
        self.asked.append(scene)
        found = self.scenes.get(scene) or seen()
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found


def never_opened(*_: Any, **__: Any) -> FrameReader:
    raise AssertionError("the analyzer opens nothing")


@dataclass
class Season:
    """Five scenes that are marked, and a run over them."""

    stash: FakeStash
    running: Process
    marks: Marks
    run_id: int
    looks: Looks = field(default_factory=Looks)
    progress: Progress = field(default_factory=lambda: Progress(lambda _pace: None))

    async def go(self, *ids: str, write: bool = True) -> WorkResult:
        work = VideoWork(
            settings=SETTINGS,
            gateway=self.running.gateway,
            analyzer=self.looks,
            applier=self.running.applier,
            claims=self.running.journal.claims,
            progress=self.progress,
            marks=self.marks,
            preparation=Preparation(),
            open_video=never_opened,
            run_id=self.run_id,
            write=write,
        )
        return await VideoRun(work, mark=self.marks.trigger).run(ids or ("1", "2", "3", "4", "5"))

    def tag(self, name: str) -> str:
        """Id of a tag."""
        (found,) = [tag.id for tag in self.stash.tags.values() if tag.name == name]
        return found

    def on(self, scene: str) -> set[str]:
        """Names of the tags of a scene."""
        return {self.stash.tags[i].name for i in self.stash.on((Kind.SCENE, scene))}


@pytest.fixture
async def season(tmp_path: Path) -> AsyncIterator[Season]:
    stash = FakeStash()
    async with process(stash, tmp_path / "ledger.sqlite3") as running:
        run_id = await running.journal.start_run("tag_videos")
        marks = await ensure_marks(running.gateway, running.applier, run_id, SETTINGS)
        for _ in range(5):
            stash.scene(marks.trigger.id)
        yield Season(stash, running, marks, run_id)


DONE = {"Dunk", "VLM_Tagged"}
MARKED = {"VLM_TagMe"}


def only(result: WorkResult, status: Status) -> MediumReport:
    (found,) = [report for report in result.media if report.status is status]
    return found


async def test_all_is_well(season: Season) -> None:
    result = await season.go()
    assert [report.status for report in result.media] == [Status.TAGGED] * 5
    assert result.ended_because == ""
    assert [season.on(str(n)) for n in range(1, 6)] == [DONE] * 5
    assert [(m.start_ms, m.title) for m in season.stash.markers_of("3")] == [(0, "Dunk")]


# --- trouble of one scene -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "status", "reason", "tags"),
    [
        (LocalOutageError("no local endpoint answers"), Status.FAILED, "no local endpoint answers", MARKED),
        (MediaUnreachable("the drive is away"), Status.FAILED, "the drive is away", MARKED),
        (MediaUnreadable("it is damaged"), Status.ERRORED, "it is damaged", MARKED | {"VLM_Errored"}),
        (RuntimeError("oops, token=abcdefgh12345"), Status.FAILED, "unexpected error (RuntimeError: oops", MARKED),
        (
            seen(bad=Outcome.UNPARSABLE, of=6),
            Status.INCOMPLETE,
            "only 4 of 10 frames could be analysed, 50% are demanded (6× the answer makes no sense)",
            MARKED,
        ),
        (
            Analysis({}, 10_000, 0, 0, 0, 0, 0),
            Status.INCOMPLETE,
            "only 0 of 0 frames could be analysed, 50% are demanded; nothing was written",
            MARKED,
        ),
        (
            seen(bad=Outcome.UNDECODABLE, of=6),
            Status.ERRORED,
            "only 4 of 10 frames could be analysed",
            MARKED | {"VLM_Errored"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_trouble_of_one_scene_stays_with_it(
    season: Season,
    caplog: pytest.LogCaptureFixture,
    trouble: Exception | Analysis,
    status: Status,
    reason: str,
    tags: set[str],
) -> None:
    season.looks.scenes["2"] = trouble
    for _ in range(2):  # said again by the next run, and not marked twice
        result = await season.go()
        report = only(result, status)
        assert report.id == "2" and report.reason.startswith(reason)
        assert season.on("2") == tags and season.stash.markers_of("2") == []
    assert [season.on(n) for n in "1345"] == [DONE] * 4
    assert "abcdefgh12345" not in report.reason
    assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == (
        [True, True] if isinstance(trouble, RuntimeError) else []
    )


async def test_a_scene_without_a_file_is_marked(season: Season) -> None:
    medium = season.stash.media[Kind.SCENE, "2"]
    season.stash.media[Kind.SCENE, "2"] = type(medium)(Kind.SCENE, "2", "Planned", (), medium.tag_ids)
    report = only(await season.go(), Status.ERRORED)
    assert (report.title, report.reason) == ("Planned", "it has no file")
    assert season.on("2") == MARKED | {"VLM_Errored"} and "2" not in season.looks.asked


async def test_what_the_user_took_back_before_its_turn_is_left_alone(season: Season) -> None:
    def meanwhile() -> Analysis:
        season.stash.delete_scene("3")
        season.stash.take_off((Kind.SCENE, "4"), season.marks.trigger.id)
        return seen()

    season.looks.scenes["2"] = meanwhile
    result = await season.go()
    reasons = {r.id: r.reason for r in result.media if r.status is Status.SKIPPED}
    assert reasons == {"3": "it is no longer in Stash", "4": "it is no longer tagged VLM_TagMe"}
    assert season.looks.asked == ["1", "2", "5"] and season.on("4") == set()


async def test_a_scene_that_is_deleted_while_it_is_looked_at(season: Season) -> None:
    def meanwhile() -> Analysis:
        season.stash.delete_scene("2")
        return seen()

    season.looks.scenes["2"] = meanwhile
    report = only(await season.go(), Status.SKIPPED)
    assert (report.id, report.reason) == ("2", "it was deleted from Stash in the meantime")
    assert report.asked == 10, "what it has cost is told"


async def test_a_scene_that_another_run_has_is_left_to_it(season: Season, tmp_path: Path) -> None:
    other = Claims(season.running.journal.claims._folder)
    async with other.claim(Kind.SCENE, "2"):
        result = await season.go()
    report = only(result, Status.SKIPPED)
    assert (report.id, report.reason) == ("2", "another run is working on it")
    assert season.on("2") == MARKED and season.on("3") == DONE


async def test_a_tag_deleted_in_mid_run_is_made_anew_for_the_scenes_that_follow(season: Season) -> None:
    """Once, all that followed was said to be tagged, and was not."""

    def meanwhile() -> Analysis:
        for marker in season.stash.markers_of("1"):
            season.stash.unmark(marker.id)
        season.stash.delete_tag(season.tag("Dunk"))
        return seen()

    season.looks.scenes["2"] = meanwhile
    await season.go()
    assert season.on("1") == {"VLM_Tagged"}
    assert [season.on(n) for n in "2345"] == [DONE] * 4
    assert [len(season.stash.markers_of(n)) for n in "12345"] == [0, 1, 1, 1, 1]


async def test_a_tag_merged_in_mid_run_goes_on_under_its_new_name(season: Season) -> None:
    def meanwhile() -> Analysis:
        season.stash.merge_tags(season.tag("Dunk"), season.stash.tag("Slam dunk"))
        return seen()

    season.looks.scenes["2"] = meanwhile
    await season.go()
    assert [season.on(n) for n in "12345"] == [{"Slam dunk", "VLM_Tagged"}] * 5
    slam = season.tag("Slam dunk")
    assert [[m.primary_tag_id for m in season.stash.markers_of(n)] for n in "12345"] == [[slam]] * 5


async def test_a_stash_that_fails_for_one_scene(season: Season) -> None:
    def fail() -> None:
        raise StashUnavailable("Stash's database is busy")

    season.running.gateway.before["add_tags"] = [fail]
    report = only(await season.go(), Status.FAILED)
    assert (report.id, report.reason) == ("1", "Stash's database is busy")
    assert season.on("1") >= MARKED
    await season.running.resume()
    assert season.on("1") == DONE, "the next run finishes what was begun"


# --- trouble of all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [OutageError("no endpoint answers"), StashUnauthorized("who are you?"), LedgerError("the disk is full")]
)
async def test_what_would_befall_every_scene_ends_the_run(season: Season, trouble: Exception) -> None:
    season.looks.scenes["3"] = trouble
    result = await season.go()
    assert result.ended_because == str(trouble)
    assert [report.id for report in result.media] == ["1", "2"] and season.looks.asked == ["1", "2", "3"]
    assert [season.on(n) for n in "345"] == [MARKED] * 3
    season.looks.scenes.clear()
    await season.go("3", "4", "5")
    assert [season.on(n) for n in "12345"] == [DONE] * 5


async def test_a_mistake_of_our_own_between_scenes_is_raised_as_itself(
    season: Season, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_cause: str) -> None:
        raise ZeroDivisionError("no scene's fault")

    monkeypatch.setattr(season.progress, "trouble", broken)
    season.looks.scenes["2"] = MediaUnreachable("the drive is away")
    with pytest.raises(ZeroDivisionError):
        await season.go()


async def test_a_preview_touches_nothing(season: Season) -> None:
    before = season.stash.snapshot()
    season.looks.scenes["2"] = MediaUnreadable("it is damaged")
    result = await season.go(write=False)
    assert {r.id: r.status for r in result.media}["2"] is Status.ERRORED
    assert season.stash.snapshot() == before


@pytest.mark.parametrize("there", [False, True])
async def test_a_preview_counts_the_markers_that_a_run_then_writes(season: Season, there: bool) -> None:
    """Before the very first run none of the tags is in Stash."""
    if there:
        season.stash.tag("Dunk")
    previewed = await season.go(write=False)
    written = await season.go()
    assert [r.markers_created for r in previewed.media] == [r.markers_created for r in written.media] == [1] * 5
