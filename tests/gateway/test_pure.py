"""The parts of the gateway that need no Stash: texts of errors, patience, JSON to facts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import StashGone, StashRefused, StashUnavailable
from haven_vlm.facts import Kind, MarkerDraft, TagRef
from haven_vlm.own_thread import OwnThread
from haven_vlm.stash_faults import NotSent, Patience, fault_of, missing_id, read_reply
from haven_vlm.stash_queries import (
    TAG_CREATE,
    TAGS_DESTROY,
    best_tag,
    bulk_update,
    created_marker,
    creates,
    is_draft,
    marker_of,
    markers_create,
    medium_fields,
    medium_of,
    milliseconds,
    seconds,
    tag_names_query,
    tags_filter,
    takes_for_equal,
)
from tests.gateway.support import Clock


@pytest.mark.parametrize(
    ("text", "kind", "unknown"),
    [
        ("database is locked", StashUnavailable, None),
        ("error executing `UPDATE`: database table is locked (6)", StashUnavailable, None),
        ("context deadline exceeded", StashUnavailable, None),
        ("database not initialized", StashUnavailable, None),
        ("scene marker with id 12 not found", StashGone, "12"),
        ("image with id 7 not found", StashGone, "7"),
        ("id 9 does not exist in tags", StashGone, "9"),
        ("sql: no rows in result set", StashGone, None),
        ("error executing `INSERT …` [[999 7]]: FOREIGN KEY constraint failed", StashGone, None),
        ("tag with name 'Court' already exists", StashRefused, None),
        ("end_seconds (1.0) must be greater than or equal to seconds (2.0)", StashRefused, None),
        ("", StashRefused, None),
    ],
)
def test_errors_are_told_apart_by_their_texts(text: str, kind: type[Exception], unknown: str | None) -> None:
    fault = fault_of(text)
    assert type(fault) is kind
    assert missing_id(fault) == unknown
    assert "[[999 7]]" not in str(fault)


def test_a_refusal_decides_before_what_may_pass() -> None:
    reply = read_reply(
        {
            "data": {"m0": {"id": "1"}, "m1": None, "m2": None},
            "errors": [
                {"message": "database is locked", "path": ["m1"]},
                {"message": "tag with id 5 not found", "path": ["m2", "primary_tag"]},
                "odd",
            ],
        }
    )
    assert reply is not None
    assert isinstance(reply.worst, StashGone)
    assert set(reply.faults) == {"m1", "m2", ""}


@given(st.recursive(st.none() | st.text() | st.integers(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_any_json_is_read_or_recognised_as_no_reply(content: Any) -> None:
    for body in (content, {"data": content}, {"errors": content}, {"errors": [content, {"path": content}]}):
        reply = read_reply(body)
        assert reply is None or reply.worst is None or str(reply.worst)


def test_patience_grows_and_ends() -> None:
    clock = Clock()
    patience = Patience(100.0, clock=clock, sleep=clock.sleep, jitter=lambda: 1.0)
    turns = list(patience.turns())
    assert clock.slept[:7] == [0.25, 0.5, 1, 2, 4, 8, 15]
    assert turns == list(range(len(clock.slept) + 1))
    assert 85 < sum(clock.slept) <= 100


def test_no_patience_is_one_attempt() -> None:
    clock = Clock()
    assert list(Patience(0.0, clock=clock, sleep=clock.sleep).turns()) == [0]


def test_patience_ends_even_when_time_stands_still() -> None:
    assert len(list(Patience(100.0, clock=lambda: 0.0, sleep=lambda _s: None).turns())) == 500


def test_what_may_have_been_carried_out_is_not_repeated() -> None:
    clock = Clock()
    patience = Patience(100.0, clock=clock, sleep=clock.sleep)
    outcomes = iter([NotSent("refused"), NotSent("refused"), StashUnavailable("lost")])

    def attempt() -> None:
        raise next(outcomes)

    with pytest.raises(StashUnavailable, match="lost"):
        patience.run(attempt, repeatable=False)
    assert len(clock.slept) == 2


def test_refusals_are_final() -> None:
    clock = Clock()
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise StashRefused("no")

    with pytest.raises(StashRefused):
        Patience(clock=clock, sleep=clock.sleep).run(attempt)
    assert (len(calls), clock.slept) == (1, [])


def test_which_documents_must_not_be_sent_twice() -> None:
    assert creates(TAG_CREATE)
    assert creates(markers_create({"m0": MarkerDraft("1", "x", 0, None, "2")})[0])
    assert creates("\n\t\tmutation($i: SceneMarkerCreateInput!) {\n sceneMarkerCreate(input: $i) { id } }")
    for document in (TAGS_DESTROY, bulk_update(Kind.SCENE), tag_names_query(["Create("])[0], "query tagCreate($a: ID)"):
        assert not creates(document)


# --- JSON → facts ---------------------------------------------------------------------------------------------


@given(st.integers(0, 10**10))
def test_milliseconds_survive_the_way_through_seconds(at_ms: int) -> None:
    assert milliseconds(seconds(at_ms)) == at_ms


def test_whole_seconds_come_as_integers() -> None:
    assert [milliseconds(value) for value in (12, 12.0, 0.0005, 3.6e6, None, "x")] == [12000, 12000, 0, 3.6e9, 0, 0]


@given(st.text(min_size=1), st.text())
def test_stash_takes_a_name_for_itself(name: str, other: str) -> None:
    assert takes_for_equal(name, name)
    if not set(name) & {"_", "%"} and takes_for_equal(name, other):
        assert best_tag(name, [TagRef("1", other.strip())])


def test_like_is_ascii_only() -> None:
    assert (
        takes_for_equal("VLM_TagMe", "vlm tagme") and takes_for_equal("VLM%", "vlm") and takes_for_equal("a.b", "A.B")
    )
    assert not takes_for_equal("a.b", "axb") and not takes_for_equal("Über", "über")


def test_a_tag_by_rank_then_age() -> None:
    tags = [
        TagRef("9", "COURT"),
        TagRef("10", "court"),
        TagRef("2", "Arena", aliases=("Court",)),
        TagRef("3", "Hall", aliases=("cOURT",)),
    ]
    asked = "Court"
    order = []
    while tag := best_tag(asked, tags):
        order.append(tag.id)
        tags.remove(tag)
    assert order == ["9", "10", "2", "3"]
    assert best_tag("", [TagRef("1", "x")]) is None


def test_no_criterion_without_a_tag() -> None:
    for odd in ([], [""], ["x"], ["1", ""], "12"):
        with pytest.raises(ValueError):
            tags_filter(with_tags=odd)
    assert tags_filter(with_tags=["1", "1"], without_tags=["2"]) == {
        "value": ["1"],
        "excludes": ["2"],
        "modifier": "INCLUDES_ALL",
        "depth": 0,
    }
    assert tags_filter(without_tags=["2"]) == {"value": ["2"], "modifier": "EXCLUDES", "depth": 0}


def test_a_marker_is_the_same_made_or_read() -> None:
    draft = MarkerDraft("7", " Final ", 1500, None, "3", ("10", "9", "3", "9"))
    row = {"id": "1", "title": "Final", "seconds": 1.5, "end_seconds": None}
    made = created_marker(row, draft)
    read = marker_of(row | {"scene": {"id": 7}, "primary_tag": {"id": "3"}, "tags": [{"id": "10"}, {"id": "9"}]})
    assert made == read
    assert made.tag_ids == ("9", "10")
    assert is_draft(read, draft)
    for other in (
        MarkerDraft("8", "Final", 1500, None, "3", ("9", "10")),
        MarkerDraft("7", "Final", 1501, None, "3", ("9", "10")),
        MarkerDraft("7", "Final", 1500, 1500, "3", ("9", "10")),
        MarkerDraft("7", "Final", 1500, None, "3", ("9",)),
        MarkerDraft("7", "final", 1500, None, "3", ("9", "10")),
    ):
        assert not is_draft(read, other)


def test_zips_before_0_29_tell_only_an_id() -> None:
    assert "zip_file_id" in medium_fields(Kind.IMAGE, zip_objects=False)
    assert "zip_file {" not in medium_fields(Kind.IMAGE, zip_objects=False)
    paths = {
        "/media/a.ZIP/b.jpg": "/media/a.ZIP",
        r"C:\media\a.cbz\day 1\b.jpg": r"C:\media\a.cbz",
        "/media/a.rar/b.jpg": None,
    }
    for path, archive in paths.items():
        row = {"id": "1", "visual_files": [{"__typename": "ImageFile", "path": path, "size": 3, "zip_file_id": "5"}]}
        assert medium_of(Kind.IMAGE, row).files[0].zip_path == archive


def test_scanty_rows() -> None:
    bare = medium_of(Kind.GALLERY, {"id": 4, "folder": {"path": "C:\\media\\Season\\"}, "tags": None})
    assert (bare.id, bare.title, bare.files, bare.tag_ids) == ("4", "Season", (), frozenset())
    assert medium_of(Kind.SCENE, {"id": 4, "files": None}).title == ""


# --- the thread -----------------------------------------------------------------------------------------------


async def test_one_thread_first_come_first_served() -> None:
    own = OwnThread("test")
    seen: list[int] = []
    names: set[str] = set()

    def work(number: int) -> int:
        names.add(threading.current_thread().name)
        seen.append(number)
        if number == 2:
            raise KeyError(number)
        return number

    futures = [asyncio.wrap_future(own.submit(lambda n=number: work(n))) for number in range(5)]  # type: ignore[misc]
    own.stop()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [repr(result) for result in results] == ["0", "1", "KeyError(2)", "3", "4"]
    assert seen == [0, 1, 2, 3, 4]
    assert names == {"test"}


async def test_cancelled_work_that_waits_is_dropped() -> None:
    own = OwnThread("test")
    gate = threading.Event()
    done: list[str] = []
    first = asyncio.wrap_future(own.submit(gate.wait))
    second = asyncio.wrap_future(own.submit(lambda: done.append("second")))
    third = asyncio.wrap_future(own.submit(lambda: done.append("third")))
    second.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, third)
    own.stop()
    assert done == ["third"]
