"""The page's data, all the way: a run writes it, operations answer, decisions reach Stash and the ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from demo.vision.faults import Fault, FaultKind
from tests.e2e.rig import PLAN, MakeRig, Rig, wait_for_questions

EVIL = "<img src=x onerror=alert(1)>"
NASTY = 'the "final"\n<script>alert(2)</script>\u202e & more'


@pytest.fixture
def tagged(make_rig: MakeRig) -> tuple[Rig, int]:
    """A scene that has been tagged, in a library with a nasty title."""
    one = make_rig()
    one.use(one.vision())
    scene = one.stash.add_scene(
        str(one.clip("match")), title=NASTY, duration=20.0, tags=("VLM_TagMe",), fingerprints={"oshash": "0" * 16}
    )
    one.settings["tag_list"] = f"Basketball point, Foul, Dunk, {EVIL}"
    assert not one.run().error
    return one, scene


def lane(one: Rig, scene: int, tag: str = "Dunk") -> Any:
    reply = one.page("scene", id=str(scene))
    (found,) = [lane for lane in reply["lanes"] if lane["tag"] == tag]
    return found


def decide(one: Rig, scene: int, action: str, span: Mapping[str, Any], tag: str = "Dunk", **more: Any) -> Any:
    decision = {"action": action, "tag": tag, "start": span["start"], "end": span["end"], **more}
    if span.get("marker_id"):
        decision["marker_id"] = span["marker_id"]
    return one.page("review", id=str(scene), decisions=[decision])


def dunks(one: Rig, scene: int) -> list[tuple[float, float]]:
    return [(start, end) for tag, start, end in one.spans(scene) if tag == "Dunk"]


def test_what_a_run_leaves_for_the_page(tagged: tuple[Rig, int]) -> None:
    one, _ = tagged
    live = one.plugin_dir / "live"
    status = json.loads((live / "status.json").read_text(encoding="utf-8"))
    assert (status["schema"], status["state"], status["progress"]) == (1, "finished", 1.0)
    assert status["media"] == {"total": 1, "done": 1, "current": []}
    assert status["questions"]["asked"] == 21 and status["looking_at"] is None
    assert status["endpoints"][0]["done"] == 21 and status["endpoints"][0]["remote"] is False
    assert not list(live.glob("*.jpg"))
    runs = json.loads((live / "runs.json").read_text(encoding="utf-8"))
    (run,) = runs["runs"]
    assert (run["mode"], run["markers"], run["ok"], run["counts"]["tagged"]) == ("tag_videos", 3, True, 1)
    assert one.page("runs") == runs and one.page("status") == status and one.page("check")["check"] is None
    report = (live / run["report"]).read_text(encoding="utf-8")
    assert report.count("data:image/jpeg;base64,") >= 6 and "<svg" in report
    assert "<script" not in report and "<img src=x" not in report and "\u202e" not in report


def test_everything_to_see_of_a_scene(tagged: tuple[Rig, int]) -> None:
    one, scene = tagged
    reply = one.page("scene", id=scene)
    assert reply["scene"]["duration"] == 20.0 and reply["scene"]["title"] == NASTY
    assert [found["tag"] for found in reply["lanes"]] == ["Basketball point", "Foul", "Dunk", EVIL]
    (span,) = lane(one, scene)["spans"]
    assert span["state"] == "ours" and abs(span["start"] - 14) <= 1 and span["confidence"] > 0.5
    assert [s["t"] for s in reply["samples"]] == [*map(float, range(20)), 19.9]
    assert {s["state"] for s in reply["samples"]} == {"asked"}


def test_pictures_on_demand(tagged: tuple[Rig, int]) -> None:
    one, scene = tagged
    found = one.page("thumbnails", id=scene, times=[3.0, 15.5, 600])["thumbnails"]
    assert [t["t"] for t in found] == [3.0, 15.5, 600]
    assert all(t["image"].startswith("data:image/jpeg;base64,") for t in found[:2])


def test_a_rejected_marker_of_ours_goes_and_does_not_come_back_until_it_is_confirmed(tagged: tuple[Rig, int]) -> None:
    one, scene = tagged
    (span,) = lane(one, scene)["spans"]
    assert decide(one, scene, "reject", span) == {"done": 1, "messages": []}
    assert dunks(one, scene) == []
    (rejected,) = lane(one, scene)["spans"]
    assert (rejected["state"], rejected["marker_id"]) == ("rejected", None)
    one.stash.tag_scene(scene, "VLM_TagMe")
    assert not one.run().error
    assert dunks(one, scene) == []
    assert decide(one, scene, "confirm", rejected)["done"] == 1
    assert dunks(one, scene) == [(span["start"], span["end"])]
    (back,) = lane(one, scene)["spans"]
    assert back["state"] == "confirmed" and back["marker_id"]
    assert not one.run("Undo Last Run").error  # what the review wrote is ours, so it can be taken back
    assert dunks(one, scene) == []


def test_a_moved_marker_is_the_users(tagged: tuple[Rig, int]) -> None:
    one, scene = tagged
    (span,) = lane(one, scene)["spans"]
    assert decide(one, scene, "move", span, new_start=12.25, new_end=19.0) == {"done": 1, "messages": []}
    (moved,) = lane(one, scene)["spans"]
    assert (moved["start"], moved["end"], moved["state"]) == (12.25, 19.0, "user")
    assert not one.run("Undo Last Run").error
    assert dunks(one, scene) == [(12.25, 19.0)]


def test_a_users_marker_is_never_removed(tagged: tuple[Rig, int]) -> None:
    one, scene = tagged
    assert decide(one, scene, "add", {"start": 1, "end": 2})["done"] == 1
    added = lane(one, scene)["spans"][0]
    assert (added["start"], added["end"], added["state"]) == (1.0, 2.0, "user")
    twice = decide(one, scene, "add", {"start": 1, "end": 2})
    assert twice["done"] == 0 and "already" in twice["messages"][0]
    said = decide(one, scene, "reject", added)
    assert said["done"] == 1 and "VLM_Incorrect" in said["messages"][0]
    assert (1.0, 2.0) in dunks(one, scene)
    (marker,) = [m for m in one.stash.markers(scene) if m["seconds"] == 1.0]
    assert "VLM_Incorrect" in marker["tags"]


def test_reviewed_markers_carry_the_status_tags_of_other_tools(tagged: tuple[Rig, int]) -> None:
    """Stash Marker Studio reads the status of a marker from a second tag, whose name is the user's choice."""
    one, scene = tagged
    names = {"confirmed_marker_tag": "Marker Status: Confirmed", "rejected_marker_tag": "Marker Status: Rejected"}
    (one.folder / "config" / "haven_vlm_config.yaml").write_text(json.dumps(names), encoding="utf-8")
    (span,) = lane(one, scene)["spans"]
    for _ in range(2):  # saying it twice does no harm
        assert decide(one, scene, "confirm", span) == {"done": 1, "messages": []}
    (marker,) = [m for m in one.stash.markers(scene) if m["primary_tag"] == "Dunk"]
    assert marker["tags"] == ["Marker Status: Confirmed"]
    before = one.stash.markers(scene)
    one.stash.tag_scene(scene, "VLM_TagMe")
    assert not one.run().error
    assert one.stash.markers(scene) == before, "what is confirmed stays as it is"
    assert decide(one, scene, "add", {"start": 1, "end": 2})["done"] == 1
    assert decide(one, scene, "reject", lane(one, scene)["spans"][0])["done"] == 1
    (marker,) = [m for m in one.stash.markers(scene) if m["seconds"] == 1.0]
    assert sorted(marker["tags"]) == ["Marker Status: Rejected", "VLM_Incorrect"]


@pytest.mark.parametrize(
    ("op", "args", "sentence"),
    [
        ("dance", {}, "no operation of the page"),
        ("scene", {}, "the number of a scene is needed"),
        ("scene", {"id": "1; drop"}, "the number of a scene is needed"),
        ("scene", {"id": 99}, "There is no scene 99"),
        ("thumbnails", {"id": 1, "times": [1] * 49}, "48 at most"),
        ("thumbnails", {"id": 1, "times": ["1"]}, "a list of seconds"),
        ("thumbnails", {"id": 1, "times": [1e300]}, "a list of seconds"),
        ("review", {"id": 1, "decisions": []}, "a list of 1 to"),
        ("review", {"id": 1, "decisions": [{"action": "eat"}]}, "action must be one of confirm"),
        (
            "review",
            {"id": 1, "decisions": [{"action": "add", "tag": "Dunk", "start": 3, "end": 1}]},
            "before the start",
        ),
    ],
)
def test_a_wrong_call_is_answered_in_words(make_rig: MakeRig, op: str, args: dict[str, Any], sentence: str) -> None:
    one = make_rig()
    one.use("http://127.0.0.1:9/v1")
    one.scene()
    assert sentence in one.page(op, **args)["error"]


def test_a_folder_that_cannot_be_written_costs_the_live_page_and_nothing_else(make_rig: MakeRig) -> None:
    one = make_rig()
    one.use(one.vision())
    (one.plugin_dir / "live").write_text("a file where a folder should be", encoding="utf-8")
    scene = one.scene()
    result = one.run()
    assert not result.error and any("cannot be written to" in line.text for line in result.logs)
    one.assert_true(scene)
    assert one.page("runs")["runs"][0]["markers"] == len(PLAN.spans)
    assert one.page("status")["state"] == "finished"


def test_a_killed_run_is_listed_as_stopped_by_the_next(make_rig: MakeRig) -> None:
    one = make_rig()
    server = one.vision(script=lambda occasion: Fault(FaultKind.HANG) if occasion.number >= 5 else None)
    one.use(server)
    one.scene()
    process = one.start("Tag Videos")
    wait_for_questions(server, 5)  # the others are never answered
    process.kill()
    process.wait(60)
    assert not one.run("Undo Last Run").error
    undo, killed = one.page("runs")["runs"]
    assert (undo["mode"], undo["stopped"]) == ("undo", False)
    assert (killed["mode"], killed["stopped"], killed["ok"]) == ("tag_videos", True, False)
    assert "All answers until then are kept" in killed["summary"]


@pytest.mark.parametrize(
    "how", ["tags_per_question: 5\n", "frames_per_question: 3\n", "tags_per_question: 5\nframes_per_question: 2\n"]
)
def test_lanes_and_samples_however_the_questions_are_cut(make_rig: MakeRig, how: str) -> None:
    one = make_rig()
    one.use(one.vision())
    one.settings["tag_list"] = "Basketball point, Turnover, Free throw, Fast break, Timeout, Break-away, Foul, Dunk"
    (one.folder / "config" / "haven_vlm_config.yaml").write_text(how, encoding="utf-8")
    scene = one.scene()
    assert not one.run().error
    reply = one.page("scene", id=str(scene))
    shown = {(lane["tag"], s["start"], s["end"], s["state"]) for lane in reply["lanes"] for s in lane["spans"]}
    assert shown == {(tag, start, end, "ours") for tag, start, end in one.spans(scene)}
    assert len(reply["lanes"]) == 8 and len(shown) == len(PLAN.spans)
    assert [(s["t"], s["state"]) for s in reply["samples"]] == [(t, "asked") for t in (*map(float, range(20)), 19.9)]
    assert all(set(s["tags"]) == PLAN.at(round(s["t"] * 1000)) for s in reply["samples"])


def test_a_preview_has_a_report_too(make_rig: MakeRig) -> None:
    one = make_rig()
    one.use(one.vision())
    one.scene()
    result = one.run("Preview")
    assert re.search(r"Report: .*\.html", str(result.output))
    (run,) = one.page("runs")["runs"]
    assert run["written"] is False and (one.plugin_dir / "live" / run["report"]).is_file()
