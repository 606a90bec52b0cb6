"""Tables of the ledger, named migrations, and how a connection to the file is set up.

Everything that repeats is a small integer: file identities, keys of picture preparations, models, endpoints,
vocabularies. One *series* is one file, prepared one way, asked about one vocabulary of one model; its answers
lie side by side under their times. So one answer takes some twenty bytes, and reading a scene is one range.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from haven_vlm.errors import LedgerError

APPLICATION_ID = 0x48564C4D
"""'HVLM', in the file's header: tells our file from any other SQLite database."""

BUSY_TIMEOUT_S = 30.0
"""How long a write waits for another process's write. Ours take milliseconds; a checkpoint may take seconds."""

_CACHE_KIB = 8192


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from an older layout to a newer one; it commits together with the record that it was made."""

    name: str
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        "0001 answers",
        (
            # used_on: day (since 1970) of the last reading or writing; what pruning goes by
            "CREATE TABLE files (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, used_on INTEGER NOT NULL)",
            "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
            "CREATE TABLE terms (id INTEGER PRIMARY KEY, name TEXT NOT NULL, definition TEXT NOT NULL,"
            " UNIQUE (name, definition))",
            "CREATE TABLE vocabularies (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL UNIQUE, wording INTEGER NOT NULL)",
            "CREATE TABLE vocabulary_terms (vocabulary INTEGER NOT NULL, term INTEGER NOT NULL,"
            " PRIMARY KEY (vocabulary, term)) WITHOUT ROWID",
            "CREATE TABLE series (id INTEGER PRIMARY KEY, file INTEGER NOT NULL, picture INTEGER NOT NULL,"
            " vocabulary INTEGER NOT NULL, model INTEGER NOT NULL, UNIQUE (file, picture, vocabulary, model))",
            # lag_ms: at_ms - shown_ms. tags: 'term' or 'term:confidence', by spaces; NULL: no tag applies.
            # raw: only where the text says more than tags does.
            "CREATE TABLE answers (series INTEGER NOT NULL, at_ms INTEGER NOT NULL, lag_ms INTEGER NOT NULL,"
            " inherited_from_ms INTEGER, endpoint INTEGER NOT NULL, tags TEXT, raw TEXT,"
            " PRIMARY KEY (series, at_ms)) WITHOUT ROWID",
            "CREATE TABLE failures (series INTEGER NOT NULL, at_ms INTEGER NOT NULL, outcome TEXT NOT NULL,"
            " endpoint INTEGER NOT NULL, detail TEXT NOT NULL, raw TEXT NOT NULL,"
            " PRIMARY KEY (series, at_ms)) WITHOUT ROWID",
        ),
    ),
    Migration(
        "0002 runs",
        (
            "CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE, mode TEXT NOT NULL,"
            " started_at REAL NOT NULL, ended_at REAL, result TEXT)",
        ),
    ),
    Migration(
        "0003 ownership",
        (
            "CREATE TABLE owned_tags (kind TEXT NOT NULL, medium_id TEXT NOT NULL, tag_id TEXT NOT NULL,"
            " run_id INTEGER NOT NULL CHECK (typeof(run_id) = 'integer'),"
            " role TEXT NOT NULL CHECK (role IN ('result', 'mark')),"
            " PRIMARY KEY (kind, medium_id, tag_id)) WITHOUT ROWID",
            "CREATE TABLE owned_markers (marker_id TEXT PRIMARY KEY, scene_id TEXT NOT NULL,"
            " run_id INTEGER NOT NULL CHECK (typeof(run_id) = 'integer'), title TEXT NOT NULL,"
            " start_ms INTEGER NOT NULL CHECK (typeof(start_ms) = 'integer'), end_ms INTEGER,"
            " primary_tag_id TEXT NOT NULL, tag_ids TEXT NOT NULL) WITHOUT ROWID",
            "CREATE INDEX owned_markers_scene ON owned_markers (scene_id)",
            "CREATE TABLE rejected_tags (kind TEXT NOT NULL, medium_id TEXT NOT NULL, tag_id TEXT NOT NULL,"
            " noticed_at REAL NOT NULL, PRIMARY KEY (kind, medium_id, tag_id)) WITHOUT ROWID",
            "CREATE TABLE rejected_spans (scene_id TEXT NOT NULL, tag_id TEXT NOT NULL, start_ms INTEGER NOT NULL,"
            " end_ms INTEGER NOT NULL, noticed_at REAL NOT NULL,"
            " PRIMARY KEY (scene_id, tag_id, start_ms, end_ms)) WITHOUT ROWID",
            # tag_id is NULL between asking Stash for the tag and knowing that it is there
            "CREATE TABLE created_tags (id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, name TEXT NOT NULL,"
            " description TEXT NOT NULL, parent_id TEXT, tag_id TEXT UNIQUE)",
            "CREATE TABLE plans (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL, kind TEXT NOT NULL,"
            " medium_id TEXT NOT NULL, purpose TEXT NOT NULL CHECK (purpose IN ('apply', 'undo')),"
            " intent TEXT NOT NULL, opened_at REAL NOT NULL)",
            "CREATE INDEX plans_medium ON plans (kind, medium_id)",
            "CREATE TABLE steps (id INTEGER PRIMARY KEY AUTOINCREMENT, plan_id INTEGER NOT NULL, body TEXT NOT NULL,"
            " state TEXT NOT NULL CHECK (state IN ('planned', 'begun', 'done')))",
            "CREATE INDEX steps_plan ON steps (plan_id)",
            "CREATE TABLE effects (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL, kind TEXT NOT NULL,"
            " medium_id TEXT NOT NULL, change TEXT NOT NULL, object_id TEXT NOT NULL,"
            " owner_run INTEGER NOT NULL CHECK (typeof(owner_run) = 'integer'), role TEXT NOT NULL, marker TEXT)",
            "CREATE INDEX effects_medium ON effects (kind, medium_id)",
            "CREATE INDEX effects_run ON effects (run_id)",
            "CREATE INDEX effects_object ON effects (object_id)",
        ),
    ),
    Migration(
        "0004 corrections",
        (
            # -1: no span. collected_in: folder of the collection that holds it; '': none yet
            "CREATE TABLE corrections (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,"
            " medium_id TEXT NOT NULL,"
            " verdict TEXT NOT NULL CHECK (verdict IN ('rejected', 'moved', 'confirmed', 'added')),"
            " source TEXT NOT NULL CHECK (source IN ('stash', 'flag', 'review')), tag_id TEXT NOT NULL,"
            " before_start_ms INTEGER NOT NULL, before_end_ms INTEGER NOT NULL,"
            " after_start_ms INTEGER NOT NULL, after_end_ms INTEGER NOT NULL,"
            " noted_at REAL NOT NULL, tag TEXT NOT NULL, identity TEXT NOT NULL, marker_id TEXT NOT NULL,"
            " run_id INTEGER, model TEXT NOT NULL, collected_in TEXT NOT NULL DEFAULT '',"
            " UNIQUE (kind, medium_id, tag_id, verdict, before_start_ms, before_end_ms, after_start_ms, after_end_ms))",
            "CREATE INDEX corrections_uncollected ON corrections (kind, medium_id) WHERE collected_in = ''",
            "CREATE TABLE vocabulary_tags (tag_id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID",
            # of rejected spans nobody wrote down which were deleted and which moved: those teach nothing
            "INSERT INTO corrections (kind, medium_id, verdict, source, tag_id, before_start_ms, before_end_ms,"
            " after_start_ms, after_end_ms, noted_at, tag, identity, marker_id, model)"
            " SELECT kind, medium_id, 'rejected', 'stash', tag_id, -1, -1, -1, -1, noticed_at, '', '', '', ''"
            " FROM rejected_tags",
        ),
    ),
    Migration(
        "0005 spending",
        (
            # day: of the calendar where the run was, as in 2026-11-23
            "CREATE TABLE spending (day TEXT NOT NULL, endpoint TEXT NOT NULL, requests INTEGER NOT NULL,"
            " tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, PRIMARY KEY (day, endpoint)) WITHOUT ROWID",
        ),
    ),
    Migration(
        "0006 decisions",
        (
            # what a person decided and is being carried out in Stash: a correction as JSON
            "CREATE TABLE decisions (id INTEGER PRIMARY KEY AUTOINCREMENT, scene_id TEXT NOT NULL, body TEXT NOT NULL)",
        ),
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file as it is; transactions are begun and ended by hand. Used by one thread at a time."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # the thread that repairs a damaged file closes the other thread's connection
        cached_statements=64,
    )
    try:
        # an acknowledged answer survives a power cut: on macOS only a full sync reaches the platter
        for pragma in (
            "synchronous = FULL",
            "fullfsync = ON",
            "checkpoint_fullfsync = ON",
            "temp_store = MEMORY",
            f"cache_size = -{_CACHE_KIB}",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path, *, now: Callable[[], float] = time.time) -> None:
    """Make the file ours and bring its tables up to date. The caller holds the lock of opening.

    Raises:
        LedgerError: the file belongs to another program, or to a newer version of the connector.
        sqlite3.DatabaseError: the file is damaged, the disk is full, and so on.
    """
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (owner == 0 and empty):
        raise LedgerError(
            f"{path} is a database of another program. Point data_dir to a folder of its own, or move that file away."
        )
    if empty:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that pruning gives space back; must come first
    mode = str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    if mode != "wal":
        raise LedgerError(
            f"The folder {path.parent} cannot hold the ledger: its file system lacks shared memory maps "
            "(a network share?). Point data_dir to a folder on a local disk."
        )
    if owner != APPLICATION_ID:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, made_at REAL NOT NULL)")
    made = {row[0] for row in connection.execute("SELECT name FROM migrations")}
    if newer := made - {m.name for m in MIGRATIONS}:
        raise LedgerError(
            f"{path} was written by a newer version of the connector ({', '.join(sorted(newer))}). "
            "Update the connector, or move the file away to start a new ledger."
        )
    for migration in MIGRATIONS:
        if migration.name not in made:
            _migrate(connection, migration, now())


def _migrate(connection: sqlite3.Connection, migration: Migration, at: float) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations (name, made_at) VALUES (?, ?)", (migration.name, at))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def tables(connection: sqlite3.Connection) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Table → its columns, and those of them that make up its primary key, in order."""
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (name,) in names.fetchall():
        info = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
        keys = sorted((row[5], row[1]) for row in info if row[5])
        found[name] = (tuple(row[1] for row in info), tuple(column for _, column in keys))
    return found
