"""What scheduling and endpoints have to know of each other: stations, slots, questions on their way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cache
from typing import NamedTuple, Protocol

from haven_vlm.facts import Question


class Tier(IntEnum):
    """When an endpoint gets work."""

    PRIMARY = 0
    WHEN_BUSY = 1
    """As soon as every primary endpoint is full."""
    WHEN_DOWN = 2
    """Only while no other endpoint lives."""


class Work(StrEnum):
    """What a question is for; endpoints can be kept for each (`only_for`). The value is how it is called to people."""

    SCENES = "scenes"
    """Any look at a scene, where no endpoint makes a difference between looks."""
    FIRST_LOOK = "the first look at scenes"
    """The coarse scan, which decides where to look closely: work for a quick scout."""
    CLOSE_LOOK = "the close look at scenes"
    """Ends of spans, and second opinions: work for a careful judge."""
    IMAGES = "images"


SERVED: Mapping[str | None, frozenset[Work]] = {
    None: frozenset(Work),
    "scenes": frozenset({Work.SCENES, Work.FIRST_LOOK, Work.CLOSE_LOOK}),
    "images": frozenset({Work.IMAGES}),
    "first_look": frozenset({Work.FIRST_LOOK}),
    "close_look": frozenset({Work.CLOSE_LOOK}),
}
"""`only_for` of an endpoint → what it takes."""


class Needs(NamedTuple):
    """Which endpoints a question may go to."""

    local_only: bool = False
    """Only to those known to be inside the local network."""
    kind: Work | None = None
    """What it is for; there may be endpoints for this only. None, as a class of questions: anything."""

    def within(self, others: Needs) -> bool:
        """Whether every endpoint that will do for these will do for the others, too."""
        return (self.local_only or not others.local_only) and others.kind in (None, self.kind)

    def wider(self) -> tuple[Needs, ...]:
        """All classes of questions these belong to, themselves included; the widest first."""
        return _wider(self)


@cache
def _wider(needs: Needs) -> tuple[Needs, ...]:
    places = (False, True) if needs.local_only else (False,)
    kinds = (None, needs.kind) if needs.kind is not None else (None,)
    return tuple(Needs(local_only, kind) for local_only in places for kind in kinds)


class Station(Protocol):
    """An endpoint as the scheduler sees it."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def tier(self) -> Tier: ...
    @property
    def local(self) -> bool:
        """Known to be inside the local network."""
        ...

    def takes(self, needs: Needs) -> bool:
        """Whether it may be sent such a question as far as place and role decide it."""
        ...

    @property
    def most_pictures(self) -> int:
        """Pictures one question may hold."""
        ...

    @property
    def metered(self) -> bool:
        """What it is asked costs something: nothing is asked there twice for speed."""
        ...

    @property
    def usable(self) -> bool:
        """May be sent a question now, slots aside."""
        ...

    @property
    def sound(self) -> bool:
        """Usable, and not on trial after a failure."""
        ...

    @property
    def alive(self) -> bool:
        """Usable, or will probably be in a moment: its slots count when decoding ahead."""
        ...

    @property
    def limit(self) -> int: ...
    @property
    def free(self) -> int:
        """Slots that could take a question now; 0 unless usable."""
        ...

    @property
    def expected_s(self) -> float | None:
        """Seconds an answer will probably take; None when nobody knows."""
        ...

    def busy_s(self) -> Sequence[float]:
        """For each question it works on: seconds until it will probably be done."""
        ...

    def warm(self, prompt_key: str) -> bool:
        """Probably has the beginning of this prompt in its cache."""
        ...

    def lease(self, job: Job) -> Lease:
        """Take a slot for this question."""
        ...


class Lease(Protocol):
    """A slot that is taken. Giving it back a second time does nothing."""

    def release(self) -> None: ...


class Withdrawn(Exception):
    """No endpoint is left that a particular question may go to: what is known of it so far has to do."""


@dataclass(eq=False, slots=True)
class Job:
    """One question on its way, and what has been learned about it. Only its own task and the scheduler change it."""

    order: tuple[int, int]
    """Number of the lane, number of the ticket: retries keep their place in the queue."""
    question: Question
    needs: Needs
    last: str = ""
    """Endpoint that failed it last: not asked again while another one lives."""
    failed_at: Counter[str] = field(default_factory=Counter)
    """How often each endpoint failed it: those that did so less often come first."""
    banned: set[str] = field(default_factory=set)
    """Endpoints that would fail it again the same way."""
    not_model: str = ""
    """A second opinion is wanted: not from this model."""
    slot: asyncio.Future[Lease] | None = None

    @property
    def picky(self) -> bool:
        """Something is known about it already, and only some endpoints are worth asking."""
        return bool(self.banned or self.not_model) or self.pictures > 1

    @property
    def pictures(self) -> int:
        """Pictures of the question."""
        return len(self.question.jpegs)


@dataclass(eq=False, slots=True)
class Pass:
    """Leave to hold one decoded frame."""

    order: tuple[int, int]
    needs: Needs
    to_ask: bool = True
    """Its question has not been asked yet: the frame is being decoded."""
