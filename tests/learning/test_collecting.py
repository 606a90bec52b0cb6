"""Collecting corrections in one process: what cannot be had keeps its flag and is said, and the rest goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.applying import Applier
from haven_vlm.collect_task import CollectTask
from haven_vlm.collecting import Collected, summary
from haven_vlm.errors import LedgerError, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft, MediaFile, Medium, Term
from haven_vlm.journal import Journal
from haven_vlm.location import Location
from haven_vlm.marks import ensure_marks
from haven_vlm.ownership import Desired
from haven_vlm.picture import Preparation
from haven_vlm.ports import FrameReader
from haven_vlm.progress import Progress
from haven_vlm.settings import Settings
from tests.engine.test_engine import Reader
from tests.fakes import FakeStash
from tests.images import test_runs
from tests.images.oddities import encoded
from tests.images.test_tag_images import court
from tests.ledger.harness import failing, span

SETTINGS = Settings.model_validate(
    {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": ["Foul", "Dunk"], "concurrent_task_limit": 1}
)


@dataclass
class Gateway(test_runs.Gateway):
    """Stash with markers that carry the flag."""

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        self._call("markers_with_tag")
        found = [m for m in self.stash.stands.values() if tag_id in (m.primary_tag_id, *m.tag_ids)]
        return sorted(found, key=lambda m: int(m.id))

    async def untag_markers(self, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
        self._call("untag_markers")
        for marker_id in {*ids} & self.stash.stands.keys():
            marker = self.stash.stands[marker_id]
            left = tuple(i for i in marker.tag_ids if i != tag_id)
            self.stash.stands[marker_id] = replace(
                marker, tag_ids=left, primary_tag_id=primary_tag_id or marker.primary_tag_id
            )


@dataclass
class Court:
    """A library, and a person who flags what is wrong in it."""

    folder: Path
    stash: FakeStash = field(default_factory=FakeStash)
    reader: Reader = field(default_factory=Reader)
    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.stash)
        self.flag = self.stash.tag("VLM_Incorrect")
        self.local = self.stash.tag("VLM_LocalOnly")
        self.dunk, self.foul = self.stash.tag("Dunk"), self.stash.tag("Foul")

    def image(self, *tag_ids: str, name: str = "", content: bytes | None = None, **file: Any) -> Medium:
        medium = self.stash.image(*tag_ids)
        path = self.folder / (name or f"{medium.id}.jpg")
        data = encoded(court("Dunk", shot=int(medium.id)), "JPEG") if content is None else content
        path.write_bytes(data)
        known: dict[str, Any] = {"width_px": 320, "height_px": 180, "is_video": False, **file}
        medium = replace(medium, files=(MediaFile(str(path), len(data), {"md5": medium.id.zfill(32)}, **known),))
        self.stash.media[Kind.IMAGE, medium.id] = medium
        return medium

    def gallery(self, *images: Medium) -> str:
        gallery_id = str(len(self.gateway.galleries) + 1)
        self.stash.media[Kind.GALLERY, gallery_id] = Medium(
            Kind.GALLERY, gallery_id, "Match", (), frozenset({self.flag})
        )
        self.gateway.galleries[gallery_id] = [i.id for i in images]
        return gallery_id

    def flagged_marker(self, scene: Medium) -> Marker:
        """A marker of the user's, which they call wrong themselves."""
        return self.stash.mark(span(scene, self.dunk, 2_000, 4_000, self.flag))

    def is_flagged(self, kind: Kind, medium_id: str) -> bool:
        return self.flag in self.stash.on((kind, medium_id))

    def open(self, locations: Sequence[Location], preparation: Preparation) -> AbstractAsyncContextManager[FrameReader]:
        assert preparation == Preparation(max_side_px=64)
        return self.reader

    @asynccontextmanager
    async def task(self) -> AsyncIterator[CollectTask]:
        async with Journal(self.folder / "ledger.sqlite") as journal:
            applier = Applier(self.gateway, journal)
            run_id = await journal.start_run("collect_incorrect_markers")
            yield CollectTask(
                settings=self.settings,
                gateway=self.gateway,
                journal=journal,
                applier=applier,
                marks=await ensure_marks(self.gateway, applier, run_id, self.settings),
                progress=Progress(lambda _: None),
                preparation=Preparation(max_side_px=64),
                open_video=self.open,
                fetch=test_runs.nothing_served,
                terms=(Term("Foul"), Term("Dunk")),
                vr_tag_id="",
                run_id=run_id,
            )

    async def collect(self) -> Collected:
        async with self.task() as task:
            done, _ = await task.run(self.folder / "incorrect", "now")
            return done

    async def tag_scene(self, scene: Medium, *drafts: MarkerDraft) -> list[Marker]:
        """Let a run write these markers; returns them."""
        async with Journal(self.folder / "ledger.sqlite") as journal:
            run_id = await journal.start_run("tag_videos")
            desired = Desired(scene, tag_ids=frozenset({self.dunk}), markers=drafts)
            await Applier(self.gateway, journal).apply(run_id, desired)
            await journal.end_run(run_id, "done")
        return self.stash.markers_of(scene.id)

    def lines(self) -> list[dict[str, Any]]:
        """What was collected, of all collections."""
        files = sorted((self.folder / "incorrect").glob("*/corrections.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def one(tmp_path: Path) -> Court:
    return Court(tmp_path)


async def test_a_scene_that_shows_nothing_keeps_its_flag_and_the_next_one_is_collected(one: Court) -> None:
    first, second = one.stash.scene(), one.stash.scene()
    dark, bright = one.flagged_marker(first), one.flagged_marker(second)
    one.reader = Reader(undecodable=range(10_000))
    done = await one.collect()
    assert len(done.problems) == 2 and "nothing of it can be decoded at the times in question" in done.problems[0]
    assert done.settled.cleared == 0
    one.reader = Reader()
    done = await one.collect()
    assert done.problems == [] and done.settled.cleared == 2
    assert [m.tag_ids for m in one.stash.stands.values()] == [(), ()]
    assert {line["marker_id"] for line in one.lines() if "problem" not in line} == {dark.id, bright.id}


async def test_a_gallery_is_shown_by_those_of_its_images_that_can_be_read(one: Court) -> None:
    bare = one.stash.image()
    good, local = one.image(), one.image(one.local)
    broken, gone = one.image(content=b"no picture"), one.image()
    gallery = one.gallery(bare, good, broken, gone, local)
    del one.stash.media[Kind.IMAGE, gone.id]
    done = await one.collect()
    assert done.problems == [] and done.pictures == 2 and done.local_only == 1
    (line,) = one.lines()
    assert [f["image_id"] for f in line["frames"]] == [good.id, local.id]
    assert line["local_only"] is True, "one picture that must stay holds the whole line back"
    assert not one.is_flagged(Kind.GALLERY, gallery)


async def test_a_gallery_of_which_nothing_can_be_read_keeps_its_flag(one: Court) -> None:
    broken, empty = one.gallery(one.image(content=b"")), one.gallery(one.stash.image())
    done = await one.collect()
    assert any("the file is empty" in problem for problem in done.problems)
    assert any("none of its images has a file" in problem for problem in done.problems)
    assert one.is_flagged(Kind.GALLERY, broken) and one.is_flagged(Kind.GALLERY, empty)
    assert "2 problems; what could not be collected keeps its flag:" in summary(done, "there")


async def test_a_clip_among_the_images_is_shown_at_a_few_moments(one: Court) -> None:
    clip = one.image(one.flag, name="clip.mp4", content=b"film", is_video=True, duration_s=10.0)
    done = await one.collect()
    assert done.problems == []
    (line,) = one.lines()
    moments = one.settings.image_moments
    assert [f["at_ms"] for f in line["frames"]] == [(2 * n + 1) * 10_000 // (2 * moments) for n in range(moments)]
    assert not one.is_flagged(Kind.IMAGE, clip.id)


async def test_a_clip_of_which_nothing_can_be_decoded_keeps_its_flag(one: Court) -> None:
    one.reader = Reader(undecodable=range(10_000))
    clip = one.image(one.flag, name="clip.mp4", content=b"film", is_video=True, duration_s=10.0)
    done = await one.collect()
    assert len(done.problems) == 1 and done.problems[0].endswith("nothing of it can be decoded")
    assert one.is_flagged(Kind.IMAGE, clip.id)


async def test_an_animation_that_is_no_still_is_read_as_a_video(one: Court) -> None:
    odd = one.image(one.flag, name="odd.gif", content=b"of no known kind", is_video=True)
    assert (await one.collect()).problems == []
    assert one.reader.opened == 1 and len(one.lines()[0]["frames"]) == one.settings.image_moments
    assert not one.is_flagged(Kind.IMAGE, odd.id)


async def test_what_has_no_file_any_more_keeps_its_flag(one: Court) -> None:
    image, broken = one.stash.image(one.flag), one.image(one.flag, content=b"no picture")
    done = await one.collect()
    assert any(problem.endswith("it has no file") for problem in done.problems) and len(done.problems) == 2
    assert one.is_flagged(Kind.IMAGE, image.id) and one.is_flagged(Kind.IMAGE, broken.id)


async def test_many_problems_are_counted_and_the_first_told(one: Court) -> None:
    for _ in range(23):
        one.stash.image(one.flag)
    told = summary(await one.collect(), "there").splitlines()
    assert told[1] == "23 problems; what could not be collected keeps its flag:"
    assert len(told) == 23 and told[-1] == "  … and 3 more"


@pytest.mark.parametrize("error", [StashUnauthorized("The login has run out."), StashUnavailable("No answer.")])
async def test_without_stash_nothing_more_is_tried_and_nothing_lost(one: Court, error: Exception) -> None:
    images = [one.image(one.flag) for _ in range(2)]
    one.gateway.before["medium"] = [failing(error)]
    with pytest.raises(type(error)):
        await one.collect()
    assert all(one.is_flagged(Kind.IMAGE, i.id) for i in images)
    assert (await one.collect()).corrections == 2
    assert not any(one.is_flagged(Kind.IMAGE, i.id) for i in images)


async def test_a_scene_that_a_run_works_on_is_left_to_it_and_its_flags_come_off_next_time(one: Court) -> None:
    scene = one.stash.scene()
    (ours,) = await one.tag_scene(scene, span(scene, one.dunk, 1_000, 3_000))
    one.stash.edit(ours.id, lambda m: replace(m, start_ms=1_500))
    flagged = one.flagged_marker(scene)
    async with Journal(one.folder / "ledger.sqlite") as other, other.claims.claim(Kind.SCENE, scene.id) as claimed:
        assert claimed
        done = await one.collect()
    assert done.settled.problems == [f"scene {scene.id}: another run is working on it; its flags come off next time"]
    assert one.stash.stands[flagged.id].tag_ids == (one.flag,)
    assert (await one.collect()).settled.cleared == 1
    verdicts = [line["verdict"] for line in one.lines()]
    assert sorted(verdicts) == ["moved", "rejected"], "what the user moved is noticed once nobody works there"


@pytest.mark.parametrize("error", [StashUnavailable("database is locked"), StashRefused("no")])
async def test_a_changed_scene_that_stash_does_not_tell_about_is_a_sentence(one: Court, error: Exception) -> None:
    scene = one.stash.scene()
    (ours,) = await one.tag_scene(scene, span(scene, one.dunk, 1_000, 3_000))
    one.stash.unmark(ours.id)
    one.gateway.before["markers"] = [failing(error)]
    done = await one.collect()
    assert done.problems == [f"scene {scene.id}: {error}"]
    assert (await one.collect()).corrections == 1, "it is noticed by the next run"


async def test_a_login_that_runs_out_while_looking_ends_it(one: Court) -> None:
    scene = one.stash.scene()
    (ours,) = await one.tag_scene(scene, span(scene, one.dunk, 1_000, 3_000))
    one.stash.unmark(ours.id)
    one.gateway.before["markers"] = [failing(StashUnauthorized("The login has run out."))]
    with pytest.raises(StashUnauthorized):
        await one.collect()


def deleting(one: Court, scene: Medium) -> Callable[[], None]:
    return lambda: one.stash.delete_scene(scene.id)


async def test_a_scene_deleted_while_it_is_looked_at_is_no_problem(one: Court) -> None:
    scene, other = one.stash.scene(), one.stash.scene()
    (ours,) = await one.tag_scene(scene, span(scene, one.dunk, 1_000, 3_000))
    one.stash.unmark(ours.id)
    kept = one.flagged_marker(other)
    one.gateway.before["markers_by_id"] = [lambda: None, deleting(one, scene)]
    done = await one.collect()
    assert done.problems == [] and done.settled.cleared == 1
    assert one.stash.stands[kept.id].tag_ids == ()


async def test_a_scene_deleted_after_it_was_collected_has_no_flag_to_take_off(one: Court) -> None:
    scene = one.stash.scene()
    one.flagged_marker(scene)
    one.gateway.before["medium"] = [lambda: None, deleting(one, scene)]
    done = await one.collect()
    assert (done.corrections, done.settled.cleared, done.settled.problems) == (1, 0, [])


async def test_a_flag_that_stash_does_not_take_off_is_said_and_taken_off_next_time(one: Court) -> None:
    image, scene = one.image(one.flag), one.stash.scene()
    marker = one.flagged_marker(scene)
    one.gateway.before["remove_tags"] = [failing(StashUnavailable("database is locked"))]
    one.gateway.before["untag_markers"] = [failing(StashUnavailable("database is locked"))]
    done = await one.collect()
    assert done.corrections == 2 and done.settled.cleared == 0
    assert sorted(done.settled.problems) == [
        f"image {image.id}: database is locked",
        f"scene {scene.id}: database is locked",
    ]
    assert one.is_flagged(Kind.IMAGE, image.id) and one.stash.stands[marker.id].tag_ids == (one.flag,)
    done = await one.collect()
    assert (done.corrections, done.settled.cleared) == (0, 2), "collected once, and clean in the end"


@pytest.mark.parametrize("error", [StashUnauthorized("The login has run out."), LedgerError("The disk is full.")])
async def test_taking_flags_off_ends_where_everything_would(one: Court, error: Exception) -> None:
    one.flagged_marker(one.stash.scene())
    one.gateway.before["untag_markers"] = [failing(error)]
    with pytest.raises(type(error)):
        await one.collect()
