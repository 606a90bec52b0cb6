"""The pictures of examples: taken once, kept while they are shown, and no reason for a run to fail."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.errors import MediaUnreadable
from haven_vlm.example_pictures import MOST_FAILURES, Album
from haven_vlm.facts import Answer, Example, Frame, Kind, Medium, Outcome, Term
from haven_vlm.journal import Journal
from haven_vlm.learning import KEPT, Learning
from haven_vlm.location import Location
from haven_vlm.picture import Preparation
from haven_vlm.ports import AnswerKey, FrameReader
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings
from haven_vlm.yaml_edit import Changes
from tests.engine.test_engine import Reader
from tests.fakes import FakeStash
from tests.learning.test_collecting import Gateway
from tests.ledger.harness import span

PREPARATION = Preparation(max_side_px=64)
MOMENT_MS = 40_000
"""The middle of every foul here."""


def settings(examples: int, *tags: str) -> Settings:
    return Settings.model_validate(
        {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": list(tags), "examples": examples}
    )


class Film(Reader):
    """A video whose pictures are JPEGs, as far as one looks at their ends."""

    async def frames(self, wanted_ms: Sequence[int], *, snap_ms: int = 0) -> AsyncIterator[Frame]:  # type: ignore[override]
        async for frame in super().frames(wanted_ms, snap_ms=snap_ms):
            yield replace(frame, jpeg=b"\xff\xd8" + frame.jpeg + b"\xff\xd9")


class NoFile:
    """Examples have nothing to do with the user's file."""

    path = Path("haven_vlm_config.yaml")

    def propose(self, text: str) -> Path:
        raise NotImplementedError

    def withdraw(self) -> None:
        raise NotImplementedError

    def proposal(self) -> tuple[Path, Mapping[str, Any]] | None:
        raise NotImplementedError

    def apply(self, changes: Changes, *, now: datetime) -> Path | None:
        raise NotImplementedError


@dataclass
class Archive:
    """Scenes with a foul in each that the user set by hand. Nobody has seen a dunk yet: Stash has no such tag."""

    folder: Path
    stash: FakeStash = field(default_factory=FakeStash)
    broken: set[str] = field(default_factory=set)
    """Paths that cannot be read."""
    opened: list[str] = field(default_factory=list)
    reader: Film = field(default_factory=Film)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.stash)
        self.foul = self.stash.tag("Foul")

    async def scenes(self, count: int) -> list[Medium]:
        """Scenes of 100 seconds that a model saw nothing in, and the user a foul, longer in the earlier ones."""
        made = []
        async with Journal(self.folder / "ledger.sqlite") as journal:
            for number in range(count):
                scene = self.stash.scene()
                key = AnswerKey(scene.files[0].identity, PREPARATION.key, build_prompt((Term("Foul"), Term("Dunk"))))
                for at_ms in range(0, 100_001, 10_000):
                    answer = Answer(Outcome.NONE, model="tiny")
                    await journal.record(key, at_ms=at_ms, shown_ms=at_ms, answer=answer)
                half_ms = 20_000 - 1_000 * number
                self.stash.mark(span(scene, self.foul, MOMENT_MS - half_ms, MOMENT_MS + half_ms))
                made.append(scene)
        return made

    def open(self, locations: Sequence[Location], preparation: Preparation) -> AbstractAsyncContextManager[FrameReader]:
        return self._opened(locations[0].target)

    @asynccontextmanager
    async def _opened(self, target: str) -> AsyncIterator[FrameReader]:
        self.opened.append(target)
        if target in self.broken:
            raise MediaUnreadable("the file is damaged")
        async with self.reader as reader:
            yield reader  # type: ignore[misc]

    async def examples(self, most: int = 2, tags: Sequence[str] = ("Foul", "Dunk")) -> tuple[Example, ...]:
        async with Journal(self.folder / "ledger.sqlite") as journal:
            return await Album(self.learning(journal, settings(most, *tags)), self.open).examples()

    async def evaluated(self) -> str:
        """What the task Evaluate says."""
        async with Journal(self.folder / "ledger.sqlite") as journal:
            return await self.learning(journal, settings(0, "Foul", "Dunk")).evaluate()

    def learning(self, journal: Journal, today: Settings) -> Learning:
        return Learning(
            settings=today,
            gateway=self.gateway,
            journal=journal,
            file=NoFile(),
            preparation=PREPARATION,
            vr_tag_id="",
            data_dir=self.folder / "data",
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            show=lambda _: None,
        )

    def kept(self) -> list[Path]:
        return sorted((self.folder / "data/examples").glob("*.jpg"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def stream(scene: Medium) -> str:
    """Where the fake Stash serves a scene: none of the files is on this machine."""
    return f"http://127.0.0.1/{Kind.SCENE}/{scene.id}/stream"


def of(examples: Sequence[Example]) -> list[str]:
    return [example.identity for example in examples]


async def test_a_picture_is_taken_once_and_then_kept(archive: Archive) -> None:
    scenes = await archive.scenes(2)
    first = await archive.examples()
    assert sorted(of(first)) == sorted(s.files[0].identity for s in scenes)
    assert {e.at_ms for e in first} == {MOMENT_MS} and {e.tags for e in first} == {("Foul",)}
    opened = len(archive.opened)
    assert await archive.examples() == first
    assert len(archive.opened) == opened == 2 and len(archive.kept()) == 2
    archive.kept()[0].write_bytes(b"\xff\xd8 half of it")
    assert await archive.examples() == first
    assert len(archive.opened) == 3, "a file that is not whole is made anew"


async def test_an_unreadable_scene_gives_its_place_to_the_next(archive: Archive) -> None:
    scenes = await archive.scenes(3)
    archive.broken = {stream(scenes[0])}
    found = await archive.examples()
    assert sorted(of(found)) == sorted(s.files[0].identity for s in scenes[1:])
    assert len(archive.opened) == 3, "what was taken before is not taken again"


async def test_a_drive_that_is_gone_costs_a_few_tries_and_no_run(archive: Archive) -> None:
    scenes = await archive.scenes(10)
    archive.broken = {stream(scene) for scene in scenes}
    assert await archive.examples(1) == ()
    assert len(archive.opened) == MOST_FAILURES + 1


async def test_a_scene_that_shows_nothing_at_the_moment_gives_none(archive: Archive) -> None:
    await archive.scenes(1)
    archive.reader = Film(undecodable=[MOMENT_MS])
    assert await archive.examples() == ()


async def test_a_scene_deleted_in_the_meantime_gives_none(archive: Archive) -> None:
    scenes = await archive.scenes(2)
    archive.gateway.before["medium"] = [lambda: archive.stash.delete_scene(scenes[0].id)]
    assert of(await archive.examples()) == [scenes[1].files[0].identity]


async def test_pictures_that_cannot_be_kept_are_shown_all_the_same(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    await archive.scenes(1)
    (archive.folder / "data").mkdir()
    (archive.folder / "data/examples").write_text("a file where the folder should be", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(await archive.examples()) == 1
    assert "The picture of an example cannot be kept, and is taken anew each time" in caplog.text


async def test_an_old_picture_that_cannot_be_deleted_is_said(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    await archive.scenes(1)
    (archive.folder / "data/examples/old.jpg").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert len(await archive.examples()) == 1
    assert "no longer shown cannot be deleted" in caplog.text


async def test_a_tag_that_nobody_was_asked_about_leaves_a_scene_undecided(archive: Archive) -> None:
    """A tag that never occurred is known not to be there; one that is new to the list may be anywhere."""
    await archive.scenes(1)
    assert len(await archive.examples()) == 1
    assert await archive.examples(tags=("Foul", "Dunk", "Block")) == ()


async def test_an_evaluation_of_little_says_so_and_keeps_the_latest_reports(archive: Archive) -> None:
    await archive.scenes(1)
    reports = archive.folder / "data/reports"
    reports.mkdir(parents=True)
    for day in range(1, KEPT + 6):
        (reports / f"2025-01-{day:02}T000000-evaluation.json").touch()
    said = await archive.evaluated()
    assert "1 scene gone through." in said and "There is not enough to go by yet: 3 frames" in said
    assert f"Report: {reports / '2026-01-01T000000-evaluation.json'}" in said
    left = sorted(file.name for file in reports.iterdir())
    assert len(left) == KEPT and left[0] == "2025-01-07T000000-evaluation.json"


async def test_an_evaluation_whose_report_cannot_be_written_is_told_all_the_same(archive: Archive) -> None:
    await archive.scenes(1)
    (archive.folder / "data").mkdir()
    (archive.folder / "data/reports").write_text("a file where the folder should be", encoding="utf-8")
    said = await archive.evaluated()
    assert "1 scene gone through." in said and "The report could not be written: " in said
