"""How many questions at once: the steps of the search, what each costs in answers, and when it looks again."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from haven_vlm.concurrency import Concurrency, Level

Steps = list[tuple[int, int]]
"""(answers so far, number of questions at once from there on)"""


def server(slots: int) -> Callable[[int], float]:
    """Latency by the number of questions at once: with more than its slots everybody waits."""
    return lambda n: max(1.0, n / slots)


def steps(machine: Concurrency, latency: Callable[[int], float], answers: int) -> Steps:
    """Answers under full load, one after another."""
    seen = []
    for answered in range(1, answers + 1):
        limit = machine.limit
        machine.ended(machine.began(), latency_s=latency(limit), in_flight=limit)
        if machine.limit != limit:
            seen.append((answered, machine.limit))
    return seen


def is_settled(machine: Concurrency) -> bool:
    return machine.settled


@pytest.mark.parametrize(
    ("slots", "path", "answers"),
    [
        (1, [4, 3, 1], 50),
        (2, [4, 3, 1, 2], 50),
        (3, [4, 8, 6, 5, 3], 96),
        (4, [4, 8, 6, 5, 3, 4], 96),
        (5, [4, 8, 16, 12, 10, 9, 6, 7, 5], 243),
        (8, [4, 8, 16, 12, 10, 9, 6, 7, 8], 226),
        (16, [4, 8, 16, 32, 24, 20, 18, 12, 14, 16], 454),
        (32, [4, 8, 16, 32, 64, 48, 40, 36, 24, 28, 32], 910),
        (1000, [4, 8, 16, 32, 64, 128, 256, 192, 224, 256], 2366),
    ],
)
def test_it_doubles_while_that_pays_then_halves_what_is_left(slots: int, path: list[int], answers: int) -> None:
    machine = Concurrency()
    assert (machine.limit, machine.settled) == (2, False)
    seen = steps(machine, server(slots), answers - 1)
    assert not is_settled(machine)
    seen += steps(machine, server(slots), 1)
    assert is_settled(machine)
    assert [limit for _, limit in seen] == path
    assert machine.best == path[-1]


def test_each_level_costs_one_round_to_settle_in_and_few_answers() -> None:
    assert steps(Concurrency(), server(4), 96) == [(6, 4), (22, 8), (46, 6), (64, 5), (81, 3), (96, 4)]


def test_what_differs_by_luck_only_is_decided_for_less() -> None:
    def flat(gain: float) -> Callable[[int], float]:
        return lambda n: {2: 1.0, 4: 2**0.75 / gain}.get(n, 99.0)

    machine = Concurrency()
    steps(machine, flat(1.015), 50)
    assert machine.best == 2
    machine = Concurrency()
    steps(machine, flat(1.025), 25)
    assert machine.best == 4


def test_a_settled_level_is_compared_with_its_neighbours_ever_more_rarely() -> None:
    machine = Concurrency(start=4)
    assert (machine.limit, machine.best, machine.settled) == (4, 4, True)
    assert steps(machine, server(4), 40_000) == [
        (204, 5), (233, 4),
        (637, 3), (664, 4),
        (1468, 5), (1497, 4),
        (3101, 3), (3128, 4),
        (6332, 5), (6361, 4),
        (12765, 3), (12792, 4),
        (19196, 5), (19225, 4),
        (25629, 3), (25656, 4),
        (32060, 5), (32089, 4),
        (38493, 3), (38520, 4),
    ]  # fmt: skip


def test_many_at_once_need_more_answers_and_are_looked_at_more_rarely() -> None:
    machine = Concurrency(start=16)
    assert steps(machine, server(16), 4500) == [
        (656, 18), (728, 16), (1384, 14), (1440, 16), (2256, 18), (2328, 16), (3944, 14), (4000, 16),
    ]  # fmt: skip


def test_a_server_that_got_better_is_followed_and_looked_at_again_soon() -> None:
    machine = Concurrency(start=4)
    before = steps(machine, server(4), 1000)
    assert [limit for _, limit in before] == [5, 4, 3, 4]
    after = steps(machine, server(6), 4000)
    assert after[:8] == [(468, 5), (702, 4), (730, 5), (1135, 6), (1411, 5), (1440, 6), (1846, 7), (1877, 6)]
    assert {limit for _, limit in after[5:]} == {5, 6, 7}
    assert machine.best == 6


def test_a_server_that_got_slower_is_followed_down_to_one() -> None:
    machine = Concurrency(start=2)
    assert steps(machine, server(1), 900) == [(202, 3), (229, 2), (631, 1), (857, 2), (883, 1)]


def test_a_single_place_has_no_neighbour_below() -> None:
    machine = Concurrency(start=1)
    assert {limit for _, limit in steps(machine, server(1), 10_000)} == {1, 2}


def test_the_bound_has_no_neighbour_above() -> None:
    machine = Concurrency(start=99, most=10)
    assert machine.limit == 10
    assert {limit for _, limit in steps(machine, server(99), 5000)} == {9, 10}
    machine = Concurrency(most=10)
    assert [limit for _, limit in steps(machine, server(99), 94)] == [4, 8, 10, 9, 10]


def test_what_a_server_says_of_itself_is_where_it_begins() -> None:
    for start, limit in ((None, 2), (1, 1), (7, 7), (300, 256)):
        assert Concurrency(start=start).limit == limit


# --- what counts ----------------------------------------------------------------------------------------------


def test_an_answer_counts_under_full_load_and_a_single_limit_only() -> None:
    machine = Concurrency()
    early = machine.began()
    for _ in range(100):
        machine.ended(machine.began(), latency_s=1.0, in_flight=1)
    assert machine.limit == 2
    assert steps(machine, server(8), 6) == [(6, 4)]
    for _ in range(100):
        machine.ended(early, latency_s=1.0, in_flight=4)
    assert machine.limit == 4


def test_the_first_round_after_a_change_counts_for_nothing() -> None:
    slow_at_first = Concurrency()
    for latency_s in (99.0, 99.0, 1.0, 1.0, 1.0, 1.0, 99.0, 99.0, 99.0, 99.0):
        slow_at_first.ended(slow_at_first.began(), latency_s=latency_s, in_flight=slow_at_first.limit)
    assert [limit for _, limit in steps(slow_at_first, server(4), 96 - 10)] == [8, 6, 5, 3, 4]


def test_a_fixed_number_learns_nothing() -> None:
    machine = Concurrency(fixed=3)
    assert (machine.limit, machine.best, machine.settled) == (3, 3, True)
    assert steps(machine, server(9), 2000) == []
    machine.overloaded(machine.began(), in_flight=3)
    assert machine.limit == 3


# --- too much -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "left"), [(12, 8), (11, 7), (10, 6), (3, 2), (2, 1), (1, 1)])
def test_too_much_cuts_a_third_of_what_it_held(held: int, left: int) -> None:
    machine = Concurrency(start=12)
    machine.overloaded(machine.began(), in_flight=held)
    assert (machine.limit, machine.best, machine.settled) == (left, left, True)


def test_too_much_never_raises_the_number() -> None:
    machine = Concurrency(start=2)
    machine.overloaded(machine.began(), in_flight=9)
    assert machine.limit == 2


def test_of_refusals_at_the_same_time_one_counts() -> None:
    machine = Concurrency(start=12)
    together = [machine.began() for _ in range(12)]
    for number, one in enumerate(together):
        machine.overloaded(one, in_flight=12 - number)
    assert machine.limit == 8
    machine.overloaded(machine.began(), in_flight=8)
    assert machine.limit == 5


def test_too_much_during_the_search_ends_it() -> None:
    machine = Concurrency()
    steps(machine, server(99), 40)
    assert (machine.limit, machine.settled) == (8, False)
    machine.overloaded(machine.began(), in_flight=8)
    assert (machine.limit, machine.best, machine.settled) == (5, 5, True)


@pytest.mark.parametrize(
    ("held", "seen"),
    [
        (3, [(402, 1), (427, 2), (829, 3), (1059, 2), (1085, 3)]),
        (2, [(601, 2), (829, 1), (854, 2)]),
        (1, [(601, 2), (829, 1), (854, 2)]),
    ],
)
def test_what_was_too_much_of_few_is_not_the_next_thing_tried(held: int, seen: Steps) -> None:
    machine = Concurrency(start=held)
    machine.overloaded(machine.began(), in_flight=held)
    assert steps(machine, server(99), 1200) == seen


def test_what_was_measured_before_too_much_does_not_lead_back_to_it() -> None:
    machine = Concurrency()
    steps(machine, server(99), 44)
    machine.overloaded(machine.began(), in_flight=8)
    assert steps(machine, server(99), 1300) == [(205, 6), (481, 5), (510, 6), (916, 7), (1234, 6), (1264, 7)]


@pytest.mark.parametrize(
    ("start", "before", "after"),
    [
        (4, 700, [(768, 5), (1002, 4), (1030, 5)]),
        (None, 96, [(204, 5), (438, 4), (466, 5)]),
    ],
)
def test_levels_are_compared_by_what_the_machine_does_now(start: int | None, before: int, after: Steps) -> None:
    machine = Concurrency(start=start)
    steps(machine, server(4), before)
    assert machine.best == 4
    assert steps(machine, lambda n: 3 * server(8)(n), after[-1][0]) == after


def test_what_was_too_much_is_reached_again_step_by_step_and_only_after_a_while() -> None:
    machine = Concurrency(start=6)
    machine.overloaded(machine.began(), in_flight=6)
    assert machine.limit == 4
    seen = steps(machine, server(99), 2000)
    assert seen == [
        (204, 5), (438, 4), (466, 5), (871, 6), (1147, 5), (1176, 6), (1582, 7), (1900, 6), (1930, 7),
    ]  # fmt: skip


def test_a_check_begins_anew_after_too_much() -> None:
    machine = Concurrency(start=4)
    steps(machine, server(4), 150)
    machine.overloaded(machine.began(), in_flight=4)
    assert steps(machine, server(4), 300)[0] == (202, 3)


# --- the score ------------------------------------------------------------------------------------------------


def test_a_level_is_as_good_as_its_answers_per_second_over_the_fourth_root_of_its_size() -> None:
    level = Level()
    for seconds in (1.0, 3.0):
        level.add(seconds)
    assert level.score(16) == pytest.approx(8 / 2)
    assert level.score(1) == pytest.approx(1 / 2)


def test_a_server_that_takes_no_time_is_the_best_there_is() -> None:
    level = Level()
    level.add(0.0)
    assert level.score(3) == math.inf
    machine = Concurrency()
    steps(machine, lambda n: 0.0, 2000)
    assert machine.settled
