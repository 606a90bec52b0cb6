"""Nobody can take work: waiting with patience, saying so, going on, or ending with every reason."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from haven_vlm.errors import EndpointError, EndpointFault, OutageError
from haven_vlm.facts import Answer, Outcome
from tests.multiplexer.fakes import Attempt, FakeEndpoint, answers, ask_all, nothing_left, pool_of, question
from tests.virtual_time import run


def with_outage(
    name: str, begin_s: float, end_s: float, *, fault: EndpointFault = EndpointFault.CONNECT
) -> FakeEndpoint:
    """An endpoint that is away from `begin_s` to `end_s`."""
    endpoint = FakeEndpoint(name)

    def away(t: float) -> EndpointError | None:
        return endpoint.error(fault, fix=f"Start {name}.") if begin_s <= t < end_s else None

    async def behave(_endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        if (error := away(attempt.began_s)) is not None:
            await asyncio.sleep(0.001)
            raise error
        await asyncio.sleep(0.2)
        if (error := away(attempt.began_s + 0.2)) is not None:
            raise error
        return endpoint.good(attempt)

    endpoint.not_ready = away
    endpoint.behave = behave
    return endpoint


def test_one_of_two_is_cut_off_and_returns() -> None:
    async def main() -> None:
        a, b = with_outage("a", 10, 40), FakeEndpoint("b")
        async with nothing_left(), pool_of(a, b) as pool:
            results = answers(await ask_all(pool, range(2000)))
            took_s = asyncio.get_running_loop().time()
        assert all(r.outcome is Outcome.TAGS for r in results.values())
        times = sorted(x.began_s for x in a.attempts)
        failed = [t for t in times if 9.8 <= t < 40]
        assert len(failed) <= 12, "a dead endpoint is left alone soon"
        back = min(t for t in times if t >= 40)
        assert back <= 40 + 1.25 * 30 + 1, "back within one open time"
        away_s = back - 10
        ideal_s = (2000 + away_s * 20) / 40
        assert took_s <= ideal_s + 2, "the other one went on at full speed"
        gaps = sorted(x.began_s for x in b.attempts)
        assert max(y - x for x, y in pairwise(gaps)) <= 0.21

    run(main())


def test_it_is_pinged_then_prepared_again_then_one_question_decides() -> None:
    async def main() -> None:
        a, b = with_outage("a", 5, 20), FakeEndpoint("b")
        async with nothing_left(), pool_of(a, b) as pool:
            answers(await ask_all(pool, range(1500)))
        assert len(a.prepared_at) == 2
        assert a.prepared_at[1] >= 20
        assert a.prepared_at[1] in a.pinged_at
        assert all(t >= 5 for t in a.pinged_at), "no health checks while questions flow"
        waits = [y - x for x, y in pairwise(a.pinged_at)]
        assert all(y > x * 1.1 for x, y in pairwise(waits)), waits
        back = sorted(x.began_s for x in a.attempts if x.began_s >= 20)
        assert back[1] - back[0] >= 0.2, "exactly one question at first"

    run(main())


def test_a_server_that_answers_pings_but_no_question_gets_one_question_at_a_time() -> None:
    async def main() -> None:
        sick, well = with_outage("sick", 5, 1e9, fault=EndpointFault.SERVER), FakeEndpoint("well")
        sick.not_ready = None
        async with nothing_left(), pool_of(sick, well) as pool:
            results = answers(await ask_all(pool, range(4000)))
        assert all(r.outcome is Outcome.TAGS for r in results.values())
        late = [x.began_s for x in sick.attempts if x.began_s > 8]
        assert 3 <= len(late) <= 20

    run(main())


def test_an_outage_of_all_is_waited_out_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        a, b = with_outage("a", 5, 200), with_outage("b", 5, 260)
        async with nothing_left(), pool_of(a, b) as pool:
            asking = asyncio.create_task(ask_all(pool, range(600)))
            await asyncio.sleep(100)
            told = pool.statistics().waiting_for
            assert "“a”" in told and "“b”" in told and "connect happened" in told and "next try" in told
            results = answers(await asking)
            assert pool.statistics().waiting_for == ""
        assert all(r.outcome is Outcome.TAGS for r in results.values())
        assert min(x.began_s for x in a.attempts if x.began_s > 30) <= 240

    run(main())
    text = caplog.text
    assert text.count("Waiting for up to 10 min") == 1
    assert "endpoints answer again after" in text


def test_patience_ends_with_the_reason_and_the_fix_of_each() -> None:
    async def main() -> None:
        a, b = with_outage("a", 5, 1e9), with_outage("b", 7, 1e9)
        async with nothing_left(), pool_of(a, b, outage_patience="120s") as pool:
            results = await ask_all(pool, range(600))
            ended_s = asyncio.get_running_loop().time()
            good = [r for r in results.values() if isinstance(r, Answer)]
            bad = [r for r in results.values() if isinstance(r, OutageError)]
            assert len(good) + len(bad) == 600
            assert all(r.outcome is Outcome.TAGS for r in good), "an outage is no frame's fault"
            assert all("Start a." in str(e) and "Start b." in str(e) for e in bad)
            assert 120 <= ended_s - 7 <= 130
            with pytest.raises(OutageError):
                async with pool.ticket("scene 2"):
                    pass
            assert asyncio.get_running_loop().time() == ended_s, "nobody waits twice"

    run(main())


def test_a_flapping_server_does_not_prolong_the_patience() -> None:
    """It answers pings and every preparation, but no question, ever."""

    async def main() -> None:
        sick = with_outage("sick", 0, 1e9)
        sick.not_ready = None
        async with nothing_left(), pool_of(sick, outage_patience="60s") as pool:
            results = await ask_all(pool, range(20))
            assert all(isinstance(r, OutageError) for r in results.values())
            assert asyncio.get_running_loop().time() <= 100

    run(main())


def test_endless_rate_limits_end_the_run_too() -> None:
    async def main() -> None:
        limited = with_outage("limited", 0, 1e9, fault=EndpointFault.RATE_LIMITED)
        limited.not_ready = None
        async with nothing_left(), pool_of(limited, outage_patience="60s") as pool:
            results = await ask_all(pool, range(20))
            assert all(isinstance(r, OutageError) for r in results.values())
            assert asyncio.get_running_loop().time() <= 130

    run(main())


def test_a_wish_to_wait_longer_than_the_patience_ends_the_run_at_once() -> None:
    async def main() -> None:
        async def behave(endpoint: FakeEndpoint, _attempt: Attempt) -> Answer:
            await asyncio.sleep(0.1)
            raise endpoint.error(EndpointFault.RATE_LIMITED, status=429, retry_after_s=3600.0)

        limited = FakeEndpoint("limited", behave=behave)
        async with nothing_left(), pool_of(limited) as pool:
            results = await ask_all(pool, range(5))
            assert all(isinstance(r, OutageError) and "60 min" in str(r) for r in results.values())
            assert asyncio.get_running_loop().time() < 5

    run(main())


def test_patience_of_zero_means_not_to_wait() -> None:
    async def main() -> None:
        dead = with_outage("dead", 0, 1e9)
        async with nothing_left(), pool_of(dead, outage_patience=0) as pool:
            results = await ask_all(pool, range(5))
            assert all(isinstance(r, OutageError) for r in results.values())
            assert asyncio.get_running_loop().time() < 1

    run(main())


def test_an_idle_pool_with_a_dead_endpoint_does_not_use_up_the_patience_of_later_work() -> None:
    async def main() -> None:
        a = with_outage("a", 1, 1000)
        async with nothing_left(), pool_of(a, outage_patience="300s") as pool:
            answers(await ask_all(pool, range(4)))
            await asyncio.sleep(10)
            asking = asyncio.create_task(ask_all(pool, range(4), lane="given up"))
            await asyncio.sleep(100)
            assert pool.statistics().waiting_for
            asking.cancel()
            await asyncio.sleep(700)
            assert not pool.statistics().waiting_for
            answers(await ask_all(pool, range(40)))

    run(main())


def test_closing_with_work_under_way_leaves_nothing_and_tells_everybody() -> None:
    async def main() -> None:
        endpoint = FakeEndpoint("a", 50.0)
        async with nothing_left():
            async with pool_of(endpoint) as pool:

                async def one(number: int) -> Answer:
                    async with pool.ticket("scene 1") as ticket:
                        return await ticket.ask(question(number))

                tasks = [asyncio.create_task(one(n)) for n in range(30)]
                await asyncio.sleep(10)
                assert endpoint.in_flight == 4
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(r, OutageError) for r in results)
            assert asyncio.get_running_loop().time() < 12
            assert endpoint.in_flight == 0

    run(main())


def test_an_endpoint_that_is_only_slow_to_get_ready_is_named_in_the_end() -> None:
    async def main() -> None:
        slow = FakeEndpoint("slow", prepare_s=1e6)
        async with nothing_left(), pool_of(slow, outage_patience="50s") as pool:
            results = await ask_all(pool, range(3))
            assert all(isinstance(r, OutageError) and "getting ready" in str(r) for r in results.values())

    run(main())


def test_a_server_that_does_not_say_what_it_can_do_is_asked_again() -> None:
    async def main() -> None:
        mute = FakeEndpoint("mute", prepare_s=1e6)
        async with nothing_left(), pool_of(mute, outage_patience="1h") as pool:
            asking = asyncio.create_task(ask_all(pool, range(5)))
            await asyncio.sleep(60.3)
            assert "does not say what it can do" in pool.statistics().waiting_for
            mute.prepare_s = 0.1
            answers(await asking)
        assert len(mute.prepared_at) == 2

    run(main())


def test_rate_limits_on_the_first_question_about_itself_are_waited_out() -> None:
    async def main() -> None:
        limited = FakeEndpoint("limited")
        limited.not_ready = lambda t: limited.error(EndpointFault.RATE_LIMITED, retry_after_s=40) if t < 30 else None
        async with nothing_left(), pool_of(limited) as pool:
            answers(await ask_all(pool, range(5)))
        assert [*limited.prepared_at, *limited.pinged_at] == [0, pytest.approx(40), pytest.approx(40)]

    run(main())


def test_an_answer_in_hand_is_worth_more_than_an_outage() -> None:
    """It was cut; before it can be asked for with more room, the last server goes."""

    async def main() -> None:
        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            if attempt.boosted:
                raise endpoint.error(EndpointFault.AUTH)
            await asyncio.sleep(0.1)
            return endpoint.poor(Outcome.TRUNCATED)

        async with nothing_left(), pool_of(FakeEndpoint("a", behave=behave)) as pool:
            results = await ask_all(pool, range(2))
        assert [r.outcome for r in results.values() if isinstance(r, Answer)] == [Outcome.TRUNCATED] * 2

    run(main())
