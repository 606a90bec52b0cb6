"""A second copy at the end of a run: only if it is switched on, never to the outside, and only one answer counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault
from haven_vlm.facts import Answer, Outcome
from tests.multiplexer.fakes import Attempt, FakeEndpoint, answers, ask_all, hang, nothing_left, pool_of
from tests.virtual_time import run


async def last_one_hangs(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
    if attempt.question.jpegs == (b"picture 39",) and len(endpoint.attempts) > 5:
        return await hang(endpoint, attempt)
    await asyncio.sleep(0.2)
    return endpoint.good(attempt)


async def ends_at(*endpoints: FakeEndpoint, **more: Any) -> float:
    async with nothing_left(), pool_of(*endpoints, **more) as pool:
        results = answers(await ask_all(pool, range(40)))
        assert all(a.outcome is Outcome.TAGS for a in results.values())
        assert all(e.in_flight == 0 for e in pool.statistics().endpoints)
    assert all(e.in_flight == 0 for e in endpoints)
    return asyncio.get_running_loop().time()


def one_stuck(**more: Any) -> tuple[FakeEndpoint, FakeEndpoint]:
    """Whoever gets picture 39 first hangs on it."""
    taken: list[str] = []

    async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        if attempt.question.jpegs == (b"picture 39",):
            taken.append(endpoint.name)
            if len(taken) == 1:
                return await hang(endpoint, attempt)
        await asyncio.sleep(0.2)
        return endpoint.good(attempt)

    return FakeEndpoint("a", behave=behave, **more), FakeEndpoint("b", behave=behave, **more)


def test_hedging_is_off_by_default() -> None:
    async def main() -> float:
        return await ends_at(*one_stuck())

    assert run(main()) >= 30


def test_a_straggler_is_overtaken_and_dropped() -> None:
    async def main() -> float:
        a, b = one_stuck()
        took_s = await ends_at(a, b, hedge=True)
        assert len(a.attempts) + len(b.attempts) == 41
        return took_s

    assert run(main()) < 2.5


def test_no_second_copy_goes_outside() -> None:
    async def main() -> None:
        home, away = FakeEndpoint("home", behave=last_one_hangs), FakeEndpoint("away", is_remote=True)
        each = {"away": {"allow_remote": True, "weight": 0.01}, "home": {"weight": 100}}
        await ends_at(home, away, hedge=True, each=each)
        stuck = [a for a in home.attempts if a.question.jpegs == (b"picture 39",)]
        copies = [a for a in away.attempts if a.question.jpegs == (b"picture 39",)]
        if stuck and copies:
            assert copies[0].began_s >= stuck[0].began_s + 29.99, "only after the first one had failed"

    run(main())


@pytest.mark.parametrize("metered", [{"max_requests": 1000}, {"price_out": 1.0}])
def test_no_second_copy_where_it_costs_something(metered: dict[str, float]) -> None:
    async def main() -> float:
        return await ends_at(*one_stuck(), hedge=True, each={"a": metered, "b": metered})

    assert run(main()) >= 30


def test_no_second_copy_in_the_middle_of_a_run() -> None:
    async def main() -> None:
        async def scattered(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(5.0 if len(endpoint.attempts) % 10 == 3 else 0.2)
            return endpoint.good(attempt)

        a, b = FakeEndpoint("a", behave=scattered), FakeEndpoint("b", behave=scattered)
        async with nothing_left(), pool_of(a, b, hedge=True) as pool:
            results = answers(await ask_all(pool, range(400)))
            assert len(results) == 400
        assert len(a.attempts) + len(b.attempts) <= 400 + 8  # as many as there are slots, at the very end

    run(main())


@pytest.mark.parametrize("loser", ["fails", "wins"])
def test_a_copy_that_fails_leaves_the_first_one_running(loser: str) -> None:
    async def main() -> None:
        async def slow_last(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            if attempt.question.jpegs == (b"picture 39",):
                first = not seen
                seen.append(endpoint.name)
                if first:
                    await asyncio.sleep(10)
                    return endpoint.good(attempt)
                await asyncio.sleep(0.3)
                if loser == "fails":
                    raise endpoint.error(EndpointFault.SERVER, status=500)
            await asyncio.sleep(0.2)
            return endpoint.good(attempt)

        seen: list[str] = []
        took_s = await ends_at(FakeEndpoint("a", behave=slow_last), FakeEndpoint("b", behave=slow_last), hedge=True)
        assert (took_s > 10) == (loser == "fails")
        assert len(seen) >= 2

    run(main())
