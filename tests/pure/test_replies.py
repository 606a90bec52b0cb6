"""Odd answers of models, and exactly how far each is forgiven."""

from __future__ import annotations

import json

import pytest

from haven_vlm.facts import Outcome, Term
from haven_vlm.prompts import build_prompt
from haven_vlm.replies import ParsedReply, parse_reply

TERMS = (
    Term("Basketball point", "The ball goes through the hoop.", ("basket", "score")),
    Term("Foul"),
    Term("Break-away"),
    Term("Free throw", aliases=("foul shot",)),
    Term("C"),
)
PROMPT = build_prompt(TERMS)
UNREADABLE = "the answer is neither the JSON asked for nor a plain list of tags"


def read(text: str) -> ParsedReply:
    return parse_reply(text, PROMPT)


def tags(text: str) -> tuple[str, ...] | None:
    """None when the answer cannot be read."""
    reply = read(text)
    return reply.tags if reply.outcome.analysed else None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"tags":["Foul"]}<think>\nIs that so?\n</think>', ("Foul",)),
        ("A first\nidea\n</THINK>\nBreak-away", ("Break-away",)),
        ('{"tags":["Foul"]}\n<Reasoning>It goes on\nand on', ("Foul",)),
        ('<THINK>\nMaybe {"tags":["Foul"]}\n', None),
        ("I see C. <|begin_of_box|>Foul<|end_of_box|>", ("Foul",)),
        ("<|begin_of_box|>Foul<|end_of_box|><|begin_of_box|> <|end_of_box|>", ("Foul",)),
        ("<|begin_of_box|>Foul", ("Foul",)),
    ],
)
def test_what_is_wrapped_around_an_answer_is_taken_off(text: str, said: tuple[str, ...] | None) -> None:
    assert tags(text) == said


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("", Outcome.UNPARSABLE, "the answer is empty"),
        (" \n", Outcome.UNPARSABLE, "the answer is empty"),
        ("<think>A long thought.</think>", Outcome.UNPARSABLE, "only thinking, and no answer"),
        ("<|channel|>analysis<|message|>Foul", Outcome.UNPARSABLE, "only thinking, and no answer"),
        ('["first name", "second name"]', Outcome.UNPARSABLE, "the answer repeats the question"),
        ('{"tags":["first name","second name"]}', Outcome.UNPARSABLE, "the answer repeats the question"),
        ('If no tag applies, answer {"tags":[]}', Outcome.UNPARSABLE, "the answer repeats the question"),
        ("I cannot help with that.", Outcome.REFUSED, "the model declined to look"),
        ("lorem ipsum", Outcome.UNPARSABLE, UNREADABLE),
    ],
)
def test_why_an_answer_does_not_count_is_said(text: str, outcome: Outcome, detail: str) -> None:
    assert read(text) == ParsedReply(outcome, detail=detail)


def test_in_the_agreed_form_nothing_is_wrapping_whatever_names_look_like() -> None:
    names = ["<think>", "```", '"first name"', "If no tag applies", "[x] marks"]
    prompt = build_prompt([Term(n) for n in names])
    for name in names:
        assert parse_reply(json.dumps({"tags": [name]}), prompt).tags == (name,)


def test_names_that_differ_in_punctuation_alone_are_told_apart_by_it_alone() -> None:
    prompt = build_prompt([Term("Re-bound"), Term("Re bound"), Term("Lay-up", aliases=("Lay up",))])
    assert parse_reply('{"tags":["re-bound"]}', prompt).tags == ("Re-bound",)
    reply = parse_reply('{"tags":["Re_bound","Lay_up"]}', prompt)
    assert (reply.tags, reply.unknown_words) == (("Lay-up",), 1)


@pytest.mark.parametrize(
    ("text", "said", "unknown"),
    [
        ('{"tags":["Foul",{"name":"C"}]}', ("Foul", "C"), 0),
        ('{"tags":[{"name":"Foul"},{"name":"C","present":true,"visible":false}]}', ("Foul",), 0),
        ('{"tags":["Foul","...","None","Layup"]}', ("Foul",), 1),
        ('{"tags":"Foul","score":1}', ("Foul",), 0),
        ('["Foul","Layup","Crowd"]', ("Foul",), 2),
        ("['Foul', 'Layup', 'Crowd']", ("Foul",), 2),
        ('["Foul","Layup","Crowd"', ("Foul",), 2),
        ('[{"tags":["Foul","Layup"]}}', ("Foul",), 1),
        ("{'tags': ['Foul']}.", ("Foul",), 0),
        ("{'tags': ['Foul']} :]", ("Foul",), 0),
        ("{'tags': ['Foul', 'the player\\'s ] sign']}", ("Foul",), 1),
        ("{'tags': ['Foul', 'sign :]']}", ("Foul",), 1),
        ('{"tags":["Foul","sign :]"],}', ("Foul",), 1),
        ("Foul | C", ("Foul", "C"), 0),
        ("Foul, crowd", ("Foul",), 1),
        ("Foul, a red ball", ("Foul",), 1),
        ("Foul, C, crowd, ball", ("Foul", "C"), 2),
    ],
)
def test_what_is_known_is_read_and_what_is_not_is_counted(text: str, said: tuple[str, ...], unknown: int) -> None:
    assert read(text) == ParsedReply(Outcome.TAGS, said, unknown)


@pytest.mark.parametrize(
    "text",
    [
        'Seen: ["Foul","Layup"]',
        '["Foul","Layup"] is what one might perhaps see here',
        '{"tags":"Foul, a player who falls"}',
        '{"tags":"","error":"out of memory"}',
        "- [x] Foul\n- [ ] Layup",
        "Boxes:\n- [x] Foul",
        "Foul | C\nBreak-away",
        "A held arm | Foul\nA whistle | C",
        "Foul: yes\nC: perhaps",
        "Foul: yes\nC",
        "Foul, crowd, ball",
        "Foul, a big red ball",
        "Foul, ball: red",
        "A held arm | Foul, a crowd",
        "Foul, a whistle | C",
        "A held arm | , ",
    ],
)
def test_half_an_understanding_is_none(text: str) -> None:
    assert read(text) == ParsedReply(Outcome.UNPARSABLE, detail=UNREADABLE)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"tags":["Foul"]}\n{"tags":["C"]}', Outcome.TAGS),
        ('{"tags":["Foul"]}\n{"Foul":true,"cached":false}', Outcome.TAGS),
        ('{"tags":["Foul"]}\n{"seconds":1.5}', Outcome.TAGS),
        ('{"tags":["Foul"]}\n{"tags":[]}', Outcome.NONE),
        ('{"tags":["Foul"]}\n{"tags":"hard to say"}', Outcome.UNPARSABLE),
        ('{"tags":["Foul"]}\n{"tags":[1,2]}', Outcome.UNPARSABLE),
        ('{"tags":["Foul"]}\n{"tags":"I cannot determine"}', Outcome.REFUSED),
    ],
)
def test_the_last_thing_said_about_tags_holds(text: str, outcome: Outcome) -> None:
    assert read(text).outcome is outcome
    if outcome is Outcome.TAGS:
        assert ("Foul" in text) == bool(read(text).tags)


def test_of_two_answers_the_last_holds() -> None:
    assert tags('{"tags":["Foul"]}\n{"tags":["C"]}') == ("C",)


def test_remarks_beside_an_empty_list_do_not_spoil_it() -> None:
    remarks = ("reason", "reasoning", "description", "explanation", "evidence", "comment", "id")
    assert read(json.dumps({"tags": [], **dict.fromkeys(remarks, "a court at rest")})).outcome is Outcome.NONE
    assert read('{"tags":""}').outcome is Outcome.NONE


@pytest.mark.parametrize("yes", ["true", '"yes"', '"Yes."', '"TRUE"', '"present"', "1", "1.0", "0.5", "0.51"])
@pytest.mark.parametrize("no", ["false", '"no"', '" No. "', '"False"', '"absent"', "0", "0.0", "0.49"])
def test_yes_and_no_in_many_words(yes: str, no: str) -> None:
    assert tags(f'{{"Foul":{yes},"C":{no}}}') == ("Foul",)


@pytest.mark.parametrize("neither", ["2", "1.01", "-0.1", '"maybe"', "null", "[]", '"0.9"'])
def test_what_is_neither_yes_nor_no_is_not_taken_for_either(neither: str) -> None:
    assert tags(f'{{"Foul":true,"C":{neither}}}') is None


@pytest.mark.parametrize(("size", "said"), [(3, Outcome.TAGS), (4, Outcome.UNPARSABLE), (5, Outcome.UNPARSABLE)])
def test_a_long_list_said_back_whole_is_no_choice(size: int, said: Outcome) -> None:
    prompt = build_prompt(TERMS[:size])
    assert parse_reply(", ".join(t.name for t in TERMS[:size]), prompt).outcome is said
    assert parse_reply(", ".join(t.name for t in TERMS[: size - 1]), prompt).outcome is Outcome.TAGS


@pytest.mark.parametrize("end", ['"Layup","Foul"', "'Layup','Foul']}"])
def test_an_answer_is_mended_up_to_a_length(end: str) -> None:
    begin = '{"tags":['
    room = 20_000 - len(begin) - len(end)
    assert tags(begin + " " * room + end) == ("Foul",)
    assert tags(begin + " " * (room + 1) + end) is None


def test_an_answer_is_found_behind_some_stray_brackets_but_not_sought_for_ever() -> None:
    answer = '{"tags":["Foul"]}'
    assert tags("[} " * 49 + answer) == ("Foul",)
    assert tags("[} " * 50 + answer) is None


def test_brackets_without_end_break_nothing() -> None:
    assert tags("[" * 9_000 + '"Layup"') is None
    assert tags('{"answer":' * 1_900 + '"Foul"') is None
