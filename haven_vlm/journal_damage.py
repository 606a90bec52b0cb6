"""A damaged ledger: noticed within milliseconds, set aside under a new name, and what is readable carried over.

The check at opening is cheap on purpose: the header by hand, then the root and both ends of every table and a
few places in between. It does not grow with the file; a full check would take minutes on a slow disk. What it
misses is noticed by SQLite when the damaged page is read, and handled the same way then.

While rows are carried over, a note lies beside the ledger (`.rescue`): a rescue that was stopped is gone on with.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from haven_vlm.errors import LedgerError
from haven_vlm.files import write_atomically
from haven_vlm.journal_schema import connect, prepare, tables
from haven_vlm.run_lock import wait_lock

log = logging.getLogger(__name__)

_MAGIC = b"SQLite format 3\x00"
_PROBES = 16
_CHUNK = 5000
_OPENING_PATIENCE_S = 300.0
"""Another process may be carrying over millions of answers from a damaged file just now."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is broken (SQLITE_CORRUPT, SQLITE_NOTADB, any extended code)."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and isinstance(code, int) and code & 0xFF in (11, 26)


def file_identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another one of the same name; None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def open_ledger(
    path: Path, report: Callable[[str], None], *, damaged: tuple[int, int] | None = None, reason: str = ""
) -> sqlite3.Connection:
    """Open the ledger, making it or bringing it up to date; a damaged one is set aside and a new one begun.

    Args:
        path: the database file; its folder is made, for this user only.
        report: gets a sentence for the user about everything out of the ordinary.
        damaged: `file_identity` of a file found to be damaged while in use; when it still lies at `path` (no
            other process was quicker) it is set aside first.
        reason: what was wrong with it.

    Raises:
        LedgerError: the file or its folder cannot be used; says why and what to do.
        sqlite3.Error: other faults of the database.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = wait_lock(path.with_name(path.name + ".lock"), patience_s=_OPENING_PATIENCE_S)
    if lock is None:
        raise LedgerError(f"Another process has been opening {path} for minutes. End it, then start again.")
    with lock:
        problem = reason if damaged is not None and file_identity(path) == damaged else header_problem(path)
        connection = None
        if not problem:
            connection, problem = _try_open(path)
        note = path.with_name(path.name + ".rescue")
        if connection is not None:
            rescue = _cut_off(note)
            if rescue is None:
                return connection
            aside, problem = rescue
        else:
            aside = _free_name(path)
            write_atomically(note, f"{aside.name}\n{problem}")
            set_aside(path, aside)
            connection, still = _try_open(path)
            if connection is None:
                raise LedgerError(f"A new ledger at {path} is damaged at once ({still}). Check the disk.")
        try:
            saved = salvage(aside, connection)
            note.unlink(missing_ok=True)
        except BaseException:
            connection.close()
            raise
        kept = f"{saved.get('answers', 0):,} answers were carried over" if saved else "nothing in it could be read"
        report(
            f"The ledger was damaged ({problem}). It was set aside as {aside.name} and a new one begun; {kept}. "
            "What the connector wrote to Stash and is not in the new ledger counts as yours now and stays."
        )
        return connection


def _try_open(path: Path) -> tuple[sqlite3.Connection | None, str]:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives -wal and -shm the mode of the database
    connection = connect_or_problem(path)
    if isinstance(connection, str):
        return None, connection
    try:
        prepare(connection, path)
        probe(connection)
    except sqlite3.Error as exc:
        connection.close()
        if is_damage(exc):
            return None, str(exc)
        raise
    except BaseException:
        connection.close()
        raise
    return connection, ""


def connect_or_problem(path: Path) -> sqlite3.Connection | str:
    """A connection, or what is wrong with the file."""
    try:
        return connect(path)
    except sqlite3.DatabaseError as exc:
        if is_damage(exc):
            return str(exc)
        raise


def header_problem(path: Path) -> str:
    """What is wrong with the first 100 bytes or the length of the file; empty when nothing is, or there is no file.

    Layout of the header: sqlite.org/fileformat2.html, section 1.3.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return ""
    if size == 0:
        return ""
    if len(header) < 100 or not header.startswith(_MAGIC):
        return "it is not a database"
    page = struct.unpack(">H", header[16:18])[0]
    page_bytes = 65536 if page == 1 else page
    if page_bytes < 512 or page_bytes & (page_bytes - 1) or header[21:24] != b"\x40\x20\x20":
        return "its header is damaged"
    pages, changed, valid_for = (struct.unpack(">I", header[at : at + 4])[0] for at in (28, 24, 92))
    wal = path.with_name(path.name + "-wal")
    pending = wal.exists() and wal.stat().st_size > 0  # then the missing pages are (still) in there
    if changed == valid_for and not pending and size < pages * page_bytes:
        return f"it is cut off: {size:,} of {pages * page_bytes:,} bytes"
    return ""


def probe(connection: sqlite3.Connection) -> None:
    """Read a little of every table. Raises `sqlite3.DatabaseError` when that hits damage."""
    for name, (_, keys) in tables(connection).items():
        for direction in ("ASC", "DESC"):
            order = ", ".join(f'"{key}" {direction}' for key in keys)
            connection.execute(f'SELECT * FROM "{name}" ORDER BY {order} LIMIT 1').fetchone()  # nosec B608 # names of our own; values are parameters
    last = connection.execute("SELECT max(id) FROM series").fetchone()[0] or 0
    for number in range(1, _PROBES):
        connection.execute(
            "SELECT * FROM answers WHERE series >= ? ORDER BY series, at_ms LIMIT 1", (last * number // _PROBES,)
        ).fetchone()


def _cut_off(note: Path) -> tuple[Path, str] | None:
    """What a rescue that was stopped (a kill, a full disk) has to go on with: the damaged file, and its problem."""
    try:
        name, _, problem = note.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    aside = note.with_name(name)
    return (aside, problem) if aside.is_file() else None


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        aside = path.with_name(f"{path.stem}.damaged-{stamp}{f'-{number}' if number else ''}{path.suffix}")
        if not aside.exists():
            return aside
    raise LedgerError(f"Too many damaged ledgers lie in {path.parent}; move them away.")


def set_aside(path: Path, aside: Path) -> None:
    """Rename the database, with what belongs to it."""
    try:
        for suffix in ("-wal", "-shm", ""):  # the database last: while it is there, nothing new is begun
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except PermissionError as exc:
        raise LedgerError(
            f"The ledger {path} is damaged and cannot be set aside while another program has it open. "
            "End other runs of the connector, then start again."
        ) from exc


def salvage(aside: Path, connection: sqlite3.Connection) -> dict[str, int]:
    """Copy every row that can still be read into the new ledger; table → rows there then, only where there are some.

    May be done again: rows that were copied before are left as they are.

    Each table is read from its beginning until damage stops it, then from its end backwards, so that one bad
    page costs only what lies around it. Ownership that comes along is safe to trust: a marker counts as ours only
    while it stands in Stash exactly as recorded, and a tag only on the very scene it is recorded for.
    """
    saved: dict[str, int] = {}
    _disown_length(aside)
    old = connect_or_problem(aside)
    if isinstance(old, str):
        return saved
    with closing(old):
        try:
            theirs = tables(old)
        except sqlite3.DatabaseError:
            return saved
        for name, (ours, keys) in tables(connection).items():
            if name == "migrations" or name not in theirs:
                continue
            columns = [column for column in ours if column in theirs[name][0]]
            for direction in ("ASC", "DESC"):
                _copy(old, connection, name, columns, keys, direction)
                if _complete(old, connection, name):
                    break
            if count := _count(connection, name):
                saved[name] = count
    return saved


def _disown_length(aside: Path) -> None:
    """Let SQLite read a file that was cut off: when two counters in the header differ, it goes by the real length."""
    with aside.open("r+b") as file:
        header = file.read(100)
        if header.startswith(_MAGIC) and len(header) == 100 and header[24:28] == header[92:96]:
            file.seek(92)
            file.write(bytes([header[92] ^ 0x80]))


def _copy(
    old: sqlite3.Connection,
    new: sqlite3.Connection,
    name: str,
    columns: list[str],
    keys: tuple[str, ...],
    direction: str,
) -> None:
    listed = ", ".join(f'"{column}"' for column in columns)
    order = ", ".join(f'"{key}" {direction}' for key in keys)
    insert = f'INSERT OR IGNORE INTO "{name}" ({listed}) VALUES ({", ".join("?" * len(columns))})'
    for rows in _readable(old, f'SELECT {listed} FROM "{name}" ORDER BY {order}'):  # nosec B608 # names of our own; values are parameters
        new.execute("BEGIN IMMEDIATE")
        try:
            new.executemany(insert, rows)
            new.execute("COMMIT")
        except BaseException:
            if new.in_transaction:
                new.execute("ROLLBACK")
            raise


def _readable(old: sqlite3.Connection, query: str) -> Iterator[list[Any]]:
    rows: list[Any] = []
    try:
        for row in old.execute(query):
            rows.append(row)
            if len(rows) >= _CHUNK:
                yield rows
                rows = []
    except sqlite3.DatabaseError as exc:  # damage, or text that is not text any more
        log.debug("stopped reading: %s", exc)
    if rows:
        yield rows


def _complete(old: sqlite3.Connection, new: sqlite3.Connection, name: str) -> bool:
    try:
        theirs = _count(old, name)
    except sqlite3.DatabaseError:
        return False
    return _count(new, name) >= theirs


def _count(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # nosec B608 # names of our own; values are parameters
