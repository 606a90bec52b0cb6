"""Endpoints that are edited while a run goes on: what can be taken over at once is, the rest waits for the next run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol, Self

from haven_vlm.errors import ConfigError, HavenError
from haven_vlm.settings import EndpointSettings

log = logging.getLogger(__name__)

EVERY_S = 30.0
"""Seconds between two looks at the settings: one small request to Stash, and one small file."""


class Revisable(Protocol):
    """A pool whose endpoints can be changed."""

    def revise(self, endpoints: Sequence[EndpointSettings]) -> list[str]:
        """Take over what can be; returns a sentence for each change."""
        ...


class EndpointWatch:
    """Looks at the settings from time to time; an async context manager.

    Args:
        read: the endpoints as the settings name them now. Raises `ConfigError` for a mistake, which is said once and
            changes nothing; other errors of ours are passed over, because the next look comes soon.
        pool: what is to follow them.
        present: the endpoints as they were at the start.
        sleep: injectable time.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Sequence[EndpointSettings]]],
        pool: Revisable,
        present: Sequence[EndpointSettings],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._read, self._pool, self._sleep = read, pool, sleep
        self._present = tuple(present)
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await self._sleep(EVERY_S)
            try:
                found = tuple(await self._read())
            except ConfigError as exc:
                if str(exc) != self._complaint:
                    log.warning("The settings were changed, and cannot be used; going on with those before. %s", exc)
                self._complaint = str(exc)
                continue
            except HavenError as exc:
                log.debug("the settings cannot be read just now: %s", exc)
                continue
            self._complaint = ""
            if found != self._present:
                self._present = found
                for sentence in self._pool.revise(found):
                    log.info("%s", sentence)
