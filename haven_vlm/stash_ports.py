"""Stash as the other parts may expect it to be; the rest of the seams are in `ports`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium, TagRef


class StashGateway(Protocol):
    """Stash, as far as this project needs it. All calls retry passing faults by themselves.

    Raises, everywhere:
        StashUnavailable: after the retries, still no answer.
        StashUnauthorized: the login does not hold.
        StashRefused / StashGone: Stash said no / the object is not there.
    """

    async def plugin_settings(self) -> Mapping[str, object]:
        """What the settings page of this plugin holds; empty before anything was saved there."""
        ...

    async def ui_setting(self, key: str) -> object:
        """A setting of Stash's interface, such as 'vrTag' (name of the tag of VR scenes); None when never set."""
        ...

    async def find_tag(self, name: str) -> TagRef | None:
        """The tag of exactly this name (first choice), else the one that has it as an alias; case is ignored."""
        ...

    async def find_tags(self, names: Collection[str]) -> dict[str, TagRef]:
        """`find_tag` for many names in few round trips; names without a tag are left out."""
        ...

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        """Tags that still exist among these ids."""
        ...

    async def create_tag(self, name: str, *, parent_id: str | None = None, description: str = "") -> TagRef:
        """Create a tag; raises `StashRefused` when the name clashes."""
        ...

    async def unused_tags(self, ids: Collection[str]) -> set[str]:
        """Those of these tags that still exist and that nothing carries: no medium, marker, performer, studio or
        group, and no tag has it as its parent."""
        ...

    async def destroy_tags(self, ids: Sequence[str]) -> None: ...

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        """Ids of all media that carry this very tag, ascending by id."""
        ...

    async def medium(self, kind: Kind, medium_id: str) -> Medium | None:
        """The medium as it is now; None when it does not exist (any more)."""
        ...

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """Add tags to media; those already there stay."""
        ...

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None: ...

    async def scene(self, scene_id: str) -> tuple[Medium, list[Marker]] | None:
        """A scene and all its markers, ascending by start, in one request; None when it does not exist (any more)."""
        ...

    async def markers(self, scene_id: str) -> list[Marker]:
        """All markers of a scene, ascending by start."""
        ...

    async def markers_by_id(self, ids: Collection[str]) -> dict[str, Marker]:
        """Markers that still exist among these ids, on whatever scene they stand now (merging scenes moves them)."""
        ...

    async def create_markers(self, drafts: Sequence[MarkerDraft]) -> list[Marker]:
        """Create markers in few round trips; in the order of the drafts.

        Raises:
            PartialWrite: some were created before Stash failed; `created` says which.
        """
        ...

    async def destroy_markers(self, ids: Collection[str]) -> None:
        """Destroy these markers; those that are gone already do not matter."""
        ...

    def stream_url(self, kind: Kind, medium_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's own stream of the primary file, and the headers that authenticate there."""
        ...


@dataclass(frozen=True, slots=True)
class MediaFilter:
    """Which media of one kind a batch run is about, and in which order; see `selection`."""

    kind: Kind
    criteria: Mapping[str, object]
    """Stash's own filter of that kind; never empty, because that would be the whole library."""
    sort: str = "id"
    descending: bool = False


class StashCollections(StashGateway, Protocol):
    """What work on many small media at once needs of Stash besides."""

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        """Those of these media that exist, in few round trips."""
        ...

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        """Ids of a gallery's images, ascending."""
        ...

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        """Ids of all media that fit, in the order wanted."""
        ...

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        """Name or alias of a studio → its id; names without one are left out. Letter case is ignored."""
        ...

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        """All markers that have this very tag as their primary tag or among the others, ascending by id."""
        ...

    async def untag_markers(self, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
        """Take a tag off markers; those that are gone do not matter. `primary_tag_id`: their new primary tag."""
        ...

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's small copy of an image, made when it is asked for; and headers, as `stream_url`."""
        ...


class StashReviewing(StashGateway, Protocol):
    """What carrying out a person's decisions about markers needs of Stash besides."""

    async def move_marker(self, marker_id: str, start_ms: int, end_ms: int) -> None:
        """Give a marker another start and end; raises `StashGone` when it is gone."""
        ...

    async def tag_marker(self, marker_id: str, tag_id: str) -> None:
        """Add a secondary tag to a marker; those it has stay. Raises `StashGone` when it is gone."""
        ...


class StashTasks(StashCollections, StashReviewing, Protocol):
    """What the tasks together need of Stash."""


class TagTree(Protocol):
    """Tags of Stash as a tree; what the vocabulary can come from."""

    async def find_tag(self, name: str) -> TagRef | None:
        """See `StashGateway.find_tag`."""
        ...

    async def tags_below(self, tag_id: str) -> list[TagRef]:
        """Children of a tag, their children and so on, each once, by name."""
        ...
