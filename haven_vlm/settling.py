"""The one retry loop of the project: from a question to its one honest outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from haven_vlm.errors import EndpointError, EndpointFault, OutageError
from haven_vlm.facts import Answer, Outcome
from haven_vlm.pool_member import Member, MemberLease
from haven_vlm.resilience import POLICY, Backoff, Clock, Policy, chance
from haven_vlm.scheduling import Scheduler
from haven_vlm.stations import Job, Lease, Needs, Withdrawn
from haven_vlm_utility import count_text

MOST_ATTEMPTS = 6
"""Attempts that may be held against a question before it is given up."""
MOST_BOUNCES = 100
"""Attempts that found an endpoint away, busy or loading: not the question's fault, but not for ever either."""
DEADLINE_IN_TIMEOUTS = 3.0
"""A question may spend so many times the longest timeout in attempts; waiting for slots and outages does not count."""
BY_ACCIDENT = 0.01
"""Below this chance, the same failure again and again is the question's own."""
GRACE_S = 5.0
"""An endpoint that overruns its own timeout by so much is cut off."""
BAD_GATEWAY = frozenset({502, 503, 504, 529})
"""Statuses of a server that is not itself at the moment: never the question's fault."""
LATE = 1.05
"""A second copy is worth it this much after nearly all answers came, not while one of them is being read."""
TURNS_TO_LEAVE = 2
"""Turns of the event loop from a slot to the request on the wire: one for the question's task, one for the writer's."""
HOPELESS_THERE = frozenset({EndpointFault.PICTURE, EndpointFault.CONTEXT, EndpointFault.FIELD})
"""Asked again at the same endpoint, the question would fail the same way."""


class _Failure(NamedTuple):
    error: EndpointError
    ratio: float
    """Chance of a failure at that endpoint, as it was before this one."""


@dataclass(slots=True)
class _Course:
    """What happened to one question so far."""

    attempts: int = 0
    bounces: int = 0
    spent_s: float = 0.0
    boosted: bool = False
    second_opinion: bool = False
    timed_out: bool = False
    poor: Answer | None = None
    """An answer that is not an analysis, kept in case nothing better comes."""
    failures: list[_Failure] = field(default_factory=list)

    @property
    def has_left(self) -> bool:
        """A picture went to a remote address in an attempt that failed, or that was not the last."""
        return any(f.error.left_network for f in self.failures) or (self.poor is not None and self.poor.remote)

    def alike(self, error: EndpointError) -> list[_Failure]:
        """Failures so far that are the same as this one, itself included."""
        return [f for f in self.failures if (f.error.fault, f.error.status) == (error.fault, error.status)]

    def given_up(self, why: str) -> Answer:
        """The outcome when there is no answer."""
        told: dict[str, str] = {}
        for failure in self.failures:
            told[failure.error.endpoint] = str(failure.error)
        story = "; ".join(f"“{name}”: {message}" for name, message in told.items())
        last = self.failures[-1].error.endpoint if self.failures else ""
        return Answer(Outcome.ENDPOINT_ERROR, endpoint=last, detail=f"{why}: {story}" if story else why)


class Settler:
    """Takes questions through as many attempts as they need and deserve.

    `blocked` says why no question can be taken at all, if that is so.
    """

    def __init__(
        self,
        members: Sequence[Member],
        scheduler: Scheduler,
        *,
        blocked: Callable[[Needs], OutageError | None],
        hedge: bool,
        backoff: Backoff,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._blocked = blocked
        self._hedge = hedge
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._deadline_s = DEADLINE_IN_TIMEOUTS * max((m.settings.timeout for m in members), default=0.0)
        self._closed = False

    def close(self, members: Sequence[Member]) -> None:
        """Cut off what is still in flight; whoever waits for it gets an `OutageError`."""
        self._closed = True
        for member in members:
            for lease in member.leases:
                if lease.deadline is not None:
                    lease.deadline.reschedule(asyncio.get_running_loop().time())

    async def settle(self, job: Job) -> Answer:
        """Return what became of the question. Raises `OutageError`."""
        course = _Course()
        final: Answer | None = None
        while final is None:
            try:
                if (error := self._blocked(job.needs)) is not None:
                    raise error
                lease = await self._scheduler.slot(job)
            except Withdrawn:
                final = course.poor or course.given_up("no other endpoint can take it")
            except OutageError:
                if course.poor is None:
                    raise
                final = course.poor
            else:
                final = await self._turn(lease, job, course)
        if not final.remote and course.has_left:
            final = replace(final, remote=True, each=tuple(replace(part, remote=True) for part in final.each))
        return final

    async def _turn(self, lease: Lease, job: Job, course: _Course) -> Answer | None:
        """One attempt (or a hedged pair); the outcome if that settles it."""
        assert isinstance(lease, MemberLease)
        try:
            if self._hedge:
                lease, result = await self._race(lease, job, course)
            else:
                result = await self._attempt(lease, job, course)
            if isinstance(result, Answer):
                lease.member.succeeded(lease, result)
                return self._answered(lease.member, result, job, course)
            final = self._failed(lease, result, job, course)
        finally:
            lease.release()
        if final is None and POLICY[result.fault] in (Policy.ENDPOINT, Policy.QUESTION):
            failed = lease.member
            if not any(s.sound for s in self._scheduler.candidates(job) if s is not failed):
                await self._sleep(self._backoff.delay_s(course.attempts + course.bounces - 1))
        return final

    async def _attempt(self, lease: MemberLease, job: Job, course: _Course) -> Answer | EndpointError:
        member = lease.member
        patient = course.timed_out or course.boosted or job.pictures > 1
        total_s = member.timeouts.total_s(patient=patient)
        question = job.question
        if job.needs.local_only and not question.local_only:
            question = replace(question, local_only=True)  # the transport checks it once more, where the bytes leave
        try:
            async with asyncio.timeout(total_s + GRACE_S) as lease.deadline:
                lease.sent = True
                return await member.endpoint.ask(
                    question,
                    connect_timeout_s=member.timeouts.connect_s,
                    total_timeout_s=total_s,
                    first_byte_timeout_s=member.timeouts.first_byte_s(patient=patient),
                    boosted=course.boosted,
                    served=lambda: self._served(lease),
                )
        except EndpointError as error:
            return error
        except TimeoutError:
            if self._closed:
                raise OutageError("The run is over; the question was dropped.") from None
            return EndpointError(f"no answer within {total_s:.0f} s", endpoint=member.name, fault=EndpointFault.TIMEOUT)
        finally:
            lease.deadline = None
            course.spent_s += self._clock() - lease.began_at

    async def _served(self, lease: MemberLease) -> None:
        """Let the next question take the slot, and leave, before this one's answer is read."""
        if lease.member.served(lease):
            self._scheduler.assign()
            for _ in range(TURNS_TO_LEAVE):
                await asyncio.sleep(0)

    # --- a second copy at the end of a run --------------------------------------------------------------------

    async def _race(self, lease: MemberLease, job: Job, course: _Course) -> tuple[MemberLease, Answer | EndpointError]:
        """As `_attempt`; when it takes long and nothing else is left to do, a second endpoint is asked too.

        Returns the lease that counts, still held; any other one is released.
        """
        runs = {asyncio.ensure_future(self._attempt(lease, job, course)): lease}
        try:
            while True:
                step_s = max(0.05, LATE * lease.member.latencies.percentile(0.95)) if len(runs) == 1 else None
                done, _ = await asyncio.wait(runs, timeout=step_s, return_when=asyncio.FIRST_COMPLETED)
                for run in done:
                    result = run.result()
                    if isinstance(result, Answer) or len(runs) == 1:
                        return runs.pop(run), result
                    failed = runs.pop(run)
                    failed.member.failed(failed, result)
                    failed.release()
                if done or list(runs.values()) != [lease] or lease.ended_at is not None:
                    continue
                if (other := self._scheduler.second_slot(job, lease.member)) is not None:
                    assert isinstance(other, MemberLease)
                    runs[asyncio.ensure_future(self._attempt(other, job, course))] = other
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            for loser in runs.values():
                loser.release()

    # --- what follows from an attempt -------------------------------------------------------------------------

    def _answered(self, member: Member, answer: Answer, job: Job, course: _Course) -> Answer | None:
        if answer.outcome is Outcome.TRUNCATED and not course.boosted:
            course.boosted, course.poor, job.last = True, answer, ""
            return None
        if job.pictures > 1:
            return answer  # its pictures will be asked about one by one, and each then gets its second opinion
        if answer.outcome.analysed or course.second_opinion:
            return answer if answer.outcome.analysed else course.poor or answer
        if answer.outcome not in (Outcome.REFUSED, Outcome.FILTERED, Outcome.UNPARSABLE):
            return answer
        job.banned.add(member.name)
        if answer.outcome is not Outcome.UNPARSABLE:
            job.not_model = member.model  # the same model would refuse again
        if not any(s.alive for s in self._scheduler.fitting(job)):
            return answer
        course.second_opinion, course.poor, job.last = True, answer, member.name
        return None

    def _failed(self, lease: MemberLease, error: EndpointError, job: Job, course: _Course) -> Answer | None:
        member = lease.member
        course.failures.append(_Failure(error, member.breaker.failure_ratio()))
        member.failed(lease, error)
        policy = POLICY[error.fault]
        if policy in (Policy.PARK, Policy.REST, Policy.WAIT) or error.fault is EndpointFault.CONNECT:
            course.bounces += 1
        else:
            course.attempts += 1
        job.last = member.name
        job.failed_at[member.name] += 1
        course.timed_out |= error.fault is EndpointFault.TIMEOUT
        if course.second_opinion and not self._others(job, member):
            return course.poor
        if job.pictures > 1 and policy is Policy.QUESTION:
            return course.given_up("so many pictures at once are not taken")
        if self._is_poison(error, policy, course):
            if policy is Policy.ENDPOINT:
                member.breaker.forgive()
            return course.poor or course.given_up("the same failure each time, so it is this picture or question")
        if policy is Policy.QUESTION and (error.fault in HOPELESS_THERE or self._others(job, member)):
            job.banned.add(member.name)
        if course.attempts >= MOST_ATTEMPTS or course.bounces >= MOST_BOUNCES:
            return course.poor or course.given_up(f"given up after {count_text(len(course.failures), 'attempt')}")
        if course.spent_s >= self._deadline_s:
            return course.poor or course.given_up(f"given up after {course.spent_s:.0f} s")
        return None

    def _others(self, job: Job, member: Member) -> bool:
        return any(s.alive for s in self._scheduler.fitting(job) if s is not member)

    @staticmethod
    def _is_poison(error: EndpointError, policy: Policy, course: _Course) -> bool:
        """Whether the question itself fails, the same way wherever it is asked."""
        alike = course.alike(error)
        if len(alike) < 2:
            return False
        if policy is Policy.QUESTION:
            return True
        if error.fault is not EndpointFault.SERVER or error.status in BAD_GATEWAY:
            return False
        return chance(f.ratio for f in alike) < BY_ACCIDENT
