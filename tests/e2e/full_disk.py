"""The connector, started so that the disk is full for its ledger from the n-th commit on: `python full_disk.py N`."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import haven_vlm_connector
from haven_vlm.journal_thread import LedgerFile


def main(number: int) -> int:
    transact = LedgerFile._transact
    commits = 0

    def fill(db: sqlite3.Connection) -> None:
        """Ask for a page that is not there: SQLite itself says SQLITE_FULL, and rolls back."""
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        db.execute("CREATE TABLE filler (content)")

    def full(file: LedgerFile, jobs: list[Any]) -> list[Any]:
        nonlocal commits
        commits += 1
        return transact(file, jobs if commits < number else [*jobs, fill])[: len(jobs)]

    LedgerFile._transact = full  # type: ignore[method-assign,assignment]
    return haven_vlm_connector.main([])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
