"""The log of the embedded vision server: the proof of what a client did."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from demo.vision.faults import FaultKind


@dataclass(frozen=True, slots=True)
class Entry:
    """One request in the log."""

    number: int
    picture: str
    """Hash of the (first) picture; empty when the request was refused before it was read."""
    at_s: float
    """Seconds since the server was made."""
    status: int
    """HTTP status; 0: the connection was broken, or the client left before the answer."""
    fault: FaultKind | None
    body_bytes: int
    pictures: int = 1
    examples: tuple[str, ...] = ()
    """Hashes of the pictures shown before those in question."""
    answered: bool = False
    """A right and whole answer left for the client."""
    is_probe: bool = False
    """A client tested the model's sight with plain colours."""
    is_cancelled: bool = False
    """The client left before the answer."""
    all_answered: tuple[str, ...] = ()
    """Hashes of all pictures that the answer spoke of."""
    text: str = ""
    """Hash of the text: shows whether the constant part is constant."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What happened so far."""

    requests: int
    answered: int
    cancelled: int
    max_in_flight: int
    """Most questions worked on at once; never more than the slots."""
    max_waiting: int
    body_bytes: int
    largest_body: int
    busy_s: float
    """Slot-seconds worked, by the clock."""
    statuses: dict[int, int]


class Record:
    """Counters and entries of one server. Written by its loop, read from anywhere."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=1_000_000)
        """One per question, in the order they ended."""
        self.busy_s = 0.0
        self.in_flight = 0
        self.waiting = 0
        self._most_in_flight = 0
        self._most_waiting = 0

    def began(self) -> None:
        """A question got its slot."""
        self.in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self.in_flight)

    def ended(self, busy_s: float) -> None:
        """A question left its slot after so many seconds."""
        self.in_flight -= 1
        self.busy_s += busy_s

    def queued(self) -> None:
        """A question has to wait."""
        self.waiting += 1
        self._most_waiting = max(self._most_waiting, self.waiting)

    def unqueued(self) -> None:
        """A question waits no more."""
        self.waiting -= 1

    def statistics(self) -> ServerStatistics:
        """A snapshot of the counters."""
        entries = tuple(self.entries)
        return ServerStatistics(
            requests=len(entries),
            answered=sum(e.answered for e in entries),
            cancelled=sum(e.is_cancelled for e in entries),
            max_in_flight=self._most_in_flight,
            max_waiting=self._most_waiting,
            body_bytes=sum(e.body_bytes for e in entries),
            largest_body=max((e.body_bytes for e in entries), default=0),
            busy_s=self.busy_s,
            statuses=dict(Counter(e.status for e in entries)),
        )

    def questions(self) -> list[Entry]:
        """The log without tests of the model's sight."""
        return [e for e in tuple(self.entries) if not e.is_probe]  # a copy: the server's thread goes on writing

    def asked_twice(self) -> dict[str, int]:
        """Pictures that were answered more than once, by hash; the tests of sight do not count."""
        counts = Counter(picture for e in self.questions() if e.answered for picture in e.all_answered)
        return {picture: count for picture, count in counts.items() if count > 1}
