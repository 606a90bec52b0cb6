"""What the pool says of itself."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault
from haven_vlm.pool_statistics import table
from tests.multiplexer.fakes import FakeEndpoint, Memory, always, answers, ask_all, nothing_left, pool_of
from tests.virtual_time import run


def test_the_snapshot_adds_up_and_stays_as_it_is() -> None:
    async def main() -> None:
        home = FakeEndpoint("home", 0.2)
        away = FakeEndpoint("away", 0.2, model="other-vlm", is_remote=True)
        wrong = FakeEndpoint("wrong", behave=always(EndpointFault.AUTH, status=401, fix="Mend the key."))
        each: dict[str, dict[str, Any]] = {"home": {"weight": 3}, "away": {"allow_remote": True}}
        async with nothing_left(), pool_of(home, away, wrong, each=each) as pool:
            assert pool.models == frozenset({"tiny-vlm", "other-vlm"})
            before = pool.statistics()
            assert [e.state for e in before.endpoints] == ["unused"] * 3
            asking = asyncio.create_task(ask_all(pool, range(200)))
            await asyncio.sleep(1.05)
            middle = pool.statistics()
            assert {e.name: e.in_flight for e in middle.endpoints} == {"home": 4, "away": 4, "wrong": 0}
            assert middle.waiting >= 1, "a question is ready for the next free slot"
            results = answers(await asking)
            after = pool.statistics()
        assert len(results) == after.answered == 200
        assert after.asked == 200 + after.endpoints[2].failures["auth"]
        assert after.waiting == 0
        assert after.waiting_for == ""
        shown = {e.name: e for e in after.endpoints}
        assert shown["home"].answered + shown["away"].answered == 200
        assert shown["away"].left_network == after.left_network == len(away.attempts)
        assert shown["home"].left_network == 0
        assert shown["home"].tokens_in == 300 * shown["home"].answered
        assert shown["home"].tokens_in / shown["home"].busy_s == pytest.approx(300 * 4 / 0.2, rel=0.1)
        assert shown["home"].p50_s == pytest.approx(0.2)
        assert shown["wrong"].reason == "auth happened. Mend the key."
        with pytest.raises(FrozenInstanceError):
            after.waiting = 5  # type: ignore[misc]
        text = table(after)
        lines = text.splitlines()
        assert len(lines) == 4
        assert "parked; " in lines[3] and "× auth" in lines[3]
        assert f"{shown['home'].answered / 200:.1%}" in lines[1]
        assert "75.0%" in lines[1], "its weight, beside its share"

    run(main())


def test_prepared_tells_of_each_endpoint_once_it_was_tried() -> None:
    async def main() -> None:
        good, slow, dead = FakeEndpoint("good"), FakeEndpoint("slow", prepare_s=100), FakeEndpoint("dead", prepare_s=3)
        dead.not_ready = lambda _: dead.error(EndpointFault.CONNECT, fix="Start it.")
        spare, never = FakeEndpoint("spare"), FakeEndpoint("never")
        each: dict[str, dict[str, Any]] = {
            "spare": {"is_fallback": True},
            "never": {"is_fallback": True, "fallback_policy": "never"},
        }
        async with nothing_left(), pool_of(good, slow, dead, spare, never, each=each) as pool:
            shown = await pool.prepared(timeout_s=20)
            assert asyncio.get_running_loop().time() == 20
            assert [e.state for e in shown.endpoints] == ["ready", "preparing", "cooling down", "ready", "unused"]
        async with nothing_left(), pool_of(good, dead, each=each) as pool:
            began_s = asyncio.get_running_loop().time()
            await pool.prepared(timeout_s=20)
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(3)

    run(main())


@pytest.mark.parametrize("junk", [{"limit": "many"}, {"latency_s": None}, {"limit": -3, "latency_s": 1e30}, {}])
def test_a_damaged_memory_is_no_reason_to_fail(junk: dict[str, object]) -> None:
    async def main() -> None:
        memory = Memory({"speed of http://a/v1 tiny-vlm": junk})  # type: ignore[dict-item]
        endpoint = FakeEndpoint("a")
        async with nothing_left(), pool_of(endpoint, each={"a": {"max_concurrent": "auto"}}, memory=memory) as pool:
            answers(await ask_all(pool, range(30)))
        assert memory["speed of http://a/v1 tiny-vlm"]["limit"] >= 1

    run(main())
