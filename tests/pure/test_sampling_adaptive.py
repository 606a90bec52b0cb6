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
from tests.pure.looking import right, run, settings


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
