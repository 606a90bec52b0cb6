"""The search box's own grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.stash.search import Terms, parse

WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6).filter(lambda word: word.lower() != "or")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", Terms()),
        ("  a  b ", Terms(["a", "b"])),
        ('"a b" c', Terms(["a b", "c"])),
        ("a -b", Terms(["a"], [], ["b"])),
        ('-"a b"', Terms([], [], ["a b"])),
        ("a or b", Terms([], [["a", "b"]])),
        ("a OR b or c d", Terms(["d"], [["a", "b", "c"]])),
        ("or a", Terms(["or", "a"])),
        ("a or", Terms(["a", "or"])),
        ('"a', Terms(['"a'])),
        ("-", Terms(["-"])),
        ('""', Terms()),
    ],
)
def test_terms(text: str, terms: Terms) -> None:
    assert parse(text) == terms


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5))
def test_plain_and_negated_words_are_all_kept(words: list[str], unwanted: list[str]) -> None:
    text = " ".join([*words, *(f"-{word}" for word in unwanted)])
    assert parse(text) == Terms(words, [], unwanted)
