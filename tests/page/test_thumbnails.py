"""Pictures for the page: as many as can be had in a while, and a sentence when there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from haven_vlm.errors import MediaError, MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame
from haven_vlm.journal import Journal
from haven_vlm.media_access import OpenVideo
from haven_vlm.page_operations import THUMBNAILS_S, Desk, Library, operate
from haven_vlm.settings import Settings
from tests.fakes import FakeGateway, FakeStash

SETTINGS = Settings.model_validate({"endpoints": [{"base_url": "http://127.0.0.1:9/v1"}], "tag_list": ["Dunk"]})
TIMES = [3.0, 1.0, 2.0]


class Film:
    """A video whose reader does as it is told before each picture."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self._before = before

    async def frames(self, wanted: Sequence[int], *, snap_ms: int = 0) -> AsyncIterator[Frame]:
        assert list(wanted) == sorted(wanted), "a video is read forwards"
        for at_ms in wanted:
            self._before(at_ms)
            yield Frame(at_ms, at_ms, b"\xff\xd8jpeg", 160, 90, b"")


async def pictures(
    tmp_path: Path, film: Film | MediaError, *, clock: Callable[[], float] = lambda: 0.0
) -> dict[float, bool]:
    """Time → whether there is a picture."""

    @asynccontextmanager
    async def opened(*_: Any) -> AsyncIterator[Any]:
        if isinstance(film, MediaError):
            raise film
        yield film

    stash = FakeStash()
    scene = stash.scene()
    gateway = cast(Library, FakeGateway(stash))
    desk = Desk(gateway, SETTINGS, Journal(tmp_path / "l"), lambda: cast(OpenVideo, opened), clock)
    reply = cast(dict[str, Any], await operate(desk, "thumbnails", {"id": scene.id, "times": TIMES}))
    assert [t["t"] for t in reply["thumbnails"]] == TIMES, "in the order they were asked for"
    return {t["t"]: t["image"] is not None for t in reply["thumbnails"]}


async def test_all_of_them(tmp_path: Path) -> None:
    assert await pictures(tmp_path, Film()) == {1.0: True, 2.0: True, 3.0: True}


async def test_a_slow_disk_gives_what_it_gave_in_time(tmp_path: Path) -> None:
    now = iter([0.0, 1.0, THUMBNAILS_S + 1])
    assert await pictures(tmp_path, Film(), clock=lambda: next(now)) == {1.0: True, 2.0: True, 3.0: False}


async def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    def hang(at_ms: int) -> None:
        if at_ms == 2000:
            raise TimeoutError  # as the limit raises it, wherever it strikes

    assert await pictures(tmp_path, Film(hang)) == {1.0: True, 2.0: False, 3.0: False}


async def test_a_file_that_breaks_off_shows_what_there_is(tmp_path: Path) -> None:
    def breaks_off(at_ms: int) -> None:
        if at_ms == 3000:
            raise MediaUnreadable("the rest is missing")

    assert await pictures(tmp_path, Film(breaks_off)) == {1.0: True, 2.0: True, 3.0: False}


async def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaUnreachable, match="the drive is away"):
        await pictures(tmp_path, MediaUnreachable("the drive is away"))
