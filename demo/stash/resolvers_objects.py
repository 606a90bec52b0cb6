"""Fields of scenes, markers, images, galleries, tags and files."""

from __future__ import annotations

from datetime import datetime

from demo.stash.backend import Call, Fields, Info, Resolver, call_of, store_of
from demo.stash.criteria import GALLERIES, IMAGES, SCENES, Media
from demo.stash.store import Row, StashError, Store, marks
from demo.stash.tag_criteria import descendants

# ---- fields shared by scenes, images and galleries ----


def related(sql: str) -> Resolver:
    """Rows of a query whose only parameter is the object's id."""

    def resolve(source: Row, info: Info) -> list[Row]:
        return store_of(info).all(sql, source["id"])

    return resolve


def files_of(store: Store, media: Media, object_id: int, kinds: str = "") -> list[Row]:
    """The primary file first."""
    return store.all(
        f"SELECT files.* FROM files JOIN {media.files} mf ON mf.file_id = files.id"
        f" WHERE mf.{media.key} = ? {kinds} ORDER BY mf.is_primary DESC, files.id",
        object_id,
    )


def _files(media: Media, kinds: str = "") -> Resolver:
    return lambda source, info: files_of(store_of(info), media, source["id"], kinds)


def _urls(table: str, key: str) -> Resolver:
    def resolve(source: Row, info: Info) -> list[str]:
        return store_of(info).column(f"SELECT url FROM {table} WHERE {key} = ? ORDER BY position", source["id"])

    return resolve


def _first(many: Resolver) -> Resolver:
    return lambda source, info: next(iter(many(source, info)), None)


def _tags(media: Media) -> Resolver:
    return related(
        f"SELECT tags.* FROM tags JOIN {media.tags} j ON j.tag_id = tags.id WHERE j.{media.key} = ?"
        " ORDER BY COALESCE(NULLIF(tags.sort_name, ''), tags.name) COLLATE NATURAL_CI"
    )


def _text(name: str) -> Resolver:
    """A text that was never given reads as empty."""
    return lambda source, _info: source[name] or ""


def _common(media: Media, urls: str) -> dict[str, Resolver]:
    every_url = _urls(urls, media.key)
    return {
        "urls": every_url,
        "url": _first(every_url),
        "organized": lambda source, _info: bool(source["organized"]),
        "title": _text("title"),
        "code": _text("code"),
        "details": _text("details"),
        "tags": _tags(media),
        "studio": lambda source, info: store_of(info).one("SELECT * FROM studios WHERE id = ?", source["studio_id"]),
        "performers": related(
            f"SELECT p.* FROM performers p JOIN {media.table}_performers j ON j.performer_id = p.id"
            f" WHERE j.{media.key} = ? ORDER BY p.name"
        ),
    }


def _base(call: Call) -> str:
    return call.backend.settings.external_host or call.base_url


# ---- scenes ----


def _key_suffix(call: Call) -> str:
    """Only the stream path carries the API key."""
    key = call.backend.settings.api_key
    return f"?apikey={key}" if key else ""


def scene_paths(source: Row, info: Info) -> Row:
    call = call_of(info)
    base = f"{_base(call)}/scene/{source['id']}"
    stamp = int(_epoch(source["updated_at"]))
    oshash = call.store.value(
        "SELECT fp.fingerprint FROM files_fingerprints fp JOIN scenes_files sf ON sf.file_id = fp.file_id"
        " WHERE sf.scene_id = ? AND fp.type = 'oshash' ORDER BY sf.is_primary DESC",
        source["id"],
    )
    sheet = f"{_base(call)}/scene/{oshash or ''}"
    return {
        "screenshot": f"{base}/screenshot?t={stamp}",
        "preview": f"{base}/preview",
        "stream": f"{base}/stream{_key_suffix(call)}",
        "webp": f"{base}/webp",
        "vtt": f"{sheet}_thumbs.vtt",
        "sprite": f"{sheet}_sprite.jpg",
        "funscript": f"{base}/funscript",
        "interactive_heatmap": f"{base}/interactive_heatmap",
        "caption": f"{base}/caption",
    }


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


TRANSCODES = (
    (".mp4", "video/mp4", "MP4"),
    (".webm", "video/webm", "WEBM"),
    (".m3u8", "application/vnd.apple.mpegurl", "HLS"),
    (".mpd", "application/dash+xml", "DASH"),
)
"""Suffix, MIME type and label of the live transcodes; named in replies, not served here."""


def streams(source: Row, info: Info) -> list[Row]:
    call = call_of(info)
    if not files_of(call.store, SCENES, source["id"]):
        return []
    base = f"{_base(call)}/scene/{source['id']}/stream"
    key = _key_suffix(call)
    rest = f"{key}&resolution=ORIGINAL" if key else "?resolution=ORIGINAL"
    return [{"url": base + key, "mime_type": "video/mp4", "label": "Direct stream"}] + [
        {"url": f"{base}{suffix}{rest}", "mime_type": mime_type, "label": label}
        for suffix, mime_type, label in TRANSCODES
    ]


def markers_of(store: Store, scene_id: int) -> list[Row]:
    return store.all("SELECT * FROM scene_markers WHERE scene_id = ? ORDER BY seconds ASC, id ASC", scene_id)


SCENE = _common(SCENES, "scene_urls") | {
    "director": _text("director"),
    "files": _files(SCENES, "AND files.kind = 'video'"),
    "paths": scene_paths,
    "sceneStreams": streams,
    "scene_markers": lambda source, info: markers_of(store_of(info), source["id"]),
    "galleries": related(
        "SELECT g.* FROM galleries g JOIN scenes_galleries j ON j.gallery_id = g.id WHERE j.scene_id = ?"
    ),
    "groups": lambda _source, _info: [],
    "stash_ids": lambda _source, _info: [],
    "captions": lambda _source, _info: None,
    "interactive": lambda _source, _info: False,
    "o_counter": lambda _source, _info: 0,
    "play_count": lambda _source, _info: 0,
    "play_history": lambda _source, _info: [],
    "o_history": lambda _source, _info: [],
}

# ---- markers ----


def _marker_url(part: str) -> Resolver:
    def resolve(source: Row, info: Info) -> str:
        return f"{_base(call_of(info))}/scene/{source['scene_id']}/scene_marker/{source['id']}/{part}"

    return resolve


MARKER: dict[str, Resolver] = {
    "scene": lambda source, info: store_of(info).one("SELECT * FROM scenes WHERE id = ?", source["scene_id"]),
    "primary_tag": lambda source, info: store_of(info).one("SELECT * FROM tags WHERE id = ?", source["primary_tag_id"]),
    "tags": related(
        "SELECT tags.* FROM tags JOIN scene_markers_tags j ON j.tag_id = tags.id WHERE j.scene_marker_id = ?"
        " ORDER BY COALESCE(NULLIF(tags.sort_name, ''), tags.name) COLLATE NATURAL_CI"
    ),
    "stream": _marker_url("stream"),
    "preview": _marker_url("preview"),
    "screenshot": _marker_url("screenshot"),
}

# ---- images and galleries ----


def image_paths(source: Row, info: Info) -> Row:
    base = f"{_base(call_of(info))}/image/{source['id']}"
    stamp = int(_epoch(source["updated_at"]))
    return {"thumbnail": f"{base}/thumbnail?t={stamp}", "preview": "", "image": f"{base}/image?t={stamp}"}


IMAGE = _common(IMAGES, "image_urls") | {
    "photographer": _text("photographer"),
    "files": _files(IMAGES, "AND files.kind = 'image'"),
    "visual_files": _files(IMAGES, "AND files.kind IN ('image', 'video')"),
    "paths": image_paths,
    "galleries": related(
        "SELECT g.* FROM galleries g JOIN galleries_images j ON j.gallery_id = g.id WHERE j.image_id = ?"
    ),
}

_GALLERY_IMAGES = (
    "FROM images i JOIN galleries_images j ON j.image_id = i.id LEFT JOIN images_files mf ON mf.image_id = i.id"
    " LEFT JOIN files f ON f.id = mf.file_id WHERE j.gallery_id = ? GROUP BY i.id ORDER BY f.path COLLATE NATURAL_CI"
)


def _gallery_cover(source: Row, info: Info) -> Row | None:
    return store_of(info).one(f"SELECT i.* {_GALLERY_IMAGES} LIMIT 1", source["id"])


def _gallery_image(source: Row, info: Info, index: int) -> Row:
    found = store_of(info).one(f"SELECT i.* {_GALLERY_IMAGES} LIMIT 1 OFFSET ?", source["id"], index)
    if found is None:
        raise StashError(f"image with index {index} not found")
    return found


GALLERY = _common(GALLERIES, "gallery_urls") | {
    "photographer": _text("photographer"),
    "files": _files(GALLERIES),
    "folder": lambda source, info: store_of(info).one("SELECT * FROM folders WHERE id = ?", source["folder_id"]),
    "chapters": lambda _source, _info: [],
    "scenes": related("SELECT s.* FROM scenes s JOIN scenes_galleries j ON j.scene_id = s.id WHERE j.gallery_id = ?"),
    "image_count": lambda source, info: store_of(info).value(
        "SELECT COUNT(*) FROM galleries_images WHERE gallery_id = ?", source["id"]
    ),
    "cover": _gallery_cover,
    "image": _gallery_image,
    "paths": lambda source, info: {
        "cover": f"{_base(call_of(info))}/gallery/{source['id']}/cover?t={int(_epoch(source['updated_at']))}",
        "preview": f"{_base(call_of(info))}/gallery/{source['id']}/preview",
    },
}

# ---- files ----


def _fingerprint(source: Row, info: Info, type: str) -> str | None:
    found: str | None = store_of(info).value(
        "SELECT fingerprint FROM files_fingerprints WHERE file_id = ? AND type = ?", source["id"], type
    )
    return found


FILE: dict[str, Resolver] = {
    "parent_folder": lambda source, info: store_of(info).one(
        "SELECT * FROM folders WHERE id = ?", source["parent_folder_id"]
    ),
    "zip_file": lambda source, info: store_of(info).one("SELECT * FROM files WHERE id = ?", source["zip_file_id"]),
    "fingerprint": _fingerprint,
    "fingerprints": related(
        "SELECT type, fingerprint AS value FROM files_fingerprints WHERE file_id = ? ORDER BY type"
    ),
}

# ---- tags ----


def _tag_count(table: str, key: str) -> Resolver:
    def resolve(source: Row, info: Info, depth: int | None = None) -> int:
        store = store_of(info)
        ids = [item for _, item in descendants(store, [str(source["id"])], depth)]
        return int(store.value(f"SELECT COUNT(DISTINCT {key}) FROM {table} WHERE tag_id IN {marks(ids)}", *ids))

    return resolve


def _tag_marker_count(source: Row, info: Info, depth: int | None = None) -> int:
    store = store_of(info)
    ids = [item for _, item in descendants(store, [str(source["id"])], depth)]
    sql = (
        f"SELECT COUNT(*) FROM scene_markers m WHERE m.primary_tag_id IN {marks(ids)}"
        f" OR m.id IN (SELECT scene_marker_id FROM scene_markers_tags WHERE tag_id IN {marks(ids)})"
    )
    return int(store.value(sql, *ids, *ids))


def _tag_image(source: Row, info: Info) -> str:
    return f"{_base(call_of(info))}/tag/{source['id']}/image?t={int(_epoch(source['updated_at']))}&default=true"


def _none_counted(_source: Row, _info: Info, depth: int | None = None) -> int:
    return 0


_RELATIVES = (
    "SELECT tags.* FROM tags JOIN tags_relations r ON r.{other} = tags.id WHERE r.{own} = ?"
    " ORDER BY COALESCE(NULLIF(tags.sort_name, ''), tags.name) COLLATE NATURAL_CI"
)

TAG: dict[str, Resolver] = {
    "aliases": lambda source, info: store_of(info).column(
        "SELECT alias FROM tag_aliases WHERE tag_id = ? ORDER BY alias", source["id"]
    ),
    "favorite": lambda source, _info: bool(source["favorite"]),
    "ignore_auto_tag": lambda source, _info: bool(source["ignore_auto_tag"]),
    "stash_ids": lambda _source, _info: [],
    "image_path": _tag_image,
    "sort_name": _text("sort_name"),
    "description": _text("description"),
    "scene_count": _tag_count("scenes_tags", "scene_id"),
    "scene_marker_count": _tag_marker_count,
    "image_count": _tag_count("images_tags", "image_id"),
    "gallery_count": _tag_count("galleries_tags", "gallery_id"),
    "performer_count": _none_counted,
    "studio_count": _none_counted,
    "group_count": _none_counted,
    "movie_count": _none_counted,
    "parents": related(_RELATIVES.format(other="parent_id", own="child_id")),
    "children": related(_RELATIVES.format(other="child_id", own="parent_id")),
    "parent_count": lambda source, info: store_of(info).value(
        "SELECT COUNT(*) FROM tags_relations WHERE child_id = ?", source["id"]
    ),
    "child_count": lambda source, info: store_of(info).value(
        "SELECT COUNT(*) FROM tags_relations WHERE parent_id = ?", source["id"]
    ),
}

FIELDS: Fields = {
    "Scene": SCENE,
    "SceneMarker": MARKER,
    "Image": IMAGE,
    "Gallery": GALLERY,
    "Tag": TAG,
    "VideoFile": FILE,
    "ImageFile": FILE,
    "GalleryFile": FILE,
    "BasicFile": FILE,
    "Folder": {"parent_folder": FILE["parent_folder"], "zip_file": FILE["zip_file"]},
}
