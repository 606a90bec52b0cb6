"""Studios: names, aliases, those below them, and media by studio. As far as selection needs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stash.servers import Server

CREATE = "mutation($i: StudioCreateInput!) { studioCreate(input: $i) { id name aliases parent_studio { name } } }"
FIND = """query($f: StudioFilterType, $p: FindFilterType) {
  findStudios(studio_filter: $f, filter: $p) { count studios { name } } }"""


SET = "mutation($i: BulkSceneUpdateInput!) { bulkSceneUpdate(input: $i) { id } }"


@pytest.fixture(scope="module")
def studios(scanned: Server) -> Iterator[Server]:
    """League, with Pro and Amateur below it and Youth below Amateur; and one of its own."""
    league = studio(scanned, "League", aliases=["The Big One"])
    studio(scanned, "Pro", parent_id=league)
    amateur = studio(scanned, "Amateur", parent_id=league)
    studio(scanned, "Youth", parent_id=amateur)
    studio(scanned, "Street Ball")
    for scene, name in zip(scanned.ids("scenes"), ("League", "Youth", "Street Ball"), strict=False):
        scanned.data(SET, i={"ids": [scene], "studio_id": the(scanned, name)})
    yield scanned
    scanned.data(SET, i={"ids": scanned.ids("scenes"), "studio_id": None})


def studio(server: Server, name: str, **given: Any) -> str:
    created: str = server.data(CREATE, i={"name": name} | given)["studioCreate"]["id"]
    return created


def found(server: Server, studio_filter: Any = None, **find: Any) -> list[str]:
    result = server.data(FIND, f=studio_filter, p={"per_page": -1, "sort": "id"} | find)["findStudios"]
    assert result["count"] == len(result["studios"])
    return [one["name"] for one in result["studios"]]


def the(server: Server, name: str) -> str:
    """Id of a studio."""
    query = "query($f: StudioFilterType) { findStudios(studio_filter: $f) { studios { id } } }"
    wanted = {"name": {"value": name, "modifier": "EQUALS"}}
    (one,) = server.data(query, f=wanted)["findStudios"]["studios"]
    return str(one["id"])


def test_studios_know_those_above_and_below(studios: Server) -> None:
    query = "query($i: ID!) { findStudio(id: $i) { name aliases parent_studio { name } child_studios { name } } }"
    amateur = studios.data(query, i=the(studios, "Amateur"))["findStudio"]
    assert amateur == {
        "name": "Amateur",
        "aliases": [],
        "parent_studio": {"name": "League"},
        "child_studios": [{"name": "Youth"}],
    }
    league = studios.data(query, i=the(studios, "League"))["findStudio"]
    assert league["aliases"] == ["The Big One"]
    assert league["parent_studio"] is None
    assert sorted(child["name"] for child in league["child_studios"]) == ["Amateur", "Pro"]
    assert studios.data(query, i="999")["findStudio"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "league"}, "studio with name 'league' already exists"),
        ({"name": "L_ague"}, "studio with name 'L_ague' already exists"),
        ({"name": "the big one"}, "name 'the big one' is used as alias for 'League'"),
        ({"name": "New", "aliases": ["pro"]}, "studio with name 'pro' already exists"),
        ({"name": "  "}, "studio name must not be blank"),
        ({"name": "New", "aliases": [" "]}, "studio alias must not be an empty string"),
    ],
)
def test_names_that_are_refused(studios: Server, given: Any, message: str) -> None:
    assert studios.refusal(CREATE, i=given) == message


def test_an_unknown_parent_is_refused(studios: Server) -> None:
    assert "FOREIGN KEY constraint failed" in studios.refusal(CREATE, i={"name": "New", "parent_id": "999"})


def test_studios_by_name_and_alias(studios: Server) -> None:
    assert found(studios) == ["League", "Pro", "Amateur", "Youth", "Street Ball"]
    assert found(studios, sort="name") == ["Amateur", "League", "Pro", "Street Ball", "Youth"]
    assert found(studios, {"name": {"value": "pro", "modifier": "EQUALS"}}) == ["Pro"]
    assert found(studios, {"name": {"value": "a", "modifier": "INCLUDES"}}) == ["League", "Amateur", "Street Ball"]
    either = {
        "name": {"value": "the big one", "modifier": "EQUALS"},
        "OR": {"aliases": {"value": "the big one", "modifier": "EQUALS"}},
    }
    assert found(studios, either) == ["League"]
    assert found(studios, {"aliases": {"value": "big", "modifier": "EXCLUDES"}}) == [
        "Pro",
        "Amateur",
        "Youth",
        "Street Ball",
    ]
    assert found(studios, {"aliases": {"value": "", "modifier": "NOT_NULL"}}) == ["League"]
    assert found(studios, q="big") == ["League"]
    assert "invalid sort" in studios.refusal(FIND, f=None, p={"sort": "colour"})


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({"value": ["League"], "modifier": "INCLUDES"}, [0]),
        ({"value": ["League"], "modifier": "INCLUDES", "depth": 1}, [0]),
        ({"value": ["League"], "modifier": "INCLUDES", "depth": 2}, [0, 1]),
        ({"value": ["League"], "modifier": "INCLUDES", "depth": -1}, [0, 1]),
        ({"value": ["League", "Street Ball"], "modifier": "INCLUDES"}, [0, 2]),
        ({"value": ["League", "Street Ball"], "modifier": "INCLUDES_ALL"}, []),
        ({"value": ["League"], "modifier": "INCLUDES_ALL"}, [0]),
        ({"value": ["League"], "modifier": "EQUALS"}, [0]),
        ({"value": ["League"], "modifier": "EXCLUDES", "depth": -1}, [2, 3]),
        ({"value": ["League"], "modifier": "EXCLUDES"}, [1, 2, 3]),
        ({"value": ["League"], "modifier": "NOT_EQUALS"}, [1, 2, 3]),
        ({"value": ["League"], "modifier": "INCLUDES", "excludes": ["Youth"], "depth": -1}, [0]),
        ({"value": [], "modifier": "INCLUDES"}, [0, 1, 2, 3]),
        ({"value": [], "modifier": "IS_NULL"}, [3]),
        ({"value": [], "modifier": "NOT_NULL"}, [0, 1, 2]),
    ],
)
def test_media_by_studio(studios: Server, criterion: dict[str, Any], expected: list[int]) -> None:
    scenes = studios.ids("scenes")
    for key in ("value", "excludes"):
        if key in criterion:
            criterion = criterion | {key: [the(studios, name) for name in criterion[key]]}
    query = """query($f: SceneFilterType) {
      findScenes(scene_filter: $f, filter: {per_page: -1, sort: "id"}) { scenes { id } } }"""
    rows = studios.data(query, f={"studios": criterion})["findScenes"]["scenes"]
    assert [scenes.index(row["id"]) for row in rows] == expected
