"""Carries out what a person decided about the spans of a scene, so that a kill at any moment does no harm.

Each decision is entered in the ledger before Stash is changed, and entered as carried out afterwards. One that a kill
left in between is finished by the next review of the scene, or by the next run, from what stands in Stash then: each
step is done only where it is not done yet, and not at all where the user has changed the marker meanwhile. Only
markers of ours are ever removed.
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
            finished = await self._finish(scene_id)
            done, messages = 0, []
            for decision in decisions:
                try:
                    if await self._was_added(decision, finished):
                        done += 1
                        continue
                    message = await self._decide(scene_id, decision)
                except (StashRefused, StashGone, ValueError) as exc:
                    messages.append(f"{_label(decision)}: {exc}")
                    continue
                done += 1
                if message:
                    messages.append(f"{_label(decision)}: {message}")
            await self._applier.look(Kind.SCENE, scene_id, write=True)
        return ReviewReply(done, tuple(messages))

    async def resume_pending(self) -> int:
        """Finish decisions that killed reviews left behind, as far as nobody works on their scenes; how many."""
        count = 0
        for scene_id in dict.fromkeys(c.medium_id for _, c in await self._journal.corrections.begun()):
            async with self._journal.claims.claim(Kind.SCENE, scene_id) as ours:
                count += len(await self._finish(scene_id)) if ours else 0
        return count

    async def _finish(self, scene_id: str) -> list[Correction]:
        """Finish what a killed review of this scene left behind; returns the decisions that hold now."""
        finished = []
        for number, correction in await self._journal.corrections.begun(scene_id):
            try:
                # nothing is noted yet: a marker that we moved is not to be taken for an edit of the user's
                now, ours = await self._applier.look(Kind.SCENE, scene_id, write=False)
                marker = next((m for m in now.markers if m.id == correction.marker_id), None)
                if _is_overtaken(correction, marker):
                    await self._journal.corrections.given_up(number)
                    continue
                await self._carry_out(correction, marker, now, is_ours=marker is not None and marker.id in ours.markers)
            except (StashRefused, StashGone) as exc:
                log.warning("A decision about scene %s, begun earlier, cannot be carried out: %s", scene_id, exc)
                await self._journal.corrections.given_up(number)
                continue
            await self._journal.corrections.carried_out(number, correction)
            finished.append(correction)
        return finished

    async def _decide(self, scene_id: str, decision: Decision) -> str:
        now, ours = await self._applier.look(Kind.SCENE, scene_id, write=True)
        marker = next((m for m in now.markers if m.id == decision.marker_id), None)
        if await self._is_said_again(scene_id, decision, marker):
            return ""
        if decision.marker_id is not None and marker is None:
            raise StashGone("the marker is not on this scene any more; load the page anew")
        tag_id = marker.primary_tag_id if marker else await self._tag_id(decision)
        before = _place(marker) if marker else _span(decision.start, decision.end)
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
        if decision.action is Action.MOVE and marker is None:
            raise ValueError("there is no marker to move; confirm it first")
        if decision.action is Action.ADD and _stands(correction, now):
            raise ValueError("there is a marker of this tag already")
        number = await self._journal.corrections.begin(correction)
        try:
            message = await self._carry_out(correction, marker, now, is_ours=owned is not None)
        except (StashRefused, StashGone):
            await self._journal.corrections.given_up(number)
            raise
        await self._journal.corrections.carried_out(number, correction)
        return message

    async def _was_added(self, decision: Decision, finished: Sequence[Correction]) -> bool:
        """Whether what shall be added is what `_finish` has just added, because the answer never reached the page."""
        if decision.action is not Action.ADD:
            return False
        alike = [c for c in finished if c.verdict is Verdict.ADDED and c.after == _span(decision.start, decision.end)]
        return bool(alike) and await self._tag_id(decision) in {c.tag_id for c in alike}

    async def _is_said_again(self, scene_id: str, decision: Decision, marker: Marker | None) -> bool:
        """Whether Stash is as decided already, by this very decision: a killed review is saved once more."""
        if decision.marker_id is None:
            return False
        if decision.action is Action.REJECT:
            as_decided = marker is None
        else:
            as_decided = decision.action is Action.MOVE and marker is not None and _target(decision) == _place(marker)
        if not as_decided:
            return False
        verdict = _VERDICTS[decision.action]
        said = await self._journal.corrections.all(kind=Kind.SCENE, medium_id=scene_id, verdict=verdict)
        return any(c.marker_id == decision.marker_id and c.source is Source.REVIEW for c in said)

    async def _carry_out(self, correction: Correction, marker: Marker | None, now: Now, *, is_ours: bool) -> str:
        """Make Stash as decided, as far as it is not; returns what the user should know."""
        match correction.verdict:
            case Verdict.CONFIRMED if marker is None and correction.before is not None:
                await self._write_ours(correction, correction.before)
            case Verdict.CONFIRMED if marker is not None and self._settings.confirmed_marker_tag:
                await self._gateway.tag_marker(marker.id, await self._status(self._settings.confirmed_marker_tag))
            case Verdict.REJECTED if marker is not None and is_ours:
                await self._gateway.destroy_markers([marker.id])
            case Verdict.REJECTED if marker is not None:
                marks = await ensure_marks(self._gateway, self._applier, await self._run(), self._settings)
                await self._gateway.tag_marker(marker.id, marks.incorrect.id)
                if self._settings.rejected_marker_tag:
                    await self._gateway.tag_marker(marker.id, await self._status(self._settings.rejected_marker_tag))
                return f"the marker is yours, so it stays; it is tagged “{marks.incorrect.name}”"
            case Verdict.MOVED if marker is not None and correction.after not in (None, _place(marker)):
                assert correction.after is not None
                await self._gateway.move_marker(marker.id, *correction.after)
            case Verdict.ADDED if correction.after is not None and not _stands(correction, now):
                draft = self._draft(correction, correction.after, await self._title(correction.tag_id))
                await self._gateway.create_markers([draft])
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

    async def _status(self, name: str) -> str:
        """Id of a status tag of another tool's; made when it is missing."""
        return (await self._applier.ensure_tags(await self._run(), {name: ""}, parent_id=None))[name].id

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


def _place(marker: Marker) -> Stretch:
    return stretch_of(marker.start_ms, marker.end_ms)


def _stands(correction: Correction, now: Now) -> bool:
    """Whether there is a marker of what is to be added."""
    assert correction.after is not None
    draft = MarkerDraft(correction.medium_id, "", *correction.after, correction.tag_id)
    return any(same_event(draft, marker) for marker in now.markers)


def _is_overtaken(correction: Correction, marker: Marker | None) -> bool:
    """Whether the user has changed, since the decision, the marker that it is about."""
    if not correction.marker_id:
        return False
    if marker is None:
        return correction.verdict is not Verdict.REJECTED
    return _place(marker) not in (correction.before, correction.after)


def _target(decision: Decision) -> Stretch | None:
    if decision.new_start is None or decision.new_end is None:
        return None
    return _span(decision.new_start, decision.new_end)


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
    after = _target(decision)
    if after is None:
        raise ValueError("moving needs new_start and new_end")
    if after == before:
        raise ValueError("the new ends are the old ones")
    return after


def _label(decision: Decision) -> str:
    return f"{decision.action} “{decision.tag}” at {clock_text(round(decision.start * 1000))}"
