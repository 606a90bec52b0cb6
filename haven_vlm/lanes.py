"""What the timeline of a scene shows: answers, markers and the user's word on them, one lane for each tag. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from haven_vlm.corrections import Correction, Stretch, Verdict
from haven_vlm.facts import Marker, Outcome, Sample, Span
from haven_vlm.ownership import SAME_SHARE, RejectedSpan
from haven_vlm.page_data import Lane, LaneSpan, SampleAt, SampleState, SpanState


@dataclass(frozen=True, slots=True)
class LaneTag:
    """A tag that gets a lane."""

    name: str
    """In the vocabulary."""
    stash_name: str
    tag_id: str
    """In Stash; empty when there is none yet."""


def stretch_of(start_ms: int, end_ms: int | None) -> Stretch:
    """Start and end of a marker as corrections name it: a point ends one millisecond later."""
    return start_ms, max(start_ms if end_ms is None else end_ms, start_ms + 1)


def lanes_of(
    tags: Sequence[LaneTag],
    *,
    found: Iterable[Span],
    markers: Iterable[Marker],
    ours: Collection[str],
    rejected: Iterable[RejectedSpan],
    corrections: Iterable[Correction],
    carried: Collection[str],
) -> tuple[Lane, ...]:
    """The lanes, in the order of the tags; empty ones included, so that something can be added to them.

    Args:
        found: what follows from the answers; disjoint for each tag.
        ours: ids of the markers that are ours.
        corrections: on this scene, the latest last.
        carried: ids of the tags that the scene carries.
    """
    found_by_tag: dict[str, list[Span]] = defaultdict(list)
    for span in found:
        found_by_tag[span.tag].append(span)
    markers_by_tag: dict[str, list[Marker]] = defaultdict(list)
    for marker in markers:
        markers_by_tag[marker.primary_tag_id].append(marker)
    rejected_by_tag: dict[str, list[Stretch]] = defaultdict(list)
    for no in rejected:
        rejected_by_tag[no.tag_id].append((no.start_ms, no.end_ms))
    said: dict[tuple[str, Stretch], Verdict] = {}
    moved: set[tuple[str, Stretch]] = set()
    for correction in corrections:
        if correction.verdict is Verdict.MOVED and correction.before is not None:
            moved.add((correction.tag_id, correction.before))
        span_said = correction.after or correction.before
        if span_said is not None:
            said[correction.tag_id, span_said] = correction.verdict
    lanes = []
    for tag in tags:
        sure = _Surest(found_by_tag[tag.name])
        spans: list[tuple[Stretch, LaneSpan]] = []
        for marker in markers_by_tag[tag.tag_id] if tag.tag_id else ():
            stretch = stretch_of(marker.start_ms, marker.end_ms)
            state = SpanState.OURS if marker.id in ours else SpanState.USER
            if said.get((tag.tag_id, stretch)) is Verdict.CONFIRMED:
                state = SpanState.CONFIRMED
            end_ms = marker.start_ms if marker.end_ms is None else marker.end_ms
            spans.append((stretch, _span((marker.start_ms, end_ms), sure.within(*stretch), marker.id, state)))
        standing = {stretch for stretch, _ in spans}
        for stretch in rejected_by_tag[tag.tag_id] if tag.tag_id else ():
            # one that was put back stands; one that was moved is seen where it is now
            if stretch not in standing and (tag.tag_id, stretch) not in moved:
                spans.append((stretch, _span(stretch, sure.within(*stretch), None, SpanState.REJECTED)))
        taken = _Cover([*(stretch for stretch, _ in spans), *(rejected_by_tag[tag.tag_id] if tag.tag_id else ())])
        for one in found_by_tag[tag.name]:
            stretch = stretch_of(one.start_ms, one.end_ms)
            if taken.covered(*stretch) < SAME_SHARE * (stretch[1] - stretch[0]):
                spans.append((stretch, _span((one.start_ms, one.end_ms), one.confidence, None, SpanState.FOUND)))
        ordered = tuple(span for _, span in sorted(spans, key=lambda pair: (pair[0], pair[1].marker_id or "")))
        lanes.append(Lane(tag.name, tag.stash_name, ordered, on_scene=bool(tag.tag_id) and tag.tag_id in carried))
    return tuple(lanes)


def _span(times_ms: Stretch, confidence: float | None, marker_id: str | None, state: SpanState) -> LaneSpan:
    return LaneSpan(times_ms[0] / 1000, times_ms[1] / 1000, confidence, marker_id, state)


class _Surest:
    """The highest confidence of what was found within a stretch."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans = sorted(spans, key=lambda s: s.start_ms)
        self._ends = [s.end_ms for s in self._spans]  # disjoint, so ascending, too

    def within(self, start_ms: int, end_ms: int) -> float | None:
        best: float | None = None
        for span in self._spans[bisect_right(self._ends, start_ms) :]:
            if span.start_ms >= end_ms:
                break
            best = span.confidence if best is None else max(best, span.confidence)
        return best


class _Cover:
    """How much of a stretch is covered by others."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self._parts: list[list[int]] = []
        for start, end in sorted(stretches):
            if self._parts and start <= self._parts[-1][1]:
                self._parts[-1][1] = max(self._parts[-1][1], end)
            else:
                self._parts.append([start, end])
        self._ends = [end for _, end in self._parts]

    def covered(self, start_ms: int, end_ms: int) -> int:
        total = 0
        for left, right in self._parts[bisect_left(self._ends, start_ms) :]:
            if left >= end_ms:
                break
            total += min(right, end_ms) - max(left, start_ms)
        return total


def samples_at(samples: Mapping[int, Sample], failures: Mapping[int, str]) -> tuple[SampleAt, ...]:
    """What became of each moment, ascending.

    Args:
        failures: time → why it was not analysed; what was analysed since does not count.
    """
    found = {at_ms: _sample(sample) for at_ms, sample in samples.items()}
    for at_ms, reason in failures.items():
        found.setdefault(at_ms, SampleAt(at_ms / 1000, SampleState.FAILED, reason))
    return tuple(found[at_ms] for at_ms in sorted(found))


def _sample(sample: Sample) -> SampleAt:
    t = sample.at_ms / 1000
    if not sample.outcome.analysed:
        reason = "no picture can be decoded" if sample.outcome is Outcome.UNDECODABLE else str(sample.outcome)
        return SampleAt(t, SampleState.FAILED, reason)
    if sample.inherited_from_ms is None:
        return SampleAt(t, SampleState.ASKED, "", sample.tags)
    state = SampleState.BLANK if sample.inherited_from_ms == sample.at_ms else SampleState.INHERITED
    return SampleAt(t, state, "", sample.tags)
