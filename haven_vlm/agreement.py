"""How well spans that were found agree with spans that a person set. Pure.

Each true span is matched with at most one found span of its tag and the other way round, the best fitting pairs first.
What is left over was missed or invented. The measure of it all is `Tally.quality`: the mean IoU (time in common by
time in either) over matched, missed and invented spans, where the latter two count 0. So a span in two pieces, two
spans run together, and ends in the wrong place all cost something, and long spans count no more than short ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Stretch = tuple[int, int]
"""Start and end in milliseconds, the end later."""


class Verdict(NamedTuple):
    """What became of one span, true or found."""

    at_ms: int
    """Middle of the true span; of the found one where there is no true one."""
    iou: float
    """0 when it was missed or invented."""
    missed: bool
    invented: bool
    errors_ms: tuple[int, ...] = ()
    """Of a matched span: how far its start and its end are from the true ones."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts added up."""

    iou: float = 0.0
    """Sum."""
    matched: int = 0
    missed: int = 0
    invented: int = 0
    errors_ms: tuple[int, ...] = ()
    """Distances of starts and ends of matched spans from the true ones, ascending."""

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Tally:
        """Add up."""
        some = list(verdicts)
        missed, invented = sum(v.missed for v in some), sum(v.invented for v in some)
        errors = sorted(e for v in some for e in v.errors_ms)
        return cls(sum(v.iou for v in some), len(some) - missed - invented, missed, invented, tuple(errors))

    @property
    def spans(self) -> int:
        """Spans that were matched, missed or invented."""
        return self.matched + self.missed + self.invented

    @property
    def quality(self) -> float:
        """Mean IoU, 0 to 1; 1 when there is nothing and nothing was found."""
        return self.iou / self.spans if self.spans else 1.0

    def error_ms(self, share: float) -> int | None:
        """The error of starts and ends that this share of them does not exceed (0.5: the median); None without any."""
        if not self.errors_ms:
            return None
        return self.errors_ms[min(len(self.errors_ms) - 1, int(share * len(self.errors_ms)))]

    def as_json(self) -> dict[str, float | int | None]:
        """The figures, for a report."""
        return {
            "iou": round(self.quality, 4),
            "matched": self.matched,
            "missed": self.missed,
            "invented": self.invented,
            "error_median_ms": self.error_ms(0.5),
            "error_p95_ms": self.error_ms(0.95),
        }


def compare(true: Sequence[Stretch], found: Sequence[Stretch], points_ms: Sequence[int] = ()) -> list[Verdict]:
    """Compare spans of one tag in one medium.

    Args:
        true: as the person set them, of any order.
        found: disjoint.
        points_ms: markers of the person's without an end. They say that something is there, not how long: a found
            span over one of them that matches nothing else counts neither way.
    """
    pairs = []
    for i, (start, end) in enumerate(true):
        for j, (left, right) in enumerate(found):
            common = min(end, right) - max(start, left)
            if common > 0:
                pairs.append((common / (max(end, right) - min(start, left)), -i, -j))
    pairs.sort(reverse=True)
    verdicts: list[Verdict] = []
    told: set[int] = set()
    used: set[int] = set()
    for iou, minus_i, minus_j in pairs:
        i, j = -minus_i, -minus_j
        if i in told or j in used:
            continue
        told.add(i)
        used.add(j)
        (start, end), (left, right) = true[i], found[j]
        errors = (abs(start - left), abs(end - right))
        verdicts.append(Verdict((start + end) // 2, iou, missed=False, invented=False, errors_ms=errors))
    for i, (start, end) in enumerate(true):
        if i not in told:
            verdicts.append(Verdict((start + end) // 2, 0.0, missed=True, invented=False))
    for j, (left, right) in enumerate(found):
        if j not in used and not any(left <= at < right for at in points_ms):
            verdicts.append(Verdict((left + right) // 2, 0.0, missed=False, invented=True))
    return verdicts
