"""The breaker, rests and shares at exactly the figures that their descriptions give."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.resilience import Backoff, Breaker, BreakerState, FairShare, Latencies, Rest, Timeouts, chance


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock | None = None, seed: int = 0) -> Breaker:
    return Breaker(clock or Clock(), Random(seed))


def feed(machine: Breaker, results: str) -> list[bool]:
    """`+` an answer, `-` a failure, `t` a timeout, `c` a cancelled attempt. Of each, whether it opened the breaker."""
    ends = {"+": True, "-": False, "t": False, "c": None}
    return [machine.end(machine.begin(), ok=ends[result], is_costly=result == "t") for result in results]


def state(machine: Breaker) -> BreakerState:
    return machine.state


# --- opening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        "---",  # three, and all of them
        "-+-+-",
        "+-+-+-",  # exactly half
        "+++--+-+-+-",  # half of the last ten, one more than they are having been forgotten
        "++++++++++----",  # four in a row, whatever was before
        "++++++tt",  # a timeout counts twice in a row
        "+++++++-t-",
        "+++++++++t--",
        "+++++++t+tt",  # an answer between begins anew
        "c-c-cc-",  # what was cancelled says nothing
    ],
)
def test_it_opens_with_the_last_of_these_and_not_before(history: str) -> None:
    machine = breaker()
    assert feed(machine, history) == [False] * (len(history) - 1) + [True]
    assert state(machine) is BreakerState.OPEN


@pytest.mark.parametrize("history", ["--", "-t", "t-", "++++--", "+++++++---", "++++++++-t", "c" * 30, "+++++++-+-+-"])
def test_it_stays_closed_after_these(history: str) -> None:
    machine = breaker()
    assert feed(machine, history) == [False] * len(history)
    assert state(machine) is BreakerState.CLOSED


def test_the_chance_of_failure_is_estimated_from_the_last_ten_attempts_of_a_minute() -> None:
    clock = Clock()
    machine = breaker(clock)
    assert machine.failure_ratio() == 1 / 2
    feed(machine, "-")
    assert machine.failure_ratio() == 2 / 3
    clock.now += 30
    feed(machine, "+++")
    assert machine.failure_ratio() == 2 / 6
    clock.now += 30
    assert machine.failure_ratio() == 2 / 6, "exactly a minute old"
    clock.now += 0.5
    assert machine.failure_ratio() == 1 / 5
    feed(machine, "+" * 6)
    assert machine.failure_ratio() == 1 / 11
    feed(machine, "+" * 6)
    assert machine.failure_ratio() == 1 / 12


def test_only_the_latest_failure_is_forgiven() -> None:
    clock = Clock()
    machine = breaker(clock)
    feed(machine, "-+")
    clock.now += 50
    feed(machine, "+-+")
    machine.forgive()
    assert machine.failure_ratio() == 2 / 6
    clock.now += 11
    assert machine.failure_ratio() == 1 / 4, "the one that was left is over a minute old"
    machine.forgive()
    assert machine.failure_ratio() == 1 / 4


def test_a_failure_at_the_very_beginning_can_be_forgiven() -> None:
    machine = breaker()
    feed(machine, "-")
    machine.forgive()
    assert machine.failure_ratio() == 1 / 2


def test_after_forgiveness_a_row_begins_anew() -> None:
    machine = breaker()
    feed(machine, "+++++++++---")
    machine.forgive()
    assert feed(machine, "t-") == [False, False]


# --- open, half open, closed again ----------------------------------------------------------------------------


def test_open_times_are_spread_by_a_quarter_either_way() -> None:
    spans = []
    for seed in range(300):
        machine = breaker(seed=seed)
        machine.trip()
        spans.append(machine.open_left_s)
    assert 0.75 <= min(spans) < 0.76
    assert 1.24 < max(spans) <= 1.25


def test_the_time_left_runs_down_to_nought_and_is_nought_unless_open() -> None:
    clock = Clock()
    machine = breaker(clock)
    assert machine.open_left_s == 0
    machine.trip()
    span = machine.open_left_s
    clock.now += span / 2
    assert machine.open_left_s == pytest.approx(span / 2)
    clock.now += 100
    assert machine.open_left_s == 0
    machine.trip()
    machine.half_open()
    assert machine.open_left_s == 0


def test_the_first_opening_is_short_however_many_answers_were_before() -> None:
    for closings in (0, 1, 5):
        machine = breaker()
        for _ in range(closings):
            machine.trip()
            machine.half_open()
            assert feed(machine, "+") == [False]
        machine.trip()
        assert machine.open_left_s <= 1.25
        machine.half_open()
        machine.trip()
        assert machine.open_left_s >= 1.5


def test_after_a_good_trial_its_record_is_clean() -> None:
    machine = breaker()
    feed(machine, "----")
    machine.half_open()
    assert feed(machine, "+") == [False]
    assert state(machine) is BreakerState.CLOSED
    assert machine.failure_ratio() == 1 / 2
    assert feed(machine, "-t") == [False, False]
    assert feed(machine, "-") == [True]


def test_a_bad_trial_opens_it_again_for_twice_as_long() -> None:
    machine = breaker()
    machine.trip()
    machine.half_open()
    assert feed(machine, "-") == [True]
    assert state(machine) is BreakerState.OPEN
    assert 1.5 <= machine.open_left_s <= 2.5


def test_a_cancelled_trial_decides_nothing_and_may_be_repeated() -> None:
    machine = breaker()
    machine.trip()
    machine.half_open()
    assert feed(machine, "c") == [False]
    assert state(machine) is BreakerState.HALF_OPEN
    assert machine.admits
    machine.begin()
    assert not machine.admits


def test_a_trial_under_way_does_not_block_the_next_one_once_it_was_closed_down_again() -> None:
    machine = breaker()
    machine.trip()
    machine.half_open()
    lost = machine.begin()
    machine.trip()
    machine.half_open()
    assert machine.admits
    assert machine.end(lost, ok=False) is False, "of another time"
    assert state(machine) is BreakerState.HALF_OPEN


def test_attempts_from_before_it_opened_do_not_open_it_again() -> None:
    machine = breaker()
    early = [machine.begin() for _ in range(5)]
    assert [machine.end(ticket, ok=False) for ticket in early] == [False, False, True, False, False]
    assert machine.open_left_s <= 1.25


# --- rest, backoff --------------------------------------------------------------------------------------------


def test_a_rest_ends_at_its_moment() -> None:
    clock = Clock()
    rest = Rest(clock)
    assert (rest.over, rest.left_s) == (True, 0.0)
    rest.extend(3)
    assert (rest.over, rest.left_s) == (False, 3.0)
    rest.extend(1)
    assert rest.left_s == 3.0
    clock.now += 3
    assert (rest.over, rest.left_s) == (True, 0.0)
    clock.now += 3
    assert (rest.over, rest.left_s) == (True, 0.0)
    rest.extend(-5)  # a date in the past
    assert (rest.over, rest.left_s) == (True, 0.0)
    rest.extend(0.5)
    assert rest.left_s == 0.5


def test_no_number_of_attempts_is_too_many() -> None:
    assert Backoff(0.5, 30.0, Random(0)).span_s(10**6) == 30.0


# --- shares ---------------------------------------------------------------------------------------------------


def shared(weights: dict[str, float], count: int, share: FairShare | None = None) -> str:
    """Whoever is due gets the next question, so many times; of equals the first."""
    share = share or FairShare()
    order = []
    for _ in range(count):
        name = min(weights, key=lambda n: (round(share.place(n, weights[n]), 9), n))
        share.charge(name, weights[name])
        order.append(name)
    return "".join(order)


def test_questions_are_interleaved_as_evenly_as_can_be() -> None:
    assert shared({"a": 1, "b": 1}, 6) == "ababab"
    assert shared({"a": 2, "b": 5}, 14) == "babbbab" * 2
    assert shared({"a": 0.5, "b": 1}, 6) == "babbab"


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 12), min_size=1), st.integers(1, 5))
def test_long_run_shares_are_exact(weights: dict[str, float], rounds: int) -> None:
    total = int(sum(weights.values()))
    order = shared(weights, total * rounds)
    assert {name: order.count(name) for name in weights} == {n: w * rounds for n, w in weights.items()}


@pytest.mark.parametrize("weight", [1, 4])
def test_what_an_endpoint_that_was_away_is_owed_is_bounded(weight: float) -> None:
    share = FairShare()
    shared({"b": weight}, 5000, share)
    order = shared({"a": weight, "b": weight}, 600, share)
    assert abs(order.index("b") - 256) <= 2
    assert order[300:].count("a") == order[300:].count("b")


def test_a_short_absence_is_made_up_for_in_full() -> None:
    share = FairShare()
    shared({"b": 1}, 100, share)
    assert shared({"a": 1, "b": 1}, 104, share) == "a" * 100 + "abab"


# --- latencies, timeouts --------------------------------------------------------------------------------------


def latencies_of(*values: float) -> Latencies:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    return latencies


def test_what_to_expect_is_the_mean_of_the_first_answers_then_follows_slowly() -> None:
    assert Latencies().expected_s is None
    assert Latencies(guess_s=7.0).expected_s == 7.0
    assert latencies_of(4.0).expected_s == 4.0
    assert latencies_of(4.0, 8.0).expected_s == 6.0
    assert latencies_of(*[1.0, 3.0] * 5).expected_s == pytest.approx(2.0)
    assert latencies_of(*[2.0] * 4, 12.0).expected_s == pytest.approx(4.0)
    assert latencies_of(*[2.0] * 10, 12.0).expected_s == pytest.approx(3.0)
    assert latencies_of(*[2.0] * 50, 12.0).expected_s == pytest.approx(3.0)
    guessed = Latencies(guess_s=100.0)
    guessed.add(1.0)
    assert guessed.expected_s == 1.0


def test_percentiles_are_answers_that_came() -> None:
    latencies = latencies_of(*range(20, 0, -1))
    assert [latencies.percentile(share) for share in (0.0, 0.04, 0.05, 0.06, 0.5, 0.95, 0.96, 1.0)] == [
        1, 1, 1, 2, 10, 19, 20, 20,
    ]  # fmt: skip
    latencies.add(100)
    assert latencies.percentile(1.0) == 100
    assert latencies_of(3.0).percentile(0.5) == 3.0
    assert Latencies().percentile(0.95) == 0


def test_percentiles_are_of_the_last_two_hundred_answers() -> None:
    latencies = latencies_of(9.0, *[1.0] * 199)
    assert latencies.percentile(1.0) == 9.0
    latencies.add(1.0)
    assert latencies.percentile(1.0) == 1.0
    assert latencies.count == 201


def timeouts(clock: Clock, *values: float, most_s: float = 300.0) -> Timeouts:
    latencies = Latencies()
    machine = Timeouts(most_s, latencies, clock)
    for value in values:
        latencies.add(value)
        machine.answered()
    return machine


def test_after_eight_answers_an_endpoint_is_known() -> None:
    assert timeouts(Clock(), *[20.0] * 7).first_byte_s() == 300.0
    assert timeouts(Clock(), *[20.0] * 8).first_byte_s() == 80.0


def test_a_quick_endpoint_still_gets_half_a_minute_and_a_slow_one_no_more_than_is_allowed() -> None:
    assert timeouts(Clock(), *[0.1] * 20).first_byte_s() == 30.0
    assert timeouts(Clock(), *[100.0] * 20).first_byte_s() == 300.0
    hurried = timeouts(Clock(), *[0.1] * 20, most_s=3.0)
    assert (hurried.connect_s, hurried.first_byte_s(), hurried.total_s()) == (3.0, 3.0, 3.0)
    assert timeouts(Clock(), *[100.0] * 20).total_s() == 300.0


def test_every_timeout_in_a_row_doubles_the_patience() -> None:
    machine = timeouts(Clock(), *[10.0] * 20)
    seen = []
    for _ in range(5):
        seen.append(machine.first_byte_s())
        machine.timed_out()
    assert seen == [40.0, 80.0, 160.0, 300.0, 300.0]
    for _ in range(3000):
        machine.timed_out()
    assert machine.first_byte_s() == 300.0
    machine.answered()
    assert machine.first_byte_s() == 40.0


def test_a_pause_of_two_minutes_is_none_and_a_longer_one_may_have_unloaded_the_model() -> None:
    clock = Clock()
    machine = timeouts(clock, *[10.0] * 20)
    clock.now += 120
    assert machine.first_byte_s() == 40.0
    clock.now += 0.5
    assert machine.first_byte_s() == 300.0
    never_asked = Timeouts(300.0, latencies_of(*[10.0] * 20), clock)
    assert (never_asked.connect_s, never_asked.first_byte_s()) == (5.0, 300.0)


def test_connecting_takes_longer_before_the_first_answer_and_after_a_timeout() -> None:
    clock = Clock()
    assert timeouts(clock).connect_s == 10.0
    machine = timeouts(clock, 1.0)
    assert machine.connect_s == 5.0
    machine.timed_out()
    assert machine.connect_s == 10.0


def test_chances_multiply() -> None:
    assert chance([]) == 1
    assert chance([0.5, 0.5, 0.25]) == 1 / 16
    assert chance([0.5, math.nextafter(0.5, 0)]) < 0.25
