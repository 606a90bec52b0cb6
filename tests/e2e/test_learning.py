"""Find Marker Settings, Apply Marker Settings and Evaluate, as a user goes: tag, tune by hand, find, apply, update."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from demo.footage import Plan
from demo.stash import JobResult
from haven_vlm.facts import Span
from tests.e2e.rig import TAGS, Rig

YAML = "# my settings\nvideo_frame_interval: 1  # every second\nsampling: fixed\n"


def pulses(shift_s: int) -> Plan:
    """Fouls in bursts with pauses of 6 s, which the user takes for one; a dunk that is one."""
    starts = (3, 12, 21, 45, 54)
    spans = [Span("Foul", (s + shift_s) * 1000, (s + shift_s + 3) * 1000, 1.0) for s in starts]
    spans.append(Span("Dunk", (34 + shift_s) * 1000, (38 + shift_s) * 1000, 1.0))
    return Plan(70_000, tuple(spans), TAGS)


def wanted(shift_s: int) -> list[tuple[str, float, float]]:
    """As the user wants it: bursts are one foul."""
    return [
        ("Foul", 3.0 + shift_s, 24.0 + shift_s),
        ("Dunk", 34.0 + shift_s, 38.0 + shift_s),
        ("Foul", 45.0 + shift_s, 57.0 + shift_s),
    ]


def off(one: Rig, scene: int, shift_s: int) -> float:
    """Seconds by which the scene's markers miss what the user wants, a marker missing or too much counting 60."""
    found = sorted(one.spans(scene), key=lambda m: m[1])
    true = wanted(shift_s)
    if [t for t, _, _ in found] != [t for t, _, _ in true]:
        return 60.0 * abs(len(found) - len(true)) + 60
    return sum(abs(a[1] - b[1]) + abs(a[2] - b[2]) for a, b in zip(found, true, strict=True))


def tune(one: Rig, scene: int, shift_s: int) -> None:
    """Through Stash, as its page does: the first marker of a burst is drawn out, the others are deleted."""
    markers = sorted((m for m in one.stash.markers(scene) if m["primary_tag"] == "Foul"), key=lambda m: m["seconds"])
    for tag, start, end in wanted(shift_s):
        if tag != "Foul":
            continue
        inside = [m for m in markers if start - 2 <= m["seconds"] < end]
        stash_said(
            one,
            "mutation($i:SceneMarkerUpdateInput!){sceneMarkerUpdate(input:$i){id}}",
            i={"id": inside[0]["id"], "seconds": start, "end_seconds": end},
        )
        for marker in inside[1:]:
            stash_said(one, "mutation($i:ID!){sceneMarkerDestroy(id:$i)}", i=marker["id"])


def stash_said(one: Rig, document: str, **variables: Any) -> Any:
    body = json.dumps({"query": document, "variables": variables}).encode()
    request = urllib.request.Request(f"{one.stash.url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        reply = json.load(answer)
    assert not reply.get("errors"), reply
    return reply["data"]


@pytest.fixture
def tuned(one: Rig) -> Rig:
    """Six scenes tagged, five of them gone through by hand."""
    (one.folder / "config" / "haven_vlm_config.yaml").write_text(YAML, encoding="utf-8")
    one.settings = {"tag_list": ", ".join(TAGS)}
    one.use(one.vision())
    for number in range(6):
        one.scene(f"match {number}", plan=pulses(number))
    result = one.run()
    assert result.error is None
    return one


def scenes(one: Rig) -> list[int]:
    return sorted(one.stash.snapshot()["scenes"])


def questions(one: Rig) -> list[object]:
    return [question for server in one.servers for question in server.questions()]


def said(result: JobResult) -> str:
    assert result.error is None, result.error
    return str(result.output)


def report(one: Rig, what: str) -> Any:
    (file,) = (one.folder / "config" / "haven_vlm" / "reports").glob(f"*-{what}.json")
    return json.loads(file.read_text(encoding="utf-8"))


def test_markers_tuned_by_hand_make_settings_that_fit_a_scene_nobody_tuned(tuned: Rig) -> None:
    one, everything = tuned, scenes(tuned)
    unseen, shift = everything[5], 5
    before = off(one, unseen, shift)
    for shift_s, scene in enumerate(everything[:5]):
        tune(one, scene, shift_s)
    asked = len(questions(one))
    state = one.stash.snapshot()

    text = said(one.run("Find Marker Settings"))
    proposal = one.folder / "config" / "haven_vlm_config.proposed.yaml"
    config = one.folder / "config" / "haven_vlm_config.yaml"
    assert "5 scenes gone through" in text and str(proposal) in text and "held out" in text
    assert one.stash.snapshot() == state  # nothing is changed by looking
    assert config.read_text(encoding="utf-8") == YAML
    assert "was 4s" in proposal.read_text(encoding="utf-8")
    found = report(one, "marker-settings")
    (foul,) = [t for t in found["tags"] if t["tag"] == "Foul"]
    assert list(foul["changes"]) == ["max_gap"]
    assert foul["held_out"]["after"]["iou"] > foul["held_out"]["before"]["iou"]

    text = said(one.run("Apply Marker Settings"))
    assert "max_gap 4s → " in text and "Update Results" in text
    assert config.read_text(encoding="utf-8").startswith(YAML)
    (copy,) = config.parent.glob("haven_vlm_config.yaml.*.backup")
    assert copy.read_text(encoding="utf-8") == YAML
    assert "in effect already" in said(one.run("Apply Marker Settings"))

    for scene in everything:
        one.stash.tag_scene(scene, "VLM_UpdateMe")
    said(one.run("Update Results"))
    assert off(one, unseen, shift) < 4 < before
    for shift_s, scene in enumerate(everything[:5]):
        mine = sorted(m for m in one.spans(scene) if m[0] == "Foul")
        assert mine == [m for m in wanted(shift_s) if m[0] == "Foul"]  # what the user set stays as they set it
    assert len(questions(one)) == asked
    again = said(one.run("Find Marker Settings"))
    assert "No other settings are proposed" in again and not proposal.exists()


def test_a_proposal_for_another_vocabulary_is_refused(tuned: Rig) -> None:
    for shift_s, scene in enumerate(scenes(tuned)[:5]):
        tune(tuned, scene, shift_s)
    said(tuned.run("Find Marker Settings"))
    tuned.settings["tag_list"] = "Foul, Dunk, Timeout"
    result = tuned.run("Apply Marker Settings")
    assert result.error and "other tags or definitions" in result.error
    config = tuned.folder / "config" / "haven_vlm_config.yaml"
    assert config.read_text(encoding="utf-8") == YAML


def test_evaluate_says_how_right_the_model_is(tuned: Rig) -> None:
    one = tuned
    for shift_s, scene in enumerate(scenes(one)[:5]):
        tune(one, scene, shift_s)
    asked = len(questions(one))
    text = said(one.run("Evaluate"))
    assert "precision" in text and "Foul" in text and "demo-vlm" in text
    (model,) = report(one, "evaluation")["models"]
    by_tag = {t["tag"]: t for t in model["tags"]}
    assert by_tag["Dunk"]["f1"] == 1.0 and by_tag["Dunk"]["spans"]["iou"] > 0.8
    assert by_tag["Foul"]["precision"] == 1.0 and by_tag["Foul"]["recall"] < 0.8  # the pauses count as missed
    assert len(questions(one)) == asked


def test_with_nothing_to_learn_from_it_is_said(one: Rig) -> None:
    one.use(one.vision())
    for task in ("Find Marker Settings", "Evaluate"):
        assert "nothing to learn from yet" in said(one.run(task))
    result = one.run("Apply Marker Settings")
    assert result.error and "no proposal" in result.error


def test_markers_by_hand_where_no_answers_are_known_are_left_out_with_the_reason(one: Rig, tmp_path: Path) -> None:
    one.use(one.vision())
    scene = one.scene(tags=())
    one.stash.add_marker(scene, 1.0, "Foul", end_seconds=5.0)
    text = said(one.run("Find Marker Settings"))
    assert "Left out, 1 scene: the ledger has no answers" in text
