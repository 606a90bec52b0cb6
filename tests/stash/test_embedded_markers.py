"""Scene markers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stash.servers import Server

FIELDS = "id title seconds end_seconds scene { id } primary_tag { name } tags { name }"
CREATE = f"mutation($i: SceneMarkerCreateInput!) {{ sceneMarkerCreate(input: $i) {{ {FIELDS} }} }}"
UPDATE = f"mutation($i: SceneMarkerUpdateInput!) {{ sceneMarkerUpdate(input: $i) {{ {FIELDS} }} }}"
BULK = f"mutation($i: BulkSceneMarkerUpdateInput!) {{ bulkSceneMarkerUpdate(input: $i) {{ {FIELDS} }} }}"
DESTROY = "mutation($i: [ID!]!) { sceneMarkersDestroy(ids: $i) }"
FIND = """query($f: SceneMarkerFilterType, $p: FindFilterType) {
    findSceneMarkers(scene_marker_filter: $f, filter: $p) { count scene_markers { id } } }"""


@pytest.fixture
def court(server: Server) -> str:
    return server.tag("Court")


@pytest.fixture
def scene(server: Server) -> str:
    return server.ids("scenes")[0]


def found(server: Server, marker_filter: Any = None, **find: Any) -> list[str]:
    result = server.data(FIND, f=marker_filter, p={"per_page": -1, "sort": "id"} | find)["findSceneMarkers"]
    return [marker["id"] for marker in result["scene_markers"]]


def test_the_primary_tag_is_not_among_the_others(server: Server, scene: str, court: str) -> None:
    ball = server.tag("Ball")
    given = {"title": " M ", "seconds": 1.5, "end_seconds": 2.75, "scene_id": scene, "primary_tag_id": court}
    marker = server.data(CREATE, i=given | {"tag_ids": [court, ball]})["sceneMarkerCreate"]
    assert (marker["title"], marker["seconds"], marker["end_seconds"]) == ("M", 1.5, 2.75)
    assert (marker["primary_tag"], marker["tags"]) == ({"name": "Court"}, [{"name": "Ball"}])


def test_the_end_may_not_lie_before_the_start_and_nothing_else_is_checked(
    server: Server, scene: str, court: str
) -> None:
    given = {"title": "", "scene_id": scene, "primary_tag_id": court}
    message = "end_seconds (4.500000) must be greater than or equal to seconds (5.000000)"
    assert server.refusal(CREATE, i=given | {"seconds": 5, "end_seconds": 4.5}) == message
    assert server.data(CREATE, i=given | {"seconds": 5, "end_seconds": 5})["sceneMarkerCreate"]["end_seconds"] == 5
    far = server.data(CREATE, i=given | {"seconds": -5, "end_seconds": 99999.25})["sceneMarkerCreate"]
    assert (far["seconds"], far["end_seconds"]) == (-5, 99999.25)


@pytest.mark.parametrize("wrong", [{"scene_id": "999999"}, {"primary_tag_id": "999999"}, {"tag_ids": ["999999"]}])
def test_unknown_scenes_and_tags_are_refused(server: Server, scene: str, court: str, wrong: dict[str, Any]) -> None:
    given = {"title": "", "seconds": 1, "scene_id": scene, "primary_tag_id": court} | wrong
    assert "FOREIGN KEY constraint failed" in server.refusal(CREATE, i=given)
    assert found(server) == []


def test_a_tag_given_twice_is_refused(server: Server, scene: str, court: str) -> None:
    ball = server.tag("Ball")
    given = {"title": "", "seconds": 1, "scene_id": scene, "primary_tag_id": court, "tag_ids": [ball, ball]}
    assert "UNIQUE constraint failed" in server.refusal(CREATE, i=given)
    assert found(server) == []


def test_an_update_leaves_what_is_omitted_and_null_clears_the_end(server: Server, scene: str, court: str) -> None:
    ball = server.tag("Ball")
    marker = server.marker(scene, 1, court, end_seconds=3, title="t", tag_ids=[ball])

    def update(**given: Any) -> Any:
        return server.data(UPDATE, i={"id": marker} | given)["sceneMarkerUpdate"]

    assert update(seconds=2) == update() | {"seconds": 2, "end_seconds": 3, "title": "t", "tags": [{"name": "Ball"}]}
    message = "end_seconds (3.000000) must be greater than or equal to seconds (4.000000)"
    assert server.refusal(UPDATE, i={"id": marker, "seconds": 4}) == message
    assert update(end_seconds=None)["end_seconds"] is None
    assert update(seconds=4)["seconds"] == 4
    message = "end_seconds (1.000000) must be greater than or equal to seconds (4.000000)"
    assert server.refusal(UPDATE, i={"id": marker, "end_seconds": 1}) == message
    assert update(title=None)["title"] == ""
    assert update(tag_ids=[court])["tags"] == []
    assert update(primary_tag_id=ball)["primary_tag"] == {"name": "Ball"}
    assert server.refusal(UPDATE, i={"id": "999999", "title": "x"}) == "scene marker with id 999999 not found"
    assert "FOREIGN KEY constraint failed" in server.refusal(UPDATE, i={"id": marker, "scene_id": "999999"})
    other = server.ids("scenes")[1]
    assert update(scene_id=other)["scene"] == {"id": other}


def test_bulk_SET_of_a_list_of_the_same_length_is_dropped(server: Server, scene: str, court: str) -> None:
    ball, hoop, crowd = server.tag("Ball"), server.tag("Hoop"), server.tag("Crowd")
    marker = server.marker(scene, 1, court, tag_ids=[ball])

    def bulk(mode: str, *ids: str) -> list[str]:
        done = server.data(BULK, i={"ids": [marker], "tag_ids": {"ids": list(ids), "mode": mode}})
        return sorted(tag["name"] for tag in done["bulkSceneMarkerUpdate"][0]["tags"])

    assert bulk("SET", hoop) == ["Ball"]
    assert bulk("SET", hoop, crowd) == ["Crowd", "Hoop"]
    assert bulk("ADD", ball, court) == ["Ball", "Crowd", "Hoop"]
    assert bulk("REMOVE", ball) == ["Crowd", "Hoop"]


def test_bulk_is_all_or_nothing(server: Server, scene: str, court: str) -> None:
    marker = server.marker(scene, 1, court, title="old")
    assert server.refusal(BULK, i={"ids": [marker, "999999"], "title": "new"}) == "sql: no rows in result set"
    assert found(server, q="new") == []


def test_destroying_is_all_or_nothing(server: Server, scene: str, court: str) -> None:
    one, two = server.marker(scene, 1, court), server.marker(scene, 2, court)
    reply = server.gql(DESTROY, i=[one, "999999", two])
    assert (reply.status, reply.body["data"]) == (200, None)
    assert reply.messages == ["scene marker with id 999999 not found"]
    assert found(server) == [one, two]
    assert server.data(DESTROY, i=[one, two]) == {"sceneMarkersDestroy": True}
    assert server.data(DESTROY, i=[]) == {"sceneMarkersDestroy": True}
    message = "scene marker with id 999999 not found"
    assert server.refusal("mutation { sceneMarkerDestroy(id: 999999) }") == message


def test_order(server: Server, scene: str, court: str) -> None:
    ball = server.tag("Ball")
    late, early, middle = server.marker(scene, 9, court), server.marker(scene, 1, ball), server.marker(scene, 5, court)
    listed = server.data("query($i: ID) { findScene(id: $i) { scene_markers { id } } }", i=scene)["findScene"]
    assert [marker["id"] for marker in listed["scene_markers"]] == [early, middle, late]
    default = server.data("{ findSceneMarkers { scene_markers { id } } }")["findSceneMarkers"]["scene_markers"]
    assert [marker["id"] for marker in default] == [early, middle, late]
    assert found(server, sort="seconds", direction="DESC") == [late, middle, early]
    assert server.refusal(FIND, p={"sort": "nope"}) == "invalid sort: nope"


def test_tags_of_markers_are_found_primary_or_not(server: Server, scene: str, court: str) -> None:
    ball, hoop = server.tag("Ball"), server.tag("Hoop")
    parent = server.tag("Indoor", child_ids=[court])
    first, second = server.marker(scene, 1, court, tag_ids=[ball]), server.marker(scene, 2, hoop, tag_ids=[court])
    third = server.marker(scene, 3, hoop)

    def by(modifier: str, *value: str, **more: Any) -> list[str]:
        return found(server, {"tags": {"modifier": modifier, "value": list(value)} | more})

    assert by("INCLUDES", court) == [first, second]
    assert by("INCLUDES_ALL", court, hoop) == [second]
    assert by("INCLUDES", parent) == []
    assert by("INCLUDES", parent, depth=-1) == [first, second]
    assert by("INCLUDES") == [first, second, third]
    assert by("EXCLUDES", court) == [first, second, third], "EXCLUDES with only a value does nothing"
    assert by("INCLUDES", excludes=[court]) == [third]
    assert by("EQUALS", court, ball) == [first]
    assert by("IS_NULL") == [third]


def test_other_criteria(server: Server, scene: str, court: str) -> None:
    other = server.ids("scenes")[1]
    server.set_tags(other, court)
    one, two = server.marker(scene, 1, court, end_seconds=4), server.marker(other, 1, court)
    assert found(server, {"scenes": {"value": [other], "modifier": "INCLUDES"}}) == [two]
    assert found(server, {"scenes": {"value": [other], "modifier": "EXCLUDES"}}) == [one]
    assert found(server, {"scene_tags": {"value": [court], "modifier": "INCLUDES"}}) == [two]
    assert found(server, {"scene_filter": {"id": {"value": int(scene), "modifier": "EQUALS"}}}) == [one]
    assert found(server, {"duration": {"value": 2, "modifier": "GREATER_THAN"}}) == [one]
    assert found(server, {"duration": {"value": 0, "modifier": "IS_NULL"}}) == [two]


def test_generating_previews_is_only_queued(server: Server, scene: str, court: str) -> None:
    marker = server.marker(scene, 0, court)
    query = "mutation($i: GenerateMetadataInput!) { metadataGenerate(input: $i) }"
    job_id = server.data(query, i={"markerIDs": [marker], "markers": False, "overwrite": False})["metadataGenerate"]
    assert server.wait_for_job(job_id)["status"] == "FINISHED"
