"""Who gets how much: weights, slots, lanes, tickets, tiers, places."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from haven_vlm.errors import EndpointFault, LocalOutageError, OutageError
from haven_vlm.facts import Answer
from haven_vlm.resilience import FairShare
from tests.multiplexer.fakes import (
    PROMPT,
    Attempt,
    FakeEndpoint,
    Memory,
    always,
    answers,
    ask_all,
    nothing_left,
    pool_of,
    question,
)
from tests.virtual_time import run


def jittered(latency_s: float, seed: int = 0) -> Any:
    random = Random(seed)

    async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        await asyncio.sleep(latency_s * random.uniform(0.7, 1.3))
        return endpoint.good(attempt)

    return behave


async def keep_asking(pool: Any, askers: int, count: int) -> Counter[str]:
    """`askers` workers ask one question after another; how often did each endpoint answer?"""
    numbers = iter(range(count))
    by: Counter[str] = Counter()

    async def worker() -> None:
        for number in numbers:
            async with pool.ticket("scene 1") as ticket:
                by[(await ticket.ask(question(number))).endpoint] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(askers):
            tasks.create_task(worker())
    return by


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (5, 3, 2), (10, 1), (1, 1, 1, 7)])
def test_weights_are_exact_shares_while_endpoints_compete_for_questions(weights: tuple[int, ...]) -> None:
    async def main() -> Counter[str]:
        endpoints = [FakeEndpoint(f"e{i}", behave=jittered(0.2, i)) for i in range(len(weights))]
        each = {f"e{i}": {"weight": w, "max_concurrent": 16} for i, w in enumerate(weights)}
        async with nothing_left(), pool_of(*endpoints, each=each) as pool:
            return await keep_asking(pool, 12, 500)

    by = run(main())
    for i, weight in enumerate(weights):
        assert abs(by[f"e{i}"] / 500 - weight / sum(weights)) <= 0.01, by


@pytest.mark.parametrize("weights", [(4, 2), (6, 3, 1)])
def test_with_slots_like_weights_shares_are_exact_at_saturation(weights: tuple[int, ...]) -> None:
    async def main() -> Counter[str]:
        endpoints = [FakeEndpoint(f"e{i}", behave=jittered(0.2, i)) for i in range(len(weights))]
        each = {f"e{i}": {"weight": w, "max_concurrent": w} for i, w in enumerate(weights)}
        async with pool_of(*endpoints, each=each) as pool:
            return Counter(a.endpoint for a in answers(await ask_all(pool, range(2000))).values())

    by = run(main())
    for i, weight in enumerate(weights):
        assert abs(by[f"e{i}"] / 2000 - weight / sum(weights)) <= 0.01, by


def test_a_heavier_endpoint_that_is_full_gets_what_it_is_owed_when_it_has_room() -> None:
    """With six askers and weights 2 : 1, four of six must always be at the heavier one, whose slots are just four."""

    async def main() -> Counter[str]:
        endpoints = [FakeEndpoint(n, behave=jittered(0.2, i)) for i, n in enumerate("ab")]
        async with pool_of(*endpoints, each={"a": {"weight": 2}}) as pool:
            return await keep_asking(pool, 6, 900)

    assert run(main())["a"] / 900 == pytest.approx(2 / 3, abs=0.02)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6), st.integers(1, 300))
def test_shares_stay_close_to_exact(weights: list[float], turns: int) -> None:
    share = FairShare()
    named = {str(i): w for i, w in enumerate(weights)}
    got: Counter[str] = Counter()
    for turn in range(1, turns + 1):
        chosen = min(named, key=lambda n: share.place(n, named[n]))
        share.charge(chosen, named[chosen])
        got[chosen] += 1
        for name, weight in named.items():
            assert abs(got[name] - turn * weight / sum(weights)) <= (len(weights) + 1) / 2


def test_those_with_room_share_exactly_while_a_heavy_one_is_always_full() -> None:
    share = FairShare()
    weights = {"full": 10.0, "b": 3.0, "c": 1.0}
    got = Counter[str]()
    for turn in range(4000):
        chosen = min(("b", "c"), key=lambda n: share.place(n, weights[n]))
        share.charge(chosen, weights[chosen])
        got[chosen] += 1
        if turn % 400 == 0:
            share.charge("full", 10.0)
    assert got == {"b": 3000, "c": 1000}
    flood = 0
    while min(weights, key=lambda n: share.place(n, weights[n])) == "full":
        share.charge("full", 10.0)
        flood += 1
    assert flood <= 256 + 10, "what it is owed is bounded"


def test_no_slot_is_idle_while_questions_wait_whatever_the_weights() -> None:
    async def main() -> None:
        fast, slow = FakeEndpoint("fast", 0.1), FakeEndpoint("slow", 0.4)
        async with pool_of(fast, slow, each={"fast": {"weight": 1}, "slow": {"weight": 1000}}) as pool:
            asking = asyncio.create_task(ask_all(pool, range(400)))
            await asyncio.sleep(0.05)
            for _ in range(100):
                assert (fast.in_flight, slow.in_flight) == (4, 4)
                await asyncio.sleep(0.1)
                if len(fast.attempts) + len(slow.attempts) > 380:
                    break
            answers(await asking)

    run(main())


def test_the_end_of_a_run_is_not_given_to_a_slow_endpoint() -> None:
    async def main() -> float:
        fast = FakeEndpoint("fast", 0.1, answer_s=0.1)
        slow = FakeEndpoint("slow", 10.0, answer_s=10.0)
        loop = asyncio.get_running_loop()
        async with pool_of(fast, slow) as pool:
            await pool.prepared()
            answers(await ask_all(pool, range(40)))
            assert not slow.attempts
            took_s = loop.time()
            answers(await ask_all(pool, range(4000)))
            assert slow.attempts, "in the middle of a long run every slot is worth using"
            return took_s

    assert run(main()) == pytest.approx(1.0, abs=0.05)


def test_a_question_kept_for_a_faster_endpoint_is_not_kept_from_all_when_that_one_hangs() -> None:
    async def main() -> float:
        calm = True

        async def behave(endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
            await asyncio.sleep(0.1 if calm else 25.0)
            return endpoint.good(attempt)

        fast, slow = FakeEndpoint("fast", behave=behave), FakeEndpoint("slow", 1.0)
        async with pool_of(fast, slow, each={"fast": {"max_concurrent": 1}, "slow": {"max_concurrent": 1}}) as pool:
            answers(await ask_all(pool, range(40)))
            calm = False
            began = asyncio.get_running_loop().time()
            asking = asyncio.create_task(ask_all(pool, range(3)))
            results = await asking
            assert {a.endpoint for a in answers(results).values()} == {"fast", "slow"}
            return max(a.began_s for a in slow.attempts) - began

    assert run(main()) < 5


def test_decoded_frames_are_bounded_by_slots() -> None:
    async def main() -> None:
        slow = FakeEndpoint("slow", 5.0)
        held = 0
        most = 0
        async with pool_of(slow) as pool:

            async def one(number: int) -> None:
                nonlocal held, most
                async with pool.ticket("scene 1") as ticket:
                    held += 1
                    most = max(most, held)
                    await ticket.ask(question(number))
                    held -= 1

            async with asyncio.TaskGroup() as tasks:
                for number in range(100):
                    tasks.create_task(one(number))
        assert 4 < most <= 6  # four slots, and half as many again being decoded
        assert slow.most_in_flight == 4

    run(main())


def test_the_lane_that_began_first_is_finished_first() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        async with pool_of(FakeEndpoint("a"), each={"a": {"max_concurrent": 1}}) as pool:

            async def one(lane: str, number: int) -> None:
                async with pool.ticket(lane) as ticket:
                    await ticket.ask(question(number))
                    order.append(lane)

            async with asyncio.TaskGroup() as tasks:
                for number in range(30):
                    for lane in ("first", "second", "third"):
                        tasks.create_task(one(lane, number))
        return order

    order = run(main())
    ahead = [i for i, lane in enumerate(order) if lane == "first"]
    assert max(ahead) <= 33  # three tickets were out before the first lane could ask for its second
    assert max(i for i, lane in enumerate(order) if lane == "second") <= 63


def test_a_lane_that_waits_for_a_busy_place_does_not_hold_up_the_others() -> None:
    """The first lane may use the local endpoint only; the remote one must not be idle because of that."""

    async def main() -> None:
        home, away = FakeEndpoint("home", 1.0), FakeEndpoint("away", 0.1, is_remote=True)
        async with nothing_left(), pool_of(home, away, each={"away": {"allow_remote": True}}) as pool:
            first = asyncio.create_task(ask_all(pool, range(40), lane="private", local_only=True))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(ask_all(pool, range(100, 300), lane="open"))
            answers(await second)
            assert asyncio.get_running_loop().time() < 6, "the open lane waited for the private one"
            answers(await first)
        assert all(a.question.local_only is False for a in away.attempts)
        assert {a.question.jpegs for a in away.attempts}.isdisjoint({question(i).jpegs for i in range(40)})
        assert all(a.question.local_only for a in home.attempts if a.question.jpegs == question(0).jpegs)

    run(main())


def test_local_questions_never_leave_not_even_when_nothing_else_works() -> None:
    async def main() -> None:
        home = FakeEndpoint("home", behave=always(EndpointFault.CONNECT))
        home.not_ready = lambda t: home.error(EndpointFault.CONNECT) if t > 0.005 else None
        away = FakeEndpoint("away", is_remote=True)
        unknown = FakeEndpoint("unknown", is_remote=None)
        more = {"away": {"allow_remote": True}, "unknown": {"is_fallback": True}}
        async with nothing_left(), pool_of(home, away, unknown, each=more, outage_patience="30s") as pool:
            results = await ask_all(pool, range(10), local_only=True)
            assert all(isinstance(r, LocalOutageError) for r in results.values())
            assert not away.attempts
            assert not unknown.attempts
            answers(await ask_all(pool, range(10), lane="open"))  # the others go on
            assert away.attempts
            assert pool.statistics().left_network == 10

    run(main())


def test_all_stays_at_home_when_the_settings_say_so() -> None:
    async def main() -> None:
        home, away = FakeEndpoint("home"), FakeEndpoint("away", is_remote=True)
        async with pool_of(home, away, each={"away": {"allow_remote": True}}, allow_remote_media=False) as pool:
            answers(await ask_all(pool, range(20)))
        assert not away.attempts
        assert all(a.question.local_only for a in home.attempts)

    run(main())


def test_what_must_stay_local_cannot_be_asked_where_all_is_remote() -> None:
    async def main() -> None:
        away = FakeEndpoint("away", is_remote=True)
        async with nothing_left(), pool_of(away, each={"away": {"allow_remote": True}}) as pool:
            with pytest.raises(LocalOutageError, match="local network"):
                async with pool.ticket("scene 1", local_only=True):
                    pass
            answers(await ask_all(pool, range(3), lane="scene 2"))

    run(main())


@pytest.mark.parametrize("policy", ["when_down", "when_busy", "never"])
def test_fallback_policies_while_the_primary_works(policy: str) -> None:
    async def main() -> tuple[int, int]:
        main_one, spare = FakeEndpoint("main"), FakeEndpoint("spare")
        each = {"spare": {"is_fallback": True, "fallback_policy": policy}}
        async with nothing_left(), pool_of(main_one, spare, each=each) as pool:
            await keep_asking(pool, 3, 60)
            quiet = len(spare.attempts)
            answers(await ask_all(pool, range(200)))
            return quiet, len(spare.attempts)

    quiet, busy = run(main())
    assert quiet == 0
    assert (busy > 0) == (policy == "when_busy")


@pytest.mark.parametrize("policy", ["when_down", "when_busy", "never"])
def test_fallback_policies_while_the_primary_is_down(policy: str) -> None:
    async def main() -> None:
        primary = FakeEndpoint("main")
        primary.not_ready = lambda _: primary.error(EndpointFault.CONNECT)
        spare = FakeEndpoint("spare")
        each = {"spare": {"is_fallback": True, "fallback_policy": policy}}
        async with nothing_left(), pool_of(primary, spare, each=each, outage_patience="20s") as pool:
            results = await ask_all(pool, range(20))
            if policy == "never":
                assert all(isinstance(r, OutageError) for r in results.values())
                assert not spare.prepared_at
            else:
                answers(results)
                assert len(spare.attempts) == 20

    run(main())


def test_a_fallback_steps_back_when_the_primary_returns() -> None:
    async def main() -> None:
        primary, spare = FakeEndpoint("main"), FakeEndpoint("spare")
        primary.not_ready = lambda t: primary.error(EndpointFault.CONNECT) if t < 30 else None
        async with pool_of(primary, spare, each={"spare": {"is_fallback": True}}) as pool:
            answers(await ask_all(pool, range(1500)))
        last_help = max(a.began_s for a in spare.attempts)
        first_own = min(a.began_s for a in primary.attempts)
        assert 30 <= first_own <= 70
        assert last_help <= first_own + 1

    run(main())


def test_questions_with_a_known_beginning_prefer_the_server_that_has_it_cached() -> None:
    """Eight prompts in random order, two servers that keep four each: mostly, a server gets a prompt it knows."""

    async def main() -> tuple[float, float]:
        a, b = FakeEndpoint("a"), FakeEndpoint("b")
        random = Random(3)
        async with pool_of(a, b, each={n: {"max_concurrent": 8} for n in "ab"}) as pool:
            for number in range(600):
                async with pool.ticket("scene 1") as ticket:
                    await ticket.ask(question(number, prompt=replace(PROMPT, key=f"prompt {random.randrange(8)}")))
        known = 0
        for endpoint in (a, b):
            recent: list[str] = []
            for attempt in endpoint.attempts:
                key = attempt.question.prompt.key
                known += key in recent
                recent = [*[k for k in recent if k != key], key][-4:]
        return known / 600, len(a.attempts) / 600

    hits, share = run(main())
    assert hits > 0.7, "without affinity it is about a half"
    assert abs(share - 0.5) <= 0.01, "the shares stay exact"


def test_of_two_that_are_equally_due_the_faster_then_the_emptier_is_asked() -> None:
    async def first_asked(a: FakeEndpoint, b: FakeEndpoint, count: int, **each: Any) -> list[str]:
        async with pool_of(a, b, each=each) as pool:
            await pool.prepared()
            pool.expect("scene 1", 1000)  # in the middle of a run: nobody is kept from a slot for being slow
            asking = [asyncio.create_task(one(pool, n)) for n in range(count)]
            await asyncio.sleep(0.01)
            begun = [(e.attempts[-1].question.label, e.name) for e in (a, b) if e.attempts]
            await asyncio.gather(*asking)
        return [name for label, name in sorted(begun) if label.endswith(f" {count - 1}")]

    async def one(pool: Any, number: int) -> None:
        async with pool.ticket("scene 1") as ticket:
            await ticket.ask(question(number))

    async def main() -> None:
        slow, fast = FakeEndpoint("slow", answer_s=1.0), FakeEndpoint("fast", answer_s=0.9)
        assert await first_asked(slow, fast, 1) == ["fast"]
        few, many = FakeEndpoint("few"), FakeEndpoint("many")
        sizes = {"few": {"max_concurrent": 2}, "many": {"max_concurrent": 4}}
        assert await first_asked(few, many, 3, **sizes) == ["many"]

    run(main())


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 60), st.floats(0.05, 3.0))
def test_limits_are_never_exceeded(slots: int, lanes: int, count: int, latency_s: float) -> None:
    async def main() -> None:
        endpoint = FakeEndpoint("a", latency_s)
        async with nothing_left(), pool_of(endpoint, each={"a": {"max_concurrent": slots}}) as pool:
            async with asyncio.TaskGroup() as tasks:
                for lane in range(lanes):
                    tasks.create_task(ask_all(pool, range(count), lane=str(lane), told=lane % 2 == 0))
            assert len(endpoint.attempts) == lanes * count
            assert endpoint.most_in_flight == min(slots, lanes * count)

    run(main())


def test_speed_and_parallelism_are_remembered_per_address_and_model() -> None:
    async def main() -> None:
        memory = Memory()
        endpoint = FakeEndpoint("a", 0.5)
        async with pool_of(endpoint, each={"a": {"max_concurrent": "auto"}}, memory=memory) as pool:
            answers(await ask_all(pool, range(300)))
        (key,) = memory
        assert "http://a/v1" in key and "tiny-vlm" in key
        assert memory[key]["latency_s"] == pytest.approx(0.5)
        other = FakeEndpoint("a", 0.5)
        async with pool_of(other, each={"a": {"max_concurrent": "auto"}}, memory=memory) as pool:
            await pool.prepared()
            assert pool.statistics().endpoints[0].limit == memory[key]["limit"]

    run(main())


def test_what_the_connector_itself_held_back_did_not_leave() -> None:
    async def main() -> None:
        away = FakeEndpoint("away", is_remote=True, behave=always(EndpointFault.FORBIDDEN))
        home = FakeEndpoint("home")
        async with pool_of(away, home) as pool:
            answers(await ask_all(pool, range(20)))
            assert pool.statistics().left_network == 0

    run(main())


def test_a_frame_that_left_and_was_answered_at_home_in_the_end_counts_as_left() -> None:
    async def main() -> None:
        away = FakeEndpoint("away", is_remote=True, behave=always(EndpointFault.CONTEXT))
        home = FakeEndpoint("home", 1.0)
        async with pool_of(away, home, each={"away": {"allow_remote": True}}) as pool:
            results = answers(await ask_all(pool, range(30)))
            left = {n for n, answer in results.items() if answer.remote}
            assert left == {int(a.question.jpegs[0][8:]) for a in away.attempts} != set()
            assert pool.statistics().left_network == len(away.attempts)

    run(main())
