"""stashapp-tools against the embedded Stash: it constructs, and its own calls work as they do against a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stashapi.stashapp import StashInterface

from demo.stash import EmbeddedStash, running_stash


@pytest.fixture
def stash() -> Iterator[EmbeddedStash]:
    with running_stash(credentials=("user", "secret")) as running:
        for number in range(3):
            running.add_scene(f"/media/game{number}.mp4", tags=["VLM_TagMe"] if number else [])
        running.add_image("/media/still.jpg")
        yield running


@pytest.fixture
def client(stash: EmbeddedStash) -> Iterator[Any]:
    made = StashInterface(stash.server_connection())
    yield made
    made.s.close()


def test_it_constructs_by_three_requests(stash: EmbeddedStash, client: Any) -> None:
    assert str(client.version) == "v0.30.1-0"
    assert [record.operation for record in stash.requests] == ["StashVersion", "getApiKey", ""]
    assert stash.requests[2].fields == ("__schema",)


def test_without_a_valid_cookie_it_does_not_construct(stash: EmbeddedStash) -> None:
    connection = stash.server_connection()
    connection["SessionCookie"]["Value"] = "junk"
    with pytest.raises(Exception, match="401 Unauthorized query failed"):
        StashInterface(connection)


def test_its_default_fragments_fit_our_schema(client: Any) -> None:
    scene = client.find_scene(1)
    assert scene["files"][0]["path"] == "/media/game0.mp4"
    assert client.find_image(1)["visual_files"][0]["path"] == "/media/still.jpg"
    assert client.find_tags()[0]["scene_count"] == 2
    assert client.get_configuration()["general"]["apiKey"] == ""
    assert client.job_queue() is None
    assert client.find_galleries() == []


def test_its_refreshed_cookie_stays_behind_the_old_one(stash: EmbeddedStash, client: Any) -> None:
    """The first cookie counts, so an hour later it is locked out although it was given a new one each time."""
    stash.advance(3000)
    client.find_tags(fragment="id")
    stash.advance(3000)
    with pytest.raises(Exception, match="401 Unauthorized query failed"):
        client.find_tags(fragment="id")


def test_scenes_by_tag(stash: EmbeddedStash, client: Any) -> None:
    tag = str(stash.tag_id("VLM_TagMe"))
    wanted = {"tags": {"value": [tag], "modifier": "INCLUDES"}}
    count, scenes = client.find_scenes(wanted, fragment="id tags { name }", get_count=True)
    assert (count, [scene["id"] for scene in scenes]) == (2, ["2", "3"])


def test_tags(stash: EmbeddedStash, client: Any) -> None:
    made = client.create_tag({"name": "Court", "aliases": ["Hardwood"]})
    assert made["name"] == "Court"
    assert client.create_tag({"name": "COURT"}) is None, "a clash is only logged"
    assert client.find_tag("Hardwood")["id"] == made["id"]
    assert client.update_scenes({"ids": [1], "tag_ids": {"ids": [made["id"]], "mode": "ADD"}}) == [{"id": "1"}]
    assert client.update_scenes({"ids": [999], "tag_ids": {"ids": [made["id"]], "mode": "ADD"}}) is None
    assert stash.scene_tags(1) == ["Court"]
    assert client.update_images({"ids": [1], "tag_ids": {"ids": [made["id"]], "mode": "SET"}}) == [{"id": "1"}]
    assert stash.image_tags(1) == ["Court"]
    client.destroy_tag(int(made["id"]))
    assert stash.scene_tags(1) == []


def test_markers(stash: EmbeddedStash, client: Any) -> None:
    court = stash.add_tag("Court")
    given = {"title": "", "seconds": 1.5, "end_seconds": 3.0, "scene_id": 1, "primary_tag_id": court}
    marker = client.create_scene_marker(given, fragment="id end_seconds")
    assert marker == {"id": "1", "end_seconds": 3}
    client.update_scene_marker({"id": 1, "end_seconds": None})
    assert client.get_scene_markers(1, fragment="id seconds end_seconds") == [
        {"id": "1", "seconds": 1.5, "end_seconds": None}
    ]
    wanted = {"tags": {"value": [court], "modifier": "INCLUDES"}}
    assert client.find_scene_markers(wanted, fragment="id") == [{"id": "1"}]
    client.destroy_scene_marker(1)
    assert stash.markers() == []


def test_plugin_settings(client: Any) -> None:
    assert client.find_plugin_config("court") == {}
    client.configure_plugin("court", {"a": 1})
    client.configure_plugin("court", {"b": 2})
    assert client.find_plugin_config("court") == {"a": 1, "b": 2}


def test_a_locked_database_is_an_exception(stash: EmbeddedStash, client: Any) -> None:
    stash.faults.add("FindTags", "locked")
    with pytest.raises(Exception, match="200 OK query failed"):
        client.find_tags(fragment="id")


def test_an_api_key_is_handed_over(stash: EmbeddedStash) -> None:
    stash.settings.api_key = "key"
    client = StashInterface(stash.server_connection(), force_api_key=True)
    stash.advance(10_000)
    assert client.find_tags(fragment="name") == [{"name": "VLM_TagMe"}]
    client.s.close()
