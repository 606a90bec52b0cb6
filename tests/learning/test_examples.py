"""Which moments are chosen as examples: certain ones, of all tags, from all scenes, the same ones every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haven_vlm.agreement import Stretch
from haven_vlm.examples import Moment, choose
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm_utility import Length

TAGS = ("Foul", "Dunk", "Block")
MINUTE_MS = 60_000


def scene(number: int, **spans: Sequence[Stretch]) -> Reviewed:
    """A scene of ten minutes in which every tag is decided."""
    truth = {tag: TagTruth(tuple(spans.get(tag, ()))) for tag in TAGS}
    return Reviewed(str(number), 10 * MINUTE_MS, {}, truth)


def chosen(
    *scenes: Reviewed,
    most: int = 4,
    rejected: Mapping[str, Sequence[tuple[str, Stretch]]] | None = None,
    without: Sequence[str] = (),
) -> list[Moment]:
    told = [replace(s, rejected=tuple((rejected or {}).get(s.scene_id, ()))) for s in scenes]
    return choose(told, vocabulary=TAGS, most=most, margin=Length(0.5), without=without)


def test_the_middle_of_what_is_there_with_all_tags_that_apply_then() -> None:
    found = chosen(scene(1, Foul=[(0, 10_000)], Dunk=[(4_000, 6_000)], Block=[(20_000, 22_000)]))
    assert [(m.at_ms, m.tags, m.wrong) for m in found] == [
        (5_000, ("Foul", "Dunk"), ""),
        (21_000, ("Block",), ""),
    ]


def test_each_tag_once_before_any_twice_and_then_what_was_found_wrongly() -> None:
    one = scene(1, Foul=[(0, 60_000), (70_000, 120_000)], Dunk=[(200_000, 210_000)])
    found = chosen(one, rejected={"1": [("Dunk", (300_000, 310_000))]}, most=3)
    assert [(m.tags, m.wrong) for m in found] == [(("Dunk",), ""), (("Foul",), ""), ((), "Dunk")]
    assert found[2].at_ms == 305_000


def test_tags_that_models_get_wrong_most_often_come_first() -> None:
    one = scene(1, Foul=[(0, 10_000)], Block=[(100_000, 101_900)])
    found = chosen(one, rejected={"1": [("Block", (300_000, 310_000)), ("Block", (320_000, 330_000))]}, most=1)
    assert [m.tags for m in found] == [("Block",)]


def test_scenes_take_turns() -> None:
    found = chosen(*(scene(n, Foul=[(0, 10_000), (20_000, 30_000)]) for n in (1, 2, 3)), most=3)
    assert sorted(m.scene_id for m in found) == ["1", "2", "3"]
    assert {m.scene_id for m in chosen(*(scene(n, Foul=[(0, 10_000)]) for n in (1, 2)), without=["1"])} == {"2"}


def test_a_scene_in_which_a_tag_is_not_decided_gives_none() -> None:
    truth = {"Foul": TagTruth(((0, 10_000),)), "Dunk": TagTruth(())}
    assert chosen(Reviewed("1", MINUTE_MS, {}, truth)) == []
    assert chosen(Reviewed("1", MINUTE_MS, {}, {**truth, "Block": TagTruth((), (30_000,))})) == []
    assert len(chosen(Reviewed("1", MINUTE_MS, {}, {**truth, "Block": TagTruth(())}))) == 1


@pytest.mark.parametrize("dunk", [(4_800, 20_000), (2_000, 5_300)])
def test_near_the_end_of_any_span_nothing_is_certain(dunk: Stretch) -> None:
    (foul,) = [m for m in chosen(scene(1, Foul=[(0, 10_000)], Dunk=[dunk]), most=1)]
    assert foul.at_ms in (3_500, 6_500, round(dunk[0] + (dunk[1] - dunk[0]) / 2))
    assert chosen(scene(1, Foul=[(0, 800)])) == []


def test_what_was_rejected_and_is_there_after_all_is_no_counter_example() -> None:
    one = scene(1, Foul=[(0, 10_000)])
    assert [m.wrong for m in chosen(one, rejected={"1": [("Foul", (2_000, 6_000))]})] == [""]


spans = st.lists(st.tuples(st.integers(0, 500_000), st.integers(1, 90_000)).map(lambda s: (s[0], s[0] + s[1])))


@settings(deadline=None)  # how long a machine takes says nothing about the code
@given(st.lists(st.fixed_dictionaries({tag: spans for tag in TAGS}), max_size=4), spans, st.integers(0, 4))
def test_whatever_is_chosen_is_true_and_the_order_of_scenes_does_not_matter(
    truths: list[dict[str, list[Stretch]]], wrong: list[Stretch], most: int
) -> None:
    scenes = [scene(n, **truth) for n, truth in enumerate(truths)]
    rejected = {"0": [("Foul", span) for span in wrong]}
    found = chosen(*scenes, most=most, rejected=rejected)
    assert len(found) <= most
    assert len({(m.scene_id, m.at_ms) for m in found}) == len(found)
    for moment in found:
        truth = truths[int(moment.scene_id)]
        true = {tag for tag in TAGS if any(a <= moment.at_ms < b for a, b in truth[tag])}
        assert set(moment.tags) == true and moment.wrong not in true
        assert all(abs(moment.at_ms - end) > 500 for tag in TAGS for span in truth[tag] for end in span)
    assert chosen(*reversed(scenes), most=most, rejected=rejected) == found
