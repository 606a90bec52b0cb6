"""Studios: found, created, and what they say about themselves."""

from __future__ import annotations

from typing import Any

from demo.stash.backend import Fields, Info, call_of, store_of
from demo.stash.changing import one_id, told
from demo.stash.filters import STUDIO_KIND
from demo.stash.resolvers_find import find_one, finder
from demo.stash.store import Row, StashError, Store

_ORDER = "ORDER BY studios.name COLLATE NATURAL_CI LIMIT 1"


def _check_name(store: Store, name: str) -> None:
    """Names and aliases of studios are one space, and compared with LIKE.

    Raises:
        StashError: with the text that clients look for.
    """
    if store.one(f"SELECT id FROM studios WHERE name LIKE ? {_ORDER}", name):
        raise StashError(f"studio with name '{name}' already exists")
    rows = "SELECT studio_id FROM studio_aliases WHERE alias LIKE ?"
    if other := store.one(f"SELECT name FROM studios WHERE id IN ({rows}) {_ORDER}", name):
        raise StashError(f"name '{name}' is used as alias for '{other['name']}'")


def create(_root: Any, info: Info, input: Row) -> Row | None:
    store = store_of(info)
    name = input["name"].strip()
    aliases = [alias.strip() for alias in input.get("aliases") or []]
    parent_id = None if input.get("parent_id") is None else one_id(input["parent_id"], "parent id")
    with store.transaction():
        if not name:
            raise StashError("studio name must not be blank")
        _check_name(store, name)
        for alias in aliases:
            if not alias:
                raise StashError("studio alias must not be an empty string")
            _check_name(store, alias)
        now = store.now()
        studio: Row = {"name": name, "parent_id": parent_id, "created_at": now, "updated_at": now}
        studio_id = store.insert("studios", studio)
        rows = [(studio_id, alias) for alias in aliases]
        store.run_many("INSERT INTO studio_aliases (studio_id, alias) VALUES (?, ?)", rows)
    call_of(info).trigger(studio_id, "Studio.Create.Post", told(input), None)
    return store.one("SELECT * FROM studios WHERE id = ?", studio_id)


def _aliases(source: Row, info: Info) -> list[str]:
    return store_of(info).column("SELECT alias FROM studio_aliases WHERE studio_id = ?", source["id"])


def _parent(source: Row, info: Info) -> Row | None:
    return store_of(info).one("SELECT * FROM studios WHERE id = ?", source["parent_id"])


def _children(source: Row, info: Info) -> list[Row]:
    return store_of(info).all("SELECT * FROM studios WHERE parent_id = ? ORDER BY id", source["id"])


FIELDS: Fields = {
    "Query": {
        "findStudio": find_one(STUDIO_KIND, None),
        "findStudios": finder(STUDIO_KIND, "studios", "studio_filter", "", None),
    },
    "Mutation": {"studioCreate": create},
    "Studio": {"aliases": _aliases, "parent_studio": _parent, "child_studios": _children},
}
