"""Collect Incorrect Markers from the button to the folder: flags, removals, moves, kills, and what must not happen."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.court import Canvas
from demo.footage import Plan
from haven_vlm.facts import Span
from tests.e2e.rig import TAGS, Rig
from tests.images.oddities import encoded

FLAG = "VLM_Incorrect"
PLAN = Plan(12_000, (Span("Foul", 3_000, 6_000, 1.0), Span("Dunk", 8_000, 11_000, 1.0)), TAGS)


def folders(one: Rig) -> list[Path]:
    return sorted(p for p in (one.folder / "config").glob("**/incorrect/*") if p.is_dir())


def lines(folder: Path, name: str = "corrections.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def collected(one: Rig) -> list[dict[str, Any]]:
    (folder,) = folders(one)
    return lines(folder)


def marker(one: Rig, scene: int, tag: str) -> int:
    return int(next(m["id"] for m in one.stash.markers(scene) if m["primary_tag"] == tag))


@pytest.fixture
def looked_at(one: Rig) -> tuple[Rig, int]:
    """A scene with two markers of ours and one of the user's."""
    one.use(one.vision())
    scene = one.scene(plan=PLAN)
    assert one.run().error is None
    one.stash.add_marker(scene, 1.0, "Mine", end_seconds=2.0)
    return one, scene


def collect(one: Rig) -> str:
    result = one.run("Collect Incorrect Markers")
    assert result.error is None, result.error
    return str(result.output)


def test_a_flagged_marker_is_kept_with_its_pictures_and_answers(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    wrong = marker(one, scene, "Foul")
    one.stash.tag_marker(wrong, FLAG)
    before = one.stash.markers(scene)
    said = collect(one)
    assert "Collected 1 correction (1 rejected) with 5 pictures" in said
    assert "1 flag cleared, 0 wrong markers removed" in said
    (line,) = collected(one)
    assert (line["verdict"], line["source"], line["tag"], line["marker_id"]) == ("rejected", "flag", "Foul", str(wrong))
    assert (line["kind"], line["medium_id"], line["title"], line["local_only"]) == ("scene", str(scene), "match", False)
    assert "Foul" in line["prompt"]["system"]
    assert [f["place"] for f in line["frames"]] == ["outside_before", "start", "middle", "end", "outside_after"]
    assert [f["applies"] for f in line["frames"]] == [None, False, False, False, None]
    assert [sorted(f["answer"]["tags"]) for f in line["frames"]] == [[], ["Foul"], ["Foul"], ["Foul"], []]
    (folder,) = folders(one)
    for frame in line["frames"]:
        with Image.open(folder / frame["file"]) as picture:
            assert (picture.format, picture.size) == ("JPEG", (frame["width_px"], frame["height_px"]))
    chats = lines(folder, "training.jsonl")
    assert [c["messages"][2]["content"] for c in chats] == ['{"tags":[]}'] * 3
    assert not (folder / "training.local-only.jsonl").exists()
    after = one.stash.markers(scene)
    assert [{**m, "tags": [t for t in m["tags"] if t != FLAG]} for m in before] == after, "only the flag is gone"
    assert str(one.folder) not in (folder / "corrections.jsonl").read_text(encoding="utf-8")


def test_nothing_is_collected_twice(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    one.stash.tag_marker(marker(one, scene, "Foul"), FLAG)
    collect(one)
    assert "Nothing new to collect" in collect(one)
    one.stash.tag_marker(marker(one, scene, "Foul"), FLAG)
    said = collect(one)
    assert "Nothing new to collect" in said
    assert "1 flag cleared" in said
    assert len(collected(one)) == 1


def test_wrong_markers_go_if_the_settings_say_so_and_come_back_by_undo(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    one.settings["remove_incorrect_markers"] = True
    mine = marker(one, scene, "Mine")
    moved = marker(one, scene, "Dunk")
    one.stash.store.run("UPDATE scene_markers SET seconds = 8.5 WHERE id = ?", moved)
    for flagged in (marker(one, scene, "Foul"), mine, moved):
        one.stash.tag_marker(flagged, FLAG)
    said = collect(one)
    assert "2 flags cleared, 1 wrong marker removed" in said
    assert "2 flagged markers not removed" in said
    assert [(m["primary_tag"], m["tags"]) for m in one.stash.markers(scene)] == [("Mine", []), ("Dunk", [])]
    one.stash.tag_scene(scene, "VLM_TagMe")
    assert one.run().error is None
    assert [m["primary_tag"] for m in one.stash.markers(scene)] == ["Mine", "Dunk"], "and it is not made again"
    run = max(r["id"] for r in runs(one) if r["mode"] == "collect_incorrect_markers")
    undone = one.run("Undo Last Run", {"run": run})
    assert undone.error is None
    assert "1 marker restored" in str(undone.output)
    foul = next(m for m in one.stash.markers(scene) if m["primary_tag"] == "Foul")
    assert foul["tags"] == [FLAG], "as it was"


def runs(one: Rig) -> list[dict[str, Any]]:
    (ledger,) = (one.folder / "config").glob("**/ledger.sqlite")
    with closing(sqlite3.connect(ledger)) as db:
        return [{"id": i, "mode": mode} for i, mode in db.execute("SELECT id, mode FROM runs")]


def test_what_the_user_removed_or_moved_is_collected_without_a_flag(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    one.stash.delete("scene_markers", marker(one, scene, "Foul"))
    moved = marker(one, scene, "Dunk")
    one.stash.store.run("UPDATE scene_markers SET seconds = 9.0 WHERE id = ?", moved)
    one.stash.untag_scene(scene, "Foul")
    said = collect(one)
    assert "Collected 3 corrections (1 moved, 2 rejected)" in said
    by_verdict = {(c["verdict"], c["tag"], c["before_ms"] is None): c for c in collected(one)}
    whole = by_verdict["rejected", "Foul", True]
    assert {f["place"] for f in whole["frames"]} == {"moment"}
    assert all([*f["answer"]["tags"]] == ["Foul"] for f in whole["frames"])
    span = by_verdict["moved", "Dunk", False]
    assert span["after_ms"][0] == 9000
    marked = {f["at_ms"]: f["applies"] for f in span["frames"]}
    assert marked[8000] is False
    assert marked[9000] is True
    assert None in marked.values(), "outside both spans the user said nothing"
    assert all(c["source"] == "stash" for c in by_verdict.values())


def test_images_galleries_and_whole_scenes(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    ids = []
    for n, size in enumerate(((3200, 1800), (320, 180))):
        picture = encoded(Canvas(*size).backdrop(n, frozenset({"Dunk"}), TAGS), "JPEG", quality=85)
        path = one.folder / "media" / f"{n}.jpg"
        path.write_bytes(picture)
        tags = ("VLM_TagMe",)
        ids.append(one.stash.add_image(path, tags=tags, size=len(picture), width=size[0], height=size[1]))
    gallery = one.stash.add_gallery(title="Best of", images=ids, tags=("VLM_TagMe",))
    assert one.run("Tag Images").error is None
    one.stash.tag_image(ids[0], FLAG, "VLM_LocalOnly")
    one.stash.tag_scene(scene, FLAG)
    one.stash.store.run("INSERT INTO galleries_tags VALUES (?, ?)", gallery, one.stash.tag_id(FLAG))
    said = collect(one)
    assert "Collected 3 corrections" in said
    assert "3 flags cleared" in said
    assert "What must stay on this network: 2 corrections." in said, "the image, and the gallery that holds it"
    image, shown, whole = sorted(collected(one), key=lambda c: ("image", "gallery", "scene").index(c["kind"]))
    assert (image["tag"], image["results"], image["local_only"]) == ("", [{"tag": "Dunk"}], True)
    assert (image["width_px"], image["height_px"]) == (3200, 1800)
    (frame,) = image["frames"]
    assert (frame["width_px"], frame["place"], [*frame["answer"]["tags"]]) == (640, "picture", ["Dunk"])
    assert [f["image_id"] for f in shown["frames"]] == [str(i) for i in ids]
    assert shown["local_only"] is True
    assert [r["tag"] for r in whole["results"]] == ["Foul", "Dunk"]
    assert len(whole["frames"]) == 10, "five of each marker"
    left = one.stash.scene_tags(scene) + one.stash.image_tags(ids[0]) + one.stash.gallery_tags(gallery)
    assert FLAG not in left
    assert one.run("Undo Last Run").error is None
    assert FLAG in one.stash.image_tags(ids[0])


def test_a_broken_file_keeps_its_flag_and_says_why(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    other = one.scene("second", plan=PLAN)
    assert one.run().error is None
    for each in (scene, other):
        one.stash.tag_marker(marker(one, each, "Foul"), FLAG)
    path = one.folder / "media" / "match.mp4"
    shutil.move(path, path.with_suffix(".bak"))
    path.write_bytes(b"nothing that moves" * 100)
    result = one.run("Collect Incorrect Markers")
    assert result.error is not None
    assert "Collected 1 correction" in result.error
    assert "1 problem; what could not be collected keeps its flag" in result.error
    problems = [line for line in collected(one) if "problem" in line]
    assert [(p["medium_id"], "frames" in p) for p in problems] == [(str(scene), False)]
    assert [FLAG in m["tags"] for s in (scene, other) for m in one.stash.markers(s) if m["primary_tag"] == "Foul"] == [
        True,
        False,
    ]
    shutil.move(path.with_suffix(".bak"), path)
    assert "Collected 1 correction" in collect(one)
    assert len(folders(one)) == 2


def test_a_deleted_scene_ends_the_matter(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    one.stash.untag_scene(scene, "Foul")
    one.stash.tag_scene(scene, "VLM_TagMe")
    assert one.run().error is None
    one.stash.delete("scenes", scene)
    said = collect(one)
    assert "1 correction without pictures" in said
    (line,) = collected(one)
    assert line["gone"] is True
    assert "Nothing new" in collect(one)


def test_the_flag_in_place_of_the_primary_tag(looked_at: tuple[Rig, int]) -> None:
    one, scene = looked_at
    flag = one.stash.tag_id(FLAG)
    for tag in ("Foul", "Mine"):
        one.stash.store.run("UPDATE scene_markers SET primary_tag_id = ? WHERE id = ?", flag, marker(one, scene, tag))
    result = one.run("Collect Incorrect Markers")
    assert result.error is not None
    assert "give it another one in Stash" in result.error
    assert [m["primary_tag"] for m in one.stash.markers(scene)] == [FLAG, "Foul", "Dunk"]
    assert sorted((c["tag"], c["before_ms"][0]) for c in collected(one)) == [("", 1000), ("Foul", 2500)]


def test_killed_at_any_request_nothing_is_lost_or_doubled(looked_at: tuple[Rig, int]) -> None:
    """Each round kills one request later, until a run comes through."""
    one, scene = looked_at
    one.settings["remove_incorrect_markers"] = True
    one.stash.tag_marker(marker(one, scene, "Foul"), FLAG)
    one.stash.tag_scene(scene, FLAG)
    one.stash.delete("scene_markers", marker(one, scene, "Dunk"))
    for number in range(5, 80, 2):
        if not killed(one, number):
            break
    else:
        pytest.fail("no run came through")
    assert number > 15, "it was killed a few times"
    assert [m["primary_tag"] for m in one.stash.markers(scene)] == ["Mine"]
    assert FLAG not in one.stash.scene_tags(scene)
    everything = [line for folder in folders(one) for line in lines(folder)]
    numbers = [line["correction"] for line in everything]
    assert len(numbers) == len(set(numbers)) == 3
    for folder in folders(one):
        assert not (folder / ".unfinished").exists()
        for line in lines(folder):
            for frame in line["frames"]:
                Image.open(io.BytesIO((folder / frame["file"]).read_bytes())).load()


def killed(one: Rig, number: int) -> bool:
    """Kill a run at its n-th request to Stash; False: it needed fewer."""
    seen = 0
    process: list[Any] = []
    started = threading.Event()

    def count(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            started.wait(30)
            process[0].kill()

    one.stash.on_request(count)
    process.append(one.start("Collect Incorrect Markers"))
    started.set()
    process[0].wait(120)
    return seen >= number


def test_ids_are_refused(one: Rig) -> None:
    one.use(one.vision())
    result = one.run("Collect Incorrect Markers", {"ids": "1"})
    assert result.error is not None
    assert "takes no ids" in result.error
