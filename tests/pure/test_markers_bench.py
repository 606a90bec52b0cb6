"""The bench of markers measures what it says, and its last line can be read by a program."""

from __future__ import annotations

import json

import pytest

from bench.markers import main
from bench.scoring import run, score, settings
from bench.truth import Clip, Perfect, loose
from haven_vlm.facts import Sample, Span
from tests.pure.looking import sample, seen


def test_the_last_line_is_json_with_the_figures_and_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clips", "2", "--only", "fixed"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = last["tables"]["fixed"]
    assert row["calls"] == 301
    assert row["iou"] > 0.85
    assert all(last["kept"].values())


def test_a_score_tells_missed_invented_and_displaced_spans_apart() -> None:
    clip = Clip(60_000, (Span("Dunk", 9000, 21_000, 1), Span("Foul", 30_000, 34_000, 1)), (), "still", 0)
    times = range(0, 60_000, 2000)
    answers: dict[int, Sample] = seen(
        *(
            sample(t, *(["Dunk"] if 12_000 <= t <= 20_000 else []), *(["Turnover"] if t >= 40_000 else []))
            for t in times
        )
    )
    result = score(clip, answers, 30, settings(sampling="fixed"))
    assert result.missed_s == (4.0,)
    assert result.invented == 1
    assert result.errors_s == (2.0, 0.0)
    assert result.iou == pytest.approx((10 / 12 + 0 + 0) / 3)


def test_a_perfect_model_is_asked_once_for_each_moment() -> None:
    clip = loose(2, 3, 1)
    samples, calls = run(clip, Perfect(), settings())
    assert calls == len(samples)
    assert all(set(s.tags) == clip.at(t) for t, s in samples.items())
