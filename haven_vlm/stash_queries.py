"""What is said to Stash and what its answers mean: documents, fragments, JSON → facts. Pure.

Every selection names its fields: Stash counts each `…_count` with a query of its own, so default selections
take minutes in a large library. Numbers arrive as int or float, whichever is shorter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from haven_vlm.facts import Kind, Marker, MarkerDraft, MediaFile, Medium, TagRef

Json = Mapping[str, Any]
"""A JSON object as Stash sends it."""

# --- selections -----------------------------------------------------------------------------------------------

TAG = "id name aliases description parents { id }"
MARKER = "id title seconds end_seconds scene { id } primary_tag { id } tags { id }"
_FILE = "path size fingerprints { type value }"
_ZIP = {True: "zip_file { path }", False: "zip_file_id"}
"""By whether the server is 0.29 or newer."""


def medium_fields(kind: Kind, *, zip_objects: bool) -> str:
    """Selection of one scene, image or gallery."""
    file = f"{_FILE} {_ZIP[zip_objects]}"
    common = "id title organized updated_at tags { id }"
    match kind:
        case Kind.SCENE:
            return f"{common} files {{ {file} width height duration }}"
        case Kind.IMAGE:
            video = f"... on VideoFile {{ {file} width height duration }}"
            still = f"... on ImageFile {{ {file} width height }}"
            return f"{common} visual_files {{ __typename {video} {still} }}"
        case Kind.GALLERY:
            return f"{common} files {{ {_FILE} }} folder {{ path }}"


HANDSHAKE = """query HavenHandshake {
  version { version hash }
  configuration { general { apiKey maxSessionAge username } }
  marker: __type(name: "SceneMarkerCreateInput") { inputFields { name } }
  file: __type(name: "VideoFile") { fields { name } }
}"""
"""One round trip instead of the whole schema: what this server is and can do, and whether it has an API key."""

KEEP_ALIVE = "query HavenKeepAlive { version { version } }"

TAG_CREATE = f"mutation HavenTagCreate($input: TagCreateInput!) {{ tagCreate(input: $input) {{ {TAG} }} }}"
TAGS_BELOW = (
    "query HavenTagsBelow($filter: TagFilterType!) "
    f'{{ findTags(tag_filter: $filter, filter: {{per_page: -1, sort: "name"}}) {{ tags {{ {TAG} }} }} }}'
)
TAGS_DESTROY = "mutation HavenTagsDestroy($ids: [ID!]!) { tagsDestroy(ids: $ids) }"
MARKERS_DESTROY = "mutation HavenMarkersDestroy($ids: [ID!]!) { sceneMarkersDestroy(ids: $ids) }"
MARKERS_BY_ID = f"""query HavenMarkers($ids: [ID!]!) {{
  findSceneMarkers(ids: $ids) {{ scene_markers {{ {MARKER} }} }}
}}"""
MARKER_UPDATE = """mutation HavenMarkerUpdate($input: SceneMarkerUpdateInput!) {
  sceneMarkerUpdate(input: $input) { id }
}"""
MARKERS_UPDATE = """mutation HavenMarkersChange($input: BulkSceneMarkerUpdateInput!) {
  bulkSceneMarkerUpdate(input: $input) { id }
}"""
SCENE_MARKERS = f"query HavenSceneMarkers($id: ID!) {{ findScene(id: $id) {{ scene_markers {{ {MARKER} }} }} }}"

_BULK = {
    Kind.SCENE: ("BulkSceneUpdateInput", "bulkSceneUpdate"),
    Kind.IMAGE: ("BulkImageUpdateInput", "bulkImageUpdate"),
    Kind.GALLERY: ("BulkGalleryUpdateInput", "bulkGalleryUpdate"),
}


def bulk_update(kind: Kind) -> str:
    """Document that changes many media at once; variable `input`."""
    type_name, field_name = _BULK[kind]
    return f"mutation HavenTagChange($input: {type_name}!) {{ {field_name}(input: $input) {{ id }} }}"


_FINDS = {
    Kind.SCENE: ("findScenes", "scenes"),
    Kind.IMAGE: ("findImages", "images"),
    Kind.GALLERY: ("findGalleries", "galleries"),
}


def media_query(kind: Kind, *, zip_objects: bool) -> str:
    """Document that fetches media by `ids`, in field `found`, list `rows`; one unknown id fails the whole."""
    field_name, rows = _FINDS[kind]
    fields = medium_fields(kind, zip_objects=zip_objects)
    return f"query HavenMedia($ids: [ID!]) {{ found: {field_name}(ids: $ids) {{ rows: {rows} {{ {fields} }} }} }}"


def studio_names_query(names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Document and variables that look studios up by name or alias, in fields t0, t1, …; compare again."""
    heads = ", ".join(f"$f{i}: StudioFilterType" for i in range(len(names)))
    fields = "\n".join(
        f"  t{i}: findStudios(studio_filter: $f{i}, filter: {{per_page: -1}}) {{ studios {{ id name aliases }} }}"
        for i in range(len(names))
    )
    return f"query HavenStudios({heads}) {{\n{fields}\n}}", _by_name_or_alias(names)


def _by_name_or_alias(names: Sequence[str]) -> dict[str, Any]:
    return {
        f"f{i}": {
            "name": {"value": name, "modifier": "EQUALS"},
            "OR": {"aliases": {"value": name, "modifier": "EQUALS"}},
        }
        for i, name in enumerate(names)
    }


_CREATES = re.compile(r"^\s*mutation\b.*?\b\w+Create\s*\(", re.DOTALL)


def creates(document: str) -> bool:
    """Whether sending the document twice would make two of what it makes one of."""
    return bool(_CREATES.search(document))


# --- many things in one document ------------------------------------------------------------------------------


def tag_names_query(names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Document and variables that look names up, as name or alias, in fields t0, t1, …

    Stash compares with SQL LIKE, so `_` and `%` in a name match more than the name: compare again.
    """
    heads = ", ".join(f"$f{i}: TagFilterType" for i in range(len(names)))
    fields = "\n".join(
        f"  t{i}: findTags(tag_filter: $f{i}, filter: {{per_page: -1}}) {{ tags {{ {TAG} }} }}"
        for i in range(len(names))
    )
    return f"query HavenTagNames({heads}) {{\n{fields}\n}}", _by_name_or_alias(names)


_COUNTS = (
    "scene_count scene_marker_count image_count gallery_count performer_count studio_count group_count child_count"
)


def tags_by_id_query(ids: Sequence[str], *, counts: bool = False) -> tuple[str, dict[str, Any]]:
    """Document and variables that fetch tags in fields t0, t1, …; null for those that do not exist."""
    heads = ", ".join(f"$i{i}: ID!" for i in range(len(ids)))
    selection = f"id {_COUNTS}" if counts else TAG
    fields = "\n".join(f"  t{i}: findTag(id: $i{i}) {{ {selection} }}" for i in range(len(ids)))
    return f"query HavenTags({heads}) {{\n{fields}\n}}", {f"i{i}": tag_id for i, tag_id in enumerate(ids)}


def is_unused(tag: Json) -> bool:
    """Whether a tag fetched with `counts` is carried by nothing."""
    return not any(tag.get(name) for name in _COUNTS.split())


def markers_create(drafts: Mapping[str, MarkerDraft]) -> tuple[str, dict[str, Any]]:
    """Document and variables that create markers; each under its key, which must be a GraphQL name."""
    heads = ", ".join(f"${alias}: SceneMarkerCreateInput!" for alias in drafts)
    fields = "\n".join(
        f"  {alias}: sceneMarkerCreate(input: ${alias}) {{ id title seconds end_seconds }}" for alias in drafts
    )
    return (
        f"mutation HavenMarkersCreate({heads}) {{\n{fields}\n}}",
        {alias: draft_input(draft) for alias, draft in drafts.items()},
    )


def draft_input(draft: MarkerDraft) -> dict[str, Any]:
    """A draft as `SceneMarkerCreateInput`."""
    return {
        "scene_id": draft.scene_id,
        "title": draft.title,
        "seconds": seconds(draft.start_ms),
        "end_seconds": None if draft.end_ms is None else seconds(draft.end_ms),
        "primary_tag_id": draft.primary_tag_id,
        "tag_ids": list(_secondary(draft.tag_ids, draft.primary_tag_id)),
    }


# --- filters --------------------------------------------------------------------------------------------------

ALL_BY_ID = {"per_page": -1, "sort": "id", "direction": "ASC"}
"""Everything, in a stable order: without a sort Stash gives none."""


def tags_filter(*, with_tags: Collection[str] = (), without_tags: Collection[str] = ()) -> dict[str, Any]:
    """Tag criterion: all of `with_tags`, none of `without_tags`, their children not counted.

    Raises:
        ValueError: both are empty, or an id is no number: Stash would take such a criterion for
            “everything” and hand out the whole library.
    """
    wanted, unwanted = _ids(with_tags), _ids(without_tags)
    if wanted:
        return {"value": wanted, "excludes": unwanted, "modifier": "INCLUDES_ALL", "depth": 0}
    if unwanted:
        return {"value": unwanted, "modifier": "EXCLUDES", "depth": 0}
    raise ValueError("a tag criterion without a tag would match the whole library")


def _ids(values: Collection[str]) -> list[str]:
    if isinstance(values, str) or any(not is_id(value) for value in values):
        raise ValueError("ids of Stash are texts of digits")
    return list(dict.fromkeys(values))


def is_id(value: str) -> bool:
    """Whether it can be the id of anything in Stash."""
    return bool(re.fullmatch(r"[0-9]{1,18}", value, re.ASCII))


# --- answers → facts ------------------------------------------------------------------------------------------


def seconds(at_ms: int) -> float:
    """Milliseconds as Stash's seconds."""
    return round(at_ms / 1000, 3)


def milliseconds(value: object) -> int:
    """Stash's seconds, int or float, as whole milliseconds."""
    return round(float(value) * 1000) if isinstance(value, int | float) else 0


def tag_of(row: Json) -> TagRef:
    """A row selected with `TAG`."""
    return TagRef(
        id=str(row["id"]),
        name=row["name"],
        aliases=tuple(row.get("aliases") or ()),
        description=row.get("description") or "",
        parent_ids=tuple(str(parent["id"]) for parent in row.get("parents") or ()),
    )


def fold(name: str) -> str:
    """A tag name as Stash compares it: trimmed, ASCII letters without case, everything else exactly."""
    return "".join(char.lower() if char.isascii() else char for char in name.strip())


def takes_for_equal(asked: str, present: str) -> bool:
    """Whether Stash, which compares names with SQL LIKE, takes `asked` for the name `present`."""
    wild = {"_": ".", "%": ".*"}
    pattern = "".join(wild.get(char) or re.escape(char) for char in fold(asked))
    return bool(re.fullmatch(pattern, fold(present), re.DOTALL))


def best_tag(name: str, candidates: Iterable[TagRef]) -> TagRef | None:
    """The tag that a name means: by name before by alias, by exact spelling before by folded; then the oldest."""
    exact, folded = name.strip(), fold(name)
    ranked: list[tuple[int, int, TagRef]] = []
    for tag in candidates:
        if tag.name == exact:
            rank = 0
        elif fold(tag.name) == folded:
            rank = 1
        elif exact in tag.aliases:
            rank = 2
        elif any(fold(alias) == folded for alias in tag.aliases):
            rank = 3
        else:
            continue
        ranked.append((rank, int(tag.id), tag))
    return min(ranked, key=lambda entry: entry[:2])[2] if ranked else None


def marker_of(row: Json) -> Marker:
    """A row selected with `MARKER`."""
    end, primary = row.get("end_seconds"), str(row["primary_tag"]["id"])
    return Marker(
        id=str(row["id"]),
        scene_id=str(row["scene"]["id"]),
        title=row.get("title") or "",
        start_ms=milliseconds(row["seconds"]),
        end_ms=None if end is None else milliseconds(end),
        primary_tag_id=primary,
        tag_ids=_secondary((str(tag["id"]) for tag in row.get("tags") or ()), primary),
    )


def created_marker(row: Json, draft: MarkerDraft) -> Marker:
    """The answer of `markers_create` together with its draft; the same as reading the marker anew."""
    end = row.get("end_seconds")
    return Marker(
        id=str(row["id"]),
        scene_id=draft.scene_id,
        title=row.get("title") or "",
        start_ms=milliseconds(row["seconds"]),
        end_ms=None if end is None else milliseconds(end),
        primary_tag_id=draft.primary_tag_id,
        tag_ids=_secondary(draft.tag_ids, draft.primary_tag_id),
    )


def is_draft(marker: Marker, draft: MarkerDraft) -> bool:
    """Whether a marker in Stash is what the draft would become there."""
    return (
        (marker.scene_id, marker.title.strip(), marker.start_ms, marker.end_ms, marker.primary_tag_id)
        == (draft.scene_id, draft.title.strip(), draft.start_ms, draft.end_ms, draft.primary_tag_id)
    ) and marker.tag_ids == _secondary(draft.tag_ids, draft.primary_tag_id)


def _secondary(tag_ids: Iterable[str], primary: str) -> tuple[str, ...]:
    """Sorted by number; Stash never repeats the primary tag."""
    return tuple(sorted({*tag_ids} - {primary}, key=lambda tag_id: (len(tag_id), tag_id)))


def medium_of(kind: Kind, row: Json) -> Medium:
    """A row selected with `medium_fields`."""
    files = tuple(_file_of(kind, file) for file in row.get("visual_files" if kind is Kind.IMAGE else "files") or ())
    return Medium(
        kind=kind,
        id=str(row["id"]),
        title=row.get("title") or _name(files, row),
        files=files,
        tag_ids=frozenset(str(tag["id"]) for tag in row.get("tags") or ()),
        organized=bool(row.get("organized")),
        updated_at=row.get("updated_at") or "",
    )


def _name(files: tuple[MediaFile, ...], row: Json) -> str:
    folder = (row.get("folder") or {}).get("path")
    path = files[0].path if files else folder if isinstance(folder, str) else ""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _file_of(kind: Kind, row: Json) -> MediaFile:
    path = str(row.get("path") or "")
    prints: dict[str, str] = {}
    for entry in row.get("fingerprints") or ():
        prints.setdefault(str(entry["type"]), str(entry["value"]))
    duration = row.get("duration")
    return MediaFile(
        path=path,
        size_bytes=int(row.get("size") or 0),
        fingerprints=prints,
        duration_s=float(duration) if duration else None,
        width_px=int(row.get("width") or 0),
        height_px=int(row.get("height") or 0),
        is_video=kind is Kind.SCENE or row.get("__typename") == "VideoFile",
        zip_path=_zip_path(row, path),
    )


def _zip_path(row: Json, path: str) -> str | None:
    archive = row.get("zip_file")
    if isinstance(archive, Mapping):
        return str(archive["path"])
    if row.get("zip_file_id"):  # before 0.29 only the id is told; the archive's path leads the file's own
        match = re.match(r"(?i)(.+?\.(?:zip|cbz))[/\\]", path)
        return match[1] if match else None
    return None
