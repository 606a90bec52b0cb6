"""What the update mutations share: columns, urls, and lists of ids that are set, added to or removed from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from demo.stash.criteria import as_int
from demo.stash.store import Row, StashError, Store

DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
"""A year, a month or a day."""


@dataclass(frozen=True, slots=True)
class Link:
    """A list of ids kept in a join table."""

    table: str
    key: str
    """Column of the object itself."""
    foreign: str
    """Column of what it points to."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind of object is written."""

    table: str
    noun: str
    texts: tuple[str, ...]
    """Columns whose text is trimmed, and empty text kept as NULL."""
    values: tuple[str, ...]
    url_table: str
    url_key: str
    links: dict[str, Link] = field(default_factory=dict)
    """Input field to join table."""
    bulk_missing: str = ""
    """Error of a bulk update for an unknown id; empty = what SQLite or the driver happens to say."""


def update(store: Store, shape: Shape, object_id: int, given: Row, *, bulk: bool) -> None:
    """Apply one update input to one object; `updated_at` moves whatever was given.

    Raises:
        StashError: the object or something it should point to does not exist.
    """
    if shape.bulk_missing and bulk and not exists(store, shape.table, object_id):
        raise StashError(shape.bulk_missing.format(object_id))
    columns: Row = {"updated_at": store.now()}
    columns |= {name: trimmed(given[name]) for name in shape.texts if name in given}
    columns |= {name: given[name] for name in shape.values if name in given}
    if "organized" in columns and columns["organized"] is None:
        raise StashError("Internal system error. Error <null value not allowed in optional bool>")
    if columns.get("date") is not None and not DATE.fullmatch(columns["date"]):
        raise StashError(f'converting date: failed to parse date "{columns["date"]}"')
    if "studio_id" in columns and columns["studio_id"] is not None:
        columns["studio_id"] = as_int(columns["studio_id"])
    try:
        store.update(shape.table, object_id, columns)
    except StashError as exc:
        raise StashError(f"updating {shape.table}: {exc}") from exc
    set_urls(store, shape, object_id, given, bulk=bulk)
    for name, link in shape.links.items():
        if name not in given:
            continue
        if bulk:
            change_ids(store, link, object_id, given[name])
        else:
            change_ids(store, link, object_id, {"ids": given[name] or [], "mode": "SET"})
    if not exists(store, shape.table, object_id):
        raise StashError("sql: no rows in result set")


def exists(store: Store, table: str, object_id: int) -> bool:
    return store.value(f"SELECT 1 FROM {table} WHERE id = ?", object_id) is not None


def trimmed(value: Any) -> Any:
    return (value.strip() or None) if isinstance(value, str) else value


def told(given: Row) -> Row:
    """An input as most hooks are told it: what is null is left out."""
    return {name: value for name, value in given.items() if value is not None}


def ids_of(given: list[Any] | None, what: str = "ids") -> list[int]:
    """Ids of an input list.

    Raises:
        StashError: one is not a number.
    """
    try:
        return [as_int(value) for value in given or []]
    except StashError as exc:
        raise StashError(f"converting {what}: {exc}") from exc


def one_id(value: Any, what: str = "id") -> int:
    try:
        return as_int(value)
    except StashError as exc:
        raise StashError(f"converting {what}: {exc}") from exc


def change_ids(store: Store, link: Link, object_id: int, change: Row | None) -> None:
    """SET, ADD to or REMOVE from a list of ids; ids that are already there, or not there, are passed over."""
    if change is None:
        return
    ids, mode = ids_of(change.get("ids"), link.foreign.replace("_", " ") + "s"), change["mode"]
    where = f"{link.table} WHERE {link.key} = ?"
    if mode == "REMOVE":
        for value in ids:
            store.run(f"DELETE FROM {where} AND {link.foreign} = ?", object_id, value)
        return
    if mode == "SET":
        store.run(f"DELETE FROM {where}", object_id)
    store.run_many(
        f"INSERT OR IGNORE INTO {link.table} ({link.key}, {link.foreign}) VALUES (?, ?)",
        [(object_id, value) for value in ids],
    )


def changed_list(current: list[Any], change: Row, items: list[Any]) -> list[Any]:
    """A list after SET, ADD or REMOVE, order kept, no value twice."""
    match change["mode"]:
        case "SET":
            return list(dict.fromkeys(items))
        case "ADD":
            return list(dict.fromkeys([*current, *items]))
    return [value for value in current if value not in items]


def set_urls(store: Store, shape: Shape, object_id: int, given: Row, *, bulk: bool) -> None:
    current = store.column(f"SELECT url FROM {shape.url_table} WHERE {shape.url_key} = ? ORDER BY position", object_id)
    if "urls" in given and bulk and given["urls"] is not None:
        wanted = changed_list(current, given["urls"], given["urls"].get("values") or [])
    elif "urls" in given:
        wanted = given["urls"] or []
    elif "url" in given:
        wanted = [given["url"]] if given["url"] else []
    else:
        return
    store.run(f"DELETE FROM {shape.url_table} WHERE {shape.url_key} = ?", object_id)
    store.run_many(
        f"INSERT INTO {shape.url_table} ({shape.url_key}, position, url) VALUES (?, ?, ?)",
        [(object_id, position, url) for position, url in enumerate(wanted)],
    )
