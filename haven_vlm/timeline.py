"""Answers of single frames → tags with their total time, and spans. Pure; applied anew whenever settings change.

    samples ─ decode per tag ─ join across short gaps ─ exclusive groups, implications ─ shortest lengths ─ Findings

Each rule of the settings has one place: `threshold` in `spans.Moments`, `max_gap` in the joining, `exclusive_groups`
and `implications` on the joined spans, `min_marker_duration` on what is left, `required_duration` on its total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from haven_vlm.facts import Sample, Span
from haven_vlm.settings import Settings
from haven_vlm.spans import Moments, Track, decode, merge, stretches, within, without


@dataclass(frozen=True, slots=True)
class TagRule:
    """What makes a span of one tag, in this medium."""

    threshold: float
    """Confidence, 0 to 1, from which the tag counts in a frame."""
    max_gap_ms: int
    """Spans at most this far apart become one."""
    min_marker_ms: int
    """Shorter spans get no marker."""
    required_ms: int
    """Total time from which the medium gets the tag."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes spans of answers, in this medium."""

    tags: Mapping[str, TagRule]
    exclusive_groups: tuple[tuple[str, ...], ...] = ()
    """Groups of tags of which only the surest counts at a time."""
    implications: Mapping[str, tuple[str, ...]] | None = None
    """Tag → tags that hold whenever it does."""

    @classmethod
    def of(cls, settings: Settings, duration_ms: int) -> Rules:
        """The rules that settings mean for a medium of this length; a tag's own settings win."""
        rules = {}
        for tag in settings.tuned_tags:
            gap = settings.max_gap if tag.max_gap is None else tag.max_gap
            marker = settings.min_marker_duration if tag.min_marker_duration is None else tag.min_marker_duration
            required = settings.required_duration if tag.required_duration is None else tag.required_duration
            rules[tag.name] = TagRule(
                threshold=settings.threshold if tag.threshold is None else tag.threshold,
                max_gap_ms=gap.ms(duration_ms),
                min_marker_ms=marker.ms(duration_ms),
                required_ms=min(required.ms(duration_ms), duration_ms),  # a clip of half a second can have tags, too
            )
        return cls(rules, settings.exclusive_groups, settings.implications)


@dataclass(frozen=True, slots=True)
class TagTotal:
    """What a whole medium has of one tag."""

    total_ms: int
    """Time covered by its spans, short ones included."""
    confidence: float
    """Of its surest span, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the answers about one medium come to."""

    tags: Mapping[str, TagTotal]
    """The tags that the medium gets."""
    spans: tuple[Span, ...]
    """The markers it gets: ascending by start, disjoint for each tag."""


def conclude(samples: Mapping[int, Sample], duration_ms: int, settings: Settings) -> Findings:
    """Decide which tags and markers a medium gets.

    Args:
        samples: time in milliseconds → what became of it; those not analysed carry no evidence.
        duration_ms: length of the medium; spans never reach beyond it.
    """
    rules = Rules.of(settings, duration_ms)
    return judged(spans(samples, duration_ms, rules), rules)


def judged(found: Sequence[Span], rules: Rules) -> Findings:
    """Of all spans, what is long enough for a marker, and of what there is enough for a tag."""
    totals: dict[str, TagTotal] = {}
    for span in found:
        before = totals.get(span.tag, TagTotal(0, 0.0))
        length = span.end_ms - span.start_ms
        totals[span.tag] = TagTotal(before.total_ms + length, max(before.confidence, span.confidence))
    return Findings(
        tags={tag: total for tag, total in totals.items() if total.total_ms >= rules.tags[tag].required_ms},
        spans=tuple(s for s in found if s.end_ms - s.start_ms >= rules.tags[s.tag].min_marker_ms),
    )


def spans(samples: Mapping[int, Sample], duration_ms: int, rules: Rules) -> list[Span]:
    """All spans, short ones included: ascending by start, inside the medium, disjoint for each tag."""
    return Reading(samples, duration_ms).spans(rules)


class Reading:
    """The answers about one medium, prepared once for being read with many rules."""

    def __init__(self, samples: Mapping[int, Sample], duration_ms: int) -> None:
        self._duration_ms = duration_ms
        analysed = [samples[at] for at in sorted(samples) if samples[at].outcome.analysed]
        self.named = {tag for sample in analysed for tag in sample.tags}
        """Tags that any answer names."""
        self._usual = _usual_distance(analysed, duration_ms)
        self._moments = Moments(analysed)
        self._tracks: dict[tuple[str, float], Track] = {}
        self._courses: dict[tuple[tuple[str, float], ...], Mapping[str, list[bool]]] = {}

    def track(self, tag: str, threshold: float) -> Track:
        """What the answers say about a tag."""
        return self._moments.track(tag, threshold)

    def decoded(self, rules: Rules) -> tuple[dict[str, Track], Mapping[str, list[bool]]]:
        """Tracks and most likely courses of all tags that are named; remembered for each set of thresholds."""
        key = tuple((tag, rule.threshold) for tag, rule in rules.tags.items() if tag in self.named)
        for one in key:
            if one not in self._tracks:
                self._tracks[one] = self.track(*one)
        read = {one[0]: self._tracks[one] for one in key}
        if key not in self._courses:
            self._courses[key] = decode(read)
        return read, self._courses[key]

    def stretches(self, tag: str, track: Track, course: Sequence[bool], gap_ms: int) -> list[Span]:
        """The stretches of one tag's course, not joined yet. What a gap may hide, the medium's ends may, too."""
        raw = stretches(track, course, self._duration_ms, reach_ms=max(self._usual, gap_ms))
        return [Span(tag, start, end, confidence) for start, end, confidence in raw]

    def joined(self, rules: Rules) -> dict[str, list[Span]]:
        """The spans of each tag, before they meet those of others."""
        read, courses = self.decoded(rules)
        gaps = {tag: rules.tags[tag].max_gap_ms for tag in courses}
        return {tag: merge(self.stretches(tag, read[tag], c, gaps[tag]), gaps[tag]) for tag, c in courses.items()}

    def spans(self, rules: Rules) -> list[Span]:
        """See the function `spans`."""
        by_tag = related(self.joined(rules), rules)
        return sorted((s for found in by_tag.values() for s in found), key=lambda s: (s.start_ms, s.end_ms, s.tag))


def _usual_distance(analysed: Sequence[Sample], duration_ms: int) -> int:
    distances = sorted(b.at_ms - a.at_ms for a, b in pairwise(analysed))
    return distances[len(distances) * 3 // 4] if distances else duration_ms


def related(by_tag: Mapping[str, list[Span]], rules: Rules) -> dict[str, list[Span]]:
    """Apply implications and exclusive groups, so that both hold at every moment.

    What a tag implies gets its time first; then the surest of a group wins; then a tag goes where something that it
    implies has lost.
    """
    by_tag = dict(by_tag)
    implied = _closure(rules.implications or {})
    for tag, others in implied.items():
        for other in others:
            if tag in by_tag:
                lent = [Span(other, s.start_ms, s.end_ms, s.confidence) for s in by_tag[tag]]
                by_tag[other] = merge([*by_tag.get(other, []), *lent], 0)
    for group in rules.exclusive_groups:
        members = [tag for tag in dict.fromkeys(group) if tag in by_tag]
        rivals = [(_claim(span, rank), span) for rank, tag in enumerate(members) for span in by_tag[tag]]
        for rank, tag in enumerate(members):
            by_tag[tag] = [
                piece
                for span in by_tag[tag]
                for piece in without(span, [r for c, r in rivals if c > _claim(span, rank)])  # its own are elsewhere
            ]
    for tag, others in implied.items():
        for other in others:
            if tag in by_tag:
                by_tag[tag] = within(by_tag[tag], by_tag.get(other, []))
    return {tag: found for tag, found in by_tag.items() if found}


def _claim(span: Span, rank: int) -> tuple[float, int, int]:
    """Who wins in an exclusive group: higher confidence, else longer, else named earlier."""
    return span.confidence, span.end_ms - span.start_ms, -rank


def _closure(implications: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Tag → all that follows from it, directly or not, without itself."""
    closed: dict[str, list[str]] = {}
    for tag in implications:
        reached: dict[str, None] = {}
        ahead = list(implications[tag])
        while ahead:
            nearest = ahead.pop()
            if nearest not in reached and nearest != tag:
                reached[nearest] = None
                ahead.extend(implications.get(nearest, ()))
        closed[tag] = list(reached)
    return closed
