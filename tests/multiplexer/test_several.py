"""Questions with several pictures: who may get them, how many they may hold, and what follows when they fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault
from haven_vlm.facts import Answer, Outcome, Question
from haven_vlm.prompts import build_several_prompt
from tests.multiplexer.fakes import PROMPT, FakeEndpoint, always, pool_of, question
from tests.virtual_time import run


def several(count: int = 4) -> Question:
    return Question(build_several_prompt(PROMPT.terms, count), (b"picture",) * count, False, "scene 1")


async def ask(pool: Any, asked: Question) -> Answer:
    async with pool.ticket("scene 1") as ticket:
        answer: Answer = await ticket.ask(asked)
        return answer


def test_only_endpoints_that_can_get_them() -> None:
    one, many = FakeEndpoint("one"), FakeEndpoint("many", most_pictures=8, latency_s=5.0)

    async def main() -> None:
        async with pool_of(one, many) as pool:
            await pool.prepared()
            for _ in range(3):
                assert (await ask(pool, several())).endpoint == "many"
            assert len(one.attempts) == 0

    run(main())


def test_how_many_is_told_and_who_takes_one_only_is_not_left_idle() -> None:
    one, four, eight = FakeEndpoint("one"), FakeEndpoint("four", most_pictures=4), FakeEndpoint("e", most_pictures=8)

    async def main() -> None:
        async with pool_of(four, eight) as pool:
            assert pool.pictures() == 1  # nobody has been asked what it can
            await pool.prepared()
            assert pool.pictures() == 4  # all that can several shall be able to take it
        async with pool_of(one, four, each={"one": {"max_concurrent": 1}}) as pool:
            await pool.prepared()
            assert pool.pictures() == 1  # one has nothing to do
            busy = [asyncio.create_task(ask(pool, question(n))) for n in range(5)]
            await asyncio.sleep(0.05)
            assert (one.in_flight, four.in_flight) == (1, 4)
            assert pool.pictures() == 4
            await asyncio.gather(*busy)
        async with pool_of(one) as pool:
            await pool.prepared()
            assert pool.pictures() == 1

    run(main())


@pytest.mark.parametrize("fault", [EndpointFault.CONTEXT, EndpointFault.PICTURE, EndpointFault.OTHER])
def test_what_is_not_taken_comes_back_at_once_and_parks_nobody(fault: EndpointFault) -> None:
    endpoint = FakeEndpoint("many", most_pictures=8, behave=always(fault))

    async def main() -> None:
        async with pool_of(endpoint) as pool:
            await pool.prepared()
            for _ in range(30):
                answer = await ask(pool, several())
                assert answer.outcome is Outcome.ENDPOINT_ERROR and answer.each == ()
            assert len(endpoint.attempts) == 30
            assert pool.statistics().endpoints[0].state == "ready"

    run(main())


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.UNPARSABLE, Outcome.FILTERED])
def test_a_poor_answer_gets_no_second_opinion(outcome: Outcome) -> None:
    endpoints = [FakeEndpoint(n, most_pictures=8, model=n, behave=always(outcome)) for n in ("a", "b")]

    async def main() -> None:
        async with pool_of(*endpoints) as pool:
            await pool.prepared()
            assert (await ask(pool, several())).outcome is outcome
            assert sum(len(e.attempts) for e in endpoints) == 1

    run(main())


def test_when_the_only_one_that_can_goes_the_question_comes_back() -> None:
    many = FakeEndpoint("many", most_pictures=8, behave=always(EndpointFault.AUTH))
    one = FakeEndpoint("one")

    async def main() -> None:
        async with pool_of(many, one) as pool:
            await pool.prepared()
            answer = await ask(pool, several())
            assert answer.outcome is Outcome.ENDPOINT_ERROR
            assert len(one.attempts) == 0 and pool.pictures() == 1

    run(main())


def test_speed_is_judged_by_the_picture() -> None:
    """Otherwise an endpoint that is given four at once would seem four times as slow as the others."""
    endpoint = FakeEndpoint("many", most_pictures=8, latency_s=4.0)

    async def main() -> None:
        async with pool_of(endpoint) as pool:
            await pool.prepared()
            for _ in range(5):
                await ask(pool, several())
            assert pool.statistics().endpoints[0].p50_s == pytest.approx(1.0)

    run(main())
