"""Where to look next: what is promised whatever the model answers, and in whatever order."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from haven_vlm.facts import Outcome, Sample
from haven_vlm.sampling import make_sampler
from tests.pure.looking import TAGS, Answer, Truth, failed, looks, moody, right, run, sample, seen, settings

POLICIES = ("fixed", "refine", "adaptive")


@st.composite
def truths(draw: st.DrawFn, duration_ms: int = 120_000, shortest_ms: int = 1) -> Truth:
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for tag in TAGS:
        edges = sorted(draw(st.sets(st.integers(0, duration_ms), max_size=6)))
        pairs = zip(edges[::2], edges[1::2], strict=False)
        found[tag] = tuple((a, b) for a, b in pairs if b - a >= shortest_ms)
    return found


intervals = st.sampled_from([0.5, 1, 2, 3.7, 4, 8, 20, 80])
tolerances = st.sampled_from([0.05, 0.25, 0.5, 1, 3])
durations = st.sampled_from([0, 1, 40, 99, 100, 101, 950, 2000, 10_001, 61_234, 120_000])


# --- the moments that are always looked at ---


@runs(deadline=None)
@given(durations, intervals, st.sampled_from(POLICIES))
def test_the_first_frame_and_the_end_are_looked_at_and_no_stretch_is_left_out(
    duration_ms: int, interval: float, policy: str
) -> None:
    sampler = make_sampler(settings(video_frame_interval=interval, sampling=policy), duration_ms)
    times = sampler.wish({}).now
    assert times[0] == 0
    assert all(0 <= t <= max(0, duration_ms - 100) for t in times)
    assert times[-1] == max(0, duration_ms - 100)
    assert all(b - a <= interval * 1250 for a, b in pairwise(times))


def test_a_scan_of_two_seconds_over_ten_minutes_takes_301_questions() -> None:
    found = run(make_sampler(settings(sampling="fixed"), 600_000), right({}))
    assert len(found) == 301
    assert [*found][:3] == [0, 2000, 4000]


def test_absurd_lengths_are_scanned_with_a_bound() -> None:
    times = make_sampler(settings(video_frame_interval=0.1), 10**12).wish({}).now
    assert len(times) == 50_000
    assert (times[0], times[-1]) == (0, 10**12 - 100)
    assert len(make_sampler(settings(video_frame_interval=0.1), 4_999_900).wish({}).now) == 49_999


@pytest.mark.parametrize(
    ("duration_ms", "times"),
    [
        (0, (0,)),
        (100, (0,)),
        (101, (0, 1)),
        (2000, (0, 1900)),
        (2599, (0, 2499)),  # two moments closer than a quarter of the interval do the work of one
        (2600, (0, 2000, 2500)),
        (4100, (0, 2000, 4000)),
        (4599, (0, 2000, 4499)),
        (4600, (0, 2000, 4000, 4500)),
    ],
)
def test_every_two_seconds_and_a_tenth_of_a_second_before_the_end(duration_ms: int, times: tuple[int, ...]) -> None:
    assert make_sampler(settings(), duration_ms).wish({}).now == times


def test_shares_of_tiny_clips_are_at_least_a_millisecond() -> None:
    assert make_sampler(settings(video_frame_interval="1%"), 105).wish({}).now == (0, 1, 2, 3, 4, 5)
    assert run(
        make_sampler(settings(video_frame_interval="2%"), 106), lambda t: failed(t) if t == 2 else sample(t)
    ).keys() == {*(0, 2, 3, 4, 6)}


# --- beside the moments that are always looked at ---


def test_substitutes_and_votes_lie_beside_each_moment_and_inside_the_medium() -> None:
    assert looks(make_sampler(settings(), 6400)) == [
        (0, [400], [400]),
        (2000, [2400], [2400, 1600]),
        (4000, [4400], [4400, 3600]),
        (6300, [5900], [5900]),
    ]


def test_votes_are_no_further_away_than_the_tolerance() -> None:
    assert looks(make_sampler(settings(boundary_tolerance=0.1), 4100)) == [
        (0, [400], [100]),
        (2000, [2400], [2100, 1900]),
        (4000, [3600], [3900]),
    ]


def test_substitutes_are_no_further_away_than_a_quarter_of_the_interval() -> None:
    assert looks(make_sampler(settings(video_frame_interval=1, boundary_tolerance=0.2), 2100)) == [
        (0, [250], [200]),
        (1000, [1250], [1200, 800]),
        (2000, [1750], [1800]),
    ]


def test_a_medium_too_short_for_a_substitute_has_none() -> None:
    for lost in (0, 50):
        found = run(make_sampler(settings(), 150), lambda t, lost=lost: failed(t) if t == lost else sample(t))  # type: ignore[misc]
        assert found.keys() == {0, 50}


def test_a_substitute_that_is_looked_at_anyway_costs_nothing() -> None:
    fine = make_sampler(settings(video_frame_interval=0.4, boundary_tolerance=0.05), 600)
    assert [(at_ms, instead) for at_ms, instead, _ in looks(fine)] == [(0, [100]), (400, []), (500, [])]


def test_an_interval_may_be_a_share_of_the_length() -> None:
    sampler = make_sampler(settings(video_frame_interval="10%", sampling="fixed"), 100_000)
    assert sampler.wish({}).now[:3] == (0, 10_000, 20_000)


# --- cost ---


@runs(max_examples=300, deadline=None)
@given(truths(), intervals, tolerances)
def test_refining_costs_no_more_than_its_bound(truth: Truth, interval: float, tolerance: float) -> None:
    wanted = settings(video_frame_interval=interval, boundary_tolerance=tolerance)
    scan = len(run(make_sampler(wanted.model_copy(update={"sampling": "fixed"}), 120_000), right(truth)))
    boundaries = {edge for spans in truth.values() for span in spans for edge in span}
    steps = max(0, math.ceil(math.log2(interval / tolerance)))
    assert len(run(make_sampler(wanted, 120_000), right(truth))) <= scan + steps * len(boundaries)


@runs(max_examples=200, deadline=None)
@given(truths(shortest_ms=8000), st.sampled_from([1, 2, 4, 8]), tolerances)
def test_ends_of_spans_are_found_as_exactly_as_wanted(truth: Truth, interval: float, tolerance: float) -> None:
    """Two samples around each end are at most twice the tolerance apart, so its middle is within the tolerance."""
    wanted = settings(video_frame_interval=interval, boundary_tolerance=tolerance, max_gap=0)
    found = run(make_sampler(wanted, 120_000), right(truth))
    times = sorted(found)
    for tag, spans in truth.items():
        for start, end in spans:
            for edge in (start, end):
                before = max((t for t in times if t < edge), default=None)
                after = min((t for t in times if t >= edge), default=None)
                if before is None or after is None:
                    continue  # outside the first and last moment
                if (tag in found[before].tags) != (tag in found[after].tags):
                    assert after - before <= 2 * tolerance * 1000 + 2


@runs(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), intervals, tolerances, st.sampled_from(POLICIES), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_it_comes_to_an_end_whatever_the_model_says(
    seed: int, interval: float, tolerance: float, policy: str, fails: float
) -> None:
    wanted = settings(video_frame_interval=interval, boundary_tolerance=tolerance, sampling=policy)
    found = run(make_sampler(wanted, 61_234), moody(seed, fails=fails))
    scan = len(make_sampler(wanted, 61_234).wish({}).now)
    steps = max(0, math.ceil(math.log2(interval / tolerance))) + 3
    # each stretch: a moment instead, two votes for each side, and for each tag one search, doubted once and chased once
    assert len(found) <= scan * (4 + 8 * steps * len(TAGS))
    assert all(0 <= t < 61_234 for t in found)


@runs(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(POLICIES), st.integers(1, 150), st.sampled_from([0.0, 0.3]))
def test_a_bound_of_questions_is_kept(seed: int, policy: str, most: int, fails: float) -> None:
    wanted = settings(sampling=policy, max_questions_per_scene=most)
    dice = random.Random(seed)
    found = run(make_sampler(wanted, 120_000), moody(seed, fails=fails), dice=dice)
    assert sum(s.outcome is not Outcome.UNDECODABLE for s in found.values()) <= most


@pytest.mark.parametrize(("most", "coarse"), [(1, 1), (2, 2), (3, 2), (4, 3), (20, 15), (28, 21), (42, 31), (99, 31)])
def test_three_quarters_of_few_questions_go_to_the_scan(most: int, coarse: int) -> None:
    assert len(make_sampler(settings(max_questions_per_scene=most), 60_000).wish({}).now) == coarse
    assert len(make_sampler(settings(max_questions_per_scene=most, sampling="fixed"), 60_000).wish({}).now) == min(
        most, 31
    )


def test_few_fixed_moments_are_spread_evenly() -> None:
    def times(most: int) -> tuple[int, ...]:
        return make_sampler(settings(sampling="fixed", max_questions_per_scene=most), 60_000).wish({}).now

    assert times(1) == (0,)
    assert times(2) == (0, 59_900)
    assert times(3) == (0, 30_000, 59_900)
    assert times(4) == (0, 20_000, 40_000, 59_900)
    assert times(30) == (*range(0, 58_000, 2000), 59_900)
    assert times(31) == (*range(0, 59_000, 2000), 59_900)


def test_few_questions_are_asked_step_by_step() -> None:
    """What follows from an answer comes after all that was wanted before it: votes on a flip come before halvings."""
    answer = right({"Dunk": ((4000, 4001),), "Foul": ((11_000, 30_000),)})
    sampler = make_sampler(settings(max_questions_per_scene=16), 20_100)
    known = {t: answer(t) for t in sampler.wish({}).now}
    turns = []
    while now := sampler.wish(known).now:
        turns.append(now)
        known |= {t: answer(t) for t in now}
    assert turns == [(4400,), (3600,), (11_000,), (10_500,)]


def test_the_last_questions_settle_most() -> None:
    """Four ends are searched, at the last of them two tags change: with one question left, it is asked there."""
    truth = {"Dunk": ((3000, 7000), (11_000, 15_000)), "Foul": ((15_000, 30_000),)}
    found = run(make_sampler(settings(max_questions_per_scene=16, max_gap=0), 20_100), right(truth))
    assert sorted(t for t in found if t % 2000) == [3000, 7000, 11_000, 14_500, 15_000]


def test_few_questions_are_spread_over_the_whole_and_spent_on_ends_at_last() -> None:
    truth = {"Dunk": ((30_000, 90_000),)}
    found = run(make_sampler(settings(max_questions_per_scene=20), 600_000), right(truth))
    assert len(found) == 20
    assert (min(found), max(found)) == (0, 599_900)
    gaps = [b - a for a, b in pairwise(sorted(found))]
    assert max(gaps) < 60_000
    assert min(gaps) < 10_000


def test_what_will_probably_be_asked() -> None:
    """The scan and a quarter as much for ends; later, as much for each stretch as so far."""
    sampler, answer = make_sampler(settings(), 600_000), right({"Dunk": ((0, 61_300),)})
    assert sampler.planned({}) == 301 + 75
    half = {t: answer(t) for t in range(0, 300_000, 2000)}
    # 151 are missing; 1 of 3 halvings is wanted, 2 follow; 149 stretches are settled at the cost of one
    assert sampler.planned(half) == 150 + 151 + 1 + 1 + round((1 + 5) / (149 + 20) * 151)
    assert make_sampler(settings(sampling="fixed"), 600_000).planned({}) == 301
    bounded = make_sampler(settings(max_questions_per_scene=20), 600_000)
    assert bounded.planned({}) == 15 + round(0.25 * 14)
    flickering = seen(*(sample(t, *["Dunk"][i % 2 :]) for i, t in enumerate(bounded.wish({}).now)))
    assert bounded.planned(flickering) == 20
    assert len(bounded.wish(flickering).now) == 5


def test_undecodable_moments_and_inherited_answers_are_not_counted() -> None:
    sampler = make_sampler(settings(max_questions_per_scene=12), 20_100)
    free = seen(failed(0, Outcome.UNDECODABLE), sample(2000, inherited_from_ms=0), failed(4000), sample(6000))
    foreign = seen(*(sample(t) for t in range(1, 40, 2)))
    assert sampler.planned(free) == 4 + 12 - 2
    assert sampler.planned(free | foreign) == 24
    assert sampler.wish(foreign).now == ()


def test_inherited_answers_cost_nothing_of_a_bound() -> None:
    sampler = make_sampler(settings(sampling="fixed", max_questions_per_scene=10), 18_100)
    known = [sample(t, inherited_from_ms=0) for t in (2000, 4000, 6000)]
    assert len(run(sampler, right({}), known=known)) == 10


# --- order ---


@runs(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(POLICIES), intervals, st.sampled_from([0.0, 0.1]), st.booleans())
def test_the_order_of_answers_does_not_matter(
    seed: int, policy: str, interval: float, fails: float, bounded: bool
) -> None:
    wanted = settings(sampling=policy, video_frame_interval=interval, max_questions_per_scene=60 if bounded else None)
    answer = moody(seed, fails=fails)
    orderly = run(make_sampler(wanted, 61_234), answer)
    jumbled = run(make_sampler(wanted, 61_234), answer, dice=random.Random(seed))
    spread = {t for t in orderly.keys() ^ jumbled.keys()}
    if bounded and any(s.outcome is Outcome.UNDECODABLE for s in orderly.values()):
        return  # such moments turn out to cost nothing, which lets others in
    assert not spread


@runs(deadline=None)
@given(st.integers(0, 10**6))
def test_a_wish_follows_from_the_answers_alone(seed: int) -> None:
    sampler, answer = make_sampler(settings(), 61_234), moody(seed)
    found = run(sampler, answer)
    dice = random.Random(seed)
    some = {t: s for t, s in found.items() if dice.random() < 0.7}
    assert sampler.wish(some) == make_sampler(settings(), 61_234).wish(dict(reversed(some.items())))
    assert set(sampler.wish(some).now) <= found.keys()


@runs(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(POLICIES))
def test_the_plan_is_never_behind_and_right_in_the_end(seed: int, policy: str) -> None:
    sampler, answer = make_sampler(settings(sampling=policy), 61_234), moody(seed)
    found: dict[int, Sample] = {}
    while wish := sampler.wish(found).now:
        assert sampler.planned(found) >= len(found) + len(wish)
        found |= {t: answer(t) for t in wish}
    assert sampler.planned(found) == len(found)


@runs(deadline=None)
@given(st.integers(0, 10**6))
def test_what_may_be_wanted_is_near_and_not_wanted_yet(seed: int) -> None:
    sampler, answer = make_sampler(settings(), 61_234), moody(seed)
    found: dict[int, Sample] = {}
    while (wish := sampler.wish(found)).now:
        assert not set(wish.maybe) & {*wish.now, *found}
        assert all(min(abs(m - n) for n in wish.now) <= 4000 for m in wish.maybe)
        found |= {t: answer(t) for t in wish.now}


def test_around_a_halving_the_next_ones_may_be_wanted() -> None:
    sampler, answer = make_sampler(settings(), 40_100), right({"Dunk": ((17_300, 50_000),)})
    found = {t: answer(t) for t in sampler.wish({}).now}
    wishes = []
    while (wish := sampler.wish(found)).now:
        wishes.append((wish.now, wish.maybe))
        found |= {t: answer(t) for t in wish.now}
    assert wishes == [((17_000,), (16_500, 17_500)), ((17_500,), ())]


# --- flicker ---


def beyond_scan(truth: Truth, **changes: object) -> list[int]:
    found = run(make_sampler(settings(**changes), 60_000), right(truth))
    return sorted(t for t in found if t % 2000 and t != 59_900)


def test_a_frame_alone_is_asked_about_twice_and_then_let_go() -> None:
    assert beyond_scan({"Dunk": ((20_000, 20_001),)}) == [19_600, 20_400]


def test_one_vote_of_agreement_is_enough_to_search_the_ends() -> None:
    probes = beyond_scan({"Dunk": ((19_200, 20_300),)})
    assert {19_600, 20_400} <= {*probes}
    assert len(probes) <= 4


def test_a_frame_that_misses_the_tag_amid_others_is_not_worth_a_question() -> None:
    """The pause would be shorter than `max_gap` anyway."""
    assert beyond_scan({"Dunk": ((0, 19_500), (20_500, 60_000))}) == []


def test_a_pause_longer_than_the_gap_is_voted_on() -> None:
    probes = beyond_scan({"Dunk": ((0, 19_500), (20_500, 60_000))}, max_gap=0)
    assert 20_400 in probes


def test_a_confidence_a_little_below_the_threshold_does_not_end_a_span() -> None:
    def fading(at_ms: int) -> Sample:
        if at_ms >= 40_000:
            return sample(at_ms)
        return sample(at_ms, "Dunk", confidence=0.45 if 20_000 <= at_ms < 30_000 else 0.9)

    found = run(make_sampler(settings(), 60_000), fading)
    assert not [t for t in found if 18_000 < t < 32_000 and t % 2000]
    assert [t for t in found if 38_000 < t < 40_000]


# --- moments that cannot be analysed ---


def test_a_hole_is_asked_near_by_once() -> None:
    found = run(
        make_sampler(settings(sampling="fixed"), 20_000),
        lambda t: failed(t) if t == 8000 else sample(t),
    )
    assert sorted(t for t in found if t % 2000) == [8400, 19_900]


def test_a_long_hole_is_not_asked_again_and_again() -> None:
    found = run(
        make_sampler(settings(), 600_000),
        lambda t: failed(t, Outcome.UNDECODABLE) if 100_000 <= t <= 500_000 else sample(t),
    )
    assert len(found) <= 301 + 2


def test_ends_are_searched_across_a_hole() -> None:
    def answer(at_ms: int) -> Sample:
        if 9000 <= at_ms <= 13_000:
            return failed(at_ms)
        return sample(at_ms, *(["Dunk"] if at_ms < 15_000 else []))

    found = run(make_sampler(settings(), 60_000), answer)
    assert [t for t in found if 14_000 < t < 16_000]


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.analysed])
def test_when_nothing_can_be_analysed_it_ends_after_the_scan(outcome: Outcome) -> None:
    found = run(make_sampler(settings(), 600_000), lambda t: failed(t, outcome))
    assert len(found) == 301


def test_answers_to_other_moments_neither_disturb_nor_count() -> None:
    sampler, answer = make_sampler(settings(), 60_000), right({"Dunk": ((11_000, 33_000),)})
    foreign = [sample(t, "Dunk") for t in (111, 5555, 47_113)]
    assert run(sampler, answer, known=foreign).keys() == run(sampler, answer).keys() | {s.at_ms for s in foreign}


def test_a_tags_own_threshold_and_gap_decide_what_is_a_boundary() -> None:
    own = [{"name": "Dunk", "threshold": 0.8, "max_gap": 0}, "Foul"]
    wanted = settings(tag_list=own, threshold=0.5, max_gap=4)

    def beyond(answer: Answer) -> list[int]:
        return sorted(t for t in run(make_sampler(wanted, 40_100), answer) if t % 2000)

    assert beyond(lambda t: sample(t, *(["Dunk"] if t > 21_000 else []), confidence=0.6)) == []
    assert beyond(lambda t: sample(t, *(["Foul"] if t > 21_000 else []), confidence=0.6)) == [21_000, 21_500]
    assert beyond(right({"Foul": ((0, 19_500), (20_500, 41_000))})) == []
    assert beyond(right({"Dunk": ((0, 19_500), (20_500, 41_000))})) == [19_000, 19_500, 20_400, 21_200]


def test_unknown_names_are_no_boundary() -> None:
    found = run(make_sampler(settings(), 60_000), lambda t: sample(t, *(["Rabona"] if t > 9000 else [])))
    assert len(found) == 31


def test_with_a_limit_of_time_each_turn_spreads_over_the_whole_and_the_end_is_the_same() -> None:
    truth = {"Foul": ((100_000, 130_000),)}
    sampler = make_sampler(settings(max_time_per_scene=60), 600_000)
    known: dict[int, Sample] = {}
    turns: list[tuple[int, ...]] = []
    while now := sampler.wish(known).now:
        turns.append(now)
        known |= {at_ms: right(truth)(at_ms) for at_ms in now}
    assert turns[0] == tuple(range(0, 600_000, 64_000))
    assert [len(turn) for turn in turns[:4]] == [10, 28, 113, 150]
    assert known.keys() == run(make_sampler(settings(), 600_000), right(truth)).keys()


def test_the_fixed_moments_are_the_coarse_ones() -> None:
    truth = {"Foul": ((100_000, 130_000),)}
    sampler = make_sampler(settings(), 600_000)
    first = sampler.wish({})
    assert first.coarse == set(first.now)
    later = sampler.wish({at_ms: right(truth)(at_ms) for at_ms in first.now})
    assert later.now and later.coarse == frozenset()
