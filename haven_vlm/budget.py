"""What an endpoint may cost: requests, tokens and money, for one run and for one day. Pure, with an injected clock.

A question is begun only if it will probably fit into what is left, the questions under way counted in. How much it
will take is what the largest one so far took. A day is a day of this machine's calendar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

from haven_vlm.pool_ports import Usage
from haven_vlm.settings import EndpointSettings

GUESS = Usage(requests=1, tokens_in=1200, tokens_out=100)
"""What a question is taken to use before the first answer, and where a server does not tell."""

_PER = 1_000_000
"""Prices are for so many tokens."""


class Allowance(NamedTuple):
    """One limit, and how much of it is used."""

    setting: str
    most: float
    used: float
    one: float
    """What one more question will probably take."""
    daily: bool

    def room(self, under_way: float) -> int:
        """How many more questions fit, besides so many that are under way."""
        if not self.one:
            return 0 if self.used >= self.most else 1_000_000
        return max(0, math.floor((self.most - self.used) / self.one - under_way + 1e-9))

    def __str__(self) -> str:
        unit = next((u for u in ("requests", "tokens") if u in self.setting), "")
        used, most = (f"{self.used:,.0f}", f"{self.most:,.0f}") if unit else (f"{self.used:.2f}", f"{self.most:g}")
        return f"{used} of {most} {unit}".rstrip()


@dataclass(slots=True)
class Budget:
    """The limits of one endpoint, and what was used on the present day by all processes together.

    `used` in all methods: what this process used since it began.
    """

    settings: EndpointSettings
    now: Callable[[], datetime]
    """The present moment, in the time zone of the calendar."""
    is_limited: bool = field(init=False)
    is_daily: bool = field(init=False)
    """Whether what was used must be kept from run to run."""
    _largest: Usage = field(default_factory=Usage, init=False)
    _day: date = field(init=False)
    _known: Usage = field(default_factory=Usage, init=False)
    """Used on that day as far as the book tells: other processes, earlier runs, and what is `_booked` of ours."""
    _booked: Usage = field(default_factory=Usage, init=False)
    _counted: tuple[Allowance, ...] = field(default=(), init=False)
    _counted_for: tuple[Usage | None, ...] = field(default=(None,) * 4, init=False)
    """What `_counted` was made from: it is looked at many times between two changes."""

    def __post_init__(self) -> None:
        each = self.settings
        run = (each.max_requests, each.max_tokens, each.max_cost)
        day = (each.max_requests_per_day, each.max_tokens_per_day, each.max_cost_per_day)
        self.is_daily = any(limit is not None for limit in day)
        self.is_limited = self.is_daily or any(limit is not None for limit in run)
        self._day = self.now().date()

    def cost(self, used: Usage) -> float:
        """What it costs, in the currency of the prices."""
        return (used.tokens_in * self.settings.price_in + used.tokens_out * self.settings.price_out) / _PER

    def answered(self, tokens_in: int, tokens_out: int) -> None:
        """A question took so many tokens."""
        if tokens_in + tokens_out > self._largest.tokens_in + self._largest.tokens_out:
            self._largest = Usage(requests=1, tokens_in=tokens_in, tokens_out=tokens_out)

    def allowances(self, used: Usage) -> tuple[Allowance, ...]:
        """All limits that are set, those of the run first; see `turn_page`."""
        if not self.is_limited:
            return ()
        state = (used, self._known, self._booked, self._largest)
        if any(old is not new for old, new in zip(self._counted_for, state, strict=True)):
            self._counted_for, self._counted = state, self._count(used)
        return self._counted

    def _count(self, used: Usage) -> tuple[Allowance, ...]:
        each, one = self.settings, self._largest if self._largest.requests else GUESS
        found: list[Allowance] = []
        today = self._known + (used - self._booked)
        for suffix, total in (("", used), ("_per_day", today)):
            for what, amount, single in (
                ("requests", total.requests, 1),
                ("tokens", total.tokens_in + total.tokens_out, one.tokens_in + one.tokens_out),
                ("cost", self.cost(total), self.cost(one)),
            ):
                most = getattr(each, f"max_{what}{suffix}")
                if most is not None:
                    found.append(Allowance(f"max_{what}{suffix}", most, amount, single, bool(suffix)))
        return tuple(found)

    def room(self, used: Usage, *, under_way: int, unsent: int) -> int | None:
        """How many more questions may be begun; None: any number.

        Args:
            under_way: questions that were begun and have no end yet; their tokens are not in `used`.
            unsent: those of them that are not even in `used.requests`.
        """
        limits = self.allowances(used)
        return min((a.room(unsent if "requests" in a.setting else under_way) for a in limits), default=None)

    def exhausted(self, used: Usage) -> Allowance | None:
        """The limit that keeps it from one more question, for longest if there are several; None: there is none."""
        return next((a for a in self.allowances(used) if a.room(0) == 0), None)

    def back_in_s(self) -> float:
        """Seconds until the next day begins."""
        now = self.now()
        midnight = datetime.combine(now.date() + timedelta(days=1), time.min, tzinfo=now.tzinfo)
        return max(0.0, (midnight - now).total_seconds())

    # --- the book ---------------------------------------------------------------------------------------------

    def unbooked(self, used: Usage) -> tuple[date, Usage]:
        """The day, and what was used on it that is not in the book yet."""
        self.turn_page(used)
        return self._day, used - self._booked

    def booked(self, day: date, amount: Usage, total: Usage) -> None:
        """So much was entered for that day; with it the book says so much."""
        if day == self._day:
            self._booked, self._known = self._booked + amount, total

    def turn_page(self, used: Usage) -> None:
        """Begin a new day if there is one; called once in a while, because asking for the date costs its time."""
        today = self.now().date()
        if today != self._day:
            self._day, self._known, self._booked = today, Usage(), used
