"""The pool with real endpoints and real servers on loopback."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count

from PIL import Image

from demo.vision.faults import Fault, FaultKind
from demo.vision_server import VisionServer
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.errors import LocalOutageError, OutageError
from haven_vlm.facts import Answer, Outcome, Question, Term
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.privacy import is_local
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings

PROMPT = build_prompt([Term("Dunk"), Term("Free throw")])
HASTE = 20
"""The pool lives so many times faster, that its pauses do not make the tests long."""


def picture(number: int) -> bytes:
    """A small picture of its own for each number: a grey level and a width."""
    file = io.BytesIO()
    Image.new("L", (32 + number // 200, 32), number % 200).convert("RGB").save(file, "JPEG")
    return file.getvalue()


async def quick_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds / HASTE)


class Rig:
    """Servers, endpoints and a pool; everything closed at the end."""

    def __init__(self, **servers: VisionServer) -> None:
        self.servers = servers
        self.outside: set[str] = set()
        """Servers whose addresses count as outside the local network."""
        self.more: dict[str, object] = {}
        """Other settings."""
        self.results: dict[int, Answer | OutageError] = {}

    def settings(self, **more: object) -> Settings:
        endpoints = [
            {
                "name": name,
                "base_url": server.base_url,
                "max_concurrent": server.slots,
                "api_key": "sesame",
                "allow_remote": name == "allowed",
            }
            for name, server in self.servers.items()
        ]
        return Settings.model_validate({"endpoints": endpoints, "tag_list": ["Dunk", "Free throw"], **more})

    async def __aenter__(self) -> Rig:
        self.stack = AsyncExitStack()
        for server in self.servers.values():
            await self.stack.enter_async_context(server)
        settings = self.settings(**self.more)
        endpoints = [
            await self.stack.enter_async_context(
                HttpEndpoint(e, is_local=(lambda _: False) if e.name in self.outside else is_local)
            )
            for e in settings.endpoints
        ]
        self.pool = await self.stack.enter_async_context(
            Multiplexer(endpoints, settings, clock=lambda: HASTE * time.monotonic(), sleep=quick_sleep)
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def one(self, number: int, *, local_only: bool = False) -> None:
        try:
            async with self.pool.ticket("scene 1", local_only=local_only) as ticket:
                answer: Answer | OutageError = await ticket.ask(
                    Question(PROMPT, (picture(number),), False, f"{number}")
                )
        except OutageError as error:
            answer = error
        assert number not in self.results
        self.results[number] = answer

    async def until(self, done: asyncio.Event, workers: int = 8) -> None:
        """Ask one picture after another until `done`."""
        numbers = count(len(self.results))

        async def worker() -> None:
            while not done.is_set() and (number := next(numbers)) < 6000:
                await self.one(number)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(worker())

    async def answered(self, number: int) -> None:
        """Wait until so many questions have an answer."""
        while self.pool.statistics().answered < number:  # noqa: ASYNC110 - the pool has no such event
            await asyncio.sleep(0.005)


async def test_one_of_two_servers_is_cut_off_in_mid_run_and_returns() -> None:
    a = VisionServer(lambda _: ("Dunk",), slots=2, latency_s=0.01)
    b = VisionServer(lambda _: ("Dunk",), slots=2, latency_s=0.01)
    async with Rig(a=a, b=b) as rig:
        done = asyncio.Event()

        async def fate() -> None:
            await rig.answered(40)
            await a.stop()
            await rig.answered(140)
            before = len(a.entries)
            await a.start()
            while len(a.questions()) < before + 20:  # noqa: ASYNC110 - another process would not tell either
                await asyncio.sleep(0.005)
            done.set()

        async with asyncio.timeout(60):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fate())
                tasks.create_task(rig.until(done))
        shown = {e.name: e for e in rig.pool.statistics().endpoints}
        assert len(rig.results) == rig.pool.statistics().answered
        assert {r.outcome for r in rig.results.values() if isinstance(r, Answer)} == {Outcome.TAGS}
        assert not [r for r in rig.results.values() if isinstance(r, OutageError)]
        assert shown["a"].state == "ready"
        assert shown["a"].failures["connect"] <= 12
        assert not shown["b"].failures
        answered = Counter(e.picture for s in (a, b) for e in s.questions() if e.answered)
        assert sum(answered.values()) == len(rig.results)


async def test_all_are_away_for_a_while_and_nothing_is_lost() -> None:
    a = VisionServer(lambda _: ("Free throw",), slots=2, latency_s=0.01)
    async with Rig(a=a) as rig:
        done = asyncio.Event()

        async def fate() -> None:
            await rig.answered(20)
            await a.stop()
            while not rig.pool.statistics().waiting_for:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await a.start()
            await rig.answered(60)
            done.set()

        async with asyncio.timeout(60):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fate())
                tasks.create_task(rig.until(done))
        for result in rig.results.values():
            assert isinstance(result, Answer)
            assert result.outcome is Outcome.TAGS
            assert dict(result.tags).keys() == {"Free throw"}


async def test_a_wrong_key_on_one_server_parks_that_one_and_names_it() -> None:
    good = VisionServer(lambda _: ("Dunk",), slots=2, api_key="sesame")
    bad = VisionServer(lambda _: ("Dunk",), slots=2, api_key="another")
    async with Rig(good=good, bad=bad) as rig:
        async with asyncio.timeout(30):
            await asyncio.gather(*(rig.one(n) for n in range(60)))
        assert {r.outcome for r in rig.results.values() if isinstance(r, Answer)} == {Outcome.TAGS}
        assert len(rig.results) == 60
        shown = {e.name: e for e in rig.pool.statistics().endpoints}
        assert shown["bad"].state == "parked"
        assert "key" in shown["bad"].reason
        assert not bad.questions()


async def test_a_wrong_key_on_all_ends_the_run_with_that_sentence() -> None:
    bad = VisionServer(lambda _: ("Dunk",), api_key="another")
    async with Rig(bad=bad) as rig:
        async with asyncio.timeout(30):
            await asyncio.gather(*(rig.one(n) for n in range(10)))
        assert len(rig.results) == 10
        for result in rig.results.values():
            assert isinstance(result, OutageError)
            assert "key" in str(result)
            assert "sesame" not in str(result)


async def test_cancelled_questions_free_the_server_too() -> None:
    slow = VisionServer(lambda _: ("Dunk",), slots=1, latency_s=lambda n: 30.0 if n >= 50 else 0.0)
    async with Rig(slow=slow) as rig:
        await rig.pool.prepared()
        probes = len(slow.entries)
        assert probes < 50
        async with asyncio.timeout(30):
            await asyncio.gather(*(rig.one(n) for n in range(50 - probes)))
            stuck = asyncio.create_task(rig.one(1000))
            while not slow.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)
            while slow.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert slow.entries[-1].is_cancelled
        assert rig.pool.statistics().endpoints[0].in_flight == 0


async def test_a_server_outside_gets_no_byte_without_permission_and_the_run_completes_at_home() -> None:
    home = VisionServer(lambda _: ("Dunk",), slots=2)
    away = VisionServer(lambda _: ("Dunk",), slots=4)
    rig = Rig(home=home, away=away)
    rig.outside = {"away"}
    async with rig:
        async with asyncio.timeout(30):
            await asyncio.gather(*(rig.one(n) for n in range(40)))
        assert {r.outcome for r in rig.results.values() if isinstance(r, Answer)} == {Outcome.TAGS}
        shown = {e.name: e for e in rig.pool.statistics().endpoints}
        assert shown["away"].state == "parked"
        assert "allow_remote" in shown["away"].reason
        assert rig.pool.statistics().left_network == 0
    assert not away.entries
    assert away.statistics().requests == 0


async def test_what_must_stay_at_home_does_so_even_when_home_goes_down() -> None:
    home = VisionServer(lambda _: ("Dunk",), slots=2)
    allowed = VisionServer(lambda _: ("Dunk",), slots=4)
    rig = Rig(home=home, allowed=allowed)
    rig.outside = {"allowed"}
    rig.more = {"outage_patience": 2}  # is waited out
    async with rig:
        await rig.pool.prepared()
        probes = len(allowed.entries)
        async with asyncio.timeout(60):
            await asyncio.gather(*(rig.one(n, local_only=True) for n in range(20)))
            await home.stop()
            await asyncio.gather(*(rig.one(n, local_only=True) for n in range(20, 30)))
            assert len(allowed.entries) == probes, "not as a retry, not as a fallback"
            await asyncio.gather(*(rig.one(n) for n in range(30, 40)))
        assert {r.outcome for n, r in rig.results.items() if n < 20 and isinstance(r, Answer)} == {Outcome.TAGS}
        assert all(isinstance(rig.results[n], LocalOutageError) for n in range(20, 30))
        assert rig.pool.statistics().left_network == 10


async def test_stopping_drops_what_hangs_at_once_and_leaves_nothing() -> None:
    """A server that never answers, timeouts of an hour: leaving the pool waits for neither."""
    server = VisionServer(
        lambda _: ("Dunk",), slots=8, script=lambda o: Fault(FaultKind.HANG) if o.number >= 0 else None
    )
    ended: list[BaseException | Answer] = []
    with server.in_thread():
        before = asyncio.all_tasks()
        settings = Settings.model_validate(
            {
                "endpoints": [{"name": "h", "base_url": server.base_url, "max_concurrent": 8, "timeout": 3600}],
                "tag_list": ["Dunk"],
            }
        )
        async with asyncio.timeout(60):
            async with AsyncExitStack() as stack:
                endpoints = [await stack.enter_async_context(HttpEndpoint(e)) for e in settings.endpoints]
                pool = await stack.enter_async_context(Multiplexer(endpoints, settings))

                async def one(number: int) -> None:
                    try:
                        async with pool.ticket("scene 1") as ticket:
                            ended.append(await ticket.ask(Question(PROMPT, (picture(number),), False, f"{number}")))
                    except OutageError as error:
                        ended.append(error)

                asking = [asyncio.create_task(one(n)) for n in range(20)]
                while server.in_flight < 8:  # noqa: ASYNC110 - the server lives in another thread
                    await asyncio.sleep(0.005)
            await asyncio.gather(*asking)
            while server.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert asyncio.all_tasks() == before
        assert [e.is_cancelled for e in server.questions()] == [True] * 8, "the server still works on it"
    assert [type(e) for e in ended] == [OutageError] * 20
    assert pool.statistics().endpoints[0].in_flight == 0
