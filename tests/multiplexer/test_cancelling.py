"""Cancelled at any point: no slot, no ticket and no task stays behind, and the others get what was freed."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from haven_vlm.errors import EndpointFault
from haven_vlm.facts import Answer
from tests.multiplexer.fakes import Attempt, FakeEndpoint, answers, ask_all, nothing_left, pool_of, question
from tests.virtual_time import run


@pytest.mark.parametrize("at", range(40))
def test_cancelled_after_every_number_of_turns_of_the_loop(at: int) -> None:
    """Whatever the task awaits after `at` turns of the event loop, it is cancelled exactly there."""

    async def main() -> None:
        async def shaky(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(0)
            if len(endpoint.attempts) % 2:
                raise endpoint.error(EndpointFault.SERVER, status=503)
            await asyncio.sleep(0)
            return endpoint.good(attempt)

        ends = [FakeEndpoint(n, behave=shaky) for n in "ab"]
        each = {n: {"max_concurrent": 1} for n in "ab"}
        async with nothing_left(), pool_of(*ends, each=each) as pool:

            async def one(number: int) -> Answer:
                async with pool.ticket("scene 1") as ticket:
                    return await ticket.ask(question(number))

            tasks = [asyncio.create_task(one(n)) for n in range(12)]
            for _ in range(at):
                await asyncio.sleep(0)
            for victim in tasks[::2]:
                victim.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(r, Answer) for r in results[1::2]), results
            assert {type(r) for r in results[::2]} <= {Answer, asyncio.CancelledError}
            shown = pool.statistics()
            assert shown.waiting == 0
            assert all(e.in_flight == 0 for e in shown.endpoints)
            assert ends[0].in_flight == ends[1].in_flight == 0
            answers(await ask_all(pool, range(20), lane="scene 2"))  # every slot and ticket is back

    run(main())


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_random_cancellations(seed: int, hedge: bool) -> None:
    async def main() -> None:
        random = Random(seed)

        async def moody(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(random.choice([0, 0.1, 0.5, 3]))
            mood = random.random()
            if mood < 0.1:
                raise endpoint.error(EndpointFault.CONNECT)
            if mood < 0.2:
                raise endpoint.error(EndpointFault.RATE_LIMITED, retry_after_s=random.choice([None, 0.0, 2.0]))
            return endpoint.good(attempt)

        ends = [FakeEndpoint(n, behave=moody) for n in "abc"]
        async with nothing_left(), pool_of(*ends, seed=seed, hedge=hedge) as pool:

            async def one(lane: str, number: int) -> Answer:
                async with pool.ticket(lane) as ticket:
                    await asyncio.sleep(random.choice([0, 0.02]))
                    return await ticket.ask(question(number))

            tasks = {n: asyncio.create_task(one(f"lane {n % 3}", n)) for n in range(120)}
            victims = random.sample(sorted(tasks), 50)
            for victim in victims:
                await asyncio.sleep(random.choice([0, 0, 0.05, 0.3]))
                tasks[victim].cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            for number, task in tasks.items():
                if number not in victims:
                    assert task.result().raw == f"picture {number}"
            assert all(e.in_flight == 0 for e in pool.statistics().endpoints)
            assert all(e.in_flight == 0 for e in ends)
            answers(await ask_all(pool, range(30), lane="afterwards"))

    run(main())


def test_a_cancelled_probe_hands_its_turn_back() -> None:
    async def main() -> None:
        stage = "dead"

        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            if stage == "dead":
                raise endpoint.error(EndpointFault.CONNECT)
            await asyncio.sleep(5 if stage == "slow" else 0.1)
            return endpoint.good(attempt)

        only = FakeEndpoint("only", behave=behave)
        only.not_ready = lambda _t: only.error(EndpointFault.CONNECT) if stage == "dead" else None
        async with nothing_left(), pool_of(only) as pool:

            async def one(number: int) -> Answer:
                async with pool.ticket("scene 1") as ticket:
                    return await ticket.ask(question(number))

            first = asyncio.create_task(one(0))
            await asyncio.sleep(3)
            stage = "slow"
            before = len(only.attempts)
            async with asyncio.timeout(60):
                while len(only.attempts) == before:  # noqa: ASYNC110 - the probe goes out at a time of its own
                    await asyncio.sleep(0.1)
            first.cancel()
            stage = "well"
            assert (await one(1)).raw == "picture 1"

    run(main())


def test_a_ticket_that_is_never_used_comes_back() -> None:
    async def main() -> None:
        async with nothing_left(), pool_of(FakeEndpoint("a"), each={"a": {"max_concurrent": 1}}) as pool:
            for _ in range(20):
                with pytest.raises(ZeroDivisionError):
                    async with pool.ticket("scene 1"):
                        raise ZeroDivisionError
            answers(await ask_all(pool, range(5)))

    run(main())
