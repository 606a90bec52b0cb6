# ruff: noqa: ASYNC240 - nothing else runs on the loop while these tests look at files
"""Runs over images and galleries in one process: what happens when something goes wrong in the middle of them.

Pictures, their reader, the ledger and what writes are the real ones; Stash and the endpoints stand in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.applying import Applier
from haven_vlm.errors import (
    HavenError,
    LedgerError,
    LocalOutageError,
    MediaUnreachable,
    OutageError,
    StashError,
    StashUnauthorized,
    StashUnavailable,
)
from haven_vlm.facts import Answer, Kind, MediaFile, Medium, Outcome, Question, Term
from haven_vlm.image_task import ImageTask
from haven_vlm.journal import Journal
from haven_vlm.location import Location
from haven_vlm.marks import Marks, ensure_marks, find_marks
from haven_vlm.picture import Preparation
from haven_vlm.ports import Analysis, VideoJob
from haven_vlm.progress import Pace, Progress
from haven_vlm.reports import Status, WorkResult
from haven_vlm.settings import Settings
from tests.fakes import FakeStash
from tests.images import test_batch_writing
from tests.images.oddities import encoded
from tests.images.test_image_engine import Answering, Pool, tagged
from tests.images.test_tag_images import court
from tests.ledger.harness import failing

SETTINGS = Settings.model_validate(
    {
        "endpoints": [{"base_url": "http://localhost:1/v1"}],
        "tag_list": ["Foul", "Dunk"],
        "skip_similar_frames": False,
        "concurrent_task_limit": 2,
    }
)


@dataclass
class Gateway(test_batch_writing.Gateway):
    """Stash with galleries."""

    galleries: dict[str, list[str]] = field(default_factory=dict)

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        self._call("gallery_image_ids")
        return list(self.galleries[gallery_id])

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        return f"http://127.0.0.1/image/{image_id}/thumbnail", {}


@dataclass
class Clips:
    """Looks at the videos among the images."""

    outcome: Analysis | Exception

    async def analyse(self, job: VideoJob) -> Analysis:
        assert job.kind is Kind.IMAGE
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass
class Library:
    """A folder of pictures, Stash's view of it, and what the page of the plugin sees of a run."""

    folder: Path
    stash: FakeStash = field(default_factory=FakeStash)
    show: Callable[[Pace], None] = lambda _: None
    troubles: Mapping[str, int] = field(default_factory=dict)
    """Why media were not tagged, as the page counts them."""
    closed: int = 0
    """Media the progress bar counts as finished."""
    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.stash)
        self.tag_me = self.stash.tag("VLM_TagMe")
        self.pool = Pool(tagged("Dunk"), slots=4)
        self.clips = Clips(AssertionError("no clip is expected"))

    def image(self, *tag_ids: str, suffix: str = ".jpg", content: bytes | None = None, **file: Any) -> Medium:
        """A picture with the trigger tag on it."""
        medium = self.stash.image(self.tag_me, *tag_ids)
        path = self.folder / f"{medium.id}{suffix}"
        data = encoded(court("Dunk", shot=int(medium.id)), "JPEG") if content is None else content
        path.write_bytes(data)
        size: dict[str, Any] = {"width_px": 320, "height_px": 180, "is_video": False, **file}
        medium = replace(medium, files=(MediaFile(str(path), len(data), {"md5": medium.id.zfill(32)}, **size),))
        self.stash.media[Kind.IMAGE, medium.id] = medium
        return medium

    def gallery(self, *images: Medium, tagged: bool = True) -> str:
        """A gallery with the trigger tag on it, of images that have it not."""
        gallery_id = str(len(self.gateway.galleries) + 1)
        tags = frozenset({self.tag_me}) if tagged else frozenset()
        self.stash.media[Kind.GALLERY, gallery_id] = Medium(Kind.GALLERY, gallery_id, "Match", (), tags)
        for image in images:
            self.stash.take_off((Kind.IMAGE, image.id), self.tag_me)
        self.gateway.galleries[gallery_id] = [i.id for i in images]
        return gallery_id

    def names(self, kind: Kind, medium_id: str) -> set[str]:
        """What stands on a medium."""
        return {self.stash.tags[i].name for i in self.stash.on((kind, medium_id))}

    @asynccontextmanager
    async def prepared(self, *, write: bool = True) -> AsyncIterator[tuple[ImageTask, Marks]]:
        progress = Progress(self.show)
        async with Journal(self.folder / "ledger.sqlite") as journal:
            applier = Applier(self.gateway, journal)
            run_id = await journal.start_run("tag_images")
            found = ensure_marks(self.gateway, applier, run_id, SETTINGS) if write else None
            marks = await (found or find_marks(self.gateway, SETTINGS))
            yield (
                ImageTask(
                    settings=self.settings,
                    gateway=self.gateway,
                    journal=journal,
                    pool=self.pool,
                    applier=applier,
                    marks=marks,
                    progress=progress,
                    preparation=Preparation(max_side_px=64),
                    open_video=never_opened,
                    clips=self.clips,
                    fetch=nothing_served,
                    terms=(Term("Foul"), Term("Dunk")),
                    run_id=run_id,
                    write=write,
                    recall=False,
                    only_marked=True,
                ),
                marks,
            )
            self.troubles, self.closed = dict(progress.causes(9)), progress.media_count[1]

    async def run(self, kind: Kind, *ids: str, **how: Any) -> WorkResult:
        async with self.prepared(**how) as (task, marks):
            return await task.run(kind, ids, mark=marks.trigger)


def never_opened(locations: Sequence[Location], preparation: Preparation) -> Any:
    raise AssertionError("no video is expected")


async def nothing_served(url: str, headers: Mapping[str, str], *, limit_bytes: int) -> bytes:
    raise MediaUnreachable("Stash does not answer")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def told(result: WorkResult) -> dict[str, tuple[Status, str]]:
    return {m.id: (m.status, m.reason) for m in result.media}


def only_for(medium: Medium, error: Exception) -> Answering:
    """An endpoint that fails at the picture of one image."""

    def answer(question: Question) -> Answer:
        if question.label.startswith(medium.label):
            raise error
        return tagged("Dunk")(question)

    return answer


DONE = {"VLM_Tagged", "Dunk"}

# --- images -------------------------------------------------------------------------------------------------------


async def test_what_changed_in_stash_since_the_selection_is_left_out(library: Library) -> None:
    good, gone, untagged = library.image(), library.image(), library.image()
    del library.stash.media[Kind.IMAGE, gone.id]
    library.stash.take_off((Kind.IMAGE, untagged.id), library.tag_me)
    result = await library.run(Kind.IMAGE, good.id, gone.id, untagged.id)
    assert told(result) == {
        good.id: (Status.TAGGED, ""),
        gone.id: (Status.SKIPPED, "it is no longer in Stash"),
        untagged.id: (Status.SKIPPED, "it is no longer tagged VLM_TagMe"),
    }
    assert library.names(Kind.IMAGE, good.id) == DONE
    assert library.names(Kind.IMAGE, untagged.id) == set()
    assert library.pool.expected[-1] == 0, "no endpoint is held ready for what does not come"
    assert library.closed == 3
    assert library.troubles == {"it is no longer in Stash": 1, "it is no longer tagged VLM_TagMe": 1}


async def test_an_image_deleted_while_it_is_asked_about_is_no_fault(library: Library) -> None:
    here, gone = library.image(), library.image()

    def answer(question: Question) -> Answer:
        library.stash.media.pop((Kind.IMAGE, gone.id), None)
        return tagged("Dunk")(question)

    library.pool.answer = answer
    result = await library.run(Kind.IMAGE, here.id, gone.id)
    assert told(result)[gone.id] == (Status.SKIPPED, "it was deleted from Stash in the meantime")
    assert library.names(Kind.IMAGE, here.id) == DONE


async def test_a_page_that_stash_does_not_describe_fails_and_the_next_goes_on(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haven_vlm.images.PAGE", 2)
    images = [library.image() for _ in range(3)]
    library.gateway.before["media"] = [failing(StashUnavailable("Stash does not answer."))]
    result = await library.run(Kind.IMAGE, *(i.id for i in images))
    first, second, third = (told(result)[i.id] for i in images)
    assert first == second == (Status.FAILED, "Stash does not answer.")
    assert third == (Status.TAGGED, "")
    assert [library.names(Kind.IMAGE, i.id) for i in images] == [{"VLM_TagMe"}, {"VLM_TagMe"}, DONE]


async def test_what_stash_does_not_take_fails_alone_and_keeps_its_trigger(library: Library) -> None:
    images = [library.image(), library.image(suffix=".png")]
    library.pool.answer = only_for(images[0], OSError("no such thing should ever come here"))
    result = await library.run(Kind.IMAGE, *(i.id for i in images))
    status, reason = told(result)[images[0].id]
    assert status is Status.FAILED
    assert reason.startswith("unexpected error (OSError: no such thing") and "please report it" in reason
    assert library.names(Kind.IMAGE, images[0].id) == {"VLM_TagMe"}
    assert library.names(Kind.IMAGE, images[1].id) == DONE


async def test_writing_that_stash_refuses_is_said_with_its_reason(library: Library) -> None:
    image = library.image()
    locked = failing(StashUnavailable("database is locked"))
    library.gateway.before["add_tags"] = [locked]
    result = await library.run(Kind.IMAGE, image.id)
    assert told(result) == {image.id: (Status.FAILED, "database is locked")}
    assert result.media[0].tags == (), "what was not written is not claimed"
    assert "VLM_TagMe" in library.names(Kind.IMAGE, image.id)
    assert told(await library.run(Kind.IMAGE, image.id)) == {image.id: (Status.TAGGED, "")}
    assert len(library.pool.questions) == 1, "nothing is asked twice"
    assert library.names(Kind.IMAGE, image.id) == DONE


async def test_a_tag_that_stash_does_not_accept_fails_the_images_that_need_it(library: Library) -> None:
    dunk, foul = library.image(), library.image()
    library.stash.tag("Dunk")
    library.pool.answer = lambda q: tagged("Foul" if q.label.startswith(foul.label) else "Dunk")(q)

    def refuse() -> None:
        raise StashError("Stash does not like this name.")

    async with library.prepared() as (task, marks):
        library.gateway.before["create_tag"] = [refuse]
        result = await task.run(Kind.IMAGE, [dunk.id, foul.id], mark=marks.trigger)
    assert told(result) == {dunk.id: (Status.TAGGED, ""), foul.id: (Status.FAILED, "Stash does not like this name.")}
    assert library.names(Kind.IMAGE, foul.id) == {"VLM_TagMe"}


@pytest.mark.parametrize("fate", ["deleted", "merged"])
async def test_a_tag_that_goes_in_mid_run_is_found_or_made_again_for_what_follows(
    library: Library, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Once, all that followed was said to be tagged, and was not."""
    monkeypatch.setattr("haven_vlm.images.BATCH", 1)
    images = [library.image() for _ in range(4)]
    gallery = library.gallery(library.image())
    called = {"deleted": "Dunk", "merged": "Slam dunk"}[fate]

    def tidy_up() -> None:
        (dunk,) = [tag.id for tag in library.stash.tags.values() if tag.name == "Dunk"]
        if fate == "deleted":
            library.stash.delete_tag(dunk)
        else:
            library.stash.merge_tags(dunk, library.stash.tag("Slam dunk"))

    library.gateway.after["remove_tags"] = [tidy_up]
    async with library.prepared() as (task, marks):
        result = await task.run(Kind.IMAGE, [i.id for i in images], mark=marks.trigger)
        assert {status for status, _ in told(result).values()} == {Status.TAGGED}
        lacking = [i for i in images if called not in library.names(Kind.IMAGE, i.id)]
        assert len(lacking) == (1 if fate == "deleted" else 0), "off the first one the user took it"
        library.gateway.after["remove_tags"] = []
        library.gateway.before["gallery_image_ids"] = [tidy_up] if fate == "deleted" else []
        result = await task.run(Kind.GALLERY, [gallery], mark=marks.trigger)
    assert library.names(Kind.GALLERY, gallery) == {"VLM_Tagged", called}


async def test_a_stash_that_cannot_say_whether_tags_are_still_there(library: Library) -> None:
    image = library.image()
    library.gateway.before["tags_by_id"] = [failing(StashUnavailable("Stash does not answer."))]
    result = await library.run(Kind.IMAGE, image.id)
    assert told(result) == {image.id: (Status.FAILED, "Stash does not answer.")}
    assert library.names(Kind.IMAGE, image.id) == {"VLM_TagMe"}
    assert told(await library.run(Kind.IMAGE, image.id)) == {image.id: (Status.TAGGED, "")}


async def test_an_image_that_another_run_writes_to_is_left_to_it(library: Library) -> None:
    image = library.image()
    async with Journal(library.folder / "ledger.sqlite") as other, other.claims.claim(Kind.IMAGE, image.id) as claimed:
        assert claimed
        result = await library.run(Kind.IMAGE, image.id)
    ((status, reason),) = told(result).values()
    assert status is Status.SKIPPED and reason == f"Another run is writing to image {image.id}."
    assert library.names(Kind.IMAGE, image.id) == {"VLM_TagMe"}


async def test_what_must_stay_local_fails_while_the_rest_goes_on(library: Library) -> None:
    local, free = library.image(), library.image()
    library.pool.answer = only_for(local, LocalOutageError("No local endpoint can take questions."))
    result = await library.run(Kind.IMAGE, local.id, free.id)
    assert told(result)[local.id] == (Status.FAILED, "No local endpoint can take questions.")
    assert library.names(Kind.IMAGE, free.id) == DONE
    assert result.ended_because == ""


async def test_an_outage_ends_the_run_and_what_was_found_by_then_is_written(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [library.image() for _ in range(3)]
    others_done, asked = asyncio.Event(), library.pool.ask
    library.show = lambda pace: others_done.set() if pace.done == 2 else None

    async def ask(question: Question) -> Answer:
        if question.label.startswith(images[2].label):
            await others_done.wait()
            raise OutageError("No endpoint answers any more.")
        return await asked(question)

    monkeypatch.setattr(library.pool, "ask", ask)
    result = await library.run(Kind.IMAGE, *(i.id for i in images))
    assert result.ended_because == "No endpoint answers any more."
    assert [library.names(Kind.IMAGE, i.id) for i in images] == [DONE, DONE, {"VLM_TagMe"}]


@pytest.mark.parametrize(
    "error", [StashUnauthorized("The login has run out."), LedgerError("The disk is full.")], ids=["login", "ledger"]
)
@pytest.mark.parametrize("kind", [Kind.IMAGE, Kind.GALLERY])
async def test_what_makes_all_further_work_useless_ends_the_run(
    library: Library, error: HavenError, kind: Kind
) -> None:
    images = [library.image() for _ in range(3)]
    ids = [i.id for i in images] if kind is Kind.IMAGE else [library.gallery(*images)]
    library.pool.answer = only_for(images[1], error)
    with pytest.raises(type(error), match=str(error)):
        await library.run(kind, *ids)
    assert all("VLM_TagMe" in library.names(kind, i) for i in ids)


@pytest.mark.parametrize("method", ["media", "add_tags"])
async def test_a_login_that_runs_out_is_no_fault_of_the_images(library: Library, method: str) -> None:
    images = [library.image() for _ in range(3)]
    library.gateway.before[method] = [failing(StashUnauthorized("The login has run out."))]
    with pytest.raises(StashUnauthorized, match="login"):
        await library.run(Kind.IMAGE, *(i.id for i in images))
    assert all("VLM_TagMe" in library.names(Kind.IMAGE, i.id) for i in images)


async def test_what_is_found_does_not_wait_for_ever_for_company(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow model: what is known of the first images stands in Stash long before the batch is full."""
    monkeypatch.setattr("haven_vlm.images.BATCH_AGE_S", 0.0)
    first, second = library.image(), library.image()
    written, asked = asyncio.Event(), library.pool.ask

    async def ask(question: Question) -> Answer:
        if question.label.startswith(second.label):
            await written.wait()
            assert library.names(Kind.IMAGE, first.id) == DONE
        return await asked(question)

    library.gateway.after["remove_tags"] = [written.set]
    monkeypatch.setattr(library.pool, "ask", ask)
    result = await library.run(Kind.IMAGE, first.id, second.id)
    assert [m.status for m in result.media] == [Status.TAGGED] * 2


async def test_a_preview_of_an_unreadable_picture_marks_nothing(library: Library) -> None:
    broken = library.image(content=b"")
    before = library.stash.snapshot()
    result = await library.run(Kind.IMAGE, broken.id, write=False)
    assert told(result)[broken.id][0] is Status.ERRORED
    assert library.stash.snapshot() == before


async def test_an_image_without_a_file_is_marked_and_says_so(library: Library) -> None:
    bare = library.stash.image(library.tag_me)
    result = await library.run(Kind.IMAGE, bare.id)
    assert told(result) == {bare.id: (Status.ERRORED, "it has no file")}
    assert library.names(Kind.IMAGE, bare.id) == {"VLM_TagMe", "VLM_Errored"}


async def test_an_animation_that_only_a_video_decoder_knows_goes_there(library: Library) -> None:
    odd = library.image(suffix=".gif", content=b"no picture that is known", is_video=True, duration_s=2.0)
    library.clips.outcome = MediaUnreachable("The drive does not answer.")
    assert told(await library.run(Kind.IMAGE, odd.id)) == {odd.id: (Status.FAILED, "The drive does not answer.")}
    assert library.names(Kind.IMAGE, odd.id) == {"VLM_TagMe"}


# --- galleries ----------------------------------------------------------------------------------------------------


async def test_galleries_that_changed_since_the_selection_are_left_out(library: Library) -> None:
    good, untagged = library.gallery(library.image()), library.gallery(library.image(), tagged=False)
    result = await library.run(Kind.GALLERY, good, untagged, "999")
    assert told(result) == {
        good: (Status.TAGGED, ""),
        untagged: (Status.SKIPPED, "it is no longer tagged VLM_TagMe"),
        "999": (Status.SKIPPED, "it is no longer in Stash"),
    }
    assert library.names(Kind.GALLERY, good) == DONE
    assert library.names(Kind.GALLERY, untagged) == set()


async def test_a_gallery_fails_alone(library: Library) -> None:
    bad, good = library.image(), library.image()
    broken, fine = library.gallery(bad), library.gallery(good)
    library.pool.answer = only_for(bad, OSError("no such thing should ever come here"))
    result = await library.run(Kind.GALLERY, broken, fine)
    status, reason = told(result)[broken]
    assert status is Status.FAILED and "unexpected error (OSError" in reason
    assert library.names(Kind.GALLERY, broken) == {"VLM_TagMe"}
    assert library.names(Kind.GALLERY, fine) == DONE


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StashUnavailable("Stash does not answer."), Status.FAILED),
        (LocalOutageError("No local endpoint can take questions."), Status.FAILED),
    ],
)
async def test_what_keeps_one_gallery_from_being_done_is_said(
    library: Library, error: HavenError, status: Status
) -> None:
    image, other = library.image(), library.image()
    held, fine = library.gallery(image), library.gallery(other)
    library.pool.answer = only_for(image, error)
    result = await library.run(Kind.GALLERY, held, fine)
    assert told(result) == {held: (status, str(error)), fine: (Status.TAGGED, "")}
    assert library.names(Kind.GALLERY, held) == {"VLM_TagMe"}


async def test_an_outage_ends_the_galleries_and_keeps_those_that_are_done(library: Library) -> None:
    library.settings = SETTINGS.model_copy(update={"concurrent_task_limit": 1})
    galleries = []
    for _ in range(3):
        galleries.append((image := library.image(), library.gallery(image)))
    library.pool.answer = only_for(galleries[1][0], OutageError("No endpoint answers any more."))
    result = await library.run(Kind.GALLERY, *(g for _, g in galleries))
    assert result.ended_because == "No endpoint answers any more."
    assert [library.names(Kind.GALLERY, g) for _, g in galleries] == [DONE, {"VLM_TagMe"}, {"VLM_TagMe"}]


async def test_a_gallery_that_another_run_writes_to_is_left_to_it(library: Library) -> None:
    gallery = library.gallery(library.image())
    async with Journal(library.folder / "ledger.sqlite") as other, other.claims.claim(Kind.GALLERY, gallery) as claimed:
        assert claimed
        result = await library.run(Kind.GALLERY, gallery)
    assert told(result) == {gallery: (Status.SKIPPED, f"Another run is writing to gallery {gallery}.")}


async def test_too_few_readable_images_make_no_result(library: Library) -> None:
    """Images that are out of reach may show anything: the shares of the others would be a guess."""
    images = [library.image() for _ in range(4)]
    for image in images[1:]:
        Path(image.files[0].path).unlink()
    gallery = library.gallery(*images)
    result = await library.run(Kind.GALLERY, gallery)
    ((status, reason),) = told(result).values()
    assert status is Status.INCOMPLETE
    assert reason.startswith("only 1 of 4 images could be analysed, ") and reason.endswith("; nothing was written")
    assert library.names(Kind.GALLERY, gallery) == {"VLM_TagMe"}


async def test_answers_below_the_least_count_as_no_analysis_in_a_gallery(library: Library) -> None:
    images = [library.image() for _ in range(2)]
    refused = Answer(Outcome.REFUSED, detail="the model declined to look")
    library.pool.answer = lambda q: refused if q.label.startswith(images[0].label) else tagged("Dunk")(q)
    gallery = library.gallery(*images)
    ((status, reason),) = told(await library.run(Kind.GALLERY, gallery)).values()
    assert status is Status.INCOMPLETE
    assert "only 1 of 2 images" in reason and "1× the model declined to look" in reason


async def test_an_image_taken_out_of_stash_does_not_count(library: Library) -> None:
    stays, goes = library.image(), library.image()
    gallery = library.gallery(stays, goes)
    del library.stash.media[Kind.IMAGE, goes.id]
    result = await library.run(Kind.GALLERY, gallery)
    assert result.media[0].samples == 1
    assert library.names(Kind.GALLERY, gallery) == DONE
    assert library.pool.expected[-1] == 0


async def test_a_gallery_deleted_while_it_is_looked_at_is_no_fault(library: Library) -> None:
    gallery = library.gallery(library.image())

    def answer(question: Question) -> Answer:
        del library.stash.media[Kind.GALLERY, gallery]
        return tagged("Dunk")(question)

    library.pool.answer = answer
    result = await library.run(Kind.GALLERY, gallery)
    assert told(result) == {gallery: (Status.SKIPPED, "it was deleted from Stash in the meantime")}


async def test_a_gallery_marked_before_is_not_marked_again(library: Library) -> None:
    gallery = library.gallery()
    await library.run(Kind.GALLERY, gallery)
    assert library.names(Kind.GALLERY, gallery) == {"VLM_TagMe", "VLM_Errored"}
    writes = library.gateway.calls.count("add_tags")
    assert told(await library.run(Kind.GALLERY, gallery)) == {gallery: (Status.ERRORED, "it has no image")}
    assert library.gateway.calls.count("add_tags") == writes
