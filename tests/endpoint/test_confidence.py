"""Confidence from the probabilities of tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.confidence import WITHOUT_PROBABILITIES, Token, confidences

NAMES = {"Dunk": ("Dunk", "slam"), "Free throw": ("Free throw",), "Foul": ("Foul",)}


def tokens(*parts: str | tuple[str, float] | tuple[str, float, dict[str, float]]) -> list[Token]:
    made = []
    for part in parts:
        text, p, others = (part, 1.0, {}) if isinstance(part, str) else (*part, {})[:3]
        made.append(Token(text.encode(), p, tuple((o.encode(), q) for o, q in others.items())))
    return made


def test_without_probabilities_it_is_a_constant() -> None:
    assert confidences([], {"Dunk": ("Dunk",)}) == {"Dunk": WITHOUT_PROBABILITIES}


def test_a_name_is_as_sure_as_the_product_of_its_tokens() -> None:
    answer = tokens('{"', "tags", '":["', ("D", 0.8), ("unk", 0.5), '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(0.4)}


def test_the_doubt_whether_to_name_anything_counts() -> None:
    answer = tokens('{"tags":', ('["', 0.6, {"[]": 0.2}), "Dunk", '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(0.75)}


def test_the_doubt_whether_to_go_on_counts_for_the_next_name_only() -> None:
    answer = tokens('{"tags":["', "Dunk", ('","', 0.5, {'"]': 0.5}), "Foul", '"]}')
    got = confidences(answer, {"Dunk": ("Dunk",), "Foul": ("Foul",)})
    assert got == {"Dunk": pytest.approx(1.0), "Foul": pytest.approx(0.5)}


def test_how_the_json_is_spaced_is_no_doubt() -> None:
    answer = tokens('{"tags":', ("[", 0.3, {"[ ": 0.4, "[\n": 0.3}), '"', "Dunk", '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(1.0)}


def test_which_of_two_named_tags_comes_first_is_no_doubt() -> None:
    answer = tokens('{"tags":["', ("Dunk", 0.5, {"F": 0.45}), '","', ("F", 0.9), "oul", '"]}')
    got = confidences(answer, {"Dunk": ("Dunk",), "Foul": ("Foul",)})
    assert got == {"Dunk": pytest.approx(0.95), "Foul": pytest.approx(0.9)}


def test_a_tag_that_is_not_named_is_a_doubt() -> None:
    answer = tokens('{"tags":["', ("Dunk", 0.5, {"Foul": 0.45}), '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(0.5)}


def test_the_same_name_in_other_tokens_is_no_doubt() -> None:
    answer = tokens('{"tags":["', ("D", 0.5, {"Du": 0.3, "Dunk": 0.2}), "unk", '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(1.0)}


def test_thoughts_before_the_answer_do_not_count() -> None:
    answer = tokens('<think>"', ("Dunk", 0.1), '"? yes</think>{"tags":["', ("Dunk", 0.9), '"]}')
    assert confidences(answer, {"Dunk": ("Dunk",)}) == {"Dunk": pytest.approx(0.9)}


def test_an_alias_is_found_and_letter_case_does_not_matter() -> None:
    assert confidences(tokens('["', ("SLAM", 0.7), '"]'), {"Dunk": ("Dunk", "slam")}) == {"Dunk": pytest.approx(0.7)}
    assert confidences(tokens("dunk, ", ("foul", 0.6)), {"Foul": ("Foul",)}) == {"Foul": pytest.approx(0.6)}


def test_letters_cut_between_tokens_are_found() -> None:
    raw = "Bänke".encode()
    answer = [Token(b'["', 1.0), Token(raw[:2], 0.9), Token(raw[2:], 1.0), Token(b'"]', 1.0)]
    assert confidences(answer, {"Bänke": ("Bänke",)}) == {"Bänke": pytest.approx(0.9)}


chosen = st.lists(st.sampled_from(sorted(NAMES)), unique=True, min_size=1)


@given(chosen, st.lists(st.integers(1, 6), min_size=1, max_size=30), st.data())
def test_however_it_is_cut_a_confidence_is_a_probability(
    names: list[str], cuts: list[int], data: st.DataObject
) -> None:
    text = json.dumps({"tags": names})
    answer, position = [], 0
    while position < len(text):
        part = text[position : position + cuts[position % len(cuts)]]
        p = data.draw(st.floats(0, 1))
        others = data.draw(
            st.lists(st.tuples(st.sampled_from([b"]", b'"', b"Foul", b"", b"D", b'"]']), st.floats(0, 1)), max_size=2)
        )
        answer.append(Token(part.encode(), p, tuple(others)))
        position += len(part)
    got = confidences(answer, {n: NAMES[n] for n in names})
    assert set(got) == set(names)
    assert all(0 <= c <= 1 for c in got.values())


@given(chosen, st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_certain_tokens_make_certain_tags(names: list[str], cuts: list[int]) -> None:
    text, answer, position = json.dumps({"tags": names}), [], 0
    while position < len(text):
        part = text[position : position + cuts[position % len(cuts)]]
        answer.append(Token(part.encode(), 1.0))
        position += len(part)
    assert confidences(answer, {n: NAMES[n] for n in names}) == dict.fromkeys(names, 1.0)


@given(st.lists(st.builds(Token, st.binary(max_size=6), st.floats(allow_nan=False))), st.text(max_size=5))
def test_noise_never_raises(noise: list[Token], name: str) -> None:
    assert set(confidences(noise, {name: (name,)})) == {name}
