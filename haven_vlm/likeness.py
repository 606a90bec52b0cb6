"""Whether two frames show the same picture, and whether a frame shows nothing at all. Pure.

Works on the 32 × 32 grey values that every frame carries, without NumPy: a comparison takes under 0.1 ms.

The measure is the mean absolute difference of the grey values (0–255 scale). On moving footage, frames one second
apart within a shot differ by 7 to 55, frames on both sides of a cut by 40 to 100; only very small differences mean
the same picture. A mean hides a small thing that moves in a still scene, so the pixels that changed are counted as
well. Both limits are conservative: a picture wrongly taken for new costs a question, one wrongly taken for the same
costs a right answer.
"""

from __future__ import annotations

from operator import sub

SAME_MEAN = 2.0
"""Mean absolute difference, in grey levels, up to which two looks may be the same picture."""

SAME_LEVELS = 18
"""Grey levels from which a single one of the 1,024 values counts as changed."""

SAME_CHANGED = 4
"""Changed values up to which two looks may be the same picture: less than half a percent of the area."""

BLANK_SPREAD = 8
"""Grey levels between the darkest and the lightest value up to which a frame is one empty surface."""

BLACK_LEVEL = 22
"""Grey level up to which every value is black (16 in video) with a little noise."""

_SMALL = bytes(range(SAME_LEVELS))


def difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two looks in grey levels, 0 to 255.

    Raises:
        ValueError: they are of different sizes, or empty.
    """
    return sum(_differences(one, other)) / len(one)


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether two looks show the same picture, so that a model would give the same answer.

    Raises:
        ValueError: they are of different sizes, or empty.
    """
    if one == other and one:
        return True
    differences = _differences(one, other)
    changed = len(differences.translate(None, delete=_SMALL))
    return changed <= SAME_CHANGED and sum(differences) <= SAME_MEAN * len(one)


def is_blank(luma: bytes) -> bool:
    """Whether a look shows nothing: black, or one empty surface of any grey. Not worth a question.

    Raises:
        ValueError: it is empty.
    """
    lightest = max(luma)
    return lightest <= BLACK_LEVEL or lightest - min(luma) <= BLANK_SPREAD


def _differences(one: bytes, other: bytes) -> bytes:
    if len(one) != len(other) or not one:
        raise ValueError(f"looks of {len(one)} and {len(other)} bytes cannot be compared")
    return bytes(map(abs, map(sub, one, other)))
