"""Carries out what a person decided about the spans of a scene, so that a kill at any moment does no harm.

What the user rejects or confirms is entered in the ledger first: it holds even if the process dies before Stash is
changed. A change to a marker is made in Stash first: if the process dies before the ledger knows, the next look finds
an edit of the user's, which is what it is. Only markers of ours are ever removed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from haven_vlm.applying import Applier, intent_of
from haven_vlm.corrections import Correction, Source, Stretch, Verdict
from haven_vlm.errors import BusyError, StashGone, StashRefused
from haven_vlm.facts import Kind, Marker, MarkerDraft, TagRef
from haven_vlm.journal import Journal
from haven_vlm.lanes import stretch_of
from haven_vlm.marks import ensure_marks
from haven_vlm.ownership import Desired, NewMarker, Now, Record, WritePlan, same_event, write_steps
from haven_vlm.page_data import Action, Decision, ReviewReply
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashReviewing
from haven_vlm_utility import clock_text

log = logging.getLogger(__name__)

MAX_DECISIONS = 500


class Reviewer:
    """Decides on one scene in the name of the user.

    Args:
        start_run: begins a run in the ledger when something has to be written in our name.
    """

    def __init__(
        self,
        gateway: StashReviewing,
        journal: Journal,
        applier: Applier,
        settings: Settings,
        *,
        start_run: Callable[[], Awaitable[int]],
    ) -> None:
        self._gateway = gateway
        self._journal = journal
        self._applier = applier
        self._settings = settings
        self._start_run = start_run
        self._run_id: int | None = None
        self._names = {t.name: t.stash_name for t in settings.tag_list}

    async def review(self, scene_id: str, decisions: Sequence[Decision]) -> ReviewReply:
        """Carry out the decisions, one after the other; one that cannot be costs the others nothing.

        Raises:
            StashError, LedgerError: as everywhere.
            BusyError: a run is writing to this scene.
        """
        async with self._journal.claims.claim(Kind.SCENE, scene_id) as ours:
            if not ours:
                raise BusyError(f"A run is working on scene {scene_id}; try again when it is done with it.")
            for plan in await self._journal.ownership.open_plans(Kind.SCENE, scene_id):
                await self._applier.settle(plan)  # what a killed run had created is ours, not the user's
            done, messages = 0, []
            for decision in decisions:
                try:
                    message = await self._decide(scene_id, decision)
                except (StashRefused, StashGone, ValueError) as exc:
                    messages.append(f"{_label(decision)}: {exc}")
                    continue
                done += 1
                if message:
                    messages.append(f"{_label(decision)}: {message}")
            await self._applier.look(Kind.SCENE, scene_id, write=True)
        return ReviewReply(done, tuple(messages))

    async def _decide(self, scene_id: str, decision: Decision) -> str:
        now, ours = await self._applier.look(Kind.SCENE, scene_id, write=True)
        marker = next((m for m in now.markers if m.id == decision.marker_id), None)
        if decision.marker_id is not None and marker is None:
            raise StashGone("the marker is not on this scene any more; load the page anew")
        tag_id = marker.primary_tag_id if marker else await self._tag_id(decision)
        before = stretch_of(marker.start_ms, marker.end_ms) if marker else _span(decision.start, decision.end)
        owned = ours.markers.get(marker.id) if marker else None
        correction = Correction(
            kind=Kind.SCENE,
            medium_id=scene_id,
            verdict=_VERDICTS[decision.action],
            source=Source.REVIEW,
            tag_id=tag_id,
            before=None if decision.action is Action.ADD else before,
            after=_after(decision, before),
            tag=decision.tag if decision.tag in self._names else "",
            identity=now.medium.files[0].identity if now.medium.files else "",
            marker_id=marker.id if marker else "",
            run_id=owned.run_id if owned else None,
        )
        match decision.action:
            case Action.CONFIRM:
                return await self._confirm(correction, marker, before)
            case Action.REJECT:
                return await self._reject(correction, marker, is_ours=owned is not None)
            case Action.MOVE:
                return await self._move(correction, marker)
            case Action.ADD:
                return await self._add(correction, now)

    async def _confirm(self, correction: Correction, marker: Marker | None, span: Stretch) -> str:
        await self._journal.corrections.record(correction)
        if marker is None:
            await self._write_ours(correction, span)
        return ""

    async def _reject(self, correction: Correction, marker: Marker | None, *, is_ours: bool) -> str:
        await self._journal.corrections.record(correction)
        if marker is None:
            return ""
        if is_ours:
            await self._gateway.destroy_markers([marker.id])
            return ""
        marks = await ensure_marks(self._gateway, self._applier, await self._run(), self._settings)
        await self._gateway.tag_marker(marker.id, marks.incorrect.id)
        return f"the marker is yours, so it stays; it is tagged “{marks.incorrect.name}”"

    async def _move(self, correction: Correction, marker: Marker | None) -> str:
        if marker is None:
            raise ValueError("there is no marker to move; confirm it first")
        assert correction.after is not None
        await self._gateway.move_marker(marker.id, *correction.after)
        await self._journal.corrections.record(correction)
        return ""

    async def _add(self, correction: Correction, now: Now) -> str:
        assert correction.after is not None
        draft = self._draft(correction, correction.after, await self._title(correction.tag_id))
        if any(same_event(draft, marker) for marker in now.markers):
            raise ValueError("there is a marker of this tag already")
        await self._gateway.create_markers([draft])
        await self._journal.corrections.record(correction)
        return ""

    async def _write_ours(self, correction: Correction, span: Stretch) -> None:
        """Make a marker of ours, through a plan in the ledger, so that it can be undone and a kill leaves no stray."""
        draft = self._draft(correction, span, await self._title(correction.tag_id))
        medium_id, run_id = correction.medium_id, await self._run()

        async def planner(now: Now, ours: Record) -> WritePlan:
            if any(same_event(draft, marker) for marker in now.markers):
                return WritePlan()
            standing = frozenset(m.id for m in now.markers)
            return WritePlan(write_steps(new=[NewMarker(draft, run_id)], add=[], old=[], standing=standing))

        now, _ = await self._applier.look(Kind.SCENE, medium_id, write=False)
        # after a kill nothing more is wished for than what was begun
        plan = await self._journal.ownership.open_plan(
            run_id, Kind.SCENE, medium_id,
            purpose="apply", intent=intent_of(Desired(now.medium)), at=self._journal.now(),
        )  # fmt: skip
        await self._applier.carry_out(plan, planner, lambda: self._journal.ownership.close_plan(plan))

    def _draft(self, correction: Correction, span: Stretch, title: str) -> MarkerDraft:
        return MarkerDraft(correction.medium_id, title, span[0], span[1], correction.tag_id)

    async def _title(self, tag_id: str) -> str:
        tag = (await self._gateway.tags_by_id([tag_id])).get(tag_id)
        return tag.name if tag else ""

    async def _tag_id(self, decision: Decision) -> str:
        name = self._names.get(decision.tag, decision.tag)
        tag = await self._gateway.find_tag(name)
        if tag is not None:
            return tag.id
        if decision.tag not in self._names:
            raise ValueError("there is no such tag, neither in the vocabulary nor in Stash")
        spec = next(t for t in self._settings.tag_list if t.name == decision.tag)
        run_id = await self._run()
        marks = await ensure_marks(self._gateway, self._applier, run_id, self._settings)
        made: Mapping[str, TagRef] = await self._applier.ensure_tags(
            run_id, {name: spec.definition}, parent_id=marks.parent.id
        )
        return made[name].id

    async def _run(self) -> int:
        if self._run_id is None:
            self._run_id = await self._start_run()
        return self._run_id


_VERDICTS: Mapping[Action, Verdict] = {
    Action.CONFIRM: Verdict.CONFIRMED,
    Action.REJECT: Verdict.REJECTED,
    Action.MOVE: Verdict.MOVED,
    Action.ADD: Verdict.ADDED,
}


def _span(start_s: float, end_s: float) -> Stretch:
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    if start_ms < 0 or end_ms < start_ms:
        raise ValueError("a span starts at 0 or later, and ends after its start")
    return stretch_of(start_ms, end_ms)


def _after(decision: Decision, before: Stretch) -> Stretch | None:
    if decision.action is Action.ADD:
        return before
    if decision.action is not Action.MOVE:
        return None
    if decision.new_start is None or decision.new_end is None:
        raise ValueError("moving needs new_start and new_end")
    after = _span(decision.new_start, decision.new_end)
    if after == before:
        raise ValueError("the new ends are the old ones")
    return after


def _label(decision: Decision) -> str:
    return f"{decision.action} “{decision.tag}” at {clock_text(round(decision.start * 1000))}"
