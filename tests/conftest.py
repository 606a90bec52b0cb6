"""What holds for the tests of the adapters: nothing of ours blocks an event loop, and nothing is left behind.

After each test there is no new thread, child process, open file or socket, and no event loop was closed with tasks in
it. What fixtures of a wider scope own exists before the test's own fixtures do, and is left alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from asyncio import AbstractEventLoop, Task, runners
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

ROOT = Path(__file__).resolve().parent.parent

OURS = ("haven_vlm", *sorted(file.stem for file in ROOT.glob("haven_*.py")))

SHARED_POOLS = ("stash_",)
"""Names of pools of threads that grow when they are asked, and belong to servers that several tests share."""

WAIT_S = 30.0
"""A thread or process that was told to end may take this long."""


EXCEPT: dict[str, str] = {}
"""Folder → why it cannot be watched."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call below a coroutine of ours raises there."""
    if request.path.parent.name in EXCEPT:
        yield
        return
    with blockbuster_ctx(OURS):
        yield


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a process has open."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    files: dict[str, str]
    """Descriptor → what it is; empty where the system does not tell."""

    @classmethod
    def now(cls) -> Belongings:
        return cls(frozenset(threading.enumerate()), _children(), _descriptors())

    def more_than(self, before: Belongings) -> list[str]:
        """What is here and was not there, in words."""
        new = [t for t in self.threads - before.threads if t.is_alive() and not t.name.startswith(SHARED_POOLS)]
        threads = [f"thread {t.name}" for t in new]
        children = [f"child process {pid}" for pid in self.children - before.children]
        files = [f"descriptor {fd}: {what}" for fd, what in self.files.items() if before.files.get(fd) != what]
        return sorted([*threads, *children, *files])


def _children() -> frozenset[int]:
    found: set[int] = set()
    if sys.platform == "linux":
        for task in os.listdir("/proc/self/task"):
            try:
                found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii").split()))
            except OSError:
                continue  # that thread has just ended
    return frozenset(found)


def _descriptors() -> dict[str, str]:
    found = {}
    if sys.platform == "linux":
        for fd in {*os.listdir("/proc/self/fd")} - {"0", "1", "2"}:  # pytest captures those
            try:
                found[fd] = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue  # the one that lists them
    return found


_before = pytest.StashKey[Belongings]()
_left_tasks: list[str] = []


def _noting(cancel_all: Any) -> Any:
    def noted(loop: AbstractEventLoop) -> None:
        _left_tasks.extend(f"task {_told(task)}" for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    return noted


def _told(task: Task[Any]) -> str:
    return f"{task.get_name()} of {getattr(task.get_coro(), '__qualname__', task.get_coro())}"


runners._cancel_all_tasks = _noting(runners._cancel_all_tasks)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _belongings(request: pytest.FixtureRequest) -> None:
    """Remember what there is before the test."""
    _left_tasks.clear()
    request.node.stash[_before] = Belongings.now()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Compare, when all fixtures of the test are gone."""
    yield
    before = item.stash.get(_before, None)
    if before is None or item.path.parent.name in EXCEPT:
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
    left += _left_tasks
    if left:
        pytest.fail(f"left behind: {'; '.join(left)}", pytrace=False)
