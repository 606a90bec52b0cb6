"""One process of the connector over a library in memory and a real ledger, and what a test needs to kill it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haven_vlm.applying import Applied, Applier
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired
from haven_vlm.undoing import Undoer, resume_pending
from tests.fakes import FakeGateway, FakeStash, Mortality


@dataclass
class Process:
    """What the connector has at hand while it runs."""

    gateway: FakeGateway
    journal: Journal
    applier: Applier
    undoer: Undoer

    async def resume(self) -> None:
        """What every run does first."""
        resumed = await resume_pending(self.journal, self.applier, self.undoer)
        assert not resumed.failed
        assert not resumed.busy


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: these tests commit a hundred thousand times, and no power is cut."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@asynccontextmanager
async def process(
    stash: FakeStash, path: Path, mortality: Mortality | None = None, gateway: FakeGateway | None = None
) -> AsyncIterator[Process]:
    """Start the connector; with `mortality` it may die before and after each commit and each request."""
    mortality = mortality or Mortality()
    gateway = gateway or FakeGateway(stash, mortality)
    async with Journal(path) as journal:
        mortal(journal, mortality)
        applier = Applier(gateway, journal)
        yield Process(gateway, journal, applier, Undoer(gateway, journal, applier))


def mortal(journal: Journal, mortality: Mortality) -> None:
    """Let the process die around each commit of the ledger."""
    file: Any = journal._file
    commit = file.write

    async def write(job: Callable[..., object]) -> object:
        mortality.moment()
        value = await commit(job)
        mortality.moment()
        return value

    file.write = write


@dataclass
class League:
    """A library of basketball scenes with the connector's tags."""

    stash: FakeStash = field(default_factory=FakeStash)

    def __post_init__(self) -> None:
        stash = self.stash
        self.tag_me, self.tagged = stash.tag("VLM_TagMe"), stash.tag("VLM_Tagged")
        self.errored = stash.tag("VLM_Errored")
        self.dunk, self.foul, self.block = stash.tag("Dunk"), stash.tag("Foul"), stash.tag("Block")
        self.favourite = stash.tag("Favourite")

    def desired(self, medium: Medium, tags: set[str], *markers: MarkerDraft) -> Desired:
        """What a run wants of a scene."""
        return Desired(
            medium=medium,
            tag_ids=frozenset(tags),
            markers=markers if medium.kind is Kind.SCENE else None,
            mark_on=frozenset({self.tagged}),
            mark_off=frozenset({self.tag_me, self.errored}),
        )


def span(medium: Medium, tag_id: str, start_ms: int, end_ms: int | None, *tags: str, title: str = "") -> MarkerDraft:
    """A marker to be."""
    return MarkerDraft(medium.id, title, start_ms, end_ms, tag_id, tags)


async def apply_in_new_run(running: Process, desired: Desired, *, mode: str = "tag_videos") -> tuple[int, Applied]:
    """Start a run, apply, end it."""
    run = await running.journal.start_run(mode)
    applied = await running.applier.apply(run, desired)
    await running.journal.end_run(run, "done")
    return run, applied


def on(made: League, medium: Medium) -> set[str]:
    return made.stash.on((medium.kind, medium.id))


def only(made: League, scene: Medium) -> Marker:
    (marker,) = made.stash.markers_of(scene.id)
    return marker


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
