"""Lengths of time, folders by another name, and words for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm_utility import Length, clock_text, count_text, duration_text, first_error, map_path, sentences


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        (12, 12_000),
        (0.25, 250),
        ("12", 12_000),
        ("12s", 12_000),
        (" 1m30s ", 90_000),
        ("1.5 min", 90_000),
        ("1h 2m 3.5 sec", 3_723_500),
        ("2 H", 7_200_000),
        ("5%", 500),
        ("0", 0),
    ],
)
def test_a_length_as_people_write_it(given: object, ms: int) -> None:
    length = Length.parse(given)
    assert length.ms(10_000) == ms
    assert Length.parse(length) is length
    assert Length.parse(str(length)) == length


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (True, "a length is a number of seconds"),
        (None, "a length is a number of seconds"),
        ("", "such as 12s, 1m30s or 5%"),
        ("soon", "such as 12s"),
        ("-3", "such as 12s"),
        ("3s 1m", "such as 12s"),
        (-1, "cannot be negative or endless"),
        (float("inf"), "cannot be negative or endless"),
        (float("nan"), "cannot be negative or endless"),
        ("101%", "cannot be more than 100%"),
    ],
)
def test_what_is_no_length_is_told(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Length.parse(given)


@pytest.mark.parametrize(
    ("path", "mutation", "here"),
    [
        ("/data/a.mp4", {"/data": "/mnt/nas"}, "/mnt/nas/a.mp4"),
        ("/data/a.mp4", {"/data/": "/mnt/nas/"}, "/mnt/nas/a.mp4"),
        ("/database/a.mp4", {"/data": "/mnt/nas"}, "/database/a.mp4"),
        ("/Data/a.mp4", {"/data": "/mnt/nas"}, "/Data/a.mp4"),
        ("/data/films/a.mp4", {"/data/films": "/fast", "/data": "/slow"}, "/fast/a.mp4"),
        ("/data/films/a.mp4", {"/data": "/slow", "/data/films": "/fast"}, "/fast/a.mp4"),
        ("/data/other/a.mp4", {"/data": "/slow", "/data/films": "/fast"}, "/slow/other/a.mp4"),
        ("/data", {"/data": "/mnt/nas"}, "/mnt/nas"),
        ("/data/deep/a.mp4", {"/data": "Z:\\films"}, "Z:\\films\\deep\\a.mp4"),
        ("/data/deep/a.mp4", {"/data": "Z:/films"}, "Z:/films/deep/a.mp4"),
        ("D:\\Films\\a.mp4", {"d:/films": "/mnt/d"}, "/mnt/d/a.mp4"),
        ("\\\\nas\\share\\a.mp4", {"\\\\NAS\\share": "/mnt/nas"}, "/mnt/nas/a.mp4"),
        ("D:\\Films\\a.mp4", {"/data": "/mnt"}, "D:\\Films\\a.mp4"),
        ("/data/a.mp4", {}, "/data/a.mp4"),
    ],
)
def test_a_path_by_the_name_this_machine_has_for_it(path: str, mutation: dict[str, str], here: str) -> None:
    assert map_path(path, mutation) == here


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.lists(st.text("abc", min_size=1), min_size=1))
def test_only_what_lies_in_the_folder_moves(parts: list[str], folder: list[str]) -> None:
    path, theirs = "/" + "/".join(parts), "/" + "/".join(folder)
    moved = map_path(path, {theirs: "/x"})
    assert moved == ("/x" + path.removeprefix(theirs) if f"{path}/".startswith(f"{theirs}/") else path)


def test_words_for_people() -> None:
    assert [clock_text(ms) for ms in (-5, 34_900, 725_000, 3_723_000)] == ["0:00", "0:34", "12:05", "1:02:03"]
    nouns = ["scene", "box", "gallery", "day", "medium", "loss", "match"]
    plural = ["2,000 scenes", "2,000 boxes", "2,000 galleries", "2,000 days", "2,000 media", "2,000 losses"]
    assert [count_text(2000, noun) for noun in nouns] == [*plural, "2,000 matches"]
    assert [count_text(1, noun) for noun in nouns] == [f"1 {noun}" for noun in nouns]
    assert [duration_text(s) for s in (0.4, 89, 90, 5340, 5400, 7200)] == [
        "0 s", "89 s", "2 min", "89 min", "1 h 30 min", "2 h",
    ]  # fmt: skip
    assert sentences("One", "", "two?", "Three.") == "One. two? Three."


def test_the_error_that_tells_most_comes_out_of_a_group() -> None:
    inner = ExceptionGroup("inner", [ValueError("1"), KeyError("2")])
    group = BaseExceptionGroup("outer", [OSError("0"), inner, KeyError("3")])
    assert str(first_error(group, KeyError)) == "'2'"
    assert str(first_error(group, ZeroDivisionError)) == "0", "of any kind, when there is none of that"
