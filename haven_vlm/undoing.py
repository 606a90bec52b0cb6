"""Takes back what runs wrote to Stash: of one run, of some media, or everything.

What is restored is the state before, minus what the user has changed since:

* What we added and the user left alone goes; what the user edited, or took off and put back, stays.
* What a run took away comes back: tags, the trigger included; markers of an earlier run, under new ids and again
  ours. Unless a later run, which is not undone, wrote to the same medium: its results stand in their place.
* Tags that we created go when nothing carries them, the user has not changed them, and no correction refers to them
  (a correction is bound to the tag's id and would be forgotten with it).
* Corrections stay remembered.

An undo is itself planned, recorded and carried out step by step; one that was cut short is finished by the next run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from haven_vlm.applying import Applied, Applier, Resumed
from haven_vlm.errors import HavenError, StashGone, StashRefused
from haven_vlm.facts import Kind, TagRef
from haven_vlm.journal import Journal
from haven_vlm.journal_ownership import CreatedTag, OpenPlan
from haven_vlm.ownership import Now, Record, WritePlan
from haven_vlm.stash_ports import StashGateway
from haven_vlm.together import Together
from haven_vlm.undo_plan import Change, Effect, plan_undo
from haven_vlm_utility import first_error

log = logging.getLogger(__name__)

IMAGES_AT_ONCE = 400
"""Images undone together: enough that each tag costs one request for many of them."""

_TAG_PASSES = 4
"""Parents become unused when their children are gone: levels of tags of ours, and one to see that none is left."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What to undo; without arguments everything."""

    run_id: int | None = None
    """Only what this run did."""
    media: tuple[tuple[Kind, str], ...] | None = None
    """Only what was done to these media."""


@dataclass(slots=True)
class Undone:
    """What an undo did."""

    media: int = 0
    """Media that look as before again."""
    tags_removed: int = 0
    tags_restored: int = 0
    markers_removed: int = 0
    markers_restored: int = 0
    created_tags_removed: list[str] = field(default_factory=list)
    """Names of tags that are no more in Stash at all."""
    busy: list[str] = field(default_factory=list)
    """Media another run works on ('scene 12'); undo again later."""
    failed: dict[str, str] = field(default_factory=dict)
    """Medium → why Stash refused."""

    def count(self, applied: Applied) -> None:
        """Add what was done to one medium."""
        self.media += not applied.gone
        self.tags_removed += len(applied.tags_removed)
        self.tags_restored += len(applied.tags_added)
        self.markers_removed += applied.markers_removed
        self.markers_restored += applied.markers_created


class Undoer:
    """Undoes. Raises what `Applier` raises, but goes on with the other media where Stash refuses one."""

    def __init__(
        self, gateway: StashGateway, journal: Journal, applier: Applier, *, together: Together | None = None
    ) -> None:
        """`together`: the gateway, when it is one that shares requests; images are then undone many at a time."""
        self._together = together
        self._gateway = gateway
        self._journal = journal
        self._store = journal.ownership
        self._applier = applier

    async def last_run(self) -> int | None:
        """The latest run of which there is something to undo."""
        return await self._store.last_run_with_effects()

    async def undo(self, run_id: int, scope: Scope) -> Undone:
        """Undo what the scope says, in the name of run `run_id`; undoing twice changes nothing more."""
        undone = Undone()
        freed: set[str] = set()
        media = await self._media(scope)
        images = [m for m in media if m[0] is Kind.IMAGE] if self._together is not None else []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            await self._undo_images(run_id, scope, images[start : start + IMAGES_AT_ONCE], undone, freed)
        for kind, medium_id in media if not images else [m for m in media if m[0] is not Kind.IMAGE]:
            await self._undo_medium(run_id, scope, kind, medium_id, undone, freed)
        undone.created_tags_removed = await self._remove_unused_tags(scope, freed)
        return undone

    async def _undo_images(
        self, run_id: int, scope: Scope, images: Sequence[tuple[Kind, str]], undone: Undone, freed: set[str]
    ) -> None:
        """Undo what was done to these images, each for itself, with requests to Stash that they share."""
        assert self._together is not None
        async with self._together.taking_part(len(images)) as done:

            async def one(kind: Kind, medium_id: str) -> None:
                try:
                    await self._undo_medium(run_id, scope, kind, medium_id, undone, freed)
                finally:
                    done()

            try:
                async with asyncio.TaskGroup() as group:
                    for kind, medium_id in images:
                        group.create_task(one(kind, medium_id))
            except BaseExceptionGroup as errors:
                raise first_error(errors, HavenError) from None

    async def resume(self, plan: OpenPlan) -> Applied:
        """Finish an undo of one medium that was cut short. The caller has claimed the medium.

        Raises:
            StashRefused: Stash refuses; the plan is given up.
        """
        await self._applier.settle(plan)
        return await self._carry_out(plan, set())

    async def _media(self, scope: Scope) -> list[tuple[Kind, str]]:
        if scope.media is not None:
            return list(scope.media)
        media = dict.fromkeys(await self._store.touched(scope.run_id))
        for plan in await self._store.open_plans():  # killed before anything it did was entered
            if scope.run_id in (None, plan.run_id):
                media[(plan.kind, plan.medium_id)] = None
        return list(media)

    async def _undo_medium(
        self, run_id: int, scope: Scope, kind: Kind, medium_id: str, undone: Undone, freed: set[str]
    ) -> None:
        name = f"{kind} {medium_id}"
        async with self._journal.claims.claim(kind, medium_id) as ours:
            if not ours:
                undone.busy.append(name)
                return
            for older in await self._store.open_plans(kind, medium_id):
                await self._applier.settle(older)
                await self._store.close_plan(older)
            try:
                await self._applier.look(kind, medium_id, write=True)  # takes in what merging scenes moved here
            except StashGone:
                if scope.media is None:
                    for scene_id in await self._moved_to(kind, medium_id):
                        await self._undo_medium(run_id, scope, Kind.SCENE, scene_id, undone, freed)
            effects = await self._store.effects(kind, medium_id)
            if not any(scope.run_id in (None, e.run_id) for e in effects):
                return
            intent = json.dumps({"run": scope.run_id, "up_to": effects[0].id})
            plan = await self._store.open_plan(
                run_id, kind, medium_id, purpose="undo", intent=intent, at=self._journal.now()
            )
            try:
                undone.count(await self._carry_out(plan, freed))
            except StashRefused as exc:
                undone.failed[name] = str(exc)

    async def _moved_to(self, kind: Kind, medium_id: str) -> list[str]:
        """Scenes that markers of ours stand on since this scene was merged into them."""
        if kind is not Kind.SCENE:
            return []
        created = [e for e in await self._store.effects(kind, medium_id) if e.change is Change.MARKER_CREATED]
        found = await self._gateway.markers_by_id([e.object_id for e in created])
        return sorted({marker.scene_id for marker in found.values()} - {medium_id})

    async def _carry_out(self, plan: OpenPlan, freed: set[str]) -> Applied:
        """Undo on one medium; adds to `freed` the ids of tags that came off it or off its markers."""
        chosen: list[Effect] = []

        async def planner(now: Now, ours: Record) -> WritePlan:
            nonlocal chosen
            effects = await self._store.effects(plan.kind, plan.medium_id)
            chosen = _chosen(plan, effects)
            latest = max((e.id for e in chosen), default=0)
            mine = {e.id for e in chosen}
            later = any(e.id > latest and e.id not in mine for e in effects)
            if now.lost_tags or chosen:
                lost = await self._lost(chosen, now)
                now = Now(now.medium, now.markers, now.lost_tags | lost, now.lost_scenes)
            writes = plan_undo(chosen, now, ours, give_back=not later)
            freed.update(writes.tags_removed)
            freed.update(t for m in writes.markers_destroyed for t in (m.primary_tag_id, *m.tag_ids))
            return writes

        async def close() -> None:
            effects = chosen or _chosen(plan, await self._store.effects(plan.kind, plan.medium_id))
            await self._store.close_plan(plan, undone=[e.id for e in effects], runs={e.run_id for e in effects})

        return await self._applier.carry_out(plan, planner, close)

    async def _lost(self, effects: Iterable[Effect], now: Now) -> frozenset[str]:
        """Tags that would come back and that Stash does not have any more."""
        wanted: set[str] = set()
        for effect in effects:
            if effect.change is Change.TAG_REMOVED:
                wanted.add(effect.object_id)
            elif effect.change is Change.MARKER_REMOVED and effect.marker is not None:
                wanted |= {effect.marker.primary_tag_id, *effect.marker.tag_ids}
        wanted -= now.medium.tag_ids
        return frozenset(wanted - (await self._gateway.tags_by_id(wanted)).keys()) if wanted else frozenset()

    # --- tags we created --------------------------------------------------------------------------------------

    async def _remove_unused_tags(self, scope: Scope, freed: Collection[str]) -> list[str]:
        """Destroy tags that we created and that nothing carries any more; returns their names."""
        if await self._journal.other_runs_alive():
            return []  # one of them may be about to use a tag
        removed: list[str] = []
        candidates = {*freed}
        for _ in range(_TAG_PASSES):
            rows = [row for row in await self._store.created_tags() if _in_scope(row, scope, candidates)]
            untouched = await self._untouched(rows)
            unused = await self._gateway.unused_tags([tag.id for tag in untouched.values()]) if untouched else set()
            gone: list[int] = []
            for row, tag in untouched.items():
                if tag.id not in unused:
                    continue
                try:
                    await self._gateway.destroy_tags([tag.id])
                except StashRefused as exc:
                    log.info("the tag “%s” stays: %s", tag.name, exc)
                    continue
                gone.append(row)
                removed.append(tag.name)
                candidates.update(tag.parent_ids)
            await self._store.forget_tags(gone)
            if not gone:
                break
        return removed

    async def _untouched(self, rows: Iterable[CreatedTag]) -> dict[int, TagRef]:
        """Row → tag, of those that stand in Stash as we made them and that no correction refers to."""
        known, corrected = list(rows), await self._store.corrected_tags()
        live = await self._gateway.tags_by_id([row.tag_id for row in known if row.tag_id is not None])
        found: dict[int, TagRef] = {}
        over: list[int] = []
        for row in known:
            tag = live.get(row.tag_id) if row.tag_id is not None else await self._gateway.find_tag(row.name)
            parents = () if row.parent_id is None else (row.parent_id,)
            if tag is None or (tag.name, tag.description, tag.aliases) != (row.name, row.description, ()):
                over.append(row.row)  # gone, or the user's since they changed it
            elif tag.parent_ids != parents:
                over.append(row.row)
            elif tag.id not in corrected:
                found[row.row] = tag
        await self._store.forget_tags(over)
        return found


def _chosen(plan: OpenPlan, effects: Iterable[Effect]) -> list[Effect]:
    intent = json.loads(plan.intent)
    return [e for e in effects if e.id <= intent["up_to"] and intent["run"] in (None, e.run_id)]


def _in_scope(row: CreatedTag, scope: Scope, candidates: Collection[str]) -> bool:
    if scope.run_id is None and scope.media is None:
        return True
    return row.run_id == scope.run_id or row.tag_id in candidates


async def resume_pending(journal: Journal, applier: Applier, undoer: Undoer) -> Resumed:
    """Finish all writes and undos that earlier runs left unfinished. Call it before a run looks at anything."""
    resumed = await applier.resume_pending()
    finished, busy, failed = list(resumed.finished), list(resumed.busy), dict(resumed.failed)
    for plan in await journal.ownership.open_plans():
        if plan.purpose != "undo":
            continue
        medium = (plan.kind, plan.medium_id)
        async with journal.claims.claim(*medium) as ours:
            if not ours:
                busy.append(medium)
            elif plan in await journal.ownership.open_plans(*medium):
                try:
                    await undoer.resume(plan)
                    finished.append(medium)
                except StashRefused as exc:
                    failed[f"{plan.kind} {plan.medium_id}"] = str(exc)
    return Resumed(tuple(finished), failed, tuple(busy))
