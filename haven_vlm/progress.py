"""How far a run is, how fast it goes and when it will be done. Pure but for an injected clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from haven_vlm_utility import duration_text

_WINDOW_S = 120.0
"""The rate is measured over this much of the recent past: long enough to be calm, short enough to follow."""


@dataclass(slots=True)
class _Lane:
    planned: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """A snapshot of a run's progress."""

    fraction: float
    """Settled share of the whole, 0 to 1; never falls."""
    done: int
    planned: int
    per_minute: float
    """Questions settled a minute, lately; 0 while unknown."""
    remaining_s: float | None
    """Seconds to go at this pace; None while unknown."""

    def __str__(self) -> str:
        text = f"{self.done:,} of about {self.planned:,} frames"
        if self.per_minute:
            text += f", {self.per_minute:,.0f} a minute"
        if self.remaining_s is not None:
            text += f", about {duration_text(self.remaining_s)} to go"
        return text


class Progress:
    """Adds up questions done and planned over all media of a run; a `ProgressSink`.

    A medium that has not been started is expected to take as many questions as those known so far do on
    average, so the bar neither leaps at the start nor stands still at the end. The fraction never falls.
    """

    def __init__(self, show: Callable[[Pace], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._media = 0
        self._lanes: dict[str, _Lane] = {}
        self._closed = 0
        self._closed_units = 0
        self._highest = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._settled = 0

    def media(self, count: int) -> None:
        """Say how many (more) media the run is about."""
        self._media += count

    def plan(self, lane: str, planned: int) -> None:
        """Say (anew) how many questions this medium will probably take in all."""
        self._lanes.setdefault(lane, _Lane()).planned = max(1, planned)
        self._show(self.pace())

    def done(self, lane: str, count: int = 1, *, known: bool = False) -> None:
        """Say that `count` more of them are settled; what the ledger knew says nothing about the pace."""
        self._lanes.setdefault(lane, _Lane()).done += count
        if known:
            self._show(self.pace())
            return
        self._settled += count
        now = self._clock()
        self._recent.append((now, self._settled))
        while self._recent[0][0] < now - _WINDOW_S:
            self._recent.popleft()
        self._show(self.pace())

    def close(self, lane: str) -> None:
        """The medium is finished: whatever was planned for it counts as settled."""
        state = self._lanes.pop(lane, _Lane())
        self._closed += 1
        self._closed_units += state.done  # a medium that took no question has no weight
        self._show(self.pace())

    def pace(self) -> Pace:
        """The progress at this moment."""
        open_planned = sum(max(s.planned, s.done) for s in self._lanes.values())
        done = self._closed_units + sum(s.done for s in self._lanes.values())
        known = self._closed_units + open_planned
        started = self._closed + len(self._lanes)
        unstarted = max(0, self._media - started)
        planned = known + round(unstarted * (known / started if known else 100))
        by_media = self._closed / self._media if self._media else 0.0
        fraction = done / planned if planned else by_media
        self._highest = max(self._highest, min(fraction, 1.0))
        per_second = 0.0
        if len(self._recent) > 1:
            (first_at, first), (last_at, last) = self._recent[0], self._recent[-1]
            if last_at > first_at:
                per_second = (last - first) / (last_at - first_at)
        remaining = max(0, planned - done) / per_second if per_second > 0 else None
        return Pace(self._highest, done, planned, per_second * 60, remaining)
