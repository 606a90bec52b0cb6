"""The connector's own tags in Stash: found or created, by the names the settings give them."""

from __future__ import annotations

from dataclasses import dataclass

from haven_vlm.applying import Applier
from haven_vlm.errors import ConfigError
from haven_vlm.facts import TagRef
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashGateway

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
    """The connector's own tags, as they stand in Stash. In a preview, one that is missing has an empty id."""

    parent: TagRef
    trigger: TagRef
    update: TagRef
    tagged: TagRef
    errored: TagRef
    incorrect: TagRef
    local_only: TagRef
    created: frozenset[str]
    """Names of those that did not exist before this run (or still do not, in a preview)."""


def _names(settings: Settings) -> dict[str, str]:
    return {
        "parent": settings.parent_tag,
        "trigger": settings.trigger_tag,
        "update": settings.update_tag,
        "tagged": settings.tagged_tag,
        "errored": settings.errored_tag,
        "incorrect": settings.incorrect_tag,
        "local_only": settings.local_only_tag,
    }


async def find_marks(gateway: StashGateway, settings: Settings) -> Marks:
    """Find the connector's own tags and create none.

    Raises:
        StashError: Stash cannot be asked.
        ConfigError: two of them are one tag in Stash.
    """
    names = _names(settings)
    found = await gateway.find_tags(list(names.values()))
    tags = {role: found.get(name) or TagRef("", name) for role, name in names.items()}
    by_id: dict[str, str] = {}
    for role, tag in tags.items():
        if tag.id and (other := by_id.setdefault(tag.id, role)) != role:
            raise ConfigError(
                f"In Stash, “{names[role]}” and “{names[other]}” are one tag (“{tag.name}”): one is an alias of the "
                "other. Remove the alias in Stash, or choose another name in the settings."
            )
    return Marks(**tags, created=frozenset(t.name for t in tags.values() if not t.id))


async def ensure_marks(gateway: StashGateway, applier: Applier, run_id: int, settings: Settings) -> Marks:
    """Find the connector's own tags, and create those that are missing under the parent tag.

    Raises:
        StashError: Stash cannot be asked, or refuses a name.
    """
    marks = await find_marks(gateway, settings)
    if not marks.created:
        return marks
    names = _names(settings)
    parent = names.pop("parent")
    made = await applier.ensure_tags(run_id, {parent: _DESCRIPTIONS["parent"]})
    wanted = {name: _DESCRIPTIONS[role] for role, name in names.items()}
    made |= await applier.ensure_tags(run_id, wanted, parent_id=made[parent].id)
    return Marks(parent=made[parent], **{role: made[name] for role, name in names.items()}, created=marks.created)
