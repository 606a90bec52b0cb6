"""Which writes take back what runs did, minus what the user has changed since. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from haven_vlm.facts import Marker
from haven_vlm.ownership import (
    Action,
    NewMarker,
    Now,
    OwnedMarker,
    OwnedTag,
    Record,
    RejectedSpan,
    Role,
    Step,
    WritePlan,
    draft_of,
    is_unwanted,
    rejection,
    write_steps,
)


class Change(StrEnum):
    """What happened to one thing in Stash."""

    TAG_ADDED = "tag_added"
    TAG_REMOVED = "tag_removed"
    MARKER_CREATED = "marker_created"
    MARKER_REMOVED = "marker_removed"


@dataclass(frozen=True, slots=True)
class Effect:
    """One change a run made to a medium, with what it takes to reverse it."""

    id: int
    run_id: int
    change: Change
    object_id: str
    """Id of the tag or marker."""
    owner_run: int
    """The run that the thing belonged to before (removed) or belongs to since (added); 0: the user's."""
    role: Role
    marker: Marker | None = None
    """The marker's values."""


def plan_undo(effects: Sequence[Effect], now: Now, ours: Record, *, give_back: bool) -> WritePlan:
    """Take back these effects of one medium, latest first, as far as what they made is still ours.

    What was added goes if it is still ours and unedited. What was removed comes back: markers get a new id; tags
    of ours are ours again; the trigger comes back too. It was the user's own tag, and a state without it would
    not be the one before the run; whoever wants no second run takes it off.
    With effects of several runs only the net difference is written.

    Args:
        effects: newest first.
        give_back: False when a later run, which is not undone, wrote to the medium too: what it found stands in
            place of what was removed, so nothing comes back; but markers that were removed at the user's word, which
            no run makes again.
    """
    tags: dict[str, OwnedTag] = {i: ours.tags.get(i, OwnedTag(i, 0, Role.THEIRS)) for i in now.medium.tag_ids}
    markers = dict(ours.markers)
    standing = frozenset(m.id for m in now.markers)  # what came back has its new id in the effect, too
    unwanted: list[RejectedSpan] = []
    for effect in effects:
        if effect.change is Change.TAG_ADDED:
            tag = tags.get(effect.object_id)
            if tag is not None and tag.role is not Role.THEIRS and tag.run_id == effect.run_id:
                del tags[effect.object_id]
        elif effect.change is Change.MARKER_CREATED:
            if markers.pop(effect.object_id, None) is None and effect.marker is not None:
                unwanted.append(rejection(effect.marker))  # the user edited or deleted it: that is their word on it
        elif not give_back and not (effect.change is Change.MARKER_REMOVED and effect.role is Role.THEIRS):
            continue
        elif effect.change is Change.TAG_REMOVED:
            barred = effect.object_id in now.lost_tags or effect.object_id in ours.rejected_tags
            if not barred and effect.object_id not in tags:
                tags[effect.object_id] = OwnedTag(effect.object_id, effect.owner_run, effect.role)
        elif effect.marker is not None and effect.object_id not in markers and effect.object_id not in standing:
            marker = replace(effect.marker, id=effect.object_id, scene_id=now.medium.id)
            if not {marker.primary_tag_id, *marker.tag_ids} & now.lost_tags:
                markers[effect.object_id] = OwnedMarker(marker, effect.owner_run)
    new, leave = [], []
    for marker_id, owned in markers.items():
        if marker_id in ours.markers:
            continue
        draft = draft_of(owned.marker)
        refused = is_unwanted(draft, unwanted) or rejection(owned.marker) in ours.rejected_spans
        if refused and owned.run_id:  # what was removed at the user's word comes back at their word
            leave.append(draft)
        else:
            new.append(NewMarker(draft, owned.run_id, marker_id))
    writes = write_steps(
        new=new,
        add=[t for i, t in sorted(tags.items()) if i not in now.medium.tag_ids],
        old=[m for i, m in ours.markers.items() if i not in markers],
        standing=standing,
    )
    over = tuple(t for i, t in sorted(ours.tags.items()) if i not in tags)
    last = Step(Action.REMOVE_TAGS, tags=over) if over else None
    kept = tuple(m.marker for i, m in ours.markers.items() if i in markers)
    return WritePlan(writes, last, kept, tuple(leave))
