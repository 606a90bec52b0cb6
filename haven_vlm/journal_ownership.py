"""Ownership in the ledger: what we wrote to Stash and what it replaced, plans under way, the user's corrections.

A write to Stash is entered twice: that it begins, and that it is done together with whose the thing is from then
on. Whatever stops the process in between, the entry says what to look for when reading back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from haven_vlm.facts import Kind, Marker, MarkerDraft, TagRef
from haven_vlm.journal_corrections import insert
from haven_vlm.journal_thread import LedgerFile
from haven_vlm.ownership import (
    Action,
    Findings,
    NewMarker,
    OwnedMarker,
    OwnedTag,
    Record,
    RejectedSpan,
    Role,
    Step,
)
from haven_vlm.undo_plan import Change, Effect


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """Writes to one medium that were begun and are not known to be finished."""

    id: int
    run_id: int
    kind: Kind
    medium_id: str
    purpose: str
    """'apply' or 'undo'."""
    intent: str
    """JSON: what the writes lead to."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a step really did, as seen in Stash."""

    added: tuple[OwnedTag, ...] = ()
    removed: tuple[OwnedTag, ...] = ()
    created: tuple[tuple[NewMarker, Marker], ...] = ()
    destroyed: tuple[OwnedMarker, ...] = ()


@dataclass(frozen=True, slots=True)
class CreatedTag:
    """A tag that a run created in Stash, or set out to."""

    row: int
    run_id: int
    name: str
    description: str
    parent_id: str | None
    tag_id: str | None
    """None: asked for, and nobody knows whether Stash did it."""


class OwnershipStore:
    """The ledger's pages on ownership. All methods raise `LedgerError` when the ledger cannot be used."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    # --- what is ours -----------------------------------------------------------------------------------------

    async def record(self, kind: Kind, medium_id: str, marker_ids: Collection[str]) -> Record:
        """What is recorded of a medium, and of the markers that stand on it now, wherever they were recorded."""
        return await self._file.read(lambda db: _record(db, kind, medium_id, marker_ids))

    async def markers(self) -> dict[str, Marker]:
        """All markers of ours, by id, as they stood when we last had a hand in them."""
        columns = "marker_id, scene_id, title, start_ms, end_ms, primary_tag_id, tag_ids"
        rows = await self._file.read(lambda db: db.execute(f"SELECT {columns} FROM owned_markers").fetchall())  # nosec B608 # names of our own; values are parameters
        return {row[0]: _marker([*row[:6], json.loads(row[6])]) for row in rows}

    async def origins(self, marker_ids: Collection[str]) -> dict[str, OwnedMarker]:
        """Markers among these that runs made, as they last left them; also those that are the user's since."""
        return await self._file.read(lambda db: _origins(db, marker_ids))

    async def owned_media(self, after: tuple[Kind, str] | None = None, limit: int = 500) -> list[tuple[Kind, str]]:
        """Media with tags or markers of ours, in pages: `after` is the last of the page before."""
        query = (
            "SELECT kind, medium_id FROM (SELECT kind, medium_id FROM owned_tags UNION"
            " SELECT 'scene', scene_id FROM owned_markers) WHERE (kind, medium_id) > (?, ?)"
            " ORDER BY kind, medium_id LIMIT ?"
        )
        kind, medium_id = after or ("", "")
        rows = await self._file.read(lambda db: db.execute(query, (str(kind), medium_id, limit)).fetchall())
        return [(Kind(of), medium) for of, medium in rows]

    async def note(self, kind: Kind, medium_id: str, findings: Findings, at: float) -> None:
        """Write down what turned out to have changed."""
        await self._file.write(lambda db: _note(db, kind, medium_id, findings, at))

    # --- plans and their steps --------------------------------------------------------------------------------

    async def open_plan(
        self, run_id: int, kind: Kind, medium_id: str, *, purpose: str, intent: str, at: float
    ) -> OpenPlan:
        """Enter what shall become of a medium, before anything is written to Stash."""
        values = (run_id, kind.value, medium_id, purpose, intent, at)

        def insert(db: sqlite3.Connection) -> int:
            query = "INSERT INTO plans (run_id, kind, medium_id, purpose, intent, opened_at) VALUES (?, ?, ?, ?, ?, ?)"
            return int(db.execute(query, values).lastrowid or 0)

        return OpenPlan(await self._file.write(insert), run_id, kind, medium_id, purpose, intent)

    async def open_plans(self, kind: Kind | None = None, medium_id: str | None = None) -> list[OpenPlan]:
        """Plans not closed yet, oldest first: of one medium, or of all."""
        query = "SELECT id, run_id, kind, medium_id, purpose, intent FROM plans"
        values: tuple[str, ...] = ()
        if kind is not None and medium_id is not None:
            query, values = f"{query} WHERE kind = ? AND medium_id = ?", (kind.value, medium_id)
        rows = await self._file.read(lambda db: db.execute(f"{query} ORDER BY id", values).fetchall())
        return [OpenPlan(i, run, Kind(of), medium, purpose, intent) for i, run, of, medium, purpose, intent in rows]

    async def enter_steps(self, plan: OpenPlan, steps: Sequence[Step]) -> list[int]:
        """Enter the steps to come, in place of those that were planned and never begun; returns their ids."""
        bodies = [json.dumps(asdict(step), default=_plain, separators=(",", ":")) for step in steps]

        def insert(db: sqlite3.Connection) -> list[int]:
            db.execute("DELETE FROM steps WHERE plan_id = ? AND state = 'planned'", (plan.id,))
            query = "INSERT INTO steps (plan_id, body, state) VALUES (?, ?, 'planned')"
            return [int(db.execute(query, (plan.id, body)).lastrowid or 0) for body in bodies]

        return await self._file.write(insert)

    async def begin(self, step_id: int) -> None:
        """Enter that the request to Stash is about to be made."""
        await self._file.write(lambda db: db.execute("UPDATE steps SET state = 'begun' WHERE id = ?", (step_id,)))

    async def begun(self, plan: OpenPlan) -> list[tuple[int, Step]]:
        """Steps that were begun and about which nobody knows whether Stash did them."""
        rows = await self._file.read(
            lambda db: db.execute(
                "SELECT id, body FROM steps WHERE plan_id = ? AND state = 'begun' ORDER BY id", (plan.id,)
            ).fetchall()
        )
        return [(step_id, _step(body)) for step_id, body in rows]

    async def finish(self, plan: OpenPlan, step_id: int, done: Done) -> None:
        """Enter what a step did: whose things are, and, unless it was an undo, what there is to undo now."""
        await self._file.write(lambda db: _finish(db, plan, step_id, done))

    async def close_plan(self, plan: OpenPlan, *, undone: Collection[int] = (), runs: Collection[int] = ()) -> None:
        """Forget a plan that is carried out or given up. `undone`: effects that an undo took back, of these runs.

        What other runs removed of things that belonged to `runs` is not to be brought back any more either.
        """

        def close(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM steps WHERE plan_id = ?", (plan.id,))
            db.execute("DELETE FROM plans WHERE id = ?", (plan.id,))
            db.executemany("DELETE FROM effects WHERE id = ?", [(i,) for i in undone])
            db.executemany(
                "DELETE FROM effects WHERE kind = ? AND medium_id = ? AND owner_run = ? AND role != 'theirs'"
                " AND change IN ('tag_removed', 'marker_removed')",
                [(plan.kind.value, plan.medium_id, run) for run in runs],
            )

        await self._file.write(close)

    # --- what there is to undo --------------------------------------------------------------------------------

    async def effects(self, kind: Kind, medium_id: str) -> list[Effect]:
        """Changes to a medium that can be undone, newest first."""
        rows = await self._file.read(
            lambda db: db.execute(
                "SELECT id, run_id, change, object_id, owner_run, role, marker FROM effects"
                " WHERE kind = ? AND medium_id = ? ORDER BY id DESC",
                (kind.value, medium_id),
            ).fetchall()
        )
        return [
            Effect(i, run, Change(change), what, owner, Role(role), _marker(json.loads(marker)) if marker else None)
            for i, run, change, what, owner, role, marker in rows
        ]

    async def touched(self, run_id: int | None = None) -> list[tuple[Kind, str]]:
        """Media with changes that can be undone: of one run, or of all."""
        query = "SELECT DISTINCT kind, medium_id FROM effects WHERE ? IS NULL OR run_id = ?"
        rows = await self._file.read(lambda db: db.execute(query, (run_id, run_id)).fetchall())
        return sorted((Kind(kind), medium_id) for kind, medium_id in rows)

    async def last_run_with_effects(self) -> int | None:
        """The latest run that changed something which can be undone."""
        row = await self._file.read(lambda db: db.execute("SELECT max(run_id) FROM effects").fetchone())
        return None if row[0] is None else int(row[0])

    # --- tags we created --------------------------------------------------------------------------------------

    async def begin_tag(self, run_id: int, name: str, description: str, parent_id: str | None) -> int:
        """Enter that a tag is about to be created."""
        query = "INSERT INTO created_tags (run_id, name, description, parent_id) VALUES (?, ?, ?, ?)"
        values = (run_id, name, description, parent_id)
        return await self._file.write(lambda db: int(db.execute(query, values).lastrowid or 0))

    async def tag_created(self, row: int, tag: TagRef) -> None:
        """Enter the tag as Stash made it."""
        query = "UPDATE OR REPLACE created_tags SET tag_id = ?, name = ?, description = ? WHERE id = ?"
        await self._file.write(lambda db: db.execute(query, (tag.id, tag.name, tag.description, row)))

    async def forget_tags(self, rows: Iterable[int]) -> None:
        """These tags were not created after all, are gone, or are the user's now."""
        values = [(row,) for row in rows]
        await self._file.write(lambda db: db.executemany("DELETE FROM created_tags WHERE id = ?", values))

    async def created_tags(self) -> list[CreatedTag]:
        """All tags that runs created, oldest first."""
        query = "SELECT id, run_id, name, description, parent_id, tag_id FROM created_tags ORDER BY id"
        rows = await self._file.read(lambda db: db.execute(query).fetchall())
        return [CreatedTag(*row) for row in rows]

    async def corrected_tags(self) -> set[str]:
        """Ids of tags that a correction of the user refers to."""
        tables = ("rejected_tags", "rejected_spans", "corrections")
        query = " UNION ".join(f"SELECT tag_id FROM {table}" for table in tables)  # nosec B608 # names of our own; values are parameters
        return {row[0] for row in await self._file.read(lambda db: db.execute(query).fetchall())}


def _record(db: sqlite3.Connection, kind: Kind, medium_id: str, marker_ids: Collection[str]) -> Record:
    medium = (kind.value, medium_id)
    tags = db.execute("SELECT tag_id, run_id, role FROM owned_tags WHERE kind = ? AND medium_id = ?", medium)
    columns = "marker_id, scene_id, run_id, title, start_ms, end_ms, primary_tag_id, tag_ids"
    rows: list[Any] = []
    spans: list[RejectedSpan] = []
    if kind is Kind.SCENE:
        rows = db.execute(f"SELECT {columns} FROM owned_markers WHERE scene_id = ?", (medium_id,)).fetchall()  # nosec B608 # names of our own; values are parameters
        known = {row[0] for row in rows}
        for marker_id in marker_ids:
            if marker_id not in known:
                rows += db.execute(f"SELECT {columns} FROM owned_markers WHERE marker_id = ?", (marker_id,)).fetchall()  # nosec B608 # names of our own; values are parameters
        query = "SELECT tag_id, start_ms, end_ms FROM rejected_spans WHERE scene_id = ?"
        spans = [RejectedSpan(*row) for row in db.execute(query, (medium_id,))]
    markers = {
        row[0]: OwnedMarker(_marker([row[0], row[1], row[3], row[4], row[5], row[6], json.loads(row[7])]), row[2])
        for row in rows
    }
    rejected = db.execute("SELECT tag_id FROM rejected_tags WHERE kind = ? AND medium_id = ?", medium)
    return Record(
        {tag: OwnedTag(tag, run, Role(role)) for tag, run, role in tags.fetchall()},
        markers,
        frozenset(row[0] for row in rejected),
        tuple(spans),
    )


def _origins(db: sqlite3.Connection, marker_ids: Collection[str]) -> dict[str, OwnedMarker]:
    found: dict[str, OwnedMarker] = {}
    columns = "marker_id, scene_id, title, start_ms, end_ms, primary_tag_id, tag_ids, run_id"
    created = "SELECT marker, owner_run FROM effects WHERE object_id = ? AND change = 'marker_created' ORDER BY id DESC"
    for marker_id in marker_ids:
        row = db.execute(f"SELECT {columns} FROM owned_markers WHERE marker_id = ?", (marker_id,)).fetchone()  # nosec B608 # names of our own; values are parameters
        if row is not None:
            found[marker_id] = OwnedMarker(_marker([*row[:6], json.loads(row[6])]), row[7])
        elif (row := db.execute(created, (marker_id,)).fetchone()) is not None and row[0]:
            found[marker_id] = OwnedMarker(_marker(json.loads(row[0])), row[1])
    return found


def _note(db: sqlite3.Connection, kind: Kind, medium_id: str, findings: Findings, at: float) -> None:
    for tag in findings.rejected_tags | findings.dropped_tags:
        db.execute(
            "DELETE FROM owned_tags WHERE kind = ? AND medium_id = ? AND tag_id = ?", (kind.value, medium_id, tag)
        )
    db.executemany(
        "INSERT OR IGNORE INTO rejected_tags (kind, medium_id, tag_id, noticed_at) VALUES (?, ?, ?, ?)",
        [(kind.value, medium_id, tag, at) for tag in findings.rejected_tags],
    )
    db.executemany("DELETE FROM owned_markers WHERE marker_id = ?", [(i,) for i in findings.released_markers])
    db.executemany(
        "INSERT OR IGNORE INTO rejected_spans (scene_id, tag_id, start_ms, end_ms, noticed_at) VALUES (?, ?, ?, ?, ?)",
        [(medium_id, span.tag_id, span.start_ms, span.end_ms, at) for span in findings.rejected_spans],
    )
    insert(db, [replace(correction, at=at) for correction in findings.corrections])
    for marker in findings.adopted:
        (run,) = db.execute("SELECT run_id FROM owned_markers WHERE marker_id = ?", (marker.id,)).fetchone() or (0,)
        _own_marker(db, marker, run)
        # the way back starts where the marker stands now
        db.execute(
            "UPDATE effects SET medium_id = ? WHERE object_id = ? AND change IN ('marker_created', 'marker_removed')",
            (marker.scene_id, marker.id),
        )


def _finish(db: sqlite3.Connection, plan: OpenPlan, step_id: int, done: Done) -> None:
    medium = (plan.kind.value, plan.medium_id)
    own = "INSERT OR REPLACE INTO owned_tags (kind, medium_id, tag_id, run_id, role) VALUES (?, ?, ?, ?, ?)"
    disown = "DELETE FROM owned_tags WHERE kind = ? AND medium_id = ? AND tag_id = ?"
    changes: list[tuple[Change, str, int, Role, Marker | None]] = []
    for tag in done.added:
        if tag.role is not Role.THEIRS:
            db.execute(own, (*medium, tag.tag_id, tag.run_id, tag.role.value))
        changes.append((Change.TAG_ADDED, tag.tag_id, tag.run_id, tag.role, None))
    for tag in done.removed:
        db.execute(disown, (*medium, tag.tag_id))
        changes.append((Change.TAG_REMOVED, tag.tag_id, tag.run_id, tag.role, None))
    for new, marker in done.created:
        if new.run_id:  # else it is the user's, and comes back as such
            _own_marker(db, marker, new.run_id)
        if new.restores:
            db.execute(
                "UPDATE effects SET object_id = ?"
                " WHERE object_id = ? AND change IN ('marker_created', 'marker_removed')",
                (marker.id, new.restores),
            )
        changes.append((Change.MARKER_CREATED, marker.id, new.run_id, Role.RESULT, marker))
    for owned in done.destroyed:
        db.execute("DELETE FROM owned_markers WHERE marker_id = ?", (owned.marker.id,))
        role = Role.RESULT if owned.run_id else Role.THEIRS
        changes.append((Change.MARKER_REMOVED, owned.marker.id, owned.run_id, role, owned.marker))
    if plan.purpose == "apply":
        db.executemany(
            "INSERT INTO effects (run_id, kind, medium_id, change, object_id, owner_run, role, marker)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (plan.run_id, *medium, change.value, what, owner, role.value, json.dumps(_values(m)) if m else None)
                for change, what, owner, role, m in changes
            ],
        )
    db.execute("UPDATE steps SET state = 'done' WHERE id = ?", (step_id,))


def _own_marker(db: sqlite3.Connection, marker: Marker, run_id: int) -> None:
    db.execute(
        "INSERT OR REPLACE INTO owned_markers"
        " (marker_id, scene_id, title, start_ms, end_ms, primary_tag_id, tag_ids, run_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*_values(marker)[:6], json.dumps(list(marker.tag_ids)), run_id),
    )


# --- JSON -----------------------------------------------------------------------------------------------------


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _values(marker: Marker) -> list[Any]:
    return [
        marker.id,
        marker.scene_id,
        marker.title,
        marker.start_ms,
        marker.end_ms,
        marker.primary_tag_id,
        list(marker.tag_ids),
    ]


def _marker(values: Sequence[Any]) -> Marker:
    marker_id, scene_id, title, start_ms, end_ms, primary_tag_id, tag_ids = values
    return Marker(marker_id, scene_id, title, start_ms, end_ms, primary_tag_id, tuple(tag_ids))


def _step(body: str) -> Step:
    data = json.loads(body)
    return Step(
        Action(data["action"]),
        tuple(OwnedTag(t["tag_id"], t["run_id"], Role(t["role"])) for t in data["tags"]),
        tuple(NewMarker(draft_from(n["draft"]), n["run_id"], n["restores"]) for n in data["new"]),
        tuple(OwnedMarker(_marker(list(o["marker"].values())), o["run_id"]) for o in data["old"]),
        frozenset(data["standing"]),
    )


def draft_from(data: dict[str, Any]) -> MarkerDraft:
    """A draft from its fields as JSON has them."""
    return MarkerDraft(**{**data, "tag_ids": tuple(data["tag_ids"])})
