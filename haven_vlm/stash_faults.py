"""What goes wrong at Stash, told apart; and how long to go on trying. Pure but for an injected clock.

Stash answers most failures with HTTP 200 and a text, so the texts are what there is to go by
(docs: the error texts of its resolvers and of SQLite).
"""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from haven_vlm.errors import StashError, StashGone, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm_utility import duration_text

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_S = 300.0
"""How long a Stash that is busy, restarting or gone is waited for."""
_MAX_TURNS = 500
_LONGEST_PAUSE_S = 15.0
_FIRST_PAUSE_S = 0.25
_NOTICE_AFTER_S = 5.0

_PASSING = re.compile(
    r"database(?: table| schema)? is locked|SQLITE_BUSY|SQLITE_LOCKED"
    r"|context (?:deadline exceeded|canceled)|database (?:not initialized|is closed)|connection reset",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"not found|no rows in result set|does not exist in \w+|FOREIGN KEY constraint failed", re.IGNORECASE
)
_FOREIGN_KEY = re.compile(r"FOREIGN KEY", re.IGNORECASE)
_MISSING_ID = re.compile(r"\bid (\d+) (?:not found|does not exist)")


class NotSent(StashUnavailable):
    """The request certainly never reached Stash; sending it again can double nothing."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What Stash made of one document."""

    data: Mapping[str, Any]
    """Root field (or its alias) → value; those that failed are missing or None."""
    faults: Mapping[str, StashError] = field(default_factory=dict)
    """Root field (or its alias) → why it failed; '' for what names no field."""

    @property
    def worst(self) -> StashError | None:
        """The fault that decides: a refusal before something that may pass."""
        ranked = sorted(self.faults.values(), key=lambda fault: isinstance(fault, StashUnavailable))
        return ranked[0] if ranked else None


def fault_of(message: str) -> StashError:
    """The class of a GraphQL error, from its text."""
    text = " ".join(message.split())[:500] or "no reason given"
    if _PASSING.search(text):
        return StashUnavailable(f"Stash's database is busy ({text})")
    if _FOREIGN_KEY.search(text):
        return StashGone("the request names something that does not exist in Stash (any more)")
    if _GONE.search(text):
        return StashGone(f"Stash says: {text}")
    return StashRefused(f"Stash says: {text}")


def missing_id(fault: StashError) -> str | None:
    """The id that Stash says it does not know, if it names one."""
    match = _MISSING_ID.search(str(fault))
    return match[1] if match else None


def read_reply(content: object) -> Reply | None:
    """A GraphQL response body as data and faults; None when it is no such body."""
    if not isinstance(content, Mapping) or not ("data" in content or "errors" in content):
        return None
    data = content.get("data")
    faults: dict[str, StashError] = {}
    errors = content.get("errors")
    for error in errors if isinstance(errors, list) else []:
        detail = error if isinstance(error, Mapping) else {"message": error}
        path = detail.get("path")
        name = str(path[0]) if isinstance(path, list) and path else ""
        faults.setdefault(name, fault_of(str(detail.get("message") or "")))
    if not isinstance(data, Mapping):
        if not faults:
            return None
        data = {}
    return Reply(data, faults)


def status_fault(status: int, reason: str, *, url: str, has_key: bool, detail: str = "") -> StashError:
    """What an HTTP status other than 200 means; `detail` is the start of a plain-text body."""
    if status == 401:
        if has_key:
            return StashUnauthorized(
                "Stash does not accept the API key. Copy it again from Settings → Security, or generate a new one."
            )
        return StashUnauthorized(
            "Stash's login for this task has run out or was never given. Generate an API key in Settings → Security → "
            "Authentication: a task finds it by itself, and it does not run out. On the command line, hand it over "
            "with --api-key-env or --api-key-file."
        )
    if status == 403:
        return StashUnauthorized(f"Stash refuses to serve us (HTTP 403): {detail or reason}")
    if 300 <= status < 400:
        return StashUnauthorized(
            f"{url} leads elsewhere (HTTP {status}): a login page stands before Stash. "
            "Use the address Stash itself listens on."
        )
    if status >= 500 or status in (408, 425, 429):
        return StashUnavailable(f"Stash answered HTTP {status} {reason}".rstrip())
    return StashRefused(
        f"{url} answered HTTP {status} {reason}{f': {detail}' if detail else ''}; is that Stash's address?"
    )


class Patience:
    """How often and how long to try again: growing pauses with jitter, up to an end.

    Args:
        limit_s: seconds from the first attempt after which no new one is started.
        clock: monotonic seconds.
        sleep: waits that many seconds.
        jitter: a number from 0 to 1; spreads the pauses of several clients.
    """

    def __init__(
        self,
        limit_s: float = PATIENCE_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    def turns(self) -> Iterator[int]:
        """Yield 0, 1, 2, … and pause in between; ends when the time is up."""
        started = self._clock()
        for turn in range(_MAX_TURNS):
            yield turn
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**turn) * (0.5 + self._jitter() / 2)
            waited = self._clock() - started
            if waited + pause > self.limit_s:
                return
            if waited < _NOTICE_AFTER_S <= waited + pause:
                log.warning("Stash is busy or gone; trying again for up to %s", duration_text(self.limit_s))
            self._sleep(pause)

    def run(self, attempt: Callable[[], T], *, repeatable: bool = True) -> T:
        """The result of `attempt`, tried again while Stash is unavailable.

        Args:
            attempt: raises `StashUnavailable` when another try is worth it.
            repeatable: False: only what certainly never reached Stash is tried again.

        Raises:
            StashUnavailable: the last failure, when the patience is used up.
            StashError: anything else `attempt` raises.
        """
        last: StashUnavailable | None = None
        for turn in self.turns():
            try:
                result = attempt()
            except StashUnavailable as exc:
                if not repeatable and not isinstance(exc, NotSent):
                    raise
                last = exc
                log.debug("attempt %d: %s", turn + 1, exc)
            else:
                if turn:
                    log.debug("Stash answers again")
                return result
        assert last is not None
        raise last


def chunked(items: list[T], size: int) -> Iterator[list[T]]:
    """The items in pieces of at most `size`."""
    iterator = iter(items)
    while piece := list(itertools.islice(iterator, size)):
        yield piece
