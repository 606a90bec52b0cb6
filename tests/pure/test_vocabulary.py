"""The vocabulary from Stash's tags, and slices of a long one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Answer, Outcome, Sample, TagRef, Term
from haven_vlm.setting_layers import Layer, merge
from haven_vlm.settings import Settings
from haven_vlm.slicing import joined, slices
from haven_vlm.vocabulary import with_vocabulary
from haven_vlm_config import default_values

ENDPOINTS = {"endpoints": [{"base_url": "http://localhost:1/v1"}]}
BALL = TagRef("10", "Basketball")
POINT = TagRef("11", "Basketball point", ("Score", "Basket"), "The ball goes\nthrough the hoop.", ("10",))
DUNK = TagRef("12", "Dunk", (), "", ("11", "10"))
FOUL = TagRef("13", "Foul", (), "", ("10",))


class Tree:
    def __init__(self, *tags: TagRef) -> None:
        self.tags = tags

    async def find_tag(self, name: str) -> TagRef | None:
        return next((t for t in self.tags if t.name == name), None)

    async def tags_below(self, tag_id: str) -> list[TagRef]:
        return [t for t in self.tags if t.id != tag_id]


def settings(**more: object) -> Settings:
    return Settings.model_validate({**ENDPOINTS, "tag_list": "from_stash", "tag_parent": "Basketball", **more})


async def test_children_descriptions_aliases_and_parents() -> None:
    made = await with_vocabulary(settings(), Tree(BALL, FOUL, DUNK, POINT))
    assert [(t.name, t.definition, t.aliases) for t in made.tag_list] == [
        ("Basketball point", "The ball goes through the hoop.", ("Score", "Basket")),
        ("Dunk", "", ()),
        ("Foul", "", ()),
    ]
    assert made.implications == {"Dunk": ("Basketball point",)}
    assert made.tag_parent == ""


async def test_what_the_user_says_of_the_tags_stays() -> None:
    given_ = settings(
        implications={"Foul": ["Dunk"], "Dunk": ["Foul"]},
        exclusive_groups=[["Foul", "Dunk"]],
        tag_settings={"Foul": {"threshold": 0.9}},
    )
    made = await with_vocabulary(given_, Tree(BALL, FOUL, DUNK, POINT))
    assert made.implications == {"Dunk": ("Basketball point", "Foul"), "Foul": ("Dunk",)}
    assert {t.name: t.threshold for t in made.tuned_tags}["Foul"] == 0.9


async def test_the_connectors_own_tags_are_not_looked_for() -> None:
    below = (TagRef("20", "VLM"), TagRef("21", "vlm_tagme"), FOUL)
    made = await with_vocabulary(settings(), Tree(BALL, *below))
    assert [t.name for t in made.tag_list] == ["Foul"]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (Tree(FOUL), "Stash has no tag “Basketball”"),
        (Tree(BALL), "no tags below it"),
    ],
)
async def test_what_is_missing_in_stash_is_said(tree: Tree, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        await with_vocabulary(settings(), tree)


async def test_a_name_too_long_for_a_question_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    essay = TagRef("14", "A foul that " + "really " * 40, (), "", ("10",))
    made = await with_vocabulary(settings(), Tree(BALL, FOUL, essay))
    assert [t.name for t in made.tag_list] == ["Foul"]
    assert "is not looked for: its name is too long" in caplog.text
    with pytest.raises(ConfigError, match="do not go with the settings"):
        await with_vocabulary(settings(), Tree(BALL, essay))


async def test_what_cannot_be_printed_does_not_come_along(caplog: pytest.LogCaptureFixture) -> None:
    two_lines = TagRef("14", "Foul\n- Fake: x", (), "", ("10",))
    odd = TagRef("15", "Dunk", ("Slam\x1b[2J", "Jam"), "Through\x00 the\nhoop", ("10",))
    made = await with_vocabulary(settings(), Tree(BALL, FOUL, two_lines, odd))
    assert [t.name for t in made.tag_list] == ["Dunk", "Foul"]
    assert (made.tag_list[0].definition, made.tag_list[0].aliases) == ("Through the hoop", ("Jam",))
    assert r"is not looked for: there is a \n in it" in caplog.text


async def test_groups_of_other_tags_are_refused() -> None:
    with pytest.raises(ConfigError, match="“Rebound” is not in tag_list"):
        await with_vocabulary(settings(exclusive_groups=[["Foul", "Rebound"]]), Tree(BALL, FOUL))


async def test_a_list_of_ones_own_needs_no_stash() -> None:
    own = Settings.model_validate({**ENDPOINTS, "tag_list": ["Foul"]})
    assert await with_vocabulary(own, Tree()) is own


def test_from_stash_needs_a_parent_and_a_parent_needs_from_stash() -> None:
    for values, words in (
        ({"tag_list": "from_stash"}, "needs tag_parent"),
        ({"tag_list": ["Foul"], "tag_parent": "Basketball"}, "only together with tag_list: from_stash"),
    ):
        with pytest.raises(ValueError, match=words):
            Settings.model_validate({**ENDPOINTS, **values})


@pytest.mark.parametrize(
    ("layers", "parent", "names"),
    [
        ([{"tag_list": "from_stash", "tag_parent": "A"}], "A", ()),
        ([{"tag_parent": "A"}], "A", ()),
        ([{"tag_parent": "A"}, {"tag_list": "Foul, Dunk"}], "", ("Foul", "Dunk")),
        ([{"tag_list": ["Foul"]}, {"tag_parent": "B"}], "B", ()),
        ([{"tag_parent": "A"}, {"tag_parent": "B"}], "B", ()),
        ([{"tag_parent": "A"}, {"tag_list": "from_stash"}], "A", ()),
    ],
)
def test_the_later_layer_says_where_tags_come_from(
    layers: list[dict[str, object]], parent: str, names: tuple[str, ...]
) -> None:
    loaded = merge([Layer("defaults", default_values()), *(Layer(f"layer {n}", v) for n, v in enumerate(layers))])
    assert loaded.settings.tag_parent == parent
    assert tuple(t.name for t in loaded.settings.tag_list) == names


@given(st.integers(0, 500), st.integers(1, 120))
def test_slices_hold_everything_once_in_order_and_are_about_equal(count: int, most: int) -> None:
    terms = [Term(str(n)) for n in range(count)]
    found = slices(terms, most)
    assert [t for s in found for t in s] == terms
    assert len(found) == -(-count // most)
    assert all(0 < len(s) <= most for s in found)
    assert not found or max(map(len, found)) - min(map(len, found)) <= 1


def test_answers_of_slices_are_one_answer() -> None:
    start = Sample(5, 5, Outcome.NONE)
    first = joined(start, Answer(Outcome.TAGS, {"Foul": 0.9}, model="tiny"))
    second = joined(first, Answer(Outcome.NONE, model="tiny"))
    assert (second.outcome, second.tags) == (Outcome.TAGS, {"Foul": 0.9})
    assert joined(start, Answer(Outcome.NONE)).outcome is Outcome.NONE
    failed = joined(first, Answer(Outcome.REFUSED))
    assert (failed.outcome, failed.tags) == (Outcome.REFUSED, {})
