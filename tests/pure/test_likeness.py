"""When two looks are the same picture, and when a frame shows nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from haven_vlm.likeness import difference, is_blank, same_picture

looks = st.binary(min_size=1024, max_size=1024)
GREY = bytes([120]) * 1024


def changed(look: bytes, count: int, levels: int) -> bytes:
    return bytes(v + levels for v in look[:count]) + look[count:]


@runs(deadline=None)
@given(looks, looks)
def test_likeness_has_no_direction(one: bytes, other: bytes) -> None:
    assert same_picture(one, other) == same_picture(other, one)
    assert difference(one, other) == difference(other, one)
    assert difference(one, other) == sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 1024


@runs(deadline=None)
@given(looks)
def test_a_picture_is_like_itself(look: bytes) -> None:
    assert same_picture(look, look)
    assert difference(look, look) == 0


@runs(deadline=None)
@given(looks, looks)
def test_what_differs_visibly_on_the_whole_is_never_the_same(one: bytes, other: bytes) -> None:
    if difference(one, other) > 2:
        assert not same_picture(one, other)


def test_noise_of_the_encoder_is_no_new_picture() -> None:
    noisy = bytes(v + (i % 3) - 1 for i, v in enumerate(GREY))
    assert same_picture(GREY, noisy)


def test_a_small_thing_that_moves_in_a_still_scene_is_a_new_picture() -> None:
    """Nine of 1,024 values changed: the mean alone (0.35 levels) would hide it."""
    assert difference(GREY, changed(GREY, 9, 40)) < 0.4
    assert not same_picture(GREY, changed(GREY, 9, 40))


def test_a_slow_fade_is_a_new_picture_in_time() -> None:
    assert same_picture(GREY, changed(GREY, 1024, 2))
    assert not same_picture(GREY, changed(GREY, 1024, 3))


@pytest.mark.parametrize("compare", [same_picture, difference])
@pytest.mark.parametrize(("one", "other"), [(b"", b""), (GREY, GREY[:-1]), (b"", GREY)])
def test_looks_of_different_size_are_refused(compare: object, one: bytes, other: bytes) -> None:
    assert callable(compare)
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(one, other)


def test_black_and_empty_frames_are_blank() -> None:
    assert is_blank(bytes(1024))
    assert is_blank(bytes([16, 20] * 512))
    assert is_blank(bytes([250]) * 1024)
    assert is_blank(GREY)


def test_a_dark_scene_is_not_blank() -> None:
    assert not is_blank(changed(bytes([16]) * 1024, 40, 15))
    with pytest.raises(ValueError, match="empty"):
        is_blank(b"")
