"""Many images written together: few requests, each image's own fate, and no harm from a kill at any moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from haven_vlm.applying import Applied, Applier
from haven_vlm.batch_writing import BatchWriter
from haven_vlm.errors import StashError, StashGone, StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Marker, Medium
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired
from haven_vlm.stash_ports import MediaFilter
from haven_vlm.together import Together
from haven_vlm.undoing import Scope, Undoer
from tests.fakes import FakeGateway, Killed, Mortality
from tests.ledger.harness import League, mortal


@dataclass
class Doom(Mortality):
    """A process that is dead stays dead, whatever of it was under way."""

    def moment(self) -> None:
        if self.at is not None and self.moments > self.at:
            raise Killed
        super().moment()


@dataclass
class Gateway(FakeGateway):
    """The real gateway's ways with many media at once."""

    sizes: list[tuple[str, int]] = field(default_factory=list)
    """Method and number of media of each request."""

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        self._call("media")
        self.sizes.append(("media", len(ids)))
        return {i: m for i in ids if (m := self.stash.media.get((kind, i))) is not None}

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        self.sizes.append(("add", len(ids)))
        await self._each(kind, ids, tag_ids, super().add_tags)

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        self.sizes.append(("remove", len(ids)))
        await self._each(kind, ids, tag_ids, super().remove_tags)

    async def _each(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str], change: object) -> None:
        there = [i for i in ids if (kind, i) in self.stash.media]
        if there:
            await change(kind, there, tag_ids)  # type: ignore[operator]
        if gone := set(ids) - set(there):
            raise StashGone("not in Stash (any more)", ids=tuple(sorted(gone)))

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        raise NotImplementedError

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        raise NotImplementedError

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        raise NotImplementedError

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        raise NotImplementedError

    async def untag_markers(self, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
        raise NotImplementedError

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        raise NotImplementedError


class Match(League):
    """A library of images, and what a run wants of them."""

    def images(self, count: int) -> list[Desired]:
        tags = [self.dunk, self.foul, self.block]
        wanted = []
        for number in range(count):
            medium = self.stash.image(self.tag_me, self.favourite)
            found = {tag for bit, tag in enumerate(tags) if number >> bit & 1}
            wanted.append(
                Desired(
                    medium=medium,
                    tag_ids=frozenset(found),
                    mark_on=frozenset({self.tagged}),
                    mark_off=frozenset({self.tag_me, self.errored}),
                )
            )
        return wanted

    def is_as(self, desired: Desired) -> bool:
        expected = {*(desired.tag_ids or ()), self.tagged, self.favourite}
        return self.stash.on((Kind.IMAGE, desired.medium.id)) == expected


@asynccontextmanager
async def writer(
    match: Match, path: Path, mortality: Mortality | None = None
) -> AsyncIterator[tuple[BatchWriter, Gateway, Journal]]:
    gateway = Gateway(match.stash, mortality or Mortality())
    async with Journal(path) as journal:
        mortal(journal, gateway.mortality)
        yield BatchWriter(gateway, journal), gateway, journal


async def test_each_tag_costs_one_request_for_all_images(tmp_path: Path) -> None:
    match = Match()
    wanted = match.images(80)
    async with writer(match, tmp_path / "l") as (batch, gateway, journal):
        results = await batch.write(await journal.start_run("tag_images"), wanted)
    assert all(isinstance(r, Applied) for r in results)
    assert all(map(match.is_as, wanted))
    counted = Counter(name for name, _ in gateway.sizes)
    # three tags and the mark on, the trigger off; a look before, after adding, and at the end
    assert counted == {"add": 4, "remove": 1, "media": 3}
    assert gateway.calls.count("medium") == 0


async def test_an_image_that_goes_fails_alone(tmp_path: Path) -> None:
    match = Match()
    wanted = match.images(24)
    async with writer(match, tmp_path / "l") as (batch, gateway, journal):

        def delete() -> None:
            del match.stash.media[Kind.IMAGE, wanted[7].medium.id]

        gateway.before["add_tags"] = [lambda: None, delete]
        results = await batch.write(await journal.start_run("tag_images"), wanted)
    gone = [r for r in results if isinstance(r, Applied) and r.gone]
    assert gone == [results[7]]
    assert all(match.is_as(d) for n, d in enumerate(wanted) if n != 7)


async def test_a_tag_that_goes_is_left_out_everywhere(tmp_path: Path) -> None:
    match = Match()
    wanted = match.images(16)
    async with writer(match, tmp_path / "l") as (batch, gateway, journal):
        gateway.before["add_tags"] = [lambda: match.stash.delete_tag(match.foul)]
        results = await batch.write(await journal.start_run("tag_images"), wanted)
    assert all(isinstance(r, Applied) for r in results)
    for desired in wanted:
        expected = {*(desired.tag_ids or ()), match.tagged, match.favourite} - {match.foul}
        assert match.stash.on((Kind.IMAGE, desired.medium.id)) == expected


@pytest.mark.parametrize("method", ["media", "add_tags", "remove_tags"])
async def test_an_outage_of_stash_is_each_images_own_result_and_the_next_run_finishes(
    tmp_path: Path, method: str
) -> None:
    match = Match()
    wanted = match.images(10)

    def fail() -> None:
        raise StashUnavailable("the connection to Stash broke before its answer")

    async with writer(match, tmp_path / "l") as (batch, gateway, journal):
        gateway.before[method] = [fail]
        results = await batch.write(await journal.start_run("tag_images"), wanted)
        failed = [d for d, r in zip(wanted, results, strict=True) if isinstance(r, StashError)]
        assert failed
        assert all(match.is_as(d) for d in wanted if d not in failed)
        await Applier(gateway, journal).resume_pending()
        assert all(isinstance(r, Applied) for r in await batch.write(await journal.start_run("tag_images"), failed))
    assert all(map(match.is_as, wanted))


async def test_a_login_that_is_over_ends_the_batch(tmp_path: Path) -> None:
    match = Match()

    def fail() -> None:
        raise StashUnauthorized("Stash wants a login that we do not have (any more)")

    async with writer(match, tmp_path / "l") as (batch, gateway, journal):
        gateway.before["media"] = [fail]
        with pytest.raises(StashUnauthorized):
            await batch.write(await journal.start_run("tag_images"), match.images(10))


async def test_a_preview_writes_nothing(tmp_path: Path) -> None:
    match = Match()
    wanted = match.images(8)
    before = match.stash.snapshot()
    async with writer(match, tmp_path / "l") as (batch, gateway, _):
        plans = await batch.preview(wanted)
    assert match.stash.snapshot() == before
    assert {name for name, _ in gateway.sizes} == {"media"}
    assert [set(p.tags_added) for p in plans if not isinstance(p, Exception)] == [
        {*(d.tag_ids or ()), match.tagged} for d in wanted
    ]


def undoing(gateway: Gateway, journal: Journal) -> Undoer:
    together: Any = Together(gateway)
    return Undoer(together, journal, Applier(together, journal, tag_by_tag=True), together=together)


async def test_many_images_are_undone_together(tmp_path: Path) -> None:
    match = Match()
    wanted = match.images(60)
    before = match.stash.snapshot()
    async with writer(match, tmp_path / "l") as (batch, gateway, journal):
        run_id = await journal.start_run("tag_images")
        await batch.write(run_id, wanted)
        match.stash.take_off((Kind.IMAGE, wanted[7].medium.id), match.dunk)  # the user's own change stays
        gateway.calls.clear()
        gateway.sizes.clear()
        undone = await undoing(gateway, journal).undo(await journal.start_run("undo"), Scope(run_id=run_id))
    assert (undone.media, undone.failed, undone.busy) == (60, {}, [])
    assert match.stash.snapshot() == before
    counted = Counter(name for name, _ in gateway.sizes)
    # the trigger on, three tags and the mark off; looks: before, at the plan, after adding, at the end
    assert counted == {"add": 1, "remove": 4, "media": 4}


async def test_a_kill_at_any_moment_does_no_harm(tmp_path: Path) -> None:
    """Whenever the process dies: another run finishes, nothing of the user's is touched, undo takes everything back."""
    at, survived = 0, False
    while not survived:
        match, path = Match(), tmp_path / f"{at}.sqlite"
        wanted = match.images(5)
        before = match.stash.snapshot()
        mortality = Doom()
        try:
            async with writer(match, path, mortality) as (batch, _, journal):
                run_id = await journal.start_run("tag_images")
                mortality.at = mortality.moments + at
                await batch.write(run_id, wanted)
                survived = True
                mortality.at = None
        except (Killed, BaseExceptionGroup):
            pass
        async with writer(match, path) as (batch, gateway, journal):
            applier = Applier(gateway, journal)
            await applier.resume_pending()
            again = [d for d in wanted if match.tag_me in match.stash.on((Kind.IMAGE, d.medium.id))]
            await batch.write(await journal.start_run("tag_images"), again)
            assert all(map(match.is_as, wanted)), f"killed at moment {at}"
            await undoing(gateway, journal).undo(await journal.start_run("undo"), Scope())
            assert match.stash.snapshot() == before, f"killed at moment {at}"
        at += 7 if at > 30 else 1
        assert at < 1000
    assert at > 60


# --- the sharing itself ---------------------------------------------------------------------------------------


async def test_a_refusal_of_the_whole_is_narrowed_down_to_whom_it_concerns() -> None:
    match = Match()
    wanted = match.images(4)
    unlucky = wanted[2].medium.id

    class Picky(Gateway):
        async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
            self.calls.append("add_tags")
            if unlucky in ids:
                raise StashRefused("a trigger of the user's own says no")
            await super().add_tags(kind, ids, tag_ids)

    together = Together(Picky(match.stash))
    async with together.taking_part(4):
        results = await asyncio.gather(
            *(together.add_tags(Kind.IMAGE, [d.medium.id], [match.dunk]) for d in wanted), return_exceptions=True
        )
    assert [isinstance(r, StashRefused) for r in results] == [False, False, True, False]


async def test_nobody_waits_for_ever_for_somebody_who_does_something_else() -> None:
    match = Match()
    image = match.images(1)[0].medium
    together = Together(Gateway(match.stash), linger_s=0.01)
    async with together.taking_part(2):
        assert await together.medium(Kind.IMAGE, image.id) == image


async def test_one_who_is_done_is_not_waited_for() -> None:
    match = Match()
    image = match.images(1)[0].medium
    together = Together(Gateway(match.stash), linger_s=3600)
    async with together.taking_part(2) as done:
        waiting = asyncio.ensure_future(together.medium(Kind.IMAGE, image.id))
        await asyncio.sleep(0)
        done()
        assert await waiting == image


async def test_leaving_leaves_nothing_under_way() -> None:
    match = Match()
    image = match.images(1)[0].medium
    stuck = asyncio.Event()

    class Slow(Gateway):
        async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
            await stuck.wait()
            return {}

    together = Together(Slow(match.stash))
    async with together.taking_part(1):
        waiting = asyncio.ensure_future(together.medium(Kind.IMAGE, image.id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_after_a_crowd_single_requests_go_on() -> None:
    match = Match()
    image = match.images(1)[0].medium
    together = Together(Gateway(match.stash), linger_s=3600)
    for _ in range(3):
        async with together.taking_part(2) as done:

            async def one(done: Callable[[], None] = done) -> None:
                await together.medium(Kind.IMAGE, image.id)
                done()

            await asyncio.gather(one(), one())
        async with asyncio.timeout(60):
            for _ in range(3):  # the next one is asked before the last one's task has quite ended
                assert await together.medium(Kind.IMAGE, image.id) == image


async def test_what_is_not_shared_passes_through() -> None:
    match = Match()
    together = Together(Gateway(match.stash))
    assert await together.find_tags(["Dunk"]) == {"Dunk": match.stash.tags[match.dunk]}
