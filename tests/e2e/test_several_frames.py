"""Several frames in one question, and a time budget, from the button to the markers."""

from __future__ import annotations

import pytest

from demo.vision.faults import Fault, FaultKind
from tests.e2e.rig import PLAN, Rig


def test_coarse_frames_share_questions_and_the_markers_are_as_right(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    args = {"frames_per_question": 4, "sampling": "refine", "video_frame_interval": 2}
    scene = one.scene()
    result = one.run(args=args)
    assert result.error is None
    one.assert_true(scene, tolerance_s=0.6)
    sizes = [e.pictures for e in server.questions()]
    assert sizes.count(4) == 2 and sum(size > 1 for size in sizes) == 3  # 0, 2, … 18, and the end: 4 + 4 + 3
    assert server.asked_twice() == {}
    asked = len(sizes)
    one.stash.tag_scene(scene, "VLM_TagMe")
    one.run(args=args)
    assert len(server.questions()) == asked


@pytest.mark.parametrize("trouble", ["one picture is left out each time", "the context is small"])
def test_what_goes_wrong_in_company_is_asked_again_and_nothing_else(one: Rig, trouble: str) -> None:
    small = trouble == "the context is small"
    server = one.vision(context=1000) if small else one.vision()
    if not small:
        server.script = lambda o: None if o.is_probe else Fault(FaultKind.LEAVES_OUT)
    one.use(server)
    scene = one.scene()
    one.run(args={"frames_per_question": 8, "sampling": "refine", "video_frame_interval": 2})
    one.assert_true(scene, tolerance_s=0.6)
    assert server.asked_twice() == {}
    if small:
        assert max(e.pictures for e in server.questions() if e.answered) in (2, 4)


def test_an_endpoint_that_takes_one_picture_gets_one(one: Rig) -> None:
    server = one.vision(most_pictures=1)
    one.use(server)
    scene = one.scene()
    one.run(args={"frames_per_question": 4})
    one.assert_true(scene)
    assert {e.pictures for e in server.questions() if e.status == 200} == {1}


def test_when_the_time_is_up_the_scene_keeps_its_mark_and_the_next_run_goes_on(one: Rig) -> None:
    server = one.vision(latency_s=0.3, slots=1)
    one.use(f"{server.base_url} max=1")
    scene = one.scene()
    result = one.run(args={"max_time_per_scene": 2})
    assert "the time was up (max_time_per_scene)" in result.output
    assert {"VLM_TagMe", "VLM_Tagged"} <= set(one.stash.scene_tags(scene))
    assert 0 < len(server.questions()) < PLAN.duration_ms // 1000
    one.run()
    one.assert_true(scene)
    assert "VLM_TagMe" not in one.stash.scene_tags(scene)
    assert server.asked_twice() == {}
