"""What this process has open: compared before and after each test, so that nothing is left behind."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

SHARED_POOLS = ("stash_",)
"""Names of pools of threads that grow when they are asked, and belong to servers that several tests share."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """Threads everywhere; processes and descriptors where the system lists them (Linux)."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    files: dict[str, str]
    """Descriptor → what it is."""

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
