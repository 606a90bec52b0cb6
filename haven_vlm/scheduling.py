"""Who may decode next, and which endpoint gets which question. No input or output; futures of the running loop only.

Two queues. *Tickets* bound the decoded frames: as many are out as the slots can soon use. *Ready* questions wait for a
slot. Both are served in the order in which their lanes began (a scene that was started is finished first), and
within a lane first come, first served. A slot stays free while work waits only at the end of a run, see
`Scheduler.assign`.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from haven_vlm.resilience import FairShare
from haven_vlm.stations import Job, Lease, Needs, Pass, Station, Tier, Withdrawn


@dataclass(eq=False, slots=True)
class _Lane:
    number: int
    waiting: dict[int, tuple[asyncio.Future[Pass], Needs]] = field(default_factory=dict)
    """Number of the ticket → its future, and where its question may go; in order."""
    granted: int = 0
    left: int | None = None
    """Tickets it will still ask for, waiting ones included, as far as it said so."""
    closed: bool = False

    def to_come(self) -> int:
        """Tickets that are still to be given. A lane that said nothing is taken to be in its middle."""
        if self.left is not None:
            return max(self.left, len(self.waiting))
        return len(self.waiting) if self.closed else max(len(self.waiting), self.granted)


class Scheduler:
    """Tickets, lanes and the ready queue over a fixed list of stations.

    `held` is called when a question is kept from a free slot: call `assign` again after so many seconds at the latest.
    Call `assign` and `admit` whenever something changed that could let more through; both are cheap when nothing can.
    """

    def __init__(self, stations: Sequence[Station], *, held: Callable[[float], None]) -> None:
        self._stations = stations
        self._held = held
        self._share = FairShare()
        self._lanes: dict[str, _Lane] = {}
        self._lane_numbers = itertools.count()
        self._ticket_numbers = itertools.count()
        self._ready: list[Job] = []
        self._passes: set[Pass] = set()
        self._out: Counter[Needs] = Counter()

    # --- tickets ----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Questions in the ready queue."""
        return len(self._ready)

    def in_demand(self, needs: Needs) -> bool:
        """Whether anybody of this class waits for a ticket or a slot."""
        if any(job.needs.within(needs) for job in self._ready):
            return True
        return any(n.within(needs) for lane in self._lanes.values() for _, n in lane.waiting.values())

    def bound(self, needs: Needs) -> int:
        """Tickets of this class that may be out at once: one per slot, half as many again that are being decoded."""
        slots = sum(s.limit for s in self._in_use(needs) if s.alive)
        return slots + max(2, slots // 2)

    async def ticket(self, lane_name: str, needs: Needs) -> Pass:
        """Wait for leave to decode one frame."""
        lane = self._open_lane(lane_name)
        number = next(self._ticket_numbers)
        future: asyncio.Future[Pass] = asyncio.get_running_loop().create_future()
        lane.waiting[number] = (future, needs)
        self.admit()
        try:
            return await future
        except BaseException:
            lane.waiting.pop(number, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())  # leave came at the same moment as the cancellation
            raise

    def give_back(self, leave: Pass) -> None:
        """The frame is no longer held."""
        if leave in self._passes:
            self._passes.discard(leave)
            self._out[leave.needs] -= 1
        self.admit()

    def expect(self, lane_name: str, count: int) -> None:
        """See `VisionPool.expect`."""
        lane = self._open_lane(lane_name)
        lane.left = max(0, count)

    def close_lane(self, lane_name: str) -> None:
        """See `VisionPool.close_lane`."""
        lane = self._lanes.get(lane_name)
        if lane is not None:
            lane.closed, lane.left = True, None
            self.admit()

    def _open_lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(next(self._lane_numbers))
        lane.closed = False
        return lane

    def admit(self) -> None:
        """Give leave to as many waiting lanes as the bound allows, the earliest lane first."""
        for name in [name for name, lane in self._lanes.items() if lane.closed and not lane.waiting]:
            del self._lanes[name]
        lanes = [lane for lane in self._lanes.values() if lane.waiting]
        if not lanes:
            return
        room: dict[Needs, int] = {}
        for lane in lanes:
            while lane.waiting:
                number, (future, needs) = next(iter(lane.waiting.items()))
                for each in needs.wider():
                    if each not in room:
                        room[each] = self.bound(each) - sum(n for out, n in self._out.items() if out.within(each))
                if any(room[each] <= 0 for each in needs.wider()):
                    break  # the slots it could use are spoken for; another lane may use others
                del lane.waiting[number]
                if future.done():
                    continue
                leave = Pass((lane.number, number), needs)
                for each in room:
                    room[each] -= needs.within(each)
                lane.granted += 1
                if lane.left is not None:
                    lane.left = max(0, lane.left - 1)
                self._passes.add(leave)
                self._out[needs] += 1
                future.set_result(leave)

    def pictures(self, needs: Needs) -> int:
        """See `VisionPool.pictures`."""
        stations = [s for s in self._in_use(needs) if s.alive and s.tier is Tier.PRIMARY]
        if not self._ready and any(s.free and s.most_pictures == 1 for s in stations):
            return 1
        return min((s.most_pictures for s in stations if s.most_pictures > 1), default=1)

    # --- questions --------------------------------------------------------------------------------------------

    async def slot(self, job: Job) -> Lease:
        """Wait for a slot that may take this question. The lease is the caller's to release."""
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        job.slot = future
        insort(self._ready, job, key=lambda j: j.order)
        self.assign()
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()  # the slot came at the same moment as the cancellation
            raise
        finally:
            if job in self._ready:
                self._ready.remove(job)
            job.slot = None

    def fail(self, error: Callable[[], Exception], needs: Needs) -> None:
        """End every wait of this class with an exception of its own each."""
        for job in list(self._ready):
            if job.slot is not None and not job.slot.done() and job.needs.within(needs):
                job.slot.set_exception(error())
        for lane in self._lanes.values():
            for future, waiting in lane.waiting.values():
                if not future.done() and waiting.within(needs):
                    future.set_exception(error())

    def candidates(self, job: Job) -> list[Station]:
        """Stations that may be sent this question now, busy ones included."""
        fit = [s for s in self.fitting(job) if s.usable]
        if any(s.free for s in fit if s.tier is Tier.PRIMARY):
            fit = [s for s in fit if s.tier is not Tier.WHEN_BUSY]
        if not job.failed_at:
            return fit
        living = [s for s in fit if s.sound and _soon(s)]
        if any(s.name != job.last for s in living):
            living = [s for s in living if s.name != job.last]
            fit = [s for s in fit if s.name != job.last]
        fewest = min((job.failed_at[s.name] for s in living), default=None)
        return [s for s in fit if fewest is None or job.failed_at[s.name] <= fewest]

    def fitting(self, job: Job) -> list[Station]:
        """Stations that this question may ever go to as things stand, whether they work at the moment or not."""
        stations = self._in_use(job.needs)
        if not job.picky:
            return stations
        return [
            s
            for s in stations
            if s.name not in job.banned
            and not (job.not_model and s.model == job.not_model)
            and job.pictures <= s.most_pictures
        ]

    def assign(self) -> None:
        """Give free slots to ready questions, in order.

        A slot stays free while questions wait only if they may not go there, or at the end of the run: when all that
        is left would be answered earlier by waiting for faster endpoints than by using this slot.
        """
        if not self._ready:
            return
        for job in [job for job in self._ready if job.picky and not self.candidates(job)]:
            if job.slot is not None and not job.slot.done() and not any(s.alive for s in self.fitting(job)):
                job.slot.set_exception(Withdrawn())
        left = self._left()
        held: set[Needs] = set()
        for job in list(self._ready):
            if not any(s.free for s in self._stations):
                return
            if job.slot is None or job.slot.done():
                self._ready.remove(job)
                continue
            plain = not job.picky and not job.failed_at
            if plain and job.needs in held:
                continue
            candidates = self.candidates(job)
            free = [s for s in candidates if s.free]
            chosen = self._choose(job, free, candidates, left)
            if chosen is not None:
                self._ready.remove(job)
                left -= 1
                self._share.charge(chosen.name, chosen.weight)
                job.slot.set_result(chosen.lease(job))
            elif free:
                soon = min((s.expected_s for s in candidates if s.expected_s), default=0.1)
                self._held(soon)
                if plain:
                    held.add(job.needs)
            elif job.failed_at and any(s.free for s in self._stations if job.failed_at[s.name]):
                self._held(PATIENCE_S)

    def second_slot(self, job: Job, asked: Station) -> Lease | None:
        """A slot for a second copy of a question in flight, at a local station, if nothing else is left to do."""
        if self._left():
            return None
        others = [s for s in self.candidates(job) if s.free and s.local and not s.metered and s is not asked]
        if not others:
            return None
        return min(others, key=lambda s: s.expected_s or 0.0).lease(job)

    def _left(self) -> int:
        """Questions that have no slot yet, as far as anybody knows."""
        return len(self._ready) + sum(p.to_ask for p in self._passes) + sum(n.to_come() for n in self._lanes.values())

    def _choose(self, job: Job, free: list[Station], candidates: list[Station], left: int) -> Station | None:
        worth = [s for s in free if not self._better_wait(s, candidates, left)]
        if len(worth) <= 1:
            return worth[0] if worth else None
        key = job.question.prompt.key

        def order(station: Station) -> tuple[float, float, float]:
            place = self._share.place(station.name, station.weight)
            place -= AFFINITY / station.weight if station.warm(key) else 0.0
            return (round(place, 9), station.expected_s or 0.0, -station.free / station.limit)

        return min(worth, key=order)

    @staticmethod
    def _better_wait(station: Station, candidates: list[Station], left: int) -> bool:
        """Whether the other stations would answer all `left` questions before this one would answer its first."""
        own_s = station.expected_s
        if own_s is None:
            return False
        faster = [s for s in candidates if s.expected_s is not None and s.expected_s <= MUCH_FASTER * own_s]
        return sum(_answers_within(LATENESS * own_s, s) for s in faster) >= left

    def _in_use(self, needs: Needs) -> list[Station]:
        """Stations that get such work now, as far as place, role and tier decide it."""
        allowed = [s for s in self._stations if s.takes(needs)]
        if any(s.alive for s in allowed if s.tier is not Tier.WHEN_DOWN):
            return [s for s in allowed if s.tier is not Tier.WHEN_DOWN]
        return allowed


AFFINITY = 2.0
"""So many questions an endpoint may get ahead of its share because it has the beginning of the prompt in its cache."""
PATIENCE_S = 2.0
"""So long a question waits for another endpoint than the one that failed it, before that one is as good as any."""


def _soon(station: Station) -> bool:
    """Whether a slot of this living station will probably be free in a moment."""
    if station.free:
        return True
    return min(station.busy_s(), default=0.0) <= max(PATIENCE_S, 2 * (station.expected_s or 0.0))


MUCH_FASTER = 0.8
"""Only for endpoints that take at most this part of the time is a free slot left unused: latencies scatter."""
LATENESS = 1.15
"""An answer is taken to come this much later than usual: one that is late at the very end costs more than it saves."""


def _answers_within(time_s: float, station: Station) -> int:
    """How many questions the station would probably answer within `time_s`, besides those it already works on."""
    each_s = station.expected_s
    if not each_s:
        return 0
    starts = [0.0] * station.free + list(station.busy_s())
    return sum(int((time_s - start) / each_s) for start in starts if time_s - start >= each_s)
