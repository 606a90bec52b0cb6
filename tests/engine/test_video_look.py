"""What is kept in memory of a video that is looked at: bounded, however long it is."""

from __future__ import annotations

from haven_vlm.facts import Frame, Term
from haven_vlm.ports import AnswerKey, VideoJob
from haven_vlm.prompts import build_prompt
from haven_vlm.video_look import Look, Spare


def frame(at_ms: int, *, grey: int = 0, size: int = 10) -> Frame:
    return Frame(at_ms, at_ms, bytes(size), 4, 4, bytes([grey]) * 1024)


def never_opened() -> object:
    raise AssertionError("nothing is opened")


def look() -> Look:
    job = VideoJob("scene 1", "scene 1", "oshash:1", 10_000, "p", never_opened)  # type: ignore[arg-type]
    return Look(job, AnswerKey("oshash:1", "p", build_prompt((Term("Dunk"),))), {}, {})


def test_the_oldest_spare_pictures_go_when_there_is_no_room() -> None:
    spare = Spare(25)
    for at_ms in (1, 2, 2, 3):
        spare.put(frame(at_ms))
    assert [at_ms in spare for at_ms in (1, 2, 3)] == [False, True, True]
    taken = spare.take(2)
    assert taken is not None and taken.at_ms == 2
    spare.put(frame(4))
    assert [at_ms in spare for at_ms in (2, 3, 4)] == [False, True, True], "what was taken makes room"
    assert spare.take(1) is None
    spare.put(frame(5, size=100))
    assert [at_ms in spare for at_ms in (3, 4, 5)] == [False, False, False], "one that is too large is not kept either"


def test_of_a_very_long_video_only_the_latest_frames_are_compared() -> None:
    seen = look()
    seen.asking(frame(0, grey=200))
    assert seen.alike(frame(500, grey=200)) == 0
    for n in range(1, 4097):
        seen.asking(frame(n * 1000, grey=n % 2 * 100))
    assert seen.alike(frame(500, grey=200)) is None, "its likeness was dropped: it is asked about itself"
    assert seen.alike(frame(4_096_500)) == 4_096_000
