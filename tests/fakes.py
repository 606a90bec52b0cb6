"""A small Stash in memory behind the `StashGateway` port: strict where Stash is strict, with faults and deaths on call.

`FakeStash` is the library and what its user does to it; `FakeGateway` is one process's way in. Several gateways may
look at one library, as several processes would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from haven_vlm.errors import PartialWrite, StashError, StashGone, StashRefused, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft, MediaFile, Medium, TagRef

Key = tuple[Kind, str]


class Killed(BaseException):
    """The process dies here: nothing of ours runs any more, not even an `except Exception`."""


@dataclass
class Mortality:
    """Counts the moments at which a process can die, and dies at one of them."""

    at: int | None = None
    """Index of the moment to die at; None: live."""
    moments: int = 0

    def moment(self) -> None:
        """One more moment has come."""
        if self.moments == self.at:
            self.moments += 1
            raise Killed
        self.moments += 1


@dataclass(frozen=True)
class Snapshot:
    """Everything in a library that a user can see, comparable; marker ids left out."""

    tags: frozenset[tuple[str, str, tuple[str, ...]]]
    carried: frozenset[tuple[Kind, str, str]]
    markers: tuple[tuple[str, str, int, int, str, tuple[str, ...]], ...]
    """Scene, title, start, end (-1: none), primary tag, ids of the others."""


@dataclass
class FakeStash:
    """A library, and its user's hands."""

    tags: dict[str, TagRef] = field(default_factory=dict)
    media: dict[Key, Medium] = field(default_factory=dict)
    stands: dict[str, Marker] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)

    # --- the user ---------------------------------------------------------------------------------------------

    def tag(self, name: str) -> str:
        """Create a tag; returns its id."""
        tag = TagRef(self._next("tag"), name)
        self.tags[tag.id] = tag
        return tag.id

    def scene(self, *tag_ids: str) -> Medium:
        """Create a scene that carries these tags."""
        scene_id = self._next("scene")
        file = MediaFile(f"/media/{scene_id}.mp4", 1000, {"oshash": f"{int(scene_id):016x}"}, 100.0, 640, 360)
        self.media[Kind.SCENE, scene_id] = Medium(Kind.SCENE, scene_id, "", (file,), frozenset(tag_ids))
        return self.media[Kind.SCENE, scene_id]

    def image(self, *tag_ids: str) -> Medium:
        """Create an image that carries these tags."""
        image_id = self._next("image")
        self.media[Kind.IMAGE, image_id] = Medium(Kind.IMAGE, image_id, "", (), frozenset(tag_ids))
        return self.media[Kind.IMAGE, image_id]

    def put_on(self, key: Key, *tag_ids: str) -> None:
        """Add tags to a medium."""
        self.media[key] = replace(self.media[key], tag_ids=self.media[key].tag_ids | {*tag_ids})

    def take_off(self, key: Key, *tag_ids: str) -> None:
        """Remove tags from a medium."""
        self.media[key] = replace(self.media[key], tag_ids=self.media[key].tag_ids - {*tag_ids})

    def mark(self, draft: MarkerDraft) -> Marker:
        """Create a marker."""
        if (Kind.SCENE, draft.scene_id) not in self.media:
            raise StashGone("no such scene")
        if not {draft.primary_tag_id, *draft.tag_ids} <= self.tags.keys():
            raise StashGone("FOREIGN KEY constraint failed")
        if draft.end_ms is not None and draft.end_ms < draft.start_ms:
            raise StashRefused("end_seconds must be greater than or equal to seconds")
        secondary = tuple(sorted({*draft.tag_ids} - {draft.primary_tag_id}))
        marker = Marker(
            self._next("marker"),
            draft.scene_id,
            draft.title.strip(),
            draft.start_ms,
            draft.end_ms,
            draft.primary_tag_id,
            secondary,
        )
        self.stands[marker.id] = marker
        return marker

    def edit(self, marker_id: str, change: Callable[[Marker], Marker]) -> None:
        """Change a marker's values."""
        self.stands[marker_id] = change(self.stands[marker_id])

    def unmark(self, marker_id: str) -> None:
        """Delete a marker."""
        del self.stands[marker_id]

    def rename_tag(self, tag_id: str, name: str) -> None:
        """Rename a tag; its id stays."""
        self.tags[tag_id] = replace(self.tags[tag_id], name=name)

    def delete_tag(self, tag_id: str) -> None:
        """Delete a tag: refused while it is some marker's primary tag, else it vanishes from everything."""
        if any(m.primary_tag_id == tag_id for m in self.stands.values()):
            raise StashRefused("cannot delete tag used as a primary tag in scene markers")
        del self.tags[tag_id]
        self._replace_tag(tag_id, None)

    def merge_tags(self, source: str, into: str) -> None:
        """Merge a tag into another: everything that carried the first carries the second."""
        gone = self.tags.pop(source)
        kept = self.tags[into]
        self.tags[into] = replace(kept, aliases=(*kept.aliases, gone.name))
        self._replace_tag(source, into)

    def merge_scenes(self, source: str, into: str) -> None:
        """Merge a scene into another: its markers and files move there, its tags do not."""
        gone = self.media.pop((Kind.SCENE, source))
        kept = self.media[Kind.SCENE, into]
        self.media[Kind.SCENE, into] = replace(kept, files=kept.files + gone.files)
        for marker in list(self.stands.values()):
            if marker.scene_id == source:
                self.stands[marker.id] = replace(marker, scene_id=into)

    def delete_scene(self, scene_id: str) -> None:
        """Delete a scene and its markers."""
        del self.media[Kind.SCENE, scene_id]
        self.stands = {i: m for i, m in self.stands.items() if m.scene_id != scene_id}

    def move_file(self, key: Key, path: str) -> None:
        """Rename the primary file."""
        first, *rest = self.media[key].files
        self.media[key] = replace(self.media[key], files=(replace(first, path=path), *rest))

    # --- looking ----------------------------------------------------------------------------------------------

    def on(self, key: Key) -> set[str]:
        """Ids of the tags a medium carries."""
        return set(self.media[key].tag_ids)

    def markers_of(self, scene_id: str) -> list[Marker]:
        """Markers of a scene, by start."""
        return sorted((m for m in self.stands.values() if m.scene_id == scene_id), key=lambda m: (m.start_ms, m.id))

    def snapshot(self) -> Snapshot:
        """What there is now."""
        names = {i: t.name for i, t in self.tags.items()}
        return Snapshot(
            frozenset(
                (t.name, t.description, tuple(names.get(p, "?") for p in t.parent_ids)) for t in self.tags.values()
            ),
            frozenset((*key, names[i]) for key, medium in self.media.items() for i in medium.tag_ids),
            tuple(
                sorted(
                    (
                        m.scene_id,
                        m.title,
                        m.start_ms,
                        -1 if m.end_ms is None else m.end_ms,
                        names[m.primary_tag_id],
                        m.tag_ids,
                    )
                    for m in self.stands.values()
                )
            ),
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _next(self, what: str) -> str:
        self._last[what] = self._last.get(what, 0) + 1
        return str(self._last[what])

    def _replace_tag(self, old: str, new: str | None) -> None:
        stand_in = frozenset() if new is None else frozenset({new})
        for key, medium in self.media.items():
            if old in medium.tag_ids:
                self.media[key] = replace(medium, tag_ids=medium.tag_ids - {old} | stand_in)
        for marker in list(self.stands.values()):
            primary = new if marker.primary_tag_id == old and new is not None else marker.primary_tag_id
            tags = {*marker.tag_ids}
            if old in tags:
                tags = tags - {old} | stand_in
            self.stands[marker.id] = replace(marker, primary_tag_id=primary, tag_ids=tuple(sorted(tags - {primary})))


@dataclass
class FakeGateway:
    """`StashGateway` over a `FakeStash`."""

    stash: FakeStash
    mortality: Mortality = field(default_factory=Mortality)
    calls: list[str] = field(default_factory=list)
    """Names of the methods called, in order."""
    before: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    """Method → what happens right before its next calls, one each: an edit of the user's, or an exception."""
    after: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    """Method → what happens after its next calls have changed the library: a lost reply."""
    cut_markers_at: list[int] = field(default_factory=list)
    """The next `create_markers` fail after this many."""

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.mortality.moment()
        if self.before.get(name):
            self.before[name].pop(0)()

    def _wrote(self, name: str) -> None:
        self.mortality.moment()
        if self.after.get(name):
            self.after[name].pop(0)()

    async def ui_setting(self, key: str) -> object:
        return None

    async def plugin_settings(self) -> Mapping[str, object]:
        return {}

    async def find_tag(self, name: str) -> TagRef | None:
        self._call("find_tag")
        return self._find(name)

    def _find(self, name: str) -> TagRef | None:
        folded = name.casefold()
        named = [t for t in self.stash.tags.values() if t.name.casefold() == folded]
        other = [t for t in self.stash.tags.values() if folded in {a.casefold() for a in t.aliases}]
        return next(iter(named + other), None)

    async def find_tags(self, names: Collection[str]) -> dict[str, TagRef]:
        self._call("find_tags")
        return {name: tag for name in names if (tag := self._find(name)) is not None}

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        self._call("tags_by_id")
        return {i: self.stash.tags[i] for i in ids if i in self.stash.tags}

    async def create_tag(self, name: str, *, parent_id: str | None = None, description: str = "") -> TagRef:
        self._call("create_tag")
        if self._find(name) is not None:
            raise StashRefused(f"tag with name '{name}' already exists")
        parents = () if parent_id is None else (parent_id,)
        if not {*parents} <= self.stash.tags.keys():
            raise StashGone("no such parent")
        tag_id = self.stash.tag(name)
        self.stash.tags[tag_id] = replace(self.stash.tags[tag_id], description=description, parent_ids=parents)
        self._wrote("create_tag")
        return self.stash.tags[tag_id]

    async def unused_tags(self, ids: Collection[str]) -> set[str]:
        self._call("unused_tags")
        used: set[str] = set()
        for medium in self.stash.media.values():
            used |= medium.tag_ids
        for marker in self.stash.stands.values():
            used |= {marker.primary_tag_id, *marker.tag_ids}
        for tag in self.stash.tags.values():
            used |= {*tag.parent_ids}
        return {i for i in ids if i in self.stash.tags} - used

    async def destroy_tags(self, ids: Sequence[str]) -> None:
        self._call("destroy_tags")
        for tag_id in ids:
            if tag_id not in self.stash.tags:
                raise StashGone(f"tag with id {tag_id} not found")
            self.stash.delete_tag(tag_id)
        self._wrote("destroy_tags")

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        self._call("media_ids")
        found = [m.id for (k, _), m in self.stash.media.items() if k is kind and tag_id in m.tag_ids]
        return sorted(found, key=int)

    async def medium(self, kind: Kind, medium_id: str) -> Medium | None:
        self._call("medium")
        return self.stash.media.get((kind, medium_id))

    def _check(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        if not tag_ids:
            raise AssertionError("an update that changes nothing fires hooks all the same")
        if any((kind, i) not in self.stash.media for i in ids):
            raise StashGone("sql: no rows in result set")

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        self._call("add_tags")
        self._check(kind, ids, tag_ids)
        if not {*tag_ids} <= self.stash.tags.keys():
            raise StashGone("FOREIGN KEY constraint failed")
        for medium_id in ids:
            self.stash.put_on((kind, medium_id), *tag_ids)
        self._wrote("add_tags")

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        self._call("remove_tags")
        self._check(kind, ids, tag_ids)
        for medium_id in ids:
            self.stash.take_off((kind, medium_id), *tag_ids)
        self._wrote("remove_tags")

    async def scene(self, scene_id: str) -> tuple[Medium, list[Marker]] | None:
        found = await self.medium(Kind.SCENE, scene_id)
        return None if found is None else (found, await self.markers(scene_id))

    async def markers(self, scene_id: str) -> list[Marker]:
        self._call("markers")
        return self.stash.markers_of(scene_id)

    async def markers_by_id(self, ids: Collection[str]) -> dict[str, Marker]:
        self._call("markers_by_id")
        return {i: self.stash.stands[i] for i in ids if i in self.stash.stands}

    async def create_markers(self, drafts: Sequence[MarkerDraft]) -> list[Marker]:
        self._call("create_markers")
        created: list[Marker] = []
        cut = self.cut_markers_at.pop(0) if self.cut_markers_at else None
        for number, draft in enumerate(drafts):
            try:
                if number == cut:
                    raise StashUnavailable("database is locked")
                created.append(self.stash.mark(draft))
            except StashError as exc:
                if not created:
                    raise
                raise PartialWrite(str(exc), created=tuple(created)) from exc
            self._wrote("create_markers")  # several mutations to a document: a death in between leaves a part
        return created

    async def destroy_markers(self, ids: Collection[str]) -> None:
        self._call("destroy_markers")
        for marker_id in ids:
            self.stash.stands.pop(marker_id, None)
        self._wrote("destroy_markers")

    def stream_url(self, kind: Kind, medium_id: str) -> tuple[str, dict[str, str]]:
        return f"http://127.0.0.1/{kind}/{medium_id}/stream", {}
