"""How far a run is, how fast it goes and when it will be done. Pure but for an injected clock."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from haven_vlm.ports import Settled
from haven_vlm_utility import duration_text

_WINDOW_S = 120.0
"""The rate is measured over this much of the recent past: long enough to be calm, short enough to follow."""


_MAX_CAUSES = 200
"""Different causes that are counted; what comes after these is counted together."""
_OTHER = "other reasons"


@dataclass(slots=True)
class _Lane:
    planned: int = 0
    done: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A medium under way, as it stands now."""

    name: str
    """Kind and id: 'scene 12'."""
    title: str
    done: int
    planned: int


@dataclass(frozen=True, slots=True)
class Look:
    """The picture that was asked about last."""

    lane: str
    title: str
    at_ms: int
    jpeg: bytes | None
    """None when it is not at hand."""


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
        self._abandoned: list[_Lane] = []
        self._highest = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._settled = 0
        self._tally: Counter[Settled] = Counter()
        self._causes: Counter[str] = Counter()
        self._look: Look | None = None

    def media(self, count: int) -> None:
        """Say how many (more) media the run is about."""
        self._media += count

    def plan(self, lane: str, planned: int) -> None:
        """Say (anew) how many questions this medium will probably take in all."""
        self._lanes.setdefault(lane, _Lane()).planned = max(1, planned)
        self._show(self.pace())

    def begin(self, lane: str, title: str) -> None:
        """Say that a medium is worked on, and what people call it."""
        self._lanes.setdefault(lane, _Lane()).title = title

    def look(self, lane: str, at_ms: int, jpeg: bytes | None) -> None:
        """Say what is being asked about; `jpeg` is None when the picture is not at hand."""
        state = self._lanes.get(lane)
        self._look = Look(lane, state.title if state else "", at_ms, jpeg)

    def trouble(self, cause: str) -> None:
        """Count why a medium was not tagged."""
        self._causes[cause if cause in self._causes or len(self._causes) < _MAX_CAUSES else _OTHER] += 1

    def done(self, lane: str, count: int = 1, *, how: Settled = Settled.ASKED) -> None:
        """Say that `count` more of them are settled; what the ledger knew says nothing about the pace."""
        self._lanes.setdefault(lane, _Lane()).done += count
        self._tally[how] += count
        if how is Settled.KNOWN:
            self._show(self.pace())
            return
        self._settled += count
        now = self._clock()
        self._recent.append((now, self._settled))
        while self._recent[0][0] < now - _WINDOW_S:
            self._recent.popleft()
        self._show(self.pace())

    @contextmanager
    def working(self, lane: str) -> Iterator[None]:
        """Work on a medium: it is finished at the end, but not when an exception (a stop, an outage) ends it."""
        try:
            yield
        except BaseException:
            self.abandon(lane)
            raise
        self.close(lane)

    def abandon(self, lane: str) -> None:
        """The medium is left as it is, for another run: what was not settled stays so, and it is not finished."""
        if (state := self._lanes.pop(lane, None)) is not None:
            self._abandoned.append(state)

    def close(self, lane: str) -> None:
        """The medium is finished: whatever was planned for it counts as settled."""
        state = self._lanes.pop(lane, _Lane())
        self._closed += 1
        self._closed_units += state.done  # a medium that took no question has no weight
        self._show(self.pace())

    def pace(self) -> Pace:
        """The progress at this moment."""
        unfinished = [*self._lanes.values(), *self._abandoned]
        done = self._closed_units + sum(s.done for s in unfinished)
        known = self._closed_units + sum(max(s.planned, s.done) for s in unfinished)
        started = self._closed + len(unfinished)
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

    # --- for whoever shows more than a bar --------------------------------------------------------------------

    @property
    def media_count(self) -> tuple[int, int]:
        """Media of the run, and how many of them are finished."""
        return self._media, self._closed

    @property
    def tally(self) -> Mapping[Settled, int]:
        """Questions by what became of them."""
        return self._tally

    @property
    def last_look(self) -> Look | None:
        """What was asked about last."""
        return self._look

    def lanes(self, limit: int) -> list[Lane]:
        """Media under way, those longest at it first, so many at most."""
        return [Lane(name, s.title, s.done, max(s.planned, s.done)) for name, s in islice(self._lanes.items(), limit)]

    def causes(self, limit: int) -> list[tuple[str, int]]:
        """Why media were not tagged, the most frequent first, so many at most."""
        return self._causes.most_common(limit)
