"""A slot is handed on the moment an answer has arrived; reading it comes after the next question has left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault
from haven_vlm.facts import Answer
from tests.multiplexer.fakes import Attempt, FakeEndpoint, answers, ask_all, nothing_left, pool_of
from tests.virtual_time import run

READING_S = 0.25


def begins(limits: dict[str, Any], **more: Any) -> list[float]:
    """When each of three questions left for an endpoint of one slot that takes a second for each."""

    async def main() -> list[float]:
        endpoint = FakeEndpoint("a", 1.0, reading_s=READING_S, **more)
        async with nothing_left(), pool_of(endpoint, each={"a": {"max_concurrent": 1, **limits}}) as pool:
            answers(await ask_all(pool, range(3)))
            shown = pool.statistics().endpoints[0]
        assert (shown.answered, shown.in_flight, endpoint.most_in_flight) == (3, 0, 1)
        return [a.began_s for a in endpoint.attempts]

    return run(main())


def test_the_next_question_leaves_before_the_answer_is_read() -> None:
    assert begins({}) == [0.0, 1.0, 2.0]


def test_reading_counts_neither_as_latency_nor_as_work() -> None:
    async def main() -> None:
        endpoint = FakeEndpoint("a", 1.0, reading_s=READING_S)
        async with nothing_left(), pool_of(endpoint, each={"a": {"max_concurrent": 1}}) as pool:
            answers(await ask_all(pool, range(4)))
            shown = pool.statistics().endpoints[0]
        assert (shown.p50_s, shown.p95_s, shown.busy_s) == (1.0, 1.0, 4.0)

    run(main())


def test_where_answers_count_against_a_limit_they_are_read_first() -> None:
    step_s = 1.0 + READING_S
    assert begins({"max_tokens": 100_000}) == [0.0, step_s, 2 * step_s]


def test_on_trial_an_answer_is_read_first() -> None:
    """Half open means one question, until its answer is known to be good."""

    async def main() -> None:
        async def fails_first(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(1.0)
            if attempt.began_s < 20:
                raise endpoint.error(EndpointFault.SERVER, status=500)
            return endpoint.good(attempt)

        endpoint = FakeEndpoint("a", behave=fails_first, reading_s=READING_S)
        async with nothing_left(), pool_of(endpoint) as pool:
            answers(await ask_all(pool, range(8)))
        good = [a.began_s for a in endpoint.attempts if a.began_s >= 20]
        assert good[1] - good[0] == pytest.approx(1.0 + READING_S)

    run(main())
