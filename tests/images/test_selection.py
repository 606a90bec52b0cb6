"""What a batch run is about: one filter for Stash, never by accident the whole library."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Kind, TagRef
from haven_vlm.selection import folders_pattern, media_filter, select
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import MediaFilter


def settings(**values: Any) -> Settings:
    needed = {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": ["Dunk"]}
    return Settings.model_validate({**needed, **values})


def criteria(kind: Kind = Kind.IMAGE, **values: Any) -> dict[str, Any]:
    return dict(
        media_filter(
            kind,
            settings(select="untagged", **values),
            trigger_id="1",
            done_ids=("12", "", "9"),
            skip_tag_ids=("100",),
            skip_studio_ids=("7",),
        ).criteria
    )


def test_tagged_means_that_very_tag() -> None:
    found = media_filter(Kind.SCENE, settings(), trigger_id="5", done_ids=("1",))
    assert found.criteria == {"tags": {"value": ["5"], "modifier": "INCLUDES", "depth": 0}}
    with pytest.raises(ValueError, match="only be found with a tag"):
        media_filter(Kind.SCENE, settings(), trigger_id="", done_ids=())


def test_untagged_is_everything_but_for_what_is_left_out() -> None:
    assert criteria(skip_organized=True, skip_paths=["/private"]) == {
        "id": {"value": 0, "modifier": "GREATER_THAN"},
        "tags": {"value": ["9", "12", "100"], "modifier": "EXCLUDES", "depth": 0},
        "organized": False,
        "studios": {"value": ["7"], "modifier": "EXCLUDES", "depth": -1},
        "path": {"value": "^(?:/private)(?:[/\\\\]|$)", "modifier": "NOT_MATCHES_REGEX"},
    }


def test_an_empty_criterion_is_never_sent() -> None:
    bare = media_filter(Kind.IMAGE, settings(select="untagged"), trigger_id="", done_ids=("", ""))
    assert bare.criteria == {"id": {"value": 0, "modifier": "GREATER_THAN"}}


@pytest.mark.parametrize(
    ("kind", "order", "sort", "descending"),
    [
        (Kind.SCENE, "oldest", "id", False),
        (Kind.IMAGE, "newest", "id", True),
        (Kind.SCENE, "shortest", "duration", False),
        (Kind.IMAGE, "shortest", "filesize", False),
        (Kind.GALLERY, "shortest", "images_count", False),
    ],
)
def test_orders(kind: Kind, order: str, sort: str, descending: bool) -> None:
    for chosen in ("tagged", "untagged"):
        found = media_filter(kind, settings(select=chosen, select_order=order), trigger_id="1", done_ids=())
        assert (found.sort, found.descending) == (sort, descending)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/data/private/a.jpg", True),
        ("/data/private", True),
        ("/data/private.zip/a.jpg", False),
        ("/data/privately/a.jpg", False),
        ("/other/data/private/a.jpg", False),
        ("/data/a+b (1)/a.jpg", True),
        ("D:\\Media\\x.jpg", True),
        ("d:/media/sub/x.jpg", True),
        ("D:\\Media2\\x.jpg", False),
    ],
)
def test_folders_are_matched_whole(path: str, inside: bool) -> None:
    pattern = folders_pattern(["/data/private/", "/data/a+b (1)", "D:\\media\\"])
    assert bool(re.search(pattern, path)) is inside


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0/\\ \t"), min_size=1, max_size=20))
def test_any_folder_name_matches_itself_and_only_itself(name: str) -> None:
    pattern = folders_pattern([f"/media/{name}"])
    assert re.search(pattern, f"/media/{name}/a.jpg")
    assert not re.search(pattern, f"/media/{name}x/a.jpg")
    assert not re.search(r"\\[A-Za-z0-9]", pattern.replace(r"[/\\]", "")), "Go knows no such escape"


class Library:
    """The part of Stash that selection asks."""

    def __init__(self) -> None:
        self.wanted: list[MediaFilter] = []

    async def find_tags(self, names: Collection[str]) -> dict[str, TagRef]:
        return {n: TagRef("31", n) for n in names if n == "Private"}

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        return {n: "41" for n in names if n == "League"}

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        self.wanted.append(wanted)
        return ["3", "1", "2"]


async def chosen(library: Library, **values: Any) -> list[str]:
    found: Any = library
    return await select(found, Kind.IMAGE, settings(**values), trigger_id="5", done_ids=("6",))


async def test_at_most_so_many_in_the_order_of_stash() -> None:
    assert await chosen(Library(), select_limit=2) == ["3", "1"]
    assert await chosen(Library()) == ["3", "1", "2"]


async def test_without_the_tag_nothing_is_tagged_and_nothing_is_asked() -> None:
    library: Any = Library()
    assert await select(library, Kind.IMAGE, settings(), trigger_id="", done_ids=()) == []
    assert library.wanted == []


async def test_names_become_ids() -> None:
    library = Library()
    await chosen(library, select="untagged", skip_tags=["Private"], skip_studios=["League"])
    assert library.wanted[0].criteria["tags"] == {"value": ["6", "31"], "modifier": "EXCLUDES", "depth": 0}
    assert library.wanted[0].criteria["studios"] == {"value": ["41"], "modifier": "EXCLUDES", "depth": -1}


async def test_all_misspelled_names_are_told_at_once_and_nothing_is_selected() -> None:
    library = Library()
    with pytest.raises(ConfigError) as caught:
        await chosen(library, select="untagged", skip_tags=["Privat", "Private"], skip_studios=["Leage"])
    assert str(caught.value) == "skip_tags: Stash has no tag “Privat”; skip_studios: Stash has no studio “Leage”"
    assert library.wanted == []
