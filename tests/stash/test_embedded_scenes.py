"""Scenes: updates single and in bulk, what is found and in which order, merging and destroying."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stash.servers import CLIPS, Server

BULK = "mutation($i: BulkSceneUpdateInput!) { bulkSceneUpdate(input: $i) { id tags { name } } }"
UPDATE = "mutation($i: SceneUpdateInput!) { sceneUpdate(input: $i) { id title urls tags { name } } }"
FIND = "query($f: SceneFilterType, $p: FindFilterType) { findScenes(scene_filter: $f, filter: $p) { scenes { id } } }"
UPDATED = "query($i: ID) { findScene(id: $i) { updated_at } }"


def found(server: Server, scene_filter: Any = None, **find: Any) -> list[str]:
    result = server.data(FIND, f=scene_filter, p={"per_page": -1, "sort": "id"} | find)["findScenes"]
    return [scene["id"] for scene in result["scenes"]]


def change(server: Server, ids: list[str], mode: str, *tags: str) -> None:
    server.data(BULK, i={"ids": ids, "tag_ids": {"ids": list(tags), "mode": mode}})


def test_scanned_scenes_have_files_and_empty_titles(server: Server) -> None:
    result = server.data(
        """{ findScenes(filter: {sort: "path"}) { count duration filesize scenes {
            title date tags { id } files { basename duration frame_rate width height video_codec audio_codec format size
            fingerprints { type value } zip_file { id } } } } }"""
    )["findScenes"]
    first = result["scenes"][0]
    assert (result["count"], result["duration"]) == (CLIPS, 2 * CLIPS)
    assert (first["title"], first["date"], first["tags"]) == ("", None, [])
    file = first["files"][0]
    known = {"basename": "game1.mp4", "duration": 2, "frame_rate": 5, "width": 160, "height": 120, "format": "mp4"}
    assert file == file | known | {"video_codec": "mpeg4", "audio_codec": "", "zip_file": None}
    assert [f["type"] for f in file["fingerprints"]] == ["oshash"]
    assert len(file["fingerprints"][0]["value"]) == 16


def test_bulk_modes(server: Server) -> None:
    one, two = server.ids("scenes")[:2]
    court, ball, hoop = (server.tag(name) for name in ("Court", "Ball", "Hoop"))
    change(server, [one, two], "ADD", court, ball, court)
    change(server, [one, two], "ADD", ball)
    assert (server.tags_of(one), server.tags_of(two)) == (["Ball", "Court"],) * 2
    change(server, [one], "REMOVE", ball, hoop)
    assert server.tags_of(one) == ["Court"]
    change(server, [two], "SET", hoop)
    assert server.tags_of(two) == ["Hoop"]
    change(server, [one, two], "SET")
    assert (server.tags_of(one), server.tags_of(two)) == ([], [])


def test_bulk_without_ids_changes_nothing_and_gives_null(server: Server) -> None:
    assert server.data(BULK, i={"ids": [], "title": "x"}) == {"bulkSceneUpdate": None}
    assert server.data(BULK, i={"title": "x"}) == {"bulkSceneUpdate": None}
    assert found(server, {"title": {"value": "x", "modifier": "EQUALS"}}) == []


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        ({"tag_ids": {"ids": ["TAG"], "mode": "ADD"}}, "FOREIGN KEY constraint failed"),
        ({"tag_ids": {"ids": ["TAG"], "mode": "SET"}}, "FOREIGN KEY constraint failed"),
        ({"tag_ids": {"ids": ["TAG"], "mode": "REMOVE"}}, "sql: no rows in result set"),
        ({"title": "new"}, "sql: no rows in result set"),
    ],
)
def test_an_unknown_scene_rolls_the_whole_batch_back(server: Server, change_of: dict[str, Any], message: str) -> None:
    one = server.ids("scenes")[0]
    tag = server.tag("Court")
    if "tag_ids" in change_of:
        change_of = {"tag_ids": change_of["tag_ids"] | {"ids": [tag]}}
    assert message in server.refusal(BULK, i={"ids": [one, "999999"]} | change_of)
    assert server.tags_of(one) == []
    assert found(server, {"title": {"value": "new", "modifier": "EQUALS"}}) == []


def test_an_unknown_tag_rolls_back_but_is_passed_over_when_removed(server: Server) -> None:
    one, two = server.ids("scenes")[:2]
    court = server.tag("Court")
    add = {"ids": [one, two], "tag_ids": {"ids": [court, "999999"], "mode": "ADD"}}
    assert "FOREIGN KEY constraint failed" in server.refusal(BULK, i=add)
    assert (server.tags_of(one), server.tags_of(two)) == ([], [])
    change(server, [one], "REMOVE", "999999")


def test_a_single_update_replaces_the_tags_and_trims_texts(server: Server) -> None:
    one = server.ids("scenes")[0]
    court, ball = server.tag("Court"), server.tag("Ball")
    server.set_tags(one, court)
    done = server.data(UPDATE, i={"id": one, "title": " T ", "tag_ids": [ball, ball], "urls": ["a", "a"]})[
        "sceneUpdate"
    ]
    assert done == {"id": one, "title": "T", "urls": ["a", "a"], "tags": [{"name": "Ball"}]}
    server.data(UPDATE, i={"id": one, "tag_ids": None})
    assert server.tags_of(one) == []
    assert server.refusal(UPDATE, i={"id": "999999"}) == "scene with id 999999 not found"
    assert server.refusal(UPDATE, i={"id": "x"}) == 'converting id: strconv.Atoi: parsing "x": invalid syntax'
    assert "failed to parse date" in server.refusal(UPDATE, i={"id": one, "date": "yesterday"})


def test_several_single_updates_are_one_transaction(server: Server) -> None:
    one = server.ids("scenes")[0]
    query = "mutation($i: [SceneUpdateInput!]!) { scenesUpdate(input: $i) { id } }"
    assert server.refusal(query, i=[{"id": one, "title": "x"}, {"id": "999999"}]) == "scene with id 999999 not found"
    assert found(server, {"title": {"value": "x", "modifier": "EQUALS"}}) == []


def test_updated_at_moves_even_when_nothing_changes_but_not_for_markers(server: Server) -> None:
    one = server.ids("scenes")[0]
    court = server.tag("Court")
    before = server.data(UPDATED, i=one)
    server.pass_time(1.1)
    marker = server.marker(one, 1, court)
    server.data("mutation($i: ID!) { sceneMarkerDestroy(id: $i) }", i=marker)
    assert server.data(UPDATED, i=one) == before
    change(server, [one], "ADD")
    assert server.data(UPDATED, i=one) != before


def test_deleting_a_tag_does_not_move_updated_at(server: Server) -> None:
    one = server.ids("scenes")[0]
    court = server.tag("Court")
    server.set_tags(one, court)
    before = server.data(UPDATED, i=one)
    server.pass_time(1.1)
    server.data("mutation($i: ID!) { tagDestroy(input: {id: $i}) }", i=court)
    assert server.data(UPDATED, i=one) == before
    assert server.tags_of(one) == []


def test_sorts_are_checked_and_ids_ignore_paging(server: Server) -> None:
    ids = server.ids("scenes")
    query = "query($i: [ID!], $p: FindFilterType) { findScenes(ids: $i, filter: $p) { count scenes { id } } }"
    assert server.refusal(query, p={"sort": "nope"}) == "invalid sort: nope"
    assert server.refusal(query, p={"sort": "random_x"}) == "invalid random seed: x"
    by_ids = server.data(query, i=ids[:3][::-1], p={"per_page": 1, "sort": "nope"})["findScenes"]
    assert by_ids == {"count": 3, "scenes": [{"id": scene} for scene in ids[:3][::-1]]}
    assert server.refusal(query, i=[ids[0], "999999"]) == "scene with id 999999 not found"
    assert found(server, direction="DESC") == ids[::-1]
    assert found(server, per_page=2, page=2) == ids[2:4]
    assert found(server, sort="path", direction="DESC") == ids[::-1]
    assert sorted(found(server, sort="random_7")) == ids == sorted(found(server, sort="random"))
    assert found(server, sort="random_7") == found(server, sort="random_7")


@pytest.mark.parametrize(
    ("scene_filter", "numbers"),
    [
        ({"path": {"value": "game2", "modifier": "INCLUDES"}}, [2]),
        ({"path": {"value": "game2 game3", "modifier": "INCLUDES"}}, [2, 3]),
        ({"path": {"value": "game2 game3", "modifier": "EXCLUDES"}}, [1, 4]),
        ({"path": {"value": "%game_.mp4", "modifier": "EQUALS"}}, [1, 2, 3, 4]),
        ({"path": {"value": "game[12].mp4$", "modifier": "MATCHES_REGEX"}}, [1, 2]),
        ({"files_filter": {"basename": {"value": "game3.mp4", "modifier": "EQUALS"}}}, [3]),
        ({"duration": {"value": 1, "modifier": "GREATER_THAN"}}, [1, 2, 3, 4]),
        ({"duration": {"value": 2, "modifier": "GREATER_THAN"}}, []),
        ({"duration": {"value": 1, "value2": 3, "modifier": "BETWEEN"}}, [1, 2, 3, 4]),
        ({"resolution": {"value": "LOW", "modifier": "LESS_THAN"}}, [1, 2, 3, 4]),
        ({"is_missing": "tags"}, [1, 2, 3, 4]),
        ({"is_missing": "date"}, [1, 2, 3, 4]),
        ({"organized": True}, []),
        ({"has_markers": "true"}, []),
        ({"has_markers": "false"}, [1, 2, 3, 4]),
        ({"file_count": {"value": 1, "modifier": "EQUALS"}}, [1, 2, 3, 4]),
        ({"title": {"value": "", "modifier": "IS_NULL"}}, [1, 2, 3, 4]),
    ],
)
def test_criteria_on_files(server: Server, scene_filter: dict[str, Any], numbers: list[int]) -> None:
    ids = server.ids("scenes")
    assert found(server, scene_filter) == [ids[number - 1] for number in numbers]


def test_search_looks_at_titles_details_paths_and_marker_titles(server: Server) -> None:
    one, two, three, four = server.ids("scenes")
    server.data(UPDATE, i={"id": one, "title": "Finals"})
    server.data(UPDATE, i={"id": two, "details": "the finals, too"})
    server.marker(three, 1, server.tag("Court"), title="finals begin")
    assert found(server, q="finals") == [one, two, three]
    assert found(server, q="finals -game2") == [one, three]
    assert found(server, q="game4 OR begin") == [three, four]


def test_merging_moves_files_and_markers_but_not_tags(own_server: Server, media: Any) -> None:
    own_server.scan(media)
    one, two, three = own_server.ids("scenes")[:3]
    court = own_server.tag("Court")
    own_server.set_tags(two, court)
    marker = own_server.marker(two, 1, court)
    query = """mutation($i: SceneMergeInput!) { sceneMerge(input: $i) {
        id title tags { name } files { basename } scene_markers { id } } }"""
    merged = own_server.data(query, i={"source": [two], "destination": one})["sceneMerge"]
    assert [file["basename"] for file in merged["files"]] == ["game1.mp4", "game2.mp4"]
    assert (merged["scene_markers"], merged["tags"]) == ([{"id": marker}], [])
    assert own_server.data("query($i: ID) { findScene(id: $i) { id } }", i=two) == {"findScene": None}
    values = {"id": one, "title": "Merged", "tag_ids": [court]}
    again = own_server.data(query, i={"source": [three], "destination": one, "values": values})["sceneMerge"]
    assert (again["title"], again["tags"], len(again["files"])) == ("Merged", [{"name": "Court"}], 3)
    message = "destination scene cannot be in source list"
    assert own_server.refusal(query, i={"source": [one], "destination": one}) == message
    message = "finding source scenes: scene with id 999999 not found"
    assert own_server.refusal(query, i={"source": ["999999"], "destination": one}) == message


def test_destroying_scenes_is_all_or_nothing_and_takes_markers_along(own_server: Server, media: Any) -> None:
    own_server.scan(media)
    one, two = own_server.ids("scenes")[:2]
    own_server.marker(one, 1, own_server.tag("Court"))
    query = "mutation($i: [ID!]!) { scenesDestroy(input: {ids: $i}) }"
    assert own_server.refusal(query, i=[one, "999999"]) == "scene with id 999999 not found"
    assert len(own_server.ids("scenes")) == CLIPS
    assert own_server.data(query, i=[one, two]) == {"scenesDestroy": True}
    assert len(own_server.ids("scenes")) == CLIPS - 2
    assert own_server.data("{ findSceneMarkers { count } }") == {"findSceneMarkers": {"count": 0}}
