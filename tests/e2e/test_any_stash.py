"""The user's whole way through GraphQL alone: the same against the embedded Stash and the one named by STASH_BIN."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.footage import cached_clip, truth_of
from demo.vision_server import VisionServer
from tests.e2e.kills import SHORT
from tests.e2e.rig import ROOT, TAGS, wait_for_questions
from tests.stash import servers
from tests.stash.conftest import BOTH
from tests.stash.servers import Server

PLUGIN = "ahavenvlmconnector"
RUN = 'mutation($n:String!){runPluginTask(plugin_id:"ahavenvlmconnector",task_name:$n)}'


class Library:
    """Three clips in a Stash, and the plugin installed there as a person would: by copying its folder."""

    def __init__(self, server: Server, vision: VisionServer) -> None:
        self.server = server
        self.vision = vision
        self.scenes: list[str] = server.ids("scenes")

    def run(self, task: str) -> None:
        """Press a button and wait for the job's end."""
        self.server.wait_for_job(self.server.data(RUN, n=task)["runPluginTask"], 90)

    def scene(self, scene_id: str) -> tuple[list[str], list[tuple[str, str, float, float | None]]]:
        """Tags, and markers with title, primary tag, start and end."""
        found: Any = self.server.data(
            "query($i:ID!){findScene(id:$i){tags{name} scene_markers{title seconds end_seconds primary_tag{name}}}}",
            i=scene_id,
        )["findScene"]
        markers = [
            (m["title"], m["primary_tag"]["name"], float(m["seconds"]), m["end_seconds"])
            for m in found["scene_markers"]
        ]
        return sorted(t["name"] for t in found["tags"]), sorted(markers)

    def mark(self, *names: str) -> None:
        """Put tags on all scenes."""
        for name in names:
            self.server.data(
                "mutation($i:BulkSceneUpdateInput!){bulkSceneUpdate(input:$i){id}}",
                i={"ids": self.scenes, "tag_ids": {"mode": "ADD", "ids": [self.tag(name)]}},
            )

    def change(self, scene_id: str, mode: str, name: str) -> None:
        """Put a tag on a scene by hand, or take it off."""
        wanted = {"ids": [scene_id], "tag_ids": {"mode": mode, "ids": [self.tag(name)]}}
        self.server.data("mutation($i:BulkSceneUpdateInput!){bulkSceneUpdate(input:$i){id}}", i=wanted)

    def marker(self, scene_id: str, name: str) -> str:
        """Id of the scene's marker of this tag."""
        query = "query($i:ID!){findScene(id:$i){scene_markers{id primary_tag{name}}}}"
        found = self.server.data(query, i=scene_id)["findScene"]["scene_markers"]
        (marker_id,) = [str(m["id"]) for m in found if m["primary_tag"]["name"] == name]
        return marker_id

    def undo_everything(self) -> None:
        query = RUN.replace("$n:String!", "$n:String!,$m:Map").replace("task_name:$n", "task_name:$n,args_map:$m")
        job = self.server.data(query, n="Undo Last Run", m={"everything": True})["runPluginTask"]
        self.server.wait_for_job(job, 90)

    def tag(self, name: str) -> str:
        found = self.server.data("{findTags(filter:{per_page:-1}){tags{id name}}}")["findTags"]["tags"]
        ids = [t["id"] for t in found if t["name"] == name]
        return str(ids[0]) if ids else self.server.tag(name)


@pytest.fixture(params=BOTH)
def library(request: pytest.FixtureRequest, tmp_path: Path, clips: Path) -> Iterator[Library]:
    media = tmp_path / "media"
    media.mkdir()
    for i in range(3):
        # one frame more each, so that Stash does not take them for copies of one file
        plan = SHORT.__class__(SHORT.duration_ms + 100 * i, SHORT.spans, SHORT.tags)
        shutil.copyfile(cached_clip(clips, plan, size=(320, 180), fps=10, gop=20), media / f"match{i}.mp4")
    start = {"embedded": servers.embedded, "real": servers.real}[request.param]
    with (
        start(tmp_path / "own", media) as server,
        VisionServer(see=partial(truth_of, tags=TAGS), slots=2, latency_s=0.02).in_thread() as vision,
    ):
        target = server.plugins / PLUGIN
        target.mkdir()
        for item in [*ROOT.glob("haven_*.py"), ROOT / "ahavenvlmconnector.yml"]:
            shutil.copy(item, target)
        shutil.copytree(ROOT / "haven_vlm", target / "haven_vlm", ignore=shutil.ignore_patterns("__pycache__"))
        server.data("mutation{reloadPlugins}")
        server.scan(media)
        settings = {
            "endpoints": f"{vision.base_url} max=2",
            "tag_list": ", ".join(TAGS),
            "video_frame_interval": "1",
            "sampling": "fixed",
            "data_dir": str(tmp_path / "data"),
        }
        server.data('mutation($i:Map!){configurePlugin(plugin_id:"ahavenvlmconnector",input:$i)}', i=settings)
        yield Library(server, vision)


def test_from_install_to_markers_and_back(library: Library) -> None:
    library.run("Tag Videos")  # nothing is tagged yet: the tag is made
    library.mark("VLM_TagMe", "Mine")
    first = library.scenes[0]
    library.server.marker(first, 0.5, library.tag("Mine"), title="By hand", end_seconds=1.0)
    before = {s: library.scene(s) for s in library.scenes}

    library.run("Tag Videos")
    after = {s: library.scene(s) for s in library.scenes}
    for tags, markers in after.values():
        assert {"Foul", "Dunk", "Mine", "VLM_Tagged"} == set(tags)
        for tag in ("Foul", "Dunk"):
            ((_, _, start, end),) = [m for m in markers if m[1] == tag]
            (span,) = SHORT.spans_of(tag)
            assert end is not None
            assert abs(start * 1000 - span.start_ms) <= 1000 and abs(end * 1000 - span.end_ms) <= 1200
    assert ("By hand", "Mine", 0.5, 1) in after[first][1]

    asked = len(library.vision.questions())
    library.mark("VLM_TagMe")
    library.run("Tag Videos")  # the same again: no question, and not a marker moves
    assert {s: library.scene(s) for s in library.scenes} == after
    assert len(library.vision.questions()) == asked

    library.run("Undo Last Run")  # the second run took the mark off, and nothing else
    library.run("Undo Last Run")
    assert {s: library.scene(s) for s in library.scenes} == before


def test_stopped_in_the_middle_and_started_again(library: Library) -> None:
    library.mark("VLM_TagMe")
    job = library.server.data(RUN, n="Tag Videos")["runPluginTask"]
    wait_for_questions(library.vision, 6)
    library.server.data("mutation($i:ID!){stopJob(job_id:$i)}", i=job)
    library.server.wait_for_job(job, 60)
    time.sleep(0.2)  # what was in flight is answered to nobody
    library.run("Tag Videos")
    for scene in library.scenes:
        tags, markers = library.scene(scene)
        assert {"Foul", "Dunk", "VLM_Tagged"} == set(tags)
        assert sorted(m[1] for m in markers) == ["Dunk", "Foul"]
    assert len(library.vision.questions()) <= 3 * 8 + 2


def test_scenes_with_the_tag_that_stash_names_for_vr_are_seen_with_one_eye(library: Library, tmp_path: Path) -> None:
    """The pictures of two scenes are alike but for the tag: of the one that has it the whole is sent no more."""
    media = tmp_path / "media"
    for name, length_ms in (("wide0", 3000), ("wide1", 3100)):
        plan = SHORT.__class__(length_ms, (), SHORT.tags)
        shutil.copyfile(cached_clip(tmp_path, plan, size=(480, 240), fps=10, gop=20), media / f"{name}.mp4")
    server, seen = library.server, list[tuple[int, int]]()
    server.scan(media)
    _, _, _, flat, spherical = server.ids("scenes")
    server.data("mutation($p:Map){configureUI(partial:$p)}", p={"vrTag": "Virtual Reality"})
    for scene, names in ((flat, ["VLM_TagMe"]), (spherical, ["VLM_TagMe", "Virtual Reality"])):
        given = {"id": scene, "tag_ids": [library.tag(n) for n in names]}
        server.data("mutation($i:SceneUpdateInput!){sceneUpdate(input:$i){id}}", i=given)

    def see(jpeg: bytes) -> list[str]:
        with Image.open(io.BytesIO(jpeg)) as picture:
            seen.append(picture.size)
        return []

    with VisionServer(see=see).in_thread() as vision:
        server.data(
            'mutation($i:Map!){configurePlugin(plugin_id:"ahavenvlmconnector",input:$i)}',
            i={
                "endpoints": vision.base_url,
                "tag_list": ", ".join(TAGS),
                "data_dir": str(tmp_path / "vr"),
                "concurrent_task_limit": 1,
            },
        )
        library.run("Tag Videos")
    assert set(seen) == {(480, 240), (174, 168)}


def test_what_is_edited_by_hand_is_the_users_from_then_on(library: Library) -> None:
    """Run, edit a marker, delete one, take a tag off and put one on; run again; undo everything."""
    library.mark("VLM_TagMe", "Mine")
    library.run("Tag Videos")
    first, second, third = library.scenes
    moved = library.marker(first, "Foul")
    library.server.data(
        "mutation($i:SceneMarkerUpdateInput!){sceneMarkerUpdate(input:$i){id}}", i={"id": moved, "seconds": 0.7}
    )
    library.server.data("mutation($i:ID!){sceneMarkerDestroy(id:$i)}", i=library.marker(first, "Dunk"))
    library.change(second, "REMOVE", "Dunk")
    library.change(third, "ADD", "Favourite")
    edited = {s: library.scene(s) for s in library.scenes}

    library.mark("VLM_TagMe")
    library.run("Tag Videos")
    assert {s: library.scene(s) for s in library.scenes} == edited, "nothing is removed, moved back, or made again"
    library.mark("VLM_UpdateMe")
    library.run("Update Results")
    assert {s: library.scene(s) for s in library.scenes} == edited

    library.undo_everything()
    tags, markers = library.scene(first)
    marks = {"VLM_TagMe", "VLM_UpdateMe"}  # the runs took them off: the user had put them there
    assert set(tags) == {"Mine", *marks}
    assert [(tag, start) for _, tag, start, _ in markers] == [("Foul", 0.7)], "the user's, since they moved it"
    assert library.scene(second) == (sorted({"Mine", *marks}), [])
    assert set(library.scene(third)[0]) == {"Mine", "Favourite", *marks}


def test_stopped_while_it_writes_and_started_again(library: Library) -> None:
    library.mark("VLM_TagMe", "Mine")
    before = {s: library.scene(s) for s in library.scenes}
    job = library.server.data(RUN, n="Tag Videos")["runPluginTask"]
    give_up = time.monotonic() + 60
    while not any(library.scene(s)[1] for s in library.scenes):  # the first marker stands: stop
        assert time.monotonic() < give_up
    library.server.data("mutation($i:ID!){stopJob(job_id:$i)}", i=job)
    library.server.wait_for_job(job, 60)
    library.run("Tag Videos")
    for scene in library.scenes:
        tags, markers = library.scene(scene)
        assert {"Foul", "Dunk", "Mine", "VLM_Tagged"} == set(tags)
        assert sorted(m[1] for m in markers) == ["Dunk", "Foul"]
    library.undo_everything()
    assert {s: library.scene(s) for s in library.scenes} == before


def test_merged_scenes_and_merged_and_renamed_tags_stay_ours(library: Library) -> None:
    """What Stash itself moves is no edit: an update knows it again, and undo takes it back wherever it is now."""
    library.mark("VLM_TagMe")
    library.run("Tag Videos")
    first, second, third = library.scenes
    library.server.data(
        "mutation($i:SceneMergeInput!){sceneMerge(input:$i){id}}", i={"source": [second], "destination": first}
    )
    library.scenes = [first, third]
    library.server.data(
        "mutation($i:TagsMergeInput!){tagsMerge(input:$i){id}}",
        i={"source": [library.tag("Foul")], "destination": library.tag("Offence")},
    )
    library.server.data(
        "mutation($i:TagUpdateInput!){tagUpdate(input:$i){id}}", i={"id": library.tag("Dunk"), "name": "Slam"}
    )
    assert sorted(m[1] for m in library.scene(first)[1]) == ["Offence", "Offence", "Slam", "Slam"]
    library.undo_everything()
    for scene in library.scenes:
        tags, markers = library.scene(scene)
        assert markers == []
        assert "Slam" not in tags and "VLM_Tagged" not in tags and "VLM_TagMe" in tags


def test_the_vocabulary_is_what_stands_below_a_tag(library: Library, tmp_path: Path) -> None:
    """A tree of three levels; a renamed tag in Stash with an alias that the model knows; a parent is implied."""
    server = library.server
    make = "mutation($i:TagCreateInput!){tagCreate(input:$i){id}}"

    def tag(name: str, **more: Any) -> str:
        return str(server.data(make, i={"name": name, **more})["tagCreate"]["id"])

    sport = tag("Sport")
    tag("VLM_TagMe", parent_ids=[sport])  # one of the connector's own, by mistake in the wrong place
    points = tag("Points", parent_ids=[sport])
    tag("Dunk", parent_ids=[points], description="The ball is pushed\ndown through the hoop.")
    tag("Foul", parent_ids=[sport])
    tag("Basketball point", parent_ids=[sport], aliases=["Basket"])
    tag("Elsewhere")
    settings = {
        "endpoints": f"{library.vision.base_url} max=2",
        "tag_parent": "sport",
        "video_frame_interval": "1",
        "sampling": "fixed",
        "data_dir": str(tmp_path / "data"),
    }
    server.data('mutation($i:Map!){configurePlugin(plugin_id:"ahavenvlmconnector",input:$i)}', i=settings)
    library.mark("VLM_TagMe")
    library.run("Tag Videos")
    for scene in library.scenes:
        tags, markers = library.scene(scene)
        assert set(tags) == {"Foul", "Dunk", "Points", "VLM_Tagged"}
        assert sorted({m[1] for m in markers}) == ["Dunk", "Foul", "Points"]
