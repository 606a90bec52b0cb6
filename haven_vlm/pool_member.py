"""One endpoint in the pool: how it is doing, what it may get, and the task that looks after it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from random import Random
from typing import Literal, NamedTuple

from haven_vlm.concurrency import Concurrency
from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.facts import Answer, Outcome
from haven_vlm.pool_ports import EndpointMemory, VisionEndpoint
from haven_vlm.resilience import POLICY, Backoff, Breaker, BreakerState, Clock, Latencies, Policy, Rest, Timeouts
from haven_vlm.settings import EndpointSettings
from haven_vlm.spending import Spending
from haven_vlm.stations import SERVED, Job, Needs, Tier, Work
from haven_vlm_utility import sentences

log = logging.getLogger(__name__)

PING_TIMEOUT_S = 10.0
SHORT_REST_S = 5.0
"""An endpoint that rests no longer than this still counts as alive."""
GETTING_READY_S = 15.0
"""For so long a primary endpoint that gets ready keeps fallbacks from being used."""
MOST_REFUSED = 8
"""An endpoint that never answered is given up after so many questions that it called impossible."""
WARM_PROMPTS = 4
"""So many different prompts a server is taken to keep in its cache."""

State = Literal["unused", "preparing", "ready", "cooling down", "parked"]


class Condition(NamedTuple):
    """How an endpoint is doing; see `EndpointStatistics`."""

    state: str
    reason: str
    until_s: float | None


class MemberLease:
    """A slot of a member, taken for one question. Released exactly once, whatever happens."""

    __slots__ = (
        "began_at", "beside", "breaker_ticket", "deadline", "ended_at",
        "member", "pictures", "released", "sent", "started",
    )  # fmt: skip

    def __init__(self, member: Member, now: float, pictures: int) -> None:
        self.member = member
        self.pictures = pictures
        self.began_at = now
        self.breaker_ticket = member.breaker.begin()
        self.started = member.concurrency.began()
        self.deadline: asyncio.Timeout | None = None
        """Set while the attempt runs: closing the pool pulls it in."""
        self.sent = False
        """The endpoint has it: it is in `VisionEndpoint.used`."""
        self.ended_at: float | None = None
        """When the server was done with it; None while it works on it."""
        self.beside = 0
        """Questions the server worked on when it was done with this one, this one included."""
        self.released = False

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.member.released(self)


class Member:
    """An endpoint with its state machine; `Station` of the scheduler. The pool tells it how attempts ended."""

    def __init__(
        self,
        endpoint: VisionEndpoint,
        settings: EndpointSettings,
        *,
        memory: EndpointMemory | None,
        now: Callable[[], datetime],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        random: Random,
        changed: Callable[[], None],
        wake_in: Callable[[float], None],
    ) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.named = settings
        """As the settings name it now; what differs from `settings` waits for the next run."""
        self.name = settings.name
        self.weight = settings.weight
        self.tier = Tier.PRIMARY
        if settings.is_fallback:
            self.tier = Tier.WHEN_BUSY if settings.fallback_policy == "when_busy" else Tier.WHEN_DOWN
        self._serves = SERVED[settings.only_for]
        self.never = _is_never(settings)
        self.state: State = "unused"
        self.reason = ""
        self.fix = ""
        self.proven = True
        """Nothing has gone wrong since its last answer."""
        self.breaker = Breaker(clock, random)
        self.rest = Rest(clock)
        self.latencies = Latencies()
        self.timeouts = Timeouts(settings.timeout, self.latencies, clock)
        self.concurrency = self._concurrency(None)
        self.spending = Spending(endpoint, settings, now=now, wake_in=wake_in)
        self.leases: set[MemberLease] = set()
        self.asked = self.answered = 0
        self.tokens_in = self.tokens_cached = self.tokens_out = 0
        self.failures: Counter[EndpointFault] = Counter()
        self._prompts: OrderedDict[str, None] = OrderedDict()
        self._memory = memory
        self._clock = clock
        self._sleep = sleep
        self._changed = changed
        self._wake_in = wake_in
        self._rests_in_a_row = self._refused = 0
        self._busy_s = self._busy_since = 0.0
        self._told_limit = ""
        self._backoff = Backoff(1.0, 60.0, random)
        self._loading = Backoff(2.0, 5.0, random)
        self._down = asyncio.Event()
        self._loading_now = False
        self._since = 0.0
        self._next_look = 0.0

    # --- what the scheduler sees ------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        return self.endpoint.model

    @property
    def local(self) -> bool:
        return self.endpoint.is_remote is False

    @property
    def remote(self) -> bool:
        return self.endpoint.is_remote is True

    def serves(self, kind: Work | None) -> bool:
        """Whether its role allows questions for this."""
        return kind is None or kind in self._serves

    @property
    def is_out(self) -> bool:
        """The settings do not name it any more."""
        return not self._serves

    def revise(self, settings: EndpointSettings | None) -> str:
        """Follow settings that were edited; None: it is named no more. Returns what changed, in a sentence."""
        if settings is None:
            self.never, self._serves = True, frozenset()
            return f"“{self.name}” gets no more questions: it was taken out of the settings."
        if self.is_out:
            self.never, self._serves = _is_never(self.settings), SERVED[self.settings.only_for]
            return f"“{self.name}” takes part again."
        before, self.named = self.named, settings
        now = {"weight": settings.weight, "max_concurrent": settings.max_concurrent}
        has_other_places = settings.max_concurrent != self.settings.max_concurrent
        # all else stays as the connection was made: address and role of what is learned and asked
        self.settings = self.settings.model_copy(update=now)
        self.weight = settings.weight
        if has_other_places:
            self.concurrency = self._concurrency(None)
        if settings.model_copy(update=now) != before.model_copy(update=now):
            return f"“{self.name}”: weight and max_concurrent are taken over now, the other changes with the next run."
        return f"“{self.name}” has weight {settings.weight:g} and max_concurrent {settings.max_concurrent} now."

    def takes(self, needs: Needs) -> bool:
        return self.serves(needs.kind) and (self.local or not needs.local_only)

    def may_take(self, needs: Needs) -> bool:
        """As `takes`, also while nobody knows yet where it is."""
        return self.serves(needs.kind) and not (needs.local_only and self.remote)

    @property
    def most_pictures(self) -> int:
        return self.endpoint.most_pictures

    @property
    def left_network(self) -> int:
        return self.endpoint.used.left_network

    @property
    def metered(self) -> bool:
        return self.spending.is_metered

    @property
    def hopeless(self) -> bool:
        """Will not take another question in this run."""
        spent = self.spending.spent
        return self.never or self.state == "parked" or (spent is not None and not spent.daily)

    @property
    def away_s(self) -> float:
        """Seconds for which it will certainly take nothing."""
        return max(self.rest.left_s, self.spending.back_in_s if self.spending.spent is not None else 0.0)

    @property
    def usable(self) -> bool:
        return self.state == "ready" and self.rest.over and self.spending.spent is None

    @property
    def sound(self) -> bool:
        return self.usable and self.breaker.state is BreakerState.CLOSED

    @property
    def answering(self) -> bool:
        """Works on questions, and nothing speaks against it: their answers are on the way."""
        closed = self.breaker.state is BreakerState.CLOSED
        return bool(self.leases) and self.state == "ready" and self.rest.over and closed

    @property
    def alive(self) -> bool:
        if self.hopeless or self.spending.spent is not None:
            return False
        if self.state == "ready":
            return self.rest.left_s <= SHORT_REST_S and self.breaker.state is BreakerState.CLOSED
        return self.state == "preparing" and self._clock() - self._since <= GETTING_READY_S

    @property
    def limit(self) -> int:
        return self.concurrency.limit

    @property
    def free(self) -> int:
        if not self.usable or not self.breaker.admits:
            return 0
        most = 1 if self.breaker.state is BreakerState.HALF_OPEN else self.limit
        free = most - len(self.leases)
        if self.spending.is_limited:
            unsent = sum(not lease.sent for lease in self.leases)
            room = self.spending.room(under_way=len(self.leases), unsent=unsent)
            free = free if room is None else min(free, room)
        return max(0, free)

    @property
    def expected_s(self) -> float | None:
        return self.latencies.expected_s

    def busy_s(self) -> Sequence[float]:
        now = self._clock()
        ages = [(now - lease.began_at, lease.pictures * (self.expected_s or 0.0)) for lease in self.leases]
        # what is overdue will probably take as long again as it is late: a hanging server must not keep work waiting
        return [max(usual - age, age - usual, 0.1 * usual) for age, usual in ages]

    def warm(self, prompt_key: str) -> bool:
        return prompt_key in self._prompts

    def lease(self, job: Job) -> MemberLease:
        lease = MemberLease(self, self._clock(), len(job.question.jpegs))
        if not self.leases:
            self._busy_since = self._clock()
        self.leases.add(lease)
        self.asked += 1
        key = job.question.prompt.key
        self._prompts[key] = None
        self._prompts.move_to_end(key)
        if len(self._prompts) > WARM_PROMPTS:
            self._prompts.popitem(last=False)
        return lease

    def served(self, lease: MemberLease) -> bool:
        """A whole answer is here, and will be read next. Returns whether its slot can be taken already.

        Not while the endpoint is on trial, nor where an answer counts against a limit: what it says matters first.
        """
        if lease.released or not self.sound or self.spending.is_limited:
            return False
        self._vacate(lease)
        return True

    def _vacate(self, lease: MemberLease) -> None:
        """The server works no longer on this question."""
        if lease.ended_at is not None:
            return
        lease.ended_at, lease.beside = self._clock(), len(self.leases)
        self.leases.discard(lease)
        if not self.leases:
            self._busy_s += lease.ended_at - self._busy_since

    def released(self, lease: MemberLease) -> None:
        """Called by the lease, once."""
        self._vacate(lease)
        self.breaker.end(lease.breaker_ticket, ok=None)  # only counts where nothing was said about the attempt
        if self.spending.is_limited:
            self.spending.look()
        self._changed()

    # --- how attempts ended -----------------------------------------------------------------------------------

    def succeeded(self, lease: MemberLease, answer: Answer) -> None:
        """An answer came, whatever it says."""
        self._vacate(lease)
        latency_s = ((lease.ended_at or self._clock()) - lease.began_at) / max(1, lease.pictures)
        self.latencies.add(latency_s)
        self.timeouts.answered()
        self.concurrency.ended(lease.started, latency_s=latency_s, in_flight=lease.beside)
        self.breaker.end(lease.breaker_ticket, ok=True)
        self.answered += 1
        self.tokens_in += answer.tokens_in
        self.tokens_cached += answer.tokens_cached
        self.tokens_out += answer.tokens_out
        self.spending.answered(answer)
        self._rests_in_a_row = 0
        self.proven = True
        if answer.outcome is not Outcome.UNPARSABLE:
            self.reason = self.fix = ""

    def failed(self, lease: MemberLease, error: EndpointError) -> None:
        """No answer came."""
        self._vacate(lease)
        self.failures[error.fault] += 1
        policy = POLICY[error.fault]
        if error.retry_after_s is not None and policy in (Policy.ENDPOINT, Policy.WAIT):
            self._rest_for(error.retry_after_s)  # a wish to be left alone counts, whatever it came with
        if policy is Policy.PARK:
            self.park(error)
        elif policy is Policy.REST:
            self.concurrency.overloaded(lease.started, in_flight=lease.beside)
            self._take_rest(error)
        elif policy is Policy.WAIT:
            self._go_down(error)
        elif policy is Policy.ENDPOINT:
            self.proven = False
            is_timeout = error.fault is EndpointFault.TIMEOUT
            if is_timeout:
                self.timeouts.timed_out()
            if self.breaker.end(lease.breaker_ticket, ok=False, is_costly=is_timeout):
                self._go_down(error)
        else:
            # a complaint about the question is a sign of life
            self.breaker.end(lease.breaker_ticket, ok=True)
            self._refused += lease.pictures == 1  # several may be too many
            if not self.answered and self._refused >= MOST_REFUSED:
                self.park(self._refuses_everything(error))

    def _refuses_everything(self, error: EndpointError) -> EndpointError:
        return EndpointError(
            f"it takes no question at all: {error}",
            endpoint=self.name,
            fault=error.fault,
            fix=error.fix or "Look into the server's log, or try another model there.",
        )

    def _take_rest(self, error: EndpointError) -> None:
        self.reason, self.fix, self.proven = str(error), error.fix, False
        asked_s = error.retry_after_s
        self._rest_for(self._backoff.delay_s(self._rests_in_a_row) if asked_s is None else asked_s)
        self._rests_in_a_row += 1

    def _rest_for(self, seconds: float) -> None:
        self.rest.extend(seconds)
        self._wake_in(self.rest.left_s + 0.001)

    def _go_down(self, error: EndpointError) -> None:
        if self.state != "ready":
            return
        self.state, self.proven = "cooling down", False
        self.reason, self.fix = str(error), error.fix
        self._since = self._clock()
        log.warning("endpoint “%s” gets no questions for now: %s", self.name, self.reason)
        self._loading_now = error.fault is EndpointFault.LOADING
        self._down.set()

    def park(self, error: EndpointError) -> None:
        """Out for this run; said once."""
        if self.state == "parked":
            return
        self.state, self.proven = "parked", False
        self.reason, self.fix = str(error), error.fix
        log.error("endpoint “%s” is out of this run: %s", self.name, sentences(self.reason, self.fix))
        self._down.set()

    # --- looking after it -------------------------------------------------------------------------------------

    def getting_ready(self) -> None:
        """`keep` is about to begin."""
        self.state, self._since = "preparing", self._clock()

    async def keep(self) -> None:
        """Get it ready, and whenever it is down, look from time to time whether it is back. Ends when it is parked."""
        looks = 0
        while self.state != "parked":
            try:
                if self.state == "cooling down":
                    await self._wait_for_next_look(looks)
                    async with asyncio.timeout(PING_TIMEOUT_S):
                        await self.endpoint.ping()
                async with asyncio.timeout(self.settings.timeout):
                    capabilities = await self.endpoint.prepare()
            except EndpointError as error:
                looks += 1
                self._not_ready(error)
            except TimeoutError:
                looks += 1
                self._not_ready(self._silent())
            else:
                looks = 0
                self._is_ready(capabilities.parallel_hint, capabilities.answer_s)
                self._changed()
                await self._down.wait()
            self._changed()

    def _silent(self) -> EndpointError:
        what, fix = "it does not say what it can do", "Look whether the server still works on something, or restart it."
        return EndpointError(what, endpoint=self.name, fault=EndpointFault.TIMEOUT, fix=fix)

    def _not_ready(self, error: EndpointError) -> None:
        self.failures[error.fault] += 1
        policy = POLICY[error.fault]
        if policy is Policy.PARK:
            self.park(error)
            return
        first = self.state == "preparing"
        self.state, self.proven = "cooling down", False
        if first or str(error) != self.reason:
            log.warning("endpoint “%s” is not ready: %s", self.name, error)
        self.reason, self.fix = str(error), error.fix
        self._loading_now = policy is Policy.WAIT
        if policy is Policy.REST:
            self._take_rest(error)
        elif policy is not Policy.WAIT:
            self.breaker.trip()

    async def _wait_for_next_look(self, looks: int) -> None:
        wait_s = self._loading.delay_s(looks) if self._loading_now else self.breaker.open_left_s
        wait_s = max(wait_s, self.rest.left_s, 0.05)
        self._next_look = self._clock() + wait_s
        self._changed()
        await self._sleep(wait_s)

    def _is_ready(self, parallel_hint: int | None, answer_s: float | None) -> None:
        if self.state == "cooling down":
            log.info("endpoint “%s” is back", self.name)
        if self.breaker.state is BreakerState.OPEN:
            self.breaker.half_open()
        self._down.clear()
        self.state = "ready"
        self.timeouts.restarted()
        if self.latencies.count == 0:
            self.latencies.guess_s = self._remembered("latency_s") or answer_s
            parallel_hint = int(self._remembered("limit") or 0) or parallel_hint
            self.concurrency = self._concurrency(parallel_hint)

    def _concurrency(self, start: int | None) -> Concurrency:
        wanted = self.settings.max_concurrent
        return Concurrency(start=start) if wanted == "auto" else Concurrency(fixed=int(wanted))

    # --- what stays -------------------------------------------------------------------------------------------

    @property
    def _memory_key(self) -> str:
        return f"speed of {self.settings.base_url} {self.model}"

    def _remembered(self, what: str) -> float | None:
        known = (self._memory.get(self._memory_key) if self._memory is not None else None) or {}
        value: object = known.get(what)  # a file that a person may have edited
        return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else None

    def remember(self) -> None:
        """Keep what was learned for the next run."""
        expected = self.latencies.expected_s
        if self._memory is not None and self.latencies.count >= 10 and expected is not None:
            self._memory.put(self._memory_key, {"latency_s": expected, "limit": self.concurrency.best})

    # --- how it is doing --------------------------------------------------------------------------------------

    @property
    def worked_s(self) -> float:
        """Seconds with a question in hand, so far."""
        return self._busy_s + (self._clock() - self._busy_since if self.leases else 0.0)

    def condition(self) -> Condition:
        """State, the reason for it with its fix, and when that will probably change."""
        resting = self.state == "ready" and not self.rest.over
        spent = self.spending.spent
        if spent is not None and self.state in ("ready", "unused"):
            return Condition("spent", self.spending.text(spent), self.spending.back_in_s if spent.daily else None)
        if resting or self.state == "cooling down":
            again_s = max(self._next_look - self._clock(), self.rest.left_s, 0.0)
            return Condition("cooling down", sentences(self.reason, self.fix), again_s)
        return Condition(self.state, sentences(self.reason, self.fix) if self.state == "parked" else "", None)


def _is_never(settings: EndpointSettings) -> bool:
    return settings.is_fallback and settings.fallback_policy == "never"
