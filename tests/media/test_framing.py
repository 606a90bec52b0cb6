"""Bars and eyes: pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.framing import (
    LEAST_BAR,
    WHOLE,
    Box,
    Probe,
    Projection,
    has_no_bars,
    lit_part,
    may_be_vr,
    named_projection,
    seen_projection,
    told_projection,
    viewed_part,
    without_bars,
)

shares = st.floats(0, 1, allow_nan=False)
FLAT = bytes(1024)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, right = sorted([draw(shares), draw(shares)])
    top, bottom = sorted([draw(shares), draw(shares)])
    return Box(left, top, right, bottom)


@given(st.lists(boxes(), max_size=8), st.integers(0, 3))
def test_a_crop_never_cuts_what_is_lit_and_never_cuts_slivers(lit: list[Box], black: int) -> None:
    probes = [Probe(b, FLAT) for b in lit] + [Probe(None, FLAT)] * black
    crop = without_bars(probes)
    if len(lit) < 3:
        assert crop == WHOLE
    for box in lit:
        assert crop.left <= box.left
        assert crop.top <= box.top
        assert crop.right >= box.right
        assert crop.bottom >= box.bottom
    for cut in (crop.left, crop.top, 1 - crop.right, 1 - crop.bottom):
        assert cut == 0 or cut >= LEAST_BAR - 1e-9


@given(boxes(), boxes())
def test_a_part_of_a_part_lies_within_it(inner: Box, outer: Box) -> None:
    part = inner.within(outer)
    assert outer.left - 1e-9 <= part.left <= part.right <= outer.right + 1e-9
    assert outer.top - 1e-9 <= part.top <= part.bottom <= outer.bottom + 1e-9
    assert inner.within(WHOLE) == inner


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.integers(60, 255))
def test_the_lit_part_is_found_to_the_line(top: int, left: int, tall: int, wide: int, light: int) -> None:
    height, width = top + tall + 7, left + wide + 5
    rows = [bytes([light if top <= y < top + tall else 3] * 16) for y in range(height)]
    columns = [bytes([light if left <= x < left + wide else 3] * 16) for x in range(width)]
    assert lit_part(rows, columns) == Box(left / width, top / height, (left + wide) / width, (top + tall) / height)


def test_noise_in_black_is_black_and_a_caption_is_not() -> None:
    noise = [bytes([8, 20, 12, 16] * 4)] * 50
    assert lit_part(noise, noise) is None
    caption = [*noise[:40], bytes([8] * 12 + [120] * 4), *noise[41:]]
    assert lit_part(caption, caption) is not None


def test_one_frame_that_fills_the_picture_settles_it() -> None:
    assert has_no_bars(Probe(Box(0.01, 0, 1, 0.99), FLAT))
    assert not has_no_bars(Probe(Box(0.1, 0, 1, 1), FLAT))
    assert not has_no_bars(Probe(None, FLAT))


@pytest.mark.parametrize(
    ("name", "projection"),
    [
        ("Match_180_LR.mp4", "180-left-right"),
        ("match_180x180_3dh_LR.mp4", "180-left-right"),
        ("match.VR180.SBS.mkv", "180-left-right"),
        ("match_MKX200.mp4", "180-left-right"),
        ("match_360_TB.mp4", "360-top-bottom"),
        ("match_360_OU_VR.mp4", "360-top-bottom"),
        ("match 180 TB.mp4", "180-top-bottom"),
        ("match.mp4", "auto"),
        ("a 360 turn.mp4", "auto"),
        ("match_LR.mp4", "auto"),
        ("1803 LRX.mp4", "auto"),
        ("", "auto"),
    ],
)
def test_names_tell_how_a_film_is_to_be_looked_at(name: str, projection: str) -> None:
    assert named_projection(name) == projection


@pytest.mark.parametrize(
    ("projection", "box"),
    [
        ("flat", WHOLE),
        ("auto", WHOLE),
        ("180", Box(0.2, 0.2, 0.8, 0.8)),
        ("180-left-right", Box(0.1, 0.2, 0.4, 0.8)),
        ("180-top-bottom", Box(0.2, 0.1, 0.8, 0.4)),
        ("360-left-right", Box(0.16, 0.15, 0.34, 0.85)),
    ],
)
def test_one_eye_and_its_centre(projection: Projection, box: Box) -> None:
    part = viewed_part(projection)
    assert (part.left, part.top, part.right, part.bottom) == pytest.approx((box.left, box.top, box.right, box.bottom))


def eyes(difference: int) -> Probe:
    lines = []
    for y in range(32):
        half = [(x * 37 + y * 91) % 200 for x in range(16)]
        lines.append(bytes(half) + bytes((v + difference) % 256 for v in half))
    return Probe(WHOLE, b"".join(lines))


def test_two_eyes_are_known_by_seeing_the_same() -> None:
    assert seen_projection(5760, 2880, [eyes(3)] * 3) == "180-left-right"
    assert seen_projection(5760, 2880, [eyes(3)] * 2) == "flat"
    assert seen_projection(5760, 2880, [eyes(3), eyes(3), eyes(3), eyes(55)]) == "flat"
    assert seen_projection(1920, 1080, [eyes(3)] * 3) == "flat"
    assert seen_projection(5760, 2880, [Probe(WHOLE, FLAT)] * 5) == "flat"
    assert seen_projection(5760, 2880, [Probe(None, FLAT)] * 5) == "flat"
    square = Probe(WHOLE, bytes((x * 37 + y % 16 * 91) % 200 for y in range(32) for x in range(32)))
    assert seen_projection(4096, 4096, [square] * 3) == "360-top-bottom"


def test_of_a_video_that_is_said_to_be_vr_only_the_layout_is_found_out() -> None:
    stacked = Probe(WHOLE, bytes((x * 37 + y % 16 * 91) % 200 for y in range(32) for x in range(32)))
    whole = Probe(WHOLE, bytes((x * 37 + y * 91) % 200 for y in range(32) for x in range(32)))
    assert told_projection(1920, 960, [eyes(3)]) == "180-left-right"  # of any size, and with few pictures
    assert told_projection(1920, 960, [eyes(3), eyes(3), eyes(55)]) == "180-left-right"
    assert told_projection(1920, 1080, [eyes(3)] * 3) == "180-left-right"
    assert told_projection(1920, 960, [stacked] * 3) == "360-top-bottom"
    assert told_projection(1920, 1080, [stacked] * 3) == "180-top-bottom"
    assert told_projection(2048, 2048, [stacked] * 3) == "360-top-bottom"
    assert told_projection(2048, 2048, [eyes(3)] * 3) == "180-left-right"
    assert told_projection(2048, 2048, [whole] * 3) == "180"
    assert told_projection(3840, 1920, [whole] * 3) == "360"
    assert told_projection(3840, 1920, [Probe(WHOLE, FLAT)] * 3) == "180-left-right"  # too plain to tell
    assert told_projection(3840, 1920, [Probe(None, FLAT)]) == "180-left-right"
    assert told_projection(1920, 1080, [whole] * 3) == "flat"
    assert told_projection(1080, 1920, [stacked] * 3) == "flat"


def test_only_large_films_of_the_right_shape_may_be_vr() -> None:
    assert may_be_vr(3840, 1920)
    assert may_be_vr(4096, 4096)
    assert not may_be_vr(3840, 2160)
    assert not may_be_vr(1920, 960)
