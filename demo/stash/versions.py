"""What older versions of Stash do not have: asking for it there is HTTP 422, as with the real thing."""

from __future__ import annotations

import re

from graphql import GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema

Version = tuple[int, int]
"""Major and minor."""

FILE_TYPES = ("BaseFile", "BasicFile", "GalleryFile", "VideoFile", "ImageFile", "Folder")
SINCE: dict[Version, tuple[str, ...]] = {
    (0, 25): ("Mutation.runPluginOperation",),
    (0, 27): ("Mutation.bulkTagUpdate", "SceneFilterType.markers_filter"),
    (0, 28): (
        "Mutation.sceneMarkersDestroy",
        "SceneMarker.end_seconds",
        "SceneMarkerCreateInput.end_seconds",
        "SceneMarkerUpdateInput.end_seconds",
        "SceneMarkerFilterType.duration",
        "Tag.sort_name",
        "TagCreateInput.sort_name",
        "TagUpdateInput.sort_name",
        "TagFilterType.sort_name",
    ),
    (0, 29): (
        *(f"{name}.{field}" for name in FILE_TYPES for field in ("zip_file", "parent_folder")),
        *(f"{name}FilterType.files_filter" for name in ("Scene", "Image")),
    ),
    (0, 30): ("Mutation.bulkSceneMarkerUpdate",),
}
"""Version to the fields that came with it."""


def parsed(text: str) -> Version:
    """The version a server says it has; unknown text is the newest."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (999, 0)


def take_back(schema: GraphQLSchema, version: Version) -> None:
    """Remove from a schema what came after a version."""
    for since, fields in SINCE.items():
        if since <= version:
            continue
        for path in fields:
            type_name, _, field = path.partition(".")
            owner = schema.type_map[type_name]
            assert isinstance(owner, GraphQLObjectType | GraphQLInputObjectType | GraphQLInterfaceType)
            del owner.fields[field]
