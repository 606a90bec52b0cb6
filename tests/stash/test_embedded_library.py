"""Seeding and reading from Python, and the library's life."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests

from demo.stash import EmbeddedStash, StashError, running_stash
from demo.stash.scanner import oshash
from tests.stash.servers import jpeg, write_clip

ROOT = Path(__file__).resolve().parents[2]


def test_ten_thousand_scenes_in_a_few_seconds(tmp_path: Path) -> None:
    with running_stash(db=tmp_path / "library.sqlite") as stash:
        began = time.monotonic()
        with stash.seeding():
            for number in range(10_000):
                stash.add_scene(f"/media/{number % 100}/game{number}.mp4", tags=["VLM_TagMe"])
        assert time.monotonic() - began < 10
        body = {"query": "{ findScenes(filter: {per_page: -1}) { count scenes { id tags { id } } } }"}
        found = requests.post(stash.graphql_url, json=body, timeout=30).json()["data"]["findScenes"]
        assert (found["count"], len(found["scenes"])) == (10_000, 10_000)


def test_seeds_are_what_graphql_shows() -> None:
    with running_stash() as stash:
        court = stash.add_tag("Court", aliases=["Hardwood"], parents=["Places"], description="where it is played")
        scene = stash.add_scene(
            "/media/a/game.mp4",
            title="Finals",
            duration=61.5,
            tags=["VLM_TagMe", court],
            fingerprints={"oshash": "0123456789abcdef", "md5": "m", "phash": "p"},
            width=640,
            height=480,
        )
        second = stash.add_scene_file(scene, "/media/b/game.mp4", duration=60.0)
        marker = stash.add_marker(scene, 1.5, court, end_seconds=4, tags=["Ball"], title="first half")
        query = """{ findScene(id: 1) { title tags { name } scene_markers { id }
            files { id path duration width fingerprints { type value } parent_folder { path } } } }"""
        shown = requests.post(stash.graphql_url, json={"query": query}, timeout=60).json()["data"]["findScene"]
    assert [tag["name"] for tag in shown["tags"]] == ["Court", "VLM_TagMe"]
    assert [file["id"] for file in shown["files"]][1] == str(second)
    first = shown["files"][0]
    assert (first["path"], first["duration"], first["width"]) == ("/media/a/game.mp4", 61.5, 640)
    assert first["parent_folder"] == {"path": "/media/a"}
    assert [f["type"] for f in first["fingerprints"]] == ["md5", "oshash", "phash"]
    assert shown["scene_markers"] == [{"id": str(marker)}]


def test_seeded_tags_obey_the_rules() -> None:
    with running_stash() as stash:
        stash.add_tag("VLM TagMe")
        with pytest.raises(StashError, match="tag with name 'VLM_TagMe' already exists"):
            stash.add_tag("VLM_TagMe")


def test_images_clips_zips_and_galleries(tmp_path: Path) -> None:
    archive = tmp_path / "album.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("court/p1.jpg", jpeg(1))
    with running_stash() as stash:
        plain = stash.add_image(tmp_path / "still.jpg", tags=["VLM_TagMe"])
        clip = stash.add_clip(tmp_path / "loop.mp4", duration=3)
        gallery = stash.add_gallery(zip_path=archive, tags=["Album"])
        zipped = stash.add_zip_image(archive, "court/p1.jpg", galleries=[gallery])
        made = stash.add_gallery(title="Made", images=[plain, clip])
        query = """{ findImages(filter: {sort: "id"}) { images { files { id } visual_files { __typename
            ... on VideoFile { duration } ... on ImageFile { path zip_file { path } } } galleries { id } } } }"""
        shown = requests.post(stash.graphql_url, json={"query": query}, timeout=60).json()["data"]["findImages"][
            "images"
        ]
        body = requests.get(f"{stash.url}/image/{zipped}/image", timeout=60).content
        assert stash.gallery_tags(gallery) == ["Album"]
    assert [image["visual_files"][0]["__typename"] for image in shown] == ["ImageFile", "VideoFile", "ImageFile"]
    assert shown[1]["files"] == [], "clips are left out of the deprecated list"
    assert shown[2]["visual_files"][0]["zip_file"] == {"path": str(archive)}
    assert [image["galleries"] for image in shown] == [[{"id": str(made)}], [{"id": str(made)}], [{"id": str(gallery)}]]
    assert body == jpeg(1)


def test_a_snapshot_tells_whether_anything_changed() -> None:
    with running_stash() as stash:
        scene = stash.add_scene("/media/game.mp4", tags=["Court"])
        image = stash.add_image("/media/still.jpg")
        before = stash.snapshot()
        stash.tag_scene(scene, "Ball")
        stash.add_marker(scene, 1, "Ball")
        stash.tag_image(image, "Ball")
        after = stash.snapshot()
        assert after != before
        assert after["scenes"][scene]["tags"] == ["Ball", "Court"]
        stash.untag_scene(scene, "Ball")
        stash.untag_image(image, "Ball")
        for marker in stash.markers(scene):
            stash.delete("scene_markers", marker["id"])
        stash.delete("tags", stash.tag_ids(["Ball"])[0])
        assert stash.snapshot() == before
        assert json.loads(json.dumps(before)), "plain data"


def test_times_are_part_of_a_snapshot_on_request() -> None:
    with running_stash() as stash:
        scene = stash.add_scene("/media/game.mp4")
        bare, timed = stash.snapshot(), stash.snapshot(times=True)
        stash.advance(5)
        stash.tag_scene(scene)
        assert stash.snapshot() == bare
        assert stash.snapshot(times=True) != timed


def test_the_scan_notes_what_the_real_one_notes(tmp_path: Path) -> None:
    clip = tmp_path / "game.mp4"
    write_clip(clip, 1)
    size = clip.stat().st_size
    assert len(oshash(clip)) == 16
    assert int(oshash(clip), 16) != size


@pytest.mark.parametrize(
    ("version", "refused"),
    [("v0.30.1", set()), ("v0.29.3", {"bulk"}), ("v0.28.1", {"bulk", "zip"}), ("v0.27.2", {"bulk", "zip", "ends"})],
)
def test_older_versions_refuse_what_they_do_not_have(version: str, refused: set[str]) -> None:
    queries = {
        "bulk": "mutation { bulkSceneMarkerUpdate(input: {ids: []}) { id } }",
        "zip": "{ findImages { images { visual_files { ... on ImageFile { zip_file { path } } } } } }",
        "ends": "{ findSceneMarkers { scene_markers { end_seconds } } }",
    }
    headers = {"Accept": "application/json"}
    with running_stash(version=version) as stash:
        for name, query in queries.items():
            answer = requests.post(stash.graphql_url, json={"query": query}, headers=headers, timeout=60)
            assert answer.status_code == (422 if name in refused else 200), name


def test_without_a_sort_scenes_come_in_no_order_but_always_the_same() -> None:
    with running_stash() as stash:
        for number in range(20):
            stash.add_scene(f"/media/game{number}.mp4")
        body = {"query": "{ findScenes { scenes { id } } }"}
        first, second = (requests.post(stash.graphql_url, json=body, timeout=60).json() for _ in range(2))
    ids = [int(scene["id"]) for scene in first["data"]["findScenes"]["scenes"]]
    assert first == second
    assert ids != sorted(ids) == list(range(1, 21))


async def test_it_lives_in_a_thread_of_its_own() -> None:
    async with EmbeddedStash() as stash:
        answer = await asyncio.to_thread(requests.get, f"{stash.url}/healthz", timeout=60)
        assert answer.text == "."
    with pytest.raises(requests.ConnectionError):
        await asyncio.to_thread(requests.get, f"{stash.url}/healthz", timeout=60)


def test_a_taken_port_is_an_error_at_the_start() -> None:
    with (
        running_stash() as stash,
        pytest.raises(OSError, match="address already in use"),
        running_stash(port=stash.port),
    ):
        pass


def start_process(db: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.stash", "--db", str(db), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    return process, json.loads(process.stdout.readline())["url"]


def reap(process: subprocess.Popen[str]) -> None:
    process.wait(60)
    assert process.stdout
    process.stdout.close()


def test_a_killed_server_comes_back_with_its_library_its_settings_and_its_cookies(tmp_path: Path) -> None:
    db = tmp_path / "library.sqlite"
    credentials = ("--username", "user", "--password", "secret", "--api-key", "key")
    process, url = start_process(db, *credentials)
    form = {"username": "user", "password": "secret"}
    entered = requests.post(f"{url}/login", data=form, timeout=60)
    cookie = {"Cookie": entered.headers["Set-Cookie"].partition(";")[0]}
    made = {"query": 'mutation { tagCreate(input: {name: "Court"}) { id } }'}
    requests.post(f"{url}/graphql", json=made, headers=cookie, timeout=60).raise_for_status()
    saved = {"query": 'mutation { configurePlugin(plugin_id: "p", input: {a: 1}) }'}
    requests.post(f"{url}/graphql", json=saved, headers={"ApiKey": "key"}, timeout=60).raise_for_status()
    process.kill()
    reap(process)
    port = url.rpartition(":")[2]
    process, again = start_process(db, *credentials[:-2], "--port", port)
    assert again == url
    body = {"query": "{ findTags { tags { name } } configuration { plugins general { apiKey } } }"}
    shown = requests.post(f"{url}/graphql", json=body, headers=cookie, timeout=60).json()["data"]
    process.terminate()
    reap(process)
    assert shown["findTags"]["tags"] == [{"name": "Court"}]
    assert shown["configuration"] == {"plugins": {"p": {"a": 1}}, "general": {"apiKey": "key"}}
