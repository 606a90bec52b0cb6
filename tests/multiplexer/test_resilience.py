"""The state machines by themselves, with a clock that is moved by hand."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from haven_vlm.concurrency import Concurrency
from haven_vlm.resilience import Backoff, Breaker, BreakerState, Latencies, Rest, Timeouts, chance


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock | None = None, seed: int = 0) -> Breaker:
    return Breaker(clock or Clock(), Random(seed))


def admits(machine: Breaker) -> bool:
    return machine.admits


def feed(machine: Breaker, results: str) -> None:
    """`+` an answer, `-` a failure, `t` a timeout."""
    for result in results:
        machine.end(machine.begin(), ok=result == "+", is_costly=result == "t")


@given(st.integers(0, 200), st.integers(0, 10_000))
def test_backoff_stays_within_a_span_that_doubles(attempt: int, seed: int) -> None:
    backoff = Backoff(0.25, 5.0, Random(seed))
    assert 0 <= backoff.delay_s(attempt) <= backoff.span_s(attempt) <= 5.0
    assert backoff.span_s(attempt) == min(5.0, 0.25 * 2 ** min(attempt, 100))


def test_backoff_uses_its_whole_span() -> None:
    backoff = Backoff(1.0, 60.0, Random(1))
    delays = [backoff.delay_s(3) for _ in range(2000)]
    assert min(delays) < 0.1
    assert max(delays) > 7.9


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), min_size=1))
def test_of_several_wishes_to_rest_the_longest_holds(wishes: list[tuple[float, float]]) -> None:
    clock = Clock()
    rest = Rest(clock)
    assert rest.over
    latest = 0.0
    for later_s, for_s in wishes:
        clock.now += later_s
        rest.extend(for_s)
        latest = max(latest, clock.now + for_s)
        assert rest.left_s == pytest.approx(max(0.0, latest - clock.now))
    clock.now = latest
    assert rest.over


@pytest.mark.parametrize("history", ["-", "--", "++++++++-", "+-++-++-", "-+++++++-+++++++-", "++++++++++---", "t"])
def test_few_failures_do_not_open_a_breaker(history: str) -> None:
    machine = breaker()
    feed(machine, history)
    assert machine.state is BreakerState.CLOSED
    assert machine.admits


@pytest.mark.parametrize("history", ["---", "+-+-+---", "++++++++++----", "tt", "++++++++++tt", "++++--+--+--"])
def test_many_failures_open_it(history: str) -> None:
    machine = breaker()
    feed(machine, history)
    assert machine.state is BreakerState.OPEN
    assert not machine.admits
    assert 0.75 <= machine.open_left_s <= 1.25


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    machine = breaker(clock)
    feed(machine, "+--")
    clock.now += 61
    feed(machine, "+-")
    assert machine.state is BreakerState.CLOSED


def test_open_times_double_up_to_a_limit_and_start_anew_after_an_answer() -> None:
    machine = breaker()
    spans = []
    for _ in range(10):
        machine.trip()
        spans.append(machine.open_left_s)
        machine.half_open()
    assert all(0.75 * min(30, 2**i) <= s <= 1.25 * min(30, 2**i) for i, s in enumerate(spans))
    machine.end(machine.begin(), ok=True)
    machine.trip()
    assert machine.open_left_s <= 1.25


def test_half_open_lets_one_through_and_gets_its_turn_back() -> None:
    machine = breaker()
    old = machine.begin()
    machine.trip()
    machine.half_open()
    assert admits(machine)
    probe = machine.begin()
    assert not admits(machine)
    machine.end(old, ok=True)  # an attempt from before says nothing about the present
    assert not admits(machine)
    machine.end(probe, ok=None)  # cancelled
    assert admits(machine)
    assert machine.end(machine.begin(), ok=False), "it opens again"
    assert not admits(machine)


def test_what_was_the_questions_fault_is_forgiven() -> None:
    machine = breaker()
    for _ in range(50):
        feed(machine, "+-")
        machine.forgive()
    assert machine.state is BreakerState.CLOSED
    assert machine.failure_ratio() < 0.1


class AnyBreaker(RuleBasedStateMachine):
    """Whatever happens in whatever order: never two probes, never stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.machine = breaker(self.clock)
        self.out: list[tuple[int, bool]] = []

    @precondition(lambda self: self.machine.admits)
    @rule()
    def begin(self) -> None:
        trial = self.machine.state is BreakerState.HALF_OPEN
        self.out.append((self.machine.begin(), trial))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 1000), ok=st.sampled_from([True, False, None]), costly=st.booleans())
    def end(self, which: int, ok: bool | None, costly: bool) -> None:
        ticket, _ = self.out.pop(which % len(self.out))
        self.machine.end(ticket, ok=ok, is_costly=costly)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.machine.state is BreakerState.OPEN)
    @rule()
    def looks_healthy(self) -> None:
        self.machine.half_open()
        self.out = [(ticket, False) for ticket, _ in self.out]

    @invariant()
    def at_most_one_probe(self) -> None:
        if self.machine.state is BreakerState.HALF_OPEN:
            probes = sum(trial for _, trial in self.out)
            assert probes <= 1
            assert self.machine.admits == (probes == 0)

    @invariant()
    def open_times_are_bounded(self) -> None:
        assert self.machine.open_left_s <= 37.5
        assert 0 < self.machine.failure_ratio() < 1


TestAnyBreaker = AnyBreaker.TestCase


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=300))
def test_latencies(values: list[float]) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    recent = sorted(values[-200:])
    expected = latencies.expected_s or 0.0
    assert min(values) * 0.999 <= expected <= max(values) * 1.001
    assert latencies.percentile(1.0) == recent[-1]
    p50, p95 = latencies.percentile(0.5), latencies.percentile(0.95)
    assert sum(v <= p50 for v in recent) >= len(recent) * 0.5
    assert sum(v <= p95 for v in recent) >= len(recent) * 0.95 - 1e-9
    assert p50 <= p95


def test_timeouts_are_long_at_first_then_learned_then_long_again_after_a_pause() -> None:
    clock = Clock()
    latencies = Latencies()
    timeouts = Timeouts(300.0, latencies, clock)
    assert (timeouts.connect_s, timeouts.first_byte_s()) == (10.0, 300.0)
    for _ in range(20):
        latencies.add(12.0)
        timeouts.answered()
    assert (timeouts.connect_s, timeouts.first_byte_s()) == (5.0, 48.0)
    assert timeouts.first_byte_s(patient=True) == timeouts.total_s(patient=True) == 300.0
    assert timeouts.total_s() == 96.0, "what has begun to arrive may take longer"
    timeouts.timed_out()
    assert (timeouts.connect_s, timeouts.first_byte_s()) == (10.0, 96.0)
    timeouts.answered()
    clock.now += 121
    assert timeouts.first_byte_s() == 300.0
    timeouts.answered()
    timeouts.restarted()
    assert timeouts.first_byte_s() == 300.0


@given(st.lists(st.floats(0.01, 0.99), max_size=6))
def test_chance_falls_with_every_failure(ratios: list[float]) -> None:
    assert chance([*ratios, 0.5]) < chance(ratios) <= 1


# --- concurrency ----------------------------------------------------------------------------------------------


def learn(machine: Concurrency, latency: object, rounds: int = 4000, seed: int = 0) -> Concurrency:
    """A server under full load, one answer after another: `latency(n)` seconds with n at once, ±30 %."""
    random = Random(seed)
    assert callable(latency)
    for _ in range(rounds):
        n = machine.limit
        started = machine.began()
        machine.ended(started, latency_s=latency(n) * random.uniform(0.7, 1.3), in_flight=n)
    return machine


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8, 16, 50, 128])
@pytest.mark.parametrize("seed", range(5))
def test_the_slots_of_a_server_are_found(slots: int, seed: int) -> None:
    machine = learn(Concurrency(), lambda n: max(1.0, n / slots), rounds=6000, seed=seed)
    assert machine.settled
    assert slots - max(1, slots // 6) <= machine.best <= slots + max(1, slots // 3)


@pytest.mark.parametrize("knee", [1, 4, 16])
def test_where_batching_slows_everybody_most_of_the_throughput_is_used(knee: int) -> None:
    machine = learn(Concurrency(), lambda n: 1 + n / knee, rounds=8000)
    share = machine.best / (1 + machine.best / knee) / knee
    assert 0.5 <= share <= 0.9


def test_the_bound_is_kept() -> None:
    machine = Concurrency(most=10)
    random = Random(0)
    for _ in range(5000):
        assert 1 <= machine.limit <= 10
        machine.ended(machine.began(), latency_s=random.uniform(0.1, 0.2), in_flight=machine.limit)
    assert machine.best >= 8


def test_a_fixed_number_stays() -> None:
    machine = learn(Concurrency(fixed=3), lambda n: n)
    machine.overloaded(machine.began(), in_flight=3)
    assert machine.limit == 3


def test_nothing_is_learned_from_an_endpoint_that_is_not_full() -> None:
    machine = Concurrency()
    for _ in range(1000):
        machine.ended(machine.began(), latency_s=0.1, in_flight=machine.limit - 1)
    assert machine.limit == Concurrency().limit


def test_too_much_cuts_once_and_is_not_tried_again_soon() -> None:
    machine = learn(Concurrency(), lambda n: max(1.0, n / 32))
    high = machine.limit
    started = [machine.began() for _ in range(high)]
    for i, one in enumerate(started):
        machine.overloaded(one, in_flight=high - i)
    assert machine.limit == high * 2 // 3
    learn(machine, lambda n: 1.0, rounds=600)
    assert machine.limit < high


def test_a_change_of_the_machine_is_noticed() -> None:
    machine = learn(Concurrency(), lambda n: max(1.0, n / 8))
    before = machine.best
    learn(machine, lambda n: max(1.0, n / 3), rounds=60_000)
    assert machine.best < before


@given(st.lists(st.tuples(st.sampled_from(["end", "late", "overload", "idle"]), st.floats(0.01, 10)), max_size=400))
def test_any_order_of_events_keeps_the_limit_sane(events: list[tuple[str, float]]) -> None:
    machine = Concurrency(most=64)
    old = machine.began()
    for what, seconds in events:
        started = old if what == "late" else machine.began()
        if what == "overload":
            machine.overloaded(started, in_flight=machine.limit)
        else:
            machine.ended(started, latency_s=seconds, in_flight=machine.limit - (what == "idle"))
        assert 1 <= machine.limit <= 64
        assert 1 <= machine.best <= 64
