"""An image in Stash → what is in it: by a still picture's way or a clip's; and the tags that stand for it there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from haven_vlm.applying import Applier
from haven_vlm.errors import MediaUnreadable
from haven_vlm.facts import Frame, Kind, Medium, TagRef
from haven_vlm.image_engine import ImageEngine, ImageJob
from haven_vlm.marks import Marks
from haven_vlm.media_access import OpenVideo, opened_video, still_place, suffix_of
from haven_vlm.ownership import Desired
from haven_vlm.picture import Preparation
from haven_vlm.ports import (
    Analysis,
    Analyzer,
    FrameReader,
    Settled,
    VideoJob,
)
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm.still_reading import StillPlace
from haven_vlm.stills import ONE_PICTURE_SUFFIXES, STILL_SUFFIXES, picture_key, pieces_of


class Stills(Protocol):
    """Brings the pictures of a still; see `StillReader`."""

    async def read(self, place: StillPlace) -> tuple[Frame, ...]: ...


class ImageLooker:
    """Looks at images as Stash knows them; many at a time.

    Args:
        engine: for stills and animations.
        clips: for videos among the images; with the wording for stills, and a few moments of each.
        local_only_id: the tag of what must not leave the local network.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        gateway: StashCollections,
        engine: ImageEngine,
        clips: Analyzer,
        stills: Stills,
        open_video: OpenVideo,
        preparation: Preparation,
        local_only_id: str,
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._engine = engine
        self._clips = clips
        self._stills = stills
        self._open_video = open_video
        self._preparation = preparation
        self._local_only_id = local_only_id
        self._decoders = asyncio.Semaphore(settings.concurrent_task_limit)

    def expect(self, images: int) -> None:
        """Say how many more images will be looked at, or `left_out`."""
        self._engine.expect(images)

    def left_out(self) -> None:
        """One that was expected is not looked at."""
        self._engine.skip()

    async def look(self, medium: Medium, *, local_only: bool = False) -> Analysis:
        """Find out what is in an image.

        Args:
            local_only: it must stay on the local network for a reason that it does not carry itself.

        Raises:
            MediaUnreadable: it has no file, or the file is at fault; a sentence says how.
            MediaUnreachable: its file can be had neither here nor through Stash.
            OutageError, LedgerError: as the engines.
        """
        if not medium.files:
            self._engine.skip()
            raise MediaUnreadable("it has no file")
        local_only |= self._local_only_id in medium.tag_ids or not self._settings.allow_remote_media
        file = medium.files[0]
        if file.is_video and suffix_of(file) not in STILL_SUFFIXES:
            self._engine.skip()
            return await self._clip(medium, local_only)
        try:
            return await self._engine.look(self._still_job(medium, local_only))
        except MediaUnreadable:
            if not file.is_video:
                raise
            return await self._clip(medium, local_only)  # an animation that only a video decoder knows

    def _still_job(self, medium: Medium, local_only: bool) -> ImageJob:
        file, moments = medium.files[0], self._settings.image_moments
        place = still_place(medium, gateway=self._gateway, settings=self._settings)
        whole = file.width_px > 0 and pieces_of(file.width_px, file.height_px, moments) == 1
        return ImageJob(
            label=medium.label,
            identity=file.identity,
            picture=picture_key(self._preparation),
            read=lambda: self._stills.read(place),
            single=whole and not file.is_video and suffix_of(file) in ONE_PICTURE_SUFFIXES,
            local_only=local_only,
        )

    async def _clip(self, medium: Medium, local_only: bool) -> Analysis:
        file = medium.files[0]
        async with self._decoders:
            return await self._clips.analyse(
                VideoJob(
                    lane=f"clip {medium.id}",
                    label=medium.label,
                    identity=file.identity,
                    duration_ms=round(file.duration_s * 1000) if file.duration_s else None,
                    picture=self._preparation.key,
                    open_reader=lambda: self._open(medium),
                    local_only=local_only,
                    kind=Kind.IMAGE,
                )
            )

    def _open(self, medium: Medium) -> AbstractAsyncContextManager[FrameReader]:
        return opened_video(
            medium,
            gateway=self._gateway,
            settings=self._settings,
            open_video=self._open_video,
            preparation=self._preparation,
        )


class TagsInStash:
    """The vocabulary's tags in Stash: found by name or alias, created when needed; looked up when first found, and
    anew when Stash has them no more.

    Args:
        write: False in a preview: what would have to be created is left out.
    """

    def __init__(
        self, *, settings: Settings, gateway: StashCollections, applier: Applier, marks: Marks, run_id: int, write: bool
    ) -> None:
        self._specs = {t.name: t for t in settings.tag_list}
        self._gateway = gateway
        self._applier = applier
        self._parent_id = marks.parent.id
        self._run_id = run_id
        self._write = write
        self._known: dict[str, TagRef] = {}
        self._names: dict[str, str] = {}
        """Id of a tag → the name of the vocabulary it was found for, also when it is out of date."""
        self._turn = asyncio.Lock()

    async def find(self, names: Collection[str]) -> dict[str, TagRef]:
        """Names of the vocabulary → tags in Stash."""
        if not self._known.keys() >= set(names):
            async with self._turn:  # hundreds find the same new tag at once
                missing = {self._specs[n].stash_name: self._specs[n].definition for n in names if n not in self._known}
                if missing and self._write:
                    found = await self._applier.ensure_tags(self._run_id, missing, parent_id=self._parent_id)
                else:
                    found = await self._gateway.find_tags(list(missing)) if missing else {}
                for name in names:
                    if tag := found.get(self._specs[name].stash_name):
                        self._known[name], self._names[tag.id] = tag, name
                if self._write:
                    await self._applier.name_tags(self._known)
        return {n: self._known[n] for n in names if n in self._known}

    async def up_to_date(self, wanted: Sequence[Desired]) -> list[Desired]:
        """The wishes as they were, with tags that Stash has: one that the user deleted or merged since it was found
        is found, or made, again.

        Raises:
            StashError: Stash cannot be asked, or refuses a tag.
        """
        ids = {i for desired in wanted for i in desired.tag_ids or ()}
        lost = ids - (await self._gateway.tags_by_id(ids)).keys() if ids else set[str]()
        if not lost:
            return list(wanted)
        self._known = {name: tag for name, tag in self._known.items() if tag.id not in lost}
        found = await self.find({self._names[i] for i in lost})
        now = {i: found[self._names[i]].id for i in lost if self._names[i] in found}
        return [
            replace(d, tag_ids=frozenset(now.get(i, i) for i in d.tag_ids or () if i in now or i not in lost))
            for d in wanted
        ]

    def names(self, names: Collection[str]) -> tuple[str, ...]:
        """What the tags of these names of the vocabulary are called in Stash."""
        return tuple(self._specs[n].stash_name for n in names)

    def forget(self) -> None:
        """Something about tags turned out to be out of date: look again."""
        self._known.clear()


def how_settled(analysis: Analysis) -> Settled:
    """How an image counts as a question of the run."""
    if not analysis.coverage:
        return Settled.FAILED
    if analysis.asked:
        return Settled.ASKED
    return Settled.INHERITED if analysis.inherited else Settled.KNOWN
