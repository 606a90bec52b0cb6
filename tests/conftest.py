"""What holds for every test: nothing of ours blocks an event loop, and nothing is left behind.

A blocking call below a coroutine of ours raises there. After each test there is no new thread, child process, open
file or socket, and no event loop was closed with tasks in it; what fixtures of a wider scope own exists before the
test's own fixtures do, and is left alone. The plugin as a process of its own is watched from within (`guards/inside`).
Warnings are errors (pyproject.toml), so what is forgotten and collected fails its test, too.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.guards.belongings import Belongings
from tests.guards.inside.haven_guard import FINDINGS, activated, blocking, note_left_tasks

INSIDE = Path(__file__).resolve().parent / "guards" / "inside"
WAIT_S = 30.0
"""A thread or process that was told to end may take this long."""

_before = pytest.StashKey[Belongings]()
_found: list[str] = []
"""Of this process, since the test began."""
_of_processes = pytest.StashKey[Path]()
"""The folder where processes of the tests write what they find."""

note_left_tasks(_found.append, collecting=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with activated(blocking(_found.append)):
        yield


@pytest.fixture(scope="session", autouse=True)
def _processes_are_watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = request.config.stash[_of_processes] = tmp_path_factory.mktemp("findings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FINDINGS, str(folder))
        patch.setenv("PYTHONPATH", str(INSIDE), prepend=os.pathsep)
        yield


@pytest.fixture(autouse=True)
def _belongings(request: pytest.FixtureRequest) -> None:
    """Remember what there is before the test."""
    _found.clear()
    request.node.stash[_before] = Belongings.now()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Compare, when all fixtures of the test are gone."""
    yield
    before = item.stash.get(_before, None)
    if before is None:
        return
    left = Belongings.now().more_than(before)
    deadline = time.monotonic() + WAIT_S
    collected = False
    while left and time.monotonic() < deadline:
        if not collected:
            gc.collect()  # what only waits for that warns by itself
            collected = True
        time.sleep(0.01)
        left = Belongings.now().more_than(before)
    troubles = [*(f"left behind: {one}" for one in left), *_found, *_told_by_processes(item.config)]
    if troubles:
        pytest.fail("\n".join(troubles), pytrace=False)


def _told_by_processes(config: pytest.Config) -> list[str]:
    found = []
    for file in sorted(config.stash[_of_processes].iterdir()):
        found.append(f"process {file.stem}: {file.read_text(encoding='utf-8')}")
        file.unlink()
    return found
