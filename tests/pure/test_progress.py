"""The bar is honest: it never falls, ends at the end, and knows its pace."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import OutageError
from haven_vlm.progress import Pace, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pace_and_time_to_go() -> None:
    clock, shown = Clock(), list[Pace]()
    progress = Progress(shown.append, clock=clock)
    progress.media(1)
    progress.plan("scene 1", 100)
    for _ in range(41):
        progress.done("scene 1")
        clock.now += 0.5
    pace = progress.pace()
    assert (pace.done, pace.planned, round(pace.fraction, 2)) == (41, 100, 0.41)
    assert round(pace.per_minute) == 120
    assert pace.remaining_s is not None and round(pace.remaining_s, 1) == 29.5
    assert str(pace) == "41 of about 100 frames, 120 a minute, about 30 s to go"


def test_media_that_wait_count_as_the_average_of_the_others() -> None:
    progress = Progress(lambda _: None, clock=Clock())
    progress.media(4)
    progress.plan("a", 50)
    progress.plan("b", 150)
    assert progress.pace().planned == 400
    progress.done("a", 50)
    progress.close("a")
    assert progress.pace().planned == 400


def test_media_without_a_question_move_the_bar_too() -> None:
    progress = Progress(lambda _: None, clock=Clock())
    progress.media(2)
    progress.close("a")
    progress.close("b")
    assert progress.pace().fraction == 1.0


def test_a_medium_that_is_cut_short_is_not_finished_and_what_it_lacks_is_still_to_do() -> None:
    shown: list[Pace] = []
    progress = Progress(shown.append, clock=Clock())
    progress.media(2)
    with pytest.raises(OutageError), progress.working("scene 1"):
        progress.plan("scene 1", 30)
        progress.done("scene 1", 8)
        raise OutageError("nobody answers")
    assert progress.media_count == (2, 0)
    pace = progress.pace()
    assert (pace.done, pace.planned, pace.fraction) == (8, 60, 8 / 60)
    assert shown[-1].done == 8 and shown[-1].fraction < 1
    assert progress.lanes(9) == []  # nobody works on it any more


def test_media_that_were_cut_short_before_anything_was_known_leave_the_bar_at_0() -> None:
    progress = Progress(lambda _: None, clock=Clock())
    progress.media(1)
    with pytest.raises(asyncio.CancelledError), progress.working("scene 1"):
        progress.begin("scene 1", "A match")
        raise asyncio.CancelledError
    assert progress.pace().fraction == 0 and progress.media_count == (1, 0)


def test_a_medium_that_was_worked_on_is_finished_whatever_came_of_it() -> None:
    progress = Progress(lambda _: None, clock=Clock())
    progress.media(1)
    with progress.working("scene 1"):
        progress.plan("scene 1", 30)
    assert progress.pace().fraction == 1 and progress.media_count == (1, 1)


_event = st.tuples(st.sampled_from(["plan", "done", "close", "abandon"]), st.sampled_from("abcd"), st.integers(1, 50))


@given(st.lists(_event, max_size=60))
def test_the_bar_never_falls_and_stays_between_0_and_1(events: list[tuple[str, str, int]]) -> None:
    shown: list[Pace] = []
    progress = Progress(shown.append, clock=Clock())
    progress.media(4)
    for kind, lane, count in events:
        if kind == "plan":
            progress.plan(lane, count)
        elif kind == "done":
            progress.done(lane, count)
        elif kind == "abandon":
            progress.abandon(lane)
        else:
            progress.close(lane)
    fractions = [p.fraction for p in shown]
    assert fractions == sorted(fractions)
    assert all(0 <= f <= 1 for f in fractions)
