"""What the search works with: probes that add up, answers read with hysteresis, ends that are doubted."""

from __future__ import annotations

import pytest

from haven_vlm.facts import Outcome, Sample
from haven_vlm.probing import FAILED, NOTHING, AnswerReader, Ends, Look, Probe, Progress, Rules, cut_margin
from tests.pure.looking import failed, sample

RULES = Rules(tolerance_ms=500, thresholds={"Dunk": 0.5, "Foul": 0.9, "Timeout": 0.0}, gaps_ms={})


def answered(**tags: float) -> Sample:
    return Sample(0, 0, Outcome.TAGS if tags else Outcome.NONE, tags)


def test_nothing_is_wanted_before_anything_was() -> None:
    fresh = Progress()
    assert (fresh.wanted, fresh.ahead, fresh.settled, fresh.extra) == ({}, 0, 0, 0)


def test_what_several_tags_want_is_wanted_more() -> None:
    progress = Progress()
    for probe in (Probe(8000, 4, 2000, (7500, 8500)), Probe(8000, 4, 1000, (8500, 8750)), Probe(9000, 4, 1000)):
        progress.want(probe)
    assert progress.wanted == {8000: Probe(8000, 4, 3000, (7500, 8500, 8750)), 9000: Probe(9000, 4, 1000)}


@pytest.mark.parametrize("reverse", [False, True])
def test_wants_of_a_later_step_add_nothing(reverse: bool) -> None:
    """Otherwise the rank of a moment would change while its step is asked."""
    progress = Progress()
    for probe in sorted((Probe(8000, 2, 4000, (1,)), Probe(8000, 5, 700, (2,))), key=lambda p: p.step, reverse=reverse):
        progress.want(probe)
    (wanted,) = progress.wanted.values()
    assert (wanted.step, wanted.gain, sorted(wanted.maybe)) == (2, 4000, [1, 2])


@pytest.mark.parametrize(
    ("tags", "look"),
    [
        ({"Dunk": 0.5}, Look(frozenset({"Dunk"}))),
        ({"Dunk": 0.499}, Look(NOTHING, frozenset({"Dunk"}))),
        ({"Dunk": 0.4}, Look(NOTHING, frozenset({"Dunk"}))),
        ({"Dunk": 0.399}, Look(NOTHING)),
        ({"Foul": 0.8, "Dunk": 0.8}, Look(frozenset({"Dunk"}), frozenset({"Foul"}))),
        ({"Rabona": 1.0, "Dunk": 0.8}, Look(frozenset({"Dunk"}))),
        ({"Timeout": 0.0}, Look(frozenset({"Timeout"}))),
        ({}, Look(NOTHING)),
    ],
)
def test_a_tag_counts_from_its_threshold_on_and_is_unclear_down_to_four_fifths_of_it(
    tags: dict[str, float], look: Look
) -> None:
    assert AnswerReader(RULES).look(answered(**tags)) == look


def test_usual_answers_are_told_by_identity() -> None:
    reader = AnswerReader(RULES)
    nothing = reader.look(answered(Rabona=1.0))
    assert nothing.there is NOTHING
    assert nothing.unclear is NOTHING
    assert nothing is not FAILED


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.analysed])
def test_what_was_not_analysed_is_no_answer(outcome: Outcome) -> None:
    assert AnswerReader(RULES).look(failed(0, outcome)) is FAILED


def test_a_reader_reads_each_answer_once_and_a_new_one_at_the_same_moment_anew() -> None:
    reader, one = AnswerReader(RULES), sample(0, "Dunk")
    assert reader.look(one) is reader.look(one)
    assert reader.look(sample(0, "Foul")).there == {"Foul"}
    assert reader.look(failed(0)) is FAILED
    assert reader.look(one).there == {"Dunk"}


@pytest.mark.parametrize(("tolerance_ms", "margin"), [(500, 200), (401, 200), (400, 200), (399, 199), (50, 25), (1, 0)])
def test_a_cut_is_looked_at_from_both_sides_within_the_tolerance(tolerance_ms: int, margin: int) -> None:
    assert cut_margin(tolerance_ms) == margin


# --- ends: which are doubted, and what the answer from beyond them does ---


def narrowed(*towards: tuple[int, bool]) -> Ends:
    """A stretch from 0 to 16,000 after these halvings: moment, whether it is the lower end from then on."""
    ends = Ends(0, 16_000)
    for at_ms, is_low in towards:
        ends.move(at_ms, is_low=is_low)
    return ends


LOW_WORN = ((8000, True), (12_000, False), (10_000, False), (9000, False))
HIGH_WORN = ((8000, False), (4000, True), (6000, True), (7000, True))


def test_an_end_that_one_answer_set_and_three_halvings_did_not_move_is_doubted() -> None:
    assert narrowed(*LOW_WORN).beyond_worn(400) == 7600
    assert narrowed(*HIGH_WORN).beyond_worn(400) == 8400


@pytest.mark.parametrize("moves", [LOW_WORN, HIGH_WORN])
def test_two_halvings_are_not_enough(moves: tuple[tuple[int, bool], ...]) -> None:
    assert narrowed(*moves[:3]).beyond_worn(400) is None


@pytest.mark.parametrize(("last", "opposite"), [((8500, True), LOW_WORN), ((7500, False), HIGH_WORN)])
def test_an_end_that_moved_is_young_again(last: tuple[int, bool], opposite: tuple[tuple[int, bool], ...]) -> None:
    assert narrowed(*opposite, last).beyond_worn(400) is None


def test_an_end_that_was_there_from_the_beginning_is_not_doubted() -> None:
    assert narrowed((8000, False), (4000, False), (2000, False), (1000, False)).beyond_worn(400) is None
    assert narrowed((8000, True), (12_000, True), (14_000, True), (15_000, True)).beyond_worn(400) is None


def test_both_ages_count_from_the_last_move_of_that_end() -> None:
    either_way = [(8000, True), (12_000, False), (9000, True), (11_000, False), (10_500, False)]
    assert narrowed(*either_way).beyond_worn(400) is None
    assert narrowed(*either_way, (10_000, False)).beyond_worn(400) == 8600


@pytest.mark.parametrize(("reach_ms", "low_beyond", "high_beyond"), [(7999, 1, 15_999), (8000, None, None)])
def test_beyond_a_doubted_end_lies_only_what_was_between_it_and_the_one_before(
    reach_ms: int, low_beyond: int | None, high_beyond: int | None
) -> None:
    assert narrowed(*LOW_WORN).beyond_worn(reach_ms) == low_beyond
    assert narrowed(*HIGH_WORN).beyond_worn(reach_ms) == high_beyond


def test_an_answer_that_belies_an_end_takes_the_search_back_behind_it() -> None:
    low, high = narrowed(*LOW_WORN), narrowed(*HIGH_WORN)
    assert low.reopen(7600, same=False) is True
    assert (low.low, low.high) == (0, 7600)
    assert high.reopen(8400, same=True) is True
    assert (high.low, high.high) == (8400, 16_000)


def test_an_answer_that_agrees_with_an_end_leaves_it() -> None:
    low, high = narrowed(*LOW_WORN), narrowed(*HIGH_WORN)
    assert low.reopen(7600, same=True) is False
    assert (low.low, low.high) == (8000, 9000)
    assert high.reopen(8400, same=False) is False
    assert (high.low, high.high) == (7000, 8000)
