"""The same promises through the real gateway and a Stash that speaks GraphQL: faults on the wire, deaths, undo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.stash import EmbeddedStash, running_stash
from haven_media_handler import StashLibrary
from haven_vlm.applying import Applier
from haven_vlm.errors import StashUnavailable
from haven_vlm.facts import Kind, Medium
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired
from haven_vlm.undoing import Scope, Undoer, resume_pending
from tests.fakes import Killed, Mortality
from tests.gateway.support import library
from tests.ledger.harness import mortal, span


@dataclass
class Connected:
    """The connector, connected."""

    gateway: StashLibrary
    journal: Journal
    applier: Applier
    undoer: Undoer

    async def scene(self, scene_id: int) -> Medium:
        found = await self.gateway.medium(Kind.SCENE, str(scene_id))
        assert found is not None
        return found

    async def tag(self, name: str) -> str:
        found = await self.gateway.find_tag(name)
        assert found is not None
        return found.id

    async def desired(self, scene: Medium, *names: str, start_ms: int = 1000) -> Desired:
        """Tags of these names, and a marker for each."""
        ids = [await self.tag(name) for name in names]
        return Desired(
            scene,
            tag_ids=frozenset(ids),
            markers=tuple(span(scene, i, start_ms, start_ms + 1500, title=n) for i, n in zip(ids, names, strict=True)),
            mark_on=frozenset({await self.tag("VLM_Tagged")}),
            mark_off=frozenset({await self.tag("VLM_TagMe")}),
        )


@pytest.fixture
def stash() -> Iterator[EmbeddedStash]:
    with running_stash() as stash:
        stash.add_tag("VLM_Tagged")
        for name in ("Dunk", "Foul", "Block"):
            stash.add_tag(name)
        stash.add_scene("/media/final.mp4", duration=60.0, tags=["VLM_TagMe", "Favourite"])
        stash.add_scene("/media/semifinal.mp4", duration=60.0, tags=["VLM_TagMe"])
        stash.add_marker(1, 40.0, "Favourite", title="the best part", end_seconds=45.0)
        yield stash


@asynccontextmanager
async def connected(stash: EmbeddedStash, path: Path, mortality: Mortality | None = None) -> AsyncIterator[Connected]:
    async with library(stash) as gateway, Journal(path) as journal:
        if mortality is not None:
            mortal(journal, mortality)
        applier = Applier(gateway, journal)
        yield Connected(gateway, journal, applier, Undoer(gateway, journal, applier))


def markers(stash: EmbeddedStash, scene_id: int = 1) -> list[tuple[Any, ...]]:
    return [(m["seconds"], m["end_seconds"], m["title"]) for m in stash.markers(scene_id)]


BEST = (40.0, 45.0, "the best part")


async def test_run_edit_run_again_undo(stash: EmbeddedStash, path: Path) -> None:
    """What issue 5 asks to see: a marker edited and a tag added by hand outlive everything."""
    async with connected(stash, path) as one:
        run = await one.journal.start_run("tag_videos")
        scene = await one.scene(1)
        steal = (await one.applier.ensure_tags(run, {"Steal": "the ball changes hands"}))["Steal"]
        first = await one.desired(scene, "Dunk", "Foul", "Steal")
        await one.applier.apply(run, first)
        assert stash.scene_tags(1) == ["Dunk", "Favourite", "Foul", "Steal", "VLM_Tagged"]
        assert len(markers(stash)) == 4
        dunk = next(m for m in await one.gateway.markers("1") if m.title == "Dunk")
        edit = {"id": dunk.id, "seconds": 1.25, "title": "What a dunk"}
        await one.gateway._do(lambda client: client.update_scene_marker(edit))
        stash.tag_scene(1, "Block", "VLM_TagMe")
        stash.untag_scene(1, "Foul")
        again = await one.applier.apply(await one.journal.start_run("update"), first)
        assert again.kept_for_user == 2
        assert stash.scene_tags(1) == ["Block", "Dunk", "Favourite", "Steal", "VLM_Tagged"]
        undone = await one.undoer.undo(await one.journal.start_run("undo"), Scope())
        assert undone.created_tags_removed == ["Steal"]
        assert stash.tag_id("Steal") is None
        assert await one.gateway.tags_by_id([steal.id]) == {}
    assert stash.scene_tags(1) == ["Block", "Favourite", "VLM_TagMe"]
    assert sorted(markers(stash)) == [(1.25, 2.5, "What a dunk"), BEST]


async def test_a_run_and_its_undo_leave_the_library_as_it_was(stash: EmbeddedStash, path: Path) -> None:
    before = stash.snapshot()
    async with connected(stash, path) as one:
        run = await one.journal.start_run("tag_videos")
        for number in (1, 2):
            await one.applier.apply(run, await one.desired(await one.scene(number), "Dunk", "Block"))
        assert stash.snapshot() != before
        await one.undoer.undo(await one.journal.start_run("undo"), Scope(run_id=run))
    assert stash.snapshot() == before


@pytest.mark.parametrize("at", range(26))
async def test_a_death_at_any_commit_is_made_good(stash: EmbeddedStash, path: Path, at: int) -> None:
    before = stash.snapshot()
    async with connected(stash, path) as first:
        wanted = await first.desired(await first.scene(1), "Dunk")
        later = await first.desired(await first.scene(1), "Foul", start_ms=2000)
        await first.applier.apply(await first.journal.start_run("tag_videos"), wanted)
    try:
        async with connected(stash, path, Mortality(at)) as dying:
            await dying.applier.apply(1, later)
    except Killed:
        pass
    async with connected(stash, path) as next_one:
        resumed = await resume_pending(next_one.journal, next_one.applier, next_one.undoer)
        assert not resumed.failed
        await next_one.applier.apply(await next_one.journal.start_run("update"), later)
        assert stash.scene_tags(1) == ["Favourite", "Foul", "VLM_Tagged"]
        assert sorted(markers(stash)) == [(2.0, 3.5, "Foul"), BEST]
        await next_one.undoer.undo(await next_one.journal.start_run("undo"), Scope())
    assert stash.snapshot() == before


@pytest.mark.parametrize("operation", ["create", "bulkSceneUpdate", "sceneMarkersDestroy"])
@pytest.mark.parametrize("kind", ["locked", "drop", "drop_after", "500", "status_after"])
async def test_faults_on_the_wire_never_double_anything(
    stash: EmbeddedStash, path: Path, operation: str, kind: str
) -> None:
    field = {"create": "sceneMarkerCreate"}.get(operation, operation)
    async with connected(stash, path) as one:
        await one.applier.apply(
            await one.journal.start_run("tag_videos"), await one.desired(await one.scene(1), "Dunk", "Foul")
        )
        wanted = await one.desired(await one.scene(1), "Foul", "Block", start_ms=3000)
        fault = stash.faults.add(field, kind, times=2)
        try:
            await one.applier.apply(await one.journal.start_run("update"), wanted)
        except StashUnavailable:
            await resume_pending(one.journal, one.applier, one.undoer)
        assert fault.hits > 0
    assert stash.scene_tags(1) == ["Block", "Favourite", "Foul", "VLM_Tagged"]
    assert sorted(markers(stash)) == [(3.0, 4.5, "Block"), (3.0, 4.5, "Foul"), BEST]
