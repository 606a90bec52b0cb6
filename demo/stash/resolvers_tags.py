"""Mutations of tags, with the checks on names and on the hierarchy."""

from __future__ import annotations

from typing import Any

from demo.stash.backend import Fields, Info, call_of, store_of
from demo.stash.changing import Link, change_ids, changed_list, ids_of, told, trimmed
from demo.stash.criteria import as_int
from demo.stash.store import Row, StashError, Store, marks

PARENTS = Link("tags_relations", "child_id", "parent_id")
CHILDREN = Link("tags_relations", "parent_id", "child_id")


def _row(store: Store, tag_id: int) -> Row | None:
    return store.one("SELECT * FROM tags WHERE id = ?", tag_id)


def _known(store: Store, tag_id: int) -> Row:
    found = _row(store, tag_id)
    if found is None:
        raise StashError(f"tag with id {tag_id} not found")
    return found


def check_name(store: Store, name: str, own_id: int) -> None:
    """A name must match no other tag's name or alias; matching is LIKE, so `_` and `%` are wildcards.

    Raises:
        StashError: with the text that clients look for.
    """
    order = "ORDER BY COALESCE(NULLIF(tags.sort_name, ''), tags.name) COLLATE NATURAL_CI LIMIT 1"
    same = store.one(f"SELECT id, name FROM tags WHERE name LIKE ? {order}", name)
    if same and same["id"] != own_id:
        raise StashError(f"tag with name '{name}' already exists")
    other = store.one(
        f"SELECT id, name FROM tags WHERE id IN (SELECT tag_id FROM tag_aliases WHERE alias LIKE ?) {order}", name
    )
    if other and other["id"] != own_id:
        raise StashError(f"name '{name}' is used as alias for '{other['name']}'")


def lineage(store: Store, tag_id: int, link: Link) -> dict[int, str]:
    """The tag and all its ancestors (or descendants), each with the path from the upper to the lower."""
    start = _row(store, tag_id)
    if start is None:
        return {}
    found = {tag_id: start["name"]}
    level = [tag_id]
    while level:
        rows = store.all(
            f"SELECT t.id, t.name, r.{link.key} AS via FROM tags_relations r JOIN tags t ON t.id = r.{link.foreign}"
            f" WHERE r.{link.key} IN {marks(level)}",
            *level,
        )
        level = []
        for row in rows:
            if row["id"] not in found:
                way = [found[row["via"]], row["name"]]
                found[row["id"]] = "->".join(way if link is CHILDREN else way[::-1])
                level.append(row["id"])
    return found


def check_hierarchy(store: Store, tag: Row | None, parents: list[int], children: list[int]) -> None:
    """No tag may become its own ancestor.

    Raises:
        StashError: naming the tag that would close the circle.
    """
    ancestors: dict[int, str] = {}
    descendants: dict[int, str] = {}
    for parent in [tag["id"]] if tag else parents:
        ancestors |= lineage(store, parent, PARENTS)
    for child in [tag["id"]] if tag else children:
        descendants |= lineage(store, child, CHILDREN)
    checks = [(parents, descendants, "parent", "a descendant"), (children, ancestors, "child", "an ancestor")]
    for wanted, forbidden, direction, relation in checks:
        for tag_id in wanted:
            if tag_id not in forbidden:
                continue
            name = _known(store, tag_id)["name"]
            if tag is None:
                raise StashError(f'cannot apply tag "{name}" as a {direction} of tag as it is already {relation}')
            raise StashError(
                f'cannot apply tag "{name}" as a {direction} of "{tag["name"]}" as it is already {relation}'
                f" ({forbidden[tag_id]})"
            )


def _set_aliases(store: Store, tag_id: int, aliases: list[str]) -> None:
    store.run("DELETE FROM tag_aliases WHERE tag_id = ?", tag_id)
    store.run_many("INSERT INTO tag_aliases (tag_id, alias) VALUES (?, ?)", [(tag_id, alias) for alias in aliases])


def _set_relatives(store: Store, tag_id: int, link: Link, ids: list[int]) -> None:
    change_ids(store, link, tag_id, {"ids": ids, "mode": "SET"})


def create(_root: Any, info: Info, input: Row) -> Row | None:
    store = store_of(info)
    with store.transaction():
        tag_id = create_tag(store, input)
    call_of(info).trigger(tag_id, "Tag.Create.Post", told(input), None)
    return _row(store, tag_id)


def create_tag(store: Store, given: Row) -> int:
    """Create a tag with all the checks; returns its id."""
    name = given["name"].strip()
    aliases = [alias.strip() for alias in given.get("aliases") or []]
    parents = ids_of(given.get("parent_ids"), "parent tag ids")
    children = ids_of(given.get("child_ids"), "child tag ids")
    if not name:
        raise StashError("tag name must not be blank")
    for wanted in [name, *aliases]:
        check_name(store, wanted, 0)
    if parents or children:
        check_hierarchy(store, None, parents, children)
    now = store.now()
    tag_id = store.insert(
        "tags",
        {
            "name": name,
            "sort_name": trimmed(given.get("sort_name")),
            "description": trimmed(given.get("description")),
            "favorite": int(given.get("favorite") or False),
            "ignore_auto_tag": int(given.get("ignore_auto_tag") or False),
            "created_at": now,
            "updated_at": now,
        },
    )
    _set_aliases(store, tag_id, aliases)
    _set_relatives(store, tag_id, PARENTS, parents)
    _set_relatives(store, tag_id, CHILDREN, children)
    return tag_id


def _change(store: Store, tag_id: int, given: Row, *, bulk: bool) -> None:
    tag = _known(store, tag_id)
    if "name" in given:
        name = (given["name"] or "").strip()
        if not name:
            raise StashError("tag name must not be blank")
        check_name(store, name, tag_id)
    aliases = _changed(store, given, "aliases", "SELECT alias FROM tag_aliases WHERE tag_id = ?", tag_id, bulk=bulk)
    if aliases is not None:
        aliases = [alias.strip() for alias in aliases]
        for alias in aliases:
            check_name(store, alias, tag_id)
    relatives: dict[str, list[int] | None] = {}
    for field, link in (("parent_ids", PARENTS), ("child_ids", CHILDREN)):
        sql = f"SELECT {link.foreign} FROM tags_relations WHERE {link.key} = ?"
        relatives[field] = _changed(store, given, field, sql, tag_id, bulk=bulk)
    if any(ids is not None for ids in relatives.values()):
        current = {
            "parent_ids": store.column("SELECT parent_id FROM tags_relations WHERE child_id = ?", tag_id),
            "child_ids": store.column("SELECT child_id FROM tags_relations WHERE parent_id = ?", tag_id),
        }
        wanted = {field: current[field] if ids is None else ids for field, ids in relatives.items()}
        check_hierarchy(store, tag, wanted["parent_ids"], wanted["child_ids"])
    columns: Row = {"updated_at": store.now()}
    columns |= {name: trimmed(given[name]) for name in ("name", "sort_name", "description") if name in given}
    columns |= {name: int(given[name]) for name in ("favorite", "ignore_auto_tag") if given.get(name) is not None}
    store.update("tags", tag_id, columns)
    if aliases is not None:
        _set_aliases(store, tag_id, aliases)
    for field, link in (("parent_ids", PARENTS), ("child_ids", CHILDREN)):
        if (ids := relatives[field]) is not None:
            _set_relatives(store, tag_id, link, ids)


def _changed(store: Store, given: Row, name: str, sql: str, tag_id: int, *, bulk: bool) -> list[Any] | None:
    """A list field after the change; None when it was not given."""
    if name not in given or given[name] is None:
        return None
    if not bulk:
        return list(given[name]) if name == "aliases" else ids_of(given[name])
    change = given[name]
    items = change.get("values") or [] if name == "aliases" else ids_of(change.get("ids"))
    return changed_list(store.column(sql, tag_id), change, list(items))


def update(_root: Any, info: Info, input: Row) -> Row | None:
    store = store_of(info)
    tag_id = as_int(input["id"])
    with store.transaction():
        _change(store, tag_id, input, bulk=False)
    call_of(info).trigger(tag_id, "Tag.Update.Post", told(input), list(input))
    return _row(store, tag_id)


def bulk_update(_root: Any, info: Info, input: Row) -> list[Row | None] | None:
    store = store_of(info)
    ids = ids_of(input.get("ids"))
    with store.transaction():
        for tag_id in ids:
            _change(store, tag_id, input, bulk=True)
    for tag_id in ids:
        call_of(info).trigger(tag_id, "Tag.Update.Post", told(input), list(input))
    return [_row(store, tag_id) for tag_id in ids] or None


def _destroy_one(store: Store, tag_id: int) -> None:
    if store.value("SELECT 1 FROM scene_markers WHERE primary_tag_id = ?", tag_id):
        raise StashError("cannot delete tag used as a primary tag in scene markers")
    if not store.run("DELETE FROM tags WHERE id = ?", tag_id):
        raise StashError(f"id {tag_id} does not exist in tags")


def _destroy(info: Info, ids: list[Any], given: Any) -> bool:
    store = store_of(info)
    tag_ids = ids_of(ids)
    with store.transaction():
        for tag_id in tag_ids:
            _destroy_one(store, tag_id)
    for tag_id in tag_ids:
        call_of(info).trigger(tag_id, "Tag.Destroy.Post", given, None)
    return True


def destroy_many(_root: Any, info: Info, ids: list[Any]) -> bool:
    return _destroy(info, ids, ids)


def destroy(_root: Any, info: Info, input: Row) -> bool:
    return _destroy(info, [input["id"]], input)


def merge(_root: Any, info: Info, input: Row) -> Row | None:
    """Everything that carried a source carries the destination; the sources' names become aliases."""
    store = store_of(info)
    sources, destination = ids_of(input["source"], "source ids"), as_int(input["destination"])
    if not sources:
        return None
    with store.transaction():
        tag = _known(store, destination)
        if destination in sources:
            raise StashError("cannot merge where source == destination")
        parents, children = _rolled_up(store, destination, sources)
        for table, key in (
            ("scenes_tags", "scene_id"),
            ("images_tags", "image_id"),
            ("galleries_tags", "gallery_id"),
            ("scene_markers_tags", "scene_marker_id"),
        ):
            store.run(
                f"INSERT OR IGNORE INTO {table} ({key}, tag_id) SELECT {key}, ? FROM {table}"
                f" WHERE tag_id IN {marks(sources)}",
                destination,
                *sources,
            )
            store.run(f"DELETE FROM {table} WHERE tag_id IN {marks(sources)}", *sources)
        sql = f"UPDATE scene_markers SET primary_tag_id = ? WHERE primary_tag_id IN {marks(sources)}"
        store.run(sql, destination, *sources)
        names = store.column(f"SELECT name FROM tags WHERE id IN {marks(sources)}", *sources)
        names += store.column(f"SELECT alias FROM tag_aliases WHERE tag_id IN {marks(sources)}", *sources)
        for source in sources:
            _destroy_one(store, source)
        store.run_many("INSERT INTO tag_aliases (tag_id, alias) VALUES (?, ?)", [(destination, name) for name in names])
        _set_relatives(store, destination, PARENTS, parents)
        _set_relatives(store, destination, CHILDREN, children)
        check_hierarchy(store, tag, parents, children)
    call_of(info).trigger(destination, "Tag.Merge.Post", told(input), None)
    return _row(store, destination)


def _rolled_up(store: Store, destination: int, sources: list[int]) -> tuple[list[int], list[int]]:
    everyone = [destination, *sources]
    found = []
    for own, other in (("child_id", "parent_id"), ("parent_id", "child_id")):
        ids = store.column(f"SELECT {other} FROM tags_relations WHERE {own} IN {marks(everyone)}", *everyone)
        found.append([tag_id for tag_id in dict.fromkeys(ids) if tag_id not in everyone])
    return found[0], found[1]


FIELDS: Fields = {
    "Mutation": {
        "tagCreate": create,
        "tagUpdate": update,
        "bulkTagUpdate": bulk_update,
        "tagDestroy": destroy,
        "tagsDestroy": destroy_many,
        "tagsMerge": merge,
    }
}
