"""Cuts and still stretches, at exactly the differences and distances from which they are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from haven_vlm.facts import Glimpse
from haven_vlm.shots import Shot, find_shots

SIZE = 1024


def flat(level: float) -> bytes:
    """A picture whose mean is this grey level: differences of means are then differences of pictures."""
    light = round(level % 1 * SIZE)
    return bytes([int(level) + 1] * light + [int(level)] * (SIZE - light))


def glimpses(*looks: tuple[int, float]) -> list[Glimpse]:
    return [Glimpse(at_ms, flat(level)) for at_ms, level in looks]


def rhythm(*levels: float, every_ms: int = 2000, from_ms: int = 0) -> list[Glimpse]:
    return glimpses(*((from_ms + i * every_ms, level) for i, level in enumerate(levels)))


def starts(looks: Sequence[Glimpse], duration_ms: int = 100_000) -> list[tuple[int, bool]]:
    return [(s.start_ms, s.exact) for s in find_shots(looks, duration_ms)]


# --- cuts ---


@pytest.mark.parametrize(("level", "is_cut"), [(100 + 5.99, False), (106, True), (94, True), (94.01, False)])
def test_out_of_rhythm_six_grey_levels_are_a_cut(level: float, is_cut: bool) -> None:
    looks = rhythm(*[100] * 10) + glimpses((19_000, level), (21_000, level))
    assert starts(looks) == [(0, True), *([(19_000, True)] if is_cut else [])]


@pytest.mark.parametrize(("level", "is_change"), [(139.9, False), (140, True), (60, True)])
def test_in_rhythm_forty_grey_levels_are_a_new_shot_that_began_before(level: float, is_change: bool) -> None:
    looks = rhythm(*[100] * 10, level)
    assert starts(looks) == [(0, True), *([(20_000, False)] if is_change else [])]


@pytest.mark.parametrize(("distance_ms", "is_cut"), [(1969, True), (1970, False), (2000, False), (2100, False)])
def test_a_keyframe_is_out_of_rhythm_below_98_and_a_half_hundredths_of_the_usual(
    distance_ms: int, is_cut: bool
) -> None:
    looks = rhythm(*[100] * 40) + glimpses((78_000 + distance_ms, 120))
    assert starts(looks) == [(0, True), *([(78_000 + distance_ms, True)] if is_cut else [])]


@pytest.mark.parametrize(("regular", "is_cut"), [(20, False), (19, True)])
def test_one_distance_in_twenty_may_be_longer_than_the_usual_one(regular: int, is_cut: bool) -> None:
    """If there are fewer others, the long distance is taken for the rhythm, and all keyframes come out of it."""
    looks = rhythm(*[100] * 3, *[120] * (regular - 2))
    looks += glimpses((looks[-1].at_ms + 9000, 120))
    assert starts(looks) == [(0, True), *([(6000, True)] if is_cut else [])]


def test_keyframes_come_in_any_order_and_those_outside_of_the_medium_do_not_count() -> None:
    looks = [*rhythm(*[100] * 6), *glimpses((-1, 240), (12_000, 240), (14_000, 90))]
    assert find_shots(looks[::-1], 12_000) == (Shot(0, 12_000, exact=True, still=True),)


def test_the_first_and_the_last_moment_of_a_medium_belong_to_it() -> None:
    looks = glimpses((0, 10), (1000, 100), (3000, 100), (5000, 100), (5999, 200))
    assert [s for s, _ in starts(looks, 6000)] == [0, 1000, 5999]
    assert [s for s, _ in starts(looks, 5999)] == [0, 1000]


def test_each_shot_ends_where_the_next_begins() -> None:
    looks = rhythm(100, 100, 100) + rhythm(160, 160, 160, every_ms=2000, from_ms=5000) + glimpses((11_000, 220))
    assert find_shots(looks, 15_000) == (
        Shot(0, 5000, exact=True, still=True),
        Shot(5000, 11_000, exact=True, still=True),
        Shot(11_000, 15_000, exact=False, still=True),
    )


@pytest.mark.parametrize("looks", [[], glimpses((0, 100)), glimpses((400, 100))])
def test_a_medium_without_two_keyframes_is_one_shot_and_not_still(looks: list[Glimpse]) -> None:
    assert find_shots(looks, 5000) == (Shot(0, 5000, exact=True, still=False),)


# --- still stretches ---


def moving(*same: bool) -> list[float]:
    """Levels of keyframes of one shot, of which these look the same as the one before (three levels are not)."""
    levels = [100.0]
    for is_same in same:
        levels.append(levels[-1] if is_same else 203 - levels[-1])
    return levels


@pytest.mark.parametrize(
    ("alike", "of", "still"), [(2, 10, True), (1, 10, False), (0, 10, False), (3, 15, True), (2, 11, False)]
)
def test_one_keyframe_in_five_like_the_one_before_makes_a_still_stretch(alike: int, of: int, still: bool) -> None:
    looks = rhythm(*moving(*[True] * alike, *[False] * (of - alike)))
    assert [s.still for s in find_shots(looks, 100_000)] == [still]


@pytest.mark.parametrize(("pairs", "still"), [(7, True), (8, False), (9, False)])
def test_eight_neighbours_tell_whether_a_shot_is_still_and_with_fewer_the_whole_medium_does(
    pairs: int, still: bool
) -> None:
    quiet = rhythm(*[30] * 30)
    busy = rhythm(*moving(*[False] * pairs), from_ms=60_000)
    assert [s.still for s in find_shots(quiet + busy, 100_000)] == [True, still]
    assert [s.still for s in find_shots(rhythm(*moving(*[False] * 30)), 100_000)] == [False]


def test_only_neighbours_within_a_shot_are_compared() -> None:
    """Of two shots of two keyframes each, one shows the same picture twice and one does not: half are alike."""
    looks = glimpses((0, 100), (2000, 100), (4000, 160), (6000, 163))
    assert [s.still for s in find_shots(looks, 8000)] == [True, True]
    assert [s.still for s in find_shots(looks[2:], 8000)] == [False]
