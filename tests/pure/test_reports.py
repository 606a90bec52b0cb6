"""What a run says about itself: counted right, in words, safe to open anywhere."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import replace

from haven_vlm.facts import Kind, Span
from haven_vlm.pool_ports import EndpointStatistics, PoolStatistics
from haven_vlm.reports import MediumReport, RunReport, Status


def medium(number: int, status: Status = Status.TAGGED, **more: object) -> MediumReport:
    return MediumReport(kind=Kind.SCENE, id=str(number), title=f"Game {number}", status=status, **more)  # type: ignore[arg-type]


def run(*media: MediumReport, written: bool = True, ended: str = "") -> RunReport:
    return RunReport("tag_videos", 7, "2026-01-02T03:04:05+00:00", 93.0, media, written=written, ended_because=ended)


def test_the_summary_adds_up_and_names_every_cause_once() -> None:
    report = run(
        medium(1, asked=100, reused=20, markers_created=3),
        medium(2, asked=1, inherited=5),
        medium(3, Status.ERRORED, reason="it has no file"),
        medium(4, Status.ERRORED, reason="it has no file"),
        ended="no endpoint answers",
    )
    text = report.summary()
    assert text.splitlines()[0] == (
        "Tagged 2 of 4 scenes in 2 min: 101 questions, 20 answers known before, "
        "5 frames like their neighbour or black, 3 markers written, no frame left the network."
    )
    assert "The run ended early: no endpoint answers" in text
    assert text.count("it has no file") == 1 and "2 scenes: it has no file" in text


def test_of_a_hundred_reasons_the_most_frequent_are_told_and_the_rest_are_counted() -> None:
    media = [medium(n, Status.FAILED, reason=f"reason {n}") for n in range(100)]
    often = [medium(200 + n, Status.FAILED, reason="the drive is away") for n in range(3)]
    lines = run(*media, *often).summary().splitlines()
    assert lines[1] == "3 scenes: the drive is away"
    told = sum(line.startswith("1 scene: reason") for line in lines)
    assert 0 < told < 30 and f"{100 - told} scenes more with other reasons; the report has them all." in lines


def test_an_update_says_what_it_took_away() -> None:
    report = replace(run(medium(1, markers_created=1, markers_removed=2), medium(2, markers_removed=1)), mode="update")
    assert report.summary().startswith("Updated 2 of 2 scenes in ")
    assert "1 marker written, 3 markers of earlier runs removed, " in report.summary()
    assert "removed" not in replace(report, written=False).summary()


def test_a_preview_says_that_nothing_was_written() -> None:
    assert "Looked at 1 of 1 scene" in run(medium(1), written=False).summary()
    assert "preview" in run(medium(1), written=False).summary()


def test_frames_that_left_the_network_are_counted() -> None:
    assert "1 frame left the network" in run(medium(1, left_network=1)).summary()


def test_endpoints_that_dropped_out_are_named_with_the_setting_to_mend() -> None:
    def endpoint(name: str, state: str, reason: str = "") -> EndpointStatistics:
        return EndpointStatistics(
            name, "http://x/v1", "m", state, reason, None, 1.0, False, 4, 0, 10, {}, 0.1, 0.2, 0, 0, 0, 0
        )

    endpoints = (
        endpoint("good", "ready"),
        endpoint("wrong", "parked", "The key is refused. Mend api_key."),
        endpoint("dear", "spent", "Its max_cost is used up."),
        endpoint("away", "cooling down", "Nobody answers."),
    )
    pool = PoolStatistics(endpoints, 0, 10, 10, 0)
    lines = dataclasses.replace(run(medium(1)), pool=pool).summary().splitlines()
    assert lines[1:] == [
        "Endpoint “wrong” is out: The key is refused. Mend api_key.",
        "Endpoint “dear” is out: Its max_cost is used up.",
    ]
    ended = run(medium(1), ended="No endpoint. “wrong”: The key is refused. Mend api_key.")
    told = dataclasses.replace(ended, pool=pool)
    assert told.summary().count("Mend api_key") == 1


def test_a_scenes_line_tells_what_it_got_or_why_not() -> None:
    span = Span("Foul", 1000, 2000, 0.9)
    done = medium(1, tags=("Foul",), spans=(span,), asked=12, reused=3, inherited=1)
    assert done.line == "scene 1 “Game 1”: Foul, 1 marker (12 questions, 3 known, 1 alike)"
    assert medium(2, asked=5).line == "scene 2 “Game 2”: no tag applies (5 questions)"
    assert medium(3, Status.FAILED, reason="gone").line == "scene 3 “Game 3”: failed – gone"


def test_the_table_defuses_formulas_and_keeps_every_span() -> None:
    report = run(
        MediumReport(Kind.SCENE, "1", "=HYPERLINK(1)", Status.TAGGED, spans=(Span("Foul", 1500, 62_000, 0.875),)),
        medium(2, Status.FAILED, reason="+1"),
    )
    rows = list(csv.reader(io.StringIO(report.as_csv())))
    assert rows[1] == ["scene", "1", "'=HYPERLINK(1)", "tagged", "Foul", "0:01", "1:02", "0.88", ""]
    assert rows[2][-1] == "'+1"


def test_the_json_holds_everything() -> None:
    data = json.loads(run(medium(1, problems={"it broke": 2})).as_json())
    assert data["media"][0]["problems"] == {"it broke": 2}
    assert data["media"][0]["status"] == "tagged"
