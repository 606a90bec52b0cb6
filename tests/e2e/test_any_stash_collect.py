"""Images of every kind tagged from the button, flags set, and collected: embedded, and with the Stash of STASH_BIN."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.court import Canvas
from demo.footage import cached_clip, truth_of
from demo.vision_server import VisionServer
from tests.e2e.kills import SHORT
from tests.e2e.rig import ROOT, TAGS
from tests.e2e.test_any_stash import PLUGIN, Library
from tests.images.oddities import encoded
from tests.stash import servers
from tests.stash.conftest import BOTH

FLAG = "VLM_Incorrect"
BULK = {"image": "bulkImageUpdate", "gallery": "bulkGalleryUpdate", "sceneMarker": "bulkSceneMarkerUpdate"}


def court(*present: str, shot: int) -> Image.Image:
    return Canvas(640, 360).backdrop(shot, frozenset(present), TAGS)


@pytest.fixture(params=BOTH)
def library(request: pytest.FixtureRequest, tmp_path: Path, clips: Path) -> Iterator[Library]:
    media, loops = tmp_path / "media", tmp_path / "loops"
    media.mkdir()
    loops.mkdir()
    shutil.copyfile(cached_clip(clips, SHORT, size=(320, 180), fps=10, gop=20), media / "match.mp4")
    (media / "dunk.jpg").write_bytes(encoded(court("Dunk", shot=1), "JPEG", quality=85))
    with zipfile.ZipFile(media / "album.zip", "w") as album:
        for number in (2, 3):
            album.writestr(f"höhe/{number}.png", encoded(court("Foul", shot=number), "PNG"))
    first, *rest = [court(*some, shot=4) for some in ((), ("Basketball point",), ("Dunk",))]
    (media / "moving.gif").write_bytes(encoded(first, "GIF", save_all=True, append_images=rest, duration=300))
    start = {"embedded": servers.embedded, "real": servers.real}[request.param]
    with (
        start(tmp_path / "own", media) as server,
        VisionServer(see=partial(truth_of, tags=TAGS), slots=2).in_thread() as vision,
    ):
        target = server.plugins / PLUGIN
        target.mkdir()
        for item in [*ROOT.glob("haven_*.py"), ROOT / "ahavenvlmconnector.yml"]:
            shutil.copy(item, target)
        shutil.copytree(ROOT / "haven_vlm", target / "haven_vlm", ignore=shutil.ignore_patterns("__pycache__"))
        server.data("mutation{reloadPlugins}")
        if server.kind == "real":  # the embedded scan makes no clips of videos; elsewhere they are added by hand
            longer = SHORT.__class__(SHORT.duration_ms + 500, SHORT.spans, SHORT.tags)
            shutil.copyfile(cached_clip(clips, longer, size=(320, 180), fps=10, gop=20), loops / "loop.mp4")
            folders = [
                {"path": str(media), "excludeVideo": False, "excludeImage": False},
                {"path": str(loops), "excludeVideo": True, "excludeImage": False},
            ]
            server.data(
                "mutation($i:ConfigGeneralInput!){configureGeneral(input:$i){createImageClipsFromVideos}}",
                i={"createImageClipsFromVideos": True, "stashes": folders},
            )
            server.scan(loops)
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


def images(library: Library) -> dict[str, dict[str, Any]]:
    """File name → id and tags."""
    found = library.server.data(
        "{findImages(filter:{per_page:-1}){images{id tags{name} visual_files{__typename"
        " ... on ImageFile{path} ... on VideoFile{path}}}}}"
    )["findImages"]["images"]
    return {
        image["visual_files"][0]["path"].rsplit("/", 1)[1]: {
            "id": image["id"],
            "type": image["visual_files"][0]["__typename"],
            "tags": {t["name"] for t in image["tags"]},
        }
        for image in found
    }


def put(library: Library, kind: str, ids: list[str], tag: str) -> None:
    """Add a tag, as a person does with what they have selected."""
    given = {"ids": ids, "tag_ids": {"mode": "ADD", "ids": [library.tag(tag)]}}
    type_name = f"B{BULK[kind][1:]}Input"
    library.server.data(f"mutation($i:{type_name}!){{{BULK[kind]}(input:$i){{id}}}}", i=given)


def test_every_kind_of_image_tagged_flagged_and_collected(library: Library, tmp_path: Path) -> None:
    library.run("Tag Images")  # makes the trigger tag
    every = {name: image["id"] for name, image in images(library).items()}
    put(library, "image", list(every.values()), "VLM_TagMe")
    galleries = library.server.ids("galleries")
    put(library, "gallery", galleries, "VLM_TagMe")
    library.mark("VLM_TagMe")
    library.run("Tag Images")
    library.run("Tag Videos")

    seen = {name: image["tags"] & set(TAGS) for name, image in images(library).items()}
    wanted = {"dunk.jpg": {"Dunk"}, "2.png": {"Foul"}, "3.png": {"Foul"}, "moving.gif": {"Basketball point", "Dunk"}}
    if library.server.kind == "real":
        wanted["loop.mp4"] = {"Foul", "Dunk"}
        assert images(library)["loop.mp4"]["type"] == "VideoFile"
    assert seen == wanted
    (gallery,) = library.server.data("{findGalleries{galleries{tags{name}}}}")["findGalleries"]["galleries"]
    assert {"Foul", "VLM_Tagged"} == {t["name"] for t in gallery["tags"]}

    put(library, "image", list(every.values()), FLAG)
    put(library, "gallery", galleries, FLAG)
    query = "{findSceneMarkers{scene_markers{id primary_tag{name} tags{name}}}}"
    markers = {
        m["primary_tag"]["name"]: m["id"] for m in library.server.data(query)["findSceneMarkers"]["scene_markers"]
    }
    put(library, "sceneMarker", [markers["Foul"]], FLAG)
    library.server.data("mutation($i:[ID!]!){sceneMarkersDestroy(ids:$i)}", i=[markers["Dunk"]])
    library.run("Collect Incorrect Markers")

    (folder,) = (p for p in (tmp_path / "data" / "incorrect").iterdir() if p.is_dir())
    lines = [json.loads(line) for line in (folder / "corrections.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "problem" in line] == []
    by_medium = {(line["kind"], line["medium_id"], line["tag"]): line for line in lines}
    assert len(by_medium) == len(lines) == len(every) + 3
    for name, image_id in every.items():
        line = by_medium["image", image_id, ""]
        assert {r["tag"] for r in line["results"]} == wanted[name]
        assert len(line["frames"]) == {"moving.gif": 3, "loop.mp4": 5}.get(name, 1)
        assert set().union(*(f["answer"]["tags"] for f in line["frames"])) == wanted[name], name
    assert len(by_medium["gallery", galleries[0], ""]["frames"]) == 2
    scene = library.scenes[0]
    assert by_medium["scene", scene, "Foul"]["source"] == "flag"
    assert by_medium["scene", scene, "Dunk"]["source"] == "stash"
    for line in lines:
        for frame in line["frames"]:
            assert Image.open(io.BytesIO((folder / frame["file"]).read_bytes())).size == (
                frame["width_px"],
                frame["height_px"],
            )
    assert all(FLAG not in image["tags"] for image in images(library).values())
    (left,) = library.server.data(query)["findSceneMarkers"]["scene_markers"]
    assert (left["primary_tag"]["name"], left["tags"]) == ("Foul", [])
