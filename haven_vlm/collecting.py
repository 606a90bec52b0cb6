"""Collects what the user corrected: pictures and lines in a folder, then the flags come off.

Three passes, each of which finds by itself what is left of it, so that a run can be stopped anywhere:

1. What is flagged in Stash, and what the user removed or moved since the last run, is entered in the ledger.
2. Of each medium with corrections that no collection holds, pictures and lines are written, then remembered.
3. Flags whose corrections are held come off; wrong markers go, if the settings say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from haven_vlm.collection import Shot, record
from haven_vlm.collection_files import CollectionFolder
from haven_vlm.collection_pictures import PictureTaker
from haven_vlm.corrections import Correction
from haven_vlm.errors import HavenError, MediaError, MediaUnreadable, StashError, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind, Medium
from haven_vlm.flags import FlagKeeper, Settled
from haven_vlm.journal import Journal
from haven_vlm.ownership import stretch
from haven_vlm.progress import Progress
from haven_vlm.settings import Settings
from haven_vlm_utility import count_text, first_error

PAGE = 100
"""Media that are asked of the ledger together."""
AT_ONCE = 4
"""Media that are read at the same time."""
MOST_SENTENCES = 20
"""Problems told in the summary."""


@dataclass(frozen=True, slots=True)
class CollectWork:
    """What collecting needs; one for a run."""

    settings: Settings
    journal: Journal
    flags: FlagKeeper
    pictures: PictureTaker
    names: Mapping[str, str]
    """Id of a tag in Stash → its name in the vocabulary."""
    progress: Progress


@dataclass(slots=True)
class Collected:
    """What a run collected."""

    corrections: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    resumed: int = 0
    """Corrections that an interrupted run had written besides."""
    local_only: int = 0
    gone: int = 0
    """Corrections of media that are no longer in Stash."""
    problems: list[str] = field(default_factory=list)
    """Sentences about what could not be collected; its flags are still on."""
    settled: Settled = field(default_factory=Settled)


class Collector:
    """Collects. Raises what would befall every medium: `StashUnauthorized`, `LedgerError`, a full disk."""

    def __init__(self, work: CollectWork, folder: CollectionFolder) -> None:
        self._work = work
        self._folder = folder
        self._writing = asyncio.Lock()
        self._done = Collected()

    async def run(self) -> Collected:
        """Collect everything there is into the folder, which the caller closes.

        Raises:
            BusyError: another collection is at work.
        """
        work, done = self._work, self._done
        held = await asyncio.to_thread(self._folder.open)
        await work.journal.corrections.collected(held, self._folder.name)
        done.resumed = len(held)
        flagged = await work.flags.find()
        await work.flags.enter(flagged)
        done.problems += await work.flags.notice()
        await self._collect()
        await asyncio.to_thread(self._folder.finish, [t.name for t in work.settings.tag_list])
        done.settled = await work.flags.settle(flagged)
        return done

    async def _collect(self) -> None:
        media = self._open_media()
        turn = asyncio.Lock()  # an asynchronous generator serves one at a time

        async def worker() -> None:
            while True:
                async with turn:
                    medium = await anext(media, None)
                if medium is None:
                    return
                await self._medium(*medium)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, self._work.settings.concurrent_task_limit)):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise first_error(errors, HavenError) from None

    async def _open_media(self) -> AsyncIterator[tuple[Kind, str]]:
        after: tuple[Kind, str] | None = None
        while page := await self._work.journal.corrections.uncollected_media(after, PAGE):
            after = page[-1]
            self._work.progress.media(len(page))
            for medium in page:
                yield medium

    async def _medium(self, kind: Kind, medium_id: str) -> None:
        """Collect one medium's corrections; what is wrong with it alone becomes a line and a sentence."""
        work = self._work
        corrections = [
            c if c.tag else replace(c, tag=work.names.get(c.tag_id, ""))
            for c in await work.journal.corrections.uncollected(kind, medium_id)
        ]
        lane = f"{kind} {medium_id}"
        work.progress.plan(lane, len(corrections))
        with work.progress.working(lane):
            medium = await work.pictures.gateway.medium(kind, medium_id)
            if medium is None:
                await self._write(corrections, None, problem="it is no longer in Stash")
                await self._remember(corrections)
                self._done.gone += len(corrections)
            else:
                await self._of_medium(medium, corrections)

    async def _of_medium(self, medium: Medium, corrections: Sequence[Correction]) -> None:
        left = list(corrections)
        try:
            if medium.kind is not Kind.GALLERY and not medium.files:
                raise MediaUnreadable("it has no file")
            if medium.kind is Kind.SCENE:
                await self._scene(medium, left)
            else:
                await self._image(medium, left)
        except (StashUnauthorized, StashUnavailable):
            raise
        except (MediaError, StashError) as exc:
            await self._write(left, medium, problem=str(exc))
            self._done.problems.append(f"{medium.label}: {exc}")

    async def _scene(self, medium: Medium, left: list[Correction]) -> None:
        """Collect a scene's corrections; takes those that are done out of the list."""
        work = self._work
        ours = (await work.journal.ownership.record(Kind.SCENE, medium.id, ())).markers.values()
        results = [
            {"tag": work.names.get(o.marker.primary_tag_id, o.marker.title), "span_ms": stretch(o.marker)} for o in ours
        ]
        spans = sorted({stretch(owned.marker) for owned in ours})
        async with aclosing(work.pictures.of_scene(medium, tuple(left), spans)) as each:
            async for correction, shots, picture in each:
                about = [] if correction.tag_id else results
                await self._keep(correction, medium, shots=shots, picture=picture, results=about)
                left.remove(correction)

    async def _image(self, medium: Medium, left: list[Correction]) -> None:
        """The same for an image or a gallery."""
        taker = self._work.pictures
        shots, picture = await (taker.of_gallery if medium.kind is Kind.GALLERY else taker.of_image)(medium)
        for correction in tuple(left):
            results = [] if correction.tag_id else await self._tags_of_ours(medium)
            await self._keep(correction, medium, shots=shots, picture=picture, results=results)
            left.remove(correction)

    async def _tags_of_ours(self, medium: Medium) -> list[dict[str, object]]:
        ours = await self._work.journal.ownership.record(medium.kind, medium.id, ())
        names = self._work.names
        return [{"tag": names[i]} for i in sorted(ours.tags) if i in names and i in medium.tag_ids]

    async def _keep(
        self,
        correction: Correction,
        medium: Medium,
        *,
        shots: Sequence[Shot],
        picture: str,
        results: Sequence[Mapping[str, object]],
    ) -> None:
        done = self._done
        await self._write([correction], medium, shots=shots, picture=picture, results=results)
        await self._remember([correction])
        done.corrections += 1
        done.by_verdict[correction.verdict] = done.by_verdict.get(correction.verdict, 0) + 1
        done.pictures += len(shots)
        done.local_only += self._stays(medium, shots)

    async def _write(
        self,
        corrections: Sequence[Correction],
        medium: Medium | None,
        *,
        shots: Sequence[Shot] = (),
        picture: str = "",
        results: Sequence[Mapping[str, object]] = (),
        problem: str = "",
    ) -> None:
        """Put a line for each correction on the disk, and its pictures before it."""
        prompts = self._work.pictures.prompts
        lines: list[dict[str, object]] = []
        pictures: dict[str, bytes] = {}
        for correction in corrections:
            named = [(s, f"frames/{correction.id:06}-{n}-{s.place}.jpg") for n, s in enumerate(shots)]
            pictures |= {name: shot.frame.jpeg for shot, name in named}
            line = record(
                correction,
                medium,
                shots=named,
                prompt=prompts[Kind.SCENE if correction.kind is Kind.SCENE else Kind.IMAGE],
                picture=picture,
                local_only=medium is not None and self._stays(medium, shots),
                results=results,
                problem=problem,
            )
            lines.append(line)
        async with self._writing:
            await asyncio.to_thread(self._folder.add, lines, pictures)
        for correction in corrections:
            self._work.progress.done(f"{correction.kind} {correction.medium_id}")

    async def _remember(self, corrections: Sequence[Correction]) -> None:
        await self._work.journal.corrections.collected([c.id for c in corrections], self._folder.name)

    def _stays(self, medium: Medium, shots: Sequence[Shot]) -> bool:
        """Whether these pictures must not leave the local network."""
        tagged = self._work.pictures.local_only_id in medium.tag_ids or any(shot.local_only for shot in shots)
        return tagged or not self._work.settings.allow_remote_media


def summary(done: Collected, folder: str) -> str:
    """What was collected, in sentences for the user."""
    if done.corrections or done.gone:
        kinds = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(done.by_verdict.items()))
        lines = [
            f"Collected {count_text(done.corrections, 'correction')}{f' ({kinds})' if kinds else ''} with "
            f"{count_text(done.pictures, 'picture')} in {folder}."
        ]
    else:
        lines = ["Nothing new to collect: nothing is flagged, removed or moved that no collection holds yet."]
    if done.resumed:
        lines.append(f"{count_text(done.resumed, 'correction')} of an interrupted run stand there, too.")
    if done.settled.cleared or done.settled.markers_removed:
        lines.append(
            f"{count_text(done.settled.cleared, 'flag')} cleared, "
            f"{count_text(done.settled.markers_removed, 'wrong marker')} removed."
        )
    if done.local_only:
        lines.append(
            f"What must stay on this network: {count_text(done.local_only, 'correction')}. Such lines say local_only, "
            "and their chats are in training.local-only.jsonl."
        )
    if done.settled.markers_kept:
        lines.append(
            f"{count_text(done.settled.markers_kept, 'flagged marker')} not removed: yours, or changed by you."
        )
    if done.gone:
        lines.append(f"{count_text(done.gone, 'correction')} without pictures: the medium is no longer in Stash.")
    problems = done.problems + done.settled.problems
    if problems:
        lines.append(f"{count_text(len(problems), 'problem')}; what could not be collected keeps its flag:")
        lines += [f"  {sentence}" for sentence in problems[:MOST_SENTENCES]]
        if len(problems) > MOST_SENTENCES:
            lines.append(f"  … and {len(problems) - MOST_SENTENCES:,} more")
    return "\n".join(lines)
