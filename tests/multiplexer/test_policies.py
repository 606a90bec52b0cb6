"""What follows from each kind of failure and each kind of answer, for the question and for the endpoint."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault, OutageError
from haven_vlm.facts import Answer, Outcome
from haven_vlm.resilience import POLICY, Policy
from tests.multiplexer.fakes import (
    Attempt,
    Behaviour,
    FakeEndpoint,
    always,
    answers,
    ask_all,
    hang,
    nothing_left,
    pool_of,
    question,
)
from tests.virtual_time import run

PARKING = [f for f, p in POLICY.items() if p is Policy.PARK]


def first(count: int, bad: Behaviour) -> Behaviour:
    """`bad` for the first attempts, then good ones."""

    async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        if len(endpoint.attempts) <= count:
            return await bad(endpoint, attempt)
        await asyncio.sleep(endpoint.latency_s)
        return endpoint.good(attempt)

    return behave


def for_picture(number: int, bad: Behaviour) -> Behaviour:
    """`bad` for one picture; all others are answered."""

    async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        if attempt.question.jpegs == question(number).jpegs:
            return await bad(endpoint, attempt)
        await asyncio.sleep(endpoint.latency_s)
        return endpoint.good(attempt)

    return behave


async def ask_one(pool: Any, number: int = 0) -> Answer:
    async with pool.ticket("scene 1") as ticket:
        answer: Answer = await ticket.ask(question(number))
        return answer


def test_every_fault_has_a_policy() -> None:
    assert set(POLICY) == set(EndpointFault)


@pytest.mark.parametrize("fault", PARKING)
@pytest.mark.parametrize("when", ["asked", "prepared"])
def test_a_wrong_setting_parks_one_endpoint_and_says_so_once(
    fault: EndpointFault, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        wrong, right = FakeEndpoint("wrong"), FakeEndpoint("right")
        if when == "asked":
            wrong.behave = always(fault, fix="Mend endpoints.wrong.api_key.")
        else:
            wrong.not_ready = lambda _: wrong.error(fault, fix="Mend endpoints.wrong.api_key.")
        async with nothing_left(), pool_of(wrong, right) as pool:
            assert all(a.outcome is Outcome.TAGS for a in answers(await ask_all(pool, range(100))).values())
            shown = pool.statistics().endpoints[0]
        assert shown.state == "parked"
        assert shown.until_s is None
        assert shown.reason.endswith("Mend endpoints.wrong.api_key.")
        assert shown.failures[fault] >= 1
        assert len(wrong.attempts) <= 4  # those that were in flight together
        assert not wrong.pinged_at

    run(main())
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1
    assert "Mend endpoints.wrong.api_key." in told[0]


@pytest.mark.parametrize("when", ["asked", "prepared"])
def test_when_all_settings_are_wrong_the_run_ends_at_once_with_every_fix(when: str) -> None:
    async def main() -> float:
        ends = [FakeEndpoint("one"), FakeEndpoint("two")]
        for end in ends:
            if when == "asked":
                end.behave = always(EndpointFault.AUTH, fix=f"Mend the key of {end.name}.")
            else:
                end.not_ready = lambda _, end=end: end.error(EndpointFault.AUTH, fix=f"Mend the key of {end.name}.")
        async with nothing_left(), pool_of(*ends) as pool:
            results = await ask_all(pool, range(50))
            assert len(results) == 50
            for result in results.values():
                assert isinstance(result, OutageError)
                assert "Mend the key of one." in str(result)
                assert "Mend the key of two." in str(result)
        return asyncio.get_running_loop().time()

    assert run(main()) < 2


@pytest.mark.parametrize("fault", [EndpointFault.RATE_LIMITED, EndpointFault.SERVER, EndpointFault.LOADING])
def test_wishes_to_wait_are_granted_exactly_and_the_longest_wins(fault: EndpointFault) -> None:
    async def main() -> None:
        busy = FakeEndpoint("busy")

        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            number = len([a for a in endpoint.attempts if a.began_s >= 5])
            await asyncio.sleep(0.1)
            if 5 <= attempt.began_s < 5.5:
                raise endpoint.error(fault, status=503, retry_after_s=20.0 if number == 1 else 3.0)
            return endpoint.good(attempt)

        busy.behave = behave
        async with nothing_left(), pool_of(busy) as pool:
            answers(await ask_all(pool, range(400)))
        gap = sorted(a.began_s for a in busy.attempts if a.began_s >= 5.15)
        assert gap[0] >= 25.0
        assert gap[0] <= 27

    run(main())


def test_meanwhile_the_others_work_on() -> None:
    async def main() -> float:
        busy = FakeEndpoint("busy", behave=always(EndpointFault.RATE_LIMITED, retry_after_s=300.0))
        free = FakeEndpoint("free")
        async with nothing_left(), pool_of(busy, free) as pool:
            answers(await ask_all(pool, range(200)))
            took_s = asyncio.get_running_loop().time()
            shown = pool.statistics().endpoints[0]
            assert shown.state == "cooling down"
            assert shown.until_s is not None and 280 < shown.until_s < 300
        assert len(busy.attempts) <= 4
        return took_s

    assert run(main()) < 200 / 4 * 0.2 + 0.5


def test_without_a_wish_rests_grow_and_are_forgotten_after_an_answer() -> None:
    async def main() -> list[float]:
        limited = FakeEndpoint("limited", behave=first(8, always(EndpointFault.RATE_LIMITED, status=503)))
        async with nothing_left(), pool_of(limited, each={"limited": {"max_concurrent": 1}}) as pool:
            answers(await ask_all(pool, range(20)))
        return [a.began_s for a in limited.attempts]

    began = run(main())
    assert len(began) == 28
    assert began[8] - began[0] > 5


def test_loading_is_waited_for_and_is_no_failure() -> None:
    async def main() -> None:
        lazy = FakeEndpoint("lazy")
        lazy.not_ready = lambda t: lazy.error(EndpointFault.LOADING) if t < 90 else None
        async with nothing_left(), pool_of(lazy) as pool:
            answers(await ask_all(pool, range(20)))
        assert 90 <= lazy.attempts[0].began_s <= 96
        assert lazy.most_in_flight == 4

    run(main())


def test_a_model_that_is_unloaded_in_between_is_waited_for() -> None:
    async def main() -> None:
        lazy = FakeEndpoint("lazy")
        lazy.not_ready = lambda t: lazy.error(EndpointFault.LOADING) if 5 < t < 60 else None

        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(0.1)
            if 5 < attempt.began_s < 60:
                raise endpoint.error(EndpointFault.LOADING, status=503)
            return endpoint.good(attempt)

        lazy.behave = behave
        async with nothing_left(), pool_of(lazy) as pool:
            answers(await ask_all(pool, range(400)))
        assert len(lazy.attempts) <= 404

    run(main())


@pytest.mark.parametrize("fault", [EndpointFault.CONNECT, EndpointFault.SERVER, EndpointFault.OTHER])
def test_one_failure_costs_one_attempt_elsewhere(fault: EndpointFault) -> None:
    async def main() -> None:
        shaky, firm = FakeEndpoint("shaky", behave=first(1, always(fault, status=500))), FakeEndpoint("firm")
        async with nothing_left(), pool_of(shaky, firm) as pool:
            results = answers(await ask_all(pool, range(100)))
            assert all(a.outcome is Outcome.TAGS for a in results.values())
            assert pool.statistics().endpoints[0].state == "ready"
        asked = shaky.attempts + firm.attempts
        assert len(asked) == 101
        assert sum(a.question == asked[0].question for a in asked) == 2

    run(main())


def test_never_the_same_endpoint_twice_in_a_row_while_others_live() -> None:
    async def main() -> None:
        order: list[tuple[bytes, str]] = []

        async def flaky(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            order.append((attempt.question.jpegs[0], endpoint.name))
            await asyncio.sleep(0.05)
            if len(endpoint.attempts) % 4 == 0:
                raise endpoint.error(EndpointFault.SERVER, status=500)
            return endpoint.good(attempt)

        ends = [FakeEndpoint(n, behave=flaky) for n in "abc"]
        async with nothing_left(), pool_of(*ends) as pool:
            answers(await ask_all(pool, range(300)))
        seen: dict[bytes, str] = {}
        for picture, name in order:
            assert seen.get(picture) != name
            seen[picture] = name

    run(main())


def test_the_only_endpoint_is_asked_again_after_a_pause() -> None:
    async def main() -> None:
        only = FakeEndpoint("only", behave=first(2, always(EndpointFault.CONNECT, after_s=0.0)))
        async with nothing_left(), pool_of(only) as pool:
            assert (await ask_one(pool)).outcome is Outcome.TAGS
        assert len(only.attempts) == 3
        assert only.attempts[-1].began_s > 0.05

    run(main())


@pytest.mark.parametrize(
    "fault", [EndpointFault.PICTURE, EndpointFault.CONTEXT, EndpointFault.FIELD, EndpointFault.OTHER]
)
def test_a_question_that_fails_the_same_way_at_two_endpoints_is_its_own_fault(fault: EndpointFault) -> None:
    async def main() -> None:
        ends = [FakeEndpoint(n, behave=for_picture(7, always(fault, status=400))) for n in "abc"]
        async with nothing_left(), pool_of(*ends) as pool:
            results = answers(await ask_all(pool, range(60)))
            assert all(e.state == "ready" for e in pool.statistics().endpoints)
        poison = results.pop(7)
        assert poison.outcome is Outcome.ENDPOINT_ERROR
        assert str(fault) in poison.detail
        assert all(a.outcome is Outcome.TAGS for a in results.values())
        assert sum(a.question == question(7) for e in ends for a in e.attempts) == 2

    run(main())


def test_a_picture_that_one_server_cannot_take_is_given_to_another() -> None:
    async def main() -> None:
        small = FakeEndpoint("small", behave=for_picture(3, always(EndpointFault.CONTEXT, status=400)))
        large = FakeEndpoint("large")
        async with nothing_left(), pool_of(small, large) as pool:
            assert all(a.outcome is Outcome.TAGS for a in answers(await ask_all(pool, range(30))).values())
            assert len(small.attempts) + len(large.attempts) in (30, 31)

    run(main())


def test_with_one_endpoint_a_poisoned_question_ends_soon_and_alone() -> None:
    async def main() -> None:
        only = FakeEndpoint("only", behave=for_picture(5, always(EndpointFault.PICTURE, status=400)))
        async with nothing_left(), pool_of(only) as pool:
            results = answers(await ask_all(pool, range(20)))
        assert [n for n, a in results.items() if a.outcome is Outcome.ENDPOINT_ERROR] == [5]
        assert len(only.attempts) == 20

    run(main())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_server_error_that_always_hits_the_same_picture_is_recognised(count: int) -> None:
    """llama.cpp answers 500 whenever it cannot parse its own output: the same picture fails for ever."""

    async def main() -> None:
        ends = [
            FakeEndpoint(f"e{i}", behave=for_picture(30, always(EndpointFault.SERVER, status=500)))
            for i in range(count)
        ]
        async with nothing_left(), pool_of(*ends) as pool:
            results = answers(await ask_all(pool, range(100)))
            assert all(e.state == "ready" for e in pool.statistics().endpoints)
        assert [n for n, a in results.items() if a.outcome is Outcome.ENDPOINT_ERROR] == [30]
        assert sum(a.question == question(30) for e in ends for a in e.attempts) <= 3

    run(main())


def test_chance_failures_are_not_taken_for_poison() -> None:
    async def main() -> None:
        from random import Random

        random = Random(5)

        async def flaky(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(0.05)
            if random.random() < 0.15:
                raise endpoint.error(EndpointFault.SERVER, status=500)
            return endpoint.good(attempt)

        ends = [FakeEndpoint(n, behave=flaky) for n in "abc"]
        async with nothing_left(), pool_of(*ends) as pool:
            results = answers(await ask_all(pool, range(3000)))
        lost = [a for a in results.values() if not a.outcome.analysed]
        assert len(lost) <= 15, [a.detail for a in lost]

    run(main())


def test_a_cut_answer_is_asked_for_once_more_with_more_room() -> None:
    async def main() -> None:
        async def wordy(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(0.1)
            return endpoint.good(attempt) if attempt.boosted else endpoint.poor(Outcome.TRUNCATED)

        a = FakeEndpoint("a", behave=wordy)
        async with nothing_left(), pool_of(a) as pool:
            assert (await ask_one(pool)).outcome is Outcome.TAGS
        assert [x.boosted for x in a.attempts] == [False, True]
        a = FakeEndpoint("a", behave=always(Outcome.TRUNCATED))
        async with nothing_left(), pool_of(a) as pool:
            assert (await ask_one(pool)).outcome is Outcome.TRUNCATED
        assert len(a.attempts) == 2

    run(main())


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FILTERED])
def test_a_refusal_is_taken_to_one_other_model(outcome: Outcome) -> None:
    async def main() -> None:
        prude = [FakeEndpoint(n, model="prude", behave=always(outcome)) for n in "ab"]
        calm = FakeEndpoint("c", model="calm")
        each = {"c": {"is_fallback": True, "fallback_policy": "when_busy"}}
        async with nothing_left(), pool_of(*prude, calm, each=each) as pool:
            await pool.prepared()
            answer = await ask_one(pool)
            assert (answer.outcome, answer.model) == (Outcome.TAGS, "calm")
        assert sum(len(e.attempts) for e in (*prude, calm)) == 2
        async with nothing_left(), pool_of(*prude) as pool:  # no other model: it stays refused, and is asked once
            assert (await ask_one(pool)).outcome is outcome
        assert sum(len(e.attempts) for e in (*prude, calm)) == 3
        calm.behave = always(EndpointFault.CONNECT)
        async with nothing_left(), pool_of(prude[0], calm) as pool:
            assert {a.outcome for a in answers(await ask_all(pool, range(8))).values()} == {outcome}

    run(main())


def test_an_unreadable_answer_is_asked_for_elsewhere_once() -> None:
    async def main() -> None:
        junk, good = FakeEndpoint("junk", behave=always(Outcome.UNPARSABLE)), FakeEndpoint("good")
        async with nothing_left(), pool_of(junk, good) as pool:
            assert {a.outcome for a in answers(await ask_all(pool, range(40))).values()} == {Outcome.TAGS}
        assert len(junk.attempts) + len(good.attempts) <= 80
        other = FakeEndpoint("other", behave=always(Outcome.UNPARSABLE))
        async with nothing_left(), pool_of(junk, other) as pool:
            before = len(junk.attempts)
            assert (await ask_one(pool)).outcome is Outcome.UNPARSABLE
        assert len(junk.attempts) - before + len(other.attempts) == 2

    run(main())


def test_a_second_opinion_that_cannot_be_had_leaves_the_first() -> None:
    """The other model dies while the question waits for it."""

    async def main() -> None:
        prude = FakeEndpoint("prude", model="prude", behave=always(Outcome.REFUSED))
        calm = FakeEndpoint("calm", model="calm", behave=hang)
        async with nothing_left(), pool_of(prude, calm, each={"calm": {"max_concurrent": 1}}) as pool:
            results = answers(await ask_all(pool, range(30)))
        assert len(results) == 30
        assert {a.outcome for a in results.values()} == {Outcome.REFUSED}

    run(main())


def test_first_answers_may_take_long_then_timeouts_are_learned() -> None:
    async def main() -> None:
        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(55.0 if len(endpoint.attempts) <= 4 else 0.2)
            return endpoint.good(attempt)

        slow_start = FakeEndpoint("slow-start", behave=behave)
        async with nothing_left(), pool_of(slow_start, each={"slow-start": {"timeout": 60}}) as pool:
            answers(await ask_all(pool, range(300)))
            assert not pool.statistics().endpoints[0].failures
        assert slow_start.attempts[0].total_timeout_s == 60
        assert slow_start.attempts[-1].first_byte_timeout_s == 30
        assert slow_start.attempts[-1].total_timeout_s == 60
        assert slow_start.attempts[0].connect_timeout_s > slow_start.attempts[-1].connect_timeout_s

    run(main())


def test_an_endpoint_that_ignores_its_timeout_is_cut_off() -> None:
    async def main() -> None:
        async def stuck(_endpoint: FakeEndpoint, _attempt: Attempt) -> Answer:
            await asyncio.sleep(1e9)
            raise AssertionError

        bad, good = FakeEndpoint("bad", behave=stuck), FakeEndpoint("good")
        async with nothing_left(), pool_of(bad, good) as pool:
            assert {a.outcome for a in answers(await ask_all(pool, range(20))).values()} == {Outcome.TAGS}
            assert pool.statistics().endpoints[0].failures == {"timeout": 4}
            assert bad.in_flight == 0

    run(main())


def test_the_budget_of_a_question_ends() -> None:
    """A server that times out on everything, but answers pings: each question ends, none goes round for ever."""

    async def main() -> None:
        bad = FakeEndpoint("bad", behave=hang)
        async with nothing_left(), pool_of(bad, outage_patience="12h") as pool:
            results = answers(await ask_all(pool, range(3)))
            assert {a.outcome for a in results.values()} == {Outcome.ENDPOINT_ERROR}
            assert all("attempt" in a.detail or "given up" in a.detail for a in results.values())

    run(main())


def test_an_endpoint_that_hangs_while_it_is_prepared_delays_nobody() -> None:
    async def main() -> None:
        hanging, good = FakeEndpoint("hanging", prepare_s=1e6), FakeEndpoint("good")
        async with nothing_left(), pool_of(hanging, good) as pool:
            answers(await ask_all(pool, range(40)))
            assert good.attempts[0].began_s == 0
            assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.01)
            assert pool.statistics().endpoints[0].state == "preparing"

    run(main())


def test_a_ticket_is_for_one_question_and_a_pool_for_one_run() -> None:
    async def main() -> None:
        pool = pool_of(FakeEndpoint("a"))
        with pytest.raises(RuntimeError, match="not open"):
            async with pool.ticket("scene 1"):
                pass
        async with pool:
            async with pool.ticket("scene 1") as ticket:
                await ticket.ask(question())
                with pytest.raises(RuntimeError, match="one question"):
                    await ticket.ask(question())
            with pytest.raises(RuntimeError, match="open already"):
                async with pool:
                    pass

    run(main())


def test_a_mistake_of_our_own_in_an_endpoint_parks_it_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broken, good = FakeEndpoint("broken"), FakeEndpoint("good")

        def blow_up(_t: float) -> None:
            raise KeyError("oops")

        broken.not_ready = blow_up
        async with nothing_left(), pool_of(broken, good) as pool:
            answers(await ask_all(pool, range(10)))
            assert "internal error" in pool.statistics().endpoints[0].reason
        with pytest.raises(OutageError, match="internal error"):
            async with pool_of(broken) as pool:
                await ask_one(pool)

    run(main())
    assert "oops" in caplog.text


def test_an_endpoint_that_takes_no_question_at_all_is_given_up() -> None:
    """A context too small for the very prompt: every frame would end as its own fault, and no one would say why."""

    async def main() -> None:
        small = FakeEndpoint(
            "small", behave=always(EndpointFault.CONTEXT, status=400, fix="Load it with more context.")
        )
        async with nothing_left(), pool_of(small) as pool:
            results = await ask_all(pool, range(50))
        assert sum(isinstance(r, Answer) for r in results.values()) <= 12
        for result in results.values():
            if isinstance(result, OutageError):
                assert "takes no question at all" in str(result)
                assert "Load it with more context." in str(result)
            else:
                assert result.outcome is Outcome.ENDPOINT_ERROR

    run(main())


def test_the_time_of_a_question_ends() -> None:
    """Each attempt takes long and fails otherwise than the one before: three times the longest timeout is enough."""

    async def main() -> None:
        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(59)
            raise endpoint.error(EndpointFault.SERVER, status=500 + len(endpoint.attempts))

        ends = [FakeEndpoint(n, behave=behave) for n in "abcde"]
        async with nothing_left(), pool_of(*ends, outage_patience="12h") as pool:
            answer = await ask_one(pool)
        assert answer.outcome is Outcome.ENDPOINT_ERROR
        assert "given up after 236 s" in answer.detail

    run(main())
