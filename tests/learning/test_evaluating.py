"""How right a model is, computed by hand and by the product."""

from __future__ import annotations

import json
import random

import pytest

from bench.scoring import settings
from haven_vlm.evaluating import Calibration, Counts, as_json, enough_to_say, evaluate, table
from haven_vlm.facts import Outcome, Sample
from haven_vlm.reviewed import Reviewed, TagTruth


def sample(at_ms: int, foul: float = 0.0, *, inherited: int | None = None) -> Sample:
    tags = {"Foul": foul} if foul else {}
    return Sample(at_ms, at_ms, Outcome.TAGS if tags else Outcome.NONE, tags, "m", inherited)


def scene(samples: list[Sample], *spans: tuple[int, int], points: tuple[int, ...] = ()) -> Reviewed:
    return Reviewed("1", 100_000, {s.at_ms: s for s in samples}, {"Foul": TagTruth(spans, points)})


def whole(scene: Reviewed) -> bool:
    return len(scene.samples) > 40


def counts(*scenes: Reviewed) -> tuple[int, int, int, int]:
    (score,) = evaluate({"m": scenes}, settings(tag_list=["Foul"]), covers=whole)
    c = score.counts
    return c.right, c.invented, c.missed, c.absent


def test_frames_are_counted_inside_and_outside_of_true_spans() -> None:
    samples = [
        sample(5_000),
        sample(8_000, 0.9),  # invented
        sample(19_700),  # too near to an end to tell
        sample(20_300, 0.9),  # too near
        sample(25_000, 0.9),  # right
        sample(30_000, 0.4),  # below the threshold: missed
        sample(35_000),  # missed
        sample(36_000, 0.9, inherited=35_000),  # the model was not asked
        Sample(37_000, 37_000, Outcome.REFUSED),
    ]
    assert counts(scene(samples, (20_000, 40_000))) == (1, 1, 2, 1)


def test_a_marker_without_end_says_nothing_about_frames() -> None:
    assert counts(scene([sample(5_000, 0.9)], points=(5_000,))) == (0, 0, 0, 0)


def test_shares() -> None:
    c = Counts(right=6, invented=2, missed=4, absent=100)
    assert [c.precision, c.recall, c.f1] == pytest.approx([0.75, 0.6, 2 / 3])
    nothing = Counts(absent=50)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.enough) == (None, None, None, False)


def test_calibration_is_the_distance_of_being_sure_and_being_right() -> None:
    calibration = Calibration()
    for _ in range(8):
        calibration.note(0.95, right=True)
    for number in range(4):
        calibration.note(0.65, right=number == 0)
    # 8 frames 0.05 off, 4 frames 0.40 off
    assert calibration.error == pytest.approx((8 * 0.05 + 4 * 0.40) / 12)
    assert [n for n, _, _ in calibration.bins()] == [4, 8]
    assert [f for _, *both in calibration.bins() for f in both] == pytest.approx([0.65, 0.25, 0.95, 1.0])
    assert Calibration().error is None
    edge = Calibration()
    edge.note(1.0, right=True)
    assert edge.frames[-1] == 1


def test_a_calibrated_model_shows_a_small_error_and_an_overconfident_one_a_large_one() -> None:
    dice = random.Random(1)
    honest, boasting = Calibration(), Calibration()
    for _ in range(5000):
        sure = dice.random()
        honest.note(sure, right=dice.random() < sure)
        boasting.note(0.9 + sure / 10, right=dice.random() < 0.5)
    assert honest.error is not None and boasting.error is not None
    assert honest.error < 0.05 < 0.4 < boasting.error


def test_ends_and_spans_only_where_nearly_all_is_answered() -> None:
    every = scene([sample(at, 0.9 if 22_000 <= at < 40_000 else 0.0) for at in range(0, 100_000, 2000)],
                  (20_000, 40_000))  # fmt: skip
    part = scene([sample(at, 0.9) for at in range(22_000, 40_000, 2000)], (20_000, 40_000))
    (score,) = evaluate({"m": [every]}, settings(tag_list=["Foul"]), covers=whole)
    (tag,) = score.tags
    assert tag.spans is not None and tag.spans.errors_ms == (1000, 1000)
    (score,) = evaluate({"m": [part]}, settings(tag_list=["Foul"]), covers=whole)
    assert score.tags[0].spans is None
    assert score.counts.right == 9


def test_two_models_stand_below_each_other_and_as_json() -> None:
    good = [sample(at, 0.95 if 20_000 < at < 80_000 else 0.0) for at in range(1000, 100_000, 2000)]
    poor = [sample(at, 0.8) for at in range(1000, 100_000, 2000)]
    spans = ((20_000, 80_000),)
    scores = evaluate(
        {"large": [scene(good, *spans)], "tiny": [scene(poor, *spans)]}, settings(tag_list=["Foul"]), covers=whole
    )
    lines = table(scores).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["Foul", "large"], ["Foul", "tiny"]]
    assert "100%" in lines[1] and "60%" in lines[2]
    assert any(line.startswith("tiny: always equally sure") for line in lines)
    figures = json.loads(json.dumps(as_json(scores)))
    assert [m["tags"][0]["precision"] for m in figures] == [1.0, 0.6]
    assert enough_to_say(scores) == ""


def test_too_little_is_said() -> None:
    scores = evaluate(
        {"m": [scene([sample(30_000, 0.9)], (20_000, 40_000))]}, settings(tag_list=["Foul"]), covers=whole
    )
    assert "not enough to go by yet: 1 frame" in enough_to_say(scores)
    assert "say little yet" in table(scores)
    assert "not enough" in enough_to_say(())
