"""Which moments of the scenes a person went through are shown to models as examples. Pure.

Only moments at which every tag of the vocabulary is decided: a right answer that leaves a tag out would teach to leave
it out. In the middle of what is there, and (as counter-examples) of what was found wrongly; at no time near the end of
any span, where people and models differ.

The same corrections give the same choice: the answers that models give by it stay known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from haven_vlm.agreement import Stretch
from haven_vlm.reviewed import Reviewed
from haven_vlm_utility import Length

_PLACES = (0.5, 0.35, 0.65)
"""Shares of a span at which to look for a moment, best first."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment whose tags are known for certain."""

    scene_id: str
    at_ms: int
    tags: tuple[str, ...]
    """All that apply then, in the vocabulary's order."""
    wrong: str = ""
    """Of a counter-example: the tag that was found there, and that the user rejected."""
    length_ms: int = 0
    """Of the span it is in the middle of."""

    @property
    def shows(self) -> tuple[tuple[str, bool], ...]:
        """What can be learned from it: tags, and whether they are there."""
        return ((self.wrong, False),) if self.wrong else tuple((tag, True) for tag in self.tags)


def choose(
    scenes: Sequence[Reviewed],
    *,
    vocabulary: Sequence[str],
    most: int,
    margin: Length,
    without: Collection[str] = (),
) -> list[Moment]:
    """Choose the most useful moments: each tag once, then counter-examples, from as many scenes as there are.

    Of tags, those that were rejected most often come first; of their spans, the longest.

    Args:
        scenes: gone through by the user.
        vocabulary: names of all tags that are asked about, in order.
        most: how many moments.
        margin: so near to an end of a span nothing is certain.
        without: ids of scenes that cannot be used.
    """
    usable = [s for s in scenes if s.scene_id not in without and _is_decided(s, vocabulary)]
    candidates = [m for s in usable for m in _moments(s, vocabulary, margin.ms(s.duration_ms))]
    trouble = Counter(tag for s in usable for tag, _ in s.rejected)
    shown: Counter[tuple[str, bool]] = Counter()
    scenes_used: Counter[str] = Counter()
    chosen: list[Moment] = []

    def cost(moment: Moment) -> tuple[float, bool, int, int, int, str, int]:
        return (
            min(shown[what] for what in moment.shows),
            bool(moment.wrong),
            scenes_used[moment.scene_id],
            -max(trouble[tag] for tag, _ in moment.shows),
            -moment.length_ms,
            moment.scene_id,
            moment.at_ms,
        )

    while candidates and len(chosen) < most:
        best = min(candidates, key=cost)
        chosen.append(best)
        shown.update(best.shows)
        scenes_used[best.scene_id] += 1
        candidates = [m for m in candidates if (m.scene_id, m.at_ms) != (best.scene_id, best.at_ms)]
    return chosen


def _is_decided(scene: Reviewed, vocabulary: Sequence[str]) -> bool:
    truths = [scene.truth.get(tag) for tag in vocabulary]
    return all(truth is not None and not truth.points_ms for truth in truths)  # a point does not say how long


def _moments(scene: Reviewed, vocabulary: Sequence[str], margin_ms: int) -> Iterator[Moment]:
    spans = [(tag, span) for tag in vocabulary for span in scene.truth[tag].spans]
    for _, span in spans:
        if (found := _certain(span, spans, margin_ms)) is not None:
            yield Moment(scene.scene_id, found, _tags_at(found, spans), length_ms=span[1] - span[0])
    for tag, span in scene.rejected:
        found = _certain(span, spans, margin_ms)
        if found is not None and tag in vocabulary and tag not in (tags := _tags_at(found, spans)):
            yield Moment(scene.scene_id, found, tags, wrong=tag, length_ms=span[1] - span[0])


def _certain(span: Stretch, spans: Sequence[tuple[str, Stretch]], margin_ms: int) -> int | None:
    """A moment inside the span that is near to no end of any."""
    for share in _PLACES:
        at_ms = round(span[0] + share * (span[1] - span[0]))
        if all(abs(at_ms - end) > margin_ms for _, ends in spans for end in ends):
            return at_ms
    return None


def _tags_at(at_ms: int, spans: Sequence[tuple[str, Stretch]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for tag, (start, end) in spans if start <= at_ms < end))
