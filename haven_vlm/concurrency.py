"""How many questions an endpoint usefully works on at once: found out by asking, not guessed.

Ollama works on one question at a time, llama.cpp on four, vLLM on hundreds; few of them say so. More than a server
works on only waits inside it, where nobody can take it elsewhere. So the level `n` (questions at once) is sought that
makes

    score(n) = answers per second / n ** 0.25 = n ** 0.75 / mean latency

largest (by Little's law the answers per second are `n / latency`). While a server has room, the score grows with
`n`; when it only queues, the score falls; where batching makes everybody a little slower, the last quarter of
throughput is not worth tripling the latency. Kleinrock's "power" of a queue is the same idea with another exponent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

EXPONENT = 0.25
"""Throughput has to grow at least with this power of the number of questions at once to be worth it."""
FIRST_LEVEL = 2
"""Where to begin when nothing is known: finds out at once whether a second question is worth anything."""
TOLERANCE = 0.02
"""Of levels that differ less than this the smallest is best: latencies scatter, and luck favours no small number."""
FIRST_CHECK = 200
"""A settled level is compared with a neighbour after so many answers: other people use these machines too."""
LAST_CHECK = 6400
"""The distance doubles with every check that changes nothing, up to this: trying costs throughput."""


class Started(NamedTuple):
    """What was true when a question was sent; to be handed back when it ends."""

    epoch: int
    """Counts changes of the limit: an answer that saw two limits says nothing about either."""


@dataclass(slots=True)
class Level:
    """What is known about one number of questions at once."""

    count: int = 0
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds

    def score(self, limit: int) -> float:
        """See the module. Only the order of scores matters."""
        return float(limit ** (1 - EXPONENT) * self.count / self.total_s) if self.total_s else math.inf


@dataclass(slots=True)
class Concurrency:
    """The number of questions an endpoint may hold at once: fixed, or learned within `most`.

    Learning: double while the score grows, then halve the bracket around the best level until its neighbours
    are known; later look at a neighbour now and then. Only answers given under full load count. A server
    that says "too much" (429, 503) cuts the level by a third and is not asked for that much again for a while.
    """

    fixed: int | None = None
    start: int | None = None
    """Level to begin with: remembered, or what the server says of itself."""
    most: int = 256
    limit: int = field(init=False)
    settled: bool = field(init=False)
    """Whether the search is over (checks of the neighbours go on)."""
    _best: int = field(init=False)
    _levels: dict[int, Level] = field(default_factory=dict, init=False)
    _ceiling: int = field(init=False)
    _epoch: int = field(default=0, init=False)
    _skip: int = field(init=False)
    _since_check: int = field(default=0, init=False)
    _check_after: int = field(default=FIRST_CHECK, init=False)
    _check_up: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._ceiling = self.fixed or self.most
        self.limit = self.fixed or min(self.most, max(1, self.start or FIRST_LEVEL))
        self.settled = self.fixed is not None or self.start is not None
        self._best = self.limit
        self._skip = self.limit

    @property
    def best(self) -> int:
        """The best level known so far; `limit` may be another one that is being tried."""
        return self._best

    def began(self) -> Started:
        """A question is being sent."""
        return Started(self._epoch)

    def ended(self, started: Started, *, latency_s: float, in_flight: int) -> None:
        """A question was answered in `latency_s`; `in_flight` counts it in."""
        if self.fixed is not None or started.epoch != self._epoch or in_flight < self.limit:
            return
        if self._skip > 0:  # the first round after a change meets a server that is not yet in its new rhythm
            self._skip -= 1
            return
        level = self._levels.setdefault(self.limit, Level())
        level.add(latency_s)
        if not self.settled or self.limit != self._best:
            if level.count >= self._enough():
                self._decide()
            return
        self._since_check += 1
        if self._since_check >= max(self._check_after, 40 * self.limit):
            self._check_neighbour()

    def overloaded(self, started: Started, *, in_flight: int) -> None:
        """The server said it has too much to do while it held `in_flight` questions, the refused one included.

        Of several refusals at the same time only the first one counts.
        """
        if self.fixed is not None or started.epoch != self._epoch:
            return
        cut = max(1, min(self.limit, math.floor(in_flight * 2 / 3)))
        self._ceiling = max(1, min(self._ceiling, in_flight - 1))
        self._levels.clear()
        self.settled = True
        self._best = cut
        self._since_check = 0
        self._go(cut)

    def _enough(self) -> int:
        """Answers that make a level known: more once only small differences are left to see."""
        if self.settled:
            return max(24, 3 * self.limit)
        return max(12, 2 * self.limit) if self._bracketed else max(4, self.limit)

    @property
    def _bracketed(self) -> bool:
        return any(n > self._best for n in self._levels)

    def _decide(self) -> None:
        """The present level is known now: move the best one, and say which level to look at next."""
        known = {n: level.score(n) for n, level in self._levels.items()}
        enough = max(known.values()) * (1 - TOLERANCE)
        self._best = min(n for n, score in known.items() if score >= enough)
        if self.settled:
            stays = self._best != self.limit
            self._check_after = min(LAST_CHECK, self._check_after * 2) if stays else FIRST_CHECK
            self._levels = {self._best: Level()}
            self._go(self._best)
            return
        above = min((n for n in known if n > self._best), default=None)
        below = max((n for n in known if n < self._best), default=0)
        step = max(1, self._best // 8)  # 12 % either way is as good as it gets while latencies scatter
        if above is None and self._best < self._ceiling:
            self._go(min(self._ceiling, self._best * 2))
        elif above is not None and above - self._best > step:
            self._go((self._best + above) // 2)
        elif self._best - below > step:
            self._go((self._best + below) // 2)
        else:
            self.settled = True
            self._levels = {self._best: Level()}
            self._go(self._best)

    def _check_neighbour(self) -> None:
        """Look one step up, the next time one step down: the machine may have got more or less to do by others."""
        self._since_check = 0
        step = max(1, self.limit // 8)
        target = self.limit + step if self._check_up else self.limit - step
        self._check_up = not self._check_up
        if self._check_up:  # both directions done: what was refused a while ago may be possible by now
            self._ceiling = min(self.most, self._ceiling + step)
        if 1 <= target <= self._ceiling:
            self._go(target)

    def _go(self, limit: int) -> None:
        self._epoch += 1
        self.limit = limit
        self._skip = limit
