"""The user merges, renames, deletes, moves, flags and reviews, between runs and in the midst of them: theirs stays."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from haven_vlm.facts import Kind
from haven_vlm.page_data import Action, Decision
from haven_vlm.undoing import Scope
from tests.fakes import Killed, Mortality
from tests.ledger.harness import Process, quick_folder, span
from tests.ledger.reorganising import NAMES, Gateway, Library, Where

some = st.integers(0, 9)
tag = st.integers(0, 2)
starts = st.integers(0, 4).map(lambda n: n * 1000)
spans: st.SearchStrategy[Where] = st.tuples(tag, starts, st.sampled_from([None, 400, 1000, 2500]))
results = st.tuples(st.sets(tag), st.lists(spans, max_size=3))
ledgers = st.sampled_from(["home.sqlite", "home.sqlite", "other.sqlite"])
moments = st.sampled_from(["medium", "markers", "add_tags", "create_markers", "remove_tags"])
edits = st.lists(some, min_size=4, max_size=4)
Result = tuple[set[int], list[Where]]


class Reorganising(RuleBasedStateMachine):
    """After every step: the user's tags and markers are there, as they left them."""

    def __init__(self) -> None:
        super().__init__()
        self.open = contextlib.ExitStack()
        self.library = Library(self.open.enter_context(quick_folder()))

    def teardown(self) -> None:
        self.open.close()

    # --- the user ---------------------------------------------------------------------------------------------

    @rule(scene=some, which=tag, on=st.booleans())
    def user_changes_tags(self, scene: int, which: int, on: bool) -> None:
        library = self.library
        if (tag_id := library.tag(which)) is not None:
            (library.put_on if on else library.take_off)(library.scene(scene), tag_id)

    @rule(scene=some, where=spans)
    def user_marks(self, scene: int, where: Where) -> None:
        library = self.library
        which, start_ms, length_ms = where
        if (tag_id := library.tag(which)) is not None:
            medium = library.stash.media[Kind.SCENE, library.scene(scene)]
            end_ms = None if length_ms is None else start_ms + length_ms
            marker = library.stash.mark(span(medium, tag_id, start_ms, end_ms, title="mine"))
            library.markers[marker.id] = marker

    @rule(which=some, how=some)
    def user_edits_a_marker(self, which: int, how: int) -> None:
        if (marker := self.library.marker(which)) is not None:
            self.library.edit(marker, how)

    @rule(which=some)
    def user_flags_a_marker(self, which: int) -> None:
        if (marker := self.library.marker(which)) is not None:
            self.library.flag_marker(marker)

    @rule(scene=some)
    def user_flags_a_scene(self, scene: int) -> None:
        self.library.stash.put_on((Kind.SCENE, self.library.scene(scene)), self.library.flag)

    @rule(which=some, source=some, into=some, how=st.integers(0, 4))
    def user_reorganises(self, which: int, source: int, into: int, how: int) -> None:
        library = self.library
        match how:
            case 0:
                if len(library.tags) > 1 and library.scene(source) != library.scene(into):
                    library.merge_scenes(library.scene(source), library.scene(into))
            case 1:
                library.stash.move_file((Kind.SCENE, library.scene(which)), f"/elsewhere/{source}.mp4")
            case _:
                ours, other = library.tag(source % 3), library.tag(into % 3)
                if ours is None or other is None:
                    return
                if how == 2 and ours != other:
                    library.merge_tags(ours, other)
                elif how == 3:
                    library.delete_tag(ours)
                else:
                    library.rename_tag(ours, f"{NAMES[source % 3]} {which}" if which % 2 else NAMES[into % 3])

    @rule(
        scene=some,
        which=some,
        tag=tag,
        action=st.sampled_from(Action),
        start=st.integers(0, 5),
        by_marker=st.booleans(),
        ledger=ledgers,
    )
    def user_reviews(
        self, scene: int, which: int, tag: int, action: Action, start: int, by_marker: bool, ledger: str
    ) -> None:
        library = self.library
        scene_id = library.scene(scene)
        marker = library.marker(which, scene_id) if by_marker else None
        decision = Decision(
            action,
            NAMES[tag],
            float(start),
            start + 1.0,
            marker_id=marker.id if marker is not None and action is not Action.ADD else None,
            new_start=start + 0.5,
            new_end=start + 2.5,
        )
        library.play(ledger, lambda running: library.review(running, scene_id, decision))

    # --- the connector ----------------------------------------------------------------------------------------

    @rule(scene=some, result=results, ledger=ledgers)
    def run(self, scene: int, result: Result, ledger: str) -> None:
        self.library.play(ledger, lambda running: self.library.run(running, scene, *result))

    @rule(scene=some, result=results, moment=moments, edit=edits, ledger=ledgers)
    def run_while_the_user_reorganises(
        self, scene: int, result: Result, moment: str, edit: Sequence[int], ledger: str
    ) -> None:
        gateway = Gateway(self.library.stash)
        which, source, into, how = edit

        def edit_something() -> None:
            if how % 2:
                self.user_reorganises(which, source, into, how // 2)
            else:
                self.user_edits_a_marker(which, source)

        gateway.before[moment] = [edit_something]
        self.library.play(ledger, lambda running: self.library.run(running, scene, *result), gateway)

    @rule(scene=some, result=results, at=st.integers(0, 40), edit=edits, ledger=ledgers)
    def run_killed_then_the_user_reorganises(
        self, scene: int, result: Result, at: int, edit: Sequence[int], ledger: str
    ) -> None:
        gateway = Gateway(self.library.stash, Mortality(at))
        with contextlib.suppress(Killed):
            self.library.play(ledger, lambda running: self.library.run(running, scene, *result), gateway)
        which, source, into, how = edit
        self.user_reorganises(which, source, into, how % 5)
        self.library.play(ledger, Process.resume)

    @rule(scene=some, result=results, ledger=ledgers)
    def run_and_undo_is_as_if_nothing_had_happened(self, scene: int, result: Result, ledger: str) -> None:
        library = self.library

        async def both(running: Process) -> None:
            await running.resume()
            before = library.stash.snapshot()
            run = await library.run(running, scene, *result)
            await library.undo(running, Scope(run_id=run))
            assert library.stash.snapshot().carried == before.carried
            assert library.stash.snapshot().markers == before.markers

        library.play(ledger, both)

    @rule(ledger=ledgers)
    def undo_last_run(self, ledger: str) -> None:
        async def undo(running: Process) -> None:
            if (last := await running.undoer.last_run()) is not None:
                await self.library.undo(running, Scope(run_id=last))

        self.library.play(ledger, undo)

    @rule(scene=some, ledger=ledgers)
    def undo_one_scene(self, scene: int, ledger: str) -> None:
        media = ((Kind.SCENE, self.library.scene(scene)),)
        self.library.play(ledger, lambda running: self.library.undo(running, Scope(media=media)))

    @rule(ledger=ledgers)
    def undo_everything(self, ledger: str) -> None:
        self.library.play(ledger, lambda running: self.library.undo(running, Scope()))

    @precondition(lambda self: self.library.flag in self.library.stash.tags)
    @rule(ledger=ledgers, remove=st.booleans())
    def collect(self, ledger: str, remove: bool) -> None:
        self.library.play(ledger, lambda running: self.library.collect(running, remove=remove))

    # --- always -----------------------------------------------------------------------------------------------

    @invariant()
    def what_is_the_users_stands(self) -> None:
        self.library.check()


TestReorganising = Reorganising.TestCase
TestReorganising.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
