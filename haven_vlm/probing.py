"""What the search for ends of spans works with: moments, what answers say, a stretch that gets narrower. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from haven_vlm.facts import Sample

HYSTERESIS = 0.8
"""Below this share of its threshold a tag counts as gone; in between, it is what it was before."""

WORN = 3
"""Halvings in a row that point to the same end of a stretch, from which on that end is doubted: by chance that happens
at one boundary in four of a long search, and with every wrong answer early in it."""

CUT_MARGIN_MS = 200
"""Distance from a cut at which a frame surely belongs to its side of it."""

Tags = frozenset[str]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment that is always looked at."""

    at_ms: int
    instead_ms: int
    """Asked once when this moment cannot be analysed but its neighbourhood can."""
    votes_ms: tuple[int, ...]
    """Where to look when a tag flips here and in neither neighbour; the first agreeing vote decides for the flip."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a boundary is, and how exactly it is wanted."""

    tolerance_ms: int
    """A boundary may be this far from the truth."""
    thresholds: Mapping[str, float]
    """Tag → confidence from which it counts; other tags do not matter."""
    gaps_ms: Mapping[str, int]
    """The same tags → pause up to which two of its spans are one anyway: its ends are not worth a question."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A moment worth a question."""

    at_ms: int
    step: int
    """Depth of the search: steps of lower number come first when questions are scarce."""
    gain: int
    """Milliseconds of doubt that the answer halves, for all tags together."""
    maybe: tuple[int, ...] = ()
    """Moments close by that will be wanted next, depending on the answer."""


@dataclass(slots=True)
class Progress:
    """Where the search stands."""

    wanted: dict[int, Probe] = field(default_factory=dict)
    ahead: int = 0
    """Further questions that the stretches under way will take at most."""
    settled: int = 0
    """Stretches between anchors of which all neighbours are known."""
    extra: int = 0
    """Questions beyond the anchors asked for so far, answered or not."""

    def want(self, probe: Probe) -> None:
        """Ask for a moment; what several tags want is wanted more."""
        known = self.wanted.get(probe.at_ms)
        if known is not None:
            # gains of different steps do not add up: the rank of a moment must not change while its step is asked
            step = min(known.step, probe.step)
            gain = sum(p.gain for p in (known, probe) if p.step == step)
            probe = Probe(probe.at_ms, step, gain, tuple(dict.fromkeys(known.maybe + probe.maybe)))
        self.wanted[probe.at_ms] = probe


@dataclass(frozen=True, slots=True)
class Look:
    """What one answer says: tags that are there, and tags that may be."""

    there: Tags
    unclear: Tags = frozenset()


FAILED = Look(frozenset())
"""Seen, and not analysed; told apart by identity."""

NOTHING: Tags = frozenset()
"""No tags. Always this very object, so that the usual case is told by identity."""


class AnswerReader:
    """Reads answers, and remembers how it read them."""

    def __init__(self, rules: Rules) -> None:
        self._thresholds = rules.thresholds
        self._read: dict[int, tuple[Sample, Look]] = {}

    def look(self, sample: Sample) -> Look:
        """The names above their threshold, and those only a little below it; `FAILED` if not analysed."""
        known = self._read.get(sample.at_ms)
        if known is not None and known[0] is sample:
            return known[1]
        look = self._look(sample)
        self._read[sample.at_ms] = sample, look
        return look

    def _look(self, sample: Sample) -> Look:
        if not sample.outcome.analysed:
            return FAILED
        there, unclear = [], []
        for tag, confidence in sample.tags.items():
            threshold = self._thresholds.get(tag)
            if threshold is None:
                continue
            if confidence >= threshold:
                there.append(tag)
            elif confidence >= threshold * HYSTERESIS:
                unclear.append(tag)
        return Look(frozenset(there) if there else NOTHING, frozenset(unclear) if unclear else NOTHING)


@dataclass(slots=True)
class Ends:
    """The stretch that a search has narrowed a boundary to, and how it came to that."""

    low: int
    high: int
    _low_before: int | None = None
    """The lower end before this one; None: it was there from the beginning."""
    _high_before: int | None = None
    _low_age: int = 0
    """Halvings that the lower end has outlasted."""
    _high_age: int = 0

    def move(self, at_ms: int, *, is_low: bool) -> None:
        """Make a moment inside the lower or upper end."""
        if is_low:
            self._low_before, self.low = self.low, at_ms
            self._low_age, self._high_age = 0, self._high_age + 1
        else:
            self._high_before, self.high = self.high, at_ms
            self._high_age, self._low_age = 0, self._low_age + 1

    def beyond_worn(self, reach_ms: int) -> int | None:
        """A moment just outside of an end that outlasted many halvings and was set by one of them."""
        if self._low_age >= WORN and self._low_before is not None and self.low - reach_ms > self._low_before:
            return self.low - reach_ms
        if self._high_age >= WORN and self._high_before is not None and self.high + reach_ms < self._high_before:
            return self.high + reach_ms
        return None

    def reopen(self, at_ms: int, same: bool) -> bool:
        """Take the answer from outside of an end; True: that end was wrong, and the search goes back behind it."""
        if at_ms < self.low and not same and self._low_before is not None:
            self.low, self.high = self._low_before, at_ms
        elif at_ms > self.high and same and self._high_before is not None:
            self.low, self.high = at_ms, self._high_before
        else:
            return False
        return True


def cut_margin(tolerance_ms: int) -> int:
    """How far from a cut to look, so that the two sides of it are at most the tolerance apart."""
    return min(CUT_MARGIN_MS, tolerance_ms // 2)
