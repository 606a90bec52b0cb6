"""Which moments of a correction are shown, what the user's word means for each, and the lines that come of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.collection import Moment, Shot, applies, examples, moments_of, moments_of_span, record, spread
from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.facts import Frame, Kind, MediaFile, Medium, Outcome, Sample, Term
from haven_vlm.prompts import build_prompt

WRONG = Correction(
    Kind.SCENE, "7", Verdict.REJECTED, Source.FLAG, "3", before=(10_000, 20_000), at=86_400.0, tag="Dunk", id=5
)
MOVED = replace(WRONG, verdict=Verdict.MOVED, after=(15_000, 25_000))
PROMPT = build_prompt([Term("Dunk"), Term("Foul")])
SCENE = Medium(
    Kind.SCENE, "7", "Final", (MediaFile("/secret/place/final.mp4", 9, {"oshash": "ab"}, 60.0, 640, 360),), frozenset()
)


def sample(at_ms: int, **tags: float) -> Sample:
    return Sample(at_ms, at_ms, Outcome.TAGS if tags else Outcome.NONE, tags, "tiny")


def asked(*times_ms: int, **tags: float) -> dict[int, Sample]:
    return {t: sample(t, **tags) for t in times_ms}


def frame(at_ms: int) -> Frame:
    return Frame(at_ms, at_ms, b"jpeg", 64, 36, b"")


def test_without_answers_the_span_itself_tells_the_moments() -> None:
    assert [(m.place, m.at_ms) for m in moments_of_span((10_000, 20_000), {}, 60_000)] == [
        ("outside_before", 9_000),
        ("start", 10_000),
        ("middle", 15_000),
        ("end", 19_999),
        ("outside_after", 21_000),
    ]


def test_the_very_pictures_the_model_saw_are_shown() -> None:
    samples = asked(*range(0, 60_000, 4_000))
    assert [m.at_ms for m in moments_of_span((10_000, 21_000), samples, 60_000)] == [
        8_000,
        12_000,
        16_000,
        20_000,
        24_000,
    ]


def test_an_answer_far_away_does_not_stand_for_what_lies_just_outside() -> None:
    samples = asked(0, 40_000, 80_000)
    shown = {m.place: m.at_ms for m in moments_of_span((35_000, 45_000), samples, 90_000)}
    assert (shown["start"], shown["outside_before"], shown["outside_after"]) == (40_000, 34_000, 46_000)


@pytest.mark.parametrize(("span", "left_out"), [((0, 5_000), "outside_before"), ((5_000, 60_000), "outside_after")])
def test_there_is_nothing_outside_the_film(span: tuple[int, int], left_out: str) -> None:
    assert left_out not in {m.place for m in moments_of_span(span, {}, 60_000)}


@given(
    st.tuples(st.integers(0, 100_000), st.integers(1, 50_000)),
    st.lists(st.integers(0, 160_000), max_size=30),
    st.integers(1, 160_000),
)
def test_moments_lie_where_their_names_say(span: tuple[int, int], times: list[int], duration: int) -> None:
    start, end = span[0], span[0] + span[1]
    found = {m.place: m.at_ms for m in moments_of_span((start, end), asked(*times), max(duration, end))}
    assert start <= found["start"] <= found["end"] < end
    assert start <= found["middle"] < end
    assert 0 <= found.get("outside_before", 0) < max(start, 1)
    assert found.get("outside_after", end) >= end


def test_a_move_shows_both_spans_and_each_time_once() -> None:
    shown = moments_of(MOVED, {}, 60_000)
    assert [m.at_ms for m in shown] == sorted({m.at_ms for m in shown})
    assert Moment(20_000, "new_middle") in shown
    assert [applies(MOVED, t) for t in (9_000, 12_000, 16_000, 22_000, 26_000)] == [None, False, True, True, None]


def test_a_tag_of_a_whole_scene_is_shown_where_the_model_saw_it() -> None:
    whole = replace(WRONG, before=None)
    samples = asked(*range(0, 40_000, 4_000), Dunk=0.8) | asked(50_000, Dunk=0.9) | asked(52_000, Foul=1.0)
    shown = moments_of(whole, samples, 60_000)
    assert [m.at_ms for m in shown] == [0, 4_000, 8_000, 12_000, 50_000]
    assert applies(whole, 4_000) is False


def test_without_any_answer_a_whole_scene_is_shown_evenly() -> None:
    whole = replace(WRONG, before=None)
    assert [m.at_ms for m in moments_of(whole, {}, 50_000)] == [5_000, 15_000, 25_000, 35_000, 45_000]
    assert [m.at_ms for m in moments_of(whole, {}, None)] == [0]


def test_a_whole_result_says_nothing_about_a_single_picture() -> None:
    whole = Correction(Kind.SCENE, "7", Verdict.REJECTED, Source.FLAG, "")
    shown = moments_of(whole, {}, 60_000, [(10_000, 20_000)])
    assert [m.place for m in shown] == ["outside_before", "start", "middle", "end", "outside_after"]
    assert {applies(whole, m.at_ms) for m in shown} == {None}


def test_a_line_holds_all_that_is_needed_and_no_path() -> None:
    shots = [(Shot(frame(15_000), "middle", sample(15_000, Dunk=0.9, Foul=1.0)), "frames/a.jpg")]
    line = record(WRONG, SCENE, shots=shots, prompt=PROMPT, picture="jpeg1:640", local_only=True)
    assert json.loads(json.dumps(line)) == {
        "schema": 1,
        "correction": 5,
        "kind": "scene",
        "medium_id": "7",
        "title": "Final",
        "file_identity": "oshash:ab:9",
        "width_px": 640,
        "height_px": 360,
        "local_only": True,
        "verdict": "rejected",
        "source": "flag",
        "tag": "Dunk",
        "tag_id": "3",
        "before_ms": [10_000, 20_000],
        "after_ms": None,
        "marker_id": "",
        "run_id": None,
        "said_at": "1970-01-02T00:00:00+00:00",
        "picture": "jpeg1:640",
        "prompt": {"key": PROMPT.key, "system": PROMPT.system, "user": PROMPT.user, "schema": dict(PROMPT.schema)},
        "frames": [
            {
                "file": "frames/a.jpg",
                "place": "middle",
                "at_ms": 15_000,
                "shown_ms": 15_000,
                "width_px": 64,
                "height_px": 36,
                "applies": False,
                "answer": {
                    "outcome": "tags",
                    "tags": {"Dunk": 0.9, "Foul": 1.0},
                    "model": "tiny",
                    "inherited_from_ms": None,
                },
            }
        ],
    }
    nameless = replace(SCENE, files=(MediaFile("/secret/place/final.mp4", 9),))
    assert "secret" not in json.dumps(record(WRONG, nameless, shots=(), prompt=PROMPT, picture="", local_only=False))


def test_a_problem_is_a_line_without_pictures() -> None:
    line = record(WRONG, SCENE, shots=(), prompt=PROMPT, picture="", local_only=False, problem="it is empty")
    assert (line["problem"], "frames" in line, "gone" in line) == ("it is empty", False, False)
    gone = record(WRONG, None, shots=(), prompt=PROMPT, picture="", local_only=False, problem="it is gone")
    assert gone["gone"] is True


def test_chats_have_the_answer_as_it_should_be() -> None:
    shots = [
        (Shot(frame(12_000), "start", sample(12_000, Dunk=0.9, Foul=1.0)), "a.jpg"),
        (Shot(frame(22_000), "new_middle", sample(22_000)), "b.jpg"),
        (Shot(frame(23_000), "new_end"), "never-asked.jpg"),
        (Shot(frame(40_000), "outside_after", sample(40_000)), "said-nothing-about.jpg"),
    ]
    line = record(MOVED, SCENE, shots=shots, prompt=PROMPT, picture="", local_only=False)
    chats = list(examples(line, ["Dunk", "Foul"]))
    assert [c["messages"][2]["content"] for c in chats] == ['{"tags":["Foul"]}', '{"tags":["Dunk"]}']
    assert [c["messages"][1]["content"][1]["image_url"]["url"] for c in chats] == ["a.jpg", "b.jpg"]
    assert chats[0]["messages"][0] == {"role": "system", "content": PROMPT.system}


@given(st.integers(0, 60), st.integers(1, 20))
def test_what_is_spread_keeps_its_order_and_bound(count: int, most: int) -> None:
    items = [str(n) for n in range(count)]
    chosen = spread(items, most)
    assert len(chosen) == min(count, most) and len(set(chosen)) == len(chosen)
    assert [int(c) for c in chosen] == sorted(map(int, chosen))
