"""Examples, as a user goes: tag, correct, let models see what was meant, and look whether it helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo.footage import Plan
from haven_vlm.facts import Span
from tests.e2e.rig import PLAN, TAGS, Rig
from tests.e2e.test_learning import stash_said

ARGS = {"examples": 3}


def corrected(one: Rig) -> int:
    """A scene that was tagged, and whose foul the user deletes."""
    scene = one.scene("corrected")
    assert one.run().error is None
    (foul,) = [m for m in one.stash.markers(scene) if m["primary_tag"] == "Foul"]
    stash_said(one, "mutation($i:ID!){sceneMarkerDestroy(id:$i)}", i=foul["id"])
    return scene


def another(one: Rig, name: str = "another") -> int:
    """A scene of its own, with the same spans a little later."""
    moved = tuple(Span(s.tag, s.start_ms + 1000, s.end_ms + 1000, 1.0) for s in PLAN.spans)
    return one.scene(name, plan=Plan(PLAN.duration_ms, moved, TAGS, motion="busy"))


def pictures(one: Rig) -> list[Path]:
    return sorted((one.folder / "config" / "haven_vlm" / "examples").glob("*"))


def evaluation(one: Rig) -> list[dict[str, Any]]:
    (file,) = (one.folder / "config" / "haven_vlm" / "reports").glob("*-evaluation.json")
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["models"]
    return found


def test_what_was_corrected_is_shown_with_frames_of_other_scenes_and_evaluated_apart(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    corrected(one)
    asked = len(server.questions())
    scene = another(one)
    assert one.run(args=ARGS).error is None

    guided = server.questions()[asked:]
    assert {len(e.examples) for e in guided} == {3} and len({e.examples for e in guided}) == 1
    assert len({e.text for e in guided}) == 1  # all before the picture in question is the same
    assert set(TAGS) <= set(one.stash.scene_tags(scene))
    kept = [file.read_bytes() for file in pictures(one)]
    assert len(kept) == 3 and all(jpeg.startswith(b"\xff\xd8") for jpeg in kept)
    assert len({e.picture for e in guided}) == len(guided)

    # the same again asks nothing, with the same examples, without, and with fewer
    for args in (ARGS, {}, {"examples": 1}):
        one.stash.tag_scene(scene, "VLM_TagMe")
        assert one.run(args=args).error is None
    assert len(server.questions()) == asked + len(guided)
    assert len(pictures(one)) == 1  # those that are no longer shown are gone

    # the examples' own scene is not asked with them
    (dunk,) = [m for m in one.stash.markers(scene) if m["primary_tag"] == "Dunk"]
    stash_said(one, "mutation($i:ID!){sceneMarkerDestroy(id:$i)}", i=dunk["id"])
    result = one.run("Evaluate")
    assert result.error is None and "demo-vlm + examples" in str(result.output)
    assert {m["model"] for m in evaluation(one)} == {"demo-vlm", "demo-vlm + examples", "all together"}


def test_without_corrections_the_plain_question_is_asked(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    scene = one.scene()
    assert one.run(args=ARGS).error is None
    one.assert_true(scene)
    assert {e.examples for e in server.questions()} == {()}
    assert pictures(one) == []


def test_a_server_that_takes_one_picture_is_asked_without(one: Rig) -> None:
    server = one.vision(most_pictures=1)
    one.use(server)
    corrected(one)
    scene = another(one)
    assert one.run(args=ARGS).error is None
    assert set(TAGS) <= set(one.stash.scene_tags(scene))
    assert {e.examples for e in server.questions()} == {()}
    assert [e.status for e in server.questions()].count(400) == 1  # looking whether it takes two


def test_a_corrected_scene_whose_file_is_gone_gives_none_and_the_run_goes_on(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    corrected(one)
    (one.folder / "media" / "corrected.mp4").unlink()
    scene = another(one)
    assert one.run(args=ARGS).error is None
    assert set(TAGS) <= set(one.stash.scene_tags(scene))
    assert {e.examples for e in server.questions()} == {()}
