"""Carries plans of writes out, step by step, so that nothing which stops the process can do harm.

What a medium shall look like is entered in the ledger first. Then, until nothing is left to do: look at Stash and
the ledger, write down what the user changed meanwhile, plan, and carry out the plan. Each step is entered as begun,
asked of Stash, and entered as done together with whose the things are from then on. After a kill the step that was
begun is settled by reading back, and the same loop goes on from what stands there: no plan is ever resumed blindly.

The loop ends only when a look at Stash finds everything as desired; so every write is verified by reading back, and
the trigger tag comes off only after all else was seen to stand.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace

from haven_vlm.errors import BusyError, PartialWrite, StashGone, StashRefused
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium, TagRef
from haven_vlm.journal import Journal
from haven_vlm.journal_ownership import Done, OpenPlan, draft_from
from haven_vlm.ownership import (
    Action,
    Desired,
    Now,
    OwnedMarker,
    Record,
    Role,
    Step,
    WritePlan,
    draft_of,
    observe,
    plan_writes,
)
from haven_vlm.stash_ports import StashGateway

log = logging.getLogger(__name__)

MAX_ROUNDS = 8
"""Looks at one medium before giving up: three are usual, each edit of the user's in between costs one more."""

MAX_REFUSALS = 2
"""Refused or half-done requests for one medium before giving up; a tag deleted in mid-plan costs one."""


@dataclass(slots=True)
class Applied:
    """What was done to one medium."""

    tags_added: list[str] = field(default_factory=list)
    """Ids, bookkeeping tags included."""
    tags_removed: list[str] = field(default_factory=list)
    """Ids, the trigger included."""
    markers_created: int = 0
    markers_removed: int = 0
    markers_kept: int = 0
    """Markers of ours that stayed as they were."""
    kept_for_user: int = 0
    """Tags and markers not written, because the user took them off, changed them, or has them already."""
    gone: bool = False
    """The medium vanished from Stash: nothing is left to do."""

    def count(self, done: Done) -> None:
        """Add what one step did."""
        self.tags_added += [t.tag_id for t in done.added]
        self.tags_removed += [t.tag_id for t in done.removed]
        self.markers_created += len(done.created)
        self.markers_removed += len(done.destroyed)


@dataclass(frozen=True, slots=True)
class Resumed:
    """What became of plans that an earlier run left unfinished."""

    finished: tuple[tuple[Kind, str], ...]
    failed: Mapping[str, str]
    """Medium ('scene 12') → why Stash refused. Its plan is given up; what is ours there is known."""
    busy: tuple[tuple[Kind, str], ...]
    """Media that another run works on now."""


Planner = Callable[[Now, Record], Awaitable[WritePlan]]
"""From what stands there and what of it is ours to the writes that are still needed."""


class Applier:
    """Writes results to Stash. One for a run; several media at a time are fine.

    Raises, everywhere:
        StashError: as the gateway. The plan stays in the ledger; the next run finishes it.
        LedgerError: nothing can be recorded, so nothing is written.
        BusyError: another run works on this medium.
    """

    def __init__(self, gateway: StashGateway, journal: Journal, *, tag_by_tag: bool = False) -> None:
        """`tag_by_tag`: each tag is a step of its own, so that many media share the request for it."""
        self._tag_by_tag = tag_by_tag
        self._gateway = gateway
        self._journal = journal
        self._store = journal.ownership
        self._creating = asyncio.Lock()

    async def preview(self, desired: Desired) -> WritePlan:
        """What `apply` would do, with nothing written, neither to Stash nor to the ledger.

        Raises:
            StashGone: the medium does not exist (any more).
        """
        now, ours = await self.look(desired.medium.kind, desired.medium.id, desired=desired, write=False)
        return plan_writes(desired, 0, now, ours)

    async def apply(self, run_id: int, desired: Desired) -> Applied:
        """Make the medium look as desired, as far as it concerns us, and record what that took."""
        kind, medium_id = desired.medium.kind, desired.medium.id
        async with self._journal.claims.claim(kind, medium_id) as ours:
            if not ours:
                raise BusyError(f"Another run is writing to {kind} {medium_id}.")
            for older in await self._store.open_plans(kind, medium_id):
                await self.settle(older)
                await self._store.close_plan(older)  # what is desired now stands in its place
            plan = await self._store.open_plan(
                run_id, kind, medium_id, purpose="apply", intent=intent_of(desired), at=self._journal.now()
            )
            return await self._apply(plan, desired)

    async def remove_flagged(self, run_id: int, medium: Medium, markers: Collection[Marker]) -> Applied:
        """Remove markers of a scene that runs made and the user flagged, as far as they stand there exactly so.

        They are the user's by then, so an undo of this run brings them back whatever corrections say.
        """
        async with self._journal.claims.claim(medium.kind, medium.id) as ours:
            if not ours:
                raise BusyError(f"Another run is writing to {medium.kind} {medium.id}.")
            for older in await self._store.open_plans(medium.kind, medium.id):
                await self.settle(older)
                await self._store.close_plan(older)
            # after a kill nothing more is wished for: what is flagged then is found by its flag
            intent = intent_of(Desired(medium))
            plan = await self._store.open_plan(
                run_id, medium.kind, medium.id, purpose="apply", intent=intent, at=self._journal.now()
            )
            doomed = frozenset(markers)

            async def planner(now: Now, _ours: Record) -> WritePlan:
                old = tuple(OwnedMarker(m, 0) for m in now.markers if m in doomed)
                return WritePlan((Step(Action.DESTROY_MARKERS, old=old),) if old else ())

            return await self.carry_out(plan, planner, lambda: self._store.close_plan(plan))

    async def mark(self, run_id: int, medium: Medium, tag_id: str) -> Applied:
        """Put a bookkeeping tag on a medium and leave all else as it is."""
        return await self.apply(run_id, Desired(medium, mark_on=frozenset({tag_id})))

    async def resume_pending(self) -> Resumed:
        """Finish what earlier runs left unfinished, each in the name of the run that began it. Call it first.

        An undo that was cut short is finished by `undoing.resume_pending`, which also calls this.
        """
        finished, busy, failed = [], [], {}
        for plan in await self._store.open_plans():
            if plan.purpose != "apply":
                continue
            medium = (plan.kind, plan.medium_id)
            async with self._journal.claims.claim(*medium) as ours:
                if not ours:
                    busy.append(medium)
                    continue
                if plan not in await self._store.open_plans(*medium):
                    continue  # its own run has finished it since
                try:
                    await self.settle(plan)
                    await self._apply(plan, _from_json(plan))
                    finished.append(medium)
                except StashRefused as exc:
                    failed[f"{plan.kind} {plan.medium_id}"] = str(exc)
        return Resumed(tuple(finished), failed, tuple(busy))

    async def ensure_tags(
        self, run_id: int, wanted: Mapping[str, str], *, parent_id: str | None = None
    ) -> dict[str, TagRef]:
        """Find tags by name or alias; create those that are missing, and record that they are ours.

        Args:
            wanted: name → description for a tag that has to be created.
            parent_id: parent of created tags.

        Raises:
            StashRefused: Stash does not accept a name, and has no such tag either.
        """
        async with self._creating:  # two media that need the same new tag create it once
            found = await self._gateway.find_tags(list(wanted))
            pending = {t.name: t for t in await self._store.created_tags() if t.tag_id is None}
            for name, tag in found.items():
                begun = pending.get(name)
                # a run was killed between asking for it and hearing that it is there
                if begun and (tag.name, tag.description) == (begun.name, begun.description):
                    await self._store.tag_created(begun.row, tag)
            for name, description in wanted.items():
                if name not in found:
                    found[name] = await self._create_tag(run_id, name.strip(), description.strip(), parent_id)
        return found

    async def name_tags(self, names: Mapping[str, TagRef]) -> None:
        """Let the ledger know which tags the names of the vocabulary stand for, so that corrections can name them."""
        await self._journal.corrections.name_tags({tag.id: name for name, tag in names.items()})

    async def _create_tag(self, run_id: int, name: str, description: str, parent_id: str | None) -> TagRef:
        row = await self._store.begin_tag(run_id, name, description, parent_id)
        try:
            tag = await self._gateway.create_tag(name, parent_id=parent_id, description=description)
        except StashRefused as exc:
            await self._store.forget_tags([row])
            existing = await self._gateway.find_tag(name)  # another run may just have been quicker
            if existing is None:
                raise StashRefused(
                    f"Stash does not accept a new tag called “{name}” ({exc}). Rename the other tag in Stash, "
                    "or choose another name in the settings."
                ) from exc
            return existing
        await self._store.tag_created(row, tag)
        return tag

    # --- the loop ---------------------------------------------------------------------------------------------

    async def _apply(self, plan: OpenPlan, desired: Desired) -> Applied:
        kept = WritePlan()
        stood_first: frozenset[str] | None = None

        async def planner(now: Now, ours: Record) -> WritePlan:
            nonlocal kept, stood_first
            standing = frozenset(m.id for m in now.markers)
            stood_first = standing if stood_first is None else stood_first
            kept = plan_writes(desired, plan.run_id, replace(now, newcomers=standing - stood_first), ours)
            return kept

        applied = await self.carry_out(plan, planner, lambda: self._store.close_plan(plan), desired)
        applied.kept_for_user = len(kept.left_to_user) + len(kept.rejected_tags)
        applied.markers_kept = max(0, len(kept.kept) - applied.markers_created)
        return applied

    async def carry_out(
        self,
        plan: OpenPlan,
        planner: Planner,
        close: Callable[[], Awaitable[None]],
        desired: Desired | None = None,
    ) -> Applied:
        """Look, plan and write until a look finds nothing left to do; then `close` the plan.

        Raises:
            StashRefused: Stash refuses, or the medium does not come to rest. The plan is closed.
            StashError: any other fault of Stash; the plan stays open.
        """
        applied, refusals = Applied(), 0
        for _ in range(MAX_ROUNDS):
            try:
                now, ours = await self.look(plan.kind, plan.medium_id, desired=desired, write=True)
            except StashGone:
                log.info("%s %s is gone from Stash", plan.kind, plan.medium_id)
                applied.gone = True
                await close()
                return applied
            steps = next_steps(await planner(now, ours))
            if self._tag_by_tag:
                steps = tuple(single for step in steps for single in _tag_by_tag(step))
            if not steps:
                await close()
                return applied
            try:
                for number, step in zip(await self._store.enter_steps(plan, steps), steps, strict=True):
                    applied.count(await self._do(plan, number, step))
            except (StashRefused, PartialWrite) as exc:
                applied.count(await self.settle(plan))
                refusals += 1
                if refusals > MAX_REFUSALS:
                    if isinstance(exc, StashRefused):
                        await self._store.close_plan(plan)
                    raise
                log.info("%s %s: %s; looking again", plan.kind, plan.medium_id, exc)
        await self._store.close_plan(plan)
        raise StashRefused(
            f"{plan.kind} {plan.medium_id} keeps changing while it is written to. Is another plugin or program "
            "editing it? Its trigger tag stays, so the next run tries again."
        )

    async def look(
        self, kind: Kind, medium_id: str, *, desired: Desired | None = None, write: bool
    ) -> tuple[Now, Record]:
        """What stands in Stash now, and what of it is ours; `write`: enter what turned out to have changed.

        Raises:
            StashGone: the medium does not exist (any more).
        """
        found = await self._standing(kind, medium_id)
        if found is None:
            raise StashGone(f"{kind} {medium_id} is no longer in Stash.")
        medium, markers = found
        record = await self._store.record(kind, medium_id, [m.id for m in markers])
        now = Now(medium, markers, await self._lost_tags(record, medium, markers, desired))
        elsewhere = {o.marker.scene_id for o in record.markers.values()} - {medium_id}
        lost_scenes = {i for i in elsewhere if await self._gateway.medium(Kind.SCENE, i) is None}
        now = replace(now, lost_scenes=frozenset(lost_scenes))
        ours, findings = observe(record, now)
        if write and findings:
            await self._store.note(kind, medium_id, findings, self._journal.now())
        return now, ours

    async def _standing(self, kind: Kind, medium_id: str) -> tuple[Medium, tuple[Marker, ...]] | None:
        """The medium with its markers, as they are at one moment."""
        if kind is not Kind.SCENE:
            medium = await self._gateway.medium(kind, medium_id)
            return None if medium is None else (medium, ())
        scene = await self._gateway.scene(medium_id)
        return None if scene is None else (scene[0], tuple(scene[1]))

    async def _lost_tags(
        self, record: Record, medium: Medium, markers: tuple[Marker, ...], desired: Desired | None
    ) -> frozenset[str]:
        mentioned = {*record.tags}
        for owned in record.markers.values():
            mentioned |= {owned.marker.primary_tag_id, *owned.marker.tag_ids}
        if desired is not None:
            mentioned |= {*(desired.tag_ids or ()), *desired.mark_on}
            for draft in desired.markers or ():
                mentioned |= {draft.primary_tag_id, *draft.tag_ids}
        seen = {*medium.tag_ids}.union(*({m.primary_tag_id, *m.tag_ids} for m in markers))
        doubtful = mentioned - seen  # a tag that something carries exists
        if not doubtful:
            return frozenset()
        return frozenset(doubtful - (await self._gateway.tags_by_id(doubtful)).keys())

    async def _do(self, plan: OpenPlan, number: int, step: Step) -> Done:
        await self._store.begin(number)
        match step.action:
            case Action.CREATE_MARKERS:
                created = await self._gateway.create_markers([new.draft for new in step.new])
                done = Done(created=tuple(zip(step.new, created, strict=True)))
            case Action.ADD_TAGS:
                await self._gateway.add_tags(plan.kind, [plan.medium_id], [t.tag_id for t in step.tags])
                done = Done(added=step.tags)
            case Action.DESTROY_MARKERS:
                await self._gateway.destroy_markers([old.marker.id for old in step.old])
                done = Done(destroyed=step.old)
            case Action.REMOVE_TAGS:
                await self._gateway.remove_tags(plan.kind, [plan.medium_id], [t.tag_id for t in step.tags])
                done = Done(removed=step.tags)
        await self._store.finish(plan, number, done)
        return done

    # --- after a kill -----------------------------------------------------------------------------------------

    async def settle(self, plan: OpenPlan) -> Done:
        """Find out by reading back what became of the step that was under way, and enter it."""
        whole = Done()
        for number, step in await self._store.begun(plan):
            found = await self._standing(plan.kind, plan.medium_id)
            if found is None:
                continue  # the look that follows says so
            medium, markers = found
            owned = (await self._store.record(plan.kind, plan.medium_id, [m.id for m in markers])).markers
            unowned = [m for m in markers if m.id not in owned]
            whole = what_was_done(step, medium.tag_ids, unowned, list(markers))
            await self._store.finish(plan, number, whole)
        return whole


def next_steps(plan: WritePlan) -> tuple[Step, ...]:
    """The part of a plan to carry out before looking again.

    What adds goes first. What destroys follows right upon a look of its own, so that a marker which the user edited
    while we were writing (hooks of other plugins can make that minutes) is seen to be theirs in time.
    """
    adding = tuple(step for step in plan.writes if step.action is not Action.DESTROY_MARKERS)
    return adding or plan.writes or (() if plan.last is None else (plan.last,))


def _tag_by_tag(step: Step) -> tuple[Step, ...]:
    """An adding step as one step for each tag. All media take the tags in one order, so that they meet at each."""
    if step.action is not Action.ADD_TAGS:
        return (step,)
    return tuple(Step(Action.ADD_TAGS, tags=(tag,)) for tag in sorted(step.tags, key=lambda t: t.tag_id))


def what_was_done(step: Step, tag_ids: frozenset[str], unowned: list[Marker], standing: list[Marker]) -> Done:
    """Tell from what stands in Stash how much of a step was carried out.

    A marker counts as made by the step if it has exactly a draft's values, was not there before, and is nobody's
    yet. Tags of one step are added in one transaction: so if its mark (or, without a mark, all of it) is there,
    the step was done, and what is missing of it the user took off since; if not, what is there is the user's.
    """
    if step.action is Action.CREATE_MARKERS:
        free: dict[MarkerDraft, list[Marker]] = {}
        for marker in unowned:
            if marker.id not in step.standing:
                free.setdefault(draft_of(marker), []).append(marker)
        found = [(new, free[new.draft].pop(0)) for new in step.new if free.get(new.draft)]
        return Done(created=tuple(found))
    if step.action is Action.ADD_TAGS:
        marks = {t.tag_id for t in step.tags if t.role is Role.MARK}
        evidence = marks or {t.tag_id for t in step.tags}
        return Done(added=step.tags) if evidence <= tag_ids else Done()
    if step.action is Action.DESTROY_MARKERS:
        there = {m.id for m in standing}
        return Done(destroyed=tuple(o for o in step.old if o.marker.id not in there))
    return Done(removed=tuple(t for t in step.tags if t.tag_id not in tag_ids))


# --- what is desired, as JSON ---------------------------------------------------------------------------------


def intent_of(desired: Desired) -> str:
    """What is desired, as a plan in the ledger keeps it."""
    data = {
        "tag_ids": None if desired.tag_ids is None else sorted(desired.tag_ids),
        "markers": None if desired.markers is None else [asdict(draft) for draft in desired.markers],
        "mark_on": sorted(desired.mark_on),
        "mark_off": sorted(desired.mark_off),
    }
    return json.dumps(data, separators=(",", ":"))


def _from_json(plan: OpenPlan) -> Desired:
    data = json.loads(plan.intent)
    return Desired(
        Medium(plan.kind, plan.medium_id, "", (), frozenset()),
        None if data["tag_ids"] is None else frozenset(data["tag_ids"]),
        None if data["markers"] is None else tuple(draft_from(draft) for draft in data["markers"]),
        frozenset(data["mark_on"]),
        frozenset(data["mark_off"]),
    )
