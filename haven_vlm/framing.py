"""Which part of a video's picture counts: without black bars, and of a VR video one eye's centre. Pure.

Both are decided once for a file, from the same moments every time, so that every frame of it shows the same
part and a repeated run makes the same pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Projection = Literal[
    "auto", "vr", "flat", "180", "180-left-right", "180-top-bottom", "360", "360-left-right", "360-top-bottom"
]
"""How a picture is to be looked at. `auto`: from the file's own tags, its name, and whether its halves are alike.
`vr`: somebody said that it is a VR video, and only the layout has to be found out, in the same way."""

PROBES: tuple[float, ...] = (0.08, 0.2, 0.32, 0.44, 0.56, 0.68, 0.8, 0.92)
"""Shares of the duration at which keyframes are looked at when the first frame leaves a doubt."""

BLACK_MEAN = 20
"""Grey value (0 to 255) up to which the mean of a row or column counts as black; above video noise."""
BLACK_PEAK = 44
"""No block of a black row or column is lighter than this; a caption in a bar keeps the bar."""
LEAST_BAR = 0.015
"""Bars narrower than this share of a side are left alone."""
LEAST_PICTURE = 0.2
"""Less than this share of the area is no picture with bars but a dark scene with a lamp in it."""
VR_LEAST_WIDTH_PX = 2800
"""VR videos below this width are not worth watching; without hints nothing smaller is taken for one."""
EYES_ALIKE = 14.0
"""Mean difference (0 to 255) of two 32 × 32 looks up to which they may be the two eyes of one scene."""
LEAST_TEXTURE = 12.0
"""Mean deviation from the mean grey below which two halves are alike because there is nothing on them."""

_CENTRE_180 = (0.2, 0.2, 0.8, 0.8)
_CENTRE_360 = (0.32, 0.15, 0.68, 0.85)
_LEFT_RIGHT = re.compile(r"(?<![A-Z0-9])(SBS|LR|3DH|HSBS|MKX200|MKX220|VRCA220|RF52|FISHEYE(190)?)(?![A-Z0-9])")
_TOP_BOTTOM = re.compile(r"(?<![A-Z0-9])(TB|OU|3DV|HOU)(?![A-Z0-9])")
_ANGLE = re.compile(r"(?<![A-Z0-9])(?:VR)?(180|360)(?:X180)?(?![A-Z0-9])")
_VR = re.compile(r"(?<![A-Z0-9])(VR|MKX200|MKX220|VRCA220|RF52|FISHEYE(190)?)(?![A-Z0-9])")


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture as it is stored, in shares of width and height from the upper left corner."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def within(self, outer: Box) -> Box:
        """This box, if its shares are meant of `outer`, in shares of the whole."""
        width, height = outer.right - outer.left, outer.bottom - outer.top
        return Box(
            outer.left + self.left * width,
            outer.top + self.top * height,
            outer.left + self.right * width,
            outer.top + self.bottom * height,
        )


WHOLE = Box()


@dataclass(frozen=True, slots=True)
class Probe:
    """What one frame says about bars and eyes."""

    edges: Box | None
    """The part that is not black; None: the whole frame is."""
    luma: bytes
    """32 × 32 grey values, row by row."""


def lit_part(rows: Sequence[bytes], columns: Sequence[bytes]) -> Box | None:
    """The part of a frame that is not black.

    Args:
        rows: for each row of the frame a few grey values, averages of blocks along it.
        columns: the same for each column.

    Returns:
        The smallest box that holds all rows and columns that are not black; None if all are.
    """
    lit_rows, lit_columns = _lit(rows), _lit(columns)
    if lit_rows is None or lit_columns is None:
        return None
    return Box(
        lit_columns[0] / len(columns),
        lit_rows[0] / len(rows),
        (lit_columns[1] + 1) / len(columns),
        (lit_rows[1] + 1) / len(rows),
    )


def _lit(lines: Sequence[bytes]) -> tuple[int, int] | None:
    def is_lit(line: bytes) -> bool:
        return max(line) > BLACK_PEAK or sum(line) > BLACK_MEAN * len(line)

    first = next((n for n, line in enumerate(lines) if is_lit(line)), None)
    if first is None:
        return None
    last = next(n for n in range(len(lines) - 1, -1, -1) if is_lit(lines[n]))
    return first, last


def has_no_bars(probe: Probe) -> bool:
    """Whether this frame alone settles that there is nothing to crop."""
    return probe.edges is not None and _without_slivers(probe.edges) == WHOLE


def without_bars(probes: Sequence[Probe]) -> Box:
    """The picture inside the bars: all that is lit in any of the frames. The whole, unless three frames agree."""
    lit = [p.edges for p in probes if p.edges is not None]
    if len(lit) < 3:
        return WHOLE
    union = Box(
        min(b.left for b in lit), min(b.top for b in lit), max(b.right for b in lit), max(b.bottom for b in lit)
    )
    box = _without_slivers(union)
    area = (box.right - box.left) * (box.bottom - box.top)
    return box if area >= LEAST_PICTURE else WHOLE


def _without_slivers(box: Box) -> Box:
    return Box(
        box.left if box.left >= LEAST_BAR else 0.0,
        box.top if box.top >= LEAST_BAR else 0.0,
        box.right if box.right <= 1 - LEAST_BAR else 1.0,
        box.bottom if box.bottom <= 1 - LEAST_BAR else 1.0,
    )


def named_projection(name: str) -> Projection:
    """The projection that a file's name tells in the manner of VR sites ('…_180_LR.mp4'); `auto` if it tells none."""
    text = name.upper()
    angle = _ANGLE.search(text)
    left_right, top_bottom = _LEFT_RIGHT.search(text), _TOP_BOTTOM.search(text)
    if not angle and not _VR.search(text):
        return "auto"
    if left_right or top_bottom:
        wide = angle is not None and angle[1] == "360"
        if left_right:
            return "360-left-right" if wide else "180-left-right"
        return "360-top-bottom" if wide else "180-top-bottom"
    return "auto"


def may_be_vr(width_px: int, height_px: int) -> bool:
    """Whether a picture of this size can hold two eyes: twice as wide as high, or square, and large."""
    return width_px >= VR_LEAST_WIDTH_PX and (_near(width_px, 2 * height_px) or _near(width_px, height_px))


def seen_projection(width_px: int, height_px: int, probes: Sequence[Probe]) -> Projection:
    """The projection that the pictures themselves tell: two eyes that see the same, in every frame looked at."""
    if not may_be_vr(width_px, height_px):
        return "flat"
    pairs = [_halves(p.luma, side_by_side=width_px > height_px * 1.5) for p in probes if p.edges is not None]
    textured = [pair for pair in pairs if min(_texture(pair[0]), _texture(pair[1])) >= LEAST_TEXTURE]
    if len(textured) < 3 or any(_difference(*pair) > EYES_ALIKE for pair in textured):
        return "flat"
    # a square frame of two eyes holds two wide halves: 360 degrees each
    return "180-left-right" if width_px > height_px * 1.5 else "360-top-bottom"


def told_projection(width_px: int, height_px: int, probes: Sequence[Probe]) -> Projection:
    """The most likely projection of a video that is said to be VR, of whatever size.

    Two eyes that mostly see the same tell the layout. Where the pictures are too plain to tell: what VR videos of
    this shape usually are. `flat` only for shapes that no VR video has.
    """
    lumas = [p.luma for p in probes if p.edges is not None]
    pairs = {side: [_halves(luma, side_by_side=side) for luma in lumas] for side in (True, False)}
    alike = {side: _are_eyes(pairs[side]) for side in (True, False)}
    if _near(width_px, height_px):
        return "360-top-bottom" if alike[False] else "180-left-right" if alike[True] else "180"
    if width_px < height_px:
        return "flat"
    if alike[True]:
        return "180-left-right"
    if alike[False]:
        return "360-top-bottom" if _near(width_px, 2 * height_px) else "180-top-bottom"
    if not _near(width_px, 2 * height_px):
        return "flat"
    told = any(min(_texture(one), _texture(other)) >= LEAST_TEXTURE for one, other in pairs[True])
    return "360" if told else "180-left-right"


def _are_eyes(pairs: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether most of the halves that show anything show the same."""
    textured = [pair for pair in pairs if min(_texture(pair[0]), _texture(pair[1])) >= LEAST_TEXTURE]
    return bool(textured) and 2 * sum(_difference(*pair) <= EYES_ALIKE for pair in textured) > len(textured)


def viewed_part(projection: Projection) -> Box:
    """The part to look at: the left or upper eye, and of it the centre, where a viewer looks."""
    angle, _, layout = projection.partition("-")
    if angle not in ("180", "360"):
        return WHOLE
    centre = Box(*(_CENTRE_180 if angle == "180" else _CENTRE_360))
    eye = {"left-right": Box(0, 0, 0.5, 1), "top-bottom": Box(0, 0, 1, 0.5)}.get(layout, WHOLE)
    return centre.within(eye)


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= 0.04 * wanted


def _halves(luma: bytes, *, side_by_side: bool) -> tuple[bytes, bytes]:
    if not side_by_side:
        return luma[:512], luma[512:]
    lines = [luma[n : n + 32] for n in range(0, 1024, 32)]
    return b"".join(line[:16] for line in lines), b"".join(line[16:] for line in lines)


def _difference(one: bytes, other: bytes) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def _texture(values: bytes) -> float:
    mean = sum(values) / len(values)
    return sum(abs(v - mean) for v in values) / len(values)
