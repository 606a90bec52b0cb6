"""One thread for one thing that is not thread-safe, driven from the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class OwnThread:
    """One thread for one library that is not thread-safe; first come, first served.

    A daemon: a request that hangs must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as exc:  # noqa: BLE001 - whoever waits gets it
                future.set_exception(exc)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def stop(self) -> None:
        """End after the work that was submitted so far."""
        self._jobs.put(None)

    async def aclose(self) -> None:
        """End, and wait until everything is done that was submitted so far."""
        rest = asyncio.wrap_future(self.submit(lambda: None))
        self.stop()
        await asyncio.wait([rest])

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job
