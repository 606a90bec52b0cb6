"""Tags: names, aliases, hierarchy, merging, destroying."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stash.servers import Server

CREATE = "mutation($i: TagCreateInput!) { tagCreate(input: $i) { id name aliases description } }"
UPDATE = """mutation($i: TagUpdateInput!) { tagUpdate(input: $i) {
    id name aliases description parents { name } children { name } } }"""
FIND = "query($f: TagFilterType, $p: FindFilterType) { findTags(tag_filter: $f, filter: $p) { count tags { name } } }"


def found(server: Server, tag_filter: Any = None, **find: Any) -> list[str]:
    result = server.data(FIND, f=tag_filter, p={"per_page": -1, "sort": "id"} | find)["findTags"]
    return [tag["name"] for tag in result["tags"]]


def test_names_aliases_and_descriptions_are_trimmed(server: Server) -> None:
    wanted = {"name": "  Court ", "aliases": [" Hardwood "], "description": " d "}
    tag = server.data(CREATE, i=wanted)["tagCreate"]
    assert (tag["name"], tag["aliases"], tag["description"]) == ("Court", ["Hardwood"], "d")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlm_tagme", "tag with name 'vlm_tagme' already exists"),
        ("VLM TagMe", None),
        ("VLM%", "tag with name 'VLM%' already exists"),
        ("VLM_T_gMe", "tag with name 'VLM_T_gMe' already exists"),
        ("TRIGGER", "name 'TRIGGER' is used as alias for 'VLM_TagMe'"),
        ("trig%", "name 'trig%' is used as alias for 'VLM_TagMe'"),
        ("  ", "tag name must not be blank"),
    ],
)
def test_names_clash_as_LIKE_patterns(server: Server, name: str, message: str | None) -> None:
    server.tag("VLM_TagMe", aliases=["trigger"])
    reply = server.gql(CREATE, i={"name": name})
    assert reply.messages == ([] if message is None else [message])


def test_the_new_name_is_the_pattern_not_the_old_one(server: Server) -> None:
    server.tag("VLM TagMe")
    assert server.refusal(CREATE, i={"name": "VLM_TagMe"}) == "tag with name 'VLM_TagMe' already exists"


def test_aliases_clash_with_names_and_aliases_of_others(server: Server) -> None:
    server.tag("Court", aliases=["Hardwood"])
    assert server.refusal(CREATE, i={"name": "X", "aliases": ["court"]}) == "tag with name 'court' already exists"
    message = "name 'hardwood' is used as alias for 'Court'"
    assert server.refusal(CREATE, i={"name": "X", "aliases": ["hardwood"]}) == message


def test_an_alias_twice_in_one_list_is_refused(server: Server) -> None:
    assert "UNIQUE constraint failed" in server.refusal(CREATE, i={"name": "X", "aliases": ["a", "a"]})
    assert found(server) == []


def test_equals_finds_by_LIKE(server: Server) -> None:
    for name in ("VLM_TagMe", "VLM TagMe 2", "Court"):
        server.tag(name)
    assert found(server, {"name": {"value": "vlm_tagme", "modifier": "EQUALS"}}) == ["VLM_TagMe"]
    assert found(server, {"name": {"value": "vlm_tagme__", "modifier": "EQUALS"}}) == ["VLM TagMe 2"]
    assert found(server, {"name": {"value": "VLM%", "modifier": "NOT_EQUALS"}}) == ["Court"]
    assert found(server, {"name": {"value": "tagme court", "modifier": "INCLUDES"}}) == [
        "VLM_TagMe",
        "VLM TagMe 2",
        "Court",
    ]
    assert found(server, {"name": {"value": '"TagMe 2"', "modifier": "INCLUDES"}}) == ["VLM TagMe 2"]
    assert found(server, {"name": {"value": "^VLM.*2$", "modifier": "MATCHES_REGEX"}}) == ["VLM TagMe 2"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("court", ["Court", "Half Court"]),
        ("half court", ["Half Court"]),
        ('"half court"', ["Half Court"]),
        ("-court", ["Ball", "Hoop"]),
        ("ball or hoop", ["Ball", "Hoop"]),
        ("ball | hoop", ["Ball", "Hoop"]),
        ("court -half", ["Court"]),
        ("spalding", ["Ball"]),
    ],
)
def test_the_search_box(server: Server, text: str, names: list[str]) -> None:
    for name, aliases in (("Court", []), ("Half Court", []), ("Ball", ["Spalding"]), ("Hoop", [])):
        server.tag(name, aliases=aliases)
    assert found(server, q=text) == names


def test_default_order_is_by_sort_name_then_name_and_natural(server: Server) -> None:
    for name, extra in (("b10", {}), ("B2", {}), ("zz", {"sort_name": "a"}), ("c", {})):
        server.tag(name, **extra)
    assert [t["name"] for t in server.data("{ findTags { tags { name } } }")["findTags"]["tags"]] == [
        "zz",
        "B2",
        "b10",
        "c",
    ]


def test_pages(server: Server) -> None:
    for number in range(30):
        server.tag(f"t{number:02}")
    assert len(server.data("{ findTags { tags { id } } }")["findTags"]["tags"]) == 25
    assert len(found(server)) == 30
    assert found(server, per_page=10, page=3, direction="DESC")[0] == "t09"
    assert found(server, per_page=0) == []
    assert found(server, per_page=5, page=0) == found(server, per_page=5, page=1)


def test_ids_that_are_missing_or_doubled_fail_the_whole_query(server: Server) -> None:
    query = "query($i: [ID!]) { findTags(ids: $i) { tags { name } } }"
    court, ball = server.tag("Court"), server.tag("Ball")
    assert [t["name"] for t in server.data(query, i=[ball, court])["findTags"]["tags"]] == ["Ball", "Court"]
    assert server.refusal(query, i=[court, court]) == f"validating ids: duplicate id found: {court}"
    assert server.refusal(query, i=[court, "999999"]) == "tag with id 999999 not found"
    assert server.refusal(query, i=["x"]) == 'converting ids: strconv.Atoi: parsing "x": invalid syntax'


def test_an_update_changes_what_is_given_and_replaces_lists(server: Server) -> None:
    tag, parent = server.tag("Court", aliases=["a", "b"], description="d"), server.tag("Places")
    changed = server.data(UPDATE, i={"id": tag, "aliases": ["c"], "parent_ids": [parent]})["tagUpdate"]
    assert changed["aliases"] == ["c"]
    assert changed["parents"] == [{"name": "Places"}]
    assert changed["description"] == "d"
    assert server.data(UPDATE, i={"id": tag, "name": "COURT"})["tagUpdate"]["name"] == "COURT"
    assert server.refusal(UPDATE, i={"id": tag, "name": None}) == "tag name must not be blank"
    assert server.refusal(UPDATE, i={"id": "999999"}) == "tag with id 999999 not found"
    assert server.refusal(UPDATE, i={"id": tag, "name": "places"}) == "tag with name 'places' already exists"


def test_no_tag_becomes_its_own_ancestor(server: Server) -> None:
    top = server.tag("Top")
    middle = server.tag("Middle", parent_ids=[top])
    low = server.tag("Low", parent_ids=[middle])
    message = 'cannot apply tag "Low" as a parent of "Top" as it is already a descendant (Top->Middle->Low)'
    assert server.refusal(UPDATE, i={"id": top, "parent_ids": [low]}) == message
    message = 'cannot apply tag "Top" as a child of "Low" as it is already an ancestor (Top->Middle->Low)'
    assert server.refusal(UPDATE, i={"id": low, "child_ids": [top]}) == message


def test_bulk_update_adds_and_removes(server: Server) -> None:
    a, b, parent = server.tag("A", aliases=["x"]), server.tag("B"), server.tag("P")
    query = "mutation($i: BulkTagUpdateInput!) { bulkTagUpdate(input: $i) { aliases parents { name } } }"
    added = server.data(query, i={"ids": [a, b], "parent_ids": {"ids": [parent], "mode": "ADD"}})["bulkTagUpdate"]
    assert [tag["parents"] for tag in added] == [[{"name": "P"}]] * 2
    removed = server.data(query, i={"ids": [a], "aliases": {"values": ["x"], "mode": "REMOVE"}})["bulkTagUpdate"]
    assert removed == [{"aliases": [], "parents": [{"name": "P"}]}]
    assert server.refusal(query, i={"ids": [a, "999999"], "description": "n"}) == "tag with id 999999 not found"
    assert server.data(FIND, f={"description": {"value": "n", "modifier": "EQUALS"}})["findTags"]["count"] == 0


def test_destroying_a_tag_takes_it_from_scenes_but_not_from_under_a_marker(server: Server) -> None:
    scene = server.ids("scenes")[0]
    court, ball = server.tag("Court"), server.tag("Ball")
    server.set_tags(scene, court, ball)
    server.marker(scene, 1, court, tag_ids=[ball])
    message = "cannot delete tag used as a primary tag in scene markers"
    assert server.refusal("mutation($i: ID!) { tagDestroy(input: {id: $i}) }", i=court) == message
    assert server.refusal("mutation($i: [ID!]!) { tagsDestroy(ids: $i) }", i=[ball, court]) == message
    assert server.tags_of(scene) == ["Ball", "Court"]
    assert server.data("mutation($i: ID!) { tagDestroy(input: {id: $i}) }", i=ball) == {"tagDestroy": True}
    assert server.tags_of(scene) == ["Court"]
    assert server.refusal("mutation { tagDestroy(input: {id: 999999}) }") == "id 999999 does not exist in tags"


def test_ids_of_destroyed_tags_are_not_given_again(server: Server) -> None:
    old = server.tag("Court")
    server.data("mutation($i: ID!) { tagDestroy(input: {id: $i}) }", i=old)
    assert int(server.tag("Ball")) > int(old)


def test_merging_hands_everything_to_the_destination(server: Server) -> None:
    scene, other = server.ids("scenes")[:2]
    parent = server.tag("Places")
    court, floor = server.tag("Court"), server.tag("Floor", aliases=["boards"], parent_ids=[parent])
    server.set_tags(scene, court, floor)
    server.set_tags(other, floor)
    server.marker(scene, 1, floor)
    query = """mutation($s: [ID!]!, $d: ID!) { tagsMerge(input: {source: $s, destination: $d}) {
        name aliases parents { name } } }"""
    merged = server.data(query, s=[floor], d=court)["tagsMerge"]
    assert merged == {"name": "Court", "aliases": ["Floor", "boards"], "parents": [{"name": "Places"}]}
    assert (server.tags_of(scene), server.tags_of(other)) == (["Court"], ["Court"])
    markers = server.data("{ findSceneMarkers { scene_markers { primary_tag { name } } } }")["findSceneMarkers"]
    assert markers["scene_markers"] == [{"primary_tag": {"name": "Court"}}]
    assert server.refusal(query, s=[court], d=court) == "cannot merge where source == destination"
    assert server.data(query, s=[], d=court) == {"tagsMerge": None}


def test_counts_reach_down_by_depth(server: Server) -> None:
    scene = server.ids("scenes")[0]
    child = server.tag("Court")
    parent = server.tag("Places", child_ids=[child])
    server.set_tags(scene, child)
    counts = server.data("query($i: ID!) { findTag(id: $i) { scene_count deep: scene_count(depth: -1) } }", i=parent)
    assert counts["findTag"] == {"scene_count": 0, "deep": 1}
