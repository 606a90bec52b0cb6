"""What working on images and galleries is made of, for one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from haven_vlm.applying import Applier
from haven_vlm.batch_writing import BatchWriter
from haven_vlm.facts import Kind, Prompt, TagRef, Term
from haven_vlm.galleries import GalleryRun, GalleryWork
from haven_vlm.image_engine import ImageEngine
from haven_vlm.image_looking import ImageLooker, TagsInStash
from haven_vlm.images import ImageRun, ImageWork
from haven_vlm.journal import Journal
from haven_vlm.marks import Marks
from haven_vlm.media_access import OpenVideo
from haven_vlm.picture import Preparation
from haven_vlm.pool_ports import VisionPool
from haven_vlm.ports import Analyzer, FetchBytes
from haven_vlm.progress import Progress
from haven_vlm.prompts import build_prompt
from haven_vlm.reports import WorkResult
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm.still_reading import StillReader


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Everything that images and galleries are worked on with."""

    settings: Settings
    gateway: StashCollections
    journal: Journal
    pool: VisionPool
    applier: Applier
    marks: Marks
    progress: Progress
    preparation: Preparation
    open_video: OpenVideo
    clips: Analyzer
    """For videos among the images; see `ImageLooker`."""
    fetch: FetchBytes
    terms: Sequence[Term]
    run_id: int
    write: bool
    recall: bool
    """True: answers of any model count as known."""
    only_marked: bool

    async def run(self, kind: Kind, ids: Sequence[str], *, mark: TagRef) -> WorkResult:
        """Work on these images or galleries.

        Raises:
            StashUnauthorized, LedgerError: nothing more can be done.
        """
        tags = TagsInStash(
            settings=self.settings,
            gateway=self.gateway,
            applier=self.applier,
            marks=self.marks,
            run_id=self.run_id,
            write=self.write,
        )
        engine = ImageEngine(
            pool=self.pool,
            store=self.journal,
            make_prompt=still_prompt(self.settings),
            terms=self.terms,
            terms_at_once=self.settings.tags_per_question,
            skip_similar=self.settings.skip_similar_frames,
            any_model=self.recall,
        )
        moments = self.settings.image_moments
        async with AsyncExitStack() as stack:
            stack.callback(engine.close)
            reader = StillReader(self.preparation, moments=moments, fetch=self.fetch)
            stills = await stack.enter_async_context(reader)
            looker = ImageLooker(
                settings=self.settings,
                gateway=self.gateway,
                engine=engine,
                clips=self.clips,
                stills=stills,
                open_video=self.open_video,
                preparation=self.preparation,
                local_only_id=self.marks.local_only.id,
            )
            if kind is Kind.IMAGE:
                image_work = ImageWork(
                    settings=self.settings,
                    gateway=self.gateway,
                    looker=looker,
                    writer=BatchWriter(self.gateway, self.journal),
                    tags=tags,
                    progress=self.progress,
                    marks=self.marks,
                    run_id=self.run_id,
                    write=self.write,
                    only_marked=self.only_marked,
                )
                return await ImageRun(image_work, mark=mark).run(ids)
            gallery_work = GalleryWork(
                settings=self.settings,
                gateway=self.gateway,
                looker=looker,
                applier=self.applier,
                tags=tags,
                progress=self.progress,
                marks=self.marks,
                run_id=self.run_id,
                write=self.write,
                only_marked=self.only_marked,
            )
            return await GalleryRun(gallery_work, mark=mark).run(ids)


def still_prompt(settings: Settings) -> Callable[[Sequence[Term]], Prompt]:
    """Terms → the question asked of images: nothing in it speaks of time or motion."""
    return lambda terms: build_prompt(terms, kind=Kind.IMAGE, instructions=settings.instructions)
