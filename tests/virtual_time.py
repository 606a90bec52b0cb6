"""An event loop whose time jumps ahead whenever nothing is left to do: hours of waiting pass in no time, exactly.

    result = run(main())          # `asyncio.sleep`, timeouts and `loop.time()` all live in virtual seconds

No sockets' timing, no threads: what waits for the world outside would wait for ever here, and is reported as that.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Stalled(AssertionError):
    """Nothing is scheduled and nothing can happen any more, and the program still waits."""


class _Selector(selectors.BaseSelector):
    """Asks the real selector without waiting, and moves the clock instead of waiting."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise Stalled("every task waits for something that will never happen")
        self.now += max(0.0, timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and moves only while every task waits."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Coroutine[Any, Any, T], *, limit_s: float | None = 7 * 86400.0) -> T:
    """Run `main` to its end in virtual time, for `limit_s` virtual seconds at most.

    Raises:
        Stalled: it waits for something that will never happen.
        TimeoutError: it takes longer than `limit_s`.
    """

    waiting: list[asyncio.Task[Any] | None] = []

    async def bounded() -> T:
        waiting.append(asyncio.current_task())
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        try:
            return runner.run(bounded())
        except Stalled:
            for task in filter(None, waiting):  # told to end, or it would count as one that was forgotten
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    runner.get_loop().run_until_complete(task)
            raise
