"""What Stash holds after a write: all of it once, whatever happened to requests and replies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.stash import EmbeddedStash, RequestRecord, running_stash
from haven_media_handler import StashLibrary
from haven_vlm.errors import PartialWrite, StashError, StashGone, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_faults import Reply
from haven_vlm.stash_tags import create_tag, destroy_tags
from haven_vlm.stash_writes import MARKERS_PER_DOCUMENT, create_markers, markers_by_id, media
from tests.gateway.support import Clock, client, connection, library, stash_like, tiny_server


@pytest.fixture
async def stash() -> AsyncIterator[EmbeddedStash]:
    async with EmbeddedStash() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def lib(stash: EmbeddedStash, clock: Clock) -> AsyncIterator[StashLibrary]:
    async with library(stash, clock) as connected:
        yield connected


# --- tags -----------------------------------------------------------------------------------------------------


async def test_create_a_tag(stash: EmbeddedStash, lib: StashLibrary) -> None:
    parent = await lib.create_tag("VLM")
    made = await lib.create_tag(" Court ", parent_id=parent.id, description="Where it happens")
    assert (made.name, made.parent_ids, made.description) == ("Court", (parent.id,), "Where it happens")
    assert await lib.find_tag("court") == made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("court", "“Court” exists already"),
        ("hardwood", "“Court” has “hardwood” as an alias"),
        ("VLM_TagMe", "there is “VLM TagMe” already. Rename"),
        ("b_b", "there is “bbb” already"),
        ("  ", "not blank"),
    ],
)
async def test_a_clash_is_explained(stash: EmbeddedStash, lib: StashLibrary, name: str, words: str) -> None:
    stash.add_tag("Court", aliases=["Hardwood"])
    stash.add_tag("VLM TagMe")
    stash.add_tag("Ball", aliases=["bbb"])
    before = stash.snapshot(times=True)
    with pytest.raises(StashRefused, match=words):
        await lib.create_tag(name)
    assert stash.snapshot(times=True) == before


async def test_a_parent_that_is_gone(lib: StashLibrary, stash: EmbeddedStash) -> None:
    with pytest.raises(StashGone, match="parent tag 77") as caught:
        await lib.create_tag("Court", parent_id="77")
    assert caught.value.ids == ("77",)
    assert stash.tag_names() == []


@pytest.mark.parametrize("fault", ["locked", "drop", "drop_after", "status", "status_after", "truncated", "junk"])
async def test_a_tag_is_created_once_whatever_happens(
    stash: EmbeddedStash, lib: StashLibrary, clock: Clock, fault: str
) -> None:
    stash.faults.add("tagCreate", fault, times=2)
    made = await lib.create_tag("Court", description="d")
    assert stash.tag_names() == ["Court"]
    assert (made.id, made.description) == (str(stash.tag_id("Court")), "d")
    assert len(clock.slept) in (1, 2)


async def test_a_tag_that_cannot_be_created_for_long(stash: EmbeddedStash, lib: StashLibrary, clock: Clock) -> None:
    stash.faults.add("tagCreate", "locked", times=None)
    with pytest.raises(StashUnavailable, match="busy"):
        await lib.create_tag("Court")
    assert 240 < sum(clock.slept) <= 300


async def test_destroy_tags(stash: EmbeddedStash, lib: StashLibrary) -> None:
    names = [f"Play {number}" for number in range(30)]
    ids = [str(stash.add_tag(name)) for name in names]
    await lib.destroy_tags(["999", *ids[:28], "x"])
    assert stash.tag_names() == names[28:]
    await lib.destroy_tags(ids[:3])
    await lib.destroy_tags([])


async def test_a_primary_tag_is_not_destroyed(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scene = stash.add_scene("/media/game.mp4")
    tag = str(stash.add_tag("Court"))
    stash.add_marker(scene, 1, "Court")
    with pytest.raises(StashRefused, match="primary tag"):
        await lib.destroy_tags([tag])
    assert stash.tag_names() == ["Court"]


async def test_a_tag_that_goes_while_it_is_destroyed(stash: EmbeddedStash, lib: StashLibrary) -> None:
    ids = [str(stash.add_tag(name)) for name in ("Court", "Foul")]
    gone = iter([lambda: stash.delete("tags", int(ids[0]))])
    stash.on_request(lambda _record: next(gone, lambda: None)(), match="tagsDestroy")
    await lib.destroy_tags(ids)
    assert stash.tag_names() == []


def stash_that_says(**errors: str) -> Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]:
    """A Stash that answers a question about tags with none or all, and a mutation with an error."""

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        document = body["query"]
        for field, error in errors.items():
            if field in document:
                return 200, {}, json.dumps({"data": None, "errors": [{"message": error, "path": [field]}]}).encode()
        if "findTags" in document or "findTag" in document:
            names = re.findall(r"\b(t\d+):", document)
            tag = {"id": "7", "name": "Court", "aliases": [], "description": "", "parents": []}
            found: dict[str, Any] = {name: {"tags": []} if "findTags" in document else tag for name in names}
            return 200, {}, json.dumps({"data": found}).encode()
        return stash_like(body)

    return answer


def test_a_refusal_that_names_nothing_ends_the_question() -> None:
    """An unknown id is dropped and the rest asked for again; but only an id that Stash names."""
    with (
        tiny_server(stash_that_says(findScenes="sql: no rows in result set", findSceneMarkers="not found")) as tiny,
        client(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")) as talk,
    ):
        with pytest.raises(StashGone, match="no rows"):
            media(talk, Kind.SCENE, ["1", "2"], zip_objects=True)
        with pytest.raises(StashGone, match="not found"):
            markers_by_id(talk, ["1", "2"])


def test_a_tag_that_is_held_by_something_is_no_tag_that_is_gone() -> None:
    error = "tag with id 8 not found"
    with (
        tiny_server(stash_that_says(tagsDestroy=error)) as tiny,
        client(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")) as talk,
        pytest.raises(StashRefused, match=error),
    ):
        destroy_tags(talk, ["7"])


def test_what_stash_misses_for_a_new_tag_is_said_as_it_says_it() -> None:
    """The parent is there; then it is something else."""
    with (
        tiny_server(stash_that_says(tagCreate="studio with id 3 not found")) as tiny,
        client(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")) as talk,
        pytest.raises(StashGone, match="studio with id 3"),
    ):
        create_tag(talk, talk.patience, "Court", parent_id="7")


# --- tags of media --------------------------------------------------------------------------------------------


def make(stash: EmbeddedStash, kind: Kind, name: str) -> str:
    if kind is Kind.SCENE:
        return str(stash.add_scene(f"/media/{name}.mp4", tags=["mine"]))
    if kind is Kind.IMAGE:
        return str(stash.add_image(f"/media/{name}.jpg", tags=["mine"]))
    return str(stash.add_gallery(title=name, tags=["mine"]))


def tags_of(stash: EmbeddedStash, kind: Kind, medium_id: str) -> list[str]:
    read = {Kind.SCENE: stash.scene_tags, Kind.IMAGE: stash.image_tags, Kind.GALLERY: stash.gallery_tags}
    return read[kind](int(medium_id))


@pytest.mark.parametrize("kind", list(Kind))
async def test_add_and_remove_leave_the_others(stash: EmbeddedStash, lib: StashLibrary, kind: Kind) -> None:
    court, foul = (str(stash.add_tag(name)) for name in ("Court", "Foul"))
    media = [make(stash, kind, f"m{number}") for number in range(2)]
    await lib.add_tags(kind, [media[0], media[0]], [court, foul, court])
    await lib.add_tags(kind, media, [foul])
    assert [tags_of(stash, kind, medium) for medium in media] == [["Court", "Foul", "mine"], ["Foul", "mine"]]
    await lib.remove_tags(kind, media, [foul])
    await lib.remove_tags(kind, media, [foul])
    assert [tags_of(stash, kind, medium) for medium in media] == [["Court", "mine"], ["mine"]]


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("mode", ["add", "remove"])
async def test_one_unknown_medium_does_not_spoil_the_batch(
    stash: EmbeddedStash, lib: StashLibrary, kind: Kind, mode: str
) -> None:
    """Stash rolls a whole bulk update back for one unknown id."""
    tag = str(stash.add_tag("Court"))
    media = [make(stash, kind, f"m{number}") for number in range(40)]
    if mode == "remove":
        await lib.add_tags(kind, media, [tag])
    change = lib.add_tags if mode == "add" else lib.remove_tags
    with pytest.raises(StashGone, match="the others are done") as caught:
        await change(kind, [*media[:30], "998", *media[30:], "999"], [tag])
    assert caught.value.ids == ("998", "999")
    wanted = ["Court", "mine"] if mode == "add" else ["mine"]
    assert all(tags_of(stash, kind, medium) == wanted for medium in media)


async def test_an_unknown_tag_is_named_and_nothing_is_tried_one_by_one(stash: EmbeddedStash, lib: StashLibrary) -> None:
    scenes = [make(stash, Kind.SCENE, f"s{number}") for number in range(10)]
    with pytest.raises(StashGone, match="these tags") as caught:
        await lib.add_tags(Kind.SCENE, scenes, [str(stash.tag_id("mine")), "77"])
    assert caught.value.ids == ("77",)
    assert stash.count("bulkSceneUpdate") == 1


async def test_no_request_for_nothing_and_none_for_nonsense(stash: EmbeddedStash, lib: StashLibrary) -> None:
    before = len(stash.requests)
    await lib.add_tags(Kind.SCENE, [], ["1"])
    await lib.add_tags(Kind.SCENE, ["1"], [])
    with pytest.raises(StashGone):
        await lib.add_tags(Kind.SCENE, ["1"], ["Court"])
    assert len(stash.requests) == before


async def test_many_media_go_in_pieces(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Hooks of other plugins run for each medium inside the request."""
    tag = str(stash.add_tag("Court"))
    with stash.seeding():
        scenes = [make(stash, Kind.SCENE, f"s{number}") for number in range(60)]
    await lib.add_tags(Kind.SCENE, scenes, [tag])
    assert [len(r.variables["input"]["ids"]) for r in stash.log.named("bulkSceneUpdate")] == [25, 25, 10]


@pytest.mark.parametrize("fault", ["locked", "drop", "drop_after", "status", "status_after", "truncated", "junk"])
async def test_tags_are_added_in_the_end(stash: EmbeddedStash, lib: StashLibrary, fault: str) -> None:
    scene, tag = make(stash, Kind.SCENE, "s"), str(stash.add_tag("Court"))
    stash.faults.add("bulkSceneUpdate", fault, times=3)
    await lib.add_tags(Kind.SCENE, [scene], [tag])
    assert tags_of(stash, Kind.SCENE, scene) == ["Court", "mine"]


# --- markers --------------------------------------------------------------------------------------------------


def drafts_for(stash: EmbeddedStash, count: int, *, scene: str | None = None) -> list[MarkerDraft]:
    scene = scene or str(stash.add_scene("/media/game.mp4"))
    court = str(stash.tag_id("Court") or stash.add_tag("Court"))
    foul = str(stash.tag_id("Foul") or stash.add_tag("Foul"))
    return [
        MarkerDraft(
            scene, f"Play {n}", n * 1003, n * 1003 + 501 if n % 3 else None, court, (foul, court) if n % 2 else ()
        )
        for n in range(count)
    ]


def same(marker: Marker, draft: MarkerDraft) -> bool:
    return (
        marker.scene_id == draft.scene_id
        and marker.title == draft.title.strip()
        and (marker.start_ms, marker.end_ms) == (draft.start_ms, draft.end_ms)
        and marker.primary_tag_id == draft.primary_tag_id
        and set(marker.tag_ids) == set(draft.tag_ids) - {draft.primary_tag_id}
    )


def standing(stash: EmbeddedStash) -> list[str]:
    """Ids of all markers."""
    return sorted((str(row["id"]) for row in stash.markers()), key=int)


async def test_markers_come_back_as_they_stand(stash: EmbeddedStash, lib: StashLibrary) -> None:
    drafts = drafts_for(stash, 60)
    drafts[7] = MarkerDraft(drafts[7].scene_id, "  spaces  ", 7021, 7021, drafts[7].primary_tag_id)
    before = len(stash.requests)
    made = await lib.create_markers(drafts)
    assert len(stash.requests) - before == 4
    assert all(same(marker, draft) for marker, draft in zip(made, drafts, strict=True))
    assert await lib.markers(drafts[0].scene_id) == made
    assert await lib.create_markers([]) == []


@given(start=st.integers(0, 10**9), length=st.none() | st.integers(0, 10**7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_millisecond_is_lost(shared: EmbeddedStash, start: int, length: int | None) -> None:
    (draft,) = drafts_for(shared, 1, scene=str(shared.add_scene("/media/any.mp4")))
    end = None if length is None else start + length
    with client(connection(shared)) as talk:
        (made,) = create_markers(
            talk, talk.patience, [MarkerDraft(draft.scene_id, "", start, end, draft.primary_tag_id)]
        )
    assert (made.start_ms, made.end_ms) == (start, end)


@pytest.mark.parametrize("fault", ["locked", "drop", "drop_after", "status", "status_after", "truncated", "junk"])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_each_marker_once_whatever_happens(
    stash: EmbeddedStash, lib: StashLibrary, clock: Clock, fault: str, at: int
) -> None:
    drafts = drafts_for(stash, 60)
    stash.faults.add("sceneMarkerCreate", fault, times=2, after=at)
    made = await lib.create_markers(drafts)
    assert all(same(marker, draft) for marker, draft in zip(made, drafts, strict=True))
    assert standing(stash) == sorted((marker.id for marker in made), key=int)
    assert clock.slept


async def test_twins_among_the_drafts_and_in_stash(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """A marker of the user's that looks like ours must not be taken for ours: it would be undone with ours."""
    draft = drafts_for(stash, 1)[0]
    theirs = str(stash.add_marker(int(draft.scene_id), 0, "Court", title="Play 0"))
    stash.faults.add("sceneMarkerCreate", "drop_after")
    made = await lib.create_markers([draft, draft, draft])
    assert len({marker.id for marker in made} - {theirs}) == 3
    assert len(standing(stash)) == 4


async def test_a_refusal_in_the_middle(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """The tag of two drafts was deleted meanwhile; Stash carries out the rest of the document."""
    drafts = drafts_for(stash, 60)
    for position in (30, 31):
        old = drafts[position]
        drafts[position] = MarkerDraft(old.scene_id, old.title, old.start_ms, None, "777")
    with pytest.raises(PartialWrite, match=r"48 of 60 markers were written.*does not exist") as caught:
        await lib.create_markers(drafts)
    created = [marker for marker in caught.value.created if isinstance(marker, Marker)]
    assert isinstance(caught.value.__cause__, StashGone)
    assert caught.value.uncertain == ()
    assert [m.title for m in created] == [drafts[n].title for n in range(50) if n not in (30, 31)]
    assert standing(stash) == [marker.id for marker in created]


async def test_a_refusal_and_a_lost_reply_together(stash: EmbeddedStash, lib: StashLibrary) -> None:
    drafts = drafts_for(stash, 10)
    drafts[5] = MarkerDraft(drafts[5].scene_id, "bad", 9000, 8000, drafts[5].primary_tag_id)
    stash.faults.add("sceneMarkerCreate", "drop_after")
    with pytest.raises(PartialWrite, match=r"9 of 10.*greater than or equal") as caught:
        await lib.create_markers(drafts)
    assert len(caught.value.created) == len(standing(stash)) == 9


async def test_nothing_written_is_no_partial_write(stash: EmbeddedStash, lib: StashLibrary) -> None:
    drafts = drafts_for(stash, 3)
    with pytest.raises(StashGone, match="scene 999"):
        await lib.create_markers([MarkerDraft("999", "x", 0, None, "1")])
    with pytest.raises(StashRefused, match="end_seconds"):
        await lib.create_markers([MarkerDraft(drafts[0].scene_id, "x", 1000, 0, drafts[0].primary_tag_id)])
    assert standing(stash) == []


async def test_the_scene_goes_between_two_documents(stash: EmbeddedStash, lib: StashLibrary) -> None:
    drafts = drafts_for(stash, 60)

    def delete(_record: RequestRecord) -> None:
        if stash.count("sceneMarkerCreate") == 2:
            stash.delete("scenes", int(drafts[0].scene_id))

    stash.on_request(delete, match="sceneMarkerCreate")
    with pytest.raises(PartialWrite, match="25 of 60"):
        await lib.create_markers(drafts)
    assert standing(stash) == []


async def test_stash_dies_for_good_between_two_documents(stash: EmbeddedStash, lib: StashLibrary, clock: Clock) -> None:
    """The reply to the second document is lost, and nobody can be asked: those drafts are in the dark."""
    drafts = drafts_for(stash, 60)
    stash.faults.add("sceneMarkerCreate", "drop_after", after=1)
    stash.faults.add(lambda r: r.is_for("findScene") and stash.count("sceneMarkerCreate") > 1, "status", times=None)
    with pytest.raises(PartialWrite, match=r"25 of 60 markers were written.*of 25 more nobody can say") as caught:
        await lib.create_markers(drafts)
    assert [m.title for m in caught.value.created if isinstance(m, Marker)] == [d.title for d in drafts[:25]]
    assert caught.value.uncertain == tuple(drafts[25:50])
    assert len(standing(stash)) == 50


async def test_nobody_is_there_any_more(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Refused connections leave no doubt: nothing more was written."""
    drafts = drafts_for(stash, 60)
    made = await lib.create_markers(drafts[:25])
    await asyncio.to_thread(stash.close)
    with pytest.raises(StashUnavailable, match="is it running"):
        await lib.create_markers(drafts[25:])
    assert len(made) == 25


async def test_the_login_runs_out_between_two_documents() -> None:
    async with EmbeddedStash(credentials=("coach", "s3cret")) as stash, library(stash) as lib:
        drafts = drafts_for(stash, 60)
        stash.faults.add("sceneMarkerCreate", "401", after=1, times=None)
        with pytest.raises(PartialWrite, match=r"25 of 60.*API key") as caught:
            await lib.create_markers(drafts)
        assert isinstance(caught.value.__cause__, StashUnauthorized)
        assert len(caught.value.created) == len(standing(stash)) == 25


async def test_stash_restarts_between_two_documents(tmp_path: Path) -> None:
    """The second document was carried out, its reply went down with the server."""
    clock = Clock()
    first = EmbeddedStash(db=tmp_path / "stash.db").start()
    drafts = drafts_for(first, 60)
    again: list[EmbeddedStash] = []

    def restart(sleeps: int) -> None:
        if sleeps == 1:
            first.close()
        if sleeps == 8:
            again.append(EmbeddedStash(db=tmp_path / "stash.db", port=first.port).start())

    clock.on_sleep = restart
    first.faults.add("sceneMarkerCreate", "drop_after", after=1)
    async with library(first, clock) as lib:
        made = await lib.create_markers(drafts)
    with contextlib.closing(again[0]) as second:
        assert all(same(marker, draft) for marker, draft in zip(made, drafts, strict=True))
        assert standing(second) == [marker.id for marker in made]
        assert second.count("sceneMarkerCreate") == 1


async def test_a_database_that_stays_locked_between_two_documents(
    stash: EmbeddedStash, lib: StashLibrary, clock: Clock
) -> None:
    """Patience ends; by then it is certain what stands."""
    drafts = drafts_for(stash, 60)
    stash.faults.add("sceneMarkerCreate", "locked", after=1, times=None)
    with pytest.raises(PartialWrite, match=r"25 of 60 markers were written.*busy") as caught:
        await lib.create_markers(drafts)
    assert caught.value.uncertain == ()
    assert standing(stash) == sorted((m.id for m in caught.value.created if isinstance(m, Marker)), key=int)
    assert 240 < sum(clock.slept) <= 300


async def test_the_scene_goes_with_a_lost_reply(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """What the lost reply had told went with the scene: nothing of it is in the dark."""
    drafts = drafts_for(stash, 30)
    scene = drafts[0].scene_id

    def delete(_record: RequestRecord) -> None:
        if stash.count("sceneMarkerCreate") == 2 and (Kind.SCENE, scene) not in gone:
            gone.add((Kind.SCENE, scene))
            stash.delete("scenes", int(scene))

    gone: set[tuple[Kind, str]] = set()
    stash.faults.add("sceneMarkerCreate", "drop_after", after=1)
    stash.on_request(delete, match="HavenSceneMarkers")
    with pytest.raises(PartialWrite, match="25 of 30") as caught:
        await lib.create_markers(drafts)
    assert caught.value.uncertain == ()
    assert standing(stash) == []


def test_stash_is_switched_off_between_two_documents(stash: EmbeddedStash, clock: Clock) -> None:
    """A refused connection leaves no doubt about the second document: nothing of it was written."""
    drafts = drafts_for(stash, 60)
    with client(connection(stash), clock) as talk:

        class SwitchedOff:
            def run(self, document: str, variables: Mapping[str, Any], *, each: bool = False) -> Reply:
                if each and stash.count("sceneMarkerCreate") == 1:
                    stash.close()
                return talk.run(document, variables, each=each)

        with pytest.raises(PartialWrite, match=r"25 of 60.*is it running") as caught:
            create_markers(SwitchedOff(), talk.patience, drafts)
    assert caught.value.uncertain == ()


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedStash]:
    with running_stash() as running:
        yield running


FAULTS = ["locked", "drop", "drop_after", "status", "status_after", "truncated", "junk"]


@given(
    count=st.integers(1, 60),
    script=st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 6), st.integers(1, 3)), max_size=5),
    reading=st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 6), st.sampled_from([1, 2, None])), max_size=2),
    bad=st.none() | st.integers(0, 59),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_said_is_what_stands(
    shared: EmbeddedStash,
    count: int,
    script: list[tuple[str, int, int]],
    reading: list[tuple[str, int, int | None]],
    bad: int | None,
) -> None:
    """Any script of faults: the markers returned or reported as created are those that stand, each draft once."""
    scene = str(shared.add_scene("/media/any.mp4"))
    theirs = shared.add_marker(int(scene), 0.0, "Court", title="Play 0")
    drafts = drafts_for(shared, count, scene=scene)
    if bad is not None and bad < count:
        drafts[bad] = MarkerDraft(scene, "bad", 0, None, "424242")
    clock = Clock()
    with client(connection(shared), clock) as talk:
        for kind, after, times in script:
            shared.faults.add("sceneMarkerCreate", kind, after=after, times=times)
        for kind, after, many in reading:
            shared.faults.add("HavenSceneMarkers", kind, after=after, times=many)
        created: tuple[object, ...] = ()
        uncertain: tuple[object, ...] = ()
        try:
            created = tuple(create_markers(talk, talk.patience, drafts))
            assert len(created) == count
        except PartialWrite as exc:
            created, uncertain = exc.created, exc.uncertain
            assert created or uncertain
        except StashError:
            pass
        finally:
            shared.faults.clear()
    ours = [marker for marker in created if isinstance(marker, Marker)]
    found = {str(row["id"]) for row in shared.markers(int(scene))} - {str(theirs)}
    assert len({marker.id for marker in ours}) == len(ours)
    assert {marker.id for marker in ours} <= found
    titles = {int(row["id"]): row["title"] for row in shared.markers(int(scene))}
    extra = sorted(titles[int(marker)] for marker in found - {marker.id for marker in ours})
    allowed = [draft.title for draft in uncertain if isinstance(draft, MarkerDraft)]
    assert len(extra) == len(set(extra)) and set(extra) <= set(allowed)
    assert len(ours) + len(extra) <= count


# --- changing -------------------------------------------------------------------------------------------------


async def test_moving_and_tagging_a_marker(stash: EmbeddedStash, lib: StashLibrary) -> None:
    (made,) = await lib.create_markers(drafts_for(stash, 2)[1:])
    star = str(stash.add_tag("Star"))
    await lib.move_marker(made.id, 12_345, 23_456)
    for _ in range(2):
        await lib.tag_marker(made.id, star)
    (row,) = stash.markers()
    assert (row["seconds"], row["end_seconds"], row["primary_tag"]) == (12.345, 23.456, "Court")
    assert row["tags"] == ["Foul", "Star"]
    await lib.tag_marker(made.id, made.primary_tag_id)
    assert stash.markers() == [row], "a tag that it is about already is not given twice"


@pytest.mark.parametrize("marker", ["999", "x"])
async def test_a_marker_that_is_not_there_cannot_be_changed(
    stash: EmbeddedStash, lib: StashLibrary, marker: str
) -> None:
    tag = str(stash.add_tag("Star"))
    with pytest.raises(StashGone):
        await lib.move_marker(marker, 0, 1000)
    with pytest.raises(StashGone, match=f"no such marker in Stash: {marker}"):
        await lib.tag_marker(marker, tag)


async def test_a_tag_is_taken_off_the_markers_that_are_left(stash: EmbeddedStash, lib: StashLibrary) -> None:
    made = await lib.create_markers(drafts_for(stash, 4))
    foul = made[1].tag_ids[0]
    await lib.destroy_markers([made[1].id])
    await lib.untag_markers([made[1].id, "x", made[3].id], foul)
    assert all("Foul" not in row["tags"] for row in stash.markers())
    before = stash.snapshot(times=True)
    await lib.untag_markers([made[1].id, "x"], foul)
    assert stash.snapshot(times=True) == before


# --- destroying -----------------------------------------------------------------------------------------------


async def test_destroy_markers_gone_or_not(stash: EmbeddedStash, lib: StashLibrary) -> None:
    """Stash destroys none of a list when one of it is unknown."""
    made = await lib.create_markers(drafts_for(stash, 60))
    kept = made[10]
    asked = ["900", *(m.id for m in made if m is not kept), made[0].id, "901", "x"]
    await lib.destroy_markers(asked)
    assert standing(stash) == [kept.id]
    await lib.destroy_markers(asked)
    await lib.destroy_markers([])
    assert standing(stash) == [kept.id]


async def test_destroying_takes_few_requests(stash: EmbeddedStash, lib: StashLibrary) -> None:
    made = await lib.create_markers(drafts_for(stash, 60))
    await lib.destroy_markers([marker.id for marker in made])
    assert stash.count("sceneMarkersDestroy") == -(-60 // MARKERS_PER_DOCUMENT)


@pytest.mark.parametrize("fault", FAULTS)
async def test_destroying_ends_well(stash: EmbeddedStash, lib: StashLibrary, fault: str) -> None:
    made = await lib.create_markers(drafts_for(stash, 30))
    stash.faults.add("sceneMarkersDestroy", fault, times=2)
    await lib.destroy_markers([marker.id for marker in made])
    assert standing(stash) == []
