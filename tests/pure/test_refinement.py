"""The search for ends, question by question: what is asked next, how much it settles, and when it is enough.

Each test follows one search from the moment all anchors are answered. Unless said otherwise there is an anchor every
four seconds up to 40 s, ends are wanted to half a second, and pauses of any length matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from haven_vlm.facts import Outcome, Sample
from haven_vlm.probing import Anchor, Progress, Rules
from haven_vlm.refinement import Search
from tests.pure.looking import TAGS, Answer, failed, right, sample, seen

Round = dict[int, tuple[int, int]]
"""Moment → step and gain (milliseconds of doubt) of what is wanted at a time."""

EVER = 10**6


def search(
    at_ms: Iterable[int] = range(0, 40_001, 4000),
    *,
    tolerance_ms: int = 500,
    gap_ms: int = 0,
    cuts_ms: Sequence[int] = (),
    beyond_anchors: bool = True,
) -> Search:
    """Each anchor has a substitute and votes 0.4 s beside it."""
    times = list(at_ms)
    last = times[-1]
    anchors = [
        Anchor(t, t + 400 if t < last else t - 400, tuple(v for v in (t + 400, t - 400) if 0 <= v <= last))
        for t in times
    ]
    rules = Rules(tolerance_ms, dict.fromkeys(TAGS, 0.5), dict.fromkeys(TAGS, gap_ms))
    return Search(anchors, rules, cuts_ms=cuts_ms, beyond_anchors=beyond_anchors)


def steps(searching: Search, answer: Answer) -> list[Progress]:
    """Where the search stands after the anchors, and after each further round of answers; nothing is wanted at last."""
    known: dict[int, Sample] = {}
    found: list[Progress] = []
    for _ in range(60):
        found.append(searching.progress(known))
        if not found[-1].wanted:
            break
        known |= {at_ms: answer(at_ms) for at_ms in found[-1].wanted}
    else:
        raise AssertionError("the search never comes to an end")
    return found[1:]


def asked(searching: Search, answer: Answer) -> list[Round]:
    return [{t: (p.step, p.gain) for t, p in at.wanted.items()} for at in steps(searching, answer) if at.wanted]


def dunk(*spans: tuple[int, int]) -> Answer:
    return right({"Dunk": spans})


def deaf(answer: Answer, *moments: int | range) -> Answer:
    """Fails at these moments."""
    lost = {t for m in moments for t in ([m] if isinstance(m, int) else m)}
    return lambda at_ms: failed(at_ms) if at_ms in lost else answer(at_ms)


def sure(*levels: tuple[int, float]) -> Answer:
    """A Dunk with the confidence of the last level that has begun; the threshold is 0.5."""

    def answer(at_ms: int) -> Sample:
        confidence = next(c for start, c in reversed(levels) if start <= at_ms)
        return sample(at_ms, *(["Dunk"] if confidence else []), confidence=confidence)

    return answer


# --- halving ---


def test_a_stretch_is_halved_until_it_is_as_narrow_as_the_tolerance() -> None:
    assert asked(search(), dunk((17_300, EVER))) == [{18_000: (4, 4000)}, {17_000: (5, 2000)}, {17_500: (6, 1000)}]
    assert asked(search(), dunk((0, 17_300))) == [{18_000: (4, 4000)}, {17_000: (5, 2000)}, {17_500: (6, 1000)}]
    assert asked(search(), dunk((16_001, EVER))) == [{18_000: (4, 4000)}, {17_000: (5, 2000)}, {16_500: (6, 1000)}]


def test_tags_that_change_together_share_questions() -> None:
    both = right({"Dunk": ((17_300, EVER),), "Foul": ((0, 17_300),)})
    assert asked(search(), both) == [{18_000: (4, 8000)}, {17_000: (5, 4000)}, {17_500: (6, 2000)}]


def test_what_a_short_stretch_may_lead_to_is_named_beforehand() -> None:
    wanted = [p for at in steps(search(), dunk((17_300, EVER))) for p in at.wanted.values()]
    assert [p.maybe for p in wanted] == [(16_500, 17_000, 17_500, 18_500, 19_000, 19_500), (16_500, 17_500), ()]
    wide = [p for at in steps(search((0, 4001, 8002, 12_003)), dunk((5000, EVER))) for p in at.wanted.values()]
    assert [p.maybe for p in wide][:2] == [(), (4501, 5501)]
    fine = steps(search(tolerance_ms=100), dunk((17_300, EVER)))[0].wanted[18_000]
    assert len(fine.maybe) <= 16
    assert {17_000, 19_000} & {*fine.maybe}


@pytest.mark.parametrize(("distance_ms", "asks"), [(500, []), (501, [{750: (4, 501)}])])
def test_anchors_no_further_apart_than_the_tolerance_need_no_search(distance_ms: int, asks: list[Round]) -> None:
    times = (0, 500, 500 + distance_ms, 500 + 2 * distance_ms)
    assert asked(search(times), dunk((800, EVER))) == asks


def test_how_far_the_search_is() -> None:
    """Stretches between anchors that are settled, questions beyond anchors so far, and how many are sure to follow."""
    told = [(at.settled, at.extra, at.ahead) for at in steps(search(), dunk((17_300, EVER)))]
    assert told == [(10, 1, 2), (10, 2, 1), (10, 3, 0), (10, 3, 0)]
    flips = [(at.settled, at.extra, at.ahead) for at in steps(search(), dunk((3900, 4100), (11_900, 12_100)))]
    assert flips == [(6, 3, 0), (6, 5, 0), (10, 5, 0)]


def test_nothing_beyond_the_anchors_is_asked_if_so_wished() -> None:
    fixed = search(beyond_anchors=False)
    told = steps(fixed, deaf(dunk((0, 13_000)), 8000))
    assert [({*at.wanted}, at.settled, at.extra) for at in told] == [({8400}, 0, 1), (set(), 0, 1)]


def test_one_anchor_alone_leaves_nothing_to_search() -> None:
    assert asked(search((0,)), dunk((0, EVER))) == []


def test_the_same_answers_are_thought_through_once() -> None:
    searching, known = search(), seen(sample(0), sample(4000, "Dunk"))
    first = searching.progress(known)
    assert searching.progress(dict(known)) is first
    assert searching.progress(known | {8000: sample(8000)}) is not first
    assert 4000 not in first.wanted
    assert {*first.wanted} == {*range(8000, 40_001, 4000)}
    assert {(p.step, p.gain) for p in first.wanted.values()} == {(0, 0)}


# --- a tag in one anchor only ---


def test_a_flip_is_asked_about_on_both_sides_and_dropped() -> None:
    told = steps(search(), dunk((20_000, 20_001)))
    assert [{t: (p.step, p.gain, p.maybe) for t, p in at.wanted.items()} for at in told] == [
        {20_400: (2, 8000, (19_600,))},
        {19_600: (3, 8000, ())},
        {},
    ]


def test_a_flip_that_the_first_vote_confirms_has_two_ends() -> None:
    """The vote is one of the halvings on its own side."""
    assert asked(search(), dunk((19_900, 21_000))) == [
        {20_400: (2, 8000)},
        {18_000: (4, 4000), 22_200: (4, 3600)},
        {19_000: (5, 2000), 21_300: (5, 1800)},
        {19_500: (6, 1000)},
    ]


def test_a_flip_that_the_second_vote_confirms_ends_between_anchor_and_first_vote() -> None:
    """What that saves on the one side may be spent on the other."""
    assert asked(search(), dunk((18_900, 20_100))) == [
        {20_400: (2, 8000)},
        {19_600: (3, 8000)},
        {17_800: (4, 3600)},
        {18_700: (5, 1800)},
        {19_150: (6, 900)},
    ]
    assert asked(search(range(0, 60_001, 20_000)), dunk((18_900, 20_100)))[2:] == [
        {9800: (4, 19_600)},
        {14_700: (5, 9800)},
        {17_150: (6, 4900)},
        {18_375: (7, 2450)},
        {18_987: (8, 1225)},
        {18_681: (9, 612)},
    ]


def test_what_a_second_vote_saves_counts_as_still_to_be_asked() -> None:
    told = steps(search(range(0, 60_001, 20_000)), dunk((18_900, 20_100)))
    assert [at.ahead for at in told] == [0, 0, 9, 8, 7, 6, 5, 4, 0]
    just = steps(search(range(0, 60_001, 20_000), tolerance_ms=400), dunk((18_900, 20_100)))
    assert [at.ahead for at in just] == [at.ahead for at in told]
    further = steps(search(range(0, 60_001, 20_000), tolerance_ms=399), dunk((18_900, 20_100)))
    assert [at.ahead for at in further] == [0, 0, 8, 3, 2, 1, 0, 0]  # that stretch needs a step itself


def test_a_vote_far_away_saves_nothing() -> None:
    """The vote before the next cut does not narrow the stretch behind it to the tolerance."""
    anchors = [Anchor(0, 400, ()), Anchor(20_000, 20_400, (39_800, 20_400)), Anchor(40_000, 40_400, ())]
    told = steps(Search(anchors, search().rules), dunk((18_900, 20_500)))
    assert [at.ahead for at in told] == [0, 0, 8, 6, 4, 2, 1, 0, 0]


def test_votes_on_one_side_only() -> None:
    """The first look of a long shot has nothing before it, and the last one may have no anchor behind it."""
    first = Anchor(0, 400, (400, 800))
    rest = [Anchor(20_000, 20_400, (20_400, 19_600)), Anchor(40_000, 40_400, (40_400, 40_800))]
    searching = Search([first, *rest], search().rules)
    assert asked(searching, dunk((0, 300), (700, 900))) == [{400: (2, 20_000)}, {800: (3, 20_000)}]
    last = steps(searching, dunk((39_900, 40_100), (40_700, 40_900)))
    halvings = [({30_000}, 5), ({35_000}, 4), ({37_500}, 3), ({38_750}, 2), ({39_375}, 1), ({39_687}, 0), (set(), 0)]
    assert [({*at.wanted}, at.ahead) for at in last] == [({40_400}, 0), ({40_800}, 0), *halvings]


def test_a_vote_that_fails_does_not_hide_the_next_one() -> None:
    anchors = [Anchor(0, 400, (400, 800)), Anchor(20_000, 20_400, (20_400, 19_600))]
    told = asked(Search(anchors, search().rules), deaf(dunk((0, 900)), 400))
    assert told[:3] == [{400: (2, 20_000)}, {800: (3, 20_000)}, {10_400: (4, 19_200)}]


def test_flips_of_two_tags_share_votes() -> None:
    both = right({"Dunk": ((20_000, 20_001),), "Foul": ((20_000, 20_401),)})
    assert asked(search(), both) == [
        {20_400: (2, 16_000)},
        {19_600: (3, 8000)},
        {18_000: (4, 4000), 22_200: (4, 3600)},
        {19_000: (5, 2000), 21_300: (5, 1800)},
        {19_500: (6, 1000)},
    ]


def test_two_anchors_in_a_row_need_no_votes() -> None:
    assert asked(search(), dunk((19_900, 24_100))) == [
        {18_000: (4, 4000), 26_000: (4, 4000)},
        {19_000: (5, 2000), 25_000: (5, 2000)},
        {19_500: (6, 1000), 24_500: (6, 1000)},
    ]


def test_an_anchor_between_two_flips_is_a_flip_of_a_pause() -> None:
    assert asked(search(), dunk((3900, 4100), (11_900, 12_100))) == [
        {4400: (2, 8000), 8400: (2, 8000), 12_400: (2, 8000)},
        {3600: (3, 8000), 11_600: (3, 8000)},
    ]


def test_votes_that_fail_confirm_nothing() -> None:
    assert asked(search(), deaf(dunk((19_900, 20_100)), 19_600, 20_400)) == [{20_400: (2, 8000)}, {19_600: (3, 8000)}]
    assert asked(search(), deaf(dunk((19_500, 20_100)), 20_400)) == [
        {20_400: (2, 8000)},
        {19_600: (3, 8000)},
        {17_800: (4, 3600), 22_000: (4, 4000)},
        {18_700: (5, 1800), 21_000: (5, 2000)},
        {19_150: (6, 900)},
    ]


def test_at_the_ends_of_a_medium_one_vote_decides() -> None:
    assert asked(search(), dunk((0, 100))) == [{400: (2, 4000)}]
    assert asked(search(), dunk((0, 900))) == [{400: (2, 4000)}, {2200: (4, 3600)}, {1300: (5, 1800)}]
    assert asked(search(), dunk((39_900, EVER))) == [{39_600: (2, 4000)}]
    assert asked(search(), dunk((39_000, EVER))) == [{39_600: (2, 4000)}, {37_800: (4, 3600)}, {38_700: (5, 1800)}]
    assert asked(search((0, 20_000)), dunk((0, 13_000))) == [
        {400: (2, 20_000)},
        {10_200: (4, 19_600)},
        {15_100: (5, 9800)},
        {12_650: (6, 4900)},
        {13_875: (7, 2450)},
        {13_262: (8, 1225)},
    ]


@pytest.mark.parametrize(("gap_ms", "asks"), [(8000, []), (7999, [{20_400: (2, 8000)}, {19_600: (3, 8000)}])])
def test_a_pause_between_anchors_no_further_apart_than_the_gap_is_none(gap_ms: int, asks: list[Round]) -> None:
    pausing = dunk((0, 19_900), (20_100, EVER))
    assert asked(search(gap_ms=gap_ms), pausing) == asks


def test_where_anchors_are_as_close_as_the_tolerance_a_flip_needs_no_votes() -> None:
    assert asked(search((0, 500, 1000)), dunk((500, 550))) == []
    assert asked(search((0, 500, 1001)), dunk((500, 550))) == [{900: (2, 1001)}, {100: (3, 1001)}]
    assert asked(search((0, 499, 1000)), dunk((499, 550))) == [{899: (2, 1000)}, {99: (3, 1000)}]


def test_a_vote_at_a_neighbouring_anchor_would_say_nothing_new() -> None:
    assert asked(search((0, 600, 1000)), dunk((600, 650))) == [{200: (2, 1000)}]
    assert asked(search((0, 400, 1000)), dunk((400, 450))) == [{800: (2, 1000)}]
    assert asked(search((0, 400, 800), tolerance_ms=100), dunk((400, 450))) == [
        {200: (4, 400), 600: (4, 400)},
        {300: (5, 200), 500: (5, 200)},
    ]  # without any vote it is believed, and its ends are searched


# --- ends that the gap hides ---


def test_an_end_is_not_searched_where_the_tag_is_back_within_the_gap() -> None:
    pausing = dunk((0, 17_000), (25_000, EVER))  # there at 16 s and again at 28 s
    assert asked(search(gap_ms=12_000), pausing) == []
    assert asked(search(gap_ms=11_999), pausing) == [
        {18_000: (4, 4000), 26_000: (4, 4000)},
        {17_000: (5, 2000), 25_000: (5, 2000)},
        {16_500: (6, 1000), 24_500: (6, 1000)},
    ]


def test_an_end_is_not_searched_where_the_tag_was_there_within_the_gap_before() -> None:
    assert asked(search(gap_ms=12_000), dunk((0, 5000), (13_000, EVER))) == []


def test_an_end_waits_until_it_is_known_whether_the_gap_hides_it() -> None:
    """At 20 s there is a flip that is being voted on: if it is believed, the pause before it is short enough."""
    told = dunk((0, 9000), (19_900, 20_500))
    assert asked(search(gap_ms=12_000), told)[:2] == [
        {20_400: (2, 8000)},
        {22_200: (4, 3600)},
    ]
    assert asked(search(gap_ms=11_000), told)[0] == {20_400: (2, 8000), 10_000: (4, 4000)}


# --- confidences a little below the threshold ---


def test_an_anchor_a_little_below_the_threshold_is_what_the_one_before_was() -> None:
    late = [{18_000: (4, 4000)}, {19_000: (5, 2000)}, {19_500: (6, 1000)}]
    assert asked(search(), sure((0, 0.9), (9000, 0.45), (20_000, 0.1))) == late
    assert asked(search(), sure((0, 0.1), (9000, 0.45), (20_000, 0.9))) == late
    assert asked(search(), sure((0, 0.45), (20_000, 0.9))) == late


def test_within_a_stretch_such_a_confidence_is_what_its_lower_end_is() -> None:
    late = [{18_000: (4, 4000)}, {19_000: (5, 2000)}, {18_500: (6, 1000)}]
    assert asked(search(), sure((0, 0.0), (17_500, 0.45), (19_000, 0.9))) == late
    assert asked(search(), sure((0, 0.9), (17_500, 0.45), (19_000, 0.0))) == late


# --- moments that cannot be analysed ---


def test_a_failed_anchor_is_asked_once_more_near_by() -> None:
    assert asked(search(), deaf(dunk((20_300, EVER)), 20_000)) == [
        {20_400: (1, 0)},
        {18_200: (4, 4400)},
        {19_300: (5, 2200)},
        {19_850: (6, 1100)},
        {20_125: (7, 550)},
    ]


def test_failures_at_either_end() -> None:
    """The first anchor whose neighbour was analysed is asked again; beyond it there is nobody to tell."""
    first = [{8400: (2, 4000)}, {10_200: (4, 3600)}, {9300: (5, 1800)}]
    assert asked(search(), deaf(dunk((0, 9000)), range(4501))) == [{4400: (1, 0)}, *first]
    halvings = [{10_000: (4, 4000)}, {9000: (5, 2000)}, {8500: (6, 1000)}]
    for lost, instead in ((range(500), 400), (range(39_500, 40_001), 39_600), (range(35_500, 40_001), 36_400)):
        first_round, *rest = asked(search(), deaf(dunk((0, 9000)), lost))
        assert first_round == halvings[0] | {instead: (1, 0)}
        assert rest == halvings[1:]


def test_the_first_anchor_speaks_for_its_neighbour() -> None:
    first_round, *_ = asked(search(), deaf(dunk(), range(3900, 8500)))
    assert first_round == {4400: (1, 0), 8400: (1, 0)}


def test_a_substitute_may_lie_behind_the_next_anchor() -> None:
    """A flash at the start of a video: the first cut is nearer to the first frame than its substitute."""
    anchors = [Anchor(0, 400, (400,)), Anchor(350, 750, (750,)), Anchor(20_000, 20_400, ())]
    assert asked(Search(anchors, search().rules), deaf(dunk((380, 500)), 0)) == [{400: (1, 0)}]


def test_what_is_near_a_hole_waits_for_its_substitutes() -> None:
    every_other = deaf(dunk((0, 13_000)), *range(0, 24_001, 8000))
    told = steps(search(range(0, 24_001, 4000)), every_other)
    assert [(at.settled, {*at.wanted}) for at in told][:2] == [(0, {400, 8400, 16_400, 23_600}), (6, {14_200})]


def test_a_hole_is_not_asked_about_from_its_inside() -> None:
    """Three anchors fail in a row: the one amid them has no neighbour that was analysed."""
    lost = deaf(dunk((0, 13_000)), range(12_000, 20_001))
    told = steps(search(range(0, 32_001, 4000)), lost)
    assert [(at.settled, {*at.wanted}) for at in told] == [
        (2, {12_400, 20_400}),
        (6, {14_200}),
        (6, {16_266}),
        (6, set()),
    ]


def test_a_halving_that_fails_is_tried_once_more_close_by() -> None:
    assert asked(search(), deaf(dunk((17_300, EVER)), 18_000)) == [
        {18_000: (4, 4000)},
        {18_666: (5, 4000)},
        {17_333: (6, 2666)},
        {16_666: (7, 1333)},
    ]
    twice = steps(search(), deaf(dunk((17_300, EVER)), 18_000, 18_666))
    assert [{*at.wanted} for at in twice] == [{18_000}, {18_666}, set()]
    assert [at.ahead for at in twice] == [2, 2, 0]


def test_a_halving_between_neighbouring_milliseconds_can_fail_too() -> None:
    tight = search((0, 10, 20, 30), tolerance_ms=1)
    told = asked(tight, deaf(dunk((16, EVER)), 15))
    assert [{*at} for at in told][:2] == [{15}, {16}]


# --- a halving that was wrong ---

WIDE = (0, 16_000, 32_000, 48_000)


def test_an_end_that_only_one_answer_speaks_for_is_doubted_once_and_found_wrong() -> None:
    """A false alarm at 24 s sends the search to its lower half; all further answers point back to it."""
    wrong = dunk((24_000, 24_001), (29_000, EVER))
    assert asked(search(WIDE), wrong) == [
        {24_000: (4, 16_000)},
        {20_000: (5, 8000)},
        {22_000: (6, 4000)},
        {23_000: (7, 2000)},
        {24_400: (8, 1000)},
        {28_200: (9, 7600)},
        {30_100: (10, 3800)},
        {29_150: (11, 1900)},
        {28_675: (12, 950)},
    ]


def test_a_miss_is_found_wrong_in_the_same_way() -> None:
    missed = dunk((19_000, 24_000), (24_001, EVER))
    assert asked(search(WIDE), missed) == [
        {24_000: (4, 16_000)},
        {28_000: (5, 8000)},
        {26_000: (6, 4000)},
        {25_000: (7, 2000)},
        {23_600: (8, 1000)},
        {19_800: (9, 7600)},
        {17_900: (10, 3800)},
        {18_850: (11, 1900)},
        {19_325: (12, 950)},
    ]


def test_a_search_that_goes_back_is_planned_anew() -> None:
    told = steps(search(WIDE), dunk((24_000, 24_001), (29_000, EVER)))
    assert [at.ahead for at in told] == [4, 3, 2, 1, 0, 3, 2, 1, 0, 0]


@pytest.mark.parametrize("at_23_600", [failed(23_600), sample(23_600), sample(23_600, "Dunk", confidence=0.45)])
def test_an_end_that_was_doubted_in_vain_stays(at_23_600: Sample) -> None:
    def answer(at_ms: int) -> Sample:
        return at_23_600 if at_ms == 23_600 else dunk((19_000, 24_000), (24_001, EVER))(at_ms)

    assert [{*at} for at in asked(search(WIDE), answer)] == [{24_000}, {28_000}, {26_000}, {25_000}, {23_600}]


def test_an_end_is_doubted_only_once() -> None:
    """The search behind the false alarm at 48 s has the time for another doubt, at 55.8 s."""
    wrong = dunk((48_000, 48_001), (56_500, EVER))
    told = [t for at in asked(search(range(0, 96_001, 32_000)), wrong) for t in at]
    assert told == [48_000, 40_000, 44_000, 46_000, 47_000, 48_400, 56_200, 60_100, 58_150, 57_175, 56_687]


def test_an_end_is_not_doubted_while_halvings_are_left() -> None:
    """Six halvings: after the first three a false alarm looks like any end, and only the last one goes beyond it."""
    wrong = asked(search(WIDE, tolerance_ms=250), dunk((24_000, 24_001), (29_000, EVER)))
    assert [{*at} for at in wrong][:7] == [{24_000}, {20_000}, {22_000}, {23_000}, {23_500}, {24_250}, {28_125}]


# --- cuts ---


def test_both_sides_of_a_cut_are_tried_before_halving() -> None:
    assert asked(search(cuts_ms=[17_300]), dunk((17_300, EVER))) == [{17_500: (4, 4000)}, {17_100: (5, 1500)}]
    fine = asked(search(cuts_ms=[17_317], tolerance_ms=50), dunk((17_317, EVER)))
    assert fine == [{17_342: (4, 4000)}, {17_292: (5, 1342)}]


def test_after_a_cut_that_is_not_it_halving_goes_on() -> None:
    assert asked(search(cuts_ms=[18_900]), dunk((17_300, EVER))) == [
        {18_700: (4, 4000)},
        {17_350: (5, 2700)},
        {16_675: (6, 1350)},
        {17_012: (7, 675)},
    ]


def test_of_several_cuts_the_one_nearest_to_the_middle_comes_first() -> None:
    near = [{17_900: (4, 4000)}, {16_800: (5, 1900)}, {17_200: (6, 1100)}, {17_517: (7, 700)}]
    assert asked(search(cuts_ms=[17_000, 17_317, 18_100]), dunk((17_317, EVER))) == near


def test_cuts_at_the_anchors_themselves_have_one_side() -> None:
    cuts = [15_900, 16_000, 16_200, 17_317, 19_800, 20_000, 20_100]
    assert asked(search(cuts_ms=cuts), dunk((17_317, EVER))) == [
        {17_517: (4, 4000)},
        {16_400: (5, 1517)},
        {17_117: (6, 1117)},
    ]


def test_cuts_elsewhere_change_nothing() -> None:
    wrong = dunk((24_000, 24_001), (29_000, EVER))
    for cuts in ([5000], [5000, 40_000], [0, 15_700, 32_300]):
        assert asked(search(WIDE, cuts_ms=cuts), wrong) == asked(search(WIDE), wrong)


# --- what is found on the way ---

FAR = range(0, 48_001, 12_000)
ONSET = [{18_000: (4, 12_000)}, {15_000: (5, 6000)}, {13_500: (6, 3000)}, {14_250: (7, 1500)}, {14_625: (8, 750)}]
"""What a Dunk from 14.3 s on takes, with anchors every twelve seconds."""


def on_the_way(foul: tuple[tuple[int, int], ...], *, gap_ms: int = 0) -> list[Round]:
    """What a Foul costs in addition, of which the search for that Dunk's start comes to know."""
    told = asked(search(FAR, gap_ms=gap_ms), right({"Dunk": ((14_300, EVER),), "Foul": foul}))
    assert told[:5] == ONSET
    return told[5:]


def test_a_short_span_found_on_the_way_is_confirmed_and_both_its_ends_searched() -> None:
    assert on_the_way(((13_600, 18_700),)) == [
        {13_875: (202, 750), 21_000: (202, 6000)},
        {19_500: (203, 3000)},
        {18_750: (204, 1500)},
        {18_375: (205, 750)},
    ]


def test_halvings_on_the_way_are_counted_as_still_to_be_asked() -> None:
    told = steps(search(FAR), right({"Dunk": ((14_300, EVER),), "Foul": ((13_600, 18_700),)}))
    assert [at.ahead for at in told] == [4, 3, 2, 1, 0, 3, 2, 1, 0, 0]


def test_a_moment_alone_is_voted_on_first() -> None:
    assert on_the_way(((17_900, 18_100),)) == [{18_400: (200, 9000)}, {17_600: (201, 3400)}]
    assert on_the_way(((17_900, 18_700),)) == [
        {18_400: (200, 9000)},
        {16_500: (202, 3000), 21_200: (202, 5600)},
        {17_250: (203, 1500), 19_800: (203, 2800)},
        {17_625: (204, 750), 19_100: (204, 1400)},
        {18_750: (205, 700)},
    ]
    assert on_the_way(((17_300, 18_100),)) == [
        {18_400: (200, 9000)},
        {17_600: (201, 3400)},
        {16_300: (202, 2600)},
        {16_950: (203, 1300)},
        {17_275: (204, 650)},
    ]


def test_what_a_vote_shows_of_another_tag_is_searched_too() -> None:
    both = right({"Dunk": ((11_900, 13_000),), "Timeout": ((12_350, 12_450),)})
    told = asked(search(FAR, tolerance_ms=100), both)
    assert told[0] == {12_400: (2, 24_000)}
    assert told[-2:] == [{11_906: (10, 188), 12_500: (200, 762)}, {12_300: (201, 500)}]


def test_a_vote_on_the_way_is_not_cast_beyond_a_neighbour() -> None:
    """The Foul at 14.25 s is known to be gone at 14.343 s."""
    both = right({"Dunk": ((14_300, EVER),), "Foul": ((14_240, 14_260),)})
    assert asked(search(FAR, tolerance_ms=100), both)[7:] == [{14_150: (201, 843)}]


def test_votes_on_the_way_that_fail_confirm_nothing() -> None:
    both = right({"Dunk": ((14_300, EVER),), "Foul": ((17_500, 18_700),)})
    assert asked(search(FAR), deaf(both, 18_400, 17_600))[5:] == [{18_400: (200, 9000)}, {17_600: (201, 3400)}]
    assert asked(search(FAR), deaf(both, 18_400))[5:] == [
        {18_400: (200, 9000)},
        {17_600: (201, 3400)},
        {16_300: (202, 2600)},
        {16_950: (203, 1300)},
        {17_275: (204, 650)},
    ]


def test_a_pause_found_on_the_way_is_searched_unless_the_gap_hides_it() -> None:
    pause = ((0, 17_700), (18_200, EVER))
    assert on_the_way(pause, gap_ms=9000) == []
    assert on_the_way(pause, gap_ms=8999) == [{18_400: (200, 9000)}, {17_600: (201, 3400)}]


def test_the_gap_hides_no_span_found_on_the_way() -> None:
    assert on_the_way(((17_900, 18_100),), gap_ms=20_000) == [{18_400: (200, 9000)}, {17_600: (201, 3400)}]


def test_two_tags_on_the_way_are_searched_both() -> None:
    three = right({"Dunk": ((14_300, EVER),), "Foul": ((13_600, 18_700),), "Timeout": ((0, 13_100), (15_100, EVER))})
    assert asked(search(FAR), three)[5:] == [
        {12_750: (202, 1500), 13_875: (202, 750), 16_500: (202, 3000), 21_000: (202, 6000)},
        {13_125: (203, 750), 15_750: (203, 1500), 19_500: (203, 3000)},
        {15_375: (204, 750), 18_750: (204, 1500)},
        {18_375: (205, 750)},
    ]


def test_an_end_that_the_gap_hides_does_not_keep_others_from_being_found() -> None:
    """The Foul pauses from 12 s on for two anchors; in the same stretch a Dunk begins, and a Timeout is short."""
    three = right({"Dunk": ((14_300, EVER),), "Foul": ((0, 12_100), (47_900, EVER)), "Timeout": ((13_600, 18_700),)})
    assert asked(search(range(0, 72_001, 12_000), gap_ms=36_000), three) == [
        *ONSET,
        {13_875: (202, 750), 21_000: (202, 6000)},
        {19_500: (203, 3000)},
        {18_750: (204, 1500)},
        {18_375: (205, 750)},
    ]


def test_two_spans_of_one_tag_on_the_way_are_searched_both() -> None:
    assert on_the_way(((13_400, 13_600), (14_900, 18_300))) == [
        {13_900: (200, 2250), 21_000: (202, 6000)},
        {13_100: (201, 1900), 19_500: (203, 3000)},
        {18_750: (204, 1500)},
        {18_375: (205, 750)},
    ]


def test_what_failed_or_was_unclear_on_the_way_shows_no_span() -> None:
    def answer(at_ms: int) -> Sample:
        if at_ms == 18_000:
            return Sample(at_ms, at_ms, Outcome.TAGS, {"Dunk": 0.99, "Foul": 0.45})
        return dunk((14_300, EVER))(at_ms)

    assert asked(search(FAR), answer) == ONSET


def test_narrow_stretches_hold_no_span_worth_chasing() -> None:
    """Up to four times the tolerance wide, and when neither neighbour of the span is further off than twice of it."""
    both = right({"Dunk": ((1300, EVER),), "Foul": ((900, 1100),)})
    assert asked(search(range(0, 6001, 2000)), both) == [{1000: (4, 2000)}, {1500: (5, 1000)}]
    assert asked(search(range(0, 8005, 2001)), both) == [{1000: (4, 2001)}, {1500: (5, 1001)}]
    for foul in ((17_300, 17_600), (16_900, 17_200)):
        late = right({"Dunk": ((17_300, EVER),), "Foul": (foul,)})
        assert asked(search(), late) == [{18_000: (4, 4000)}, {17_000: (5, 2000)}, {17_500: (6, 1000)}]
    at_a_cut = right({"Dunk": ((20_400, EVER),), "Foul": ((20_500, 20_700),)})
    assert asked(search(range(0, 24_001, 2000), cuts_ms=[20_400]), at_a_cut) == [
        {20_600: (4, 2000)},
        {20_200: (5, 600)},
    ]
    wide_enough = right({"Dunk": ((20_000, EVER),), "Foul": ((20_100, 20_300),)})
    assert asked(search(range(0, 24_001, 2400), cuts_ms=[20_000]), wide_enough) == [
        {20_200: (4, 2400)},
        {19_800: (5, 1000)},
        {20_600: (200, 1800)},
    ]
    wider = right({"Dunk": ((1300, EVER),), "Foul": ((990, 1010),)})
    assert asked(search(range(0, 20_021, 4004)), wider)[3:] == [{1401: (200, 1501)}, {601: (201, 1401)}]
