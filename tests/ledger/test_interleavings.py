"""Any interleaving of the user's edits with runs, updates and undos: what is the user's stays, always."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from haven_vlm.facts import Kind, Marker, MarkerDraft
from haven_vlm.ownership import Desired
from haven_vlm.undoing import Scope
from tests.fakes import FakeGateway, FakeStash, Killed, Mortality
from tests.ledger.harness import League, Process, apply_in_new_run, process, quick_folder, span

SCENES = ("1", "2")
starts = st.integers(0, 5).map(lambda n: n * 1000)
lengths = st.sampled_from([None, 400, 1000, 2500])
spans = st.tuples(st.integers(0, 2), starts, lengths)
moments = st.sampled_from(["medium", "markers", "add_tags", "create_markers", "destroy_markers", "remove_tags"])


@dataclass
class Model:
    """What the user did to one scene, as the user remembers it."""

    tags: set[str] = field(default_factory=set)
    """Put there by the user when it was not there."""
    markers: dict[str, Marker] = field(default_factory=dict)
    """Made or edited by the user."""
    taken_off: set[str] = field(default_factory=set)
    """Result tags of ours that the user took off and that a run or undo has seen missing since."""
    unseen: set[str] = field(default_factory=set)
    """The same, not seen by anybody yet."""
    originals: dict[str, Marker] = field(default_factory=dict)
    """Markers of ours as they were before edits that nobody has seen yet."""
    ours: dict[str, Marker] = field(default_factory=dict)
    """Markers that a run left behind, as the user finds them."""
    unseen_rejects: dict[str, Marker] = field(default_factory=dict)
    """Those of ours that the user edited or deleted, as they were; not seen by anybody yet."""
    rejects: list[Marker] = field(default_factory=list)
    """The same, seen by a run or undo."""


class Interleavings(RuleBasedStateMachine):
    """Invariants hold after every step; the rules compare what a run did with what the user remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.open = contextlib.ExitStack()
        self.folder = self.open.enter_context(quick_folder())
        self.made = League()
        self.stash: FakeStash = self.made.stash
        self.results = [self.made.dunk, self.made.foul, self.made.block]
        self.models = {scene: Model() for scene in SCENES}
        for scene in SCENES:
            assert self.stash.scene(self.made.tag_me).id == scene

    def teardown(self) -> None:
        self.open.close()

    # --- the user ---------------------------------------------------------------------------------------------

    @initialize(scene=st.sampled_from(SCENES), tag=st.integers(0, 2), where=spans)
    def things_from_before(self, scene: str, tag: int, where: tuple[int, int, int | None]) -> None:
        self.user_tags(scene, tag)
        self.user_marks(scene, where)

    @rule(scene=st.sampled_from(SCENES), tag=st.integers(0, 2))
    def user_tags(self, scene: str, tag: int) -> None:
        tag_id, model = self.results[tag], self.models[scene]
        if tag_id in self.stash.on((Kind.SCENE, scene)):
            return
        self.stash.put_on((Kind.SCENE, scene), tag_id)
        # taken off and put back with nobody looking in between: nobody can tell that from doing nothing
        if tag_id in model.unseen:
            model.unseen.discard(tag_id)
        else:
            model.tags.add(tag_id)

    @rule(scene=st.sampled_from(SCENES), tag=st.integers(0, 2))
    def user_untags(self, scene: str, tag: int) -> None:
        tag_id, model = self.results[tag], self.models[scene]
        if tag_id not in self.stash.on((Kind.SCENE, scene)):
            return
        self.stash.take_off((Kind.SCENE, scene), tag_id)
        if tag_id in model.tags:
            model.tags.discard(tag_id)
        else:
            model.unseen.add(tag_id)

    @rule(scene=st.sampled_from(SCENES), where=spans)
    def user_marks(self, scene: str, where: tuple[int, int, int | None]) -> None:
        marker = self.stash.mark(replace(self.draft(scene, where), title="mine"))
        self.models[scene].markers[marker.id] = marker

    @rule(scene=st.sampled_from(SCENES), which=st.integers(0, 9), how=st.integers(0, 3))
    def user_edits_a_marker(self, scene: str, which: int, how: int) -> None:
        standing = self.stash.markers_of(scene)
        if not standing:
            return
        marker = standing[which % len(standing)]
        edits: list[Callable[[Marker], Marker]] = [
            lambda m: replace(m, start_ms=m.start_ms + 100, end_ms=None),
            lambda m: replace(m, title=m.title + "!"),
            lambda m: replace(m, primary_tag_id=self.results[(self.results.index(m.primary_tag_id) + 1) % 3]),
            lambda m: replace(m, tag_ids=tuple(sorted({*m.tag_ids} ^ {self.made.favourite}))),
        ]
        self.stash.edit(marker.id, edits[how])
        model = self.models[scene]
        if marker.id not in model.markers:
            model.originals[marker.id] = marker
        self.rejected(scene, marker.id)
        if model.originals.get(marker.id) == self.stash.stands[marker.id]:
            model.unseen_rejects.pop(marker.id, None)
            del model.markers[marker.id]  # edited and put back with nobody looking: nobody can tell either
        else:
            model.markers[marker.id] = self.stash.stands[marker.id]

    @rule(scene=st.sampled_from(SCENES), which=st.integers(0, 9))
    def user_deletes_a_marker(self, scene: str, which: int) -> None:
        standing = self.stash.markers_of(scene)
        if standing:
            marker = standing[which % len(standing)]
            self.stash.unmark(marker.id)
            self.rejected(scene, marker.id)
            self.models[scene].markers.pop(marker.id, None)

    @rule(scene=st.sampled_from(SCENES))
    def user_wants_it_again(self, scene: str) -> None:
        self.stash.put_on((Kind.SCENE, scene), self.made.tag_me)

    @rule(tag=st.integers(0, 2), name=st.sampled_from(["A", "B", "C"]))
    def user_renames_a_tag(self, tag: int, name: str) -> None:
        self.stash.rename_tag(self.results[tag], f"{name}{tag}")

    @rule(scene=st.sampled_from(SCENES))
    def file_moves(self, scene: str) -> None:
        self.stash.move_file((Kind.SCENE, scene), "/elsewhere/a.mp4")

    # --- the connector ----------------------------------------------------------------------------------------

    @rule(scene=st.sampled_from(SCENES), tags=st.sets(st.integers(0, 2)), where=st.lists(spans, max_size=4))
    def run(self, scene: str, tags: set[int], where: list[tuple[int, int, int | None]]) -> None:
        self.play(lambda p: self.apply(p, scene, tags, where))
        self.seen(scene)

    @rule(
        scene=st.sampled_from(SCENES),
        tags=st.sets(st.integers(0, 2)),
        where=st.lists(spans, max_size=4),
        moment=moments,
        which=st.integers(0, 9),
        how=st.integers(0, 4),
    )
    def run_while_the_user_edits(
        self, scene: str, tags: set[int], where: list[tuple[int, int, int | None]], moment: str, which: int, how: int
    ) -> None:
        gateway = FakeGateway(self.stash)

        def edit() -> None:
            if moment not in ("medium", "markers"):
                self.models[scene].originals.clear()  # the run has looked before
            self.user_edits(scene, which, how)

        # destroying follows right upon a look; an edit in between is the one that no client of Stash can exclude
        if moment != "destroy_markers":
            gateway.before[moment] = [edit]
        self.play(lambda p: self.apply(p, scene, tags, where), gateway)
        self.seen(scene)

    @rule(scene=st.sampled_from(SCENES), tags=st.sets(st.integers(0, 2)), where=st.lists(spans, max_size=4))
    def run_and_undo_is_as_if_nothing_had_happened(
        self, scene: str, tags: set[int], where: list[tuple[int, int, int | None]]
    ) -> None:
        before = self.stash.snapshot()

        async def both(running: Process) -> None:
            run = await self.apply(running, scene, tags, where)
            await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=run))

        self.play(both)
        self.seen(scene)
        assert self.stash.snapshot() == before

    @rule(scene=st.sampled_from(SCENES), tags=st.sets(st.integers(0, 2)), where=st.lists(spans, max_size=4))
    def running_twice_changes_nothing_more(
        self, scene: str, tags: set[int], where: list[tuple[int, int, int | None]]
    ) -> None:
        self.play(lambda p: self.apply(p, scene, tags, where))
        self.seen(scene)
        stands = dict(self.stash.stands)
        gateway = FakeGateway(self.stash)
        self.play(lambda p: self.apply(p, scene, tags, where), gateway)
        assert self.stash.stands == stands
        assert not {"add_tags", "remove_tags", "create_markers", "destroy_markers"} & {*gateway.calls}

    @rule(
        scene=st.sampled_from(SCENES),
        tags=st.sets(st.integers(0, 2)),
        where=st.lists(spans, max_size=4),
        at=st.integers(0, 40),
        which=st.integers(0, 9),
        how=st.integers(0, 4),
    )
    def run_killed_then_user_edits(
        self, scene: str, tags: set[int], where: list[tuple[int, int, int | None]], at: int, which: int, how: int
    ) -> None:
        mortality = Mortality(at)
        gateway = FakeGateway(self.stash, mortality)
        with contextlib.suppress(Killed):
            self.play(lambda p: self.apply(p, scene, tags, where), gateway)
        if "medium" in gateway.calls:
            self.models[scene].originals.clear()  # maybe seen
        self.user_edits(scene, which, how)
        if how == 4:
            # we may have died while destroying this very marker: then its end is ours, and no correction
            self.models[scene].unseen_rejects.clear()
        self.play(lambda p: p.resume())
        if "medium" in gateway.calls:
            self.seen(scene)

    @rule()
    def undo_last_run(self) -> None:
        async def undo(running: Process) -> None:
            last = await running.undoer.last_run()
            if last is not None:
                touched = await running.journal.ownership.touched(last)
                await running.undoer.undo(await running.journal.start_run("undo"), Scope(run_id=last))
                for _, scene in touched:
                    self.seen(scene)

        self.play(undo)

    @rule(scene=st.sampled_from(SCENES))
    def undo_one_scene(self, scene: str) -> None:
        async def undo(running: Process) -> None:
            await running.undoer.undo(await running.journal.start_run("undo"), Scope(media=((Kind.SCENE, scene),)))

        self.play(undo)
        self.seen(scene)
        self.only_theirs_is_left(scene)

    @precondition(lambda self: len(self.stash.stands) > 0)
    @rule()
    def undo_everything(self) -> None:
        async def undo(running: Process) -> None:
            await running.undoer.undo(await running.journal.start_run("undo"), Scope())
            assert (await running.journal.statistics()).owned_markers == 0

        self.play(undo)
        for scene in SCENES:
            self.only_theirs_is_left(scene)

    # --- always -----------------------------------------------------------------------------------------------

    @invariant()
    def what_is_the_users_stands(self) -> None:
        for scene, model in self.models.items():
            assert model.tags <= self.stash.on((Kind.SCENE, scene))
            for marker_id, marker in model.markers.items():
                assert self.stash.stands[marker_id] == marker

    @invariant()
    def what_the_user_took_off_stays_off(self) -> None:
        for scene, model in self.models.items():
            assert not model.taken_off & self.stash.on((Kind.SCENE, scene)) - model.tags

    @invariant()
    def no_marker_stands_twice(self) -> None:
        ours = [replace(m, id="") for m in self.stash.stands.values() if not m.title.startswith("mine")]
        by_user = {replace(m, id="") for model in self.models.values() for m in model.markers.values()}
        left = [m for m in ours if m not in by_user]
        assert len(left) == len({*left})

    @invariant()
    def what_the_user_rejected_is_not_made_again(self) -> None:
        for scene, model in self.models.items():
            for marker in self.stash.markers_of(scene):
                if marker.id not in model.markers:
                    assert not any(same_span(marker, rejected) for rejected in model.rejects)

    # --- helpers ----------------------------------------------------------------------------------------------

    def rejected(self, scene: str, marker_id: str) -> None:
        model = self.models[scene]
        if (was := model.ours.pop(marker_id, None)) is not None:
            model.unseen_rejects[marker_id] = was

    def user_edits(self, scene: str, which: int, how: int) -> None:
        if how == 4:
            self.user_deletes_a_marker(scene, which)
        else:
            self.user_edits_a_marker(scene, which, how)

    def only_theirs_is_left(self, scene: str) -> None:
        model = self.models[scene]
        assert self.stash.on((Kind.SCENE, scene)) - {self.made.tag_me} == model.tags
        assert {m.id for m in self.stash.markers_of(scene)} == {*model.markers}

    def seen(self, scene: str) -> None:
        """A run has looked at the scene: what is missing counts as taken off, unless the scene was cleared."""
        model = self.models[scene]
        model.taken_off |= {t for t in model.unseen if t not in self.stash.on((Kind.SCENE, scene))}
        model.unseen.clear()
        model.originals.clear()
        model.rejects += model.unseen_rejects.values()
        model.unseen_rejects.clear()
        model.ours = {m.id: m for m in self.stash.markers_of(scene) if m.id not in model.markers}

    def draft(self, scene: str, where: tuple[int, int, int | None]) -> MarkerDraft:
        tag, start_ms, length_ms = where
        medium = self.stash.media[Kind.SCENE, scene]
        return span(medium, self.results[tag], start_ms, None if length_ms is None else start_ms + length_ms)

    async def apply(
        self, running: Process, scene: str, tags: set[int], where: list[tuple[int, int, int | None]]
    ) -> int:
        medium = self.stash.media[Kind.SCENE, scene]
        wanted: Desired = self.made.desired(
            medium, {self.results[t] for t in tags}, *(self.draft(scene, one) for one in where)
        )
        run, _ = await apply_in_new_run(running, wanted)
        on = self.stash.on((Kind.SCENE, scene))
        assert self.made.tagged in on
        assert self.made.tag_me not in on
        return run

    def play(self, act: Callable[[Process], object], gateway: FakeGateway | None = None) -> None:
        async def main() -> None:
            mortality = gateway.mortality if gateway else None
            async with process(self.stash, self.folder / "ledger.sqlite3", mortality, gateway) as running:
                await act(running)  # type: ignore[misc]

        asyncio.run(main())


def same_span(one: Marker, other: Marker) -> bool:
    return (one.primary_tag_id, one.start_ms, one.end_ms) == (other.primary_tag_id, other.start_ms, other.end_ms)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
