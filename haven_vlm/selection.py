"""What a batch run is about, when not only what carries the trigger tag: from settings to one question to Stash."""

from __future__ import annotations

import re
from collections.abc import Collection

from haven_vlm.errors import ConfigError
from haven_vlm.facts import Kind
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import MediaFilter, StashCollections

_ORDERS = {
    "oldest": ("id", False),  # ids count up, and unlike times of creation there are no two alike
    "newest": ("id", True),
    "shortest": ("duration", False),
}
_SHORTEST = {Kind.IMAGE: "filesize", Kind.GALLERY: "images_count"}
"""What has no duration is short when it is small."""


def media_filter(
    kind: Kind,
    settings: Settings,
    *,
    trigger_id: str,
    done_ids: Collection[str],
    skip_tag_ids: Collection[str] = (),
    skip_studio_ids: Collection[str] = (),
) -> MediaFilter:
    """Stash's filter for what the settings select. Pure.

    Args:
        trigger_id: the tag of what is wanted when `select` is `tagged`.
        done_ids: tags of what has been worked on; empty ids are tags that do not exist yet.
        skip_tag_ids, skip_studio_ids: what `skip_tags` and `skip_studios` name.

    Raises:
        ValueError: the trigger tag has no id: without one Stash would select the whole library.
    """
    sort, descending = _ORDERS[settings.select_order]
    if settings.select_order == "shortest":
        sort = _SHORTEST.get(kind, sort)
    if settings.select == "tagged":
        if not trigger_id:
            raise ValueError("what is tagged can only be found with a tag")
        criteria: dict[str, object] = {"tags": {"value": [trigger_id], "modifier": "INCLUDES", "depth": 0}}
        return MediaFilter(kind, criteria, sort, descending)
    # Stash takes an empty filter for "everything" as well, but so it is meant, and not a slip
    criteria = {"id": {"value": 0, "modifier": "GREATER_THAN"}}
    if unwanted := sorted({i for i in (*done_ids, *skip_tag_ids) if i}, key=int):
        criteria["tags"] = {"value": unwanted, "modifier": "EXCLUDES", "depth": 0}
    if settings.skip_organized:
        criteria["organized"] = False
    if skip_studio_ids:
        criteria["studios"] = {"value": sorted(skip_studio_ids, key=int), "modifier": "EXCLUDES", "depth": -1}
    if folders := [f for f in settings.skip_paths if f.strip()]:
        criteria["path"] = {"value": folders_pattern(folders), "modifier": "NOT_MATCHES_REGEX"}
    return MediaFilter(kind, criteria, sort, descending)


def folders_pattern(folders: Collection[str]) -> str:
    """A regular expression, of Go's kind, for what lies in any of these folders."""
    ways = []
    for folder in folders:
        bare = folder.rstrip("/\\")
        if re.match(r"[A-Za-z]:|\\\\", bare):  # Windows knows neither case nor which slash
            parts = r"[/\\]".join(re.escape(part) for part in re.split(r"[/\\]", bare))
            ways.append(f"(?i:{parts})")
        else:
            ways.append(re.escape(bare))
    return f"^(?:{'|'.join(ways)})(?:[/\\\\]|$)"


async def select(
    gateway: StashCollections, kind: Kind, settings: Settings, *, trigger_id: str, done_ids: Collection[str]
) -> list[str]:
    """Ids of the media that the settings select, in their order; at most `select_limit`.

    Raises:
        ConfigError: tags or studios that shall be left out do not exist; names them all.
    """
    if settings.select == "tagged" and not trigger_id:
        return []
    untagged = settings.select == "untagged"
    tags = await gateway.find_tags(settings.skip_tags) if untagged and settings.skip_tags else {}
    studios = await gateway.find_studios(settings.skip_studios) if untagged and settings.skip_studios else {}
    if untagged:
        missing = [f"skip_tags: Stash has no tag “{n}”" for n in settings.skip_tags if n not in tags]
        missing += [f"skip_studios: Stash has no studio “{n}”" for n in settings.skip_studios if n not in studios]
        if missing:  # what is misspelled would not be left out
            raise ConfigError("; ".join(missing))
    wanted = media_filter(
        kind,
        settings,
        trigger_id=trigger_id,
        done_ids=done_ids,
        skip_tag_ids=[tag.id for tag in tags.values()],
        skip_studio_ids=list(studios.values()),
    )
    return (await gateway.find_ids(wanted))[: settings.select_limit]
