"""The timeline of a scene: what stands in Stash, what was rejected, what was only found, each span once."""

from __future__ import annotations

import pytest

from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.facts import Kind, Marker, Outcome, Sample, Span
from haven_vlm.lanes import LaneTag, lanes_of, samples_at
from haven_vlm.ownership import RejectedSpan
from haven_vlm.page_data import Lane, LaneSpan, SampleState, SpanState

FOUL, DUNK, NEW = LaneTag("Foul", "Foul", "1"), LaneTag("Dunk", "Slam dunk", "2"), LaneTag("Block", "Block", "")


def marker(number: int, start_ms: int, end_ms: int | None, tag_id: str = "1") -> Marker:
    return Marker(str(number), "7", "", start_ms, end_ms, tag_id, ())


def said(
    verdict: Verdict, tag_id: str, *, before: tuple[int, int] | None = None, after: tuple[int, int] | None = None
) -> Correction:
    return Correction(Kind.SCENE, "7", verdict, Source.REVIEW, tag_id, before, after)


def lanes(
    *,
    found: tuple[Span, ...] = (),
    markers: tuple[Marker, ...] = (),
    rejected: tuple[RejectedSpan, ...] = (),
    corrections: tuple[Correction, ...] = (),
) -> dict[str, Lane]:
    made = lanes_of(
        (FOUL, DUNK, NEW),
        found=found,
        markers=markers,
        ours={"1"},
        rejected=rejected,
        corrections=corrections,
        carried={"2"},
    )
    return {lane.tag: lane for lane in made}


def drawn(lane: Lane) -> list[tuple[float, float, SpanState]]:
    return [(s.start, s.end, s.state) for s in lane.spans]


def test_markers_are_ours_the_users_or_confirmed() -> None:
    lane = lanes(
        markers=(marker(1, 0, 1_000), marker(2, 2_000, None), marker(3, 4_000, 5_000)),
        corrections=(said(Verdict.CONFIRMED, "1", before=(4_000, 5_000)), said(Verdict.REJECTED, "1")),
    )["Foul"]
    assert drawn(lane) == [(0, 1, SpanState.OURS), (2, 2, SpanState.USER), (4, 5, SpanState.CONFIRMED)]
    assert [s.marker_id for s in lane.spans] == ["1", "2", "3"]


def test_what_was_found_and_stands_nowhere_is_shown_and_what_is_covered_is_not() -> None:
    found = (Span("Foul", 0, 1_000, 0.7), Span("Foul", 3_000, 4_000, 0.8), Span("Block", 5_000, 6_000, 0.9))
    made = lanes(found=found, markers=(marker(1, 0, 1_000), marker(2, 900, 2_000), marker(3, 20_000, 21_000)))
    assert drawn(made["Foul"])[2] == (3, 4, SpanState.FOUND) and len(made["Foul"].spans) == 4
    assert [s.confidence for s in made["Foul"].spans] == [0.7, 0.7, 0.8, None]
    assert drawn(made["Block"]) == [(5, 6, SpanState.FOUND)], "also of a tag that Stash does not know yet"
    assert (made["Foul"].on_scene, made["Dunk"].on_scene, made["Block"].on_scene) == (False, True, False)


def test_a_marker_over_several_finds_is_as_sure_as_the_surest() -> None:
    found = (Span("Foul", 0, 1_000, 0.6), Span("Foul", 2_000, 3_000, 0.9), Span("Foul", 9_000, 9_500, 0.99))
    (ours, apart) = lanes(found=found, markers=(marker(1, 0, 3_000),))["Foul"].spans
    assert (ours.confidence, apart.state) == (0.9, SpanState.FOUND)


@pytest.mark.parametrize(
    ("markers", "corrections", "shown"),
    [
        ((), (), [SpanState.REJECTED]),
        ((marker(4, 1_000, 2_000),), (), [SpanState.USER]),
        ((), (said(Verdict.MOVED, "1", before=(1_000, 2_000), after=(1_500, 2_500)),), []),
    ],
    ids=["rejected", "put back", "moved"],
)
def test_a_rejected_span_is_shown_unless_it_stands_again_or_was_moved(
    markers: tuple[Marker, ...], corrections: tuple[Correction, ...], shown: list[SpanState]
) -> None:
    lane = lanes(
        found=(Span("Foul", 1_000, 2_000, 0.9),),
        markers=markers,
        rejected=(RejectedSpan("1", 1_000, 2_000),),
        corrections=corrections,
    )["Foul"]
    assert [s.state for s in lane.spans] == shown, "and is never offered as found again"


def test_a_find_that_a_rejected_span_covers_in_part_only_is_offered() -> None:
    lane = lanes(found=(Span("Foul", 0, 10_000, 0.9),), rejected=(RejectedSpan("1", 8_000, 12_000),))["Foul"]
    assert [(s.start, s.end, s.state) for s in lane.spans] == [(0, 10, SpanState.FOUND), (8, 12, SpanState.REJECTED)]
    assert all(isinstance(span, LaneSpan) for span in lane.spans)


def test_every_moment_says_what_became_of_it() -> None:
    tags = {"Foul": 0.9}
    samples = {
        0: Sample(0, 0, Outcome.TAGS, tags),
        1_000: Sample(1_000, 1_000, Outcome.TAGS, tags, inherited_from_ms=0),
        2_000: Sample(2_000, 2_000, Outcome.NONE, inherited_from_ms=2_000),
        3_000: Sample(3_000, 3_000, Outcome.UNDECODABLE),
        4_000: Sample(4_000, 4_000, Outcome.REFUSED),
    }
    at = samples_at(samples, {4_000: "an older reason", 5_000: "the server answered 500"})
    assert [(s.t, s.state, s.reason) for s in at] == [
        (0, SampleState.ASKED, ""),
        (1, SampleState.INHERITED, ""),
        (2, SampleState.BLANK, ""),
        (3, SampleState.FAILED, "no picture can be decoded"),
        (4, SampleState.FAILED, "refused"),
        (5, SampleState.FAILED, "the server answered 500"),
    ]
    assert [dict(s.tags) for s in at[:2]] == [tags, tags]
