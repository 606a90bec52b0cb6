"""Hundreds of random lives of random endpoints: whatever they do, every question gets one honest outcome."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from haven_vlm.errors import EndpointError, EndpointFault, OutageError
from haven_vlm.facts import Answer, Kind, Outcome
from haven_vlm.multiplexer import Multiplexer
from tests.multiplexer.fakes import Attempt, FakeEndpoint, ask_all, nothing_left, pool_of, question
from tests.virtual_time import run

QUIRKS = (
    "fine", "slow", "dead", "hangs", "flaps", "500", "429", "429 wait", "garbage", "refuses", "cuts", "loading", "400",
)  # fmt: skip


@dataclass
class Life:
    """What an endpoint goes through: (from when on, quirk), ascending; afterwards it is fine for ever."""

    phases: list[tuple[float, str]]
    endpoint: FakeEndpoint
    random: Random
    asked_for_rest: list[tuple[float, float]] = field(default_factory=list)
    """When it asked to be left alone, and until when."""
    poor: Counter[bytes] = field(default_factory=Counter)
    """Pictures to which it gave a poor answer, or which it said it cannot take."""

    def quirk(self, t: float) -> str:
        i = bisect_right([begin for begin, _ in self.phases], t) - 1
        return self.phases[i][1] if i >= 0 else "fine"

    def not_ready(self, t: float) -> EndpointError | None:
        quirk = self.quirk(t)
        if quirk in ("dead", "hangs"):
            return self.endpoint.error(EndpointFault.CONNECT)
        return self.endpoint.error(EndpointFault.LOADING) if quirk == "loading" else None

    async def behave(self, endpoint: FakeEndpoint, attempt: Attempt) -> Answer:
        quirk = self.quirk(attempt.began_s)
        usual_s = endpoint.latency_s * self.random.uniform(0.7, 1.3)
        if quirk == "dead":
            raise endpoint.error(EndpointFault.CONNECT)
        if quirk == "hangs":
            await asyncio.sleep(attempt.total_timeout_s)
            raise endpoint.error(EndpointFault.TIMEOUT)
        if quirk == "loading":
            raise endpoint.error(EndpointFault.LOADING, status=503)
        if quirk == "429 wait":
            wait_s = self.random.uniform(0.5, 30)
            self.asked_for_rest.append((attempt.began_s, attempt.began_s + wait_s))
            raise endpoint.error(EndpointFault.RATE_LIMITED, status=429, retry_after_s=wait_s)
        await asyncio.sleep(usual_s * (8 if quirk == "slow" else 1))
        if quirk == "429":
            raise endpoint.error(EndpointFault.RATE_LIMITED, status=429)
        if quirk == "500" or (quirk == "flaps" and self.random.random() < 0.5):
            raise endpoint.error(EndpointFault.SERVER, status=self.random.choice([500, 502, 503]))
        if quirk in ("400", "garbage", "refuses"):
            self.poor[attempt.question.jpegs[0]] += 1
        if quirk == "400":
            raise endpoint.error(EndpointFault.OTHER, status=400)
        if quirk == "cuts" and not attempt.boosted:
            return endpoint.poor(Outcome.TRUNCATED)
        if quirk == "garbage":
            return endpoint.poor(Outcome.UNPARSABLE)
        if quirk == "refuses":
            return endpoint.poor(Outcome.REFUSED)
        return endpoint.good(attempt)


def lives(seed: int, *, sound: int) -> list[Life]:
    """Two to five endpoints with a random past and future; the first `sound` of them are always fine."""
    random = Random(seed)
    result = []
    for i in range(random.randint(max(2, sound + 1), 5)):
        t, phases = 0.0, []
        for _ in range(0 if i < sound else random.randint(1, 6)):
            phases.append((t, random.choice(QUIRKS)))
            t += random.uniform(0.5, 40)
        endpoint = FakeEndpoint(
            f"e{i}", random.choice([0.1, 0.3, 1.0]), model=f"model {i}", prepare_s=random.choice([0, 0, 0.2, 3])
        )
        life = Life([*phases, (t, "fine")], endpoint, random)
        endpoint.behave, endpoint.not_ready = life.behave, life.not_ready
        result.append(life)
    return result


async def watch_for_idleness(pool: Multiplexer, sound: list[Life], count: int) -> float:
    """The longest time a sound endpoint had a free slot while a question was ready, before the end of the run."""
    longest, since = 0.0, None
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0.05)
        shown = pool.statistics()
        slots = sum(e.limit for e in shown.endpoints)
        if shown.answered + 2 * slots >= count:
            return longest
        idle = any(e.in_flight < e.limit for e, life in zip(shown.endpoints, sound, strict=False) if e.state == "ready")
        if idle and shown.waiting:
            since = loop.time() if since is None else since
            longest = max(longest, loop.time() - since)
        else:
            since = None


async def one_run(seed: int, *, sound: int, count: int = 150, auto: bool = False, mixed: bool = False) -> None:
    """`mixed`: with roles, limits, remote endpoints, work that must stay local, second copies and slow readers."""
    everybody = lives(seed, sound=sound)
    random = Random(-seed)
    each: dict[str, dict[str, Any]] = {
        life.endpoint.name: {
            "max_concurrent": "auto" if auto else random.randint(1, 5),
            "weight": random.choice([1, 1, 5]),
            "is_fallback": i >= max(1, sound) and random.random() < 0.2,
            "fallback_policy": random.choice(["when_down", "when_busy"]),
        }
        for i, life in enumerate(everybody)
    }
    endpoints = [life.endpoint for life in everybody]
    kinds, local, hedge = [Kind.SCENE] * 3, [False] * 3, False
    if mixed:
        kinds = random.choices([Kind.SCENE, Kind.IMAGE], k=3)
        local, hedge = [random.random() < 0.4 for _ in range(3)], random.random() < 0.5
        for i, endpoint in enumerate(endpoints):
            endpoint.reading_s = random.choice([0.0, 0.01, 0.2])
            if i >= sound:
                endpoint.is_remote = random.random() < 0.4
                each[endpoint.name] |= random.choice(
                    [{}, {"max_requests": 20}, {"max_tokens": 3000}, {"only_for": "images"}, {"only_for": "scenes"}]
                )
    async with nothing_left(), pool_of(*endpoints, each=each, seed=seed, hedge=hedge) as pool:
        watching = asyncio.create_task(watch_for_idleness(pool, everybody[:sound], count))
        try:
            lanes = await asyncio.gather(
                *(
                    ask_all(
                        pool,
                        range(i * count // 3, (i + 1) * count // 3),
                        lane=str(i),
                        decode_s=i * 0.02,
                        kind=kinds[i],
                        local_only=local[i],
                    )
                    for i in range(3)
                )
            )
            results = {n: r for lane in lanes for n, r in lane.items()}
            if not watching.done():
                watching.cancel()
            elif sound:
                assert watching.result() <= 2.6, "a sound endpoint was idle while a question was ready"
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        shown = pool.statistics()

    assert sorted(results) == list(range(count)), "a question was lost"
    for number, result in results.items():
        if isinstance(result, Answer):
            if result.outcome.analysed:
                assert result.raw == f"picture {number}", "an answer to another question"
            else:
                assert result.detail, "an outcome without a reason"
                assert not result.tags
            if sound and result.outcome is not Outcome.TAGS:
                poor = sum(bool(life.poor[question(number).jpegs[0]]) for life in everybody)
                assert poor >= 2, f"given up after one opinion: {result}"
        else:
            assert isinstance(result, OutageError)
            assert not sound
    assert shown.waiting == 0
    for e, endpoint in zip(shown.endpoints, endpoints, strict=True):
        assert (e.in_flight, endpoint.in_flight) == (0, 0), "a slot leaked"
        limit = each[endpoint.name]["max_concurrent"]
        assert limit == "auto" or endpoint.most_in_flight <= int(str(limit))
    asked = sum(len(e.attempts) for e in endpoints)
    assert shown.asked == asked or (hedge and shown.asked > asked), "a second copy may be dropped before it leaves"
    for endpoint in endpoints:
        rules = each[endpoint.name]
        numbers = [int(a.question.jpegs[0].split()[1]) for a in endpoint.attempts]
        assert not (endpoint.is_remote and any(a.question.local_only for a in endpoint.attempts)), "it left the house"
        assert len(numbers) <= rules.get("max_requests", len(numbers)), "more than it may be asked"
        assert endpoint.used.tokens_in + endpoint.used.tokens_out <= rules.get("max_tokens", 10**9)
        if only := rules.get("only_for"):
            assert {kinds[next(i for i in range(3) if n < (i + 1) * count // 3)] for n in numbers} <= {
                Kind.IMAGE if only == "images" else Kind.SCENE
            }
    for life in everybody:
        for said_s, until_s in life.asked_for_rest:
            assert not [a for a in life.endpoint.attempts if said_s < a.began_s < until_s - 1e-6], "came too early"


@pytest.mark.parametrize("seed", range(150))
def test_with_one_sound_endpoint_every_question_is_answered(seed: int) -> None:
    run(one_run(seed, sound=1))


@pytest.mark.parametrize("seed", range(1000, 1100))
def test_without_a_sound_endpoint_nothing_is_lost_or_invented(seed: int) -> None:
    run(one_run(seed, sound=0))


@pytest.mark.parametrize("seed", range(2000, 2050))
def test_the_same_while_concurrency_is_being_learned(seed: int) -> None:
    run(one_run(seed, sound=seed % 2, auto=True))


@pytest.mark.parametrize("seed", range(3000, 3100))
def test_with_roles_limits_places_second_copies_and_slow_readers(seed: int) -> None:
    run(one_run(seed, sound=1 if seed % 3 else 0, mixed=True))


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(0, 2), st.integers(3, 90), st.booleans(), st.booleans())
def test_any_schedule(seed: int, sound: int, count: int, auto: bool, mixed: bool) -> None:
    run(one_run(seed, sound=sound, count=count, auto=auto, mixed=mixed))
