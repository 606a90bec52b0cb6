"""From looked-at moments to spans: two-state decoding of one tag after the other, and arithmetic on spans. Pure.

A tag is either there or not, and seldom changes. Each analysed sample is evidence for one of the two, weighed by how
often the model has turned out to be wrong in this very medium: the most likely course is found, what disagrees with
it is counted, and the course is found again (`decode`). So a model that never errs is believed in a single frame, and
one that errs in every twentieth needs several frames in a row. Times may be irregular; samples that were not analysed
carry no evidence at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from haven_vlm.facts import Sample, Span

MEAN_SPAN_S = 15.0
"""Seconds a tag stays on average, before anything is known. Moderate errors of it change nothing that matters."""

MEAN_PAUSE_S = 150.0
"""Seconds between two spans of a tag on average, before anything is known."""

ROUNDS = 3
"""Times the course is found anew with the errors that the one before showed; it settles after two."""

LEAST_ERROR, MOST_ERROR = 0.001, 0.3
"""Bounds of the error rates that are believed of a model."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a model errs in one frame about one tag."""

    false_alarm: float
    """Share of the frames without the tag in which it is named."""
    miss: float
    """Share of the frames with the tag in which it is not named."""

    @property
    def weight_named(self) -> float:
        """Evidence of a frame in which the tag is named, in nats."""
        return math.log((1 - self.miss) / self.false_alarm)

    @property
    def weight_not_named(self) -> float:
        """Evidence against the tag of a frame in which it is not named, in nats."""
        return math.log((1 - self.false_alarm) / self.miss)


STRICT = Noise(0.05, 0.1)
"""Believed of a model before its errors were counted: rather too much, so that flicker is not taken for spans."""


@dataclass(frozen=True, slots=True)
class Track:
    """What the analysed samples say about one tag, ascending by time."""

    times_ms: tuple[int, ...]
    leanings: tuple[float, ...]
    """-1 (surely not there) to 1 (surely there); half of either right at the threshold."""
    confidences: tuple[float, ...]
    own: tuple[bool, ...]
    """False: taken over from another frame that looks the same; says nothing new about the model's errors."""


def track(samples: Sequence[Sample], tag: str, threshold: float) -> Track:
    """Take what analysed samples (ascending by time) say about one tag."""
    confidences = tuple(s.tags.get(tag, 0.0) for s in samples)
    return Track(
        times_ms=tuple(s.at_ms for s in samples),
        leanings=tuple(_leaning(c, threshold) for c in confidences),
        confidences=confidences,
        own=tuple(s.inherited_from_ms is None for s in samples),
    )


def _leaning(confidence: float, threshold: float) -> float:
    """The threshold is a promise: from it on a frame counts as having the tag, and with half its weight at least."""
    if confidence >= threshold and confidence > 0:
        above = (confidence - threshold) / (1 - threshold) if threshold < 1 else 1.0
        return 0.5 + 0.5 * min(1.0, above)
    return -0.5 - 0.5 * (threshold - confidence) / threshold if threshold > 0 else -1.0


def decode(tracks: Mapping[str, Track], *, rounds: int = ROUNDS) -> dict[str, list[bool]]:
    """The most likely course of each tag: for each of its samples, whether the tag is there.

    Tags share what is learned about the model's errors; one that is read worse than the others has its own rates.
    """
    noises = dict.fromkeys(tracks, STRICT)
    courses: dict[str, list[bool]] = {}
    for left in reversed(range(rounds)):
        courses = {tag: _course(t, noises[tag]) for tag, t in tracks.items()}
        if left:
            learned = _learned(tracks, courses)
            if learned == noises:
                break
            noises = learned
    return courses


def _learned(tracks: Mapping[str, Track], courses: Mapping[str, list[bool]]) -> dict[str, Noise]:
    counts = {tag: _errors(tracks[tag], courses[tag]) for tag in tracks}
    alarms, absent, misses, present = (sum(c[i] for c in counts.values()) for i in range(4))
    # a little doubt that many frames wash away: one error in a hundred frames, one miss in thirty
    alarm, miss = (alarms + 1.0) / (absent + 100), (misses + 1.0) / (present + 30)

    def noise(a: int, n_absent: int, m: int, n_present: int) -> Noise:
        # a tag's own rates count once it has been seen often enough to have any
        return Noise(
            min(MOST_ERROR, max(LEAST_ERROR, (a + 100 * alarm) / (n_absent + 100))),
            min(MOST_ERROR, max(LEAST_ERROR, (m + 30 * miss) / (n_present + 30))),
        )

    return {tag: noise(*c) for tag, c in counts.items()}


def _errors(t: Track, course: Sequence[bool]) -> tuple[int, int, int, int]:
    """False alarms, frames without the tag, misses, frames with it."""
    alarms = absent = misses = present = 0
    for leaning, there, own in zip(t.leanings, course, t.own, strict=True):
        if own and there:
            present += 1
            misses += leaning < 0
        elif own:
            absent += 1
            alarms += leaning > 0
    return alarms, absent, misses, present


@lru_cache(maxsize=4096)
def _turns(gap_ms: int) -> tuple[float, float, float, float]:
    """Logarithms of the chances, over a gap, to stay away, to come, to stay there, to go."""
    on, off = 1 / MEAN_SPAN_S, 1 / MEAN_PAUSE_S
    settled = 1 - math.exp(-(on + off) * max(gap_ms, 1) / 1000)
    come, go = settled * off / (on + off), settled * on / (on + off)
    return math.log1p(-come), math.log(come), math.log1p(-go), math.log(go)


def _course(t: Track, noise: Noise) -> list[bool]:
    """Viterbi's algorithm with two states in continuous time."""
    if not any(leaning > 0 for leaning in t.leanings):
        return [False] * len(t.leanings)
    named, not_named = noise.weight_named, noise.weight_not_named
    share = MEAN_SPAN_S / (MEAN_SPAN_S + MEAN_PAUSE_S)
    away, there = math.log(1 - share), math.log(share)
    came_from_there: list[bool] = []
    stayed_there: list[bool] = []
    before = t.times_ms[0]
    for at, leaning in zip(t.times_ms, t.leanings, strict=True):
        if at != before:
            stay_away, come, stay, go = _turns(at - before)
            via_there, via_away = there + go, away + come
            left, stayed = via_there > away + stay_away, there + stay >= via_away
            away = via_there if left else away + stay_away
            there = there + stay if stayed else via_away
        else:
            left, stayed = False, True
        came_from_there.append(left)
        stayed_there.append(stayed)
        there += leaning * (named if leaning > 0 else not_named)
        before = at
    state = there > away
    course: list[bool] = []
    for left, stayed in zip(reversed(came_from_there), reversed(stayed_there), strict=True):
        course.append(state)
        state = stayed if state else left
    course.reverse()
    return course


def stretches(t: Track, course: Sequence[bool], duration_ms: int, *, reach_ms: int) -> list[tuple[int, int, float]]:
    """Start, end and confidence of each stretch in which the tag is there.

    An end lies midway between the last sample without and the first with the tag. A stretch that holds the first
    (last) sample goes to the clip's start (end) if that is at most `reach_ms` away, else half as far.
    The confidence is the mean of the frames' confidences and of one imaginary undecided frame.
    """
    found: list[tuple[int, int, float]] = []
    times, count, index = t.times_ms, len(course), 0
    while index < count:
        if not course[index]:
            index += 1
            continue
        first = index
        while index < count and course[index]:
            index += 1
        if first:
            start = (times[first - 1] + times[first]) // 2
        else:
            start = 0 if times[0] <= reach_ms else times[0] - reach_ms // 2
        if index < count:
            end = (times[index - 1] + times[index] + 1) // 2
        else:
            end = duration_ms if duration_ms - times[-1] <= reach_ms else times[-1] + reach_ms // 2
        inside = t.confidences[first:index]
        start, end = max(0, min(start, duration_ms)), max(0, min(end, duration_ms))
        if start < end:
            found.append((start, end, (sum(inside) + 0.5) / (len(inside) + 1)))
    return found


def merge(spans: Iterable[Span], gap_ms: int) -> list[Span]:
    """Join spans of one tag that overlap, touch or are at most `gap_ms` apart; confidence by length. Ascending."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start_ms, s.end_ms)):
        if merged and span.start_ms - merged[-1].end_ms <= gap_ms:
            last = merged[-1]
            long, short = last.end_ms - last.start_ms, span.end_ms - span.start_ms
            confidence = (last.confidence * long + span.confidence * short) / (long + short) if long + short else 0.0
            merged[-1] = replace(last, end_ms=max(last.end_ms, span.end_ms), confidence=confidence)
        else:
            merged.append(span)
    return merged


def without(span: Span, others: Iterable[Span]) -> list[Span]:
    """What is left of a span when the parts covered by others are cut out, ascending."""
    left: list[Span] = []
    at = span.start_ms
    for other in merge(others, 0):
        if other.end_ms <= at or other.start_ms >= span.end_ms:
            continue
        if other.start_ms > at:
            left.append(replace(span, start_ms=at, end_ms=other.start_ms))
        at = max(at, other.end_ms)
    return [*left, replace(span, start_ms=at)] if at < span.end_ms else left


def within(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of spans that lie inside others."""
    cover = merge(others, 0)
    return [
        replace(span, start_ms=max(span.start_ms, o.start_ms), end_ms=min(span.end_ms, o.end_ms))
        for span in spans
        for o in cover
        if max(span.start_ms, o.start_ms) < min(span.end_ms, o.end_ms)
    ]
