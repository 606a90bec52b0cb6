"""Runs in the ledger: what was started when, what came of it, and whether it still lives.

A run lives as long as the operating system holds its lock file locked; a process that was killed, or a machine
that lost its power, lets go by itself. So nothing a dead run left behind can stand in the way of the next.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from haven_vlm.errors import BusyError, LedgerError
from haven_vlm.journal_thread import LedgerFile
from haven_vlm.run_lock import FileLock, is_held, try_lock


@dataclass(frozen=True, slots=True)
class Run:
    """One press of a button, or one cron job."""

    id: int
    mode: str
    started_at: float
    """Seconds since 1970."""
    ended_at: float | None
    """None while it lives, and when it was killed."""
    result: str
    """What came of it, in words; empty while it lives, and when it was killed."""
    alive: bool
    """Whether its process is still at work."""


class RunBook:
    """Runs in the ledger. Their lock files lie in the folder `runs` beside it."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self._folder = file.path.parent / "runs"
        self._locks: dict[int, FileLock] = {}
        self._rows: dict[int, tuple[str, str, float]] = {}

    async def start(self, mode: str, at: float) -> int:
        """Begin a run; its lock is held from before anybody can see it."""
        token = uuid.uuid4().hex
        lock = await asyncio.to_thread(self._lock, token)

        def insert(db: sqlite3.Connection) -> int:
            cursor = db.execute("INSERT INTO runs (token, mode, started_at) VALUES (?, ?, ?)", (token, mode, at))
            return int(cursor.lastrowid or 0)

        try:
            run = await self._file.write(insert)
        except BaseException:
            await asyncio.to_thread(lock.release, remove=True)
            raise
        self._locks[run] = lock
        self._rows[run] = (token, mode, at)
        return run

    async def end(self, run_id: int, result: str, at: float) -> None:
        """End a run of this process and free its lock."""

        values = (at, result, run_id)
        try:
            await self._file.write(
                lambda db: db.execute("UPDATE runs SET ended_at = ?, result = ? WHERE id = ?", values)
            )
        finally:
            await asyncio.to_thread(self._let_go, run_id)

    def close(self) -> None:  # blocking, quick
        """Let go of all locks; runs that were not ended count as dead."""
        for run_id in list(self._locks):
            self._let_go(run_id)

    def restore(self, db: sqlite3.Connection) -> None:
        """Enter the runs of this process into a ledger that was begun anew under them."""
        for run_id, (token, mode, at) in self._rows.items():
            db.execute(
                "INSERT OR REPLACE INTO runs (id, token, mode, started_at) VALUES (?, ?, ?, ?)",
                (run_id, token, mode, at),
            )

    async def latest(self, limit: int) -> list[Run]:
        """The latest runs, newest first."""
        # in the writing thread: of two probes of one lock at the same time, each could take the other for its owner
        return await self._file.write(lambda db: self._read(db, "ORDER BY id DESC LIMIT ?", (limit,)))

    async def others_alive(self) -> list[Run]:
        """Runs of other processes, or other runs of this one's ledger, that are at work now."""

        def find(db: sqlite3.Connection) -> list[Run]:
            mine: Collection[int] = self._locks
            return [r for r in self._read(db, "WHERE ended_at IS NULL", ()) if r.alive and r.id not in mine]

        return await self._file.write(find)

    def _read(self, db: sqlite3.Connection, clause: str, values: tuple[object, ...]) -> list[Run]:
        rows = db.execute(f"SELECT id, token, mode, started_at, ended_at, result FROM runs {clause}", values)  # nosec B608 # names of our own; values are parameters
        return [
            Run(run, mode, start, end, result or "", end is None and self._alive(token))
            for run, token, mode, start, end, result in rows.fetchall()
        ]

    def _lock(self, token: str) -> FileLock:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock = try_lock(self._folder / f"{token}.lock")
        except OSError as exc:
            raise LedgerError(f"No lock can be made in {self._folder}: {exc}. Check data_dir and its disk.") from exc
        if lock is None:
            raise BusyError("Another run took the same name by chance; start again.")
        return lock

    def _alive(self, token: str) -> bool:
        return is_held(self._folder / f"{token}.lock")

    def _let_go(self, run_id: int) -> None:
        self._rows.pop(run_id, None)
        if (lock := self._locks.pop(run_id, None)) is not None:
            lock.release(remove=True)
