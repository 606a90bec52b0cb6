"""Queries over the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demo.stash.backend import Fields, Info, Resolver, store_of
from demo.stash.changing import ids_of
from demo.stash.criteria import IMAGES, SCENES, Media, as_int
from demo.stash.filters import GALLERY_KIND, IMAGE_KIND, MARKERS, SCENE_KIND, TAG_KIND
from demo.stash.queries import Kind, Query
from demo.stash.resolvers_objects import markers_of, streams
from demo.stash.store import Row, StashError, Store, marks

# ---- queries ----


def by_ids(store: Store, kind: Kind, ids: list[Any]) -> list[Row]:
    """Rows in the order asked for.

    Raises:
        StashError: an id twice, or one that does not exist.
    """
    if len(set(ids)) != len(ids):
        twice = next(value for index, value in enumerate(ids) if value in ids[:index])
        raise StashError(f"validating ids: duplicate id found: {twice}")
    wanted = ids_of(ids)
    found = {row["id"]: row for row in store.all(f"SELECT * FROM {kind.table} WHERE id IN {marks(wanted)}", *wanted)}
    for value in wanted:
        if value not in found:
            raise StashError(f"{kind.noun} with id {value} not found")
    return [found[value] for value in wanted]


def finder(kind: Kind, field: str, filter_name: str, old_ids: str, media: Media | None) -> Resolver:
    """The resolver of a find query; counts and sums are worked out only when selected."""

    def resolve(_root: Any, info: Info, **given: Any) -> Row:
        store = store_of(info)
        ids = given.get("ids") or [str(value) for value in given.get(old_ids) or []]
        if ids:
            rows = by_ids(store, kind, ids)
            sums = _sums(store, media, [row["id"] for row in rows]) if media else {}
            return {"count": len(rows), field: rows} | sums
        query = kind.query(store, given.get(filter_name), given.get("filter"))
        result: Row = {"count": lambda _info: query.count(), field: lambda _info: query.rows()}
        if media:
            for name in _SUMMED:
                result[name] = _lazy_total(query, _sum(media, name))
        return result

    return resolve


def _lazy_total(query: Query, expression: str) -> Callable[[Info], Any]:
    return lambda _info: query.total(expression)


_SUMMED = {
    "duration": "COALESCE(files.duration, 0)",
    "filesize": "files.size",
    "megapixels": "COALESCE(files.width * files.height, 0) / 1000000",  # whole megapixels of each, as in Stash
}


def _sum(media: Media, name: str) -> str:
    """SQL of a sum over the primary files."""
    return (
        f"SUM((SELECT {_SUMMED[name]} FROM files JOIN {media.files} sf ON sf.file_id = files.id"
        f" WHERE sf.{media.key} = {media.table}.id ORDER BY sf.is_primary DESC LIMIT 1))"
    )


def _sums(store: Store, media: Media, ids: list[int]) -> Row:
    where = f"FROM {media.table} WHERE id IN {marks(ids)}"
    sums = {name: store.value(f"SELECT {_sum(media, name)} {where}", *ids) or 0 for name in _SUMMED}
    pixels = _sum(media, "megapixels").replace("/ 1000000", "/ 1000000.0")
    return sums | {"megapixels": store.value(f"SELECT {pixels} {where}", *ids) or 0}


def find_one(kind: Kind, media: Media | None) -> Resolver:
    def resolve(_root: Any, info: Info, id: str | None = None, checksum: str | None = None) -> Row | None:
        store = store_of(info)
        if id is not None:
            return store.one(f"SELECT * FROM {kind.table} WHERE id = ?", as_int(id))
        if checksum is not None and media:
            return _by_fingerprint(store, media, "md5", checksum)
        return None

    return resolve


def _by_fingerprint(store: Store, media: Media, kind: str, value: str) -> Row | None:
    return store.one(
        f"SELECT m.* FROM {media.table} m JOIN {media.files} mf ON mf.{media.key} = m.id"
        " JOIN files_fingerprints fp ON fp.file_id = mf.file_id WHERE fp.type = ? AND fp.fingerprint = ?",
        kind,
        value,
    )


def find_scene_by_hash(_root: Any, info: Info, input: Row) -> Row | None:
    for name, kind in (("checksum", "md5"), ("oshash", "oshash")):
        if input.get(name) and (found := _by_fingerprint(store_of(info), SCENES, kind, input[name])):
            return found
    return None


def scene_streams(_root: Any, info: Info, id: str | None = None) -> list[Row]:
    scene = store_of(info).one("SELECT * FROM scenes WHERE id = ?", as_int(id))
    if scene is None:
        raise StashError(f"scene with id {id} not found")
    return streams(scene, info)


def scene_marker_tags(_root: Any, info: Info, scene_id: str) -> list[Row]:
    store = store_of(info)
    markers = markers_of(store, as_int(scene_id))
    grouped: dict[int, list[Row]] = {}
    for marker in markers:
        grouped.setdefault(marker["primary_tag_id"], []).append(marker)
    return [
        {"tag": store.one("SELECT * FROM tags WHERE id = ?", tag_id), "scene_markers": found}
        for tag_id, found in grouped.items()
    ]


def all_tags(_root: Any, info: Info) -> list[Row]:
    return TAG_KIND.query(store_of(info), None, {"per_page": -1}).rows()


def stats(_root: Any, info: Info) -> Row:
    store = store_of(info)
    sums = {
        table: store.one(
            f"SELECT COALESCE(SUM(size), 0) AS size, COALESCE(SUM(duration), 0) AS duration FROM files"
            f" WHERE id IN (SELECT file_id FROM {table}_files)"
        )
        or {}
        for table in ("scenes", "images")
    }
    count = {t: store.value(f"SELECT COUNT(*) FROM {t}") for t in ("scenes", "images", "galleries", "tags")}
    return {
        "scene_count": count["scenes"],
        "scenes_size": sums["scenes"]["size"],
        "scenes_duration": sums["scenes"]["duration"],
        "image_count": count["images"],
        "images_size": sums["images"]["size"],
        "gallery_count": count["galleries"],
        "tag_count": count["tags"],
    }


FIELDS: Fields = {
    "Query": {
        "findScene": find_one(SCENE_KIND, SCENES),
        "findSceneByHash": find_scene_by_hash,
        "findScenes": finder(SCENE_KIND, "scenes", "scene_filter", "scene_ids", SCENES),
        "sceneStreams": scene_streams,
        "findSceneMarkers": finder(MARKERS, "scene_markers", "scene_marker_filter", "", None),
        "sceneMarkerTags": scene_marker_tags,
        "findImage": find_one(IMAGE_KIND, IMAGES),
        "findImages": finder(IMAGE_KIND, "images", "image_filter", "image_ids", IMAGES),
        "findGallery": find_one(GALLERY_KIND, None),
        "findGalleries": finder(GALLERY_KIND, "galleries", "gallery_filter", "", None),
        "findTag": find_one(TAG_KIND, None),
        "findTags": finder(TAG_KIND, "tags", "tag_filter", "", None),
        "allTags": all_tags,
        "stats": stats,
    },
}
