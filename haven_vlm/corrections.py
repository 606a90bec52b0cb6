"""What the user said about a result: rejected, moved, confirmed, added. What the next run learns from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from haven_vlm.facts import Kind

Stretch = tuple[int, int]
"""Start and end in milliseconds; a point in time ends one millisecond later."""


class Verdict(StrEnum):
    """What the user made of a tag on a medium, or of a span of it."""

    REJECTED = "rejected"
    """It is not there: taken off, deleted, or flagged as wrong."""
    MOVED = "moved"
    """It is there, at another time."""
    CONFIRMED = "confirmed"
    """It is there, as found."""
    ADDED = "added"
    """It is there, and was not found."""


class Source(StrEnum):
    """Where the user said so."""

    STASH = "stash"
    """A run noticed that they changed or removed something of ours."""
    FLAG = "flag"
    """They put `VLM_Incorrect` on it."""
    REVIEW = "review"
    """They decided on the review page."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One word of the user on one tag of one medium. Two are the same when all but source and details agree."""

    kind: Kind
    medium_id: str
    verdict: Verdict
    source: Source
    tag_id: str
    """The tag in Stash. Empty: the result as a whole is wrong, and which tag of it nobody said."""
    before: Stretch | None = None
    """The span as we had it; None for a tag on the whole medium, and for what was added."""
    after: Stretch | None = None
    """The span as the user has it: what was moved or added."""
    at: float = 0.0
    """Seconds since 1970; 0: now. When said again, the latest time."""
    tag: str = ""
    """Name in the vocabulary; empty while no run has met the tag."""
    identity: str = ""
    """`MediaFile.identity` of the primary file; empty if unknown."""
    marker_id: str = ""
    """Our marker that it is about, if it is about one."""
    run_id: int | None = None
    """The run whose result it is about, if known."""
    model: str = ""
    """The model whose answer it is about, if known."""
    id: int = 0
    """Number in the ledger; 0: not there yet."""

    def __post_init__(self) -> None:
        for name, span in (("before", self.before), ("after", self.after)):
            if span is not None and span[0] >= span[1]:
                raise ValueError(f"{name}: start and end in milliseconds, the end later: {span}")
        if self.verdict is Verdict.MOVED and (self.before is None or self.after is None):
            raise ValueError("what was moved has a span before and after")
        if self.verdict is Verdict.ADDED and self.before is not None:
            raise ValueError("what was added was not there before")
        if self.verdict in (Verdict.REJECTED, Verdict.CONFIRMED) and self.after is not None:
            raise ValueError(f"what was {self.verdict} has no other span after")
        if not self.tag_id and self.verdict is not Verdict.REJECTED:
            raise ValueError("only a rejection can be about the whole result")
