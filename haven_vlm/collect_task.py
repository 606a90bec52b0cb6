"""What collecting corrections is made of, for one run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haven_vlm.applying import Applier
from haven_vlm.collecting import Collected, Collector, CollectWork
from haven_vlm.collection_files import CollectionFolder
from haven_vlm.collection_pictures import PictureTaker
from haven_vlm.facts import Kind, Term
from haven_vlm.flags import FlagKeeper
from haven_vlm.image_task import still_prompt
from haven_vlm.journal import Journal
from haven_vlm.marks import Marks
from haven_vlm.media_access import OpenVideo
from haven_vlm.picture import Preparation
from haven_vlm.ports import FetchBytes
from haven_vlm.progress import Progress
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm.still_reading import StillReader


@dataclass(frozen=True, slots=True)
class CollectTask:
    """Everything that corrections are collected with."""

    settings: Settings
    gateway: StashCollections
    journal: Journal
    applier: Applier
    marks: Marks
    progress: Progress
    preparation: Preparation
    open_video: OpenVideo
    fetch: FetchBytes
    terms: Sequence[Term]
    vr_tag_id: str
    run_id: int

    async def run(self, root: Path, stamp: str) -> tuple[Collected, Path]:
        """Collect into a folder of this name below `root`, or into that of an interrupted run; returns which.

        Raises:
            BusyError: another collection is at work.
            StashUnauthorized, StashUnavailable, LedgerError: nothing more can be done.
            HavenError: the folder cannot be written.
        """
        settings = self.settings
        called = {t.name: t.stash_name for t in settings.tag_list}
        found = await self.gateway.find_tags(list(called.values()))
        tags = {name: found[text] for name, text in called.items() if text in found}
        await self.applier.name_tags(tags)
        names = {tag.id: name for name, tag in tags.items()}
        flags = FlagKeeper(
            gateway=self.gateway,
            journal=self.journal,
            applier=self.applier,
            flag=self.marks.incorrect,
            names=names,
            run_id=self.run_id,
            remove_markers=settings.remove_incorrect_markers,
        )
        folder = CollectionFolder(root, stamp)
        try:
            async with StillReader(self.preparation, moments=settings.image_moments, fetch=self.fetch) as stills:
                pictures = PictureTaker(
                    settings=settings,
                    gateway=self.gateway,
                    store=self.journal,
                    preparation=self.preparation,
                    open_video=self.open_video,
                    stills=stills,
                    prompts={
                        Kind.SCENE: build_prompt(self.terms, instructions=settings.instructions),
                        Kind.IMAGE: still_prompt(settings)(self.terms),
                    },
                    local_only_id=self.marks.local_only.id,
                    vr_tag_id=self.vr_tag_id,
                )
                work = CollectWork(
                    settings=settings,
                    journal=self.journal,
                    flags=flags,
                    pictures=pictures,
                    names=names,
                    progress=self.progress,
                )
                return await Collector(work, folder).run(), folder.path
        finally:
            await asyncio.to_thread(folder.close)
