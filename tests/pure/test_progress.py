"""The bar is honest: it never falls, ends at the end, and knows its pace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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


_event = st.tuples(st.sampled_from(["plan", "done", "close"]), st.sampled_from("abcd"), st.integers(1, 50))


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
        else:
            progress.close(lane)
    fractions = [p.fraction for p in shown]
    assert fractions == sorted(fractions)
    assert all(0 <= f <= 1 for f in fractions)
