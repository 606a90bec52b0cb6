"""`tag_list: from_stash`: the vocabulary is what stands below one tag in Stash."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from haven_vlm.errors import ConfigError
from haven_vlm.facts import TagRef
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import TagTree
from haven_vlm_utility import control_character

log = logging.getLogger(__name__)

_LONGEST_NAME = 200
_LONGEST_DEFINITION = 2000
"""Characters; more would cost every question of the run more than it helps."""


async def with_vocabulary(settings: Settings, tree: TagTree) -> Settings:
    """The settings with a tag list; unchanged where they have one.

    Raises:
        ConfigError: the parent is not there, has no children, or groups and implications name other tags.
    """
    if settings.tag_list:
        return settings
    parent = await tree.find_tag(settings.tag_parent)
    if parent is None:
        raise ConfigError(
            f"tag_parent: Stash has no tag “{settings.tag_parent}”. Create it there and put the tags to look for below "
            "it, or write a tag list."
        )
    below = [tag for tag in await tree.tags_below(parent.id) if not _is_ours(tag, settings)]
    if not below:
        raise ConfigError(
            f"tag_parent: the tag “{parent.name}” has no tags below it in Stash. Make it the parent of those to look "
            "for (Stash: Tags → a tag → Edit → Parent tags)."
        )
    try:
        made = Settings.model_validate({**dict(settings), "tag_parent": "", **vocabulary_of(below, settings)})
    except ValidationError as exc:
        reasons = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in exc.errors())
        raise ConfigError(f"The tags below “{parent.name}” in Stash do not go with the settings: {reasons}") from exc
    log.info("Vocabulary: %d tags below “%s” in Stash", len(made.tag_list), parent.name)
    return made


def vocabulary_of(tags: Sequence[TagRef], settings: Settings) -> dict[str, Any]:
    """Tags of Stash → `tag_list` and `implications`, the user's own implications kept. Siblings stand together."""
    usable = []
    for tag in tags:
        if len(tag.name.strip()) > _LONGEST_NAME:
            log.warning("The tag “%s…” is not looked for: its name is too long for a question.", tag.name[:40])
        elif (found := control_character(tag.name.strip())) is not None:
            log.warning(
                "The tag “%s” is not looked for: there is a %s in its name. Rename it in Stash.", tag.name, found
            )
        else:
            usable.append(tag)
    names = {tag.id: tag.name for tag in usable}
    implied = {
        tag.name: tuple(names[parent] for parent in tag.parent_ids if parent in names)
        for tag in usable
        if any(parent in names for parent in tag.parent_ids)
    }
    for name, others in settings.implications.items():
        implied[name] = tuple(dict.fromkeys((*implied.get(name, ()), *others)))
    return {
        "tag_list": [
            {
                "name": tag.name,
                "definition": _printable(tag.description)[:_LONGEST_DEFINITION],
                "aliases": [alias for alias in tag.aliases if alias.strip() and not control_character(alias.strip())],
            }
            for tag in sorted(usable, key=lambda tag: (min(tag.parent_ids, default="", key=_number), _fold(tag.name)))
        ],
        "implications": implied,
    }


def _printable(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if control_character(c) is None)


def _is_ours(tag: TagRef, settings: Settings) -> bool:
    own: Iterable[str] = (
        settings.parent_tag,
        settings.trigger_tag,
        settings.update_tag,
        settings.tagged_tag,
        settings.errored_tag,
        settings.incorrect_tag,
        settings.local_only_tag,
    )
    return _fold(tag.name) in map(_fold, own)


def _number(tag_id: str) -> tuple[int, str]:
    return (len(tag_id), tag_id)


def _fold(name: str) -> str:
    return name.strip().casefold()
