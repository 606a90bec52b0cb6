"""Servers that the conformance tests run against: the embedded Stash, and the executable named by STASH_BIN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stash import servers
from tests.stash.servers import Server

BOTH = ["embedded", *([pytest.param("real", marks=pytest.mark.real)] if servers.STASH_BIN else [])]
"""Without STASH_BIN the real runs are left out; one skipped test says so."""


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated clips and pictures."""
    return servers.write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session", params=BOTH)
def scanned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, media: Path) -> Iterator[Server]:
    """A server whose library was scanned from `media`; shared, so tests go through `server`."""
    start = {"embedded": servers.embedded, "real": servers.real}[request.param]
    with start(tmp_path_factory.mktemp(request.param), media) as running:
        running.scan(media)
        yield running


@pytest.fixture
def server(scanned: Server) -> Server:
    """The scanned server, with all tags, markers and titles of earlier tests gone."""
    scanned.reset()
    return scanned


@pytest.fixture(params=BOTH)
def own_server(request: pytest.FixtureRequest, tmp_path: Path, media: Path) -> Iterator[Server]:
    """A server of this test's own: may be given credentials, and scenes may be destroyed."""
    start = {"embedded": servers.embedded, "real": servers.real}[request.param]
    with start(tmp_path / "own", media) as running:
        yield running
