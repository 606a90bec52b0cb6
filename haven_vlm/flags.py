"""The user's flags, and what they removed or moved: entered in the ledger; and the flags taken off again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from haven_vlm.applying import Applier
from haven_vlm.batch_writing import BatchWriter
from haven_vlm.corrections import Correction, Source, Verdict
from haven_vlm.errors import BusyError, LedgerError, StashError, StashGone, StashUnauthorized
from haven_vlm.facts import Kind, Marker, TagRef
from haven_vlm.journal import Journal
from haven_vlm.ownership import Desired, OwnedMarker, only_flagged, stretch
from haven_vlm.stash_ports import StashCollections

PAGE = 100
"""Media and markers that are asked of Stash and of the ledger together."""

_KINDS = (Kind.SCENE, Kind.IMAGE, Kind.GALLERY)


@dataclass(frozen=True, slots=True)
class Flagged:
    """What carries the flag in Stash."""

    markers: Mapping[str, Sequence[str]]
    """Scene → ids of its markers."""
    media: Mapping[Kind, Sequence[str]]


@dataclass(slots=True)
class Settled:
    """What became of flags."""

    cleared: int = 0
    markers_removed: int = 0
    markers_kept: int = 0
    """Flagged, and not ours or changed by the user: left alone though wrong ones were to be removed."""
    problems: list[str] = field(default_factory=list)
    """Sentences about what could not be done."""


class FlagKeeper:
    """Reads flags and takes them off. Raises what would befall every medium: `StashUnauthorized`, `LedgerError`.

    Args:
        flag: the tag `VLM_Incorrect`.
        names: id of a tag in Stash → its name in the vocabulary.
        remove_markers: remove wrong markers that we made and the user left as they were.
    """

    def __init__(
        self,
        *,
        gateway: StashCollections,
        journal: Journal,
        applier: Applier,
        flag: TagRef,
        names: Mapping[str, str],
        run_id: int,
        remove_markers: bool,
    ) -> None:
        self._gateway = gateway
        self._journal = journal
        self._applier = applier
        self._flag = flag
        self._names = names
        self._run_id = run_id
        self._remove_markers = remove_markers

    # --- into the ledger --------------------------------------------------------------------------------------

    async def find(self) -> Flagged:
        """Everything that carries the flag now."""
        markers: dict[str, list[str]] = {}
        for marker in await self._gateway.markers_with_tag(self._flag.id):
            markers.setdefault(marker.scene_id, []).append(marker.id)
        return Flagged(markers, {kind: await self._gateway.media_ids(kind, self._flag.id) for kind in _KINDS})

    async def enter(self, flagged: Flagged) -> None:
        """Enter in the ledger what the flags say; what is there already is not entered twice."""
        store = self._journal.corrections
        for ids in _pages([i for some in flagged.markers.values() for i in some]):
            corrections = [self._of_marker(m, origin) for m, origin in await self._markers_now(ids)]
            await store.record(*corrections)
        for kind, media in flagged.media.items():
            for ids in _pages(media):
                await store.record(*(_of_medium(kind, i) for i in ids))

    async def _markers_now(self, ids: Sequence[str]) -> list[tuple[Marker, OwnedMarker | None]]:
        """Those of these markers that still carry the flag, and how we left them if we made them."""
        standing = await self._gateway.markers_by_id(ids)
        origins = await self._journal.ownership.origins(list(standing))
        return [(m, origins.get(m.id)) for m in standing.values() if self._flag.id in (m.primary_tag_id, *m.tag_ids)]

    def _of_marker(self, marker: Marker, origin: OwnedMarker | None) -> Correction:
        """What the flag on a marker says: not this tag, not here."""
        meant = marker if origin is None else origin.marker
        tag_id = "" if meant.primary_tag_id == self._flag.id else meant.primary_tag_id
        return Correction(
            Kind.SCENE,
            marker.scene_id,
            Verdict.REJECTED,
            Source.FLAG,
            tag_id,
            before=stretch(meant),
            tag=self._names.get(tag_id, ""),
            marker_id=marker.id,
            run_id=origin.run_id if origin is not None else None,
        )

    async def notice(self) -> list[str]:
        """Look at every medium with something of ours that does not stand as we left it.

        Returns:
            Sentences about media that Stash does not tell about.
        """
        store = self._journal.ownership
        problems: list[str] = []
        after: tuple[Kind, str] | None = None
        while page := await store.owned_media(after, PAGE):
            after = page[-1]
            for kind, group in groupby(page, key=lambda medium: medium[0]):
                ids = [medium_id for _, medium_id in group]
                for medium_id in await self._changed(kind, ids):
                    try:
                        async with self._journal.claims.claim(kind, medium_id) as ours:
                            if ours:  # else the run at work there notices by itself
                                await self._applier.look(kind, medium_id, write=True)
                    except StashGone:
                        continue
                    except StashUnauthorized:
                        raise
                    except StashError as exc:
                        problems.append(f"{kind} {medium_id}: {exc}")
        return problems

    async def _changed(self, kind: Kind, ids: Sequence[str]) -> list[str]:
        """Those of these media at which a closer look is worth its requests."""
        media = await self._gateway.media(kind, ids)
        records = {i: await self._journal.ownership.record(kind, i, ()) for i in media}
        markers = [m for r in records.values() for m in r.markers]
        standing = await self._gateway.markers_by_id(markers) if markers else {}
        return [
            medium_id
            for medium_id, ours in records.items()
            if not ours.tags.keys() <= media[medium_id].tag_ids
            or any(standing.get(i) != owned.marker for i, owned in ours.markers.items())
        ]

    # --- off again --------------------------------------------------------------------------------------------

    async def _is_held(self, correction: Correction) -> bool:
        found = await self._journal.corrections.find(correction)
        return found is not None and bool(found[1])

    async def settle(self, flagged: Flagged) -> Settled:
        """Take off the flags whose corrections a collection holds; remove wrong markers, if that is wanted."""
        done = Settled()
        for scene_id, ids in flagged.markers.items():
            try:
                await self._settle_scene(scene_id, ids, done)
            except (StashUnauthorized, LedgerError):
                raise
            except (StashError, BusyError) as exc:
                done.problems.append(f"scene {scene_id}: {exc}")
        await self._settle_media(flagged.media, done)
        return done

    async def _settle_scene(self, scene_id: str, ids: Sequence[str], done: Settled) -> None:
        """Take the flags off a scene's markers that are held; remove those that are to be removed."""
        async with self._journal.claims.claim(Kind.SCENE, scene_id) as ours:
            if not ours:
                raise BusyError("another run is working on it; its flags come off next time")
            markers = [(m, o) for m, o in await self._markers_now(ids) if await self._is_held(self._of_marker(m, o))]
            doomed: list[Marker] = []
            if self._remove_markers:
                doomed = [m for m, o in markers if o is not None and only_flagged(o.marker, m, self._flag.id)]
                done.markers_kept += len(markers) - len(doomed)
            medium = await self._gateway.medium(Kind.SCENE, scene_id)
            if medium is None:
                return
            await self._applier.look(Kind.SCENE, scene_id, write=True)  # they are the user's from now on
            if doomed:
                done.markers_removed += (
                    await self._applier.remove_flagged(self._run_id, medium, doomed)
                ).markers_removed
            rest = [(m, o) for m, o in markers if m not in doomed]
            plain = [m.id for m, _ in rest if m.primary_tag_id != self._flag.id]
            if plain:
                await self._gateway.untag_markers(plain, self._flag.id)
            done.cleared += len(plain)
            for marker, origin in rest:
                if marker.primary_tag_id == self._flag.id:
                    await self._give_primary_tag_back(marker, origin, done)

    async def _give_primary_tag_back(self, marker: Marker, origin: OwnedMarker | None, done: Settled) -> None:
        """The flag stands in place of the primary tag, which a marker cannot be without."""
        before = origin.marker.primary_tag_id if origin is not None else ""
        if not before or before not in await self._gateway.tags_by_id([before]):
            done.problems.append(
                f"marker {marker.id} of scene {marker.scene_id} is collected, but “{self._flag.name}” "
                "is its primary tag, and what it was before nobody knows: give it another one in Stash"
            )
            return
        await self._gateway.untag_markers([marker.id], self._flag.id, primary_tag_id=before)
        done.cleared += 1

    async def _settle_media(self, media: Mapping[Kind, Sequence[str]], done: Settled) -> None:
        """Take the flags off media that are held; an undo puts them back."""
        writer = BatchWriter(self._gateway, self._journal)
        for kind, ids in media.items():
            for page in _pages(ids):
                held = [i for i in page if await self._is_held(_of_medium(kind, i))]
                found = await self._gateway.media(kind, held)
                wanted = [Desired(m, mark_off=frozenset({self._flag.id})) for m in found.values()]
                for desired, result in zip(wanted, await writer.write(self._run_id, wanted), strict=True):
                    if isinstance(result, StashError | BusyError):
                        done.problems.append(f"{desired.medium.label}: {result}")
                    else:
                        done.cleared += self._flag.id in result.tags_removed


def _of_medium(kind: Kind, medium_id: str) -> Correction:
    """What the flag on a medium says: something of its result is wrong."""
    return Correction(kind, medium_id, Verdict.REJECTED, Source.FLAG, "")


def _pages(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[at : at + PAGE] for at in range(0, len(ids), PAGE)]
