"""Scripted trouble, and the log of what was asked.

stash.faults.add("BulkSceneUpdate", "locked", times=2)            # the first two fail with "database is locked"
stash.faults.add("SceneMarkerCreate", "drop_after", after=3)      # the 4th is carried out, its reply is lost
held = stash.faults.add("findScenes", "slow")                     # waits until held.release()
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.stash.store import Row

KINDS = {
    "locked": "HTTP 200, 'database is locked', no data; nothing is carried out",
    "slow": "waits before carrying the request out: `seconds`, or until `release()`",
    "hook_delay": "carries it out, then waits before replying: `seconds`, or until `release()`",
    "drop": "closes the connection; nothing is carried out",
    "drop_after": "carries it out, then closes the connection: the reply is lost",
    "status": "answers `status` with a plain text; nothing is carried out",
    "status_after": "carries it out, then answers `status` with a plain text",
    "junk": "HTTP 200 with a page that is not JSON; nothing is carried out",
    "truncated": "carries it out, then sends half of the reply and closes the connection",
}
"""Kind to meaning. A number as kind, such as "401" or "500", is short for `status`."""


@dataclass(slots=True)
class RequestRecord:
    """One request, as it came in."""

    method: str
    path: str
    operation: str
    """Operation name of the GraphQL document; empty when it has none."""
    fields: tuple[str, ...]
    """Root fields, such as bulkSceneUpdate."""
    variables: Row
    query: str
    headers: dict[str, str]
    at: float
    """Seconds since the epoch, by the server's clock."""
    status: int | None = None
    """HTTP status answered; None while it runs, or when the connection was dropped."""
    executed: bool = False
    reply: Row | None = None

    def is_for(self, name: str) -> bool:
        """True when the name is the operation, one of the root fields, or the start of the path."""
        folded = name.lower()
        named = folded in {self.operation.lower(), *(field.lower() for field in self.fields)}
        return named or (name.startswith("/") and self.path.startswith(name))


Match = str | Callable[[RequestRecord], bool]


@dataclass(slots=True)
class Fault:
    """One scripted trouble; `hits` tells how often it struck."""

    match: Match
    kind: str
    times: int | None = 1
    """How often it strikes; None = always."""
    after: int = 0
    """How many matching requests pass before it strikes."""
    seconds: float | None = None
    status: int = 500
    seen: int = 0
    hits: int = 0
    _released: threading.Event = field(default_factory=threading.Event)

    def matches(self, record: RequestRecord) -> bool:
        return record.is_for(self.match) if isinstance(self.match, str) else self.match(record)

    def strikes(self, record: RequestRecord) -> bool:
        if not self.matches(record):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def release(self) -> None:
        """End the waiting of a `slow` or `hook_delay`."""
        self._released.set()

    def wait(self) -> None:
        self._released.wait(self.seconds)


class Faults:
    """The script. Several faults may strike one request; each kind acts at its own moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.script: list[Fault] = []

    def add(
        self,
        match: Match,
        kind: str,
        *,
        times: int | None = 1,
        after: int = 0,
        seconds: float | None = None,
        status: int | None = None,
    ) -> Fault:
        """Script a fault; see `KINDS`.

        Arguments:
            match: operation name, root field, path prefix, or a predicate on the record.
        """
        if kind.isdecimal():
            kind, status = "status", int(kind)
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        fault = Fault(match, kind, times, after, seconds, status or 500)
        with self._lock:
            self.script.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self.script.remove(fault)
        fault.release()

    def clear(self) -> None:
        """Forget the script and release everything that waits."""
        with self._lock:
            script, self.script = self.script, []
        for fault in script:
            fault.release()

    def striking(self, record: RequestRecord) -> list[Fault]:
        with self._lock:
            return [fault for fault in self.script if fault.strikes(record)]


class RequestLog:
    """Every request so far, and callbacks that are told of each before it is carried out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records: list[RequestRecord] = []
        self._before: list[tuple[Match | None, Callable[[RequestRecord], Any]]] = []
        self._after: list[tuple[Match | None, Callable[[RequestRecord], Any]]] = []

    def on_request(self, callback: Callable[[RequestRecord], Any], *, match: Match | None = None) -> None:
        """Call back before each matching request is carried out, in a thread of the server."""
        with self._lock:
            self._before.append((match, callback))

    def on_reply(self, callback: Callable[[RequestRecord], Any], *, match: Match | None = None) -> None:
        """Call back after each matching request was carried out, before its reply is sent."""
        with self._lock:
            self._after.append((match, callback))

    def begin(self, record: RequestRecord) -> None:
        with self._lock:
            self.records.append(record)
            callbacks = list(self._before)
        self._tell(callbacks, record)

    def end(self, record: RequestRecord) -> None:
        with self._lock:
            callbacks = list(self._after)
        self._tell(callbacks, record)

    @staticmethod
    def _tell(callbacks: list[tuple[Match | None, Callable[[RequestRecord], Any]]], record: RequestRecord) -> None:
        for match, callback in callbacks:
            wanted = match is None or (record.is_for(match) if isinstance(match, str) else match(record))
            if wanted:
                callback(record)

    def named(self, name: str) -> list[RequestRecord]:
        """Requests for an operation, a root field or a path prefix."""
        with self._lock:
            return [record for record in self.records if record.is_for(name)]

    def clear(self) -> None:
        with self._lock:
            self.records.clear()
