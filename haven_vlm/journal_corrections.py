"""Corrections in the ledger. They are never pruned: nobody says the same thing twice with pleasure."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from haven_vlm.corrections import Correction, Source, Stretch, Verdict
from haven_vlm.facts import Kind
from haven_vlm.journal_thread import LedgerFile

_NOWHERE = -1
"""Start and end of no span: SQLite takes no two NULLs for the same, and a true span never ends where it starts."""

_COLUMNS = (
    "kind, medium_id, verdict, source, tag_id, before_start_ms, before_end_ms, after_start_ms, after_end_ms,"
    " noted_at, tag, identity, marker_id, run_id, model"
)

_SELECT = (
    "SELECT c.id, c.kind, c.medium_id, c.verdict, c.source, c.tag_id, c.before_start_ms, c.before_end_ms,"
    " c.after_start_ms, c.after_end_ms, c.noted_at, iif(c.tag = '', coalesce(v.name, ''), c.tag), c.identity,"
    " c.marker_id, c.run_id, c.model FROM corrections c LEFT JOIN vocabulary_tags v USING (tag_id)"
)

_OPEN = "collected_in = '' AND verdict IN ('rejected', 'moved')"

_INSERT = (
    f"INSERT INTO corrections ({_COLUMNS}) VALUES ({', '.join('?' * 15)})"  # nosec B608 # names of our own; values are parameters
    " ON CONFLICT (kind, medium_id, tag_id, verdict, before_start_ms, before_end_ms, after_start_ms, after_end_ms)"
    " DO UPDATE SET noted_at = max(noted_at, excluded.noted_at), run_id = coalesce(run_id, excluded.run_id),"
    " tag = iif(tag = '', excluded.tag, tag), identity = iif(identity = '', excluded.identity, identity),"
    " marker_id = iif(marker_id = '', excluded.marker_id, marker_id), model = iif(model = '', excluded.model, model)"
)


@dataclass(frozen=True, slots=True)
class CorrectionStore:
    """The ledger's page of corrections. All methods raise `LedgerError` when the ledger cannot be used."""

    file: LedgerFile
    clock: Callable[[], float]

    async def record(self, *corrections: Correction) -> None:
        """Enter what the user said, all of it or nothing; what is there already is not entered twice.

        It takes effect like an edit in Stash: what was rejected or moved is never added again by a run, and what
        was confirmed or added may be.
        """
        at = self.clock()
        stamped = [c if c.at else replace(c, at=at) for c in corrections]

        def enter(db: sqlite3.Connection) -> None:
            insert(db, stamped)
            for correction in stamped:
                _take_effect(db, correction)

        await self.file.write(enter)

    # --- decisions that are being carried out -----------------------------------------------------------------

    async def begin(self, correction: Correction) -> int:
        """Enter what a person decided about a span before Stash is changed; returns its number.

        What is rejected or confirmed holds from now on, as by `record`. What is moved or added is only true once
        Stash says the same: that is for `carried_out`.
        """
        stamped = correction if correction.at else replace(correction, at=self.clock())

        def enter(db: sqlite3.Connection) -> int:
            if correction.verdict in (Verdict.REJECTED, Verdict.CONFIRMED):
                insert(db, [stamped])
                _take_effect(db, stamped)
            query = "INSERT INTO decisions (scene_id, body) VALUES (?, ?)"
            return int(db.execute(query, (correction.medium_id, json.dumps(asdict(stamped)))).lastrowid or 0)

        return await self.file.write(enter)

    async def carried_out(self, number: int, correction: Correction) -> None:
        """Enter that Stash is as it was decided; the correction holds from now on."""
        stamped = correction if correction.at else replace(correction, at=self.clock())

        def enter(db: sqlite3.Connection) -> None:
            insert(db, [stamped])
            _take_effect(db, stamped)
            db.execute("DELETE FROM decisions WHERE id = ?", (number,))

        await self.file.write(enter)

    async def given_up(self, number: int) -> None:
        """Forget a decision that cannot be carried out."""
        await self.file.write(lambda db: db.execute("DELETE FROM decisions WHERE id = ?", (number,)))

    async def begun(self, scene_id: str | None = None) -> list[tuple[int, Correction]]:
        """Decisions under way, or left behind by a process that was killed, oldest first; of one scene, or of all."""
        query = "SELECT id, body FROM decisions WHERE :scene IS NULL OR scene_id = :scene ORDER BY id"
        rows = await self.file.read(lambda db: db.execute(query, {"scene": scene_id}).fetchall())
        return [(int(number), _from_json(body)) for number, body in rows]

    # --- reading ----------------------------------------------------------------------------------------------

    async def all(
        self,
        *,
        kind: Kind | None = None,
        medium_id: str | None = None,
        verdict: Verdict | None = None,
        tag: str | None = None,
    ) -> list[Correction]:
        """Corrections in the order they were made, the latest word last.

        Args:
            kind: only of scenes, images or galleries.
            medium_id: only of this one; together with `kind`.
            tag: only of this name of the vocabulary. (A tag that was renamed in the vocabulary goes by its new name
                as soon as a run has met it; one that corrections name by another name keeps that.)
        """
        conditions = {
            "c.kind = ?": None if kind is None else kind.value,
            "c.medium_id = ?": medium_id,
            "c.verdict = ?": None if verdict is None else verdict.value,
            "iif(c.tag = '', v.name, c.tag) = ?": tag,
        }
        return await self._select(conditions, "ORDER BY c.noted_at, c.id")

    async def uncollected_media(
        self, after: tuple[Kind, str] | None = None, limit: int = 500
    ) -> list[tuple[Kind, str]]:
        """Media with rejections or moves that no collection holds yet, in pages: `after` is the last one before."""
        query = (
            f"SELECT DISTINCT kind, medium_id FROM corrections WHERE {_OPEN} AND (kind, medium_id) > (?, ?)"  # nosec B608 # names of our own; values are parameters
            " ORDER BY kind, medium_id LIMIT ?"
        )
        kind, medium_id = after or ("", "")
        rows = await self.file.read(lambda db: db.execute(query, (str(kind), medium_id, limit)).fetchall())
        return [(Kind(of), medium) for of, medium in rows]

    async def uncollected(self, kind: Kind, medium_id: str) -> list[Correction]:
        """Rejections and moves of one medium that no collection holds yet, oldest first."""
        where = f" WHERE {_OPEN} AND c.kind = ? AND c.medium_id = ? ORDER BY c.id"
        values = (kind.value, medium_id)
        rows = await self.file.read(lambda db: db.execute(f"{_SELECT}{where}", values).fetchall())
        return [_correction(row) for row in rows]

    async def collected(self, ids: Iterable[int], folder: str) -> None:
        """Remember that these corrections lie in this collection."""
        values = [(folder, i) for i in ids]
        await self.file.write(lambda db: db.executemany("UPDATE corrections SET collected_in = ? WHERE id = ?", values))

    async def find(self, correction: Correction) -> tuple[int, str] | None:
        """Number in the ledger and collection ('' if none yet) of the same correction; None when it is not there."""
        query = (
            "SELECT id, collected_in FROM corrections WHERE kind = ? AND medium_id = ? AND tag_id = ? AND verdict = ?"
            " AND before_start_ms = ? AND before_end_ms = ? AND after_start_ms = ? AND after_end_ms = ?"
        )
        c = correction
        values = (c.kind.value, c.medium_id, c.tag_id, c.verdict.value, *_columns(c.before), *_columns(c.after))
        row = await self.file.read(lambda db: db.execute(query, values).fetchone())
        return None if row is None else (int(row[0]), str(row[1]))

    async def name_tags(self, names: Mapping[str, str]) -> None:
        """Remember what the tags of these ids are called in the vocabulary, which may be otherwise than in Stash."""
        values = list(names.items())
        query = "INSERT OR REPLACE INTO vocabulary_tags (tag_id, name) VALUES (?, ?)"
        await self.file.write(lambda db: db.executemany(query, values))

    async def _select(self, conditions: Mapping[str, object], clause: str) -> list[Correction]:
        chosen = {text: value for text, value in conditions.items() if value is not None}
        where = f" WHERE {' AND '.join(chosen)}" if chosen else ""
        values = list(chosen.values())
        rows = await self.file.read(lambda db: db.execute(f"{_SELECT}{where} {clause}", values).fetchall())
        return [_correction(row) for row in rows]


def insert(db: sqlite3.Connection, corrections: Iterable[Correction]) -> None:
    """Enter corrections; those that are there already only learn what they did not know."""
    db.executemany(
        _INSERT,
        [
            (
                c.kind.value,
                c.medium_id,
                c.verdict.value,
                c.source.value,
                c.tag_id,
                *_columns(c.before),
                *_columns(c.after),
                c.at,
                c.tag,
                c.identity,
                c.marker_id,
                c.run_id,
                c.model,
            )
            for c in corrections
        ],
    )


def _take_effect(db: sqlite3.Connection, c: Correction) -> None:
    """Let runs do, or not do again, what the user said."""
    if not c.tag_id:
        return
    whole = (c.kind.value, c.medium_id, c.tag_id)
    wanted = c.after or c.before
    if c.verdict in (Verdict.REJECTED, Verdict.MOVED):
        if c.before is None:
            query = "INSERT OR IGNORE INTO rejected_tags (kind, medium_id, tag_id, noticed_at) VALUES (?, ?, ?, ?)"
            db.execute(query, (*whole, c.at))
        elif c.kind is Kind.SCENE:
            query = (
                "INSERT OR IGNORE INTO rejected_spans (scene_id, tag_id, start_ms, end_ms, noticed_at)"
                " VALUES (?, ?, ?, ?, ?)"
            )
            db.execute(query, (c.medium_id, c.tag_id, *c.before, c.at))
    elif wanted is None:
        db.execute("DELETE FROM rejected_tags WHERE kind = ? AND medium_id = ? AND tag_id = ?", whole)
    elif c.kind is Kind.SCENE:
        query = "DELETE FROM rejected_spans WHERE scene_id = ? AND tag_id = ? AND start_ms = ? AND end_ms = ?"
        db.execute(query, (c.medium_id, c.tag_id, *wanted))


def _from_json(body: str) -> Correction:
    data = json.loads(body)
    for name in ("before", "after"):
        data[name] = None if data[name] is None else (int(data[name][0]), int(data[name][1]))
    enums = {"kind": Kind(data["kind"]), "verdict": Verdict(data["verdict"]), "source": Source(data["source"])}
    return Correction(**data | enums)


def _columns(span: Stretch | None) -> Stretch:
    return (_NOWHERE, _NOWHERE) if span is None else span


def _stretch(start_ms: int, end_ms: int) -> Stretch | None:
    return None if start_ms == end_ms else (start_ms, end_ms)


def _correction(row: Sequence[Any]) -> Correction:
    number, kind, medium_id, verdict, source, tag_id, a, b, c, d, at, tag, identity, marker_id, run_id, model = row
    return Correction(
        kind=Kind(kind),
        medium_id=medium_id,
        verdict=Verdict(verdict),
        source=Source(source),
        tag_id=tag_id,
        before=_stretch(a, b),
        after=_stretch(c, d),
        at=at,
        tag=tag,
        identity=identity,
        marker_id=marker_id,
        run_id=run_id,
        model=model,
        id=number,
    )
