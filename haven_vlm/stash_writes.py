"""Writing to Stash so that nothing is doubled, nothing is lost, and the caller knows what stands.

A reply can be lost after Stash has done its work, and Stash can fail between two fields of one document.
Whatever creates something is therefore never sent again before looking whether it is there already.
Blocking; runs in the gateway's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from haven_vlm.errors import PartialWrite, StashError, StashGone, StashUnavailable
from haven_vlm.facts import Kind, Marker, MarkerDraft, Medium, TagRef
from haven_vlm.stash_faults import NotSent, Patience, chunked, missing_id
from haven_vlm.stash_queries import (
    MARKER,
    MARKER_UPDATE,
    MARKERS_BY_ID,
    MARKERS_DESTROY,
    MARKERS_UPDATE,
    SCENE_MARKERS,
    best_tag,
    bulk_update,
    created_marker,
    is_draft,
    is_id,
    marker_of,
    markers_create,
    media_query,
    medium_fields,
    medium_of,
    seconds,
    studio_names_query,
)
from haven_vlm.stash_tags import NAMES_PER_QUERY, Talk, one_by_one, tags_by_id

log = logging.getLogger(__name__)

MARKERS_PER_DOCUMENT = 25
MEDIA_PER_UPDATE = 25
"""Hooks of other plugins run for every medium of an update before Stash replies: keep a request short."""
IMAGES_PER_UPDATE = 100
"""Images are many, and few plugins hook them."""
MEDIA_PER_QUERY = 100


# --- media ----------------------------------------------------------------------------------------------------


def media(talk: Talk, kind: Kind, ids: Collection[str], *, zip_objects: bool) -> dict[str, Medium]:
    """Those of the media that exist. Stash fails for the first unknown id, so that is dropped and the rest asked for
    again."""
    found: dict[str, Medium] = {}
    document = media_query(kind, zip_objects=zip_objects)
    for piece in chunked([i for i in dict.fromkeys(ids) if is_id(i)], MEDIA_PER_QUERY):
        while piece:
            try:
                rows = talk.run(document, {"ids": piece}).data["found"]["rows"]
            except StashGone as exc:
                unknown = missing_id(exc)
                if unknown not in piece:
                    raise
                piece.remove(unknown)
            else:
                found |= {str(row["id"]): medium_of(kind, row) for row in rows}
                break
    return found


def find_studios(talk: Talk, names: Collection[str]) -> dict[str, str]:
    """Name as asked → id of the studio of that name, else of the oldest one that has it as an alias."""
    found: dict[str, str] = {}
    for piece in chunked(list(dict.fromkeys(n for n in names if n.strip())), NAMES_PER_QUERY):
        data = talk.run(*studio_names_query([name.strip() for name in piece])).data
        for number, name in enumerate(piece):
            rows = data[f"t{number}"]["studios"]
            studios = [TagRef(str(row["id"]), row["name"], tuple(row.get("aliases") or ())) for row in rows]
            if (studio := best_tag(name, studios)) is not None:
                found[name] = studio.id
    return found


# --- tags of media --------------------------------------------------------------------------------------------


def change_tags(talk: Talk, kind: Kind, ids: Sequence[str], tag_ids: Collection[str], *, mode: str) -> None:
    """Add tags to media, or take them away (`mode` 'ADD' or 'REMOVE'); other tags stay as they are.

    Stash refuses a whole batch for one unknown id: the others are then done one by one.

    Raises:
        StashGone: some media or tags do not exist (any more), `ids` says which; everything else was done.
    """
    media, tags = list(dict.fromkeys(ids)), list(dict.fromkeys(tag_ids))
    if not media or not tags:
        return
    if strange := [i for i in (*media, *tags) if not is_id(i)]:
        raise StashGone(f"no such id in Stash: {', '.join(strange)}", ids=tuple(strange))
    gone: list[str] = []
    for piece in chunked(media, IMAGES_PER_UPDATE if kind is Kind.IMAGE else MEDIA_PER_UPDATE):
        try:
            talk.run(bulk_update(kind), _change(piece, tags, mode))
        except StashGone:
            known = tags_by_id(talk, tags)
            if lost := [tag_id for tag_id in tags if tag_id not in known]:
                raise StashGone(f"these tags do not exist (any more): {', '.join(lost)}", ids=tuple(lost)) from None
            gone += _each_apart(talk, kind, piece, tags, mode)
    if gone:
        raise StashGone(f"{kind} {', '.join(gone)}: not in Stash (any more); the others are done", ids=tuple(gone))


def _change(ids: Sequence[str], tags: Sequence[str], mode: str) -> dict[str, Any]:
    return {"input": {"ids": list(ids), "tag_ids": {"ids": list(tags), "mode": mode}}}


def _each_apart(talk: Talk, kind: Kind, ids: Sequence[str], tags: Sequence[str], mode: str) -> list[str]:
    gone = []
    for medium_id in ids:
        try:
            talk.run(bulk_update(kind), _change([medium_id], tags, mode))
        except StashGone:
            gone.append(medium_id)
    return gone


# --- markers --------------------------------------------------------------------------------------------------


def scene_markers(talk: Talk, scene_id: str) -> list[Marker]:
    """All markers of a scene, ascending by start.

    Raises:
        StashGone: there is no such scene.
    """
    scene = talk.run(SCENE_MARKERS, {"id": scene_id}).data.get("findScene") if is_id(scene_id) else None
    if scene is None:
        raise StashGone(f"scene {scene_id} is not in Stash (any more)", ids=(scene_id,))
    return markers_of(scene)


def scene(talk: Talk, scene_id: str, *, zip_objects: bool) -> tuple[Medium, list[Marker]] | None:
    """A scene and its markers, as they are at one moment; None when there is no such scene."""
    if not is_id(scene_id):
        return None
    fields = medium_fields(Kind.SCENE, zip_objects=zip_objects)
    document = f"query HavenScene($id: ID!) {{ findScene(id: $id) {{ {fields} scene_markers {{ {MARKER} }} }} }}"
    row = talk.run(document, {"id": scene_id}).data.get("findScene")
    return (medium_of(Kind.SCENE, row), markers_of(row)) if row else None


def markers_of(scene: Mapping[str, Any]) -> list[Marker]:
    """The markers in a scene's row, ascending by start."""
    found = [marker_of(row) for row in scene["scene_markers"]]
    return sorted(found, key=lambda marker: (marker.start_ms, int(marker.id)))


def markers_by_id(talk: Talk, ids: Collection[str]) -> dict[str, Marker]:
    """Those of the markers that exist, wherever they stand. Stash fails for the first unknown id, so that is dropped
    and the rest asked for again."""
    found: dict[str, Marker] = {}
    for piece in chunked([i for i in dict.fromkeys(ids) if is_id(i)], NAMES_PER_QUERY):
        while piece:
            try:
                rows = talk.run(MARKERS_BY_ID, {"ids": piece}).data["findSceneMarkers"]["scene_markers"]
            except StashGone as exc:
                unknown = missing_id(exc)
                if unknown not in piece:
                    raise
                piece.remove(unknown)
            else:
                found |= {str(row["id"]): marker_of(row) for row in rows}
                break
    return found


def create_markers(talk: Talk, patience: Patience, drafts: Sequence[MarkerDraft]) -> list[Marker]:
    """Create markers, each once, in the order of the drafts.

    Raises:
        PartialWrite: Stash failed after some were written; `created` holds those, in order.
        StashError: Stash failed and nothing was written.
    """
    if not drafts:
        return []
    return _MarkerBatch(talk, patience, drafts).write()


class _MarkerBatch:
    """Drafts on their way into Stash: which stand, which do not, which are in the dark."""

    def __init__(self, talk: Talk, patience: Patience, drafts: Sequence[MarkerDraft]) -> None:
        self._talk = talk
        self._patience = patience
        self._drafts = drafts
        self._made: dict[int, Marker] = {}
        self._before = {m.id for scene in {d.scene_id for d in drafts} for m in scene_markers(talk, scene)}
        """Markers that stood there before us, maybe equal to a draft: never taken for ours."""

    def write(self) -> list[Marker]:
        for piece in chunked(list(range(len(self._drafts))), MARKERS_PER_DOCUMENT):
            self._write_piece(piece)
        return [self._made[position] for position in range(len(self._drafts))]

    def _write_piece(self, piece: list[int]) -> None:
        last: StashError | None = None
        for turn in self._patience.turns():
            if turn:
                self._look_for(piece, last)
            todo = [position for position in piece if position not in self._made]
            if not todo:
                return
            try:
                last = self._send(todo)
            except NotSent as exc:
                self._fail(exc)
            except StashUnavailable as exc:
                last = exc
            except StashError as exc:  # the whole document was refused before any of it was carried out
                self._fail(exc)
            if last is None:
                return
            if not isinstance(last, StashUnavailable):
                self._look_for(piece, last)
                self._fail(last)
        self._look_for(piece, last)
        if any(position not in self._made for position in piece) and last is not None:
            self._fail(last)

    def _send(self, todo: list[int]) -> StashError | None:
        """Send the drafts once; returns what went wrong, a refusal before something that may pass."""
        reply = self._talk.run(*markers_create({f"m{n}": self._drafts[n] for n in todo}), each=True)
        for position in todo:
            row = reply.data.get(f"m{position}")
            if row is not None:
                self._made[position] = created_marker(row, self._drafts[position])
        if all(position in self._made for position in todo):
            return None
        return reply.worst or StashUnavailable("Stash's reply does not say what became of every marker")

    def _look_for(self, piece: list[int], reason: StashError | None) -> None:
        """Claim, for each draft without a marker, a new marker that is what the draft would become."""
        missing = [position for position in piece if position not in self._made]
        if not missing:
            return
        taken = self._before | {marker.id for marker in self._made.values()}
        found: list[Marker] = []
        for scene_id in {self._drafts[position].scene_id for position in missing}:
            try:
                found += scene_markers(self._talk, scene_id)
            except StashGone:
                continue  # the scene went, and its markers with it
            except StashError as exc:
                self._fail(reason or exc, uncertain=missing)
        for position in missing:
            for marker in found:
                if marker.id not in taken and is_draft(marker, self._drafts[position]):
                    taken.add(marker.id)
                    self._made[position] = marker
                    break

    def _fail(self, reason: StashError, *, uncertain: Sequence[int] = ()) -> NoReturn:
        if not self._made and not uncertain:
            raise reason
        text = f"{len(self._made)} of {len(self._drafts)} markers were written before Stash failed"
        if uncertain:
            text += f", and of {len(uncertain)} more nobody can say now whether they were"
        raise PartialWrite(
            f"{text}: {reason}",
            created=tuple(self._made[position] for position in sorted(self._made)),
            uncertain=tuple(self._drafts[position] for position in uncertain),
        ) from reason


def destroy_markers(talk: Talk, ids: Collection[str]) -> None:
    """Destroy these markers; those that are gone already do not matter.

    Stash refuses a whole list for one unknown id, so the list is tried as it is, and one by one after a refusal.
    """
    for piece in chunked([i for i in dict.fromkeys(ids) if is_id(i)], MARKERS_PER_DOCUMENT):
        try:
            talk.run(MARKERS_DESTROY, {"ids": piece})
        except StashGone:
            one_by_one(talk, MARKERS_DESTROY, piece)


def move_marker(talk: Talk, marker_id: str, start_ms: int, end_ms: int) -> None:
    """Give a marker another start and end. Sending it twice does no harm.

    Raises:
        StashGone: there is no such marker.
    """
    if not is_id(marker_id):
        raise StashGone(f"no such marker in Stash: {marker_id}", ids=(marker_id,))
    values = {"id": marker_id, "seconds": seconds(start_ms), "end_seconds": seconds(end_ms)}
    talk.run(MARKER_UPDATE, {"input": values})


def tag_marker(talk: Talk, marker_id: str, tag_id: str) -> None:
    """Add a secondary tag to a marker; those it has stay.

    Raises:
        StashGone: there is no such marker.
    """
    marker = markers_by_id(talk, [marker_id]).get(marker_id)
    if marker is None:
        raise StashGone(f"no such marker in Stash: {marker_id}", ids=(marker_id,))
    if tag_id not in (marker.primary_tag_id, *marker.tag_ids):
        talk.run(MARKER_UPDATE, {"input": {"id": marker_id, "tag_ids": [*marker.tag_ids, tag_id]}})


def untag_markers(talk: Talk, ids: Collection[str], tag_id: str, *, primary_tag_id: str | None = None) -> None:
    """Take a tag off these markers; other tags stay, and markers that are gone already do not matter.

    Args:
        primary_tag_id: what the markers' primary tag becomes; None: it stays.
    """
    change: dict[str, Any] = {"tag_ids": {"ids": [tag_id], "mode": "REMOVE"}}
    if primary_tag_id is not None:
        change["primary_tag_id"] = primary_tag_id
    for piece in chunked([i for i in dict.fromkeys(ids) if is_id(i)], MARKERS_PER_DOCUMENT):
        there = list(markers_by_id(talk, piece))
        if there:
            talk.run(MARKERS_UPDATE, {"input": {"ids": there, **change}})
