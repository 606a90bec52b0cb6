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
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

from haven_vlm.facts import Sample, Span

MEAN_SPAN_S = 15.0
"""Seconds a tag stays on average, before anything is known. Moderate errors of it change nothing that matters."""

MEAN_PAUSE_S = 150.0
"""Seconds between two spans of a tag on average, before anything is known."""

SHARE = MEAN_SPAN_S / (MEAN_SPAN_S + MEAN_PAUSE_S)
"""Share of the time that a tag is there, before anything is known."""

LEAST_GAP_MS = 2000
"""Between samples closer than this a turn is as likely as over this time: they lie so close because the search for
the ends of spans put them there, where turns are."""

ROUNDS = 4
"""Times the course is found anew with the errors that the one before showed; it settles sooner, mostly after two."""

LEAST_ERROR, MOST_ERROR = 0.001, 0.3
"""Bounds of the error rates that are believed of a model."""

SHORT_PROOF = 4.0
"""How much likelier than flicker a stretch of up to `SHORT_MS` must be to count, in nats (4: about 55 to 1). It fades
away until `LONG_MS`: asked of long stretches, too, it would make coarse scans of busy scenes find nothing."""
SHORT_MS, LONG_MS = 3000, 8000


class Turns(NamedTuple):
    """Logarithms of the chances of what a tag may do over a gap between samples."""

    stay_away: float
    come: float
    stay: float
    go: float


class Run(NamedTuple):
    """Successive samples that say the same about a tag."""

    samples: int
    named: bool
    weight: float
    """Sum of the samples' weights: 0.5 for a confidence right at the threshold, 1 for one far from it."""
    own: int
    """Samples that were asked themselves; the others took their answer over and say nothing new about errors."""
    entry: Turns
    """Over the gap before the first of them."""
    stay_away: float
    stay: float
    """Logarithm of the chance that the tag stays away (stays) from the first to the last of them."""
    from_ms: int
    until_ms: int
    """Midway to the samples before and after them."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a model errs in one frame about one tag."""

    false_alarm: float
    """Share of the frames without the tag in which it is named."""
    miss: float
    """Share of the frames with the tag in which it is not named."""

    def explain(self, run: Run) -> tuple[float, float]:
        """Logarithms of the chances of a run's answers if the tag is away, and if it is there."""
        if run.named:
            return run.weight * math.log(self.false_alarm), run.weight * math.log1p(-self.miss)
        return run.weight * math.log1p(-self.false_alarm), run.weight * math.log(self.miss)


STARTS = (Noise(0.05, 0.1), Noise(0.002, 0.01))
"""What may be believed of a model before its errors were counted: a poor one and a good one. Each leads to a course and
to the errors it shows; the pair that explains the answers better is taken."""


@dataclass(frozen=True, slots=True)
class Track:
    """What the analysed samples say about one tag, ascending by time."""

    times_ms: Sequence[int]
    confidences: Sequence[float]
    runs: Sequence[Run]


class Moments:
    """The analysed samples of a medium, prepared for reading what they say about one tag after the other."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """`samples`: analysed ones, ascending by time."""
        self._samples = samples
        self._times = [s.at_ms for s in samples]
        self._turns = [_turns(LEAST_GAP_MS), *(_turns(b - a) for a, b in pairwise(self._times))]
        self._away = list(accumulate(t.stay_away for t in self._turns))
        self._there = list(accumulate(t.stay for t in self._turns))
        self._own = [s.inherited_from_ms is None for s in samples]

    def track(self, tag: str, threshold: float) -> Track:
        """What they say about a tag with this threshold."""
        times = self._times
        confidences = [s.tags.get(tag, 0.0) for s in self._samples]
        readings = [_read(c, threshold) for c in confidences]
        runs: list[Run] = []
        first = 0
        for named, group in groupby(readings, key=itemgetter(0)):
            weights = [weight for _, weight in group]
            last = first + len(weights) - 1
            runs.append(
                Run(
                    samples=len(weights),
                    named=named,
                    weight=sum(weights),
                    own=sum(self._own[first : last + 1]),
                    entry=self._turns[first],
                    stay_away=self._away[last] - self._away[first],
                    stay=self._there[last] - self._there[first],
                    from_ms=(times[max(0, first - 1)] + times[first]) // 2,
                    until_ms=(times[last] + times[min(len(times) - 1, last + 1)]) // 2,
                )
            )
            first = last + 1
        return Track(times, confidences, runs)


@lru_cache(maxsize=4096)
def _read(confidence: float, threshold: float) -> tuple[bool, float]:
    """Whether a frame counts as having a tag (from the threshold on: that is a promise), and how much it weighs."""
    if confidence >= threshold and confidence > 0:
        return True, 0.5 + 0.5 * ((confidence - threshold) / (1 - threshold) if threshold < 1 else 1.0)
    return False, 0.5 + 0.5 * ((threshold - confidence) / threshold if threshold > 0 else 1.0)


@lru_cache(maxsize=4096)
def _turns(gap_ms: int) -> Turns:
    on, off = 1 / MEAN_SPAN_S, 1 / MEAN_PAUSE_S
    settled = 1 - math.exp(-(on + off) * max(gap_ms, LEAST_GAP_MS) / 1000)
    come, go = settled * off / (on + off), settled * on / (on + off)
    return Turns(math.log1p(-come), math.log(come), math.log1p(-go), math.log(go))


Errors = tuple[int, int, int, int]
"""False alarms, frames without the tag, misses, frames with it."""

NO_ERRORS: Errors = (0, 0, 0, 0)


def decode(tracks: Mapping[str, Track], *, beside: Errors = NO_ERRORS) -> dict[str, list[bool]]:
    """The most likely course of each tag: for each of its samples, whether the tag is there.

    A course turns only where the answers do. Tags share what is learned about the model's errors; one that is read
    worse than the others has its own rates. `beside`: errors counted on other tags of the same medium, which are not
    to be decoded anew; they are shared, too.
    """
    courses, _ = max((_settled(tracks, start, beside) for start in STARTS), key=itemgetter(1))
    return {
        tag: [there for run, there in zip(tracks[tag].runs, course, strict=True) for _ in range(run.samples)]
        for tag, course in courses.items()
    }


def _settled(tracks: Mapping[str, Track], start: Noise, beside: Errors) -> tuple[dict[str, list[bool]], float]:
    """Courses over runs that agree with the errors they show, beginning with a guess of these; the chance of all."""
    noises = dict.fromkeys(tracks, start)
    courses: dict[str, list[bool]] = {}
    chances: list[float] = []
    for _ in range(ROUNDS):
        before, courses, chances = courses, {}, []
        for tag, track in tracks.items():
            courses[tag], chance = _course(track.runs, noises[tag])
            chances.append(chance - _drop_unproven(track.runs, courses[tag], noises[tag]))
        if courses == before:
            break
        noises = learned({tag: _errors(track.runs, courses[tag]) for tag, track in tracks.items()}, beside)
    return courses, sum(chances)


def _course(runs: Sequence[Run], noise: Noise) -> tuple[list[bool], float]:
    """Viterbi's algorithm over runs: whether the tag is there in each, and the logarithm of that course's chance."""
    away, there = math.log1p(-SHARE), math.log(SHARE)
    steps: list[tuple[bool, bool]] = []
    for i, run in enumerate(runs):
        if i:
            left, came = there + run.entry.go, away + run.entry.come
            stayed_away, stayed = away + run.entry.stay_away, there + run.entry.stay
            steps.append((left > stayed_away, stayed >= came))
            away, there = max(left, stayed_away), max(stayed, came)
        if_away, if_there = noise.explain(run)
        away += run.stay_away + if_away
        there += run.stay + if_there
    state = there > away
    course = [state]
    for was_there_if_away, was_there_if_there in reversed(steps):
        state = was_there_if_there if state else was_there_if_away
        course.append(state)
    course.reverse()
    return course, max(away, there)


def _drop_unproven(runs: Sequence[Run], course: list[bool], noise: Noise) -> float:
    """Take stretches out of a course that are only a little likelier than flicker; returns what that costs its chance.

    Flicker makes short stretches: among many frames and tags some errors fall together, and votes look where the first
    of them was. So the shorter a stretch, the clearer its case must be.
    """
    costs, last = list[float](), len(runs) - 1
    for first, until in _stretches(course):
        gain = 0.0
        for i in range(first, until + 1):
            if_away, if_there = noise.explain(runs[i])
            gain += if_there - if_away + runs[i].stay - runs[i].stay_away
            if i > first:
                gain += runs[i].entry.stay - runs[i].entry.stay_away
        entry = runs[first].entry
        gain += entry.come - entry.stay_away if first else math.log(SHARE) - math.log1p(-SHARE)
        if until < last:
            gain += runs[until + 1].entry.go - runs[until + 1].entry.stay_away
        whole = until - first == last  # of a clip that is short itself, nothing more can be asked
        length_ms = runs[until].until_ms - runs[first].from_ms
        if not whole and gain < proof(length_ms):
            course[first : until + 1] = [False] * (until + 1 - first)
            costs.append(gain)
    return sum(costs)


def proof(length_ms: int) -> float:
    """How much likelier than not a stretch of this length must be, in nats."""
    return SHORT_PROOF * min(1.0, max(0.0, (LONG_MS - length_ms) / (LONG_MS - SHORT_MS)))


def _stretches(course: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of each stretch that is there."""
    found: list[tuple[int, int]] = []
    index = 0
    for there, group in groupby(course):
        count = len(list(group))
        if there:
            found.append((index, index + count - 1))
        index += count
    return found


def errors(track: Track, course: Sequence[bool]) -> Errors:
    """What a course, as `decode` gives it, says about the model's errors."""
    starts = accumulate((run.samples for run in track.runs), initial=0)
    return _errors(track.runs, [course[at] for at, _ in zip(starts, track.runs, strict=False)])


def learned(counts: Mapping[str, Errors], beside: Errors = NO_ERRORS) -> dict[str, Noise]:
    """How often a model errs about each tag, as far as errors counted on all tags of a medium tell.

    A little doubt that many frames wash away comes first: one false alarm in a hundred frames without the tag, half a
    miss in thirty with it. A tag's own rates count as much as what is shared once it has been seen in as many frames.
    """
    alarms, absent, misses, present = (sum(column) for column in zip(*counts.values(), beside, strict=True))
    alarm, miss = (alarms + 1) / (absent + 100), (misses + 0.5) / (present + 30)

    def noise(own_alarms: int, own_absent: int, own_misses: int, own_present: int) -> Noise:
        return Noise(
            min(MOST_ERROR, max(LEAST_ERROR, (own_alarms + 100 * alarm) / (own_absent + 100))),
            min(MOST_ERROR, max(LEAST_ERROR, (own_misses + 30 * miss) / (own_present + 30))),
        )

    return {tag: noise(*own) for tag, own in counts.items()}


def _errors(runs: Sequence[Run], course: Sequence[bool]) -> Errors:
    alarms = absent = misses = present = 0
    for run, there in zip(runs, course, strict=True):
        if there:
            present += run.own
            misses += 0 if run.named else run.own
        else:
            absent += run.own
            alarms += run.own if run.named else 0
    return alarms, absent, misses, present


def stretches(t: Track, course: Sequence[bool], duration_ms: int, *, reach_ms: int) -> list[tuple[int, int, float]]:
    """Start, end and confidence of each stretch in which the tag is there.

    An end lies midway between the last sample without and the first with the tag. A stretch that holds the first
    (last) sample goes to the clip's start (end) if that is at most `reach_ms` away, else half as far.
    The confidence is the mean of the frames' confidences and of one imaginary undecided frame.
    """
    found: list[tuple[int, int, float]] = []
    times, last = t.times_ms, len(course) - 1
    for first, until in _stretches(course):
        if first:
            start = (times[first - 1] + times[first]) // 2
        else:
            start = 0 if times[0] <= reach_ms else times[0] - reach_ms // 2
        if until < last:
            end = (times[until] + times[until + 1] + 1) // 2
        else:
            end = duration_ms if duration_ms - times[-1] <= reach_ms else times[-1] + reach_ms // 2
        inside = t.confidences[first : until + 1]
        if start < duration_ms:
            found.append((start, min(end, duration_ms), (sum(inside) + 0.5) / (len(inside) + 1)))
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
    covered = [edge for cut in within(merge(others, 0), [span]) for edge in (cut.start_ms, cut.end_ms)]
    edges = [span.start_ms, *covered, span.end_ms]
    return [replace(span, start_ms=a, end_ms=b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def within(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of spans that lie inside others."""
    cover = merge(others, 0)
    return [
        replace(span, start_ms=max(span.start_ms, o.start_ms), end_ms=min(span.end_ms, o.end_ms))
        for span in spans
        for o in cover
        if max(span.start_ms, o.start_ms) < min(span.end_ms, o.end_ms)
    ]
