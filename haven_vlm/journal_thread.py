"""The ledger's two threads: one writes, many jobs to a commit; one reads beside it.

A commit costs a sync of the disk, some milliseconds. While one is under way more answers arrive, and all of them
share the next commit: so each is on disk before it is acknowledged, and a hundred a moment cost no more than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from haven_vlm.errors import HavenError, LedgerError
from haven_vlm.journal_damage import file_identity, is_damage, open_ledger
from haven_vlm.journal_schema import connect

log = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
"""Runs in a thread of the ledger. A writing job may be run again after a rollback: it changes nothing else."""

_MAX_BATCH = 2000
"""Jobs to a commit at most; bounds how long the others in the queue wait."""

_PAGES_PER_SHRINKING = 2000


@dataclass(frozen=True, slots=True)
class _Order:
    job: Job[Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class _Outcome:
    order: _Order
    value: Any = None
    error: BaseException | None = None


class _Damaged(Exception):
    """A reading job hit damage; the writer is to set the file aside."""

    def __init__(self, reason: str, generation: int) -> None:
        super().__init__(reason)
        self.generation = generation


class LedgerFile:
    """The open database. `open` and `aclose` once each; `read` and `write` from the event loop in between.

    Args:
        path: the database file.
        report: gets sentences for the user, from the ledger's threads.
        forget: called in the writing thread when what a job did was rolled back or the file is a new one: whatever
            jobs remember of the file's content must be forgotten.
        restore: run as the first transaction in a file that was begun anew while in use.
    """

    def __init__(
        self, path: Path, *, report: Callable[[str], None], forget: Callable[[], None], restore: Job[None]
    ) -> None:
        self.path = path
        self._report = report
        self._forget = forget
        self._restore = restore
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._questions: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()  # held while the reader's connection is in use or replaced
        self._identity: tuple[int, int] | None = None
        self._generation = 0
        self._threads: list[threading.Thread] = []

    # --- from the event loop ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file and start the threads. Raises `LedgerError`."""
        await asyncio.get_running_loop().run_in_executor(None, self._open)
        for name, work in (("ledger-writer", self._write_all), ("ledger-reader", self._read_all)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    async def aclose(self) -> None:
        """Finish what is queued, then close the file."""
        threads, self._threads = self._threads, []
        for orders in (self._questions, self._orders):
            orders.put(None)
        try:
            for thread in threads:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, thread.join))
        finally:
            for thread in threads:  # when the waiting above was cancelled
                thread.join()
            self._close()

    async def write(self, job: Job[T]) -> T:
        """Run a job in a transaction; on return it is on disk.

        Raises:
            LedgerError: it could not be committed; nothing of it was.
        """
        return await self._submit(self._orders, job)

    async def read(self, job: Job[T]) -> T:
        """Run a job that only reads, beside the writer. It sees everything that was acknowledged before."""
        try:
            return await self._submit(self._questions, job)
        except _Damaged as damage:
            reason, generation = str(damage), damage.generation

        def replace(_: sqlite3.Connection) -> None:
            if generation == self._generation:
                raise sqlite3.DatabaseError(reason)

        with contextlib.suppress(LedgerError):  # the writer sees the damage itself, or the file is new already
            await self._submit(self._orders, replace)
        try:
            return await self._submit(self._questions, job)
        except _Damaged as damage:
            raise LedgerError(f"The ledger {self.path} cannot be read: {damage}. Check the disk.") from damage

    async def shrink(self) -> None:
        """Give free pages back to the disk, a few at a time, so that other writers wait for moments only."""

        def vacuum(db: sqlite3.Connection) -> bool:
            db.execute(f"PRAGMA incremental_vacuum({_PAGES_PER_SHRINKING})").fetchall()
            return bool(db.execute("PRAGMA freelist_count").fetchone()[0])

        while await self.write(vacuum):
            pass

    async def _submit(self, orders: queue.SimpleQueue[_Order | None], job: Job[T]) -> T:
        if not self._threads:
            raise LedgerError("The ledger is closed.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        orders.put(_Order(job, future, loop))
        return await future

    # --- opening and closing ----------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._adopt(open_ledger(self.path, self._report))
        except (sqlite3.Error, OSError) as exc:
            self._close()
            raise translated(exc, self.path) from exc

    def _adopt(self, writer: sqlite3.Connection) -> None:
        self._writer = writer
        self._identity = file_identity(self.path)
        reader = connect(self.path)
        self._reader = reader
        reader.execute("PRAGMA query_only = ON")
        self._generation += 1

    def _close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def _begin_anew(self, reason: str) -> None:
        """Replace the file (if it is still the one we know), or open the one that took its place."""
        with self._reading:
            self._close()
            self._forget()
            self._adopt(open_ledger(self.path, self._report, damaged=self._identity if reason else None, reason=reason))
        self._transact([self._restore])

    # --- the reading thread -----------------------------------------------------------------------------------

    def _read_all(self) -> None:
        while (order := self._questions.get()) is not None:
            _deliver([self._answer(order)])

    def _answer(self, order: _Order) -> _Outcome:
        with self._reading:
            generation = self._generation
            try:
                if self._reader is None:
                    return _Outcome(order, error=LedgerError(f"The ledger {self.path} could not be opened again."))
                return _Outcome(order, value=order.job(self._reader))
            except Exception as exc:  # noqa: BLE001 - it belongs to whoever asked, not to this thread
                if is_damage(exc):
                    return _Outcome(order, error=_Damaged(str(exc), generation))
                return _Outcome(order, error=translated(exc, self.path))

    # --- the writing thread -----------------------------------------------------------------------------------

    def _write_all(self) -> None:
        closing = False
        while not closing and (first := self._orders.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MAX_BATCH:
                    order = self._orders.get_nowait()
                    if order is None:
                        closing = True
                        break
                    batch.append(order)
            _deliver(self._commit(batch))

    def _commit(self, batch: list[_Order], *, second_try: bool = False) -> list[_Outcome]:
        try:
            if file_identity(self.path) != self._identity or self._writer is None:
                self._report(f"The ledger {self.path} was replaced or removed while in use; going on without it.")
                self._begin_anew("")  # another run set a damaged file aside, or somebody deleted it under us
            values = self._transact([order.job for order in batch])
        except Exception as exc:  # noqa: BLE001 - it belongs to whoever asked, not to this thread
            if is_damage(exc) or _says_damage(exc):
                if not second_try and self._repaired(exc):
                    return self._commit(batch, second_try=True)
            elif len(batch) > 1 and not isinstance(exc, sqlite3.OperationalError):
                # one job's own mistake must not cost the others their commit
                return [outcome for order in batch for outcome in self._commit([order])]
            error = translated(exc, self.path)
            return [_Outcome(order, error=error) for order in batch]
        return [_Outcome(order, value=value) for order, value in zip(batch, values, strict=True)]

    def _repaired(self, damage: BaseException) -> bool:
        try:
            self._begin_anew(str(damage))
        except (sqlite3.Error, OSError, HavenError) as exc:
            log.error("the damaged ledger cannot be replaced: %s", exc)
            return False
        return True

    def _transact(self, jobs: list[Job[Any]]) -> list[Any]:
        writer = self._writer
        assert writer is not None
        writer.execute("BEGIN IMMEDIATE")
        try:
            values = [job(writer) for job in jobs]
            writer.execute("COMMIT")
        except BaseException:
            self._forget()
            if writer.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the first error is the one that counts
                    writer.execute("ROLLBACK")
            raise
        return values


def _says_damage(error: BaseException) -> bool:
    """A `DatabaseError` without a code: raised by ourselves to hand damage from the reader to the writer."""
    return type(error) is sqlite3.DatabaseError and not hasattr(error, "sqlite_errorcode")


def _deliver(outcomes: list[_Outcome]) -> None:
    """Hand results to their loops: one wake-up per loop and batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome.order.loop, []).append(outcome)
    for loop, ready in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is gone; nobody waits any more
            loop.call_soon_threadsafe(_settle, ready)


def _settle(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        future = outcome.order.future
        if future.done():  # whoever waited was cancelled
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)


def translated(error: BaseException, path: Path) -> BaseException:
    """The ledger's own error for what SQLite or the file system says; anything else as it is."""
    if not isinstance(error, sqlite3.Error | OSError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, OSError) and error.errno == 28:
        code = 13
    sentence = {
        5: f"The ledger {path} has been locked by another program for too long. End that program, then run again.",
        8: f"The ledger {path} is read-only. Give the user that runs Stash the right to write there.",
        10: f"The disk did not do what was asked of it while writing the ledger {path} ({error}). "
        "Check that it is not full and not failing, then run again.",
        13: f"The disk is full: the ledger {path} cannot grow. Free some space, then run again; "
        "everything answered so far is kept.",
        14: f"The ledger {path} cannot be opened. Check that its folder exists and may be written to.",
    }.get(code, f"The ledger {path} cannot be used: {error}.")
    return LedgerError(sentence)
