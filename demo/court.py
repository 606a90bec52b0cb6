"""What a frame of the generated clips looks like, and how its truth is read back from a picture.

A frame is a basketball court with a moving ball above a board of cards, one card for each tag. A card is light
with a dark foot while its tag applies, and dark with a light foot while it does not: reading compares the two
halves of a card, so brightness, contrast, JPEG and scaling do not matter, and a picture that is not ours is
refused instead of guessed at. A strip of blocks along the top edge carries the frame's time in the same way.

Drawing uses Pillow only. Positions are shares of width and height, so cropped bars and other sizes do no harm.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TAGS: tuple[str, ...] = (
    "Basketball point",
    "Foul",
    "Break-away",
    "Turnover",
    "Free throw",
    "Dunk",
    "Fast break",
    "Timeout",
)
"""The vocabulary of the clips unless a plan brings its own; the order is the order of the cards."""

MAX_TAGS = 16
"""More cards than this would be too small to be read after scaling."""

STRIP_SHARE = 1 / 32
"""Height of the time strip: one row of a 32 × 32 look, in which its light and dark halves cancel out."""
STRIP_BITS = 24
"""Bits of the time in milliseconds: enough for four and a half hours, and a parity bit."""
COURT_SHARE = 0.60
"""Where the court ends and the board begins, from the top."""
CONTRAST = 40
"""Grey levels between the two halves of a card or block below which it counts as unreadable."""

_LIGHT, _DARK = (238, 226, 196), (24, 30, 44)
_FOOT_ON, _FOOT_OFF = (20, 24, 34), (150, 158, 170)
_FLOORS = ((196, 128, 62), (170, 104, 60), (92, 126, 150), (120, 140, 92), (150, 92, 104), (206, 160, 96))
_BOARDS = ((38, 44, 58), (52, 40, 36), (30, 52, 60), (46, 36, 58))
_BALL = (232, 110, 28)
_SHIRTS = ((206, 40, 50), (40, 80, 190), (240, 240, 240), (34, 34, 40))

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def truth_of(picture: bytes | Image.Image, tags: Sequence[str] = TAGS) -> frozenset[str]:
    """The tags that the picture says apply.

    Args:
        picture: a JPEG (or any file Pillow opens), or an open image, uncropped, of any size from about 160 px.
        tags: the vocabulary of the clip's plan, in its order.

    Raises:
        ValueError: the picture carries no such board.
    """
    grey = _grey(picture)
    found = []
    for tag, box in zip(tags, _cards(grey.width, grey.height, len(tags)), strict=True):
        x0, y0, x1, y1 = box
        height = y1 - y0
        light = _mean(grey, (x0, y0 + height * 0.08, x1, y0 + height * 0.24))
        dark = _mean(grey, (x0, y0 + height * 0.84, x1, y0 + height * 0.96))
        if abs(light - dark) < CONTRAST:
            raise ValueError(f"the picture carries no readable card for “{tag}”")
        if light > dark:
            found.append(tag)
    return frozenset(found)


def seen_in(picture: bytes, tags: Sequence[str] = TAGS) -> frozenset[str]:
    """As `truth_of`; nothing in a picture of something else, such as those that Check Endpoints asks about."""
    try:
        return truth_of(picture, tags)
    except ValueError:
        return frozenset()


def time_of(picture: bytes | Image.Image) -> int:
    """The time in milliseconds that the frame was drawn for.

    Raises:
        ValueError: the picture carries no readable time strip.
    """
    grey = _grey(picture)
    height, cell = grey.height * STRIP_SHARE, grey.width / STRIP_BITS
    bits = []
    for index in range(STRIP_BITS):
        x0, x1 = (index + 0.25) * cell, (index + 0.75) * cell
        upper = _mean(grey, (x0, height * 0.05, x1, height * 0.4))
        lower = _mean(grey, (x0, height * 0.6, x1, height * 0.9))
        if abs(upper - lower) < CONTRAST / 2:
            raise ValueError("the picture carries no readable time")
        bits.append(upper > lower)
    if sum(bits) % 2:
        raise ValueError("the time in the picture is damaged")
    return sum(1 << index for index, bit in enumerate(bits[:-1]) if bit)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Draws the parts of a frame of one size."""

    width_px: int
    height_px: int

    def backdrop(self, shot: int, present: frozenset[str], tags: Sequence[str]) -> Image.Image:
        """Court and board without anything that moves (RGB); the shot decides the colours and the camera."""
        width, height = self.width_px, self.height_px
        dice = random.Random(shot * 7919 + 17)
        floor, board = dice.choice(_FLOORS), dice.choice(_BOARDS)
        image = Image.new("RGB", (width, height), floor)
        draw = ImageDraw.Draw(image)
        court = height * COURT_SHARE
        for plank in range(0, 24, 2):
            draw.rectangle((width * plank / 24, 0, width * (plank + 1) / 24, court), fill=_shade(floor, 0.94))
        pen, line = max(2, height // 160), (245, 240, 228)
        shift = dice.uniform(-0.25, 0.25) * width
        draw.rectangle((width * 0.03, height * 0.20, width * 0.97, court * 0.97), outline=line, width=pen)
        middle, radius = width / 2 + shift, height * 0.11
        centre = court * 0.66
        draw.line((middle, height * 0.20, middle, court * 0.97), fill=line, width=pen)
        draw.ellipse((middle - radius, centre - radius, middle + radius, centre + radius), outline=line, width=pen)
        for edge, inner in ((0.03, 0.20), (0.80, 0.97)):
            draw.rectangle((width * edge, centre - radius, width * inner, centre + radius), outline=line, width=pen)
        draw.rectangle((0, court, width, height), fill=board)
        font = _font(height / 34)
        for tag, (x0, y0, x1, y1) in zip(tags, _cards(width, height, len(tags)), strict=True):
            on = tag in present
            body, foot, ink = (_LIGHT, _FOOT_ON, (30, 30, 30)) if on else (_DARK, _FOOT_OFF, (120, 128, 140))
            draw.rectangle((x0, y0, x1, y1), fill=body)
            draw.rectangle((x0, y0 + (y1 - y0) * 0.80, x1, y1), fill=foot)
            if font is not None:
                draw.text(((x0 + x1) / 2, y0 + (y1 - y0) * 0.52), tag, fill=ink, font=font, anchor="mm")
        return image

    def crowd(self, shot: int) -> Image.Image:
        """A soft, busy stand of spectators (grey), twice as wide as the picture, to be scrolled."""
        width, height = self.crowd_size
        dice = random.Random(shot * 104729 + 3)
        columns, rows = max(8, width // max(1, self.height_px // 40)), 5
        # neighbouring blocks differ, wide waves of light and dark make frames a second apart differ as well
        values = bytes(
            min(235, max(16, int(110 + 70 * math.sin(x * 0.19 + shot) + dice.randrange(-42, 42))))
            for _ in range(rows)
            for x in range(columns)
        )
        return Image.frombytes("L", (columns, rows), values).resize((width * 2, height), Image.Resampling.BILINEAR)

    @property
    def crowd_size(self) -> tuple[int, int]:
        """Width and height in pixels of the part of the stand that is in the picture; even numbers."""
        return self.width_px, int(self.height_px * 0.15) // 2 * 2

    @property
    def crowd_top(self) -> int:
        """Distance of the stand from the upper edge in pixels, an even number."""
        return math.ceil(self.height_px * STRIP_SHARE / 2) * 2

    def strip(self, at_ms: int) -> Image.Image:
        """The time strip (grey, video range)."""
        height = max(2, round(self.height_px * STRIP_SHARE))
        value = at_ms % (1 << (STRIP_BITS - 1))
        bits = [value >> index & 1 for index in range(STRIP_BITS - 1)]
        bits.append(sum(bits) % 2)
        rows = Image.frombytes(
            "L", (STRIP_BITS, 2), bytes([*(200 if b else 56 for b in bits), *(56 if b else 200 for b in bits)])
        )
        return rows.resize((self.width_px, height), Image.Resampling.NEAREST)

    def movers(self, shot: int, at_s: float) -> list[tuple[float, float, float, RGB]]:
        """Players and ball at a time: centre x and y, radius (all in pixels), colour. The ball is last."""
        width, height = self.width_px, self.height_px
        dice = random.Random(shot * 31 + 5)
        top, bottom = height * 0.26, height * COURT_SHARE * 0.93
        out = []
        for index in range(6):
            phase, pace = dice.uniform(0, 6.3), dice.uniform(0.25, 0.7)
            x = width * (0.5 + 0.42 * math.sin(phase + at_s * pace))
            y = top + (bottom - top) * (0.5 + 0.45 * math.sin(phase * 2 + at_s * pace * 1.3))
            out.append((x, y, height * 0.032, _SHIRTS[index % 2 + 2 * (shot % 2)]))
        x = width * (0.5 + 0.44 * math.sin(at_s * 0.9 + shot))
        y = bottom - (bottom - top) * abs(math.sin(at_s * 2.6))
        out.append((x, y, height * 0.024, _BALL))
        return out


def _cards(width: float, height: float, count: int) -> list[Box]:
    columns = math.ceil(count / 2)
    rows = math.ceil(count / columns) if columns else 0
    boxes = []
    top, tall = height * (COURT_SHARE + 0.015), height * (1 - COURT_SHARE - 0.025)
    for index in range(count):
        column, row = index % columns, index // columns
        x0, x1 = width * (column + 0.05) / columns, width * (column + 0.95) / columns
        y0, y1 = top + tall * (row + 0.05) / rows, top + tall * (row + 0.95) / rows
        boxes.append((x0, y0, x1, y1))
    return boxes


def _grey(picture: bytes | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("L")
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("L")


def _mean(grey: Image.Image, box: Box) -> int:
    return grey.resize((1, 1), Image.Resampling.BOX, box=box).tobytes()[0]


def _shade(colour: RGB, factor: float) -> RGB:
    red, green, blue = (min(255, round(c * factor)) for c in colour)
    return red, green, blue


def _font(size_px: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.load_default(max(6, round(size_px)))
    except (ImportError, OSError):  # Pillow without FreeType: cards without words read just as well
        return None
