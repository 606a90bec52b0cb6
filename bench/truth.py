"""Clips that are only plans, and models that are only oracles: what `bench.markers` measures with."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from demo.footage import TAGS, Motion
from haven_vlm.facts import Glimpse, Span

SIDE = 32
"""Width and height of a look."""


@dataclass(frozen=True)
class Clip:
    """What is to be seen when, and what it would look like."""

    duration_ms: int
    spans: tuple[Span, ...]
    cuts_ms: tuple[int, ...]
    motion: Motion
    seed: int
    tags: tuple[str, ...] = TAGS
    gop_ms: int = 10_000
    """Usual distance of keyframes."""
    keys_at_cuts: bool = True
    """Whether the encoder put a keyframe on each cut, as x264 and x265 do."""

    def at(self, at_ms: int) -> frozenset[str]:
        """The tags that apply at a time."""
        return self._sets[bisect_right(self._edges, at_ms)]

    @cached_property
    def _edges(self) -> list[int]:
        return sorted({edge for s in self.spans for edge in (s.start_ms, s.end_ms)})

    @cached_property
    def _sets(self) -> list[frozenset[str]]:
        return [frozenset()] + [
            frozenset(s.tag for s in self.spans if s.start_ms <= edge < s.end_ms) for edge in self._edges
        ]

    def survey(self) -> tuple[Glimpse, ...]:
        """A look at each keyframe."""
        keys, at = [], 0
        cuts = list(self.cuts_ms) if self.keys_at_cuts else []
        while at < self.duration_ms:
            keys.append(at)
            following = at + self.gop_ms
            if cuts and cuts[0] <= following:
                following = cuts.pop(0)
            at = following
        return tuple(Glimpse(k, self.luma(k)) for k in keys)

    def luma(self, at_ms: int) -> bytes:
        """32 × 32 grey values: a view for each shot that may scroll, below it a card for each tag, and sensor noise."""
        shot = bisect_right(self.cuts_ms, at_ms)
        view = self._view(shot)
        if self.motion == "busy":  # much of the view turns around once in seven seconds
            offset = at_ms * SIDE // 7000 % SIDE
            crowd = [row[offset:] + row[:offset] for row in self._view(-1 - shot)]
            share = 1 + shot * 7919 % 6  # of ten: how much of it moves differs from shot to shot
            view = [
                [((10 - share) * a + share * b) // 10 for a, b in zip(*rows, strict=True)]
                for rows in zip(view, crowd, strict=True)
            ]
        dice = random.Random(at_ms * 7 + self.seed)
        flat = [value for row in view for value in row]
        for number, tag in enumerate(self.tags):
            level = 190 if tag in self.at(at_ms) else 60
            for y in range(28, 32):
                for x in range(number * 4, number * 4 + 3):
                    flat[y * SIDE + x] = level
        if self.motion == "calm":
            x, y = at_ms // 150 % 28, 6 + at_ms // 400 % 12
            for row in range(y, y + 3):
                for column in range(x, x + 3):
                    flat[row * SIDE + column] = 230
        return bytes(min(255, max(0, value + dice.randint(-1, 1))) for value in flat)

    def _view(self, shot: int) -> list[list[int]]:
        if shot not in self._views:
            dice = random.Random(self.seed * 100_003 + shot)
            shades = dice.choice(((0, 60, 110), (0, 120, 255), (90, 180, 255), (0, 30, 250)))
            blocks = [[dice.choice(shades) for _ in range(8)] for _ in range(8)]
            self._views[shot] = [[blocks[y // 4][x // 4] for x in range(SIDE)] for y in range(SIDE)]
        return self._views[shot]

    @cached_property
    def _views(self) -> dict[int, list[list[int]]]:
        return {}


def loose(
    minutes: float,
    spans: int,
    seed: int,
    *,
    shortest_s: float = 1,
    longest_s: float = 60,
    shot_s: float = 12,
    motion: Motion = "busy",
) -> Clip:
    """Spans anywhere, whatever the cuts; those of one tag at least six seconds apart."""
    dice = random.Random(f"loose {minutes} {spans} {seed}")
    duration = round(minutes * 60_000)
    placed: list[Span] = []
    for number in range(spans):
        for _ in range(400):
            tag = TAGS[number % len(TAGS)] if number < len(TAGS) else dice.choice(TAGS)
            length = round(1000 * dice.uniform(shortest_s, longest_s))
            start = dice.randrange(0, duration - length)
            if _free(placed, tag, start, start + length):
                placed.append(Span(tag, start, start + length, 1.0))
                break
    return Clip(duration, _sorted(placed), _cuts(duration, shot_s, dice), motion, seed)


def edited(
    minutes: float,
    spans: int,
    seed: int,
    *,
    shot_s: float,
    longest_s: float = 60,
    motion: Motion = "busy",
    gop_s: float = 10,
    keys_at_cuts: bool = True,
) -> Clip:
    """Spans of whole shots: what is to be seen changes where the picture does."""
    dice = random.Random(f"edited {minutes} {spans} {seed}")
    duration = round(minutes * 60_000)
    cuts = _cuts(duration, shot_s, dice)
    edges = [0, *cuts, duration]
    placed: list[Span] = []
    for number in range(spans):
        for _ in range(400):
            tag = TAGS[number % len(TAGS)] if number < len(TAGS) else dice.choice(TAGS)
            first = dice.randrange(len(edges) - 1)
            until = edges[first] + 1000 * dice.uniform(1, longest_s)
            end = next((e for e in edges[first + 1 :] if e >= until), duration)
            if end - edges[first] <= 1000 * max(longest_s, shot_s * 2) and _free(placed, tag, edges[first], end):
                placed.append(Span(tag, edges[first], end, 1.0))
                break
    return Clip(duration, _sorted(placed), cuts, motion, seed, gop_ms=round(gop_s * 1000), keys_at_cuts=keys_at_cuts)


def _free(placed: Sequence[Span], tag: str, start: int, end: int) -> bool:
    return all(end + 6000 <= s.start_ms or s.end_ms + 6000 <= start for s in placed if s.tag == tag)


def _sorted(placed: Sequence[Span]) -> tuple[Span, ...]:
    return tuple(sorted(placed, key=lambda s: (s.start_ms, s.tag)))


def _cuts(duration_ms: int, shot_s: float, dice: random.Random) -> tuple[int, ...]:
    cuts: list[int] = []
    at = 0.0
    while (at := at + 1000 * shot_s * dice.uniform(0.3, 1.7)) < duration_ms - 2000:
        cuts.append(round(at / 40) * 40)
    return tuple(cuts)


class Model(Protocol):
    """An oracle, right or wrong."""

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The tags it names at a time; the same ones each time it is asked."""
        ...


@dataclass(frozen=True)
class Perfect:
    """Always right."""

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The truth."""
        return clip.at(at_ms)


@dataclass(frozen=True)
class Unsure:
    """Wrong about each tag of each frame with the same chance, as sure as when it is right."""

    rate: float
    seed: int

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The truth, with misses and false alarms."""
        dice = random.Random(f"{self.seed} {at_ms}")
        there = clip.at(at_ms)
        return frozenset(tag for tag in clip.tags if (tag in there) != (dice.random() < self.rate))


@dataclass(frozen=True)
class Muddled:
    """Right about single pictures; in company it mixes up two neighbours in this share of the questions."""

    rate: float
    seed: int

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The truth."""
        return clip.at(at_ms)

    def in_company(self, times_ms: Sequence[int]) -> list[int]:
        """For each picture of a question the moment of the one that is taken for it."""
        dice = random.Random(f"muddled {self.seed} {times_ms[0]} {len(times_ms)}")
        taken = list(times_ms)
        if len(taken) > 1 and dice.random() < self.rate:
            first = dice.randrange(len(taken) - 1)
            taken[first], taken[first + 1] = taken[first + 1], taken[first]
        return taken


@dataclass(frozen=True)
class SamePicture:
    """Errs as `Unsure`, but the same way whenever the picture is the same, as models without chance do."""

    rate: float
    seed: int

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The truth, with misses and false alarms that last as long as the picture of a still clip."""
        there = clip.at(at_ms)
        dice = random.Random(f"{self.seed} {bisect_right(clip.cuts_ms, at_ms)} {sorted(there)}")
        return frozenset(tag for tag in clip.tags if (tag in there) != (dice.random() < self.rate))


@dataclass(frozen=True)
class ShortSighted:
    """Sees a tag only in pictures that are large enough for it."""

    side_px: int
    seed: int
    needs_px: tuple[int, ...] = (1, 1, 448, 448, 640, 640, 896, 896)

    def answer(self, clip: Clip, at_ms: int) -> frozenset[str]:
        """The part of the truth that can be made out."""
        there = clip.at(at_ms)
        return frozenset(
            tag for tag, px in zip(clip.tags, self.needs_px, strict=True) if tag in there and px <= self.side_px
        )
