"""When no endpoint can take work: for how long that is waited out, and what is said about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from haven_vlm.errors import LocalOutageError, OutageError
from haven_vlm.pool_member import Member
from haven_vlm.resilience import Clock
from haven_vlm.scheduling import Scheduler
from haven_vlm.stations import Needs
from haven_vlm_utility import duration_text, sentences

log = logging.getLogger(__name__)

TELL_AFTER_S = 5.0
"""An outage shorter than this is not worth a line in the log."""
A_MOMENT_S = 0.01
"""Alarms go off this much late, so that what they wait for is really past."""


@dataclass(slots=True)
class _Outage:
    """The state of one class of questions."""

    needs: Needs
    since: float | None = None
    told: bool = False
    declared: bool = False
    """The patience is used up: later work is not made to wait anew."""
    unsettled: int = 0
    """Questions under way, wherever they are."""


@dataclass(slots=True)
class OutageWatch:
    """Notices that nobody can take work, waits out the patience, then ends every wait with the reasons.

    An outage begins when the last endpoint that works well stops doing so while somebody wants an answer. It ends with
    an answer, or when an endpoint is ready that has not failed since: a server that flaps does not prolong
    the patience.
    """

    members: Sequence[Member]
    scheduler: Scheduler
    patience_s: float
    clock: Clock
    wake_in: Callable[[float], None]
    _outages: dict[Needs, _Outage] = field(default_factory=dict, init=False)
    """Widest class first."""

    @contextmanager
    def demand(self, needs: Needs) -> Iterator[None]:
        """A question is under way."""
        outages = self._of(needs)
        for outage in outages:
            outage.unsettled += 1
        try:
            yield
        finally:
            for outage in outages:
                outage.unsettled -= 1

    def look(self) -> None:
        """Something changed: begin, end or declare an outage."""
        for outage in list(self._outages.values()):
            if not self._demanded(outage):
                outage.since, outage.told = None, False  # patience is for those who wait
            elif (error := self._verdict(outage)) is not None:
                self.scheduler.fail(partial(type(error), str(error)), outage.needs)

    def verdict(self, needs: Needs) -> OutageError | None:
        """Why new work cannot be taken at all; None when it can, or when waiting is still worth it."""
        return next((error for o in self._of(needs) if (error := self._verdict(o)) is not None), None)

    def wanted(self) -> list[Needs]:
        """The classes of questions that somebody waits for."""
        return [outage.needs for outage in self._outages.values() if self._demanded(outage)]

    def waiting_for(self) -> str:
        """What is being waited for, in words; empty unless there is an outage."""
        for outage in self._outages.values():
            if outage.since is not None and self._demanded(outage):
                return self._story(outage)
        return ""

    # ----------------------------------------------------------------------------------------------------------

    def _of(self, needs: Needs) -> list[_Outage]:
        """Of all classes of one kind these questions belong to, the widest first."""
        return [self._outages.setdefault(n, _Outage(n)) for n in needs.wider() if n.kind is needs.kind]

    def _demanded(self, outage: _Outage) -> bool:
        return outage.unsettled > 0 or self.scheduler.in_demand(outage.needs)

    def _concerned(self, outage: _Outage) -> list[Member]:
        return [m for m in self.members if not m.never and m.may_take(outage.needs)]

    def _verdict(self, outage: _Outage) -> OutageError | None:
        members = self._concerned(outage)
        if any(m.spending.spent is not None and m.answering for m in members):
            return None  # its last answers are paid for: taken in before the end of the run cuts them off
        hopeful = [m for m in members if not m.hopeless]
        if not hopeful:
            return self._error(outage, "")
        now = self.clock()
        if any(m.usable and m.proven and m.takes(outage.needs) for m in hopeful):
            if outage.told:
                log.info("endpoints answer again after %s", duration_text(now - (outage.since or now)))
            outage.since, outage.told, outage.declared = None, False, False
            return None
        if outage.since is None:
            outage.since = now
            self.wake_in(min(TELL_AFTER_S, self.patience_s) + A_MOMENT_S)
        waited_s = now - outage.since
        if not outage.told and waited_s >= TELL_AFTER_S:
            outage.told = True
            log.warning("%s Waiting for up to %s.", self._story(outage), duration_text(self.patience_s))
            self.wake_in(max(0.0, self.patience_s - waited_s) + A_MOMENT_S)
        if any(m.sound and m.leases for m in hopeful):
            return None  # an answer is on its way
        futile = all(m.away_s > self.patience_s - waited_s for m in hopeful)
        if waited_s >= self.patience_s or futile or outage.declared:
            outage.declared = True
            waited = f" Waited for {duration_text(waited_s)}." if waited_s >= 1 else ""
            return self._error(outage, waited)
        return None

    def _error(self, outage: _Outage, waited: str) -> OutageError:
        kind = LocalOutageError if outage.needs.local_only else OutageError
        return kind(self._story(outage) + waited)

    def _story(self, outage: _Outage) -> str:
        members, needs = self._concerned(outage), outage.needs
        if not members and not any(m.serves(needs.kind) for m in self.members if not m.never):
            what = needs.kind or "questions"
            return f"No endpoint is there for {what}: all are reserved for others (`only_for`)."
        if not members:
            return "No endpoint on the local network can take what must stay local: all are remote."
        where = " on the local network" if needs.local_only else ""
        return f"No endpoint{where} can take questions. " + " ".join(self._reason(m) for m in members)

    @staticmethod
    def _reason(member: Member) -> str:
        condition = member.condition()
        reason = condition.reason or ("It is still getting ready." if condition.state == "preparing" else "")
        again = f" (next try in {duration_text(condition.until_s)})" if condition.until_s is not None else ""
        return f"“{member.name}”: {sentences(reason or 'It does not answer well')}{again}"
