"""Tag criteria, with the corners that bite: empty ones, depth, excludes, and several in one filter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stash.servers import Server

FIND = """query($f: SceneFilterType) {
    findScenes(scene_filter: $f, filter: {per_page: -1, sort: "id"}) { scenes { id } } }"""
NAMES = ["Court", "Ball", "Hoop", "Spare"]


@pytest.fixture
def tagged(server: Server) -> tuple[Server, dict[str, str]]:
    """Scene 1: Court. 2: Court, Ball. 3: Ball, Hoop. 4: nothing. Places > Indoor > Court, Ball."""
    ids = {name: server.tag(name) for name in NAMES}
    ids["Indoor"] = server.tag("Indoor", child_ids=[ids["Court"], ids["Ball"]])
    ids["Places"] = server.tag("Places", child_ids=[ids["Indoor"]])
    for scene, names in zip(server.ids("scenes"), (["Court"], ["Court", "Ball"], ["Ball", "Hoop"], []), strict=True):
        server.set_tags(scene, *(ids[name] for name in names))
    return server, ids


def numbers(server: Server, scene_filter: Any) -> list[int]:
    every = server.ids("scenes")
    return [every.index(scene["id"]) + 1 for scene in server.data(FIND, f=scene_filter)["findScenes"]["scenes"]]


def tags(text: str) -> dict[str, Any]:
    """`INCLUDES Court Ball -Hoop depth=1` as a criterion by names."""
    modifier, *words = text.split()
    depth = [int(word[6:]) for word in words if word.startswith("depth=")]
    names = [word for word in words if not word.startswith("depth=")]
    return {
        "modifier": modifier,
        "value": [name for name in names if not name.startswith("-")],
        "excludes": [name[1:] for name in names if name.startswith("-")],
        "depth": depth[0] if depth else None,
    }


def by_id(ids: dict[str, str], given: Any) -> Any:
    """Names replaced by ids, all the way down."""
    if isinstance(given, dict):
        return {key: by_id(ids, value) for key, value in given.items()}
    if isinstance(given, list):
        return [ids.get(name, name) for name in given]
    return given


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("INCLUDES Court", [1, 2]),
        ("INCLUDES Court Hoop", [1, 2, 3]),
        ("INCLUDES Spare", []),
        ("INCLUDES", [1, 2, 3, 4]),
        ("INCLUDES_ALL", [1, 2, 3, 4]),
        ("EXCLUDES", [1, 2, 3, 4]),
        ("INCLUDES_ALL Court Ball", [2]),
        ("INCLUDES_ALL Court Court", []),
        ("EXCLUDES Court", [3, 4]),
        ("EXCLUDES Court Hoop", [4]),
        ("EQUALS Court", [1]),
        ("EQUALS Court Ball", [2]),
        ("IS_NULL", [4]),
        ("NOT_NULL", [1, 2, 3]),
        ("INCLUDES Court -Ball", [1]),
        ("INCLUDES -Ball", [1, 4]),
        ("INCLUDES Indoor", []),
        ("INCLUDES Indoor depth=1", [1, 2, 3]),
        ("INCLUDES Places depth=1", []),
        ("INCLUDES Places depth=2", [1, 2, 3]),
        ("INCLUDES Places depth=-1", [1, 2, 3]),
        ("INCLUDES_ALL Places Hoop depth=-1", [3]),
        ("EXCLUDES Indoor depth=1", [4]),
        ("INCLUDES Hoop -Indoor depth=1", []),
        ("INCLUDES 999999", []),
        ("EXCLUDES 999999", [1, 2, 3, 4]),
    ],
)
def test_one_criterion(tagged: tuple[Server, dict[str, str]], criterion: str, expected: list[int]) -> None:
    server, ids = tagged
    assert numbers(server, by_id(ids, {"tags": tags(criterion)})) == expected


def test_an_unresolved_trigger_tag_selects_the_whole_library(tagged: tuple[Server, dict[str, str]]) -> None:
    server, _ = tagged
    assert numbers(server, {"tags": {"modifier": "INCLUDES", "value": []}}) == [1, 2, 3, 4]
    assert numbers(server, {"tags": {"modifier": "INCLUDES"}}) == [1, 2, 3, 4]
    assert numbers(server, {"tags": {"modifier": "INCLUDES", "value": None}}) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("scene_filter", "expected"),
    [
        ({"NOT": {"tags": "INCLUDES Court"}}, [3, 4]),
        ({"NOT": {"tags": "INCLUDES"}}, [1, 2, 3, 4]),
        ({"tag_count": {"value": 1, "modifier": "GREATER_THAN"}, "NOT": {"tags": "INCLUDES Court"}}, [3]),
        ({"OR": {"tags": "INCLUDES Hoop"}, "tag_count": {"value": 0, "modifier": "EQUALS"}}, [3, 4]),
        ({"tags_filter": {"name": {"value": "ball", "modifier": "EQUALS"}}}, [2, 3]),
        # Only one join is made for tags: an inner filter looks for "any tag" among those of the outer one.
        ({"tags": "INCLUDES Court", "AND": {"tags": "INCLUDES Ball"}}, [1, 2]),
        ({"tags": "INCLUDES Court", "OR": {"tags": "INCLUDES Hoop"}}, [1, 2]),
        ({"tags": "INCLUDES Court", "NOT": {"tags": "INCLUDES Ball"}}, []),
        ({"tags": "INCLUDES Court", "AND": {"tags": "EXCLUDES Ball"}}, [1]),
        ({"tags": "INCLUDES Court", "NOT": {"tags": "EXCLUDES Ball"}}, [2]),
    ],
)
def test_several_in_one_filter(
    tagged: tuple[Server, dict[str, str]], scene_filter: dict[str, Any], expected: list[int]
) -> None:
    server, ids = tagged

    def read(given: Any) -> Any:
        if isinstance(given, str) and given.split()[0] in {"INCLUDES", "INCLUDES_ALL", "EXCLUDES"}:
            return tags(given)
        return {key: read(value) for key, value in given.items()} if isinstance(given, dict) else given

    assert numbers(server, by_id(ids, read(scene_filter))) == expected


def test_only_one_operator_at_a_level(server: Server) -> None:
    both = {"AND": {"organized": True}, "NOT": {"organized": True}}
    assert server.refusal(FIND, f=both) == "cannot have AND and NOT in the same filter"


def test_depth_and_equals_do_not_go_together(tagged: tuple[Server, dict[str, str]]) -> None:
    server, ids = tagged
    message = server.refusal(FIND, f=by_id(ids, {"tags": tags("EQUALS Court depth=1")}))
    assert message == "depth is not supported for equals modifier in hierarchical multi criterion input"


def test_a_marker_filter_on_scenes_is_not_tied_to_the_scene(tagged: tuple[Server, dict[str, str]]) -> None:
    """One matching marker anywhere and every scene is found."""
    server, ids = tagged
    server.marker(server.ids("scenes")[0], 1, ids["Hoop"])
    wanted = {"markers_filter": {"tags": {"modifier": "INCLUDES", "value": [ids["Hoop"]]}}}
    assert numbers(server, wanted) == [1, 2, 3, 4]
    assert numbers(server, {"has_markers": "true"}) == [1]
