"""What the embedded vision server can be told to do wrong, and when."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """One way in which a real server disappoints."""

    SLOW = "slow"
    """Answers rightly, `seconds` later than usual."""
    HANG = "hang"
    """Holds its slot and never answers, until the client leaves."""
    DROP = "drop"
    """Breaks the connection at the end of the work, without an answer."""
    RATE_LIMITED = "rate_limited"
    """429; `retry_after` says what the header holds."""
    BUSY = "busy"
    """503 with a queue-is-full message."""
    LOADING = "loading"
    """503 as llama-server says it while the model loads."""
    SERVER = "server"
    """500 with a JSON error."""
    CRASH = "crash"
    """500 in plain text, and the connection is closed, as uvicorn does after an unhandled exception."""
    JUNK = "junk"
    """200 with bytes that are no JSON."""
    HTML = "html"
    """200 with a web page."""
    EMPTY_CHOICES = "empty_choices"
    """200 without any choice."""
    ERROR_IN_200 = "error_in_200"
    """200 with an error object; `message` overrides its text."""
    TRUNCATED = "truncated"
    """The answer stops in the middle, `finish_reason: length`."""
    OVERTHINKING = "overthinking"
    """Reasoning takes the whole budget, `content` is empty; a doubled budget does not help."""
    REFUSAL = "refusal"
    """`message.refusal` is set, `content` is null."""
    REFUSAL_TEXT = "refusal_text"
    """The content is an apology."""
    CONTENT_FILTER = "content_filter"
    """`finish_reason: content_filter`, no content."""
    NONSENSE = "nonsense"
    """Prose that answers nothing."""
    LEAVES_OUT = "leaves_out"
    """The answer about several pictures says nothing of the last one; one about a single picture is right."""
    UNAUTHORIZED = "unauthorized"
    """401."""
    NO_MODEL = "no_model"
    """404 as if the model had been unloaded."""
    OVERFLOW = "overflow"
    """400 as if the question did not fit the context."""
    BAD_PICTURE = "bad_picture"
    """400 as if the picture could not be read."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its particulars."""

    kind: FaultKind
    seconds: float = 1.0
    """For `SLOW`."""
    retry_after: str | None = None
    """Value of the Retry-After header for `RATE_LIMITED` and `BUSY`: seconds, or an HTTP date."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a script may decide by."""

    number: int
    """Position among all questions, from 0; tests of sight do not count, theirs is -1."""
    picture: str
    """Hash of the (first) picture."""
    attempt: int
    """How often this very picture was asked before, from 0."""

    @property
    def is_probe(self) -> bool:
        """A client tests the model's sight with plain colours."""
        return self.number < 0


Script = Callable[[Occasion], Fault | None]
"""Says what goes wrong with a question; None: nothing. All but `always` leave tests of sight alone."""


def never(_: Occasion) -> Fault | None:
    """No faults at all."""
    return None


def sequence(faults: Iterable[Fault | FaultKind | None]) -> Script:
    """The first question gets the first fault, and so on; those after the end go well."""
    fixed = [Fault(f) if isinstance(f, FaultKind) else f for f in faults]
    return lambda o: fixed[o.number] if 0 <= o.number < len(fixed) else None


def always(fault: Fault | FaultKind) -> Script:
    """Every question meets the same fault, tests of sight too."""
    fixed = Fault(fault) if isinstance(fault, FaultKind) else fault
    return lambda _: fixed


def first_attempt(fault: Fault | FaultKind) -> Script:
    """Each picture meets the fault once, and then goes well."""
    fixed = Fault(fault) if isinstance(fault, FaultKind) else fault
    return lambda o: fixed if o.attempt == 0 and not o.is_probe else None


def rates(shares: Mapping[FaultKind, float], *, seed: int = 0) -> Script:
    """Random faults, each with its share of all questions; the same seed gives the same faults in order.

    Raises:
        ValueError: a share is outside 0 to 1, or all together are more than 1.
    """
    if any(not 0 <= s <= 1 for s in shares.values()) or sum(shares.values()) > 1:
        raise ValueError("shares of faults lie between 0 and 1, and sum to at most 1")
    dice = random.Random(seed)

    def script(occasion: Occasion) -> Fault | None:
        if occasion.is_probe:
            return None
        throw = dice.random()
        for kind, share in shares.items():
            if throw < share:
                return Fault(kind, retry_after="1" if kind is FaultKind.RATE_LIMITED else None)
            throw -= share
        return None

    return script


def parse_rates(text: str) -> dict[FaultKind, float]:
    """Read `rate_limited=0.1,server=0.05`.

    Raises:
        ValueError: a name is unknown, or a share is no number; the message names what there is.
    """
    shares = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, share = part.partition("=")
        if name not in set(FaultKind):
            raise ValueError(f"no fault “{name}”; there are: {', '.join(FaultKind)}")
        shares[FaultKind(name)] = float(share)
    return shares
