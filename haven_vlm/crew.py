"""A few threads for blocking work on files. One that hangs in a dead network drive is given up, not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from haven_vlm.errors import MediaUnreachable
from haven_vlm.own_thread import OwnThread

STALL_S = 120.0
"""Seconds after which work counts as hanging; the slowest sane picture takes some twenty."""
MOST_LOST = 8
"""Threads given up after which no more work is taken on: they hang somewhere in the system, each with its file."""
CLOSE_S = 5.0

T = TypeVar("T")


class Crew:
    """So many threads, each with one piece of work at a time.

    Args:
        size: how many.
        name: of the threads.
        stall_s: see `STALL_S`.
    """

    def __init__(self, size: int, name: str, *, stall_s: float = STALL_S) -> None:
        self._name = name
        self._stall_s = stall_s
        self._idle: asyncio.LifoQueue[OwnThread] = asyncio.LifoQueue()
        self._lost = 0
        self._size = size
        for _ in range(size):
            self._idle.put_nowait(OwnThread(name))

    async def run(self, work: Callable[[], T]) -> T:
        """Do a piece of work; raises what it raises.

        Raises:
            MediaUnreachable: it hangs, or so much hangs that nothing more is tried.
        """
        thread = await self._idle.get()
        if self._lost >= MOST_LOST:
            self._idle.put_nowait(thread)
            raise MediaUnreachable(f"the drive or the network hangs ({self._lost} files never came)")
        future: Future[T] = thread.submit(work)
        loop = asyncio.get_running_loop()
        lost = False

        def back(_: Future[T]) -> None:
            if lost:
                thread.stop()  # it came to after all; somebody else has its place
            else:
                self._idle.put_nowait(thread)

        waiting = asyncio.wrap_future(future)
        # also when whoever waits is cancelled: the thread is free only when its work is done
        future.add_done_callback(lambda done: _soon(loop, back, done))
        try:
            async with asyncio.timeout(self._stall_s):
                return await asyncio.shield(waiting)
        except TimeoutError:
            if waiting.done():
                return waiting.result()
            lost = True
            self._lost += 1
            self._idle.put_nowait(OwnThread(self._name))
            raise MediaUnreachable(f"no data for {self._stall_s:g} seconds; the drive or the network hangs") from None
        finally:
            if not waiting.done():
                waiting.add_done_callback(_forget)

    async def aclose(self) -> None:
        """Wait a moment for the threads to finish what they do, and end them; what hangs is left behind."""
        try:
            async with asyncio.timeout(CLOSE_S):
                for _ in range(self._size):
                    thread = await self._idle.get()
                    await asyncio.wrap_future(thread.submit(lambda: None))
                    thread.stop()
        except TimeoutError:
            return


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[Future[T]], None], done: Future[T]) -> None:
    try:
        loop.call_soon_threadsafe(call, done)
    except RuntimeError:
        return  # the loop is gone, and the thread will end with the process


def _forget(waiting: asyncio.Future[T]) -> None:
    """Nobody waits for it any more: take note of its error, so that asyncio does not complain."""
    if not waiting.cancelled():
        waiting.exception()
