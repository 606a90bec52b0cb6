"""What endpoints used, day by day, in the ledger: limits for a day hold over all runs, also two at a time."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import date, timedelta

from haven_vlm.journal_thread import LedgerFile
from haven_vlm.pool_ports import Usage

KEPT_DAYS = 400
"""Older days are forgotten."""


@dataclass(frozen=True, slots=True)
class SpendingStore:
    """The ledger's page of spending; a `SpendingBook`. Raises `LedgerError` when the ledger cannot be used."""

    file: LedgerFile

    async def add(self, endpoint: str, day: date, used: Usage) -> Usage:
        """See `SpendingBook.add`."""
        key = (day.isoformat(), endpoint)
        amounts = (used.requests, used.tokens_in, used.tokens_out)

        def enter(db: sqlite3.Connection) -> Usage:
            if any(amounts):
                db.execute("DELETE FROM spending WHERE day < ?", ((day - timedelta(days=KEPT_DAYS)).isoformat(),))
                db.execute(
                    "INSERT INTO spending (day, endpoint, requests, tokens_in, tokens_out) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (day, endpoint) DO UPDATE SET requests = requests + excluded.requests,"
                    " tokens_in = tokens_in + excluded.tokens_in, tokens_out = tokens_out + excluded.tokens_out",
                    (*key, *amounts),
                )
            row = db.execute(
                "SELECT requests, tokens_in, tokens_out FROM spending WHERE day = ? AND endpoint = ?", key
            ).fetchone()
            return Usage(*row) if row else Usage()

        return await self.file.write(enter)
