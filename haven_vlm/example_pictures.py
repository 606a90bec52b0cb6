"""The pictures of examples: taken from the videos once, then kept as small files as long as they are shown."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from haven_vlm.errors import MediaError, MediaUnreadable
from haven_vlm.evidence import Evidence
from haven_vlm.examples import Moment, choose
from haven_vlm.facts import Example, Kind
from haven_vlm.files import write_atomically
from haven_vlm.learning import Learning
from haven_vlm.media_access import OpenVideo, opened_video, preparation_for
from haven_vlm_utility import clock_text

log = logging.getLogger(__name__)

SCENES = 60
"""Scenes that examples are taken from, those added to Stash last."""

MOST_FAILURES = 5
"""Scenes that cannot be read before the run goes on without (more) examples."""


@dataclass(frozen=True, slots=True)
class Album:
    """Makes the examples of a run."""

    learning: Learning
    open_video: OpenVideo

    async def examples(self) -> tuple[Example, ...]:
        """Choose examples and get their pictures; none where the user has gone through too little.

        Raises:
            StashError, LedgerError: as the gateway and the ledger.
        """
        evidence = await self.learning.gatherer().gather(limit=SCENES)
        unreadable: set[str] = set()
        found: dict[Moment, Example] = {}
        chosen: list[Moment] = []
        while len(unreadable) <= MOST_FAILURES:
            chosen = await asyncio.to_thread(self._choose, evidence, unreadable)
            failed = False
            for moment in chosen:
                if moment in found:
                    continue
                try:
                    found[moment] = await self._example(moment, evidence)
                except MediaError as exc:
                    log.info("scene %s gives no example: %s", moment.scene_id, exc)
                    unreadable.add(moment.scene_id)
                    failed = True
            if not failed:
                break
        shown = [(moment, found[moment]) for moment in chosen if moment in found]
        await asyncio.to_thread(_keep_only, self._folder, {self._file(moment, evidence).name for moment, _ in shown})
        if shown:
            told = [f"{', '.join(m.tags) or 'nothing'} (scene {m.scene_id} at {clock_text(m.at_ms)})" for m, _ in shown]
            log.info("Examples for endpoints inside the network: %s", "; ".join(told))
        else:
            log.info(
                "No examples are shown: no readable scene that you went through has every tag of the list decided."
            )
        return tuple(example for _, example in shown)

    def _choose(self, evidence: Evidence, unreadable: Collection[str]) -> list[Moment]:
        return choose(
            evidence.scenes,
            vocabulary=[t.name for t in self.learning.settings.tag_list],
            most=self.learning.settings.examples,
            margin=self.learning.settings.boundary_tolerance,
            without=unreadable,
        )

    async def _example(self, moment: Moment, evidence: Evidence) -> Example:
        file = self._file(moment, evidence)
        jpeg = await asyncio.to_thread(_read, file)
        if jpeg is None:
            jpeg = await self._picture(moment)
            try:
                await asyncio.to_thread(write_atomically, file, jpeg)
            except OSError as exc:
                log.warning("The picture of an example cannot be kept, and is taken anew each time: %s", exc)
        return Example(evidence.keys[moment.scene_id].identity, moment.at_ms, moment.tags, jpeg)

    async def _picture(self, moment: Moment) -> bytes:
        learning = self.learning
        medium = await learning.gateway.medium(Kind.SCENE, moment.scene_id)
        if medium is None or not medium.files:
            raise MediaUnreadable("it is no longer in Stash, or has no file")
        preparation = preparation_for(medium, learning.preparation, vr_tag_id=learning.vr_tag_id)
        async with (
            opened_video(
                medium,
                gateway=learning.gateway,
                settings=learning.settings,
                open_video=self.open_video,
                preparation=preparation,
            ) as reader,
            aclosing(reader.frames([moment.at_ms])) as frames,
        ):
            async for frame in frames:
                return frame.jpeg
        raise MediaUnreadable(f"there is no picture at {clock_text(moment.at_ms)}")

    @property
    def _folder(self) -> Path:
        """Holds the pictures of the examples that are shown now, and no others."""
        return self.learning.data_dir / "examples"

    def _file(self, moment: Moment, evidence: Evidence) -> Path:
        key = evidence.keys[moment.scene_id]
        what = "\n".join((key.identity, key.picture, str(moment.at_ms)))
        return self._folder / f"{hashlib.sha256(what.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.jpg"


def _read(file: Path) -> bytes | None:
    """A picture that was kept, if it is whole."""
    try:
        jpeg = file.read_bytes()
    except OSError:
        return None
    return jpeg if jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9") else None


def _keep_only(folder: Path, names: Collection[str]) -> None:
    try:
        old = [file for file in folder.glob("*.jpg") if file.name not in names]
        for file in old:
            file.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("Pictures of examples that are no longer shown cannot be deleted: %s", exc)
