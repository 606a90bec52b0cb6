"""The connector's own tags in Stash: found or created, by the names the settings give them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from haven_vlm.errors import StashRefused
from haven_vlm.facts import TagRef
from haven_vlm.ports import StashGateway
from haven_vlm.settings import Settings

log = logging.getLogger(__name__)

_DESCRIPTIONS = {
    "parent": "Parent of the tags that A Haven VLM Connector creates.",
    "trigger": "Put this on scenes and images that A Haven VLM Connector shall look at.",
    "update": "Put this on media that shall get changed settings applied, without new questions where possible.",
    "tagged": "A Haven VLM Connector has looked at this.",
    "errored": "A Haven VLM Connector cannot read this medium; the reason is in its report.",
    "incorrect": "Put this on markers and images that A Haven VLM Connector got wrong.",
    "local_only": "Frames of this never leave the local network.",
}


@dataclass(frozen=True, slots=True)
class Marks:
    """The connector's own tags, as they stand in Stash."""

    parent: TagRef
    trigger: TagRef
    update: TagRef
    tagged: TagRef
    errored: TagRef
    incorrect: TagRef
    local_only: TagRef
    created: frozenset[str]
    """Ids of those that did not exist before this run."""

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all of them."""
        return frozenset(
            tag.id
            for tag in (
                self.parent, self.trigger, self.update, self.tagged, self.errored, self.incorrect, self.local_only,
            )
        )  # fmt: skip


async def ensure_marks(gateway: StashGateway, settings: Settings) -> Marks:
    """Find the connector's own tags, and create those that are missing under the parent tag.

    Raises:
        StashError: Stash cannot be asked, or refuses a name.
    """
    names = {
        "parent": settings.parent_tag,
        "trigger": settings.trigger_tag,
        "update": settings.update_tag,
        "tagged": settings.tagged_tag,
        "errored": settings.errored_tag,
        "incorrect": settings.incorrect_tag,
        "local_only": settings.local_only_tag,
    }
    found = await gateway.find_tags(list(names.values()))
    tags: dict[str, TagRef] = {}
    created = set()
    for role, name in names.items():
        tag = found.get(name)
        if tag is None:
            parent_id = tags["parent"].id if role != "parent" else None
            tag = await create_tag(gateway, name, parent_id=parent_id, description=_DESCRIPTIONS[role])
            created.add(tag.id)
        tags[role] = tag
    return Marks(**tags, created=frozenset(created))


async def create_tag(gateway: StashGateway, name: str, *, parent_id: str | None, description: str = "") -> TagRef:
    """Create a tag, or take the one somebody else has just created.

    Raises:
        StashRefused: the name clashes with another tag's in a way only the user can mend. Stash compares new
            names with `_` and `%` as wildcards, so `VLM_TagMe` cannot be created beside `VLM TagMe`.
    """
    try:
        return await gateway.create_tag(name, parent_id=parent_id, description=description)
    except StashRefused as exc:
        if (tag := await gateway.find_tag(name)) is not None:
            return tag
        raise StashRefused(
            f"Stash does not accept a new tag called “{name}” ({exc}). Rename the other tag in Stash, "
            f"or choose another name in the settings."
        ) from exc
