"""Endpoints that do what a script says, in virtual time, and remember what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from haven_vlm.errors import EndpointError, EndpointFault, OutageError
from haven_vlm.facts import Answer, Kind, Outcome, Prompt, Question, Term
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.pool_ports import Capabilities, EndpointMemory, SpendingBook, Usage
from haven_vlm.settings import Settings

PROMPT = Prompt("Which of these?", "", {}, (Term("Dunk"), Term("Free throw")), "w", "key", 100)
KEY = PROMPT.key


def question(number: int = 0, *, local_only: bool = False, prompt: Prompt = PROMPT) -> Question:
    """A question of its own: the number is in the picture, so an answer can be told from any other."""
    return Question(prompt, (b"picture %d" % number,), local_only, f"scene 1 at {number}")


@dataclass(frozen=True)
class Attempt:
    """One `ask` as the endpoint saw it."""

    began_s: float
    question: Question
    boosted: bool
    connect_timeout_s: float
    first_byte_timeout_s: float
    total_timeout_s: float


Behaviour = Callable[["FakeEndpoint", Attempt], Awaitable[Answer]]


@dataclass
class FakeEndpoint:
    """`VisionEndpoint` without a network. `behave` answers, raises or hangs; the rest is told by the fields."""

    name: str
    latency_s: float = 0.2
    model: str = "tiny-vlm"
    is_remote: bool | None = False
    behave: Behaviour | None = None
    prepare_s: float = 0.0
    not_ready: Callable[[float], EndpointError | None] | None = None
    """Time → why it cannot be prepared or pinged then."""
    hint: int | None = None
    answer_s: float | None = None
    most_pictures: int = 1
    reading_s: float = 0.0
    """Time to read an answer that has arrived."""
    attempts: list[Attempt] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    prepared_at: list[float] = field(default_factory=list)
    pinged_at: list[float] = field(default_factory=list)
    used: Usage = field(default_factory=Usage)

    @property
    def base_url(self) -> str:
        return f"http://{self.name}/v1"

    async def prepare(self) -> Capabilities:
        self.prepared_at.append(now())
        await asyncio.sleep(self.prepare_s)
        self._raise_if_not_ready()
        return Capabilities(
            server="fake",
            model=self.model,
            sees_pictures=True,
            json_schema="enforced",
            logprobs=False,
            several_pictures=False,
            thinking="none",
            length_field="max_tokens",
            parallel_hint=self.hint,
            is_remote=bool(self.is_remote),
            answer_s=self.answer_s,
        )

    async def ping(self) -> None:
        self.pinged_at.append(now())
        self._raise_if_not_ready()

    def _raise_if_not_ready(self) -> None:
        if self.not_ready is not None and (error := self.not_ready(now())) is not None:
            raise error

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
        silence_s = total_timeout_s if first_byte_timeout_s is None else first_byte_timeout_s
        attempt = Attempt(now(), question, boosted, connect_timeout_s, silence_s, total_timeout_s)
        self.attempts.append(attempt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.used += Usage(requests=1)
        has_left = bool(self.is_remote)
        try:
            answer = await self._answer(attempt)
        except EndpointError as error:
            has_left &= error.fault is not EndpointFault.FORBIDDEN
            error.left_network = has_left
            raise
        finally:
            self.in_flight -= 1
            self.used += Usage(left_network=len(question.jpegs) if has_left else 0)
        if served is not None:
            await served()
        if self.reading_s:
            await asyncio.sleep(self.reading_s)
        self.used += Usage(0, answer.tokens_in, answer.tokens_out)
        return answer

    async def _answer(self, attempt: Attempt) -> Answer:
        if self.behave is not None:
            return await self.behave(self, attempt)
        await asyncio.sleep(self.latency_s)
        return self.good(attempt)

    def good(self, attempt: Attempt) -> Answer:
        """An answer that names the picture it belongs to."""
        return Answer(
            Outcome.TAGS,
            {"Dunk": 1.0},
            endpoint=self.name,
            model=self.model,
            raw=attempt.question.jpegs[0].decode(),
            tokens_in=300,
            tokens_out=10,
            remote=bool(self.is_remote),
        )

    def poor(self, outcome: Outcome) -> Answer:
        return Answer(outcome, endpoint=self.name, model=self.model, detail=f"{outcome} it is")

    def error(
        self, fault: EndpointFault, *, status: int | None = None, retry_after_s: float | None = None, fix: str = ""
    ) -> EndpointError:
        return EndpointError(
            f"{fault} happened", endpoint=self.name, fault=fault, status=status, retry_after_s=retry_after_s, fix=fix
        )


def now() -> float:
    return asyncio.get_running_loop().time()


def always(what: EndpointFault | Outcome, *, after_s: float = 0.01, **more: Any) -> Behaviour:
    """Every attempt fails this way, or gives this poor answer."""

    async def behave(endpoint: FakeEndpoint, _attempt: Attempt) -> Answer:
        await asyncio.sleep(after_s)
        if isinstance(what, EndpointFault):
            raise endpoint.error(what, **more)
        return endpoint.poor(what)

    return behave


async def hang(_endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
    """No answer ever; the endpoint keeps its own timeout, as the real one does."""
    await asyncio.sleep(attempt.first_byte_timeout_s)
    raise EndpointError("no answer", endpoint=_endpoint.name, fault=EndpointFault.TIMEOUT)


def settings(endpoints: Sequence[FakeEndpoint], each: Mapping[str, Mapping[str, Any]] = {}, **more: Any) -> Settings:
    """Settings for these endpoints: four at once each unless `each` says something else."""
    return Settings.model_validate(
        {
            "endpoints": [
                {"name": e.name, "base_url": e.base_url, "max_concurrent": 4, "timeout": 60, **each.get(e.name, {})}
                for e in endpoints
            ],
            "tag_list": ["Dunk", "Free throw"],
            **more,
        }
    )


def pool_of(
    *endpoints: FakeEndpoint,
    each: Mapping[str, Mapping[str, Any]] = {},
    memory: EndpointMemory | None = None,
    book: SpendingBook | None = None,
    day: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC),
    seed: int = 1,
    **more: Any,
) -> Multiplexer:
    """A pool in virtual time, which begins at noon of a day."""
    clock = asyncio.get_running_loop().time
    return Multiplexer(
        endpoints,
        settings(endpoints, each, **more),
        memory=memory,
        book=book,
        clock=clock,
        now=lambda: day + timedelta(seconds=clock()),
        random=Random(seed),
    )


@asynccontextmanager
async def nothing_left():  # type: ignore[no-untyped-def]
    """Fails when tasks are left that were not there before."""
    before = asyncio.all_tasks()
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    assert not left, left


async def ask_all(
    pool: Multiplexer,
    numbers: Sequence[int],
    *,
    lane: str = "scene 1",
    local_only: bool = False,
    kind: Kind = Kind.SCENE,
    closely: bool = False,
    told: bool = True,
    decode_s: float = 0.0,
) -> dict[int, Answer | OutageError]:
    """Ask as the engine does: a frame at a time is decoded and asked about as soon as there is leave."""
    results: dict[int, Answer | OutageError] = {}

    async def one(stack: AsyncExitStack, number: int, ticket: Any) -> None:
        async with stack:
            try:
                result: Answer | OutageError = await ticket.ask(question(number, local_only=local_only))
            except OutageError as error:
                result = error
        assert number not in results, "answered twice"
        results[number] = result

    async with asyncio.TaskGroup() as tasks:
        if told:
            pool.expect(lane, len(numbers))
        for number in numbers:
            stack = AsyncExitStack()
            try:
                ticket = await stack.enter_async_context(
                    pool.ticket(lane, local_only=local_only, kind=kind, closely=closely)
                )
            except OutageError as error:
                results[number] = error
                continue
            if decode_s:
                await asyncio.sleep(decode_s)
            tasks.create_task(one(stack, number, ticket))
    pool.close_lane(lane)
    return results


def answers(results: Mapping[int, Answer | OutageError]) -> dict[int, Answer]:
    """All results, which must be answers that belong to their questions."""
    good: dict[int, Answer] = {}
    for number, result in results.items():
        assert isinstance(result, Answer), result
        if result.outcome.analysed:
            assert result.raw == f"picture {number}", "an answer to another question"
        good[number] = result
    return good


class Memory(dict[str, Mapping[str, float]]):
    """`EndpointMemory` in a dictionary."""

    def put(self, key: str, value: Mapping[str, float]) -> None:
        self[key] = value
