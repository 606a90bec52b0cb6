"""Search for the threshold, gap and shortest marker of one tag that fit spans a person has set. Pure.

A grid of values is tried, today's among them. Each scene's answers are read, decoded and joined by the very code that
makes markers, once for each threshold and gap; what has become of the spans is added up by folds, so that fitting
without a fold costs no second look. While one tag is searched, the others stay as they are today.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from haven_vlm.agreement import Stretch, Tally, compare
from haven_vlm.facts import Span
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm.settings import Settings
from haven_vlm.spans import NO_ERRORS, Errors, decode, errors, merge
from haven_vlm.timeline import Reading, Rules, TagRule, related
from haven_vlm_utility import Length

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Tried for every tag; then, half a step to either side of the best."""
FINER = 0.05
GAPS_S = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 45, 60)
LEAST_S = (0, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30)

AS_GOOD = 0.001
"""Qualities closer than this are the same: then what lies nearest to today's settings is taken."""


class Choice(NamedTuple):
    """Settings of one tag that decide where its markers are."""

    threshold: float
    max_gap: Length
    min_marker_duration: Length

    @classmethod
    def of(cls, settings: Settings, tag: str) -> Choice:
        """Those of today."""
        own = next(t for t in settings.tuned_tags if t.name == tag)
        return cls(
            settings.threshold if own.threshold is None else own.threshold,
            settings.max_gap if own.max_gap is None else own.max_gap,
            settings.min_marker_duration if own.min_marker_duration is None else own.min_marker_duration,
        )

    def rule(self, today: TagRule, duration_ms: int) -> TagRule:
        """What it means in a medium of this length, where `today` holds for the rest."""
        return TagRule(
            threshold=self.threshold,
            max_gap_ms=self.max_gap.ms(duration_ms),
            min_marker_ms=self.min_marker_duration.ms(duration_ms),
            required_ms=today.required_ms,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A scene, or a stretch of one: what is fitted, or held out, as a whole."""

    scene: int
    """Place in the list of scenes."""
    from_ms: int
    until_ms: int


class Prepared:
    """A scene, ready to be read with many settings."""

    def __init__(self, scene: Reviewed, settings: Settings) -> None:
        self.scene = scene
        self.rules = Rules.of(settings, scene.duration_ms)
        self.reading = Reading(scene.samples, scene.duration_ms)

    @cached_property
    def _errors(self) -> dict[str, Errors]:
        """With today's settings: what the courses say about the model's errors."""
        read, courses = self.reading.decoded(self.rules)
        return {tag: errors(read[tag], course) for tag, course in courses.items()}

    @cached_property
    def _joined(self) -> dict[str, list[Span]]:
        return self.reading.joined(self.rules)

    def found(self, tag: str, threshold: float, gaps: Sequence[Length], least: Sequence[Length]) -> Iterator[_Found]:
        """The tag's spans with this threshold, for each gap and, within it, each shortest marker."""
        duration = self.scene.duration_ms
        bounds = [length.ms(duration) for length in least]
        for joined in self._by_gap(tag, threshold, [gap.ms(duration) for gap in gaps]):
            lengths = sorted(end - start for start, end in joined)
            kept, dropped = joined, 0
            for bound in bounds:
                short = bisect_left(lengths, bound)
                if short != dropped:
                    kept, dropped = tuple(s for s in joined if s[1] - s[0] >= bound), short
                yield kept

    def _by_gap(self, tag: str, threshold: float, gaps_ms: Sequence[int]) -> Iterator[_Found]:
        relations = _has_relations(tag, self.rules)
        if tag not in self.reading.named:
            spans = self._after_relations(tag, threshold, []) if relations else []
            yield from [tuple((s.start_ms, s.end_ms) for s in spans)] * len(gaps_ms)
            return
        track = self.reading.track(tag, threshold)
        (course,) = decode({tag: track}, beside=self._errors_beside(tag)).values()
        raw = self.reading.stretches(tag, track, course, 0)
        for gap_ms in gaps_ms:
            if course[0] or course[-1]:  # how far the ends of the medium are depends on the gap
                raw = self.reading.stretches(tag, track, course, gap_ms)
            spans = merge(raw, gap_ms)
            if relations:
                spans = self._after_relations(tag, threshold, spans)
            yield tuple((s.start_ms, s.end_ms) for s in spans)

    def _errors_beside(self, tag: str) -> Errors:
        counts = [c for other, c in self._errors.items() if other != tag] or [NO_ERRORS]
        alarms, absent, misses, present = (sum(column) for column in zip(*counts, strict=True))
        return alarms, absent, misses, present

    def _after_relations(self, tag: str, threshold: float, spans: list[Span]) -> list[Span]:
        beside = {other: found for other, found in self._joined.items() if other != tag}
        return related({**beside, tag: spans} if spans else beside, self.rules).get(tag, [])


_Found = tuple[Stretch, ...]


def _has_relations(tag: str, rules: Rules) -> bool:
    named = {name for group in rules.exclusive_groups for name in group}
    for one, others in (rules.implications or {}).items():
        named |= {one, *others}
    return tag in named


class Search:
    """The search for one tag."""

    def __init__(self, tag: str, today: Choice, scenes: Sequence[Prepared], folds: Mapping[Part, int]) -> None:
        """`folds`: the parts of the scenes that tell something about the tag, and the fold each belongs to."""
        self._tag = tag
        self._today = today
        self._scenes = scenes
        self._folds = folds
        self._count = max(folds.values(), default=0) + 1
        typical = sorted(s.scene.duration_ms for s in scenes)[len(scenes) // 2]
        self._gaps = _axis(GAPS_S, today.max_gap, typical)
        self._least = _axis(LEAST_S, today.min_marker_duration, typical)
        self._sums: dict[float, list[_Sum]] = {}
        """Threshold → for each gap and, within it, each shortest marker."""
        self._sweep({*THRESHOLDS, today.threshold})
        best = self.best().threshold
        near = {round(best - FINER, 4), round(best + FINER, 4)}
        self._sweep({t for t in near if 0 < t < 1} - self._sums.keys())

    def best(self, *, without: int | None = None) -> Choice:
        """What fits best, all folds or all but one considered; of equals, the nearest to today's settings."""
        width, today = len(self._least), self._today
        here = (self._gaps.index(today.max_gap), self._least.index(today.min_marker_duration))
        ranked: list[tuple[float, float, Choice]] = []
        for threshold, row in self._sums.items():
            for index, total in enumerate(row):
                gap, least = divmod(index, width)
                steps = (abs(threshold - today.threshold), abs(gap - here[0]) / 20, abs(least - here[1]) / 20)
                far = sum(step > 0 for step in steps) + sum(steps)  # fewer changes first, then smaller ones
                choice = Choice(threshold, self._gaps[gap], self._least[least])
                ranked.append((total.quality(without), far, choice))
        best = max(quality for quality, _, _ in ranked)
        return min(((far, choice) for quality, far, choice in ranked if quality >= best - AS_GOOD), key=itemgetter(0))[
            1
        ]

    def _sweep(self, thresholds: set[float]) -> None:
        size = len(self._gaps) * len(self._least)
        parts: dict[int, list[Part]] = {}
        for part in self._folds:
            parts.setdefault(part.scene, []).append(part)
        for threshold in sorted(thresholds):
            sums = [_Sum([0.0] * self._count, [0] * self._count) for _ in range(size)]
            for number, some in parts.items():
                self._add(sums, self._scenes[number], threshold, some)
            self._sums[threshold] = sums

    def _add(self, sums: Sequence[_Sum], scene: Prepared, threshold: float, parts: Sequence[Part]) -> None:
        truth = scene.scene.truth[self._tag]
        known: dict[_Found, list[tuple[int, float, int]]] = {}
        before: _Found | None = None
        tallies: list[tuple[int, float, int]] = []
        for total, found in zip(sums, scene.found(self._tag, threshold, self._gaps, self._least), strict=True):
            if found is not before:  # most values change nothing
                before, tallies = found, known.get(found) or self._tallies(truth, found, parts)
                known[found] = tallies
            for fold, iou, spans in tallies:
                total.iou[fold] += iou
                total.spans[fold] += spans

    def _tallies(self, truth: TagTruth, found: _Found, parts: Sequence[Part]) -> list[tuple[int, float, int]]:
        verdicts = compare(truth.spans, found, truth.points_ms)
        tallies = []
        for part in parts:
            tally = Tally.of(v for v in verdicts if part.from_ms <= v.at_ms < part.until_ms)
            if tally.spans:
                tallies.append((self._folds[part], tally.iou, tally.spans))
        return tallies


@dataclass(frozen=True, slots=True)
class _Sum:
    """What came of one choice, by fold."""

    iou: list[float]
    spans: list[int]

    def quality(self, without: int | None) -> float:
        iou, spans = math.fsum(self.iou), sum(self.spans)
        if without is not None:
            iou, spans = iou - self.iou[without], spans - self.spans[without]
        return iou / spans if spans else 1.0


def _axis(seconds: Sequence[float], today: Length, typical_ms: int) -> list[Length]:
    lengths = {Length(float(s)): round(s * 1000) for s in seconds}
    lengths = {length: ms for length, ms in lengths.items() if ms != today.ms(typical_ms)}
    lengths[today] = today.ms(typical_ms)
    return sorted(lengths, key=lambda length: (lengths[length], str(length)))
