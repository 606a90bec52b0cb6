"""One table of criteria, searched columns and sorts for each kind of object."""

from __future__ import annotations

from collections.abc import Callable

from demo.stash.criteria import (
    GALLERIES,
    IMAGES,
    SCENES,
    Condition,
    Conditions,
    Handler,
    Media,
    as_int,
    chosen,
    combined,
    counted,
    flag,
    joined,
    missing,
    moment,
    number,
    text,
    where,
)
from demo.stash.file_criteria import duration, fingerprint, of_file, path, resolution
from demo.stash.queries import Kind
from demo.stash.store import Row, Store, marks
from demo.stash.studio_criteria import aliases as studio_aliases
from demo.stash.studio_criteria import made_by
from demo.stash.tag_criteria import aliases, marker_tagged, relatives, tagged


def _related(join_table: str, join_key: str, foreign_key: str, outer: str, kind: Callable[[], Kind]) -> Handler:
    """A filter on related objects: at least one related object meets it."""

    def handle(store: Store, given: Row) -> Conditions:
        inner = kind().conditions(store, given)
        if not inner:
            return []
        condition = where(inner)
        table = kind().table
        sql = (
            f"EXISTS (SELECT 1 FROM {join_table} r WHERE r.{join_key} = {outer} AND r.{foreign_key} IN"
            f" ({chosen(table, condition)}))"
        )
        return [Condition(sql, condition.params)]

    return handle


def _any_marker(store: Store, given: Row) -> Conditions:
    """As in Stash, the join is not tied to the scene: one matching marker anywhere makes every scene match."""
    inner = MARKERS.conditions(store, given)
    if not inner:
        return []
    condition = where(inner)
    return [Condition(f"EXISTS ({chosen('scene_markers', condition)})", condition.params)]


def _has_markers(_store: Store, given: str) -> Conditions:
    negated = "" if given == "true" else "NOT "
    return [Condition(f"{negated}EXISTS (SELECT 1 FROM scene_markers m WHERE m.scene_id = scenes.id)")]


def _is_zip(_store: Store, given: bool) -> Conditions:
    return [
        Condition(
            ("" if given else "NOT ") + "EXISTS (SELECT 1 FROM galleries_files z WHERE z.gallery_id = galleries.id)"
        )
    ]


def _marker_scenes(_store: Store, given: Row) -> Conditions:
    values = [as_int(value) for value in given.get("value") or []]
    match given["modifier"]:
        case "IS_NULL":
            return [Condition("0")]
        case "NOT_NULL":
            return []
    if not values:
        return []
    if given["modifier"] not in {"INCLUDES", "INCLUDES_ALL", "EXCLUDES"}:
        return []
    if given["modifier"] == "INCLUDES_ALL" and len(set(values)) > 1:
        return [Condition("0")]
    negated = "NOT " if given["modifier"] == "EXCLUDES" else ""
    return [Condition(f"scene_markers.scene_id {negated}IN {marks(values)}", tuple(values))]


def _marker_scene_filter(store: Store, given: Row) -> Conditions:
    inner = SCENE_KIND.conditions(store, given)
    if not inner:
        return []
    condition = where(inner)
    return [Condition(f"scene_markers.scene_id IN ({chosen('scenes', condition)})", condition.params)]


def _files_filter(media: Media) -> Handler:
    handlers: dict[str, Handler] = {
        "path": text("files.path"),
        "basename": text("files.basename"),
        "dir": text("(SELECT path FROM folders d WHERE d.id = files.parent_folder_id)"),
        "mod_time": moment("files.mod_time"),
        "created_at": moment("files.created_at"),
        "updated_at": moment("files.updated_at"),
        "zip_file": joined("files", "id", "zip_file_id", "files.id"),
        "hashes": _hashes,
    }

    def handle(store: Store, given: Row) -> Conditions:
        inner = combined(store, given, handlers)
        return of_file(media, lambda _given: where(inner))(store, given) if inner else []

    return handle


def _hashes(_store: Store, given: list[Row]) -> Conditions:
    rows = "SELECT 1 FROM files_fingerprints fp WHERE fp.file_id = files.id AND fp.type = ? AND fp.fingerprint = ?"
    return [Condition(f"EXISTS ({rows})", (item["type"], item["value"])) for item in given]


def _file_joins(media: Media) -> str:
    return (
        f"LEFT JOIN {media.files} sf ON sf.{media.key} = {media.table}.id LEFT JOIN files ON files.id = sf.file_id"
        " LEFT JOIN files_fingerprints fp ON fp.file_id = files.id"
    )


def _primary(media: Media, expression: str) -> str:
    return (
        f"(SELECT {expression} FROM files JOIN {media.files} sf ON sf.file_id = files.id"
        f" WHERE sf.{media.key} = {media.table}.id ORDER BY sf.is_primary DESC LIMIT 1)"
    )


def _media_sorts(media: Media) -> dict[str, str]:
    table = media.table
    return {
        "id": f"{table}.id",
        "created_at": f"{table}.created_at",
        "updated_at": f"{table}.updated_at",
        "date": f"{table}.date",
        "rating": f"{table}.rating100",
        "title": f"COALESCE(NULLIF({table}.title, ''), {_primary(media, 'files.basename')}) COLLATE NATURAL_CI",
        "path": f"{_primary(media, 'files.path')} COLLATE NATURAL_CI",
        "file_count": f"(SELECT COUNT(*) FROM {media.files} n WHERE n.{media.key} = {table}.id)",
        "tag_count": f"(SELECT COUNT(*) FROM {media.tags} n WHERE n.{media.key} = {table}.id)",
        "performer_count": f"(SELECT COUNT(*) FROM {table}_performers n WHERE n.{media.key} = {table}.id)",
        "file_mod_time": _primary(media, "files.mod_time"),
        "filesize": _primary(media, "files.size"),
    }


def _media_handlers(media: Media) -> dict[str, Handler]:
    table = media.table
    return {
        "id": number(f"{table}.id"),
        "title": text(f"{table}.title"),
        "code": text(f"{table}.code"),
        "details": text(f"{table}.details"),
        "date": moment(f"{table}.date"),
        "rating100": number(f"{table}.rating100"),
        "organized": flag(f"{table}.organized"),
        "path": path(media),
        "checksum": fingerprint(media, "md5"),
        "file_count": counted(media.files, media.key, table),
        "tags": tagged(media.tags, media.key, f"{table}.id"),
        "tag_count": counted(media.tags, media.key, table),
        "studios": made_by(table),
        "created_at": moment(f"{table}.created_at"),
        "updated_at": moment(f"{table}.updated_at"),
        "tags_filter": _related(media.tags, media.key, "tag_id", f"{table}.id", lambda: TAG_KIND),
        "files_filter": _files_filter(media),
        "is_missing": missing(
            table,
            {
                "tags": f"NOT EXISTS (SELECT 1 FROM {media.tags} m WHERE m.{media.key} = {table}.id)",
                "studio": f"{table}.studio_id IS NULL",
            },
        ),
    }


UNKEPT_SORTS = [
    "interactive",
    "interactive_speed",
    "group_scene_number",
    "movie_scene_number",
    "last_o_at",
    "last_played_at",
    "o_counter",
    "play_count",
    "perceptual_similarity",
    "studio",
    "performer_age",
]
"""Sorts that are known but by which our scenes do not differ."""

SCENE_KIND: Kind = Kind(
    table="scenes",
    noun="scene",
    handlers=_media_handlers(SCENES)
    | {
        "director": text("scenes.director"),
        "oshash": fingerprint(SCENES, "oshash"),
        "duration": duration(SCENES),
        "resolution": resolution(SCENES),
        "has_markers": _has_markers,
        "galleries": joined("scenes_galleries", "scene_id", "gallery_id", "scenes.id"),
        "galleries_filter": _related("scenes_galleries", "scene_id", "gallery_id", "scenes.id", lambda: GALLERY_KIND),
        "markers_filter": _any_marker,
    },
    searched=["scenes.title", "scenes.details", "files.path", "fp.fingerprint", "sm.title"],
    search_joins=_file_joins(SCENES) + " LEFT JOIN scene_markers sm ON sm.scene_id = scenes.id",
    sorts=_media_sorts(SCENES)
    | {
        "code": "scenes.code",
        "organized": "scenes.organized",
        "duration": _primary(SCENES, "files.duration"),
        "bitrate": _primary(SCENES, "files.bit_rate"),
        "framerate": _primary(SCENES, "files.frame_rate"),
        "play_duration": "scenes.play_duration",
        "resume_time": "scenes.resume_time",
        **dict.fromkeys(UNKEPT_SORTS, "0"),
    },
    default_sort=None,
    tie_break="COALESCE(scenes.title, scenes.id) COLLATE NATURAL_CI ASC",
)

IMAGE_KIND: Kind = Kind(
    table="images",
    noun="image",
    handlers=_media_handlers(IMAGES)
    | {
        "photographer": text("images.photographer"),
        "is_missing": missing(
            "images",
            {
                "tags": "NOT EXISTS (SELECT 1 FROM images_tags m WHERE m.image_id = images.id)",
                "galleries": "NOT EXISTS (SELECT 1 FROM galleries_images m WHERE m.image_id = images.id)",
                "studio": "images.studio_id IS NULL",
            },
        ),
        "resolution": resolution(IMAGES),
        "galleries": joined("galleries_images", "image_id", "gallery_id", "images.id"),
        "galleries_filter": _related("galleries_images", "image_id", "gallery_id", "images.id", lambda: GALLERY_KIND),
    },
    searched=["images.title", "files.path", "fp.fingerprint"],
    search_joins=_file_joins(IMAGES),
    sorts=_media_sorts(IMAGES) | {"o_counter": "images.o_counter"},
    default_sort=None,
    tie_break="COALESCE(images.title, images.id) COLLATE NATURAL_CI ASC",
)

GALLERY_KIND: Kind = Kind(
    table="galleries",
    noun="gallery",
    handlers=_media_handlers(GALLERIES)
    | {
        "photographer": text("galleries.photographer"),
        "is_zip": _is_zip,
        "scenes": joined("scenes_galleries", "gallery_id", "scene_id", "galleries.id"),
        "image_count": counted("galleries_images", "gallery_id", "galleries"),
        "scenes_filter": _related("scenes_galleries", "gallery_id", "scene_id", "galleries.id", lambda: SCENE_KIND),
        "images_filter": _related("galleries_images", "gallery_id", "image_id", "galleries.id", lambda: IMAGE_KIND),
    },
    searched=["galleries.title", "gf.path", "files.path", "fp.fingerprint"],
    search_joins=_file_joins(GALLERIES) + " LEFT JOIN folders gf ON gf.id = galleries.folder_id",
    sorts={name: sql for name, sql in _media_sorts(GALLERIES).items() if name not in {"filesize", "resolution"}}
    | {"images_count": "(SELECT COUNT(*) FROM galleries_images n WHERE n.gallery_id = galleries.id)"},
    default_sort=None,
    tie_break="COALESCE(galleries.title, galleries.id) COLLATE NATURAL_CI ASC",
)

MARKERS: Kind = Kind(
    table="scene_markers",
    noun="scene marker",
    handlers={
        "tags": marker_tagged,
        "scene_tags": tagged("scenes_tags", "scene_id", "scene_markers.scene_id"),
        "scenes": _marker_scenes,
        "duration": number("(scene_markers.end_seconds - scene_markers.seconds)"),
        "created_at": moment("scene_markers.created_at"),
        "updated_at": moment("scene_markers.updated_at"),
        "scene_created_at": moment("(SELECT created_at FROM scenes s WHERE s.id = scene_markers.scene_id)"),
        "scene_updated_at": moment("(SELECT updated_at FROM scenes s WHERE s.id = scene_markers.scene_id)"),
        "scene_filter": _marker_scene_filter,
    },
    searched=["scene_markers.title", "ms.title", "mt.name"],
    search_joins="JOIN scenes ms ON ms.id = scene_markers.scene_id"
    " JOIN tags mt ON mt.id = scene_markers.primary_tag_id",
    sorts={
        "id": "scene_markers.id",
        "created_at": "scene_markers.created_at",
        "updated_at": "scene_markers.updated_at",
        "scene_id": "scene_markers.scene_id",
        "seconds": "scene_markers.seconds",
        "duration": "(scene_markers.end_seconds - scene_markers.seconds)",
        "scenes_updated_at": "(SELECT updated_at FROM scenes s WHERE s.id = scene_markers.scene_id)",
        "title": "COALESCE(NULLIF(scene_markers.title, ''), (SELECT name FROM tags t"
        " WHERE t.id = scene_markers.primary_tag_id)) COLLATE NATURAL_CI",
    },
    default_sort="title",
    tie_break="scene_markers.scene_id ASC, scene_markers.seconds ASC",
)

_MARKER_COUNT = (
    "(SELECT COUNT(*) FROM scene_markers m WHERE m.primary_tag_id = tags.id)"
    " + (SELECT COUNT(*) FROM scene_markers_tags m WHERE m.tag_id = tags.id)"
)

TAG_KIND: Kind = Kind(
    table="tags",
    noun="tag",
    handlers={
        "name": text("tags.name"),
        "sort_name": text("tags.sort_name"),
        "aliases": aliases,
        "description": text("tags.description"),
        "favorite": flag("tags.favorite"),
        "ignore_auto_tag": flag("tags.ignore_auto_tag"),
        "is_missing": missing("tags", {"image": "1"}),
        "scene_count": counted("scenes_tags", "tag_id", "tags"),
        "image_count": counted("images_tags", "tag_id", "tags"),
        "gallery_count": counted("galleries_tags", "tag_id", "tags"),
        "marker_count": number(f"({_MARKER_COUNT})"),
        "parents": relatives("child_id", "parent_id"),
        "children": relatives("parent_id", "child_id"),
        "parent_count": counted("tags_relations", "child_id", "tags"),
        "child_count": counted("tags_relations", "parent_id", "tags"),
        "created_at": moment("tags.created_at"),
        "updated_at": moment("tags.updated_at"),
        "scenes_filter": _related("scenes_tags", "tag_id", "scene_id", "tags.id", lambda: SCENE_KIND),
        "images_filter": _related("images_tags", "tag_id", "image_id", "tags.id", lambda: IMAGE_KIND),
        "galleries_filter": _related("galleries_tags", "tag_id", "gallery_id", "tags.id", lambda: GALLERY_KIND),
    },
    searched=["tags.name", "ta.alias"],
    search_joins="LEFT JOIN tag_aliases ta ON ta.tag_id = tags.id",
    sorts={
        "id": "tags.id",
        "created_at": "tags.created_at",
        "updated_at": "tags.updated_at",
        "name": "COALESCE(NULLIF(tags.sort_name, ''), tags.name) COLLATE NATURAL_CI",
        "scenes_count": "(SELECT COUNT(*) FROM scenes_tags n WHERE n.tag_id = tags.id)",
        "images_count": "(SELECT COUNT(*) FROM images_tags n WHERE n.tag_id = tags.id)",
        "galleries_count": "(SELECT COUNT(*) FROM galleries_tags n WHERE n.tag_id = tags.id)",
        "scene_markers_count": _MARKER_COUNT,
        **dict.fromkeys(["groups_count", "movies_count", "studios_count", "performers_count", "scenes_duration"], "0"),
    },
    default_sort="name",
    tie_break="COALESCE(tags.sort_name, tags.name, tags.id) COLLATE NATURAL_CI ASC",
)

STUDIO_KIND: Kind = Kind(
    table="studios",
    noun="studio",
    handlers={
        "name": text("studios.name"),
        "aliases": studio_aliases,
        "created_at": moment("studios.created_at"),
        "updated_at": moment("studios.updated_at"),
    },
    searched=["studios.name", "sa.alias"],
    search_joins="LEFT JOIN studio_aliases sa ON sa.studio_id = studios.id",
    sorts={
        "id": "studios.id",
        "created_at": "studios.created_at",
        "updated_at": "studios.updated_at",
        "name": "studios.name COLLATE NATURAL_CI",
        "scenes_count": "(SELECT COUNT(*) FROM scenes n WHERE n.studio_id = studios.id)",
        "images_count": "(SELECT COUNT(*) FROM images n WHERE n.studio_id = studios.id)",
        "galleries_count": "(SELECT COUNT(*) FROM galleries n WHERE n.studio_id = studios.id)",
        "child_count": "(SELECT COUNT(*) FROM studios n WHERE n.parent_id = studios.id)",
        **dict.fromkeys(["scenes_duration", "rating", "tag_count"], "0"),
    },
    default_sort="name",
    tie_break="COALESCE(studios.name, studios.id) COLLATE NATURAL_CI ASC",
)
