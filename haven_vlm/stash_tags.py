"""Tags in Stash: found by any of their names, listed below a parent, created exactly once, destroyed.

Blocking; runs in the gateway's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from haven_vlm.errors import StashGone, StashRefused, StashUnavailable
from haven_vlm.facts import TagRef
from haven_vlm.stash_faults import NotSent, Patience, Reply, chunked, missing_id
from haven_vlm.stash_queries import (
    TAG_CREATE,
    TAGS_BELOW,
    TAGS_DESTROY,
    best_tag,
    fold,
    is_id,
    is_unused,
    tag_names_query,
    tag_of,
    tags_by_id_query,
    takes_for_equal,
)

log = logging.getLogger(__name__)

NAMES_PER_QUERY = 50
TAGS_PER_DESTROY = 25


class Talk(Protocol):
    """One document there, one answer back."""

    def run(self, document: str, variables: Mapping[str, Any], *, each: bool = False) -> Reply:
        """Have Stash carry out a document; passing faults are retried unless the document creates something.

        Args:
            each: the fields stand for themselves: return faults instead of raising the worst.
        """
        ...


def find_tags(talk: Talk, names: Collection[str]) -> dict[str, TagRef]:
    """Name as asked → the tag it means; names without one are left out."""
    wanted = list(dict.fromkeys(name for name in names if name.strip()))
    found: dict[str, TagRef] = {}
    for piece in chunked(wanted, NAMES_PER_QUERY):
        document, variables = tag_names_query([name.strip() for name in piece])
        reply = talk.run(document, variables)
        for number, name in enumerate(piece):
            tag = best_tag(name, map(tag_of, reply.data[f"t{number}"]["tags"]))
            if tag is not None:
                found[name] = tag
    return found


def tags_by_id(talk: Talk, ids: Collection[str]) -> dict[str, TagRef]:
    """Those of the tags that still exist."""
    return {row["id"]: tag_of(row) for row in _tag_rows(talk, ids, counts=False)}


def unused_tags(talk: Talk, ids: Collection[str]) -> set[str]:
    """Those of the tags that exist and that nothing carries."""
    return {str(row["id"]) for row in _tag_rows(talk, ids, counts=True) if is_unused(row)}


def _tag_rows(talk: Talk, ids: Collection[str], *, counts: bool) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for piece in chunked([i for i in dict.fromkeys(ids) if is_id(i)], NAMES_PER_QUERY):
        data = talk.run(*tags_by_id_query(piece, counts=counts)).data
        rows += [data[f"t{number}"] for number in range(len(piece)) if data.get(f"t{number}")]
    return rows


def create_tag(
    talk: Talk, patience: Patience, name: str, *, parent_id: str | None = None, description: str = ""
) -> TagRef:
    """Create a tag, once.

    Raises:
        StashRefused: the name is taken, or Stash takes it for taken.
    """
    if not name.strip():
        raise StashRefused("a tag needs a name that is not blank")
    taken = find_tags(talk, [name]).get(name)
    if taken is not None:
        raise StashRefused(_clash(name, taken))
    values: dict[str, Any] = {"name": name.strip()}
    if parent_id is not None:
        values["parent_ids"] = [parent_id]
    if description:
        values["description"] = description
    last: StashUnavailable | None = None
    for turn in patience.turns():
        if turn and (found := find_tags(talk, [name]).get(name)) is not None:
            return found  # nobody else can be meant: it was not there before our first attempt
        try:
            return tag_of(talk.run(TAG_CREATE, {"input": values}).data["tagCreate"])
        except NotSent:
            raise
        except StashUnavailable as exc:
            last = exc
        except StashGone as exc:
            if parent_id is not None and parent_id not in tags_by_id(talk, [parent_id]):
                raise StashGone(f"the parent tag {parent_id} does not exist (any more)", ids=(parent_id,)) from exc
            raise
        except StashRefused as exc:
            raise StashRefused(_lookalike(talk, name) or f"cannot create the tag “{name}”: {exc}") from exc
    assert last is not None
    raise last


def _clash(name: str, tag: TagRef) -> str:
    if fold(tag.name) == fold(name):
        return f"the tag “{tag.name}” exists already"
    return f"the tag “{tag.name}” has “{name}” as an alias already"


def _lookalike(talk: Talk, name: str) -> str:
    """Name what Stash stumbled over when it takes _ or % in the name for any characters; '' if it is not that."""
    document, variables = tag_names_query([name.strip()])
    for tag in map(tag_of, talk.run(document, variables).data["t0"]["tags"]):
        for present in (tag.name, *tag.aliases):
            if takes_for_equal(name, present):
                return (
                    f"Stash refuses the tag “{name}” because it takes “_” and “%” for any characters, and there is "
                    f"“{present}” already. Rename that one in Stash, or choose another name in the settings"
                )
    return ""


def destroy_tags(talk: Talk, ids: Sequence[str]) -> None:
    """Destroy these tags; those that are gone already do not matter.

    Raises:
        StashRefused: a tag is the primary tag of a marker.
    """
    for piece in chunked(list(tags_by_id(talk, ids)), TAGS_PER_DESTROY):
        try:
            talk.run(TAGS_DESTROY, {"ids": piece})
        except StashGone:
            one_by_one(talk, TAGS_DESTROY, piece)


def tags_below(talk: Talk, tag_id: str) -> list[TagRef]:
    """Children of a tag, their children and so on, each once, by name as Stash sorts."""
    criterion = {"parents": {"value": [tag_id], "modifier": "INCLUDES", "depth": -1}}
    rows = talk.run(TAGS_BELOW, {"filter": criterion}).data["findTags"]["tags"]
    return [tag_of(row) for row in rows if str(row["id"]) != tag_id]


def one_by_one(talk: Talk, document: str, ids: Sequence[str]) -> None:
    for object_id in ids:
        try:
            talk.run(document, {"ids": [object_id]})
        except StashGone as exc:
            if missing_id(exc) != object_id:  # not gone, but held by something
                raise StashRefused(str(exc)) from exc
            log.debug("%s was gone already", object_id)
