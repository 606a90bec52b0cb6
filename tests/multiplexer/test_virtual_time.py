"""The loop that the other tests of this folder rely on."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.virtual_time import Stalled, run


def test_a_week_passes_in_no_time_and_exactly() -> None:
    async def main() -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        times = []
        for seconds in (0.25, 3600.0, 5 * 86400.0):
            await asyncio.sleep(seconds)
            times.append(loop.time())
        return times, time.process_time()

    before_s = time.process_time()
    times, after_s = run(main())
    assert times == [0.25, 3600.25, 435600.25]
    assert after_s - before_s < 60


def test_timeouts_and_order_are_kept() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def one(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        async with asyncio.TaskGroup() as tasks:
            for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
                tasks.create_task(one(name, seconds))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await asyncio.sleep(10)
            order.append("timeout")
        return order

    assert run(main()) == ["a", "timeout", "b", "c"]


def test_waiting_for_ever_is_told() -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled):
        run(for_ever(), limit_s=None)
    with pytest.raises(TimeoutError):
        run(for_ever(), limit_s=5)
