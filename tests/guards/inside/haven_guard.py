"""What fails a test wherever it happens, also in a process that a test starts: blocking the loop, forgetting things.

Findings of other processes are files in a folder, whose name travels in the environment; `sitecustomize` beside this
file makes them. Only the standard library and blockbuster, and nothing of ours: it comes before the program itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import traceback
import warnings
from asyncio import AbstractEventLoop, Task, runners
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import blockbuster.blockbuster as detector
from blockbuster import BlockBuster, BlockingError

FINDINGS = "HAVEN_GUARD_FINDINGS"
"""Environment variable: the folder for what other processes find."""

ROOT = Path(__file__).resolve().parent.parent.parent.parent

Found = Callable[[str], object]
"""Takes what was found, in words."""


def _below(*folders: Path) -> ModuleType:
    """Blockbuster takes modules and looks where they lie: everything of ours begins with `haven_`."""
    made = ModuleType("ours")
    made.__path__ = [str(folder / "haven_") for folder in folders]
    return made


def blocking(found: Found, *folders: Path) -> BlockBuster:
    """Makes blocking calls below a coroutine of ours raise there; to be activated.

    Args:
        found: told of each, because code that catches what it does not know would hide it.
        folders: where else our code lies.
    """

    class Blocked(BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            ours = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if "haven_" in f.filename]
            found(f"{self} at {', '.join(ours[:-1][-3:])}")

    detector.BlockingError = Blocked  # type: ignore[misc]  # what its wrappers raise
    guard = BlockBuster([*(_below(folder) for folder in (ROOT, *folders))])
    for function in guard.functions.values():  # a module is imported when it is first needed; that happens once
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        function.can_block_in("inside/haven_guard.py", "written")
    for write in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
        guard.functions[write].can_block_in("logging/__init__.py", "emit")  # pytest's log, which goes to nowhere
    # a measurement of coverage takes its own lock for a moment wherever a file is run for the first time
    guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
    return guard


def note_left_tasks(found: Found, *, collecting: bool) -> None:
    """Tell of tasks that an event loop is closed with.

    With `collecting`, what only the garbage collector would close warns then, too; in a process of thousands of loops
    and a million objects that takes longer than the tests.
    """
    cancel_all = runners._cancel_all_tasks  # type: ignore[attr-defined]

    def noted(loop: AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop):
            found(f"task {_told(task)}")
        cancel_all(loop)
        if collecting:
            gc.collect()

    runners._cancel_all_tasks = noted  # type: ignore[attr-defined]


def _told(task: Task[Any]) -> str:
    return f"{task.get_name()} of {getattr(task.get_coro(), '__qualname__', task.get_coro())}"


class _Complaints(logging.Handler):
    """Records about things that were forgotten."""

    def __init__(self, found: Found) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "haven_vlm.stash_log" and not record.exc_info:
            return  # what it has to say about the world
        self._found(f"{record.name}: {logging.Formatter().format(record)}")


def watch_this_process(folder: Path) -> None:
    """From now on findings of this process are written into a folder."""

    def written(what: str) -> None:
        with (folder / f"{os.getpid()}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    blocking(written, *{Path(word).resolve().parent for word in sys.orig_argv if word.endswith(".py")}).activate()
    note_left_tasks(written, collecting=True)
    complaints = _Complaints(written)
    for name in ("asyncio", "py.warnings", "haven_vlm.stash_log"):
        logging.getLogger(name).addHandler(complaints)
    for category in (ResourceWarning, RuntimeWarning):  # left open; a coroutine that nobody awaited
        warnings.simplefilter("always", category)


@contextlib.contextmanager
def activated(guard: BlockBuster) -> Iterator[None]:
    """Blocking calls are errors inside."""
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()
