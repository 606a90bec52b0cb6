"""The library's tables, one SQLite connection, and transactions.

One connection behind one lock: a query sees one state, a mutation is one transaction, as with the real server's
single writer. Times are kept as RFC 3339 text with whole seconds, which is the precision Stash keeps too.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
"""One row, column name to value."""


class StashError(Exception):
    """What Stash answers when it understood the request and refused it; the text reaches the client as it is."""


TABLES = """
CREATE TABLE IF NOT EXISTS folders (
  id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, parent_folder_id INTEGER REFERENCES folders(id),
  zip_file_id INTEGER REFERENCES files(id), mod_time TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, basename TEXT NOT NULL, path TEXT NOT NULL,
  parent_folder_id INTEGER NOT NULL REFERENCES folders(id), zip_file_id INTEGER REFERENCES files(id),
  size INTEGER NOT NULL, mod_time TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
  format TEXT, width INTEGER, height INTEGER, duration REAL, video_codec TEXT, audio_codec TEXT,
  frame_rate REAL, bit_rate INTEGER);
CREATE INDEX IF NOT EXISTS files_path ON files(path);
CREATE TABLE IF NOT EXISTS files_fingerprints (
  file_id INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE, type TEXT NOT NULL, fingerprint TEXT NOT NULL,
  PRIMARY KEY (file_id, type, fingerprint)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fingerprints_value ON files_fingerprints(type, fingerprint);

CREATE TABLE IF NOT EXISTS scenes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, code TEXT, details TEXT, director TEXT, date TEXT,
  rating100 INTEGER,
  organized INTEGER NOT NULL DEFAULT 0, studio_id INTEGER REFERENCES studios(id) ON DELETE SET NULL, cover BLOB,
  resume_time REAL NOT NULL DEFAULT 0, play_duration REAL NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
  id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, code TEXT, details TEXT, photographer TEXT, date TEXT,
  rating100 INTEGER,
  organized INTEGER NOT NULL DEFAULT 0, studio_id INTEGER REFERENCES studios(id) ON DELETE SET NULL,
  o_counter INTEGER NOT NULL DEFAULT 0, created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS galleries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, code TEXT, details TEXT, photographer TEXT, date TEXT,
  rating100 INTEGER,
  organized INTEGER NOT NULL DEFAULT 0, studio_id INTEGER REFERENCES studios(id) ON DELETE SET NULL,
  folder_id INTEGER REFERENCES folders(id), created_at TEXT NOT NULL, updated_at TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS scenes_files (
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE, file_id INTEGER NOT NULL REFERENCES files(id),
  is_primary INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (scene_id, file_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images_files (
  image_id INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE, file_id INTEGER NOT NULL REFERENCES files(id),
  is_primary INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (image_id, file_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS galleries_files (
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE,
  file_id INTEGER NOT NULL REFERENCES files(id),
  is_primary INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (gallery_id, file_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS galleries_images (
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE,
  image_id INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE, PRIMARY KEY (gallery_id, image_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS galleries_images_image ON galleries_images(image_id);
CREATE TABLE IF NOT EXISTS scenes_galleries (
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE,
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE,
  PRIMARY KEY (scene_id, gallery_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scene_urls (
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE, position INTEGER NOT NULL, url TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS image_urls (
  image_id INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE, position INTEGER NOT NULL, url TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gallery_urls (
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE, position INTEGER NOT NULL, url TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS tags (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, sort_name TEXT, description TEXT,
  favorite INTEGER NOT NULL DEFAULT 0, ignore_auto_tag INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tag_aliases (
  tag_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, alias TEXT NOT NULL UNIQUE,
  PRIMARY KEY (tag_id, alias)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags_relations (
  parent_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE,
  child_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, PRIMARY KEY (parent_id, child_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scenes_tags (
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE,
  tag_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, PRIMARY KEY (scene_id, tag_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS scenes_tags_tag ON scenes_tags(tag_id);
CREATE TABLE IF NOT EXISTS images_tags (
  image_id INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
  tag_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, PRIMARY KEY (image_id, tag_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS images_tags_tag ON images_tags(tag_id);
CREATE TABLE IF NOT EXISTS galleries_tags (
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE,
  tag_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, PRIMARY KEY (gallery_id, tag_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS galleries_tags_tag ON galleries_tags(tag_id);

CREATE TABLE IF NOT EXISTS scene_markers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, seconds REAL NOT NULL, end_seconds REAL,
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE,
  primary_tag_id INTEGER NOT NULL REFERENCES tags(id), created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS scene_markers_scene ON scene_markers(scene_id);
CREATE INDEX IF NOT EXISTS scene_markers_tag ON scene_markers(primary_tag_id);
CREATE TABLE IF NOT EXISTS scene_markers_tags (
  scene_marker_id INTEGER NOT NULL REFERENCES scene_markers(id) ON DELETE CASCADE,
  tag_id INTEGER NOT NULL REFERENCES tags(id) ON DELETE CASCADE, PRIMARY KEY (scene_marker_id, tag_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS scene_markers_tags_tag ON scene_markers_tags(tag_id);

CREATE TABLE IF NOT EXISTS studios (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
  parent_id INTEGER REFERENCES studios(id) ON DELETE SET NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS studio_aliases (
  studio_id INTEGER NOT NULL REFERENCES studios(id) ON DELETE CASCADE, alias TEXT NOT NULL,
  PRIMARY KEY (studio_id, alias)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS performers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scenes_performers (
  scene_id INTEGER NOT NULL REFERENCES scenes(id) ON DELETE CASCADE,
  performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
  PRIMARY KEY (scene_id, performer_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images_performers (
  image_id INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
  performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
  PRIMARY KEY (image_id, performer_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS galleries_performers (
  gallery_id INTEGER NOT NULL REFERENCES galleries(id) ON DELETE CASCADE,
  performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
  PRIMARY KEY (gallery_id, performer_id)) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
"""`kept` holds what the real server has in its configuration file: settings, the session key."""


def _row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    return dict(zip((column[0] for column in cursor.description), values, strict=True))


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key of Stash's NATURAL_CI collation: case folded, runs of digits compared as numbers."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for char in text.casefold() + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), digits))
            digits = ""
        parts.append((1, 0, char))
    return parts


def _natural_ci(left: str, right: str) -> int:
    a, b = natural_key(left), natural_key(right)
    return (a > b) - (a < b)


class Store:
    """Tables in a file or in memory; every method may be called from any thread.

    Arguments:
        path: an SQLite file, or ":memory:".
        clock: seconds since the epoch.
    """

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self.path = path
        self.clock = clock
        self.lock = threading.RLock()
        self.writes = 0
        """Transactions committed so far."""
        self._depth = 0
        self._conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        self._conn.row_factory = _row
        self._conn.create_collation("NATURAL_CI", _natural_ci)
        self._conn.create_function("regexp", 2, _regexp, deterministic=True)
        self._conn.create_function("shuffled", 2, _shuffled, deterministic=True)
        self._conn.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON;" + TABLES)

    def close(self) -> None:
        with self.lock:
            self._conn.close()

    def now(self) -> str:
        """The current time as Stash writes it: RFC 3339, whole seconds."""
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; joined when already inside one.

        Raises:
            StashError: a constraint was broken; the statement and SQLite's own text.
        """
        with self.lock:
            outermost = self._depth == 0
            if outermost:
                self._conn.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                if outermost:
                    self._conn.execute("ROLLBACK")
                raise
            else:
                if outermost:
                    self._conn.execute("COMMIT")
                    self.writes += 1
            finally:
                self._depth -= 1

    def all(self, sql: str, *params: Any) -> list[Row]:
        with self.lock, _read(sql):
            return self._conn.execute(sql, params).fetchall()

    def one(self, sql: str, *params: Any) -> Row | None:
        with self.lock, _read(sql):
            found: Row | None = self._conn.execute(sql, params).fetchone()
            return found

    def value(self, sql: str, *params: Any) -> Any:
        """First column of the first row, or None."""
        row = self.one(sql, *params)
        return next(iter(row.values())) if row else None

    def column(self, sql: str, *params: Any) -> list[Any]:
        return [next(iter(row.values())) for row in self.all(sql, *params)]

    def run(self, sql: str, *params: Any) -> int:
        """Execute; returns the number of rows touched."""
        with self.lock, _told(sql, params):
            return self._conn.execute(sql, params).rowcount

    def run_many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with self.lock:
            for row in rows:
                with _told(sql, row):
                    self._conn.execute(sql, row)

    def insert(self, table: str, values: Row) -> int:
        """Insert one row; returns its id."""
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        sql, params = f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values())
        with self.lock, _told(sql, params, f"inserting into {table}: "):
            return int(self._conn.execute(sql, params).lastrowid or 0)

    def update(self, table: str, row_id: int, values: Row) -> int:
        """Set columns of one row; returns how many rows were touched."""
        if not values:
            return 0
        sets = ", ".join(f"{name} = ?" for name in values)
        return self.run(f"UPDATE {table} SET {sets} WHERE id = ?", *values.values(), row_id)

    def keep(self, name: str, value: Any) -> None:
        """Remember a JSON value under a name."""
        with self.transaction():
            self.run("INSERT OR REPLACE INTO kept (name, value) VALUES (?, ?)", name, json.dumps(value))

    def kept(self, name: str, default: Any = None) -> Any:
        text = self.value("SELECT value FROM kept WHERE name = ?", name)
        return default if text is None else json.loads(text)


@contextmanager
def _told(sql: str, params: tuple[Any, ...], prefix: str = "error ") -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as exc:
        values = " ".join("<nil>" if value is None else str(value) for value in params)
        raise StashError(f"{prefix}executing `{sql}` [[{values}]]: {exc}") from exc


@contextmanager
def _read(sql: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise StashError(f"executing query: {sql}: SQL: {exc}") from exc


def marks(values: Iterable[Any]) -> str:
    """Question marks for an IN list."""
    return "(" + ", ".join("?" for _ in values) + ")"


def _regexp(pattern: str, text: str | None) -> bool:
    return text is not None and re.search(pattern, str(text)) is not None


def _shuffled(seed: int, row_id: int) -> int:
    """A fixed order per seed that looks random."""
    return (row_id * 2_654_435_761 + seed * 40_503 + (row_id ^ seed) * 69_069) % 4_294_967_291
