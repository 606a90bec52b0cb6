"""Settings that are looked for in corrections: found again, and never worse on what was held out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bench.corrections import answers, findings_by_tag, scenes_by, truth_of
from bench.scoring import settings
from bench.truth import Unsure, loose
from haven_vlm.agreement import Tally, compare
from haven_vlm.facts import Outcome, Sample
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm.settings import Settings
from haven_vlm.timeline import conclude
from haven_vlm.tuning import Proposal, propose
from haven_vlm.tuning_text import as_json, proposal_yaml, table
from haven_vlm_config import parse_yaml
from haven_vlm_utility import Length

TAGS = ("Foul", "Dunk", "Timeout")


def of(hidden: dict[str, dict[str, float]], **more: object) -> Settings:
    return settings(tag_list=list(TAGS), tag_settings=hidden, **more)


def applied(today: Settings, proposal: Proposal) -> Settings:
    changes = {t.tag: {key: after for key, (_, after) in t.changes.items()} for t in proposal.changed}
    return Settings.model_validate({**today.model_dump(), "tag_settings": changes})


def quality(scenes: list[Reviewed], of: Settings) -> float:
    verdicts = []
    for scene in scenes:
        found = findings_by_tag(conclude(scene.samples, scene.duration_ms, of), of)
        for tag, truth in scene.truth.items():
            verdicts += compare(truth.spans, found[tag])
    return Tally.of(verdicts).quality


def pulsed(tag: str, pulses: list[tuple[int, int, float]], duration_s: int, every_ms: int = 1000) -> dict[int, Sample]:
    """Answers in which a tag is named in given stretches (seconds) with a given confidence."""
    samples = {}
    for at in range(0, duration_s * 1000, every_ms):
        sure = max((c for start, end, c in pulses if start * 1000 <= at < end * 1000), default=0.0)
        samples[at] = Sample(at, at, Outcome.TAGS if sure else Outcome.NONE, {tag: sure} if sure else {})
    return samples


@pytest.mark.parametrize(
    "hidden",
    [
        {"Foul": {"threshold": 0.7}, "Dunk": {"threshold": 0.35}},
        {"Foul": {"max_gap": 12.0}},
        {"Foul": {"threshold": 0.6, "max_gap": 20.0}, "Timeout": {"min_marker_duration": 12.0}},
    ],
    ids=["thresholds", "gap", "several"],
)
def test_the_settings_that_made_the_corrections_are_found_again(hidden: dict[str, dict[str, float]]) -> None:
    today, wanted = of({}), of(hidden)
    scenes = scenes_by(wanted, 12, minutes=6, seed=3, model=Unsure(0.03, 1), tags=TAGS, per_minute=8)
    unseen = scenes_by(wanted, 6, minutes=6, seed=4, model=Unsure(0.03, 2), tags=TAGS, per_minute=8)
    proposal = propose(scenes, today)
    found = applied(today, proposal)
    assert {t.tag for t in proposal.changed} == set(hidden)
    assert quality(scenes, found) > 0.995
    assert quality(unseen, found) > max(0.97, quality(unseen, today))


def test_each_value_is_found_again_where_it_alone_decides() -> None:
    """Long and short pulses, near and far apart, sure and unsure: one value of the grid fits."""
    dice = random.Random(5)
    wanted = settings(
        tag_list=["Foul"], threshold=0.5, tag_settings={"Foul": {"max_gap": 10.0, "min_marker_duration": 8.0}}
    )
    scenes = []
    for number in range(8):
        pulses, at = [], 5
        while at < 560:
            length = dice.choice((4, 6, 7, 9, 20))
            pulses.append((at, at + length, 0.8))
            at += length + dice.choice((6, 9, 9, 11, 40))
        samples = pulsed("Foul", pulses, 600)
        truth = truth_of(findings_by_tag(conclude(samples, 600_000, wanted), wanted))
        scenes.append(Reviewed(str(number), 600_000, samples, truth))
    (result,) = propose(scenes, settings(tag_list=["Foul"])).tags
    assert not result.refused
    assert result.changes["max_gap"][1] == Length(10.0)
    assert result.changes["min_marker_duration"][1] == Length(8.0)
    assert "threshold" not in result.changes  # nothing speaks for another one, so today's stays
    assert result.held_out[1].quality > 0.999


@examples(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), scenes=st.integers(1, 7), sloppy=st.sampled_from((0.0, 0.3, 1.0)))
def test_what_is_proposed_never_makes_held_out_scenes_worse(seed: int, scenes: int, sloppy: float) -> None:
    """Whatever the user did: consistent, partly at random, or wholly at random."""
    dice = random.Random(seed)
    wanted = of({"Foul": {"threshold": dice.choice((0.3, 0.7)), "max_gap": dice.choice((0.0, 15.0))}})
    reviewed = []
    for number in range(scenes):
        clip = loose(4, 10, seed + number)
        clip = replace(clip, tags=TAGS, spans=tuple(s for s in clip.spans if s.tag in TAGS))
        samples = answers(clip, Unsure(0.05, seed), seed + number)
        by_tag = findings_by_tag(conclude(samples, clip.duration_ms, wanted), wanted)
        truth = {}
        for tag, spans in by_tag.items():
            kept = [s for s in spans if dice.random() >= sloppy]
            moved = [(a + 500, b + dice.randrange(1000, 9000)) if dice.random() < sloppy else (a, b) for a, b in kept]
            truth[tag] = TagTruth(tuple(moved), carried=bool(moved))
        reviewed.append(Reviewed(str(number), clip.duration_ms, samples, truth))
    proposal = propose(reviewed, of({}))
    for result in proposal.tags:
        if not result.refused:
            assert result.held_out[1].quality >= result.held_out[0].quality
            assert result.fitted[1].quality > result.fitted[0].quality
    assert proposal.stretches == (scenes < 5)
    # what was said of all scenes is what the timeline itself makes of the proposal
    for result in proposal.tags:
        only = [replace(s, truth={result.tag: s.truth[result.tag]}) for s in reviewed]
        if not result.refused:
            assert quality(only, applied(of({}), proposal)) == pytest.approx(result.fitted[1].quality)


def test_corrections_at_random_are_not_learned() -> None:
    dice = random.Random(1)
    scenes = []
    for number in range(10):
        clip = loose(5, 12, number)
        samples = answers(clip, Unsure(0.02, 1), number)
        starts = [dice.randrange(0, 250_000) for _ in range(4)]
        truth = {"Foul": TagTruth(tuple((s, s + 9_000) for s in sorted(starts)))}
        scenes.append(Reviewed(str(number), clip.duration_ms, samples, truth))
    proposal = propose(scenes, of({}))
    for result in proposal.changed:
        assert result.held_out[1].quality >= result.held_out[0].quality


def test_too_little_to_go_by_is_said() -> None:
    samples = pulsed("Foul", [(10, 20, 0.6), (40, 50, 0.6)], 100)
    scene = Reviewed("1", 100_000, samples, {"Foul": TagTruth(())})
    (result,) = propose([scene], of({})).tags
    assert "too little to go by: 2 spans in 2 stretches" in result.refused
    assert result.changes == {}


def test_a_tag_the_user_always_rejects_is_asked_for_more() -> None:
    """All of its markers were deleted: the threshold goes beyond its confidence."""
    scenes = [
        Reviewed(
            str(n),
            200_000,
            pulsed("Foul", [(20, 30, 0.62), (60 + n, 75, 0.58), (120, 140, 0.66)], 200),
            {"Foul": TagTruth((), carried=False)},
        )
        for n in range(6)
    ]
    (result,) = propose(scenes, of({})).tags
    assert not result.refused
    assert result.best.threshold >= 0.65
    assert result.held_out[1].invented == 0


def test_tags_that_exclude_each_other_are_fitted_as_they_are_read() -> None:
    wanted = of({"Foul": {"threshold": 0.7}}, exclusive_groups=[("Foul", "Dunk")])
    today = of({}, exclusive_groups=[("Foul", "Dunk")])
    scenes = scenes_by(wanted, 14, minutes=6, seed=8, model=Unsure(0.05, 3), tags=TAGS, per_minute=8)
    found = applied(today, propose(scenes, today))
    assert quality(scenes, found) > quality(scenes, today)


def test_the_time_a_scene_needs_for_a_tag_is_fitted_to_the_scenes_that_have_it() -> None:
    """Ten seconds in all are too few for the user, twenty-five are enough."""
    scenes = []
    for n in range(10):
        enough = n % 2 == 0
        pulses = [(20, 30, 0.9), (100, 115, 0.9)] if enough else [(50, 60, 0.9)]
        samples = pulsed("Foul", pulses, 200)
        today = conclude(samples, 200_000, of({}))
        spans = findings_by_tag(today, of({}))["Foul"]
        scenes.append(Reviewed(str(n), 200_000, samples, {"Foul": TagTruth(tuple(spans), carried=enough)}))
    proposal = propose(scenes, of({}))
    (result,) = proposal.tags
    assert result.refused == "today's settings fit"
    assert result.required is not None and result.mistaken == (5, 0)
    assert list(result.changes) == ["required_duration"]
    assert 10 < result.required[1].seconds <= 25
    wrong = "scenes that have or lack it wrongly: 5 → 0"
    assert f"({wrong}); otherwise as it is: today's settings fit" in table(proposal)
    written = proposal_yaml(proposal, of({}), made="2026-01-01")
    assert f"#   {wrong}" in written and "held out" not in written.split("# Foul")[1], "its ends are fitted as they are"
    values = parse_yaml(written, "proposal")["tag_settings"]["Foul"]
    assert values == {"required_duration": str(result.required[1])}
    (row,) = as_json(proposal)["tags"]
    assert row["scenes_wrong"] == {"before": 5, "after": 0} and list(row["changes"]) == ["required_duration"]


def test_progress_goes_to_the_end() -> None:
    told: list[float] = []
    propose(scenes_by(of({}), 2, minutes=2, seed=1, tags=TAGS), of({}), step=told.append)
    assert told == sorted(told) and told[-1] == 1.0
