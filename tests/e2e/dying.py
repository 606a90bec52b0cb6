"""The connector, started so that it dies around the n-th commit of its ledger: `python dying.py N before|after`.

Each answer, and each step of a plan of writes, is a commit; so this is a death at every recorded step.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import haven_vlm_connector
from haven_vlm.journal_thread import LedgerFile


def die() -> None:
    """End at once, as Stash's Stop does it."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)


def main(number: int, *, after: bool) -> int:
    transact = LedgerFile._transact
    commits = 0

    def deadly(file: LedgerFile, jobs: list[Any]) -> list[Any]:
        nonlocal commits
        commits += 1
        if commits != number:
            return transact(file, jobs)
        if after:
            transact(file, jobs)
            die()

        def last(_: sqlite3.Connection) -> None:
            die()

        return transact(file, [*jobs, last])  # everything is done but for the commit

    LedgerFile._transact = deadly  # type: ignore[method-assign,assignment]
    return haven_vlm_connector.main([])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), after=sys.argv[2] == "after"))
