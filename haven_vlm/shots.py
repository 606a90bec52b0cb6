"""Shots and still stretches of a video, from a cheap look at its keyframes. Pure.

Encoders put a keyframe on a cut, out of the rhythm in which they put them otherwise: such a keyframe with a new
picture is a cut, exact to the frame. A new picture on a keyframe in rhythm tells only that something changed since
the one before. Keyframes that all show the same picture make a still stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from haven_vlm.facts import Glimpse
from haven_vlm.likeness import difference, same_picture

CUT_DIFFERENCE = 18.0
"""Mean difference in grey levels (0–255) from which a keyframe out of rhythm is a cut."""

CHANGE_DIFFERENCE = 40.0
"""Mean difference from which a keyframe in rhythm shows a new shot: across cuts it is 40 to 100, mostly less within."""

RHYTHM = 0.96
"""A keyframe that comes after less than this share of the usual distance is out of rhythm."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch without a cut."""

    start_ms: int
    end_ms: int
    """Start of the next shot, or the end of the medium."""
    exact: bool
    """The start is the first frame of the shot; else the shot began some time before it."""
    still: bool
    """All its keyframes show the same picture."""


def find_shots(glimpses: Sequence[Glimpse], duration_ms: int) -> tuple[Shot, ...]:
    """Cut a medium into shots; they follow on each other and cover it whole.

    Args:
        glimpses: keyframes, ascending by time; those beyond the end are left out.
        duration_ms: length of the medium.
    """
    looks = [g for g in glimpses if g.at_ms < duration_ms]
    shots: list[Shot] = []
    start, exact, still = 0, True, len(looks) > 0
    usual = _rhythm(looks)
    for before, look in pairwise(looks):
        distance = look.at_ms - before.at_ms
        if distance <= 0 or same_picture(before.luma, look.luma):
            continue
        out_of_rhythm = distance < RHYTHM * usual
        if difference(before.luma, look.luma) >= (CUT_DIFFERENCE if out_of_rhythm else CHANGE_DIFFERENCE):
            shots.append(Shot(start, look.at_ms, exact, still))
            start, exact, still = look.at_ms, out_of_rhythm, True
        else:
            still = False
    return (*shots, Shot(start, max(duration_ms, start), exact, still))


def _rhythm(looks: Sequence[Glimpse]) -> int:
    """The distance of keyframes when nothing calls for one: nearly the longest there is, of stray long ones apart."""
    distances = sorted(b.at_ms - a.at_ms for a, b in pairwise(looks))
    return distances[min(len(distances) - 1, len(distances) * 19 // 20)] if distances else 0
