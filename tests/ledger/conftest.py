"""A ledger in a folder of its own, and a library with one scene."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from haven_vlm.facts import Medium
from haven_vlm.journal import Journal
from tests.ledger.harness import League, Process, process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite3"


@pytest.fixture
def never_blocks() -> Iterator[BlockBuster]:
    """Fails a test whose coroutine blocks the event loop: with SQLite, a file, or a lock."""
    with blockbuster_ctx() as guard:
        yield guard


@pytest.fixture
async def journal(path: Path, never_blocks: BlockBuster) -> AsyncIterator[Journal]:
    async with Journal(path) as opened:
        yield opened


@pytest.fixture
def made() -> League:
    return League()


@pytest.fixture
def scene(made: League) -> Medium:
    return made.stash.scene(made.tag_me, made.favourite)


@pytest.fixture
async def running(made: League, path: Path) -> AsyncIterator[Process]:
    async with process(made.stash, path) as opened:
        yield opened
