"""Mutations of scene markers."""

from __future__ import annotations

from typing import Any

from demo.stash.backend import Fields, Info, call_of, store_of
from demo.stash.changing import Link, change_ids, changed_list, exists, ids_of, one_id, told
from demo.stash.criteria import as_int
from demo.stash.resolvers_media import NIL
from demo.stash.store import Row, StashError, Store

TAGS = Link("scene_markers_tags", "scene_marker_id", "tag_id")


def _row(store: Store, marker_id: int) -> Row | None:
    return store.one("SELECT * FROM scene_markers WHERE id = ?", marker_id)


def _known(store: Store, marker_id: int) -> Row:
    found = _row(store, marker_id)
    if found is None:
        raise StashError(f"scene marker with id {marker_id} not found")
    return found


def check_end(start: float, end: float | None) -> None:
    if end is not None and end < start:
        raise StashError(f"end_seconds ({end:f}) must be greater than or equal to seconds ({start:f})")


def _write(store: Store, marker_id: int, columns: Row) -> None:
    try:
        store.update("scene_markers", marker_id, columns)
    except StashError as exc:
        raise StashError(f"updating scene_markers: {exc}") from exc


def _set_tags(store: Store, marker_id: int, tag_ids: list[int]) -> None:
    """The primary tag is never among the others; a tag given twice is refused."""
    primary = _known(store, marker_id)["primary_tag_id"]
    store.run("DELETE FROM scene_markers_tags WHERE scene_marker_id = ?", marker_id)
    store.run_many(
        "INSERT INTO scene_markers_tags (scene_marker_id, tag_id) VALUES (?, ?)",
        [(marker_id, tag) for tag in tag_ids if tag != primary],
    )


def create(_root: Any, info: Info, input: Row) -> Row | None:
    store = store_of(info)
    check_end(input["seconds"], input.get("end_seconds"))
    tag_ids = ids_of(input.get("tag_ids"), "tag ids")
    with store.transaction():
        now = store.now()
        marker_id = store.insert(
            "scene_markers",
            {
                "title": input["title"].strip(),
                "seconds": input["seconds"],
                "end_seconds": input.get("end_seconds"),
                "scene_id": one_id(input["scene_id"], "scene id"),
                "primary_tag_id": one_id(input["primary_tag_id"], "primary tag id"),
                "created_at": now,
                "updated_at": now,
            },
        )
        _set_tags(store, marker_id, tag_ids)
    call_of(info).trigger(marker_id, "SceneMarker.Create.Post", told(input), None)
    return _row(store, marker_id)


def update(_root: Any, info: Info, input: Row) -> Row | None:
    """Omitted = unchanged; `end_seconds: null` clears."""
    store = store_of(info)
    marker_id = as_int(input["id"])
    tag_ids = ids_of(input.get("tag_ids"), "tag ids")
    with store.transaction():
        existing = _known(store, marker_id)
        columns: Row = {"updated_at": store.now()}
        if "title" in input:
            columns["title"] = (input["title"] or "").strip()
        if "seconds" in input:
            if input["seconds"] is None:
                raise StashError("Internal system error. Error <null value not allowed in optional float64>")
            columns["seconds"] = input["seconds"]
        if "end_seconds" in input:
            columns["end_seconds"] = input["end_seconds"]
        for name in ("scene_id", "primary_tag_id"):
            if input.get(name) is not None:
                columns[name] = as_int(input[name])
        if "seconds" in columns or "end_seconds" in columns:
            after = existing | columns
            check_end(after["seconds"], after["end_seconds"])
        _write(store, marker_id, columns)
        if "tag_ids" in input:
            _set_tags(store, marker_id, tag_ids)
    call_of(info).trigger(marker_id, "SceneMarker.Update.Post", told(input), list(input))
    return _row(store, marker_id)


def bulk_update(_root: Any, info: Info, input: Row) -> list[Row | None] | None:
    """A tag list that would keep its length is left alone, as in Stash (it compares lengths only)."""
    store = store_of(info)
    ids = ids_of(input.get("ids"))
    with store.transaction():
        for marker_id in ids:
            existing = _row(store, marker_id)
            if existing is None and (input.get("tag_ids") or input.get("primary_tag_id")):
                raise StashError(f"Internal system error. Error <{NIL}>")
            if existing is None:
                raise StashError("sql: no rows in result set")
            columns: Row = {"updated_at": store.now()}
            if input.get("title") is not None:
                columns["title"] = input["title"].strip()
            if input.get("primary_tag_id") is not None:
                columns["primary_tag_id"] = as_int(input["primary_tag_id"])
            change = input.get("tag_ids")
            if change is not None or "primary_tag_id" in columns:
                current = store.column("SELECT tag_id FROM scene_markers_tags WHERE scene_marker_id = ?", marker_id)
                wanted = changed_list(current, change, ids_of(change.get("ids"), "tag ids")) if change else current
                primary = columns.get("primary_tag_id", existing["primary_tag_id"])
                wanted = [tag for tag in wanted if tag != primary]
                if len(wanted) != len(current):
                    change_ids(store, TAGS, marker_id, {"ids": wanted, "mode": "SET"})
            _write(store, marker_id, columns)
    for marker_id in ids:
        call_of(info).trigger(marker_id, "SceneMarker.Update.Post", told(input), list(input))
    return [_row(store, marker_id) for marker_id in ids] or None


def destroy_many(_root: Any, info: Info, ids: list[Any]) -> bool:
    store = store_of(info)
    marker_ids = ids_of(ids)
    with store.transaction():
        for marker_id in marker_ids:
            scene_id = _known(store, marker_id)["scene_id"]
            if not exists(store, "scenes", scene_id):
                raise StashError(f"scene with id {scene_id} not found")
            store.run("DELETE FROM scene_markers WHERE id = ?", marker_id)
    for marker_id in marker_ids:
        call_of(info).trigger(marker_id, "SceneMarker.Destroy.Post", ids, None)
    return True


def destroy(_root: Any, info: Info, id: Any) -> bool:
    return destroy_many(_root, info, [id])


FIELDS: Fields = {
    "Mutation": {
        "sceneMarkerCreate": create,
        "sceneMarkerUpdate": update,
        "bulkSceneMarkerUpdate": bulk_update,
        "sceneMarkerDestroy": destroy,
        "sceneMarkersDestroy": destroy_many,
    }
}
