"""How spans that were found are held against spans that a person set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.agreement import Stretch, Tally, compare


@st.composite
def disjoint(draw: st.DrawFn) -> list[Stretch]:
    edges = sorted(draw(st.sets(st.integers(0, 500), max_size=16)))
    return list(zip(edges[::2], edges[1::2], strict=False))


def tally(true: list[Stretch], found: list[Stretch], points: tuple[int, ...] = ()) -> Tally:
    return Tally.of(compare(true, found, points))


@given(disjoint(), disjoint())
def test_every_span_is_matched_missed_or_invented(true: list[Stretch], found: list[Stretch]) -> None:
    result = tally(true, found)
    assert result.matched + result.missed == len(true)
    assert result.matched + result.invented == len(found)
    assert 0 <= result.quality <= 1
    assert len(result.errors_ms) == 2 * result.matched


@given(disjoint(), disjoint())
def test_it_does_not_matter_which_is_which(true: list[Stretch], found: list[Stretch]) -> None:
    one, other = tally(true, found), tally(found, true)
    assert (one.missed, one.invented, one.errors_ms) == (other.invented, other.missed, other.errors_ms)
    assert abs(one.iou - other.iou) < 1e-9


@given(disjoint())
def test_only_the_same_spans_are_as_good_as_can_be(spans: list[Stretch]) -> None:
    assert tally(spans, spans).quality == 1
    if spans:
        assert tally(spans, spans[1:]).quality < 1
        assert tally(spans[1:], spans).quality < 1


def test_a_span_in_two_pieces_and_two_in_one_cost_half() -> None:
    assert tally([(0, 10)], [(0, 5), (5, 10)]) == Tally(0.5, 1, 0, 1, (0, 5))
    assert tally([(0, 5), (5, 10)], [(0, 10)]) == Tally(0.5, 1, 1, 0, (0, 5))


def test_the_best_fitting_pairs_are_matched_first() -> None:
    verdicts = compare([(0, 10), (10, 12)], [(8, 13)])
    assert [(v.at_ms, v.missed) for v in verdicts] == [(11, False), (5, True)]


def test_a_marker_without_end_neither_blames_nor_praises_what_is_found_there() -> None:
    assert tally([], [(0, 10), (20, 30)], (5,)) == Tally(0.0, 0, 0, 1)


def test_shares_of_errors() -> None:
    result = Tally(errors_ms=(0, 10, 20, 30))
    assert (result.error_ms(0.5), result.error_ms(0.95), Tally().error_ms(0.5)) == (20, 30, None)
