"""Mutations of scenes, images and galleries."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from graphql import GraphQLInputObjectType

from demo.stash.backend import Fields, Info, Resolver, call_of, store_of
from demo.stash.changing import Link, Shape, change_ids, exists, ids_of, one_id, told, update
from demo.stash.criteria import as_int
from demo.stash.store import Row, StashError, Store, marks

SCENE = Shape(
    table="scenes",
    noun="scene",
    texts=("title", "code", "details", "director", "date"),
    values=("rating100", "organized", "studio_id", "play_duration"),
    url_table="scene_urls",
    url_key="scene_id",
    links={
        "performer_ids": Link("scenes_performers", "scene_id", "performer_id"),
        "tag_ids": Link("scenes_tags", "scene_id", "tag_id"),
        "gallery_ids": Link("scenes_galleries", "scene_id", "gallery_id"),
    },
)
IMAGE = Shape(
    table="images",
    noun="image",
    texts=("title", "code", "details", "photographer", "date"),
    values=("rating100", "organized", "studio_id"),
    url_table="image_urls",
    url_key="image_id",
    links={
        "gallery_ids": Link("galleries_images", "image_id", "gallery_id"),
        "performer_ids": Link("images_performers", "image_id", "performer_id"),
        "tag_ids": Link("images_tags", "image_id", "tag_id"),
    },
    bulk_missing="image with id {} not found",
)
GALLERY = Shape(
    table="galleries",
    noun="gallery",
    texts=("code", "details", "photographer", "date"),
    values=("title", "rating100", "organized", "studio_id"),
    url_table="gallery_urls",
    url_key="gallery_id",
    links={
        "performer_ids": Link("galleries_performers", "gallery_id", "performer_id"),
        "tag_ids": Link("galleries_tags", "gallery_id", "tag_id"),
        "scene_ids": Link("scenes_galleries", "gallery_id", "scene_id"),
    },
)
NIL = "runtime error: invalid memory address or nil pointer dereference"
TRIGGERS = {"scene": "Scene", "image": "Image", "gallery": "Gallery"}


def _row(store: Store, shape: Shape, object_id: int) -> Row | None:
    return store.one(f"SELECT * FROM {shape.table} WHERE id = ?", object_id)


def update_one(store: Store, shape: Shape, given: Row) -> int:
    """The single update: unknown objects are named, files and covers are checked."""
    object_id = one_id(given["id"])
    if not exists(store, shape.table, object_id):
        raise StashError(f"{shape.noun} with id {object_id} not found")
    join = f"{shape.table}_files WHERE {shape.url_key} = ?"
    files = store.column(f"SELECT file_id FROM {join}", object_id)
    if "title" in given and not (given["title"] or "").strip() and not files and shape.noun == "scene":
        raise StashError("title must be set if scene has no files")
    if shape is GALLERY and given.get("title") == "" and not files and _folder(store, object_id) is None:
        raise StashError("title must not be empty for user-created galleries")
    if shape is IMAGE and given.get("gallery_ids") is not None:
        check_galleries(store, object_id, {"ids": given["gallery_ids"], "mode": "SET"})
    if given.get("primary_file_id") is not None:
        file_id = as_int(given["primary_file_id"])
        if file_id not in files:
            raise StashError(f"file with id {file_id} not associated with {shape.noun}")
        store.run(
            f"UPDATE {shape.table}_files SET is_primary = (file_id = ?) WHERE {shape.url_key} = ?", file_id, object_id
        )
    update(store, shape, object_id, given, bulk=False)
    if given.get("cover_image"):
        store.update(shape.table, object_id, {"cover": picture(given["cover_image"])})
    return object_id


def _folder(store: Store, gallery_id: int) -> Any:
    return store.value("SELECT folder_id FROM galleries WHERE id = ?", gallery_id)


def _zip_name(store: Store, gallery_id: int) -> str | None:
    """File name of a zip-based gallery; None for others."""
    name: str | None = store.value(
        "SELECT f.basename FROM files f JOIN galleries_files g ON g.file_id = f.id WHERE g.gallery_id = ?", gallery_id
    )
    return name


def check_galleries(store: Store, image_id: int, change: Row) -> None:
    """An image can neither be put into a zip-based gallery nor be taken out of one.

    Raises:
        StashError: naming the image's file and the gallery's.
    """
    current = store.column("SELECT gallery_id FROM galleries_images WHERE image_id = ?", image_id)
    asked = ids_of(change.get("ids"))
    touched = set(asked) ^ set(current) if change["mode"] == "SET" else set(asked)
    for gallery_id in sorted(touched):
        if name := _zip_name(store, gallery_id):
            image = store.value(
                "SELECT f.basename FROM files f JOIN images_files i ON i.file_id = f.id WHERE i.image_id = ?", image_id
            )
            raise StashError(
                f'changing galleries of image "{image}": cannot change contents of zip-based gallery "{name}"'
            )


def picture(text: str) -> bytes:
    """Bytes of a `data:` URL.

    Raises:
        StashError: not base64.
    """
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except binascii.Error as exc:
        raise StashError(f"processing cover image: {exc}") from exc


def _whole(info: Info, shape: Shape, given: Row) -> Row:
    """The input as a hook is told it: every field there is, null when it was not given."""
    input_type = info.schema.type_map[f"{TRIGGERS[shape.noun]}UpdateInput"]
    assert isinstance(input_type, GraphQLInputObjectType)
    return {name: given.get(name) for name in input_type.fields}


def _update(shape: Shape) -> Resolver:
    def resolve(_root: Any, info: Info, input: Row) -> Row | None:
        store = store_of(info)
        with store.transaction():
            object_id = update_one(store, shape, input)
        call_of(info).trigger(object_id, f"{TRIGGERS[shape.noun]}.Update.Post", _whole(info, shape, input), list(input))
        return _row(store, shape, object_id)

    return resolve


def _update_many(shape: Shape) -> Resolver:
    def resolve(_root: Any, info: Info, input: list[Row]) -> list[Row | None]:
        store = store_of(info)
        with store.transaction():
            ids = [update_one(store, shape, item) for item in input]
        for object_id, item in zip(ids, input, strict=True):
            whole = _whole(info, shape, item)
            call_of(info).trigger(object_id, f"{TRIGGERS[shape.noun]}.Update.Post", whole, list(item))
        return [_row(store, shape, object_id) for object_id in ids]

    return resolve


def _bulk_update(shape: Shape) -> Resolver:
    def resolve(_root: Any, info: Info, input: Row) -> list[Row | None] | None:
        store = store_of(info)
        ids = ids_of(input.get("ids"))
        with store.transaction():
            for object_id in ids:
                if shape is IMAGE and input.get("gallery_ids"):
                    check_galleries(store, object_id, input["gallery_ids"])
                update(store, shape, object_id, input, bulk=True)
        for object_id in ids:
            call_of(info).trigger(object_id, f"{TRIGGERS[shape.noun]}.Update.Post", told(input), list(input))
        return [_row(store, shape, object_id) for object_id in ids] or None

    return resolve


def _hashes(store: Store, shape: Shape, object_id: int) -> Row:
    """What a hook is told of an object that is gone."""
    file = store.one(
        f"SELECT f.id, f.path FROM files f JOIN {shape.table}_files j ON j.file_id = f.id WHERE j.{shape.url_key} = ?"
        " ORDER BY j.is_primary DESC",
        object_id,
    )
    found = {name: "" for name in (("checksum", "oshash") if shape is SCENE else ("checksum",))}
    for row in store.all(
        "SELECT type, fingerprint FROM files_fingerprints WHERE file_id = ?", file["id"] if file else 0
    ):
        name = "checksum" if row["type"] == "md5" else row["type"]
        if name in found:
            found[name] = row["fingerprint"]
    return found | {"path": file["path"] if file else ""}


def _destroy(shape: Shape, ids_from: Callable[[Row], list[Any]]) -> Resolver:
    def resolve(_root: Any, info: Info, input: Row) -> bool:
        store = store_of(info)
        ids = ids_of(ids_from(input))
        gone = {object_id: input | _hashes(store, shape, object_id) for object_id in ids}
        with store.transaction():
            for object_id in ids:
                if not exists(store, shape.table, object_id):
                    raise StashError(f"{shape.noun} with id {object_id} not found")
                if shape is GALLERY and _zip_name(store, object_id):
                    inside = "SELECT image_id FROM galleries_images WHERE gallery_id = ?"
                    store.run(f"DELETE FROM images WHERE id IN ({inside})", object_id)
                store.run(f"DELETE FROM {shape.table} WHERE id = ?", object_id)
        for object_id in ids:
            call_of(info).trigger(object_id, f"{TRIGGERS[shape.noun]}.Destroy.Post", gone[object_id], None)
        return True

    return resolve


def scene_merge(_root: Any, info: Info, input: Row) -> Row | None:
    """Files and markers of the sources move to the destination, the sources go; tags only by `values`."""
    store = store_of(info)
    sources, destination = ids_of(input["source"], "source ids"), as_int(input["destination"])
    with store.transaction():
        if destination in sources:
            raise StashError("destination scene cannot be in source list")
        if not exists(store, "scenes", destination):
            raise StashError(f"Internal system error. Error <{NIL}>")
        has_primary = store.value("SELECT 1 FROM scenes_files WHERE scene_id = ? AND is_primary", destination)
        for source in dict.fromkeys(sources):
            if not exists(store, "scenes", source):
                raise StashError(f"finding source scenes: scene with id {source} not found")
            if has_primary:
                store.run("UPDATE scenes_files SET is_primary = 0 WHERE scene_id = ?", source)
            store.run("UPDATE scenes_files SET scene_id = ? WHERE scene_id = ?", destination, source)
            has_primary = True
            store.run("UPDATE scene_markers SET scene_id = ? WHERE scene_id = ?", destination, source)
            store.run("DELETE FROM scenes WHERE id = ?", source)
        values = {name: value for name, value in (input.get("values") or {}).items() if name != "id"}
        update(store, SCENE, destination, values, bulk=False)
    return _row(store, SCENE, destination)


def gallery_create(_root: Any, info: Info, input: Row) -> Row | None:
    store = store_of(info)
    if not input["title"].strip():
        raise StashError("title must not be empty")
    with store.transaction():
        now = store.now()
        gallery_id = store.insert("galleries", {"title": "", "created_at": now, "updated_at": now})
        update(store, GALLERY, gallery_id, input | {"title": input["title"].strip()}, bulk=False)
    call_of(info).trigger(gallery_id, "Gallery.Create.Post", told(input), None)
    return _row(store, GALLERY, gallery_id)


def _gallery_images(mode: str) -> Resolver:
    def resolve(_root: Any, info: Info, input: Row) -> bool:
        store = store_of(info)
        gallery_id, image_ids = as_int(input["gallery_id"]), ids_of(input["image_ids"])
        with store.transaction():
            if not exists(store, "galleries", gallery_id):
                raise StashError(f"gallery with id {gallery_id} not found")
            if name := _zip_name(store, gallery_id):
                raise StashError(f'cannot change contents of zip-based gallery "{name}"')
            link = Link("galleries_images", "gallery_id", "image_id")
            try:
                change_ids(store, link, gallery_id, {"ids": image_ids, "mode": mode})
            except StashError as exc:
                raise StashError(f"failed to {mode.lower()} images to gallery: {exc}") from exc
            store.update("galleries", gallery_id, {"updated_at": store.now()})
            store.run(f"UPDATE images SET updated_at = ? WHERE id IN {marks(image_ids)}", store.now(), *image_ids)
        return True

    return resolve


FIELDS: Fields = {
    "Mutation": {
        "sceneUpdate": _update(SCENE),
        "scenesUpdate": _update_many(SCENE),
        "bulkSceneUpdate": _bulk_update(SCENE),
        "sceneMerge": scene_merge,
        "sceneDestroy": _destroy(SCENE, lambda given: [given["id"]]),
        "scenesDestroy": _destroy(SCENE, lambda given: given["ids"]),
        "imageUpdate": _update(IMAGE),
        "imagesUpdate": _update_many(IMAGE),
        "bulkImageUpdate": _bulk_update(IMAGE),
        "imageDestroy": _destroy(IMAGE, lambda given: [given["id"]]),
        "imagesDestroy": _destroy(IMAGE, lambda given: given["ids"]),
        "galleryCreate": gallery_create,
        "galleryUpdate": _update(GALLERY),
        "bulkGalleryUpdate": _bulk_update(GALLERY),
        "galleryDestroy": _destroy(GALLERY, lambda given: given["ids"]),
        "addGalleryImages": _gallery_images("ADD"),
        "removeGalleryImages": _gallery_images("REMOVE"),
    }
}
