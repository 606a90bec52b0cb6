"""A user who reorganises the library, flags, reviews and edits; and what connectors with a ledger each do between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from haven_vlm.errors import StashGone, StashRefused
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium, TagRef
from haven_vlm.flags import FlagKeeper
from haven_vlm.page_data import Action, Decision
from haven_vlm.reviewing import Reviewer
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import MediaFilter
from haven_vlm.undoing import Scope
from tests.fakes import FakeGateway
from tests.ledger.harness import League, Process, apply_in_new_run, process, span

NAMES = ("Dunk", "Foul", "Block")
Where = tuple[int, int, int | None]
"""Index of the tag, start and length in milliseconds; no length: no end."""


@dataclass
class Gateway(FakeGateway):
    """What collecting and reviewing need of Stash besides."""

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        self._call("media")
        return {i: m for i in ids if (m := self.stash.media.get((kind, i))) is not None}

    async def markers_with_tag(self, tag_id: str) -> list[Marker]:
        self._call("markers_with_tag")
        return [m for m in self.stash.stands.values() if tag_id in (m.primary_tag_id, *m.tag_ids)]

    async def untag_markers(self, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
        self._call("untag_markers")
        for marker_id in ids:
            if marker_id in self.stash.stands:
                self.stash.edit(marker_id, lambda m: without(m, tag_id, primary_tag_id))

    async def move_marker(self, marker_id: str, start_ms: int, end_ms: int) -> None:
        self._call("move_marker")
        if marker_id not in self.stash.stands:
            raise StashGone("no such marker")
        self.stash.edit(marker_id, lambda m: replace(m, start_ms=start_ms, end_ms=end_ms))

    async def tag_marker(self, marker_id: str, tag_id: str) -> None:
        self._call("tag_marker")
        if marker_id not in self.stash.stands:
            raise StashGone("no such marker")
        self.stash.edit(marker_id, lambda m: with_tag(m, tag_id))

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        return []

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        return []

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        return {}

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        return self.stream_url(Kind.IMAGE, image_id)


def without(marker: Marker, tag_id: str, primary_tag_id: str | None = None) -> Marker:
    """The marker without this tag."""
    rest = tuple(t for t in marker.tag_ids if t != tag_id)
    return replace(marker, tag_ids=rest, primary_tag_id=primary_tag_id or marker.primary_tag_id)


def with_tag(marker: Marker, tag_id: str) -> Marker:
    """The marker with this tag besides."""
    return replace(marker, tag_ids=tuple(sorted({*marker.tag_ids, tag_id} - {marker.primary_tag_id})))


@dataclass
class Library:
    """Three scenes, three results, and the memory of their user: `tags` and `markers` are theirs beyond doubt."""

    folder: Path
    made: League = field(default_factory=League)
    tags: dict[str, set[str]] = field(default_factory=dict)
    """Scene → tags the user put there when they were not there."""
    taken_off: dict[str, set[str]] = field(default_factory=dict)
    """Scene → tags that may be ours and that the user took off: put back unseen, nobody can tell."""
    markers: dict[str, Marker] = field(default_factory=dict)
    """Made or edited by the user."""
    flagged: set[str] = field(default_factory=set)
    """Markers of ours that the user did no more to than flag them."""
    merged: dict[str, str] = field(default_factory=dict)
    """Merged tags, and into which."""

    def __post_init__(self) -> None:
        self.stash = self.made.stash
        self.flag = self.stash.tag("VLM_Incorrect")
        self.settings = Settings.model_validate(
            {"tag_list": list(NAMES), "endpoints": [{"base_url": "http://127.0.0.1:9/v1"}]}
        )
        for _ in range(3):
            scene = self.stash.scene(self.made.tag_me).id
            self.tags[scene], self.taken_off[scene] = set(), set()

    def scene(self, which: int) -> str:
        """One of those there are."""
        return list(self.tags)[which % len(self.tags)]

    def tag(self, which: int) -> str | None:
        """The tag a name of the vocabulary stands for now, aliases included; None while there is none."""
        name = NAMES[which].casefold()
        for tag in self.stash.tags.values():
            if name in (tag.name.casefold(), *(a.casefold() for a in tag.aliases)):
                return tag.id
        return None

    def marker(self, which: int, scene: str | None = None) -> Marker | None:
        """One of those that stand, or none."""
        standing = [m for m in self.stash.stands.values() if scene in (None, m.scene_id)]
        return standing[which % len(standing)] if standing else None

    def look(self) -> None:
        """The user changed something on purpose: what is theirs looks as it looks now."""
        self.markers = {i: self.stash.stands[i] for i in self.markers if i in self.stash.stands}

    def check(self) -> None:
        """What is the user's stands, as they left it."""
        for scene, tags in self.tags.items():
            assert tags <= self.stash.on((Kind.SCENE, scene))
        for marker_id, marker in self.markers.items():
            assert self.stash.stands.get(marker_id) == marker

    # --- the user ---------------------------------------------------------------------------------------------

    def put_on(self, scene: str, tag_id: str) -> None:
        if tag_id not in self.stash.on((Kind.SCENE, scene)):
            self.stash.put_on((Kind.SCENE, scene), tag_id)
            if tag_id not in self.taken_off[scene]:
                self.tags[scene].add(tag_id)

    def take_off(self, scene: str, tag_id: str) -> None:
        if tag_id in self.stash.on((Kind.SCENE, scene)):
            self.stash.take_off((Kind.SCENE, scene), tag_id)
            if tag_id not in self.tags[scene]:
                self.taken_off[scene].add(tag_id)
            self.tags[scene].discard(tag_id)

    def edit(self, marker: Marker, how: int) -> None:
        """Move it, rename it, re-tag it, or delete it."""
        match how % 4:
            case 0:
                self.stash.edit(marker.id, lambda m: replace(m, start_ms=m.start_ms + 100, end_ms=None))
            case 1:
                self.stash.edit(marker.id, lambda m: replace(m, title=m.title + "!"))
            case 2:
                self.stash.edit(marker.id, lambda m: with_tag(m, self.made.favourite))
            case _:
                self.stash.unmark(marker.id)
        self.flagged.discard(marker.id)
        if how % 4 == 3:
            self.markers.pop(marker.id, None)
        elif self.stash.stands[marker.id] != marker:
            self.markers[marker.id] = self.stash.stands[marker.id]

    def flag_marker(self, marker: Marker) -> None:
        if marker.id not in self.markers and self.flag not in marker.tag_ids:
            self.flagged.add(marker.id)
        self.stash.edit(marker.id, lambda m: with_tag(m, self.flag))
        self.look()

    def rename_tag(self, tag_id: str, name: str) -> None:
        if all(t.name.casefold() != name.casefold() for t in self.stash.tags.values()):
            self.stash.rename_tag(tag_id, name)

    def merge_tags(self, source: str, into: str) -> None:
        """Their own tag and ours become one tag on a scene: nobody can tell any more whose it is."""
        doubtful = {
            scene
            for scene, theirs in self.tags.items()
            if {source, into} <= self.stash.on((Kind.SCENE, scene)) and into not in theirs
        }
        self.stash.merge_tags(source, into)
        self.merged[source] = into
        for scene, theirs in self.tags.items():
            if source in self.taken_off[scene]:
                self.taken_off[scene].add(into)
            if source in theirs:
                theirs.discard(source)
                if scene not in doubtful and into not in self.taken_off[scene]:
                    theirs.add(into)
        self.look()

    def delete_tag(self, tag_id: str) -> None:
        with contextlib.suppress(StashRefused):  # while it is some marker's primary tag
            self.stash.delete_tag(tag_id)
            for theirs in self.tags.values():
                theirs.discard(tag_id)
            self.look()

    def merge_scenes(self, source: str, into: str) -> None:
        """Markers and files go along, tags do not."""
        self.stash.merge_scenes(source, into)
        del self.tags[source], self.taken_off[source]
        self.look()

    # --- the connector ----------------------------------------------------------------------------------------

    def play(self, ledger: str, act: Callable[[Process], Awaitable[object]], gateway: Gateway | None = None) -> None:
        """A process of the connector comes and goes."""
        there = gateway or Gateway(self.stash)

        async def main() -> None:
            async with process(self.stash, self.folder / ledger, there.mortality, there) as running:
                await act(running)

        asyncio.run(main())

    async def run(self, running: Process, which: int, tags: Collection[int], where: Sequence[Where]) -> int | None:
        """Apply results to a scene in a run of their own; None: Stash refused."""
        await running.resume()
        run = await running.journal.start_run("tags")
        found: dict[str, TagRef] = await running.applier.ensure_tags(run, dict.fromkeys(NAMES, ""))
        scene = self.scene(which)
        medium = self.stash.media[Kind.SCENE, scene]

        def draft(tag: int, start_ms: int, length_ms: int | None) -> MarkerDraft:
            end_ms = None if length_ms is None else start_ms + length_ms
            return span(medium, found[NAMES[tag]].id, start_ms, end_ms)

        wanted = self.made.desired(medium, {found[NAMES[t]].id for t in tags}, *(draft(*one) for one in where))
        run, _ = await apply_in_new_run(running, wanted)
        return run

    async def undo(self, running: Process, scope: Scope) -> None:
        await running.undoer.undo(await running.journal.start_run("undo"), scope)

    async def collect(self, running: Process, *, remove: bool) -> None:
        """Everything flagged is entered, held, and settled. (Pictures do not matter here.)"""
        gateway = running.gateway
        assert isinstance(gateway, Gateway)
        found = await gateway.find_tags(NAMES)
        keeper = FlagKeeper(
            gateway=gateway,
            journal=running.journal,
            applier=running.applier,
            flag=self.stash.tags[self.flag],
            names={tag.id: name for name, tag in found.items()},
            run_id=await running.journal.start_run("collect_incorrect_markers"),
            remove_markers=remove,
        )
        flagged = await keeper.find()
        await keeper.enter(flagged)
        assert await keeper.notice() == []
        everything = [(await running.journal.corrections.find(c)) for c in await running.journal.corrections.all()]
        await running.journal.corrections.collected([f[0] for f in everything if f is not None], "collection")
        # flags come off at the user's word, from their own markers, too
        expected = {i: without(m, self.flag) for i, m in self.markers.items()}
        # a flag that another ledger's collection took off leaves no trace: the marker is as it was written
        told = self.flagged & {*await running.journal.ownership.markers()}
        kept = {} if remove else {i: without(self.stash.stands[i], self.flag) for i in told}
        settled = await keeper.settle(flagged)
        assert settled.problems == []
        self.markers = expected | kept
        self.flagged.clear()

    async def review(self, running: Process, scene: str, decision: Decision) -> None:
        """One decision on the page; what it makes the user's is theirs from then on."""
        gateway = running.gateway
        assert isinstance(gateway, Gateway)
        reviewer = Reviewer(
            gateway,
            running.journal,
            running.applier,
            self.settings,
            start_run=lambda: running.journal.start_run("review"),
        )
        before = {*self.stash.stands}
        done = (await reviewer.review(scene, [decision])).done
        marker_id = decision.marker_id
        if marker_id is not None and done:
            marker = self.stash.stands.get(marker_id)
            was = self.markers.get(marker_id)
            if decision.action is Action.MOVE:
                assert marker is not None
                self.flagged.discard(marker_id)
                self.markers[marker_id] = marker
            elif was is not None and decision.action is Action.REJECT:
                assert marker is not None and without(marker, self.flag) == without(was, self.flag)
                self.markers[marker_id] = marker
            elif marker is not None and self.flag in marker.tag_ids:
                self.markers[marker_id] = marker  # not ours to this ledger
            self.flagged &= {*self.stash.stands}
        if decision.action is Action.ADD and done:
            (new,) = {*self.stash.stands} - before
            self.markers[new] = self.stash.stands[new]
