"""Decoding against a slow and obvious model of it, its figures one by one, and the arithmetic of spans."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from haven_vlm.facts import Outcome, Sample, Span
from haven_vlm.spans import (
    NO_ERRORS,
    Errors,
    Moments,
    Noise,
    decode,
    errors,
    learned,
    merge,
    proof,
    stretches,
    within,
    without,
)
from tests.pure.looking import sample

# --- the model: every course is tried, and each is weighed sample by sample ---

SHARE = 1 / 11
"""A tag stays 15 s and pauses for 150 s on average, so it is there for an eleventh of the time."""


def turning(gap_ms: int) -> dict[tuple[bool, bool], float]:
    """(there, there afterwards) → chance over a gap, of a tag that comes every 150 s and goes after 15 s."""
    forgotten = 1 - math.exp(-max(2000, gap_ms) / 1000 * (1 / 15 + 1 / 150))
    come, go = SHARE * forgotten, (1 - SHARE) * forgotten
    return {(False, False): 1 - come, (False, True): come, (True, False): go, (True, True): 1 - go}


def reading(at: Sample, tag: str, threshold: float) -> tuple[bool, float]:
    """Whether a frame names the tag; and its weight: one half right at the threshold, one as far off as can be."""
    sure = at.tags.get(tag, 0.0)
    named = sure >= threshold and sure > 0
    room = 1 - threshold if named else threshold
    return named, 0.5 + 0.5 * (abs(sure - threshold) / room if room else 1.0)


class Model:
    """One tag in the samples of a medium."""

    def __init__(self, samples: Sequence[Sample], tag: str, threshold: float) -> None:
        self.samples = samples
        self.readings = [reading(s, tag, threshold) for s in samples]
        self.turns = [turning(b.at_ms - a.at_ms) for a, b in pairwise(samples)]

    def courses(self) -> list[tuple[bool, ...]]:
        """All that turn only where the answers do."""
        heads = [0, *(i for i in range(1, len(self.samples)) if self.readings[i][0] != self.readings[i - 1][0])]
        lengths = [b - a for a, b in pairwise([*heads, len(self.samples)])]
        return [
            tuple(state for state, length in zip(states, lengths, strict=True) for _ in range(length))
            for states in product((False, True), repeat=len(heads))
        ]

    def chance(self, course: Sequence[bool], noise: Noise) -> float:
        """Logarithm of the chance of a course and of these answers."""
        chance = math.log(SHARE if course[0] else 1 - SHARE)
        for turn, before, after in zip(self.turns, course, course[1:], strict=False):
            chance += math.log(turn[before, after])
        for (named, weight), there in zip(self.readings, course, strict=True):
            wrong = noise.miss if there else noise.false_alarm
            chance += weight * math.log(wrong if named != there else 1 - wrong)
        return chance

    def likeliest(self, noise: Noise) -> tuple[bool, ...]:
        return max(self.courses(), key=lambda course: self.chance(course, noise))

    def proven(self, course: tuple[bool, ...], noise: Noise) -> tuple[bool, ...]:
        """Without the stretches that are not likelier enough than the same course without them."""
        times = [s.at_ms for s in self.samples]
        kept = list(course)
        for first, until in stretches_of(course):
            start = (times[first - 1] + times[first]) // 2 if first else times[0]
            end = (times[until] + times[until + 1]) // 2 if until + 1 < len(times) else times[-1]
            less = [there and not first <= i <= until for i, there in enumerate(course)]
            asked = 4 * min(1, max(0, (8000 - (end - start)) / 5000))
            if until - first + 1 < len(times) and self.chance(course, noise) - self.chance(less, noise) < asked:
                kept[first : until + 1] = [False] * (until + 1 - first)
        return tuple(kept)

    def errors(self, course: Sequence[bool]) -> Errors:
        """False alarms, frames without, misses, frames with the tag; frames that took an answer over do not count."""
        own = [
            (named, there)
            for s, (named, _), there in zip(self.samples, self.readings, course, strict=True)
            if s.inherited_from_ms is None
        ]
        return own.count((True, False)), sum(not t for _, t in own), own.count((False, True)), sum(t for _, t in own)


def stretches_of(course: Sequence[bool]) -> list[tuple[int, int]]:
    firsts = [i for i, there in enumerate(course) if there and not (i and course[i - 1])]
    return [(i, next((j for j in range(i, len(course)) if not course[j]), len(course)) - 1) for i in firsts]


def rates(counts: Mapping[str, Errors], beside: Errors) -> dict[str, Noise]:
    """One false alarm in 100 frames and half a miss in 30 are imagined, and as many frames at the shared rate."""
    every = [sum(c) for c in zip(*counts.values(), beside, strict=True)]
    alarm, miss = (every[0] + 1) / (every[1] + 100), (every[2] + 0.5) / (every[3] + 30)
    return {
        tag: Noise(
            sorted((0.001, (alarms + 100 * alarm) / (absent + 100), 0.3))[1],
            sorted((0.001, (misses + 30 * miss) / (present + 30), 0.3))[1],
        )
        for tag, (alarms, absent, misses, present) in counts.items()
    }


def decoded_slowly(models: Mapping[str, Model], beside: Errors) -> dict[str, list[bool]]:
    """A poor model and a good one are believed in turn; what explains the answers better is taken."""
    results = []
    for start in (Noise(0.05, 0.1), Noise(0.002, 0.01)):
        noises = dict.fromkeys(models, start)
        courses: dict[str, tuple[bool, ...]] = {}
        for _ in range(4):
            courses = {t: m.proven(m.likeliest(noises[t]), noises[t]) for t, m in models.items()}
            total = sum(m.chance(courses[t], noises[t]) for t, m in models.items())
            noises = rates({t: m.errors(courses[t]) for t, m in models.items()}, beside)
        results.append((total, courses))
    return {tag: list(course) for tag, course in max(results, key=lambda r: r[0])[1].items()}


def answers(dice: random.Random, *, runs: int) -> list[Sample]:
    """Answers about two tags, one of them seldom, at moments close together and far apart, some of them inherited."""
    found: list[Sample] = []
    at_ms = dice.choice((0, 300))
    begins_with = dice.randrange(2)
    for turn in range(begins_with, begins_with + runs):
        for _ in range(dice.choice((1, 1, 2, 3, 5)) if turn % 2 else dice.choice((1, 2, 4, 6, 30))):
            sure = dice.choice((0.5, 0.6, 0.9, 1.0)) if turn % 2 else dice.choice((0.0, 0.0, 0.3, 0.45))
            tags = {"Dunk": sure, **({"Foul": 0.9} if dice.random() < 0.03 else {})}
            found.append(Sample(at_ms, at_ms, Outcome.TAGS, tags, inherited_from_ms=dice.choice((None, None, None, 7))))
            at_ms += dice.choice((250, 500, 1000, 2000, 2000, 4000, 20_000))
    return found


CLOSE_CALLS = (66, 74, 86, 122, 133, 228, 231, 297, 333, 362, 472, 583, 609, 1459, 1860)
"""Seeds of answers that speak nearly as much for one course as for another: there each term of the sum counts."""


@pytest.mark.parametrize("seed", [*range(60), *CLOSE_CALLS])
def test_the_most_likely_course_is_found(seed: int) -> None:
    dice = random.Random(seed)
    samples = answers(dice, runs=dice.randint(1, 7))
    beside = dice.choice((NO_ERRORS, (40, 400, 5, 50), (0, 3000, 0, 900)))
    tags = ["Dunk"] if seed % 3 else ["Dunk", "Foul"]
    moments, models = Moments(samples), {tag: Model(samples, tag, 0.5) for tag in tags}
    if any(len(m.courses()) > 512 for m in models.values()):
        models.popitem()
    courses = decode({tag: moments.track(tag, 0.5) for tag in models}, beside=beside)
    assert courses == decoded_slowly(models, beside)
    for tag, model in models.items():
        assert errors(moments.track(tag, 0.5), courses[tag]) == model.errors(courses[tag])


# --- its figures, one by one ---


def test_answers_that_say_the_same_are_one_run() -> None:
    told = [(0, 0.0), (2000, 0.5), (2600, 1.0), (5000, 0.0), (9000, 0.25)]
    samples = [Sample(t, t, Outcome.TAGS, {"Dunk": c}, inherited_from_ms=5000 if t == 9000 else None) for t, c in told]
    track = Moments(samples).track("Dunk", 0.5)
    assert (track.times_ms, track.confidences) == ([t for t, _ in told], [c for _, c in told])
    assert [(r.samples, r.named, r.weight, r.own) for r in track.runs] == [
        (1, False, 1.0, 1),
        (2, True, 1.5, 2),
        (2, False, 1.75, 1),
    ]
    assert [(r.from_ms, r.until_ms) for r in track.runs] == [(0, 1000), (1000, 3800), (3800, 9000)]


@pytest.mark.parametrize("gap_ms", [2000, 2001, 4000, 15_000, 3_600_000])
def test_a_tag_stays_15_s_and_pauses_for_150_s_on_average(gap_ms: int) -> None:
    run = Moments([sample(0), sample(gap_ms, "Dunk"), sample(2 * gap_ms, "Dunk")]).track("Dunk", 0.5).runs[1]
    expected = turning(gap_ms)
    assert math.exp(run.entry.stay_away) == pytest.approx(expected[False, False], rel=1e-9)
    assert math.exp(run.entry.come) == pytest.approx(expected[False, True], rel=1e-9)
    assert math.exp(run.entry.stay) == pytest.approx(expected[True, True], rel=1e-9)
    assert math.exp(run.entry.go) == pytest.approx(expected[True, False], rel=1e-9)
    assert (run.stay_away, run.stay) == pytest.approx((run.entry.stay_away, run.entry.stay))


def test_closer_than_two_seconds_a_turn_is_as_likely_as_over_two_seconds() -> None:
    def entry(gap_ms: int) -> object:
        return Moments([sample(0), sample(gap_ms, "Dunk")]).track("Dunk", 0.5).runs[1].entry

    assert entry(1) == entry(1999) == entry(2000) != entry(2001)


@pytest.mark.parametrize(
    ("confidence", "threshold", "named", "weight"),
    [
        (0.5, 0.5, True, 0.5),
        (0.499, 0.5, False, 0.501),
        (1.0, 0.5, True, 1.0),
        (0.0, 0.5, False, 1.0),
        (0.75, 0.5, True, 0.75),
        (0.25, 0.5, False, 0.75),
        (0.9, 0.6, True, 0.875),
        (0.3, 0.6, False, 0.75),
        (1.0, 1.0, True, 1.0),
        (0.5, 1.0, False, 0.75),
        (0.0, 0.0, False, 1.0),
        (0.5, 0.0, True, 0.75),
    ],
)
def test_a_frame_counts_more_the_further_its_confidence_is_from_the_threshold(
    confidence: float, threshold: float, named: bool, weight: float
) -> None:
    (run,) = Moments([Sample(0, 0, Outcome.TAGS, {"Dunk": confidence})]).track("Dunk", threshold).runs
    assert run.named == named
    assert run.weight == pytest.approx(weight)


def test_a_tag_that_an_answer_does_not_name_is_surely_not_there() -> None:
    assert Moments([sample(0)]).track("Dunk", 0.5).confidences == [0.0]
    assert not Moments([sample(0)]).track("Dunk", 0.0).runs[0].named


@pytest.mark.parametrize(
    ("length_ms", "nats"),
    [(0, 4), (3000, 4), (3001, 3.9992), (3500, 3.6), (5500, 2), (7999, 0.0008), (8000, 0), (60_000, 0)],
)
def test_up_to_three_seconds_must_be_55_times_likelier_than_flicker_and_from_eight_on_nothing_more(
    length_ms: int, nats: float
) -> None:
    assert proof(length_ms) == pytest.approx(nats)


@pytest.mark.parametrize(
    ("own", "beside", "false_alarm", "miss"),
    [
        ((0, 0, 0, 0), NO_ERRORS, 0.01, 1 / 60),  # nothing seen yet
        ((9, 900, 0, 0), NO_ERRORS, 0.01, 1 / 60),
        ((0, 0, 2, 120), NO_ERRORS, 0.01, (2 + 0.5) / 150),
        ((0, 0, 0, 0), (9, 100, 7, 70), 0.05, 0.075),  # what is shared is believed of a tag never seen
        ((4, 100, 0, 0), NO_ERRORS, (4 + 2.5) / 200, 1 / 60),  # half its own, half what is shared
        ((0, 0, 4, 30), NO_ERRORS, 0.01, (4 + 30 * 4.5 / 60) / 60),
        ((500, 600, 80, 90), NO_ERRORS, 0.3, 0.3),
        ((0, 10**6, 0, 10**6), NO_ERRORS, 0.001, 0.001),
    ],
)
def test_errors_make_rates_with_a_little_doubt(own: Errors, beside: Errors, false_alarm: float, miss: float) -> None:
    noise = learned({"Dunk": own}, beside)["Dunk"]
    assert (noise.false_alarm, noise.miss) == pytest.approx((false_alarm, miss))


def test_without_other_tags_only_its_own_frames_count() -> None:
    noise = learned({"Dunk": (0, 0, 0, 0)})["Dunk"]
    assert (noise.false_alarm, noise.miss) == pytest.approx((1 / 100, 1 / 60))
    assert NO_ERRORS == (0, 0, 0, 0)


def test_tags_share_what_is_learned_and_one_that_is_read_worse_has_its_own_rates() -> None:
    noises = learned({"Dunk": (0, 300, 0, 60), "Foul": (30, 300, 20, 60), "Timeout": (0, 0, 0, 0)})
    assert noises["Dunk"].false_alarm < noises["Timeout"].false_alarm < noises["Foul"].false_alarm
    assert noises["Dunk"].miss < noises["Timeout"].miss < noises["Foul"].miss
    assert noises["Timeout"].false_alarm == pytest.approx(31 / 700)
    assert noises["Timeout"].miss == pytest.approx(20.5 / 150)


def test_errors_are_counted_once_for_each_question() -> None:
    """A frame that took the answer of another over says nothing new about the model."""
    told = [(), ("Dunk",), ("Dunk",), (), ("Dunk",), ("Dunk",), ()]
    samples = [sample(2000 * i, *tags, inherited_from_ms=0 if i == 2 else None) for i, tags in enumerate(told)]
    track = Moments(samples).track("Dunk", 0.5)
    assert errors(track, [False] * 7) == (3, 6, 0, 0)
    assert errors(track, [True] * 7) == (0, 0, 3, 6)
    assert errors(track, [False, False, False, False, True, True, True]) == (1, 3, 1, 3)


# --- stretches: start, end, confidence ---


def stretch(
    *times: int, there: Sequence[bool], duration_ms: int = 60_000, reach_ms: int = 2000, sure: float = 0.9
) -> list[tuple[int, int, float]]:
    samples = [sample(t, *(["Dunk"] if x else []), confidence=sure) for t, x in zip(times, there, strict=True)]
    return stretches(Moments(samples).track("Dunk", 0.5), there, duration_ms, reach_ms=reach_ms)


def edges(*times: int, there: Sequence[bool], duration_ms: int = 60_000, reach_ms: int = 2000) -> list[tuple[int, int]]:
    found = stretch(*times, there=there, duration_ms=duration_ms, reach_ms=reach_ms)
    return [(start, end) for start, end, _ in found]


def test_an_end_between_two_samples_lies_in_their_middle_and_odd_middles_are_wide() -> None:
    assert edges(1000, 2000, 4000, 9000, there=[False, True, True, False]) == [(1500, 6500)]
    assert edges(1000, 2001, 4000, 9001, there=[False, True, True, False]) == [(1500, 6501)]
    assert edges(0, 1, 2, 3, 4, 5, there=[False, True, False, True, True, False]) == [(0, 2), (2, 5)]


@pytest.mark.parametrize(
    ("first_ms", "start"), [(0, 0), (1999, 0), (2000, 0), (2001, 1001), (2500, 1500), (9001, 8001)]
)
def test_the_first_sample_stands_for_the_start_if_that_is_within_reach(first_ms: int, start: int) -> None:
    assert edges(first_ms, 20_000, 22_000, there=[True, True, False]) == [(start, 21_000)]


@pytest.mark.parametrize(
    ("last_ms", "end"), [(59_999, 60_000), (58_001, 60_000), (58_000, 60_000), (57_999, 58_999), (40_001, 41_001)]
)
def test_the_last_sample_stands_for_the_end_if_that_is_within_reach(last_ms: int, end: int) -> None:
    assert edges(20_000, 22_000, last_ms, there=[False, True, True]) == [(21_000, end)]


def test_beyond_reach_an_end_goes_half_as_far() -> None:
    assert edges(10_001, there=[True], reach_ms=3001) == [(8501, 11_501)]


def test_nothing_is_found_behind_the_end_of_a_medium() -> None:
    """A container may promise more than its frames hold."""
    every = [False, True, True, False, True]
    assert edges(0, 2000, 4000, 6000, 8000, there=every, duration_ms=3000) == [(1000, 3000)]
    assert edges(0, 2000, 4000, 6000, 8000, there=every, duration_ms=1000) == []
    assert edges(0, 2000, 4000, 6000, 8000, there=every, duration_ms=1001) == [(1000, 1001)]
    assert edges(0, 2000, 4000, 6000, 8000, there=every, duration_ms=7001) == [(1000, 5000), (7000, 7001)]


def test_a_span_is_as_sure_as_its_frames_and_one_undecided_one() -> None:
    ((_, _, lone),) = stretch(0, 2000, 4000, there=[False, True, False])
    ((_, _, long),) = stretch(0, 2000, 4000, 6000, 8000, there=[True, True, True, True, False])
    assert lone == pytest.approx((0.9 + 0.5) / 2)
    assert long == pytest.approx((4 * 0.9 + 0.5) / 5)
    missed = [sample(0), *(sample(t, "Dunk") for t in (2000, 4000)), sample(6000), sample(8000, "Dunk")]
    ((_, _, with_a_miss),) = stretches(
        Moments(missed).track("Dunk", 0.5), [False, True, True, True, True], 10_000, reach_ms=2000
    )
    assert with_a_miss == pytest.approx((3 * 0.99 + 0.5) / 5)


# --- arithmetic, against the moments that spans cover ---

spans_of_any_kind = st.lists(
    st.builds(
        lambda start, length, sure: Span("Dunk", start, start + length, sure),
        st.integers(0, 60),
        st.integers(1, 12),
        st.floats(0, 1),
    ),
    max_size=6,
)


def moments(spans: Sequence[Span]) -> set[int]:
    return {t for s in spans for t in range(s.start_ms, s.end_ms)}


@runs(deadline=None)
@given(spans_of_any_kind, st.integers(0, 9))
def test_merging_fills_pauses_up_to_the_gap_and_no_others(raw: list[Span], gap_ms: int) -> None:
    covered = moments(raw)
    ends = sorted(t + 1 for t in covered if t + 1 not in covered)
    starts = sorted(t for t in covered if t - 1 not in covered)
    pauses = [range(end, start) for end, start in zip(ends, starts[1:], strict=False) if start - end <= gap_ms]
    assert moments(merge(raw, gap_ms)) == covered.union(*pauses)


@runs(deadline=None)
@given(st.builds(lambda a, b: Span("Foul", a, a + b, 0.8), st.integers(0, 60), st.integers(1, 30)), spans_of_any_kind)
def test_cutting_and_keeping_are_those_of_sets(span: Span, others: list[Span]) -> None:
    for parts, expected in (
        (without(span, others), moments([span]) - moments(others)),
        (within([span], others), moments([span]) & moments(others)),
    ):
        assert moments(parts) == expected
        assert parts == sorted(parts, key=lambda s: s.start_ms)
        assert all(p.start_ms < p.end_ms and (p.tag, p.confidence) == ("Foul", 0.8) for p in parts)
        assert all(a.end_ms < b.start_ms for a, b in pairwise(parts))


def test_a_joined_span_is_as_sure_as_its_parts_by_their_length() -> None:
    parts = [Span("Dunk", 1000, 4000, 0.9), Span("Dunk", 5000, 6000, 0.5), Span("Dunk", 9000, 13_000, 0.3)]
    (joined,) = merge(parts, 3000)
    assert (joined.start_ms, joined.end_ms) == (1000, 13_000)
    assert joined.confidence == pytest.approx((5000 * 0.8 + 4000 * 0.3) / 9000)
    (joined,) = merge([Span("Dunk", 0, 1000, 0.9), Span("Dunk", 2000, 3000, 0.5)], 1000)
    assert joined.confidence == pytest.approx(0.7)
    assert merge([Span("Dunk", 5, 5, 0.9), Span("Dunk", 5, 5, 0.9)], 0) == [Span("Dunk", 5, 5, 0.0)]
