"""Limits of what an endpoint may cost, in a run and on a day."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault, LedgerError, OutageError
from haven_vlm.facts import Answer
from haven_vlm.journal import Journal
from haven_vlm.pool_ports import Usage
from haven_vlm.pool_statistics import table
from tests.multiplexer.fakes import Attempt, FakeEndpoint, always, answers, ask_all, nothing_left, pool_of
from tests.virtual_time import run

EACH = 310
"""Tokens the fake endpoint says each question took."""


class Book(dict[tuple[date, str], Usage]):
    """`SpendingBook` in a dictionary; it takes a moment, as the real one does."""

    async def add(self, endpoint: str, day: date, used: Usage) -> Usage:
        await asyncio.sleep(0.005)
        self[day, endpoint] = self.get((day, endpoint), Usage()) + used
        return self[day, endpoint]


class BrokenBook:
    async def add(self, endpoint: str, day: date, used: Usage) -> Usage:
        raise LedgerError("The disk is full.")


def test_a_limit_of_requests_is_kept_exactly() -> None:
    async def main() -> None:
        metered, free = FakeEndpoint("metered"), FakeEndpoint("free")
        async with nothing_left(), pool_of(metered, free, each={"metered": {"max_requests": 17}}) as pool:
            answers(await ask_all(pool, range(300)))
            assert len(metered.attempts) == 17
            shown = pool.statistics().endpoints[0]
            assert (shown.state, shown.until_s) == ("spent", None)
            assert shown.reason == (
                "Its max_requests is used up (17 of 17 requests); it is available again in the next run."
            )
            assert dict(shown.limits) == {"max_requests": (17, 17)}
            assert "spent; max_requests 17 of 17" in table(pool.statistics())

    run(main())


def test_failed_requests_count_too() -> None:
    async def main() -> None:
        metered, free = FakeEndpoint("metered", behave=always(EndpointFault.CONTEXT)), FakeEndpoint("free")
        async with nothing_left(), pool_of(metered, free, each={"metered": {"max_requests": 5}}) as pool:
            answers(await ask_all(pool, range(100)))
            assert len(metered.attempts) == 5

    run(main())


def test_when_only_spent_endpoints_are_left_the_run_ends_with_the_setting() -> None:
    async def main() -> None:
        metered = FakeEndpoint("metered")
        async with nothing_left(), pool_of(metered, each={"metered": {"max_requests": 5}}) as pool:
            results = await ask_all(pool, range(8))
            assert asyncio.get_running_loop().time() < 1, "there is nothing to wait for"
        assert sum(isinstance(r, Answer) for r in results.values()) == 5
        said = {str(r) for r in results.values() if isinstance(r, OutageError)}
        assert len(said) == 1
        assert "“metered”: Its max_requests is used up" in said.pop()

    run(main())


@pytest.mark.parametrize("limit", ["max_requests", "max_requests_per_day"])
def test_what_is_in_flight_when_a_limit_is_used_up_is_answered_before_the_run_ends(limit: str) -> None:
    """The first refusal ends a run, which cancels the rest: answers that are paid for would be lost."""

    async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        await asyncio.sleep(0.1 * len(endpoint.attempts))
        return endpoint.good(attempt)

    async def main() -> None:
        metered = FakeEndpoint("metered", behave=behave)
        async with nothing_left(), pool_of(metered, each={"metered": {limit: 5}}, book=Book()) as pool:
            results = await ask_all(pool, range(8))
        assert [isinstance(r, Answer) for r in results.values()] == [True] * 5 + [False] * 3  # in their order of time

    run(main())


@pytest.mark.parametrize(
    "limit", [{"max_tokens": 50 * EACH}, {"max_cost": 50 * 0.0004, "price_in": 1.0, "price_out": 10.0}]
)
def test_limits_of_tokens_and_money_are_never_exceeded(limit: dict[str, Any]) -> None:
    async def main() -> None:
        metered, free = FakeEndpoint("metered"), FakeEndpoint("free")
        async with nothing_left(), pool_of(metered, free, each={"metered": limit}) as pool:
            answers(await ask_all(pool, range(300)))
            assert len(metered.attempts) == 50
            ((used, most),) = pool.statistics().endpoints[0].limits.values()
            assert used == pytest.approx(most)

    run(main())


def test_the_day_of_all_runs_counts_and_the_next_day_is_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        book, each = Book(), {"metered": {"max_requests_per_day": 40}}
        first = FakeEndpoint("metered")
        async with nothing_left(), pool_of(first, each=each, book=book) as pool:
            answers(await ask_all(pool, range(30)))
        second, free = FakeEndpoint("metered"), FakeEndpoint("free")
        async with nothing_left(), pool_of(second, free, each=each, book=book) as pool:
            answers(await ask_all(pool, range(100)))
            assert len(second.attempts) == 10
            shown = pool.statistics().endpoints[0]
            assert shown.state == "spent" and shown.until_s is not None and 43_000 < shown.until_s <= 43_200
            assert "max_requests_per_day is used up (40 of 40 requests)" in shown.reason
            assert "at midnight, in 12 h" in shown.reason
        third = FakeEndpoint("metered")
        async with nothing_left(), pool_of(third, each=each, book=book) as pool:
            results = await ask_all(pool, range(5))
            assert all(isinstance(r, OutageError) and "per_day" in str(r) for r in results.values())
            assert not third.prepared_at, "what could not be asked is not even looked at"
        assert book[date(2026, 3, 1), "metered"].requests == 40
        fourth, tomorrow = FakeEndpoint("metered"), datetime(2026, 3, 2, 1, tzinfo=UTC)
        async with nothing_left(), pool_of(fourth, each=each, book=book, day=tomorrow) as pool:
            answers(await ask_all(pool, range(20)))
        assert book[date(2026, 3, 2), "metered"].requests == 20

    with caplog.at_level(logging.WARNING):
        run(main())
    assert sum("gets no more questions" in m for m in caplog.messages) == 2, "once in each run"


def test_at_midnight_it_works_on_in_the_same_run() -> None:
    async def main() -> None:
        metered, free = FakeEndpoint("metered"), FakeEndpoint("free", 1.0)
        late = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
        each = {"metered": {"max_requests_per_day": 40}}
        async with nothing_left(), pool_of(metered, free, each=each, book=Book(), day=late) as pool:
            answers(await ask_all(pool, range(400)))
        assert len([a for a in metered.attempts if a.began_s < 60]) == 40
        assert len([a for a in metered.attempts if a.began_s >= 60]) == 40
        assert min(a.began_s for a in metered.attempts if a.began_s >= 60) < 62

    run(main())


def test_alone_it_is_waited_for_if_midnight_comes_before_patience_ends() -> None:
    async def main() -> None:
        late = datetime(2026, 3, 1, 23, 55, tzinfo=UTC)
        for patience, answered in ((600, 60), (60, 40)):
            metered = FakeEndpoint("metered")
            each = {"metered": {"max_requests_per_day": 40}}
            more: dict[str, Any] = {"book": Book(), "day": late, "outage_patience": patience}
            began_s = asyncio.get_running_loop().time()
            async with nothing_left(), pool_of(metered, each=each, **more) as pool:
                results = await ask_all(pool, range(60))
            assert sum(isinstance(r, Answer) for r in results.values()) == answered
            if answered == 40:
                assert asyncio.get_running_loop().time() - began_s < 10, "no use in waiting a minute of five"

    run(main())


def test_two_runs_at_the_same_time_share_the_day() -> None:
    async def main() -> None:
        book, each = Book(), {"metered": {"max_requests_per_day": 100}}
        ours = FakeEndpoint("metered"), FakeEndpoint("free")
        theirs = FakeEndpoint("metered"), FakeEndpoint("free")
        async with (
            nothing_left(),
            pool_of(*ours, each=each, book=book) as one,
            pool_of(*theirs, each=each, book=book) as two,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(ask_all(one, range(200)))
            tasks.create_task(ask_all(two, range(200)))
        both = len(ours[0].attempts) + len(theirs[0].attempts)
        assert both == book[date(2026, 3, 1), "metered"].requests
        assert 100 <= both <= 104, "at most what one of them begins before it hears of the other's last"

    run(main())


def test_without_a_book_that_works_the_limit_still_holds_for_the_run(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        metered, free = FakeEndpoint("metered"), FakeEndpoint("free")
        each = {"metered": {"max_requests_per_day": 7}}
        async with nothing_left(), pool_of(metered, free, each=each, book=BrokenBook()) as pool:
            answers(await ask_all(pool, range(60)))
        assert len(metered.attempts) == 7

    run(main())
    assert sum("The disk is full." in m for m in caplog.messages) == 1


async def test_the_ledger_keeps_the_days_of_all_processes(tmp_path: Path) -> None:
    day = date(2026, 3, 1)
    async with Journal(tmp_path / "ledger.sqlite") as one, Journal(tmp_path / "ledger.sqlite") as two:
        assert await one.spending.add("a", day, Usage()) == Usage()
        await asyncio.gather(
            *(book.spending.add("a", day, Usage(1, 20, 3, 5)) for book in (one, two) for _ in range(50))
        )
        assert await two.spending.add("a", day, Usage()) == Usage(100, 2000, 300)
        assert await two.spending.add("b", day, Usage(1, 2, 3)) == Usage(1, 2, 3)
    async with Journal(tmp_path / "ledger.sqlite") as again:
        assert await again.spending.add("a", day, Usage(1)) == Usage(101, 2000, 300)
        assert await again.spending.add("a", date(2026, 3, 2), Usage(7)) == Usage(7)
        await again.spending.add("a", date(2028, 3, 1), Usage(1))
        assert await again.spending.add("a", day, Usage()) == Usage(), "forgotten after a year"
