"""Many endpoints as one pool: every question gets one honest outcome, every endpoint is exactly busy.

The parts: `scheduling` says where the next question goes, `settling` holds the one retry loop, `pool_member` looks
after one endpoint, `outage` after the case that none works. This module owns them and their tasks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Self

from haven_vlm.errors import EndpointError, EndpointFault, LedgerError, OutageError
from haven_vlm.facts import Answer, Kind, Question
from haven_vlm.outage import OutageWatch
from haven_vlm.pool_member import GETTING_READY_S, Member
from haven_vlm.pool_ports import EndpointMemory, PoolStatistics, SpendingBook, VisionEndpoint
from haven_vlm.pool_statistics import snapshot, table
from haven_vlm.resilience import Backoff, Clock
from haven_vlm.scheduling import Scheduler
from haven_vlm.settings import EndpointSettings, Settings
from haven_vlm.settling import Settler
from haven_vlm.stations import Job, Needs, Pass, Tier, Work

log = logging.getLogger(__name__)


class Multiplexer:
    """All endpoints of a run as one `VisionPool`. An async context manager; leaving it leaves nothing behind.

    Args:
        endpoints: the servers; matched to `settings.endpoints` by name.
        settings: of which `endpoints`, `outage_patience`, `allow_remote_media` and `hedge` matter here.
        memory: what earlier runs learned of speed and useful parallelism.
        book: what was used day by day; None: limits for a day count this run only.
        clock, sleep, random, now: time, chance and the calendar; a test passes its own.
    """

    def __init__(
        self,
        endpoints: Sequence[VisionEndpoint],
        settings: Settings,
        *,
        memory: EndpointMemory | None = None,
        book: SpendingBook | None = None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        random = random or Random()
        by_name = {e.name: e for e in settings.endpoints}
        self._clock = clock
        self._sleep = sleep
        self._stay_local = not settings.allow_remote_media
        self._members = [
            Member(
                endpoint,
                by_name.get(endpoint.name)
                or EndpointSettings.model_validate({"name": endpoint.name, "base_url": endpoint.base_url}),
                memory=memory,
                now=now,
                clock=clock,
                sleep=sleep,
                random=random,
                changed=self._changed,
                wake_in=self._wake_in,
            )
            for endpoint in endpoints
        ]
        self._scheduler = Scheduler(self._members, held=self._wake_once_in)
        self._outage = OutageWatch(
            self._members, self._scheduler, settings.outage_patience.seconds, clock, self._wake_in
        )
        self._settler = Settler(
            self._members,
            self._scheduler,
            blocked=lambda needs: self._outage.verdict(needs),
            hedge=settings.hedge,
            backoff=Backoff(0.25, 5.0, random),
            clock=clock,
            sleep=sleep,
        )
        self._book = book
        self._daily = [m for m in self._members if m.spending.is_daily and not m.never]
        self._booking: asyncio.Task[None] | None = None
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._alarms: set[asyncio.Task[None]] = set()
        self._nudge: asyncio.Task[None] | None = None
        self._watchers: set[asyncio.Future[None]] = set()
        self._answered = 0
        self._open = False

    # --- the pool ---------------------------------------------------------------------------------------------

    @property
    def models(self) -> frozenset[str] | None:
        """See `VisionPool.models`. Models that the settings leave open are known after `prepared`."""
        models = [m.model for m in self._members if not m.never]
        return frozenset(models) if all(models) else None

    @asynccontextmanager
    async def ticket(
        self, lane: str, *, local_only: bool = False, kind: Kind = Kind.SCENE, closely: bool = False
    ) -> AsyncIterator[_Leave]:
        """See `VisionPool.ticket`."""
        self._must_be_open()
        needs = self._needs(local_only, kind, closely=closely)
        self._start_keepers({needs})
        if (error := self._outage.verdict(needs)) is not None:
            raise error
        leave = await self._scheduler.ticket(lane, needs)
        try:
            yield _Leave(self, leave)
        finally:
            self._scheduler.give_back(leave)

    def pictures(self, *, local_only: bool = False, kind: Kind = Kind.SCENE) -> int:
        """See `VisionPool.pictures`."""
        return self._scheduler.pictures(self._needs(local_only, kind))

    def _needs(self, local_only: bool, kind: Kind, *, closely: bool = False) -> Needs:
        if kind is not Kind.SCENE:
            work = Work.IMAGES
        elif any(m.settings.only_for in ("first_look", "close_look") for m in self._members):
            work = Work.CLOSE_LOOK if closely else Work.FIRST_LOOK
        else:  # one class of questions, so that an outage is told once
            work = Work.SCENES
        return Needs(local_only or self._stay_local, work)

    def revise(self, endpoints: Sequence[EndpointSettings]) -> list[str]:
        """Follow endpoints that were edited in mid-run, by their names; returns a sentence for each change.

        Weights and `max_concurrent` hold at once, and one that is named no more gets no further question. An endpoint
        that is new, or has another address, model or key, takes part in the next run. At least one stays.
        """
        wanted = {e.name: e for e in endpoints}
        if not any(m.name in wanted for m in self._members):
            return ["The endpoints in the settings are all new: they take part in the next run."]
        told = []
        for member in self._members:
            new = wanted.pop(member.name, None)
            if member.is_out != (new is None) or (new is not None and new != member.named):
                told.append(member.revise(new))
        told += [f"“{name}” is new and takes part in the next run." for name in wanted]
        self._changed()
        return told

    def expect(self, lane: str, count: int) -> None:
        """See `VisionPool.expect`."""
        self._scheduler.expect(lane, count)

    def close_lane(self, lane: str) -> None:
        """See `VisionPool.close_lane`."""
        self._scheduler.close_lane(lane)
        self._changed()

    async def prepared(self, *, timeout_s: float = 15.0) -> PoolStatistics:
        """Get all endpoints ready that may be used; wait until each has succeeded or failed once, or `timeout_s`."""
        self._must_be_open()
        wanted = [m for m in self._members if not m.never and m.spending.spent is None]
        for member in wanted:
            self._keep(member)
        try:
            async with asyncio.timeout(timeout_s):
                while any(m.state in ("unused", "preparing") for m in wanted):
                    watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._watchers.add(watcher)
                    try:
                        await watcher
                    finally:
                        self._watchers.discard(watcher)
        except TimeoutError:
            log.debug("some endpoints are not ready after %.0f s", timeout_s)
        return self.statistics()

    def statistics(self) -> PoolStatistics:
        """See `VisionPool.statistics`."""
        return PoolStatistics(
            endpoints=tuple(map(snapshot, self._members)),
            waiting=self._scheduler.waiting,
            asked=sum(m.asked for m in self._members),
            answered=self._answered,
            left_network=sum(m.left_network for m in self._members),
            waiting_for=self._outage.waiting_for() if self._open else "",
        )

    async def answer(self, leave: Pass, question: Question) -> Answer:
        """Settle the question of a ticket; `Ticket.ask` is the way to it."""
        self._must_be_open()
        needs = leave.needs._replace(local_only=leave.needs.local_only or question.local_only)
        self._start_keepers({needs})
        with self._outage.demand(needs):
            answer = await self._settler.settle(Job(leave.order, question, needs))
        self._answered += 1
        return answer

    # --- life -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._open:
            raise RuntimeError("the pool is open already")
        self._open = True
        await self._enter_all()
        for member in self._members:
            member.spending.look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._scheduler.fail(lambda: OutageError("The run is over; the question was dropped."), Needs())
        self._settler.close(self._members)
        tasks = [*self._keepers.values(), *self._alarms, *([self._nudge] if self._nudge else [])]
        for task in tasks:
            task.cancel()
        # what is being entered must come to its end, or it would be entered twice
        await asyncio.gather(*tasks, *([self._booking] if self._booking else []), return_exceptions=True)
        await self._enter_all()
        for member in self._members:
            member.remember()
        if any(m.asked for m in self._members):
            log.info("endpoints of this run:\n%s", table(self.statistics()))

    def _must_be_open(self) -> None:
        if not self._open:
            raise RuntimeError("the pool is not open: use it within `async with`")

    def _changed(self) -> None:
        """Something changed that could let work through, or end the hope for it."""
        if not self._open:
            return
        for member in self._daily:
            member.spending.look()
        if self._book is not None and (self._booking is None or self._booking.done()):
            self._start_booking()
        self._outage.look()
        self._scheduler.assign()
        self._scheduler.admit()
        self._start_keepers(self._outage.wanted())
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _start_booking(self) -> None:
        """Enter what was used since the last time, if that matters; a run that is killed loses a moment of it."""
        if any(m.spending.is_unbooked for m in self._daily):
            self._booking = asyncio.create_task(self._enter_all(), name="entering what endpoints used")
            self._booking.add_done_callback(lambda _: self._changed())

    async def _enter_all(self) -> None:
        """Enter into the book what was used since the last time, and learn what other runs used."""
        if self._book is None:
            return
        try:
            for member in self._daily:
                await member.spending.enter(self._book)
                member.spending.look()  # another run may have used up what was left
        except LedgerError as error:
            log.warning("What endpoints used today cannot be kept; limits for a day count this run only. %s", error)
            self._book = None

    def _start_keepers(self, wanted: Collection[Needs]) -> None:
        """Get endpoints ready that are wanted now; fallbacks for the worst case only when it is there."""
        if len(self._keepers) == len(self._members):
            return
        for needs in wanted:
            fit = [m for m in self._members if not m.never and m.may_take(needs)]
            fit = [m for m in fit if m.spending.spent is None]
            regular = [m for m in fit if m.tier is not Tier.WHEN_DOWN]
            for member in regular:
                self._keep(member)
            if not any(m.alive for m in regular):
                for member in fit:
                    self._keep(member)

    def _keep(self, member: Member) -> None:
        if member.name in self._keepers:
            return
        member.getting_ready()
        self._wake_in(GETTING_READY_S + 0.01)
        task = asyncio.create_task(member.keep(), name=f"keeper of {member.name}")
        task.add_done_callback(lambda done: self._keeper_ended(member, done))
        self._keepers[member.name] = task

    def _keeper_ended(self, member: Member, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (cause := task.exception()) is None:
            return
        log.error("looking after endpoint “%s” failed", member.name, exc_info=cause)
        fault = EndpointError(
            f"internal error: {cause!r}",
            endpoint=member.name,
            fault=EndpointFault.OTHER,
            fix="Please report this with the log.",
        )
        member.park(fault)
        self._changed()

    def _wake_in(self, delay_s: float) -> None:
        """Look again after so many seconds."""
        if self._open:
            alarm = asyncio.create_task(self._alarm(delay_s))
            self._alarms.add(alarm)
            alarm.add_done_callback(self._alarms.discard)

    def _wake_once_in(self, delay_s: float) -> None:
        """As `_wake_in`, unless that is planned already."""
        if self._open and (self._nudge is None or self._nudge.done()):
            self._nudge = asyncio.create_task(self._alarm(delay_s))

    async def _alarm(self, delay_s: float) -> None:
        await self._sleep(delay_s)
        asyncio.get_running_loop().call_soon(self._changed)  # after this task is done, so that it may be set again


class _Leave:
    """`Ticket` of the port."""

    def __init__(self, pool: Multiplexer, leave: Pass) -> None:
        self._pool = pool
        self._leave = leave

    async def ask(self, question: Question) -> Answer:
        """See `Ticket.ask`."""
        if not self._leave.to_ask:
            raise RuntimeError("a ticket is for one question")
        self._leave.to_ask = False
        return await self._pool.answer(self._leave, question)
