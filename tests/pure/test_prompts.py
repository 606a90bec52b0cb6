"""What is asked, and what is made of the answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.facts import Kind, Outcome, Term
from haven_vlm.prompts import MAX_ENUM, build_prompt
from haven_vlm.replies import parse_reply

TERMS = (
    Term("Basketball point", "The ball goes through the hoop.", ("basket", "score")),
    Term("Foul"),
    Term("Break-away"),
    Term("Free throw", aliases=("foul shot",)),
    Term("C++"),
    Term("C"),
)
PROMPT = build_prompt(TERMS)
NAMES = [t.name for t in TERMS]


def test_the_constant_text_holds_every_name_and_definition_and_the_user_text_none() -> None:
    assert all(name in PROMPT.system for name in NAMES)
    assert "The ball goes through the hoop." in PROMPT.system
    assert not any(name in PROMPT.user for name in NAMES)


def test_the_key_changes_with_all_that_shapes_an_answer_and_with_nothing_else() -> None:
    assert build_prompt(TERMS).key == PROMPT.key
    assert build_prompt(TERMS, kind=Kind.IMAGE).key != PROMPT.key
    assert build_prompt(TERMS, instructions="Ignore the crowd.").key != PROMPT.key
    assert build_prompt(TERMS[1:]).key != PROMPT.key
    assert build_prompt((Term("Foul", "Contact."), *TERMS[2:])).key != build_prompt(TERMS[1:]).key
    without_aliases = tuple(Term(t.name, t.definition) for t in TERMS)
    assert build_prompt(without_aliases).key == PROMPT.key  # aliases only matter for reading answers
    assert build_prompt((Term("ab"), Term("c"))).key != build_prompt((Term("a"), Term("bc"))).key


def test_adding_a_term_keeps_the_wording() -> None:
    assert build_prompt(TERMS[1:]).wording == PROMPT.wording
    assert build_prompt(TERMS, instructions="Ignore the crowd.").wording != PROMPT.wording


def test_the_schema_lists_the_names_unless_there_are_too_many() -> None:
    assert json.dumps(NAMES) in json.dumps(PROMPT.schema)
    many = build_prompt([Term(f"tag {i}") for i in range(MAX_ENUM + 1)])
    assert "enum" not in json.dumps(many.schema)


def test_a_definition_cannot_break_the_list() -> None:
    system = build_prompt([Term("Foul", "Contact\n- Fake: entry")]).system
    assert "\n- Fake" not in system


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('{"tags":["Foul"]}', ["Foul"]),
        ('{"tags": ["foul", "BREAK AWAY"]}', ["Foul", "Break-away"]),
        ('```json\n{"tags": ["Foul"]}\n```', ["Foul"]),
        ('<think>Maybe {"tags":["Foul"]}? No.</think>{"tags":["Break-away"]}', ["Break-away"]),
        ('It could be a foul.</think>\n{"tags":["Free throw"]}', ["Free throw"]),
        ('<|begin_of_box|>{"tags":["Foul"]}<|end_of_box|>', ["Foul"]),
        ("<|begin_of_box|>Foul<|end_of_box|>", ["Foul"]),
        (
            '<|channel|>analysis<|message|>hm {"tags":[]}<|end|><|channel|>final<|message|>{"tags":["Foul"]}',
            ["Foul"],
        ),
        ('Sure! Here it is: {"tags": ["basket"]} Hope it helps.', ["Basketball point"]),
        ('{"tags":["Foul","Free throw"', ["Foul", "Free throw"]),
        ("{'tags': ['Foul',]}", ["Foul"]),
        ('{"tags": "Foul, Free throw"}', ["Foul", "Free throw"]),
        ('{"Tags": [{"name": "Foul", "confidence": 0.9}]}', ["Foul"]),
        ('{"Foul": true, "Break-away": false}', ["Foul"]),
        ('["Foul"]', ["Foul"]),
        ("A player is held by the arm | Foul", ["Foul"]),
        ("Foul, Break away", ["Foul", "Break-away"]),
        ("- Foul\n- foul shot", ["Foul", "Free throw"]),
        ("Tags: Foul", ["Foul"]),
        ('{"tags":["C"]}', ["C"]),
        ('{"tags":["c++"]}', ["C++"]),
        ('{"tags":["Basketball point: The ball goes through the hoop."]}', ["Basketball point"]),
        ('{"Foul": 0.9, "Break-away": 0.0}', ["Foul"]),
        ('{"tags":[{"name":"Foul","present":true},{"name":"C","present":false}]}', ["Foul"]),
        ('[{"name":"Foul","confidence":0.9},{"name":"C","confidence":0.0}]', ["Foul"]),
        ("Break-away: no\nFoul: yes", ["Foul"]),
        ("- [ ] Break-away\n- [x] Foul", ["Foul"]),
        ("Foul, Break away, crowd", ["Foul", "Break-away"]),
        ('{"tags": ["Foul"], "reason": "a held arm"}', ["Foul"]),
    ],
)
def test_reads_what_models_write(text: str, tags: list[str]) -> None:
    reply = parse_reply(text, PROMPT)
    assert (reply.outcome, sorted(reply.tags)) == (Outcome.TAGS, sorted(tags))


@pytest.mark.parametrize(
    "text",
    [
        '{"tags":[]}',
        '{"tags": null}',
        '{"tags":["none"]}',
        '{"tags":"None"}',
        "None.",
        "[]",
        "A court at rest | none",
        "- [ ] Foul\n- [ ] C",
        "Foul: no\nC: no",
        'Nothing of the list: {"tags":[]}',
        '{"Foul": false, "C": 0}',
    ],
)
def test_none_is_said_in_so_many_words(text: str) -> None:
    assert parse_reply(text, PROMPT).outcome is Outcome.NONE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "<think>a very long thought that never ends",
        "The picture shows a player who is close to a Foul but does not commit one.",
        '{"tags":["Foul","Free th',
        "{}",
        '{"error": "out of memory"}',
        '{"scene": ["Foul"]}',
        "[1, 2, 3]",
        '[{"box": [1, 2]}]',
        "lorem ipsum",
        "Foul (not visible)",
        "Foul: the referee is not signalling anything",
        "Foul - there is no foul in this picture",
        "Foul | no",
        "Foul, no | none",
        "Foul, not a Break-away",
        '{"tags":["Foul",',
        '{"tags":[',
        '{"tags":"I cannot determine the tags"}'.replace("I cannot determine", "Hard to say for"),
        "I cannot see [] anything".replace("I cannot", "One can"),
        "Here is the list: [",
        '{"tags":["first name","second name"]}',
        'If no tag applies, answer {"tags":[]}',
        '<|channel|>analysis<|message|>hm {"tags":[]}',
        '{"error":"image could not be loaded","tags":null}',
        '{"error":"image could not be loaded","tags":[]}',
        "\n".join(f"- {name}" for name in NAMES),
        '{"tags":[{"name":"Foul","where":"left"}]}',
        "1. The players stand still, 2. nobody moves",
        "{" * 5000,
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_never_none(text: str) -> None:
    assert parse_reply(text, PROMPT).outcome is Outcome.UNPARSABLE


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI, I am unable to describe people in pictures.",
        '{"answer":"I am sorry, I cannot process this image"}',
        '{"tags":"I cannot determine"}',
    ],
)
def test_a_refusal_is_told_apart(text: str) -> None:
    assert parse_reply(text, PROMPT).outcome is Outcome.REFUSED


def test_words_outside_the_vocabulary_are_dropped_and_counted() -> None:
    reply = parse_reply('{"tags":["Foul","Slam dunk","Alley-oop"]}', PROMPT)
    assert (reply.tags, reply.unknown_words) == (("Foul",), 2)
    assert parse_reply('{"tags":["Slam dunk"]}', PROMPT) == parse_reply('{"tags":["Alley-oop"]}', PROMPT)


def test_a_tag_called_none_is_a_tag() -> None:
    prompt = build_prompt([Term("None"), Term("Foul")])
    assert parse_reply('{"tags":["None"]}', prompt).tags == ("None",)
    assert parse_reply("None", prompt).tags == ("None",)


@given(st.text(max_size=400))
def test_no_text_can_break_the_parser_or_invent_a_tag(text: str) -> None:
    reply = parse_reply(text, PROMPT)
    assert set(reply.tags) <= set(NAMES)
    assert bool(reply.tags) == (reply.outcome is Outcome.TAGS)
    assert bool(reply.detail) == (reply.outcome in (Outcome.UNPARSABLE, Outcome.REFUSED))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["tags", "x", "Foul"]), inner),
    max_leaves=12,
)


@given(st.text(max_size=30), _json, st.text(max_size=30), st.integers(0, 60))
def test_json_of_any_shape_among_any_text(before: str, value: object, after: str, cut: int) -> None:
    text = before + json.dumps(value) + after
    for candidate in (text, text[: max(0, len(text) - cut)]):
        assert set(parse_reply(candidate, PROMPT).tags) <= set(NAMES)


@given(st.lists(st.sampled_from(NAMES), unique=True), st.booleans())
def test_what_was_agreed_is_read_exactly(names: list[str], fenced: bool) -> None:
    text = json.dumps({"tags": names})
    reply = parse_reply(f"```json\n{text}\n```" if fenced else text, PROMPT)
    assert list(reply.tags) == [n for n in NAMES if n in names]
    assert reply.outcome is (Outcome.TAGS if names else Outcome.NONE)


_name = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(_name, min_size=1, max_size=6, unique_by=lambda n: n.strip().casefold()))
def test_any_vocabulary_reads_its_own_names(names: list[str]) -> None:
    names = [n.strip() for n in names]
    prompt = build_prompt([Term(n) for n in names])
    assert set(parse_reply(json.dumps({"tags": names}), prompt).tags) == set(names)


_prose = st.lists(
    st.sampled_from(["the", "player", "is", "not", "near", "a", "and", "Foul", "no", "Break-away", "shows", "picture"]),
    min_size=5,
    max_size=12,
).map(lambda some: " ".join(["This", *some, "here."]))


@given(_prose)
def test_prose_is_neither_tags_nor_none(text: str) -> None:
    assert parse_reply(text, PROMPT).outcome in (Outcome.UNPARSABLE, Outcome.REFUSED)


@given(st.lists(st.sampled_from(NAMES), unique=True, min_size=1), st.data())
def test_a_cut_answer_is_whole_or_unreadable(names: list[str], data: st.DataObject) -> None:
    text = json.dumps({"tags": names})
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    reply = parse_reply(cut, PROMPT)
    assert reply.outcome is not Outcome.NONE
    assert set(reply.tags) <= set(names)
