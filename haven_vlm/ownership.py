"""What is ours in Stash, what the user made of it, and the writes that follow. Pure.

Two questions, in this order (`undo_plan` answers a third):

* `observe`: of what the ledger recorded as ours, what is still ours now that Stash looks like this? What the user
  edited, removed or took over is theirs from then on, and remembered as a correction.
* `plan_writes`: which writes lead from what stands there to what a run found out, touching only what is ours?

The user's own things never appear in a plan, except the marks that start a run (`VLM_TagMe`), which come off last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium

MARKERS_PER_STEP = 50
"""Markers created between two entries in the ledger: one request to Stash."""

SAME_SHARE = 0.5
"""A marker of the user's stands for ours when both share half of what they cover together."""

REJECTED_SHARE = 0.5
"""A marker is not created when half of it lies where the user deleted or changed one of the same tag."""


class Role(StrEnum):
    """What a tag on a medium is to us."""

    RESULT = "result"
    """Found by a model. When the user takes it off, that is a correction."""
    MARK = "mark"
    """Bookkeeping, such as `VLM_Tagged`. Taking it off corrects nothing."""
    THEIRS = "theirs"
    """The user's: a trigger that a run took off, and that an undo puts back."""


@dataclass(frozen=True, slots=True)
class OwnedTag:
    """A tag on one medium, and whose it is."""

    tag_id: str
    run_id: int
    """The run that added it; 0 when it is not ours."""
    role: Role


@dataclass(frozen=True, slots=True)
class OwnedMarker:
    """A marker of ours, exactly as it stood when we last had a hand in it."""

    marker: Marker
    run_id: int
    """The run that made it; 0: it is the user's since they flagged it, and removed at their word."""


@dataclass(frozen=True, slots=True)
class RejectedSpan:
    """A stretch of a scene in which the user does not want a marker of this tag from us."""

    tag_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """All the ledger knows of one medium."""

    tags: Mapping[str, OwnedTag] = field(default_factory=dict)
    markers: Mapping[str, OwnedMarker] = field(default_factory=dict)
    """By marker id; also those recorded on other scenes that stand on this one now."""
    rejected_tags: frozenset[str] = frozenset()
    rejected_spans: tuple[RejectedSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Now:
    """A medium as it stands in Stash at one moment."""

    medium: Medium
    markers: tuple[Marker, ...] = ()
    lost_tags: frozenset[str] = frozenset()
    """Ids of the record or the wish that Stash has no tag for any more: deleted, or merged into another."""
    lost_scenes: frozenset[str] = frozenset()
    """Scenes of recorded markers that are gone: merged into this one."""
    newcomers: frozenset[str] = frozenset()
    """Ids of markers that came while we were writing: ours, and those of anybody who writes at the same time."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What turned out to have changed since the ledger last looked; to be recorded before anything is written."""

    rejected_tags: frozenset[str] = frozenset()
    """Taken off by the user: corrections."""
    dropped_tags: frozenset[str] = frozenset()
    """Not ours any more for another reason."""
    released_markers: frozenset[str] = frozenset()
    """Ids of markers that are the user's from now on, or gone."""
    rejected_spans: tuple[RejectedSpan, ...] = ()
    adopted: tuple[Marker, ...] = ()
    """Still ours, with values that changed because tags or scenes were merged."""
    corrections: tuple[Correction, ...] = ()
    """What all this says about our results. A marker that got another title says nothing, and is the user's."""

    def __bool__(self) -> bool:
        return bool(
            self.rejected_tags or self.dropped_tags or self.released_markers or self.rejected_spans or self.adopted
        )


def observe(record: Record, now: Now) -> tuple[Record, Findings]:
    """Compare the record with what stands there. Returns what is ours now, and what to write down about it.

    * A result tag that is not there any more was taken off by the user and is never added again; unless the tag
      itself is gone from Stash.
    * A marker of ours with any value changed is the user's; one that is gone was deleted. The span it had is
      not filled again.
    * Merged or deleted tags, and merged scenes, are no edits: what differs for that reason alone stays ours.
    * Start again: when our mark (`VLM_Tagged`) is gone together with every tag of ours, the medium was restored
      from a backup or cleared on purpose. Nothing is taken as a correction then; likewise for the markers, if they
      are all gone too. Otherwise a restored backup would silence the connector for ever.
    """
    present = now.medium.tag_ids
    gone = {i: t for i, t in record.tags.items() if i not in present}
    lost = frozenset(i for i in gone if i in now.lost_tags)
    cleared = len(gone) == len(record.tags) and any(t.role is Role.MARK for i, t in gone.items() if i not in lost)
    rejected = frozenset(i for i, t in gone.items() if t.role is Role.RESULT and i not in lost and not cleared)
    standing = {m.id: m for m in now.markers}
    all_gone = cleared and not any(i in standing for i in record.markers)
    ours: dict[str, OwnedMarker] = {}
    released: set[str] = set()
    spans: list[RejectedSpan] = []
    adopted: list[Marker] = []
    corrections = [_correction(now, i, record.tags[i].run_id) for i in sorted(rejected)]
    for marker_id, owned in record.markers.items():
        marker = standing.get(marker_id)
        if marker is not None and _unedited(owned.marker, marker, now):
            ours[marker_id] = OwnedMarker(marker, owned.run_id)
            if marker != owned.marker:
                adopted.append(marker)
        else:
            released.add(marker_id)
            if not all_gone:
                spans.append(rejection(owned.marker))
                corrections += _corrections_of(owned, marker, now)
    findings = Findings(
        rejected, frozenset(gone) - rejected, frozenset(released), tuple(spans), tuple(adopted), tuple(corrections)
    )
    left = {i: t for i, t in record.tags.items() if i in present}
    fresh = tuple(s for s in dict.fromkeys(spans) if s not in record.rejected_spans)
    return Record(left, ours, record.rejected_tags | rejected, record.rejected_spans + fresh), findings


def _correction(now: Now, tag_id: str, run_id: int) -> Correction:
    medium = now.medium
    identity = medium.files[0].identity if medium.files else ""
    return Correction(
        medium.kind, medium.id, Verdict.REJECTED, Source.STASH, tag_id, identity=identity, run_id=run_id or None
    )


def _corrections_of(owned: OwnedMarker, marker: Marker | None, now: Now) -> list[Correction]:
    """What the user says by deleting a marker of ours (None), or by what they made of it."""
    ours, before = owned.marker, stretch(owned.marker)
    correction = _correction(now, ours.primary_tag_id, owned.run_id)
    correction = replace(correction, before=before, marker_id=ours.id)
    if marker is None:
        return [correction]
    after = stretch(marker)
    if marker.primary_tag_id != ours.primary_tag_id and ours.primary_tag_id not in now.lost_tags:
        added = replace(correction, verdict=Verdict.ADDED, tag_id=marker.primary_tag_id, before=None, after=after)
        return [correction, added]
    if after != before:
        return [replace(correction, verdict=Verdict.MOVED, after=after, tag_id=marker.primary_tag_id)]
    return []


def _unedited(ours: Marker, now: Marker, around: Now) -> bool:
    if (ours.title, ours.start_ms, ours.end_ms) != (now.title, now.start_ms, now.end_ms):
        return False
    if now.scene_id != ours.scene_id and ours.scene_id not in around.lost_scenes:
        return False
    if now.primary_tag_id != ours.primary_tag_id and ours.primary_tag_id not in around.lost_tags:
        return False
    had, has = set(ours.tag_ids), set(now.tag_ids)
    lost = had & around.lost_tags
    # a lost tag leaves nothing behind when it was deleted, one other tag when it was merged; and none when that
    # one is the primary tag
    return had - lost - has <= {now.primary_tag_id} and len(has - had) <= len(lost)


def only_flagged(origin: Marker, marker: Marker, flag_id: str) -> bool:
    """Whether a marker stands as we made it but for a flag: as one of its tags, or in place of its primary one."""
    primary = origin.primary_tag_id if marker.primary_tag_id == flag_id else marker.primary_tag_id
    plain = replace(marker, primary_tag_id=primary, tag_ids=tuple(t for t in marker.tag_ids if t != flag_id))
    return draft_of(plain) == draft_of(origin)


def rejection(marker: Marker) -> RejectedSpan:
    """The span that is not to be filled again once the user changed or deleted this marker of ours."""
    return RejectedSpan(marker.primary_tag_id, *stretch(marker))


# --- from a wish to writes ------------------------------------------------------------------------------------


class Action(StrEnum):
    """What one step does. Each is one request to Stash, all or nothing there, but for `CREATE_MARKERS`."""

    CREATE_MARKERS = "create_markers"
    ADD_TAGS = "add_tags"
    DESTROY_MARKERS = "destroy_markers"
    REMOVE_TAGS = "remove_tags"


@dataclass(frozen=True, slots=True)
class NewMarker:
    """A marker to create, and in whose name."""

    draft: MarkerDraft
    run_id: int
    restores: str = ""
    """Id of the destroyed marker that this one stands for, when an undo brings it back."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write: what is asked of Stash, and what the ledger will record when it is done."""

    action: Action
    tags: tuple[OwnedTag, ...] = ()
    new: tuple[NewMarker, ...] = ()
    old: tuple[OwnedMarker, ...] = ()
    standing: frozenset[str] = frozenset()
    """`CREATE_MARKERS`: ids of all markers that were there before, so that ours can be told from them."""


@dataclass(frozen=True, slots=True)
class WritePlan:
    """Steps in order. New things come before old ones go; `last` is done when all others are seen to stand."""

    writes: tuple[Step, ...] = ()
    last: Step | None = None
    """Takes off the tags that are over, the trigger among them: until then the medium is found again."""
    kept: tuple[Marker, ...] = ()
    """Markers of ours that stay as they are."""
    left_to_user: tuple[MarkerDraft, ...] = ()
    """Markers not created: the user has one there, or deleted or changed ours."""
    rejected_tags: frozenset[str] = frozenset()
    """Tags not added: the user took them off."""
    lost_tags: frozenset[str] = frozenset()
    """Tags wished for that Stash does not have."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in order."""
        return self.writes if self.last is None else (*self.writes, self.last)

    @property
    def tags_added(self) -> tuple[str, ...]:
        """Ids of the tags the plan adds, sorted."""
        return self._tags(Action.ADD_TAGS)

    @property
    def tags_removed(self) -> tuple[str, ...]:
        """Ids of the tags the plan takes off, sorted."""
        return self._tags(Action.REMOVE_TAGS)

    @property
    def markers_created(self) -> tuple[MarkerDraft, ...]:
        """The markers the plan creates."""
        return tuple(new.draft for step in self.steps for new in step.new)

    @property
    def markers_destroyed(self) -> tuple[Marker, ...]:
        """The markers of ours the plan destroys."""
        return tuple(old.marker for step in self.steps for old in step.old)

    def _tags(self, action: Action) -> tuple[str, ...]:
        return tuple(sorted(t.tag_id for step in self.steps if step.action is action for t in step.tags))


@dataclass(frozen=True, slots=True)
class Desired:
    """How a medium shall look after a run, as far as it concerns us.

    Raises:
        ValueError: the parts contradict each other.
    """

    medium: Medium
    """Only its kind and id count: what it carries is looked up when the writing starts."""
    tag_ids: frozenset[str] | None = None
    """Result tags that shall be on; None: leave the results of earlier runs as they are."""
    markers: tuple[MarkerDraft, ...] | None = None
    """Markers that shall stand; None: leave those of earlier runs as they are."""
    mark_on: frozenset[str] = frozenset()
    """Bookkeeping tags to put on: `VLM_Tagged`, or `VLM_Errored`."""
    mark_off: frozenset[str] = frozenset()
    """Tags to take off at the very end, whoever put them on: the trigger, marks of an earlier failure."""

    def __post_init__(self) -> None:
        if both := self.mark_off & (self.mark_on | (self.tag_ids or frozenset())):
            raise ValueError(f"tags cannot be both added and removed: {', '.join(sorted(both))}")
        if self.markers and self.medium.kind is not Kind.SCENE:
            raise ValueError("only scenes have markers")
        if any(draft.scene_id != self.medium.id for draft in self.markers or ()):
            raise ValueError("markers of another scene")


def plan_writes(desired: Desired, run_id: int, now: Now, ours: Record) -> WritePlan:
    """Plan from what stands there now; `ours` comes from `observe`. Empty when everything is as desired."""
    present, lost = now.medium.tag_ids, now.lost_tags
    wanted = desired.tag_ids or frozenset()
    rejected = wanted & ours.rejected_tags - present
    results = wanted - present - rejected - lost
    marks = desired.mark_on - wanted - present - lost
    adding = [OwnedTag(i, run_id, Role.RESULT) for i in sorted(results)]
    adding += [OwnedTag(i, run_id, Role.MARK) for i in sorted(marks)]
    over = [t for i, t in sorted(ours.tags.items()) if desired.tag_ids is not None and _is_over(t, desired)]
    over += [ours.tags.get(i, OwnedTag(i, 0, Role.THEIRS)) for i in sorted(desired.mark_off & present)]
    markers = _plan_markers(desired, now, ours)
    writes = write_steps(
        new=[NewMarker(d, run_id) for d in markers.create],
        add=adding,
        old=markers.destroy,
        standing=frozenset(m.id for m in now.markers),
    )
    last = Step(Action.REMOVE_TAGS, tags=tuple(dict.fromkeys(over))) if over else None
    missing = (wanted | desired.mark_on) & lost
    return WritePlan(writes, last, tuple(markers.keep), tuple(markers.leave), rejected, missing)


def _is_over(tag: OwnedTag, desired: Desired) -> bool:
    return tag.role is Role.RESULT and tag.tag_id not in (desired.tag_ids or ()) and tag.tag_id not in desired.mark_on


@dataclass(slots=True)
class _MarkerPlan:
    create: list[MarkerDraft] = field(default_factory=list)
    destroy: list[OwnedMarker] = field(default_factory=list)
    keep: list[Marker] = field(default_factory=list)
    leave: list[MarkerDraft] = field(default_factory=list)


def _plan_markers(desired: Desired, now: Now, ours: Record) -> _MarkerPlan:
    plan = _MarkerPlan()
    if desired.markers is None:
        plan.keep = [owned.marker for owned in ours.markers.values()]
        return plan
    theirs = [m for m in now.markers if m.id not in ours.markers]
    rivals = [m for m in theirs if m.id in now.newcomers]
    free = dict(ours.markers)
    by_values: dict[MarkerDraft, list[str]] = {}
    for marker_id, owned in free.items():
        by_values.setdefault(draft_of(owned.marker), []).append(marker_id)
    for draft in dict.fromkeys(normal(d) for d in desired.markers):
        if draft.primary_tag_id in now.lost_tags:
            continue
        draft = replace(draft, tag_ids=tuple(t for t in draft.tag_ids if t not in now.lost_tags))
        if by_values.get(draft):
            mine = by_values[draft].pop(0)
            # a run with another ledger (on another machine) saw the same gap when we did: the first one stays
            if any(same_event(draft, m) and _first_came(m.id, mine) for m in rivals):
                plan.leave.append(draft)
            else:
                plan.keep.append(free.pop(mine).marker)
        elif any(same_event(draft, m) for m in theirs) or is_unwanted(draft, ours.rejected_spans):
            plan.leave.append(draft)
        else:
            plan.create.append(draft)
    plan.destroy = list(free.values())
    return plan


def _first_came(one: str, other: str) -> bool:
    """Stash counts its ids up and never uses one again."""
    return (len(one), one) < (len(other), other)


def normal(draft: MarkerDraft) -> MarkerDraft:
    """The draft as Stash would hold it: title trimmed, tags sorted, the primary one not repeated."""
    tags = tuple(sorted(set(draft.tag_ids) - {draft.primary_tag_id}))
    return replace(draft, title=draft.title.strip(), tag_ids=tags)


def draft_of(marker: Marker) -> MarkerDraft:
    """The draft that this marker could have been made from."""
    return normal(
        MarkerDraft(
            scene_id=marker.scene_id,
            title=marker.title,
            start_ms=marker.start_ms,
            end_ms=marker.end_ms,
            primary_tag_id=marker.primary_tag_id,
            tag_ids=marker.tag_ids,
        )
    )


def stretch(marker: Marker | MarkerDraft) -> tuple[int, int]:
    """Start and end; a point counts as one millisecond, so that shares are defined."""
    end_ms = marker.start_ms if marker.end_ms is None else marker.end_ms
    return marker.start_ms, max(end_ms, marker.start_ms + 1)


def same_event(draft: MarkerDraft, marker: Marker) -> bool:
    """Whether this marker already says what the draft would."""
    if draft.primary_tag_id != marker.primary_tag_id:
        return False
    (a, b), (c, d) = stretch(draft), stretch(marker)
    shared = min(b, d) - max(a, c)
    return shared > 0 and shared >= SAME_SHARE * (max(b, d) - min(a, c))


def is_unwanted(draft: MarkerDraft, rejected: Iterable[RejectedSpan]) -> bool:
    """Whether the draft lies where the user does not want a marker of this tag."""
    start, end = stretch(draft)
    covered, reached = 0, start
    spans = sorted((r.start_ms, r.end_ms) for r in rejected if r.tag_id == draft.primary_tag_id)
    for left, right in spans:
        left, right = max(left, reached), min(right, end)
        if right > left:
            covered, reached = covered + right - left, right
    return covered >= REJECTED_SHARE * (end - start)


def write_steps(
    *, new: Sequence[NewMarker], add: Sequence[OwnedTag], old: Sequence[OwnedMarker], standing: frozenset[str]
) -> tuple[Step, ...]:
    """New markers, then new tags, then what is over; the tags that come off are a plan's `last` step."""
    steps = [
        Step(Action.CREATE_MARKERS, new=tuple(new[at : at + MARKERS_PER_STEP]), standing=standing)
        for at in range(0, len(new), MARKERS_PER_STEP)
    ]
    if add:
        steps.append(Step(Action.ADD_TAGS, tags=tuple(add)))
    if old:
        steps.append(Step(Action.DESTROY_MARKERS, old=tuple(old)))
    return tuple(steps)
