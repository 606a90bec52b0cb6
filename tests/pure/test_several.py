"""Several pictures in one question: the wording, and taking the answer apart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.confidence import Token, confidences
from haven_vlm.facts import Outcome, Term
from haven_vlm.prompts import MAX_TOKENS_OF_SEVERAL, build_prompt, build_several_prompt
from haven_vlm.several import parse_several, tokens_of_each

TERMS = (Term("Dunk", aliases=("slam",)), Term("Foul", "a whistle"), Term("Timeout"))
THREE = build_several_prompt(TERMS, 3)
Read = list[tuple[str, ...] | None]
"""Of each picture its tags; None: unreadable."""


def read(text: str) -> Read:
    return [p.tags if p.outcome.analysed else None for p in parse_several(text, THREE)]


def test_the_wording_is_another_one_than_for_a_single_picture_whatever_the_number() -> None:
    single, two, many = build_prompt(TERMS), build_several_prompt(TERMS, 2), build_several_prompt(TERMS, 16)
    assert single.wording != two.wording == many.wording
    assert single.key != two.key == many.key
    assert two.system == many.system  # constant, so that servers can keep it
    assert build_several_prompt(TERMS, 2, instructions="Mind the bench.").wording != two.wording
    assert build_several_prompt(TERMS[:2], 2).wording == two.wording
    assert build_several_prompt(TERMS[:2], 2).key != two.key


def test_the_answers_budget_grows_with_the_pictures_up_to_a_bound() -> None:
    single = build_prompt(TERMS).max_tokens
    assert build_several_prompt(TERMS, 4).max_tokens == 4 * single
    many = [Term(f"Tag number {n} with a long name") for n in range(200)]
    assert build_several_prompt(many, 16).max_tokens == MAX_TOKENS_OF_SEVERAL
    assert "enum" not in json.dumps(build_several_prompt(many, 16).schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"1":["Dunk"],"2":[],"3":["Foul","Timeout"]}', [("Dunk",), (), ("Foul", "Timeout")]),
        ('{"1":["Dunk"],"3":["Foul"]}', [("Dunk",), None, ("Foul",)]),
        ('{"2":["slam"],"1":[],"3":[]}', [(), ("Dunk",), ()]),
        ('{"Picture 1":["Dunk"],"picture_2":[],"image 3":["Foul"]}', [("Dunk",), (), ("Foul",)]),
        ('{"1":{"tags":["Dunk"]},"2":{"tags":[]},"3":"Foul"}', [("Dunk",), (), ("Foul",)]),
        ('{"pictures":{"1":["Dunk"],"2":[],"3":[]}}', [("Dunk",), (), ()]),
        ('[{"picture":1,"tags":["Dunk"]},{"picture":3,"tags":[]}]', [("Dunk",), None, ()]),
        ('{"answers":[{"id":2,"tags":["Foul"]}]}', [None, ("Foul",), None]),
        ('<think>Two of them…</think>```json\n{"1":[],"2":["Dunk"],"3":[]}\n```', [(), ("Dunk",), ()]),
        ('{"1":["Dunk"],"2":7,"3":[]}', [("Dunk",), None, ()]),
        ('{"1":["Jump"],"2":[],"3":[]}', [(), (), ()]),
        ('{"0":["Dunk"],"1":[],"2":[]}', [None, None, None]),  # counted from nought: which is which?
        ('{"1":[],"2":[],"3":[],"4":["Dunk"]}', [None, None, None]),
        ('{"tags":["Dunk"]}', [None, None, None]),
        ('[["Dunk"],[],[]]', [None, None, None]),
        ('[{"tags":["Dunk"]},{"tags":[]},{"tags":[]}]', [None, None, None]),
        ('[{"picture":1,"tags":["Dunk"]},{"picture":1,"tags":[]}]', [None, None, None]),
        ('{"1":["Dunk"],"2":[],"3":[]} {"ok":true}', [("Dunk",), (), ()]),
        ('{"1":["Dunk"],"2":[],"3":[]} {"4":[]}', [None, None, None]),
        ('{"1":"","2":"Foul","3":"hard to say"}', [(), ("Foul",), None]),
        ('{"true":["Dunk"],"2":[],"3":[]}', [None, None, None]),
        ('{"1":["Dunk"],"01":[],"2":[]}', [None, None, None]),
        ('[{"picture":true,"tags":["Dunk"]}]', [None, None, None]),
        ('[{"picture":1,"frame":2,"tags":["Dunk"]}]', [None, None, None]),
        ('[{"picture":1,"tags":["Dunk"]},7]', [None, None, None]),
        ('<|channel|>analysis<|message|>{"1":[],"2":[],"3":[]}', [None, None, None]),
        ("Picture 1 shows a Dunk.", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_each_picture_gets_what_is_said_of_it_and_nothing_is_guessed(text: str, said: Read) -> None:
    assert read(text) == said


@pytest.mark.parametrize(
    "text",
    [
        '[{"picture":1,"tags":["Dunk"]},"Dunk",{"picture":3,"tags":[]}]',
        '[{"picture":1.5,"tags":["Dunk"]},{"picture":2,"tags":[]},{"picture":3,"tags":[]}]',
    ],
)
def test_a_list_with_an_item_that_names_no_picture_is_not_read(text: str) -> None:
    assert read(text) == [None, None, None]


def test_a_picture_that_is_left_out_says_so() -> None:
    assert parse_several('{"1":[],"2":[]}', THREE)[2].detail == "the answer leaves this picture out"


def test_a_picture_that_the_model_declines_is_told_apart() -> None:
    parts = parse_several('{"1":"I am sorry, I cannot describe this","2":[],"3":7}', THREE)
    assert [p.outcome for p in parts] == [Outcome.REFUSED, Outcome.NONE, Outcome.UNPARSABLE]


@pytest.mark.parametrize("text", ["[]", "{}", "[7]", '{"pictures":[]}'])
def test_an_answer_without_numbers_says_so(text: str) -> None:
    details = {p.detail for p in parse_several(text, THREE)}
    assert details == {"the answer does not say which picture it is about"}


@given(st.text(max_size=200))
def test_no_text_raises_and_every_picture_gets_something(text: str) -> None:
    parts = parse_several(text, THREE)
    assert len(parts) == 3
    assert all(p.outcome in (Outcome.TAGS, Outcome.NONE, Outcome.REFUSED, Outcome.UNPARSABLE) for p in parts)


@given(st.lists(st.sets(st.sampled_from([t.name for t in TERMS])), min_size=2, max_size=16))
def test_what_is_written_in_the_agreed_form_is_read_back(said: list[set[str]]) -> None:
    prompt = build_several_prompt(TERMS, len(said))
    text = json.dumps({str(n): sorted(names) for n, names in enumerate(said, 1)})
    assert [set(p.tags) for p in parse_several(text, prompt)] == said


def test_each_picture_has_its_own_sureness() -> None:
    pieces = [
        ("{", 1.0),
        ('"1":["', 1.0),
        ("Dunk", 0.5),
        ('"],"', 1.0),
        ("2", 1.0),
        ('":["', 1.0),
        ("Dunk", 0.9),
        ('"]}', 1.0),
    ]
    tokens = [Token(text.encode(), p) for text, p in pieces]
    one, two = tokens_of_each(tokens, 2)
    assert confidences(one, {"Dunk": ("Dunk",)}) == {"Dunk": 0.5}
    assert confidences(two, {"Dunk": ("Dunk",)}) == {"Dunk": 0.9}
    assert tokens_of_each(tokens, 3) == [(), (), ()]  # it does not speak of the third
    assert tokens_of_each((), 2) == [(), ()]


def test_a_token_belongs_to_each_picture_it_reaches_into() -> None:
    pieces = ["{", '"1":["', "Dunk", '"],', '"2":[', "]", ',"', '3":', "[]", "}"]
    tokens = [Token(text.encode(), 1.0) for text in pieces]
    parts = [[t.text.decode() for t in part] for part in tokens_of_each(tokens, 3)]
    assert parts == [pieces[1:4], pieces[4:7], pieces[6:]]


def test_of_an_answer_about_more_pictures_those_that_were_asked_about_are_found() -> None:
    tokens = [Token(text.encode(), 1.0) for text in ('{"1":[', '],"2":[', '],"3":[', "]}")]
    assert tokens_of_each(tokens, 2) == [tokens[:2], tokens[1:]]


@pytest.mark.parametrize(
    "answer",
    [
        '{"2":[],"1":[]}',
        '{"1":[],"2":[],"1":[]}',
        '{"1":[]}',
        '{"tags":[]}',
    ],
)
def test_out_of_order_or_twice_no_token_can_be_placed(answer: str) -> None:
    assert tokens_of_each([Token(answer.encode(), 1.0)], 2) == [(), ()]
