"""Shots and still stretches of a video, from a cheap look at its keyframes. Pure.

Encoders put a keyframe on a cut, out of the rhythm in which they put them otherwise: such a keyframe with a new
picture is a cut, exact to the frame. A very different picture on a keyframe in rhythm tells that there was a cut since
the one before. Keyframes that all show the same picture make a still stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from haven_vlm.facts import Glimpse
from haven_vlm.likeness import difference, same_picture

CUT_DIFFERENCE = 6.0
"""Mean difference in grey levels (0–255) from which a keyframe out of rhythm is a cut."""

CHANGE_DIFFERENCE = 40.0
"""Mean difference from which a keyframe in rhythm shows a new shot: across cuts it is 40 to 100, mostly less within."""

RHYTHM = 0.985
"""A keyframe that comes after less than this share of the usual distance is out of rhythm."""


STILL_SHARE = 0.2
"""Share of the neighbouring keyframes that must show the same picture for a stretch to be still. Where something moves
they never do; where nothing does they differ only when what is to be seen changes."""

ENOUGH = 8
"""Neighbouring keyframes of one shot that tell whether it is still; with fewer, all of the medium's are asked."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch without a cut."""

    start_ms: int
    end_ms: int
    """Start of the next shot, or the end of the medium."""
    exact: bool
    """The start is the first frame of the shot; else the shot began some time before it."""
    still: bool
    """Enough of its keyframes show the same picture as the one before; if it has few, enough of the medium's do."""


def find_shots(glimpses: Sequence[Glimpse], duration_ms: int) -> tuple[Shot, ...]:
    """Cut a medium into shots; they follow on each other and cover it whole.

    Args:
        glimpses: keyframes in any order; those outside the medium are left out.
        duration_ms: length of the medium.
    """
    looks = sorted((g for g in glimpses if 0 <= g.at_ms < duration_ms), key=lambda g: g.at_ms)
    usual = _rhythm(looks)
    early = [look.at_ms - before.at_ms < RHYTHM * usual for before, look in pairwise(looks)]
    differences = [difference(before.luma, look.luma) for before, look in pairwise(looks)]
    cuts = [out_of_rhythm and d >= CUT_DIFFERENCE for out_of_rhythm, d in zip(early, differences, strict=True)]
    changes = [d >= CHANGE_DIFFERENCE for d in differences]
    starts, exact, alike = [0], [True], [list[bool]()]
    for (before, look), is_cut, is_change in zip(pairwise(looks), cuts, changes, strict=True):
        if is_cut or is_change:
            starts.append(look.at_ms)
            exact.append(is_cut)
            alike.append([])
        else:
            alike[-1].append(same_picture(before.luma, look.luma))
    everywhere = [same for pairs in alike for same in pairs]
    ends = [*starts[1:], max(duration_ms, starts[-1])]
    return tuple(
        Shot(start, end, is_cut, _is_still(pairs if len(pairs) >= ENOUGH else everywhere))
        for start, end, is_cut, pairs in zip(starts, ends, exact, alike, strict=True)
    )


def _is_still(alike: Sequence[bool]) -> bool:
    return bool(alike) and sum(alike) >= STILL_SHARE * len(alike)


def _rhythm(looks: Sequence[Glimpse]) -> int:
    """The distance of keyframes when nothing calls for one: nearly the longest there is, but for stray long ones."""
    distances = sorted(b.at_ms - a.at_ms for a, b in pairwise(looks))
    return distances[len(distances) * 19 // 20] if distances else 0
