"""The adaptive policy: shots from keyframes, one look at each, still stretches for nothing."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from haven_vlm.facts import Glimpse
from haven_vlm.sampling import make_sampler
from haven_vlm.shots import find_shots
from tests.pure.looking import looks, right, run, settings


def view(number: int, noise: int = 0) -> bytes:
    """A picture that differs much from every other number's; `noise` 0 to 255 makes frames of a shot differ."""
    dice, grain = random.Random(number), random.Random(noise)
    return bytes(min(255, dice.choice((20, 220)) + grain.randrange(30 if noise else 1)) for _ in range(1024))


def keyframes(*shots: int, gop_ms: int = 10_000, moving: bool = True) -> tuple[Glimpse, ...]:
    """Keyframes of shots that start at these times and of which the last takes 30 s: on each cut, then in rhythm."""
    found = []
    for number, (start, end) in enumerate(pairwise([*shots, shots[-1] + 30_000])):
        found += [Glimpse(at, view(number, noise=at if moving else 0)) for at in range(start, end, gop_ms)]
    return tuple(found)


def test_keyframes_out_of_rhythm_with_a_new_picture_are_cuts() -> None:
    shots = find_shots(keyframes(0, 13_000, 19_000, 45_000), 75_000)
    assert [(s.start_ms, s.end_ms) for s in shots] == [
        (0, 13_000),
        (13_000, 19_000),
        (19_000, 45_000),
        (45_000, 75_000),
    ]
    assert all(s.exact and not s.still for s in shots)


def test_a_new_picture_in_rhythm_began_some_time_before() -> None:
    looks = tuple(Glimpse(t, view(t >= 20_000)) for t in range(0, 60_000, 2000))
    assert [(s.start_ms, s.exact) for s in find_shots(looks, 60_000)] == [(0, True), (20_000, False)]


def test_keyframes_that_all_look_the_same_make_a_still_stretch() -> None:
    assert all(s.still for s in find_shots(keyframes(0, 45_000, moving=False), 75_000))
    assert not any(s.still for s in find_shots(keyframes(0, 45_000), 75_000))


@runs(deadline=None)
@given(st.lists(st.tuples(st.integers(-1000, 100_000), st.integers(0, 5)), max_size=30), st.integers(0, 90_000))
def test_shots_cover_the_whole_whatever_the_keyframes_are(raw: list[tuple[int, int]], duration_ms: int) -> None:
    looks = tuple(Glimpse(at, view(n)) for at, n in raw)
    shots = find_shots(looks, duration_ms)
    assert shots[0].start_ms == 0
    assert shots[-1].end_ms == duration_ms
    assert all(a.end_ms == b.start_ms for a, b in pairwise(shots))
    sampler = make_sampler(settings(sampling="adaptive"), duration_ms, looks)
    now = sampler.wish({}).now
    assert now[0] == 0
    assert all(0 <= t <= max(0, duration_ms - 100) for t in now)
    assert len(now) <= duration_ms / 1000 + 3  # never denser than twice the scan


def test_each_shot_gets_a_look_and_long_ones_a_few() -> None:
    starts = (0, 13_000, 19_000, 21_000, 75_000)
    now = make_sampler(settings(sampling="adaptive"), 105_000, keyframes(*starts)).wish({}).now
    for start, end in pairwise((*starts, 105_000)):
        assert any(start <= t < end for t in now)
    assert len(now) < 20
    assert max(b - a for a, b in pairwise(now)) <= 16_000


def test_looks_lie_behind_cuts_and_evenly_within_long_shots() -> None:
    """A shot with one look is asked about at its other end, one with several beside each look and never before it."""
    starts = (0, 13_000, 19_000, 21_000, 75_000)
    assert looks(make_sampler(settings(sampling="adaptive"), 105_000, keyframes(*starts))) == [
        (0, [400], [12_800, 400]),
        (13_200, [13_600], [18_800, 13_600]),
        (19_200, [19_600], [20_800, 19_600]),
        (21_200, [21_600], [21_600, 22_000]),
        (34_650, [35_050], [35_050, 34_250]),
        (48_100, [48_500], [48_500, 47_700]),
        (61_550, [61_950], [61_950, 61_150]),
        (75_200, [75_600], [75_600, 76_000]),
        (90_100, [90_500], [90_500, 89_700]),
        (104_900, [104_500], [104_500]),
    ]


def test_a_fine_tolerance_brings_all_closer() -> None:
    wanted = settings(sampling="adaptive", boundary_tolerance=0.1)
    assert looks(make_sampler(wanted, 43_000, keyframes(0, 13_000)))[:4] == [
        (0, [400], [12_950, 100]),
        (13_050, [13_450], [13_150, 13_250]),
        (28_025, [28_425], [28_125, 27_925]),
        (42_900, [42_500], [42_800]),
    ]


@pytest.mark.parametrize(
    ("interval", "times"),
    [
        (1, [0, 6500, 13_200, 20_650, 28_100, 35_550, 42_900]),  # at most eight intervals apart
        (2, [0, 13_200, 28_100, 42_900]),  # and at most 16 s
        (20, [0, 13_200, 28_100, 42_900]),
        (40, [0, 13_200, 42_900]),
    ],
)
def test_within_a_shot_looks_are_eight_intervals_apart(interval: float, times: list[int]) -> None:
    wanted = settings(sampling="adaptive", video_frame_interval=interval)
    now = make_sampler(wanted, 43_000, keyframes(0, 13_000)).wish({}).now
    assert [*now] == times


def test_the_other_end_of_the_last_shot_is_asked_about_if_it_can_be_shown() -> None:
    survey = keyframes(0, 13_000, gop_ms=40_000)
    for tolerance, votes in ((0.22, [14_390, 13_330]), (0.2, [14_400, 13_300]), (0.18, [13_270])):
        wanted = settings(sampling="adaptive", video_frame_interval=8, boundary_tolerance=tolerance)
        assert looks(make_sampler(wanted, 14_500, survey))[-1][2] == votes


@pytest.mark.parametrize(
    ("interval", "shot_ms", "looks_within"),
    [(1, 8000, 1), (1, 8001, 2), (1, 16_000, 2), (1, 16_001, 3), (2, 16_000, 1), (2.5, 16_001, 2), (20, 20_001, 2)],
)
def test_a_shot_gets_one_look_more_for_each_such_distance(interval: float, shot_ms: int, looks_within: int) -> None:
    wanted = settings(sampling="adaptive", video_frame_interval=interval)
    survey = keyframes(0, shot_ms, gop_ms=40_000)
    now = make_sampler(wanted, shot_ms + 30_000, survey).wish({}).now
    assert len([t for t in now if t < shot_ms]) == looks_within


def test_a_look_within_a_quarter_of_the_interval_before_the_end_is_enough() -> None:
    survey = keyframes(0, 13_000, gop_ms=40_000)
    for duration_ms, behind_the_cut in ((14_500, [13_200]), (15_299, [13_200]), (15_300, [13_200, 15_200])):
        wanted = settings(sampling="adaptive", video_frame_interval=8)
        now = make_sampler(wanted, duration_ms, survey).wish({}).now
        assert [t for t in now if t > 13_000] == behind_the_cut


@pytest.mark.parametrize(
    ("interval", "shot_ms", "looked_at"),
    [(2, 1199, False), (2, 1200, True), (8, 1199, False), (8, 1200, True), (1.6, 999, False), (1.6, 1000, True)],
)
def test_flashes_get_no_look(interval: float, shot_ms: int, looked_at: bool) -> None:
    """Less than a second, or than half an interval, behind the margin at its start."""
    survey = keyframes(0, 2000, 2000 + shot_ms)
    now = (
        make_sampler(settings(sampling="adaptive", video_frame_interval=interval), 32_000 + shot_ms, survey)
        .wish({})
        .now
    )
    assert (2200 in now) == looked_at
    assert 2200 + shot_ms in now


def test_of_a_flash_at_the_start_the_first_frame_is_looked_at() -> None:
    now = make_sampler(settings(sampling="adaptive"), 30_300, keyframes(0, 300)).wish({}).now
    assert now == (0, 500, 15_400, 30_200)


@pytest.mark.parametrize(("duration_ms", "times"), [(599, [0]), (600, [0, 500]), (601, [0, 501])])
def test_an_end_next_to_a_look_gets_none_of_its_own(duration_ms: int, times: list[int]) -> None:
    survey = (Glimpse(0, view(0)),)
    assert [*make_sampler(settings(sampling="adaptive"), duration_ms, survey).wish({}).now] == times


def test_nothing_is_looked_at_behind_the_last_moment() -> None:
    """A shot of a quarter of a second at the very end: behind its margin there is no frame to count on."""
    wanted = settings(sampling="adaptive", video_frame_interval=0.1)
    now = make_sampler(wanted, 13_260, keyframes(0, 13_000)[:3]).wish({}).now
    assert max(now) <= 13_160


def test_keyframes_change_nothing_for_other_policies() -> None:
    for policy in ("fixed", "refine"):
        plain = make_sampler(settings(sampling=policy), 75_000)
        assert make_sampler(settings(sampling=policy), 75_000, keyframes(0, 13_000, 45_000)).wish({}) == plain.wish({})


def test_ends_at_cuts_are_found_with_one_more_look_each_and_to_the_frame() -> None:
    starts = (0, 13_000, 24_000, 33_000, 45_000)
    sampler = make_sampler(settings(sampling="adaptive"), 75_000, keyframes(*starts))
    anchors = len(sampler.wish({}).now)
    found = run(sampler, right({"Dunk": ((13_000, 24_000),), "Foul": ((13_000, 33_000),)}))
    assert len(found) == anchors + 3
    for cut in (13_000, 24_000, 33_000):
        assert {cut - 200, cut + 200} <= found.keys()


def test_ends_within_a_shot_are_searched_as_everywhere() -> None:
    sampler = make_sampler(settings(sampling="adaptive"), 75_000, keyframes(0, 13_000, 45_000))
    found = run(sampler, right({"Dunk": ((13_000, 37_000),)}))
    inside = sorted(t for t in found if 30_000 < t < 45_000)
    assert min(b - a for a, b in pairwise(inside) if a < 37_000 <= b) <= 500


@pytest.mark.parametrize(("skip_similar", "densely"), [(True, True), (False, False)])
def test_still_stretches_are_looked_at_densely_only_where_that_is_free(skip_similar: bool, densely: bool) -> None:
    wanted = settings(sampling="adaptive", skip_similar_frames=skip_similar)
    now = make_sampler(wanted, 330_000, keyframes(0, 300_000, moving=False)).wish({}).now
    assert (len(now) > 160) == densely


def test_without_keyframes_it_looks_as_refine_does() -> None:
    for survey in (None, ()):
        adaptive = make_sampler(settings(sampling="adaptive"), 60_000, survey)
        assert adaptive.wish({}) == make_sampler(settings(), 60_000).wish({})


def test_a_wide_interval_is_not_stretched_further() -> None:
    wanted = settings(sampling="adaptive", video_frame_interval=80)
    now = make_sampler(wanted, 630_000, keyframes(0, 600_000)).wish({}).now
    assert max(b - a for a, b in pairwise(now)) <= 80_000
