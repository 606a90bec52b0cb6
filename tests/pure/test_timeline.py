"""From answers to tags and spans: what holds for any answers, and each rule of the settings."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from haven_vlm.facts import Outcome, Sample, Span
from haven_vlm.sampling import make_sampler
from haven_vlm.spans import merge, within, without
from haven_vlm.timeline import Findings, Rules, TagRule, TagTotal, conclude, judged, related, spans
from tests.pure.looking import TAGS, failed, moody, right, run, sample, seen, settings

DURATION = 60_000


@st.composite
def samples(draw: st.DrawFn) -> dict[int, Sample]:
    """Any answers at any moments."""
    found = {}
    for at_ms in draw(st.sets(st.integers(0, DURATION), max_size=40)):
        tags = draw(st.dictionaries(st.sampled_from([*TAGS, "Rabona"]), st.floats(0, 1), max_size=3))
        outcome = draw(st.sampled_from([*Outcome]))
        inherited = draw(st.none() | st.integers(0, DURATION))
        kept = tags if outcome is Outcome.TAGS else {}
        found[at_ms] = Sample(at_ms, at_ms, outcome, kept, inherited_from_ms=inherited)
    return found


def scan(*present: tuple[str, int, int], every_ms: int = 2000, duration_ms: int = DURATION) -> dict[int, Sample]:
    """A scan by a model that is right about these tags from and to these moments, both included."""
    times = range(0, duration_ms, every_ms)
    return seen(*(sample(t, *(tag for tag, a, b in present if a <= t <= b)) for t in times))


def found(answers: dict[int, Sample], **changes: object) -> list[tuple[str, int, int]]:
    return [(s.tag, s.start_ms, s.end_ms) for s in conclude(answers, DURATION, settings(**changes)).spans]


# --- whatever the answers are ---


@runs(deadline=None)
@given(samples(), st.integers(0, DURATION), st.sampled_from([0, 1, 4, "10%"]), st.sampled_from([0, 0.3, 0.5, 1]))
def test_spans_lie_inside_the_medium_in_order_and_apart(
    answers: dict[int, Sample], duration_ms: int, gap: object, threshold: float
) -> None:
    wanted = settings(max_gap=gap, threshold=threshold, min_marker_duration=0)
    result = conclude(answers, duration_ms, wanted)
    assert list(result.spans) == sorted(result.spans, key=lambda s: (s.start_ms, s.end_ms, s.tag))
    by_tag = defaultdict(list)
    for span in result.spans:
        assert 0 <= span.start_ms < span.end_ms <= duration_ms
        assert 0 <= span.confidence <= 1
        assert span.tag in TAGS
        by_tag[span.tag].append(span)
    closest = wanted.max_gap.ms(duration_ms)
    for own in by_tag.values():
        assert all(b.start_ms - a.end_ms > closest for a, b in pairwise(own))
    for total in result.tags.values():
        assert 0 < total.total_ms <= duration_ms
        assert 0 <= total.confidence <= 1


@runs(deadline=None)
@given(samples(), st.randoms())
def test_the_order_of_answers_does_not_matter(answers: dict[int, Sample], dice: random.Random) -> None:
    items = list(answers.items())
    dice.shuffle(items)
    assert conclude(dict(items), DURATION, settings()) == conclude(answers, DURATION, settings())


@runs(deadline=None)
@given(samples(), st.sets(st.integers(0, DURATION)))
def test_what_was_not_analysed_is_no_evidence(answers: dict[int, Sample], holes: set[int]) -> None:
    vain = {t: failed(t) for t in holes if t not in answers}
    assert conclude(answers | vain, DURATION, settings()) == conclude(answers, DURATION, settings())


def test_nothing_analysed_is_nothing_found() -> None:
    nothing = Findings({}, ())
    assert conclude({}, DURATION, settings()) == nothing
    assert conclude(seen(failed(0), failed(2000)), DURATION, settings()) == nothing
    assert conclude(scan(("Dunk", 0, DURATION)), 0, settings()) == nothing


# --- where spans end ---


def test_an_end_lies_midway_between_the_last_absent_and_the_first_present_sample() -> None:
    assert found(scan(("Dunk", 20_000, 30_000))) == [("Dunk", 19_000, 31_000)]


def test_closer_samples_give_closer_ends() -> None:
    closer = seen(sample(19_000), sample(19_500, "Dunk"), sample(31_000, "Dunk"), sample(31_600))
    assert found(scan(("Dunk", 20_000, 30_000)) | closer) == [("Dunk", 19_250, 31_300)]


def test_a_hole_beside_a_span_moves_its_end_to_the_middle_of_the_hole() -> None:
    answers = scan(("Dunk", 20_000, 30_000)) | seen(failed(32_000), failed(34_000))
    assert found(answers) == [("Dunk", 19_000, 33_000)]


def test_spans_touch_the_ends_of_the_medium() -> None:
    assert found(scan(("Dunk", 0, 10_000), ("Foul", 50_000, DURATION))) == [
        ("Dunk", 0, 11_000),
        ("Foul", 49_000, DURATION),
    ]


def test_a_span_does_not_reach_into_a_part_that_could_not_be_analysed() -> None:
    answers = {t: failed(t) if t < 30_000 else s for t, s in scan(("Dunk", 0, 40_000)).items()}
    assert found(answers) == [("Dunk", 28_000, 41_000)]


def test_a_clip_of_one_frame_can_have_tags() -> None:
    assert conclude(seen(sample(0, "Dunk")), 40, settings()).tags["Dunk"].total_ms == 40


def test_spans_of_different_tags_overlap() -> None:
    assert found(scan(("Dunk", 10_000, 30_000), ("Foul", 20_000, 40_000))) == [
        ("Dunk", 9_000, 31_000),
        ("Foul", 19_000, 41_000),
    ]


# --- rules of the settings ---


def test_spans_closer_than_the_gap_are_one() -> None:
    answers = scan(("Dunk", 10_000, 20_000), ("Dunk", 26_000, 40_000))
    assert found(answers, max_gap=3.9) == [("Dunk", 9_000, 21_000), ("Dunk", 25_000, 41_000)]
    assert found(answers, max_gap=4) == [("Dunk", 9_000, 41_000)]


def test_short_spans_get_no_marker_but_count_for_the_total() -> None:
    answers = scan(("Dunk", 10_000, 14_000), ("Dunk", 30_000, 34_000))
    result = conclude(answers, DURATION, settings(min_marker_duration=8))
    assert result.spans == ()
    assert result.tags["Dunk"].total_ms == 12_000


@pytest.mark.parametrize(("required", "tagged"), [(12, True), (12.1, False), ("20%", True), ("21%", False), (0, True)])
def test_a_tag_needs_its_total_time(required: object, tagged: bool) -> None:
    answers = scan(("Dunk", 10_000, 14_000), ("Dunk", 30_000, 34_000))
    assert ("Dunk" in conclude(answers, DURATION, settings(required_duration=required)).tags) == tagged


def test_a_tags_own_settings_win() -> None:
    own = [
        {"name": "Dunk", "threshold": 0.9, "min_marker_duration": "30%", "max_gap": 20, "required_duration": "90%"},
        "Foul",
        "Timeout",
    ]
    rules = Rules.of(
        settings(tag_list=own, threshold=0.4, max_gap=1, min_marker_duration=2, required_duration=3), 10_000
    )
    assert (rules.tags["Dunk"].threshold, rules.tags["Foul"].threshold) == (0.9, 0.4)
    assert (rules.tags["Dunk"].max_gap_ms, rules.tags["Foul"].max_gap_ms) == (20_000, 1000)
    assert (rules.tags["Dunk"].min_marker_ms, rules.tags["Foul"].min_marker_ms) == (3000, 2000)
    assert (rules.tags["Dunk"].required_ms, rules.tags["Foul"].required_ms) == (9000, 3000)


def test_a_clip_shorter_than_the_required_time_can_have_tags() -> None:
    assert Rules.of(settings(required_duration=3), 500).tags["Dunk"].required_ms == 500


def test_a_setting_of_zero_of_a_tag_is_a_setting() -> None:
    own = [{"name": "Dunk", "threshold": 0, "max_gap": 0}]
    rules = Rules.of(settings(tag_list=own), 10_000)
    assert (rules.tags["Dunk"].threshold, rules.tags["Dunk"].max_gap_ms) == (0, 0)


def test_confidences_below_the_threshold_do_not_count_and_from_it_on_they_do() -> None:
    answers = {t: Sample(t, t, Outcome.TAGS, {"Dunk": 0.6}) for t in range(0, DURATION, 2000)}
    assert found(answers, threshold=0.6) == [("Dunk", 0, DURATION)]
    assert found(answers, threshold=0.61) == []


def test_of_an_exclusive_group_the_surest_counts_at_a_time() -> None:
    answers = scan(("Foul", 20_000, 40_000))
    for t in range(10_000, 32_000, 2000):
        answers[t] = Sample(t, t, Outcome.TAGS, {**answers[t].tags, "Dunk": 0.7})
    group = [["Dunk", "Foul"]]
    assert found(answers, exclusive_groups=group) == [("Dunk", 9_000, 19_000), ("Foul", 19_000, 41_000)]


def test_what_a_tag_implies_holds_whenever_it_does() -> None:
    answers = scan(("Dunk", 10_000, 20_000), ("Foul", 16_000, 30_000))
    assert found(answers, implications={"Dunk": ["Foul"], "Foul": ["Timeout"]}) == [
        ("Dunk", 9_000, 21_000),
        ("Foul", 9_000, 31_000),
        ("Timeout", 9_000, 31_000),
    ]


def for_each(
    *, marker_ms: int = 0, required_ms: int = 0, groups: tuple[tuple[str, ...], ...] = (), **implied: tuple[str, ...]
) -> Rules:
    """The same for each tag."""
    return Rules(dict.fromkeys(TAGS, TagRule(0.5, 0, marker_ms, required_ms)), groups, implied)


def test_lengths_count_from_exactly_their_minimum_on() -> None:
    short, long = Span("Dunk", 1000, 3000, 0.4), Span("Dunk", 9000, 12_000, 0.8)
    other = Span("Foul", 500, 5499, 0.9)
    found = [short, other, long]
    assert judged(found, for_each(marker_ms=3000, required_ms=5000)) == Findings(
        {"Dunk": TagTotal(5000, 0.8)}, (other, long)
    )
    assert judged(found, for_each(marker_ms=3001, required_ms=5001)) == Findings({}, (other,))
    assert judged(found, for_each()).tags == {"Dunk": TagTotal(5000, 0.8), "Foul": TagTotal(4999, 0.9)}
    assert judged([long, short], for_each()).tags["Dunk"].confidence == 0.8


@pytest.mark.parametrize(
    ("times", "start"),
    [
        ((4000, 6000, 8000, 10_000, 12_000), 3000),  # usually 2 s apart: four seconds are too far
        ((4000, 6000, 8000, 10_000, 14_000), 0),  # every fourth time 4 s
        ((4000, 6000, 8000, 10_000, 12_000, 16_000), 3000),  # every fifth time
        ((4000, 8000, 12_000, 12_500, 13_000), 0),  # what a search for ends asks for is not what is usual
    ],
)
def test_the_ends_of_a_medium_are_reached_from_the_distance_that_is_usual(times: tuple[int, ...], start: int) -> None:
    """Less than three quarters of the moments are closer; the tag is there from the first one on."""
    answers = seen(*(sample(t, "Dunk") for t in times))
    assert found(answers, max_gap=0, min_marker_duration=0)[0][1] == start


def test_an_end_of_a_medium_that_a_gap_would_hide_is_reached() -> None:
    answers = seen(*(sample(t, "Dunk") for t in range(4000, 30_000, 1000)))
    assert found(answers, max_gap=4)[0][1] == 0
    assert found(answers, max_gap=3.9)[0][1] == 2050


def test_in_an_exclusive_group_the_longer_of_equally_sure_ones_wins_and_then_the_one_named_first() -> None:
    late = {"Dunk": [Span("Dunk", 0, 5000, 0.7)], "Foul": [Span("Foul", 3000, 7000, 0.7)]}
    assert related(late, for_each(groups=(("Foul", "Dunk"),))) == {
        "Dunk": [Span("Dunk", 0, 5000, 0.7)],
        "Foul": [Span("Foul", 5000, 7000, 0.7)],
    }
    equal = {"Dunk": [Span("Dunk", 0, 4000, 0.7)], "Foul": [Span("Foul", 3000, 7000, 0.7)]}
    assert related(equal, for_each(groups=(("Foul", "Dunk"),)))["Dunk"] == [Span("Dunk", 0, 3000, 0.7)]
    assert related(equal, for_each(groups=(("Dunk", "Foul"),)))["Foul"] == [Span("Foul", 4000, 7000, 0.7)]


def test_a_tag_that_loses_everywhere_is_not_there_at_all() -> None:
    both = {"Dunk": [Span("Dunk", 1000, 5000, 0.7)], "Foul": [Span("Foul", 0, 7000, 0.9)]}
    assert related(both, for_each(groups=(("Dunk", "Foul"),))) == {"Foul": [Span("Foul", 0, 7000, 0.9)]}


def test_the_surer_span_of_a_tag_costs_its_others_nothing() -> None:
    spans_of = {"Dunk": [Span("Dunk", 0, 5000, 0.9), Span("Dunk", 9000, 12_000, 0.3)]}
    assert related(spans_of, for_each(groups=(("Dunk", "Foul"),))) == spans_of


def test_what_is_implied_takes_the_very_times_of_what_implies_it() -> None:
    pauses = {
        "Dunk": [Span("Dunk", 0, 5000, 0.9), Span("Dunk", 5001, 8000, 0.6)],
        "Foul": [Span("Foul", 8001, 9000, 1)],
    }
    implied = related(pauses, for_each(Dunk=("Foul",)))["Foul"]
    assert [(s.tag, s.start_ms, s.end_ms, s.confidence) for s in implied] == [
        ("Foul", 0, 5000, 0.9),
        ("Foul", 5001, 8000, 0.6),
        ("Foul", 8001, 9000, 1),
    ]


def test_implications_hold_through_tags_that_no_answer_names() -> None:
    """Dunk means Foul and Foul means Timeout, so Dunk means Timeout; nobody needs to name Foul."""
    dunk = {"Dunk": [Span("Dunk", 0, 5000, 0.9)]}
    for chain in (for_each(Dunk=("Foul",), Foul=("Timeout",)), for_each(Foul=("Timeout",), Dunk=("Foul",))):
        assert {*related(dunk, chain)} == {*TAGS}


def test_a_tag_goes_where_something_that_it_implies_has_lost() -> None:
    three = {
        "Dunk": [Span("Dunk", 0, 10_000, 0.6)],
        "Timeout": [Span("Timeout", 4000, 6000, 0.9)],
    }
    assert related(three, for_each(groups=(("Foul", "Timeout"),), Dunk=("Foul",))) == {
        "Dunk": [Span("Dunk", 0, 4000, 0.6), Span("Dunk", 6000, 10_000, 0.6)],
        "Foul": [Span("Foul", 0, 4000, 0.6), Span("Foul", 6000, 10_000, 0.6)],
        "Timeout": [Span("Timeout", 4000, 6000, 0.9)],
    }


@runs(deadline=None)
@given(samples(), st.permutations(TAGS))
def test_exclusive_groups_and_implications_hold_at_every_moment(answers: dict[int, Sample], order: list[str]) -> None:
    a, b, c = order
    wanted = settings(exclusive_groups=[[b, c]], implications={a: [b]}, max_gap=0)
    result = spans(answers, DURATION, Rules.of(wanted, DURATION))

    def at(tag: str, t: int) -> bool:
        return any(s.tag == tag and s.start_ms <= t < s.end_ms for s in result)

    for t in {edge for s in result for edge in (s.start_ms, s.end_ms - 1)}:
        assert not (at(b, t) and at(c, t))
        assert at(b, t) or not at(a, t)


def test_implications_in_a_circle_come_to_an_end() -> None:
    answers = scan(("Dunk", 10_000, 20_000))
    assert len(found(answers, implications={"Dunk": ["Foul"], "Foul": ["Dunk"]})) == 2
    assert len(found(answers, implications={"Dunk": ["Foul"], "Foul": ["Timeout"], "Timeout": ["Foul"]})) == 3


# --- noise ---


def wrong(answers: dict[int, Sample], chance: float, seed: int) -> dict[int, Sample]:
    dice = random.Random(seed)
    spoilt = {}
    for t, s in answers.items():
        names = [tag for tag in TAGS if (tag in s.tags) != (dice.random() < chance)]
        spoilt[t] = sample(t, *names)
    return spoilt


@pytest.mark.parametrize("seed", range(8))
def test_one_wrong_answer_in_twenty_neither_makes_nor_hides_a_span(seed: int) -> None:
    right_ones = scan(("Dunk", 100_000, 140_000), ("Foul", 300_000, 330_000), duration_ms=600_000)
    result = conclude(wrong(right_ones, 0.05, seed), 600_000, settings()).spans
    for tag, start, end in (("Dunk", 100_000, 140_000), ("Foul", 300_000, 330_000)):
        best = max(min(s.end_ms, end) - max(s.start_ms, start) for s in result if s.tag == tag)
        assert best >= 0.8 * (end - start)
    assert len(result) <= 3


@pytest.mark.parametrize("seed", range(4))
def test_the_more_a_model_errs_the_more_frames_it_takes_to_convince(seed: int) -> None:
    """Two frames in a row are a span where nothing else is ever wrong, and flicker where much is."""
    short = scan(("Dunk", 100_000, 102_000), duration_ms=600_000)
    assert len(conclude(short, 600_000, settings()).spans) == 1
    noisy = wrong(scan(duration_ms=600_000), 0.08, seed) | {t: short[t] for t in (98_000, 100_000, 102_000, 104_000)}
    assert not [s for s in conclude(noisy, 600_000, settings()).spans if s.tag == "Dunk" and s.start_ms == 99_000]


def test_refining_and_concluding_find_a_span_within_the_tolerance() -> None:
    truth = {"Dunk": ((12_345, 23_456),), "Foul": ((17_000, 18_700),)}
    answers = run(make_sampler(settings(), DURATION), right(truth))
    for span in conclude(answers, DURATION, settings()).spans:
        ((start, end),) = truth[span.tag]
        assert abs(span.start_ms - start) <= 500
        assert abs(span.end_ms - end) <= 500


@runs(deadline=None)
@given(st.integers(0, 10**6))
def test_concluding_any_run_twice_gives_the_same(seed: int) -> None:
    answers = run(make_sampler(settings(), DURATION), moody(seed, fails=0.2))
    assert conclude(answers, DURATION, settings()) == conclude(answers, DURATION, settings())


# --- arithmetic of spans ---

raw_spans = st.lists(
    st.builds(
        lambda start, length, sure: Span("Dunk", start, start + length, sure),
        st.integers(0, 500),
        st.integers(1, 100),
        st.floats(0, 1),
    ),
    max_size=12,
)


@runs(deadline=None)
@given(raw_spans, st.integers(0, 60))
def test_merge_loses_nothing_and_is_stable(raw: list[Span], gap_ms: int) -> None:
    merged = merge(raw, gap_ms)
    assert merge(merged, gap_ms) == merged
    assert all(any(m.start_ms <= s.start_ms and s.end_ms <= m.end_ms for m in merged) for s in raw)
    assert all(b.start_ms - a.end_ms > gap_ms for a, b in pairwise(merged))
    assert all(0 <= m.confidence <= 1 for m in merged)


@runs(deadline=None)
@given(raw_spans, raw_spans)
def test_cutting_out_and_keeping_inside_add_up(raw: list[Span], others: list[Span]) -> None:
    for span in raw:
        parts = [*without(span, others), *within([span], others)]
        assert sum(p.end_ms - p.start_ms for p in parts) == span.end_ms - span.start_ms
        assert all(span.start_ms <= p.start_ms < p.end_ms <= span.end_ms for p in parts)
        assert not [p for p in without(span, others) for o in others if p.start_ms < o.end_ms and o.start_ms < p.end_ms]
