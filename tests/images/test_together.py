"""Sharing requests never leaves anybody waiting: any schedule of members, pauses, faults and cancellations ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haven_vlm.applying import Applied, Applier
from haven_vlm.batch_writing import BatchWriter
from haven_vlm.errors import HavenError, StashError, StashGone, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Medium, TagRef
from haven_vlm.journal import Journal
from haven_vlm.together import Together
from haven_vlm.undoing import Scope, Undoer
from tests import virtual_time
from tests.images.test_batch_writing import Gateway, Match
from tests.ledger.harness import quick_folder

LINGER_S = 5.0
LATENCY_S = 1.0
FAULTS = {
    "refused": StashRefused("a trigger of the user's own says no"),
    "unavailable": StashUnavailable("the connection to Stash broke before its answer"),
    "unauthorized": StashUnauthorized("Stash wants a login that we do not have (any more)"),
    "gone": StashGone("not in Stash (any more)", ids=("0",)),
    "mistake": KeyError("a mistake of ours"),
}


@dataclass
class Slow:
    """A gateway whose requests take a second and fail as they are told to: number of the request → fault."""

    faults: dict[int, str]
    requests: int = 0

    async def _go(self) -> None:
        number, self.requests = self.requests, self.requests + 1
        await asyncio.sleep(LATENCY_S)
        if number in self.faults:
            raise FAULTS[self.faults[number]]

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        await self._go()
        return {i: Medium(kind, i, "", (), frozenset()) for i in ids}

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        await self._go()
        return {i: TagRef(i, f"tag {i}") for i in ids}

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        await self._go()

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        await self._go()


deeds = st.one_of(
    st.just(("look", 0.0)),
    st.just(("tags", 0.0)),
    st.tuples(st.just("add"), st.integers(1, 3).map(float)),
    st.tuples(st.just("remove"), st.integers(1, 3).map(float)),
    st.tuples(st.just("pause"), st.sampled_from([0.0, 0.5, 3.0, 12.0])),
)
lives = st.lists(
    st.tuples(st.lists(deeds, max_size=6), st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]))),
    min_size=1,
    max_size=6,
)
"""For each member: what it does, and when it is cancelled."""


@settings(max_examples=300, deadline=None)
@given(lives, st.dictionaries(st.integers(0, 12), st.sampled_from(sorted(FAULTS)), max_size=4), st.booleans())
def test_any_schedule_ends(
    members: list[tuple[list[tuple[str, float]], float | None]], faults: dict[int, str], strict: bool
) -> None:
    """`strict`: the first error of a member ends them all, as a login that is over does."""
    gateway: Any = Slow(faults)
    together = Together(gateway, linger_s=LINGER_S)

    async def member(number: int, life: list[tuple[str, float]]) -> None:
        for what, value in life:
            try:
                if what == "look":
                    found = await together.medium(Kind.IMAGE, str(number))
                    assert found is not None and found.id == str(number)
                elif what == "tags":
                    assert set(await together.tags_by_id(["1", str(number)])) == {"1", str(number)}
                elif what == "add":
                    await together.add_tags(Kind.IMAGE, [str(number)], [f"{value:g}"])
                elif what == "remove":
                    await together.remove_tags(Kind.IMAGE, [str(number)], [f"{value:g}"])
                else:
                    await asyncio.sleep(value)
            except (HavenError, KeyError):
                if strict:
                    raise

    async def main() -> None:
        async with together.taking_part(len(members)) as done:

            async def one(number: int, life: list[tuple[str, float]]) -> None:
                try:
                    await member(number, life)
                finally:
                    done()

            try:
                async with asyncio.TaskGroup() as group:
                    for number, (life, cancelled_at) in enumerate(members):
                        task = group.create_task(one(number, life))
                        if cancelled_at is not None:
                            asyncio.get_running_loop().call_later(cancelled_at, task.cancel)
            except* (HavenError, KeyError):
                assert strict
        assert len(asyncio.all_tasks()) == 1, "something is still under way"
        async with asyncio.timeout(2 * LATENCY_S):  # and whoever comes later is served at once
            gateway.faults.clear()
            await together.medium(Kind.IMAGE, "9")

    work = sum(len(life) for life, _ in members)
    pauses = sum(value for life, _ in members for what, value in life if what == "pause")
    # a refused request is repeated for each who asked
    virtual_time.run(main(), limit_s=10 + pauses + work * (LINGER_S + 2 * LATENCY_S))


async def test_whoever_is_left_behind_is_told() -> None:
    """The last one leaves while somebody outside waits for company: that one must not wait for ever."""
    match = Match()
    image = match.images(1)[0].medium
    together = Together(Gateway(match.stash), linger_s=3600)
    async with together.taking_part(2):
        left_behind = asyncio.ensure_future(together.medium(Kind.IMAGE, image.id))
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await left_behind


troubles = st.dictionaries(
    st.sampled_from(["media", "add_tags", "remove_tags", "tags_by_id"]),
    st.lists(st.sampled_from(["", "", "refused", "unavailable", "unauthorized"]), max_size=6),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(troubles, troubles, st.integers(1, 12))
def test_writing_and_undoing_end_whatever_stash_says(
    writing: dict[str, list[str]], undoing: dict[str, list[str]], count: int
) -> None:
    """With trouble at any request they end, with results or an error; and without trouble the rest is done."""

    def script(gateway: Gateway, trouble: dict[str, list[str]]) -> None:
        def deed(name: str) -> Any:
            def strike() -> None:
                if name:
                    raise FAULTS[name]

            return strike

        gateway.before = {method: [deed(name) for name in names] for method, names in trouble.items()}

    async def main(path: Path) -> None:
        match = Match()
        wanted = match.images(count)
        before = match.stash.snapshot()
        gateway = Gateway(match.stash)
        async with Journal(path) as journal, asyncio.timeout(60):
            script(gateway, writing)
            run_id = await journal.start_run("tag_images")
            try:
                await BatchWriter(gateway, journal).write(run_id, wanted)
            except StashError:
                assert any("unauthorized" in names for names in writing.values())
            gateway.before = {}
            results = await BatchWriter(gateway, journal).write(run_id, wanted)
            assert all(isinstance(r, Applied) for r in results)
            assert all(map(match.is_as, wanted))
            for trouble in (undoing, {}):
                script(gateway, trouble)
                together: Any = Together(gateway)
                applier = Applier(together, journal, tag_by_tag=True)
                undoer = Undoer(together, journal, applier, together=together)
                try:
                    await undoer.undo(await journal.start_run("undo"), Scope())
                except StashError:
                    assert trouble
            assert match.stash.snapshot() == before

    with quick_folder() as folder:
        asyncio.run(main(folder / "ledger.sqlite"))
