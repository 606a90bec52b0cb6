"""What keeps a pool of endpoints working when single ones do not: small state machines without any input or output.

Time and chance are injected, so that every rule here is tested exactly. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from types import MappingProxyType

from haven_vlm.errors import EndpointFault

Clock = Callable[[], float]
"""Seconds of a clock that never goes back."""


class Policy(Enum):
    """What a fault says about the endpoint and about the question."""

    PARK = "park"
    """The endpoint cannot work as it is set up: out for this run, with the fix in the log. Not the question's fault."""
    REST = "rest"
    """The endpoint is alive and has too much to do: no new question until it says so, and fewer at once."""
    WAIT = "wait"
    """The endpoint is getting ready: look again soon. Not a failure."""
    ENDPOINT = "endpoint"
    """Probably the endpoint's fault: counts in its breaker; the question goes elsewhere."""
    QUESTION = "question"
    """Probably this question's fault, and asking again there would end the same way: goes elsewhere once."""


POLICY: Mapping[EndpointFault, Policy] = MappingProxyType(
    {
        EndpointFault.AUTH: Policy.PARK,
        EndpointFault.MODEL: Policy.PARK,
        EndpointFault.QUOTA: Policy.PARK,
        EndpointFault.NOT_AN_API: Policy.PARK,
        EndpointFault.FORBIDDEN: Policy.PARK,
        EndpointFault.RATE_LIMITED: Policy.REST,
        EndpointFault.LOADING: Policy.WAIT,
        EndpointFault.CONNECT: Policy.ENDPOINT,
        EndpointFault.TIMEOUT: Policy.ENDPOINT,
        EndpointFault.SERVER: Policy.ENDPOINT,
        EndpointFault.FIELD: Policy.QUESTION,
        EndpointFault.CONTEXT: Policy.QUESTION,
        EndpointFault.PICTURE: Policy.QUESTION,
        EndpointFault.OTHER: Policy.QUESTION,
    }
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waiting with full jitter: a random part of a span that doubles, so that clients do not march in step.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_s: float
    longest_s: float
    random: Random

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait before attempt number `attempt`, counted from 0."""
        return self.random.uniform(0.0, self.span_s(attempt))

    def span_s(self, attempt: int) -> float:
        """The longest `delay_s` can be."""
        return _doubled(self.first_s, attempt, self.longest_s)


def _doubled(first_s: float, times: int, longest_s: float) -> float:
    return min(longest_s, first_s * 2.0 ** min(times, _MOST_DOUBLINGS))


_MOST_DOUBLINGS = 60
"""Beyond every limit, and far from where a float ends."""


@dataclass(slots=True)
class Rest:
    """Until when an endpoint wants to be left alone. Of several deadlines the longest holds."""

    clock: Clock
    until: float = field(default=-math.inf, init=False)

    def extend(self, for_s: float) -> None:
        """Rest `for_s` seconds from now; an earlier, longer wish stays in force."""
        self.until = max(self.until, self.clock() + for_s)

    @property
    def left_s(self) -> float:
        """Seconds of rest that are left; 0 when there is none."""
        return max(0.0, self.until - self.clock())

    @property
    def over(self) -> bool:
        return self.clock() >= self.until


class BreakerState(Enum):
    CLOSED = "closed"
    """Questions flow."""
    OPEN = "open"
    """Nothing is sent; health is checked from time to time."""
    HALF_OPEN = "half-open"
    """It looks healthy again: exactly one question decides."""


@dataclass(slots=True)
class Breaker:
    """Opens when at least half of the recent attempts failed, and at least three of them, or four in a row.

    One failure says little, so a share over a window decides: the last ten attempts, none older than a minute. Four
    in a row say enough whatever was before; what costs as much time as a timeout counts twice there.
    Open time doubles with every opening in a row, with jitter. Whoever watches over the endpoint calls
    `half_open` when it looks healthy; then one single question is let through, and its end decides.
    """

    clock: Clock
    random: Random
    window: int = 10
    least_failures: int = 3
    ratio: float = 0.5
    most_in_a_row: int = 4
    oldest_s: float = 60.0
    first_open_s: float = 1.0
    longest_open_s: float = 30.0
    state: BreakerState = field(default=BreakerState.CLOSED, init=False)
    _results: deque[tuple[float, bool]] = field(default_factory=deque, init=False)
    _in_a_row: int = field(default=0, init=False)
    _opens: int = field(default=0, init=False)
    _open_until: float = field(default=0.0, init=False)
    _generation: int = field(default=0, init=False)
    _probing: bool = field(default=False, init=False)

    @property
    def admits(self) -> bool:
        """Whether one more question may be sent now."""
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.HALF_OPEN and not self._probing)

    @property
    def open_left_s(self) -> float:
        """Seconds until health should be looked at again; 0 unless open."""
        return max(0.0, self._open_until - self.clock()) if self.state is BreakerState.OPEN else 0.0

    def failure_ratio(self) -> float:
        """Estimated chance that an attempt fails here, for any question: never quite 0, never quite 1."""
        self._forget()
        return (sum(not ok for _, ok in self._results) + 1) / (len(self._results) + 2)

    def begin(self) -> int:
        """An attempt starts. Returns the ticket for `end`."""
        if self.state is BreakerState.HALF_OPEN:
            self._probing = True
        return self._generation

    def end(self, ticket: int, *, ok: bool | None, is_costly: bool = False) -> bool:
        """An attempt ended: well, badly, or (None) in a way that says nothing. Returns whether that opened the breaker.

        Attempts from before the last change of state say nothing about the present and are ignored.
        """
        if ticket != self._generation:
            return False
        if self.state is BreakerState.HALF_OPEN:
            self._probing = False
            if ok is None:
                return False
            if ok:
                self._enter(BreakerState.CLOSED)
                self._opens = 0
                return False
            self.trip()
            return True
        if ok is None:
            return False
        self._results.append((self.clock(), ok))
        self._forget()
        if ok:
            self._in_a_row = 0
            return False
        self._in_a_row += 2 if is_costly else 1
        failures = sum(not good for _, good in self._results)
        many = failures >= self.least_failures and failures >= self.ratio * len(self._results)
        if many or self._in_a_row >= self.most_in_a_row:
            self.trip()
            return True
        return False

    def forgive(self) -> None:
        """Take back the latest failure: it was the question's fault, not the endpoint's."""
        self._in_a_row = 0
        for i in reversed(range(len(self._results))):
            if not self._results[i][1]:
                del self._results[i]
                return

    def trip(self) -> None:
        """Open, or stay open for longer."""
        span = _doubled(self.first_open_s, self._opens, self.longest_open_s)
        self._opens += 1
        self._enter(BreakerState.OPEN)
        self._open_until = self.clock() + span * self.random.uniform(0.75, 1.25)

    def half_open(self) -> None:
        """The endpoint looks healthy again; let one question decide."""
        self._enter(BreakerState.HALF_OPEN)

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self._generation += 1
        self._probing = False
        self._in_a_row = 0
        self._results.clear()

    def _forget(self) -> None:
        oldest = self.clock() - self.oldest_s
        while self._results and (len(self._results) > self.window or self._results[0][0] < oldest):
            self._results.popleft()


@dataclass(slots=True)
class FairShare:
    """Exact long-run shares: the next question goes to whoever is furthest behind its share (Webster's apportionment).

    A candidate that was passed over because it was full keeps what it is owed and gets it later; how much that can be
    is bounded, so that one that was away or always full does not get a flood when the others are idle for once.
    """

    bound: float = 256.0
    """Questions a candidate can be owed at most."""
    _position: dict[str, float] = field(default_factory=dict, init=False)
    """Questions it got, per unit of weight."""
    _front: float = field(default=-math.inf, init=False)
    """Position of whoever was chosen, at its furthest."""

    def place(self, name: str, weight: float) -> float:
        """Its place in the order in which candidates are due: the smallest is due first; 1 / weight is a question."""
        return self._behind(name, weight) + 0.5 / weight

    def charge(self, name: str, weight: float) -> None:
        """It got one question."""
        start = self._behind(name, weight)
        self._position[name] = start + 1.0 / weight
        self._front = max(self._front, start)

    def _behind(self, name: str, weight: float) -> float:
        return max(self._position.get(name, 0.0), self._front - self.bound / weight)


@dataclass(slots=True)
class Latencies:
    """How long answers take: a moving average and percentiles of the last answers."""

    window: int = 200
    smoothing: float = 0.1
    guess_s: float | None = None
    """What to expect before there is an answer; None when nobody knows."""
    count: int = field(default=0, init=False)
    _mean: float = field(default=0.0, init=False)
    _recent: deque[float] = field(default_factory=deque, init=False)
    _sorted: list[float] | None = field(default=None, init=False)

    def add(self, seconds: float) -> None:
        self.count += 1
        # the plain mean until there are enough values for the moving one: the first answer must not weigh for ever
        self._mean += (seconds - self._mean) * max(self.smoothing, 1.0 / self.count)
        self._recent.append(seconds)
        if len(self._recent) > self.window:
            self._recent.popleft()
        self._sorted = None

    @property
    def expected_s(self) -> float | None:
        """What the next answer will probably take; the guess before the first answer."""
        return self._mean if self.count else self.guess_s

    def percentile(self, share: float) -> float:
        """The latency that `share` (0 to 1) of the last answers did not exceed; 0 before the first."""
        if not self._recent:
            return 0.0
        if self._sorted is None:
            self._sorted = sorted(self._recent)
        return self._sorted[max(0, math.ceil(share * len(self._sorted)) - 1)]


@dataclass(slots=True)
class Timeouts:
    """How long to wait for an endpoint, learned from what it usually takes.

    The first answers, and the first after a pause in which a server may have unloaded its model, get the whole time
    the settings allow: loading takes from seconds to minutes and is no failure.
    """

    most_s: float
    latencies: Latencies
    clock: Clock
    least_s: float = 30.0
    enough: int = 8
    idle_s: float = 120.0
    """Shorter than the five minutes after which Ollama unloads."""
    _last_answer: float = field(default=-math.inf, init=False)
    _in_a_row: int = field(default=0, init=False)

    @property
    def connect_s(self) -> float:
        """Seconds for the connection: a machine in the house answers at once, one that wakes up does not."""
        return min(self.most_s, 10.0 if self.latencies.count == 0 or self._in_a_row else 5.0)

    def total_s(self, *, patient: bool = False) -> float:
        """Seconds for the whole answer: one that has begun to arrive is worth more patience than none."""
        return min(self.most_s, 2.0 * self.first_byte_s(patient=patient))

    def first_byte_s(self, *, patient: bool = False) -> float:
        """Seconds without a byte of the answer; `patient`: a question that has run into a timeout before."""
        cold = self.latencies.count < self.enough or self.clock() - self._last_answer > self.idle_s
        if patient or cold:
            return self.most_s
        usual = _doubled(4.0 * self.latencies.percentile(0.95), self._in_a_row, self.most_s)
        return min(self.most_s, max(self.least_s, usual))

    def answered(self) -> None:
        self._last_answer = self.clock()
        self._in_a_row = 0

    def timed_out(self) -> None:
        self._in_a_row += 1

    def restarted(self) -> None:
        """The server was away: its next answer may have to load the model first."""
        self._last_answer = -math.inf


def chance(ratios: Iterable[float]) -> float:
    """The chance that attempts fail one after another by accident, given each endpoint's `failure_ratio`."""
    return math.prod(ratios)
