"""Endpoints, and the pool of them, as the other parts may expect them to be; the rest of the seams are in `ports`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from haven_vlm.facts import Answer, Kind, Question


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a probe found out about an endpoint; cached between runs."""

    server: str
    """'llama.cpp', 'vllm', 'ollama', 'lm-studio', …, or 'unknown'."""
    model: str
    """The model requests will name."""
    sees_pictures: bool
    json_schema: str
    """'enforced', 'ignored', 'refused'."""
    logprobs: bool
    several_pictures: bool
    thinking: str
    """'none', 'switchable', 'always', 'unknown'."""
    length_field: str
    """'max_tokens' or 'max_completion_tokens'."""
    parallel_hint: int | None
    """Questions the server says it works on at once, if it says so."""
    is_remote: bool
    """The address lies outside loopback and private networks."""
    refused_fields: frozenset[str] = frozenset()
    """Request fields this server answered 400/422 to."""
    answer_s: float | None = None
    """Seconds one question with a picture took in the probe, if one was asked: a first guess at its speed."""
    thinking_switch: str = ""
    """The request field that turned thinking off; empty when none is needed or none works."""
    most_pictures: int | None = None
    """Pictures of one question, if more did not fit once; None: no limit was met."""
    notes: tuple[str, ...] = ()
    """Sentences for the person: what could not be confirmed, or could be set up better."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an endpoint was sent and used. Everything counts: questions, probes, forms that were refused, failures."""

    requests: int = 0
    tokens_in: int = 0
    """As the server told; a guess where it tells nothing."""
    tokens_out: int = 0
    left_network: int = 0
    """Frames sent to a remote address, whatever came of it; one that was sent twice counts twice."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.left_network + other.left_network,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.requests - other.requests,
            self.tokens_in - other.tokens_in,
            self.tokens_out - other.tokens_out,
            self.left_network - other.left_network,
        )


class VisionEndpoint(Protocol):
    """One OpenAI-compatible server. It makes one attempt at a time and never retries by itself,
    except that a request field the server does not know is dropped and the same question sent again."""

    @property
    def name(self) -> str: ...

    @property
    def base_url(self) -> str: ...

    @property
    def model(self) -> str:
        """The model's name; before `prepare` the one from the settings, maybe empty."""
        ...

    @property
    def is_remote(self) -> bool | None:
        """Whether the address that is really connected to is outside; None while nobody knows."""
        ...

    @property
    def used(self) -> Usage:
        """What it was sent and used since it was made; a request counts from the moment it is begun."""
        ...

    @property
    def most_pictures(self) -> int:
        """Pictures one question may hold, as far as is known: 1 unless the probe has shown that it can more."""
        ...

    async def prepare(self) -> Capabilities:
        """Find out (or remember) what the server can do.

        Raises:
            EndpointError: it is down, loading, or can never work as it is set up (fault says which).
        """
        ...

    async def ping(self) -> None:
        """Cheap sign of life, without a picture. Raises `EndpointError`."""
        ...

    async def ask(
        self,
        question: Question,
        *,
        connect_timeout_s: float,
        total_timeout_s: float,
        first_byte_timeout_s: float | None = None,
        boosted: bool = False,
        served: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Send the question once.

        `first_byte_timeout_s`: how long nothing may be heard after it was sent, or between two parts of the answer;
        None: as long as the whole may take.

        `boosted`: thinking off and twice the token budget, for an answer that was cut.

        `served`: awaited once when a whole answer has arrived, before it is read: the server has nothing to do for
        this question any more. Not awaited where a reply tells of a failure.

        Refused, filtered, truncated and unparsable answers are returned, not raised.

        Raises:
            EndpointError: no answer; `fault` says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """A snapshot of one endpoint's work in this run."""

    name: str
    base_url: str
    model: str
    state: str
    """'ready', 'preparing', 'cooling down', 'parked', 'spent', 'unused'."""
    reason: str
    """Why it is not ready, and the fix, in words; empty when ready."""
    until_s: float | None
    """Seconds until the next try; None when ready, or out for the whole run."""
    weight: float
    is_fallback: bool
    limit: int
    """Questions it may hold at once now."""
    in_flight: int
    answered: int
    failures: Mapping[str, int]
    """`EndpointFault` value → count."""
    p50_s: float
    p95_s: float
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    left_network: int
    """Frames sent to a remote address."""
    busy_s: float = 0.0
    """Seconds with a question in hand: tokens divided by these are its speed."""
    requests: int = 0
    """Requests to the model, those included that found out what it can do."""
    cost: float = 0.0
    """By the prices in the settings; 0 where there are none."""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Setting that bounds what it may cost → how much is used, and the bound."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of the whole pool."""

    endpoints: tuple[EndpointStatistics, ...]
    waiting: int
    """Questions in the ready queue."""
    asked: int
    """Requests sent, retries included."""
    answered: int
    left_network: int
    waiting_for: str = ""
    """Not empty while all endpoints are down: what is being waited for, in words."""


class Ticket(Protocol):
    """Leave to hold one decoded frame and ask one question."""

    async def ask(self, question: Question) -> Answer:
        """Return what became of the question; every fault of a single frame is an `Answer`, not an exception.

        Raises:
            OutageError: no endpoint can take it, and none came back within the patience the settings allow.
        """
        ...


class VisionPool(Protocol):
    """All endpoints together, as the engine sees them."""

    @property
    def models(self) -> frozenset[str] | None:
        """Names of the models behind the endpoints in use: answers of any of them count as known.

        None while the settings leave a model open and its server has not told: then answers of any model do,
        because nothing is to be asked twice.
        """
        ...

    def ticket(
        self, lane: str, *, local_only: bool = False, kind: Kind = Kind.SCENE, closely: bool = False
    ) -> AbstractAsyncContextManager[Ticket]:
        """Wait for leave to decode one frame of a scene, or of an image, and ask about it.

        At most as many tickets are out as the slots can soon use, so decoded frames are bounded. Among
        waiting lanes (one per medium) the one that asked for its first ticket earliest comes first.
        `closely`: a question of the close look at a scene; endpoints may be kept for it, or for the first look.

        Raises:
            OutageError: as `Ticket.ask`.
        """
        ...

    def pictures(self, *, local_only: bool = False, kind: Kind = Kind.SCENE) -> int:
        """How many pictures the next question may hold at most, as things stand; 1 when in doubt.

        1 as well while an endpoint that takes only one has nothing to do.
        """
        ...

    def expect(self, lane: str, count: int) -> None:
        """Say (anew) for how many more tickets this lane will probably ask, those it waits for now included.

        Only then can the end of a run be told from its middle, where every slot is worth using: the last
        questions are kept from an endpoint that would answer them later than a faster one that is still busy.
        """
        ...

    def close_lane(self, lane: str) -> None:
        """Forget a lane that has no more questions."""
        ...

    def statistics(self) -> PoolStatistics: ...


class SpendingBook(Protocol):
    """What endpoints used day by day, kept from run to run and shared by all processes."""

    async def add(self, endpoint: str, day: date, used: Usage) -> Usage:
        """Enter that so much more was used there on that day.

        Returns all that was used there on that day, by anybody, this included.

        Raises:
            LedgerError: it could not be entered.
        """
        ...


class EndpointMemory(Protocol):
    """What was learned about endpoints, kept from run to run. Small, at hand; losing it costs speed only."""

    def get(self, key: str) -> Mapping[str, float] | None:
        """What was put under this key last; None when there is nothing usable."""
        ...

    def put(self, key: str, value: Mapping[str, float]) -> None:
        """Remember `value`; a failure to write is logged, not raised."""
        ...


class CapabilityMemory(Protocol):
    """What probes found out, kept from run to run. Small, at hand; losing it costs a probe."""

    def get(self, key: str) -> Mapping[str, object] | None:
        """What was put under this key last, as JSON gives it back; None when there is nothing usable."""
        ...

    def put(self, key: str, value: Mapping[str, object]) -> None:
        """Remember `value` (JSON types only); a failure to write is logged, not raised."""
        ...
