"""What a run is doing, as the page shows it: put together from progress and pool once a second, written in a thread."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from haven_vlm.live import LiveFolder
from haven_vlm.page_data import (
    MAX_CAUSES,
    MAX_CURRENT,
    MAX_ENDPOINTS,
    Cause,
    CurrentMedium,
    EndpointState,
    LookingAt,
    MediaCount,
    QuestionCount,
    RunState,
    Status,
)
from haven_vlm.pool_ports import EndpointStatistics, PoolStatistics, VisionEndpoint
from haven_vlm.ports import Settled
from haven_vlm.progress import Look, Progress

log = logging.getLogger(__name__)

EVERY_S = 1.0
FRAME_EVERY_S = 2.0
"""A new picture at most so often."""
_WINDOW_S = 30.0
"""Tokens per second are measured over this much of the recent past."""


class Rates:
    """Tokens per second of each endpoint, from the totals of snapshots; bounded by the window."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    def add(self, now: float, statistics: PoolStatistics) -> None:
        """Enter a snapshot taken at `now`, monotonic seconds."""
        self._seen.append((now, {e.name: (e.tokens_in, e.tokens_out) for e in statistics.endpoints}))
        while len(self._seen) > 2 and self._seen[0][0] < now - _WINDOW_S:
            self._seen.popleft()

    def of(self, name: str) -> tuple[float, float]:
        """Tokens in and out a second; zeros while unknown."""
        if len(self._seen) < 2:
            return 0.0, 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        if ended <= began or name not in last:
            return 0.0, 0.0
        before = first.get(name, (0, 0))
        return (last[name][0] - before[0]) / (ended - began), (last[name][1] - before[1]) / (ended - began)


class LiveStatus:
    """Keeps `status.json` up to date while a task goes on; an async context manager.

    Args:
        folder: where to write.
        mode, run_id, started: of the run; `started` in ISO 8601.
        progress, statistics, endpoints: what to tell about.
        clock: monotonic seconds; `now`: seconds since 1970; `sleep`: waits. A test passes its own.
    """

    def __init__(
        self,
        folder: LiveFolder,
        *,
        mode: str,
        run_id: int,
        started: str,
        progress: Progress,
        statistics: Callable[[], PoolStatistics],
        endpoints: Sequence[VisionEndpoint],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._statistics = statistics
        self._endpoints = endpoints
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._base = Status(run_id, mode, secrets.token_hex(4), started, 0, RunState.PREPARING)
        self._works_on_media = mode not in ("undo", "check_endpoints")
        self._rates = Rates()
        self._shown: Look | None = None
        self._shown_at = float("-inf")
        self._image: str | None = None
        self._end: tuple[RunState, str] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._write_once()
        self._task = asyncio.create_task(self._keep(), name="live status")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._end is None:
            self.ended(ok=False, message=str(error) if isinstance(error, Exception) else "Stopped.")
        assert self._end is not None
        state, message = self._end
        status = replace(self.snapshot(), state=state, message=message, looking_at=None, eta_seconds=None)
        if state is RunState.FINISHED:
            status = replace(status, progress=1.0)
        await asyncio.to_thread(self._folder.write_status, status)
        await asyncio.to_thread(self._folder.leave, status.token)

    def ended(self, *, ok: bool, message: str) -> None:
        """Say how the task ended, before leaving."""
        self._end = (RunState.FINISHED if ok else RunState.FAILED, message)

    async def _keep(self) -> None:
        while True:
            await self._sleep(EVERY_S)
            try:
                await self._write_once()
            except Exception as exc:
                log.debug("the page's status could not be written", exc_info=exc)

    async def _write_once(self) -> None:
        status = self.snapshot()
        look = self._progress.last_look
        fresh = look if look is not self._shown and self._clock() >= self._shown_at + FRAME_EVERY_S else None
        if fresh is not None:
            self._shown, self._shown_at = fresh, self._clock()

        def write() -> str | None:
            image = self._image
            if fresh is not None:
                image = self._folder.put_frame(status.token, fresh.jpeg) if fresh.jpeg else None
            looking = status.looking_at
            self._folder.write_status(replace(status, looking_at=looking and replace(looking, image=image)))
            return image

        self._image = await asyncio.to_thread(write)

    def snapshot(self) -> Status:
        """The status at this moment, without its picture."""
        pace, pool, tally = self._progress.pace(), self._statistics(), self._progress.tally
        self._rates.add(self._clock(), pool)
        total, done = self._progress.media_count
        state = RunState.PREPARING
        if pool.waiting_for:
            state = RunState.WAITING
        elif pace.done or done or self._progress.last_look or not self._works_on_media:
            state = RunState.RUNNING
        lanes = self._progress.lanes(MAX_CURRENT)
        return replace(
            self._base,
            updated=round(self._now() * 1000),
            state=state,
            message=pool.waiting_for,
            progress=pace.fraction,
            media=MediaCount(total, done, tuple(_current(n.name, n.title, n.done, n.planned) for n in lanes)),
            questions=QuestionCount(
                asked=tally[Settled.ASKED],
                planned=pace.planned,
                known=tally[Settled.KNOWN],
                inherited=tally[Settled.INHERITED],
                failed=tally[Settled.FAILED],
            ),
            rate_per_minute=pace.per_minute,
            eta_seconds=pace.remaining_s,
            endpoints=self._endpoint_states(pool),
            left_network=pool.left_network,
            looking_at=_looking(self._shown or self._progress.last_look),
            causes=tuple(Cause(reason, count) for reason, count in self._progress.causes(MAX_CAUSES)),
        )

    def _endpoint_states(self, pool: PoolStatistics) -> tuple[EndpointState, ...]:
        remote = {e.name: e.is_remote for e in self._endpoints}
        shown = pool.endpoints[:MAX_ENDPOINTS]
        total = sum(e.answered for e in pool.endpoints) or 1
        weights = sum(e.weight for e in pool.endpoints if e.answered) or 1.0
        return tuple(self._endpoint(e, total, weights, remote.get(e.name)) for e in shown)

    def _endpoint(self, e: EndpointStatistics, total: int, weights: float, remote: bool | None) -> EndpointState:
        tokens_in, tokens_out = self._rates.of(e.name)
        return EndpointState(
            name=e.name,
            model=e.model,
            state=e.state,
            until=e.until_s,
            reason=e.reason,
            in_flight=e.in_flight,
            limit=e.limit,
            done=e.answered,
            share=e.answered / total,
            weight_share=e.weight / weights if e.answered else 0.0,
            p50_ms=e.p50_s * 1000,
            p95_ms=e.p95_s * 1000,
            tokens_in_per_s=tokens_in,
            tokens_out_per_s=tokens_out,
            cached_share=e.tokens_cached / e.tokens_in if e.tokens_in else 0.0,
            failures=dict(e.failures),
            remote=remote,
        )


def _current(lane: str, title: str, done: int, planned: int) -> CurrentMedium:
    kind, _, medium_id = lane.partition(" ")
    return CurrentMedium(kind, medium_id, title, done, planned)


def _looking(look: Look | None) -> LookingAt | None:
    if look is None:
        return None
    kind, _, medium_id = look.lane.partition(" ")
    return LookingAt(kind, medium_id, look.title, look.at_ms / 1000, None)
