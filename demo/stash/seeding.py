"""Filling and reading the library from Python, past GraphQL: for tests, and fast."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.stash.changing import Link, change_ids
from demo.stash.resolvers_tags import create_tag
from demo.stash.store import Row, StashError, Store

TagRef = int | str
"""A tag's id, or its exact name; an unknown name is created."""

SNAPSHOT_TABLES = {
    "scenes": ("scenes_tags", "scene_id"),
    "images": ("images_tags", "image_id"),
    "galleries": ("galleries_tags", "gallery_id"),
}


class Library:
    """Seeding and reading; shared by the server object and by the scanner."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def seeding(self) -> Iterator[None]:
        """One transaction around many `add_…` calls: much faster on a file."""
        with self.store.transaction():
            yield

    # ---- writing ----

    def add_tag(
        self,
        name: str,
        *,
        aliases: Sequence[str] = (),
        parents: Sequence[TagRef] = (),
        description: str | None = None,
        sort_name: str | None = None,
        favorite: bool = False,
    ) -> int:
        """Create a tag with Stash's own checks.

        Raises:
            StashError: the name or an alias clashes.
        """
        with self.store.transaction():
            return create_tag(
                self.store,
                {
                    "name": name,
                    "aliases": list(aliases),
                    "parent_ids": self.tag_ids(parents),
                    "description": description,
                    "sort_name": sort_name,
                    "favorite": favorite,
                },
            )

    def add_scene(
        self,
        path: str | Path | None = None,
        *,
        title: str | None = None,
        duration: float = 60.0,
        tags: Sequence[TagRef] = (),
        fingerprints: dict[str, str] | None = None,
        width: int = 1920,
        height: int = 1080,
        frame_rate: float = 30.0,
        bit_rate: int = 4_000_000,
        size: int | None = None,
        video_codec: str = "h264",
        audio_codec: str = "aac",
        format: str = "mp4",
        mod_time: str | None = None,
        details: str | None = None,
        date: str | None = None,
        rating100: int | None = None,
        organized: bool = False,
        cover: bytes | None = None,
    ) -> int:
        """A scene with one video file; no `path` = a scene without files. Returns its id.

        `fingerprints` maps type to value; by default an `oshash` made from the path.
        """
        with self.store.transaction():
            now = self.store.now()
            scene: Row = {"title": title, "details": details, "date": date, "rating100": rating100, "cover": cover}
            scene |= {"organized": int(organized), "created_at": now, "updated_at": now}
            scene_id = self.store.insert("scenes", scene)
            if path is not None:
                video: Row = {"format": format, "width": width, "height": height, "duration": duration}
                video |= {"video_codec": video_codec, "audio_codec": audio_codec}
                video |= {"frame_rate": frame_rate, "bit_rate": bit_rate, "mod_time": mod_time}
                file_id = self._add_file("video", str(path), size, fingerprints, video)
                self._attach("scenes", "scene_id", scene_id, file_id)
            self._tag("scenes_tags", "scene_id", scene_id, tags)
            return scene_id

    def add_scene_file(self, scene_id: int, path: str | Path, *, duration: float = 60.0, **video: Any) -> int:
        """A further file of a scene; the first stays primary. Returns the file's id."""
        with self.store.transaction():
            columns: Row = {"format": "mp4", "width": 1280, "height": 720, "duration": duration}
            columns |= {"video_codec": "h264", "audio_codec": "aac", "frame_rate": 25.0, "bit_rate": 0} | video
            fingerprints, size = columns.pop("fingerprints", None), columns.pop("size", None)
            file_id = self._add_file("video", str(path), size, fingerprints, columns)
            self._attach("scenes", "scene_id", scene_id, file_id)
            return file_id

    def add_image(
        self,
        path: str | Path,
        *,
        title: str | None = None,
        tags: Sequence[TagRef] = (),
        fingerprints: dict[str, str] | None = None,
        width: int = 1600,
        height: int = 1200,
        size: int | None = None,
        format: str = "jpg",
        galleries: Sequence[int] = (),
    ) -> int:
        """An image in a file of its own. Returns its id."""
        picture: Row = {"format": format, "width": width, "height": height}
        return self._add_image("image", str(path), title, tags, fingerprints, size, picture, galleries, None)

    def add_clip(
        self,
        path: str | Path,
        *,
        title: str | None = None,
        tags: Sequence[TagRef] = (),
        duration: float = 5.0,
        fingerprints: dict[str, str] | None = None,
        width: int = 640,
        height: int = 360,
        frame_rate: float = 25.0,
        format: str = "mp4",
        galleries: Sequence[int] = (),
    ) -> int:
        """An image whose file is a video: `VideoFile` in `visual_files`, absent from `files`. Returns its id."""
        video: Row = {"format": format, "width": width, "height": height, "duration": duration, "bit_rate": 0}
        video |= {"video_codec": "h264", "audio_codec": "", "frame_rate": frame_rate}
        return self._add_image("video", str(path), title, tags, fingerprints, None, video, galleries, None)

    def add_zip_image(
        self,
        zip_path: str | Path,
        entry: str,
        *,
        title: str | None = None,
        tags: Sequence[TagRef] = (),
        fingerprints: dict[str, str] | None = None,
        width: int = 1600,
        height: int = 1200,
        size: int | None = None,
        format: str = "jpg",
        galleries: Sequence[int] = (),
    ) -> int:
        """An image inside a zip; its path is the zip's path, a slash and the entry. Returns its id."""
        with self.store.transaction():
            zip_id = self.zip_file(zip_path)
            picture: Row = {"format": format, "width": width, "height": height}
            path = f"{zip_path}/{entry}"
            return self._add_image("image", path, title, tags, fingerprints, size, picture, galleries, zip_id)

    def add_gallery(
        self,
        *,
        title: str | None = None,
        images: Sequence[int] = (),
        tags: Sequence[TagRef] = (),
        zip_path: str | Path | None = None,
        folder: str | Path | None = None,
        scenes: Sequence[int] = (),
    ) -> int:
        """A gallery: of a zip, of a folder, or made by hand. Returns its id."""
        with self.store.transaction():
            now = self.store.now()
            folder_id = self._folder(str(folder)) if folder is not None else None
            gallery: Row = {"title": title, "folder_id": folder_id, "created_at": now, "updated_at": now}
            gallery_id = self.store.insert("galleries", gallery)
            if zip_path is not None:
                self._attach("galleries", "gallery_id", gallery_id, self.zip_file(zip_path))
            rows = [(gallery_id, image) for image in images]
            self.store.run_many("INSERT INTO galleries_images (gallery_id, image_id) VALUES (?, ?)", rows)
            pairs = [(scene, gallery_id) for scene in scenes]
            self.store.run_many("INSERT INTO scenes_galleries (scene_id, gallery_id) VALUES (?, ?)", pairs)
            self._tag("galleries_tags", "gallery_id", gallery_id, tags)
            return gallery_id

    def add_marker(
        self,
        scene_id: int,
        seconds: float,
        primary_tag: TagRef,
        *,
        end_seconds: float | None = None,
        title: str = "",
        tags: Sequence[TagRef] = (),
    ) -> int:
        with self.store.transaction():
            now = self.store.now()
            marker: Row = {"scene_id": scene_id, "seconds": seconds, "end_seconds": end_seconds, "title": title}
            marker |= {"primary_tag_id": self.tag_ids([primary_tag])[0], "created_at": now, "updated_at": now}
            marker_id = self.store.insert("scene_markers", marker)
            self._tag("scene_markers_tags", "scene_marker_id", marker_id, tags)
            return marker_id

    def tag_marker(self, marker_id: int, *tags: TagRef) -> None:
        """Add tags to a marker, beside its primary one."""
        with self.store.transaction():
            self._tag("scene_markers_tags", "scene_marker_id", marker_id, tags)

    def tag_scene(self, scene_id: int, *tags: TagRef) -> None:
        """Add tags behind the client's back; `updated_at` moves."""
        self._retag("scenes", "scene_id", scene_id, tags, "ADD")

    def untag_scene(self, scene_id: int, *tags: TagRef) -> None:
        self._retag("scenes", "scene_id", scene_id, tags, "REMOVE")

    def tag_image(self, image_id: int, *tags: TagRef) -> None:
        self._retag("images", "image_id", image_id, tags, "ADD")

    def untag_image(self, image_id: int, *tags: TagRef) -> None:
        self._retag("images", "image_id", image_id, tags, "REMOVE")

    def delete(self, table: str, object_id: int) -> None:
        """Remove a row of `scenes`, `images`, `galleries`, `tags` or `scene_markers`, with all that hangs on it."""
        with self.store.transaction():
            if not self.store.run(f"DELETE FROM {table} WHERE id = ?", object_id):
                raise StashError(f"{table}: no row {object_id}")

    def tag_ids(self, tags: Sequence[TagRef]) -> list[int]:
        """Ids of tags given by id or exact name."""
        return [tag if isinstance(tag, int) else self.tag_id(tag) or self.add_tag(tag) for tag in tags]

    # ---- reading ----

    def tag_id(self, name: str) -> int | None:
        """Id of a tag by its exact name."""
        found: int | None = self.store.value("SELECT id FROM tags WHERE name = ?", name)
        return found

    def tag_names(self) -> list[str]:
        return self.store.column("SELECT name FROM tags ORDER BY name")

    def scene_tags(self, scene_id: int) -> list[str]:
        """Names of a scene's tags, sorted."""
        return self._names("scenes_tags", "scene_id", scene_id)

    def image_tags(self, image_id: int) -> list[str]:
        return self._names("images_tags", "image_id", image_id)

    def gallery_tags(self, gallery_id: int) -> list[str]:
        return self._names("galleries_tags", "gallery_id", gallery_id)

    def markers(self, scene_id: int | None = None) -> list[Row]:
        """Markers as plain data, ordered by scene and time."""
        where, params = ("WHERE m.scene_id = ?", [scene_id]) if scene_id is not None else ("", [])
        rows = self.store.all(
            "SELECT m.id, m.scene_id, m.title, m.seconds, m.end_seconds, t.name AS primary_tag FROM scene_markers m"
            f" JOIN tags t ON t.id = m.primary_tag_id {where} ORDER BY m.scene_id, m.seconds, m.id",
            *params,
        )
        return [row | {"tags": self._names("scene_markers_tags", "scene_marker_id", row["id"])} for row in rows]

    def snapshot(self, *, times: bool = False) -> dict[str, Any]:
        """The whole library as plain data that compares equal when nothing a user can see has changed.

        Arguments:
            times: include `updated_at`, which every update moves even when it changes nothing.
        """
        drop = {"cover"} if times else {"cover", "updated_at"}
        with self.store.lock:
            taken: dict[str, Any] = {}
            for table, (join, key) in SNAPSHOT_TABLES.items():
                named: dict[int, list[str]] = {}
                sql = f"SELECT j.{key} AS id, t.name FROM {join} j JOIN tags t ON t.id = j.tag_id ORDER BY t.name"
                for row in self.store.all(sql):
                    named.setdefault(row["id"], []).append(row["name"])
                taken[table] = {
                    row["id"]: {k: v for k, v in row.items() if k not in drop} | {"tags": named.get(row["id"], [])}
                    for row in self.store.all(f"SELECT * FROM {table}")
                }
            taken["markers"] = {row["id"]: row for row in self.markers()}
            taken["tags"] = {
                row["id"]: {k: v for k, v in row.items() if k not in drop}
                | {"aliases": self.store.column("SELECT alias FROM tag_aliases WHERE tag_id = ? ORDER BY 1", row["id"])}
                for row in self.store.all("SELECT * FROM tags")
            }
            taken["tag_relations"] = sorted(
                (row["parent_id"], row["child_id"]) for row in self.store.all("SELECT * FROM tags_relations")
            )
            return taken

    # ---- inside ----

    def _names(self, join: str, key: str, object_id: int) -> list[str]:
        sql = f"SELECT t.name FROM tags t JOIN {join} j ON j.tag_id = t.id WHERE j.{key} = ? ORDER BY t.name"
        return self.store.column(sql, object_id)

    def _tag(self, join: str, key: str, object_id: int, tags: Sequence[TagRef]) -> None:
        rows = [(object_id, tag_id) for tag_id in self.tag_ids(tags)]
        if rows:
            self.store.run_many(f"INSERT OR IGNORE INTO {join} ({key}, tag_id) VALUES (?, ?)", rows)

    def _retag(self, table: str, key: str, object_id: int, tags: Sequence[TagRef], mode: str) -> None:
        with self.store.transaction():
            link = Link(f"{table}_tags", key, "tag_id")
            change_ids(self.store, link, object_id, {"ids": self.tag_ids(tags), "mode": mode})
            self.store.update(table, object_id, {"updated_at": self.store.now()})

    def _attach(self, table: str, key: str, object_id: int, file_id: int) -> None:
        first = self.store.value(f"SELECT 1 FROM {table}_files WHERE {key} = ? AND is_primary", object_id) is None
        self.store.run(
            f"INSERT INTO {table}_files ({key}, file_id, is_primary) VALUES (?, ?, ?)", object_id, file_id, int(first)
        )

    def _add_image(
        self,
        kind: str,
        path: str,
        title: str | None,
        tags: Sequence[TagRef],
        fingerprints: dict[str, str] | None,
        size: int | None,
        columns: Row,
        galleries: Sequence[int],
        zip_id: int | None,
    ) -> int:
        with self.store.transaction():
            now = self.store.now()
            image_id = self.store.insert("images", {"title": title, "created_at": now, "updated_at": now})
            file_id = self._add_file(kind, path, size, fingerprints, columns | {"zip_file_id": zip_id})
            self._attach("images", "image_id", image_id, file_id)
            rows = [(gallery, image_id) for gallery in galleries]
            self.store.run_many("INSERT INTO galleries_images (gallery_id, image_id) VALUES (?, ?)", rows)
            self._tag("images_tags", "image_id", image_id, tags)
            return image_id

    def zip_file(self, path: str | Path) -> int:
        """Id of the file entry of a zip, made when absent."""
        found: int | None = self.store.value("SELECT id FROM files WHERE path = ? AND zip_file_id IS NULL", str(path))
        if found is None:
            found = self._add_file("gallery", str(path), None, None, {})
            self._folder(str(path), found)
        return found

    def _add_file(
        self, kind: str, path: str, size: int | None, fingerprints: dict[str, str] | None, columns: Row
    ) -> int:
        now = self.store.now()
        parent, _, basename = path.rpartition("/")
        if size is None:
            size = Path(path).stat().st_size if Path(path).is_file() else 1_000_000
        row: Row = {"kind": kind, "basename": basename, "path": path, "size": size}
        row |= {"created_at": now, "updated_at": now} | columns
        row["parent_folder_id"] = self._folder(parent, columns.get("zip_file_id"))
        row["mod_time"] = columns.get("mod_time") or now
        file_id = self.store.insert("files", row)
        if fingerprints is None:
            name = "oshash" if kind == "video" else "md5"
            fingerprints = {name: hashlib.md5(path.encode()).hexdigest()[: 16 if kind == "video" else 32]}
        self.store.run_many(
            "INSERT INTO files_fingerprints (file_id, type, fingerprint) VALUES (?, ?, ?)",
            [(file_id, name, value) for name, value in fingerprints.items()],
        )
        return file_id

    def _folder(self, path: str, zip_id: int | None = None) -> int:
        path = path or "/"
        found: int | None = self.store.value("SELECT id FROM folders WHERE path = ?", path)
        if found is not None:
            return found
        now = self.store.now()
        parent = path.rpartition("/")[0]
        parent_id = None
        if parent:
            above: int | None = self.store.value("SELECT zip_file_id FROM folders WHERE path = ?", parent)
            parent_id = self._folder(parent, above)
        row: Row = {"path": path, "parent_folder_id": parent_id, "zip_file_id": zip_id}
        return self.store.insert("folders", row | {"mod_time": now, "created_at": now, "updated_at": now})
