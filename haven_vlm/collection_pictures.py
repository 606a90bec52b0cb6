"""Pictures for a collection: of a scene's moments, an image, a gallery's images, each with the model's answer to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from haven_vlm.collection import Moment, Shot, moments_of, spread
from haven_vlm.corrections import Correction, Stretch
from haven_vlm.errors import MediaError, MediaUnreadable
from haven_vlm.facts import Frame, Kind, Medium, Prompt, Sample
from haven_vlm.image_engine import Moments
from haven_vlm.image_looking import Stills
from haven_vlm.media_access import OpenVideo, opened_video, preparation_for, still_place, suffix_of
from haven_vlm.picture import Preparation
from haven_vlm.ports import AnswerKey, TermwiseAnswers
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm.stills import STILL_SUFFIXES, picture_key

GALLERY_PICTURES = 12
"""Images shown of a gallery, evenly spread."""
RESULT_MARKERS = 20
"""Markers shown of a scene that is flagged as a whole, evenly spread."""


@dataclass(frozen=True, slots=True)
class PictureTaker:
    """Takes the very pictures that are sent to models. Raises, everywhere:

    MediaError: there is none; a sentence says why.
    StashError: as the gateway.
    LedgerError: the answers cannot be read.
    """

    settings: Settings
    gateway: StashCollections
    store: TermwiseAnswers
    preparation: Preparation
    open_video: OpenVideo
    stills: Stills
    prompts: Mapping[Kind, Prompt]
    """The question asked of a scene's frames, and of an image."""
    local_only_id: str
    """The tag of what must not leave the local network."""
    vr_tag_id: str = ""

    async def of_scene(
        self, medium: Medium, corrections: Sequence[Correction], doubtful: Sequence[Stretch]
    ) -> AsyncGenerator[tuple[Correction, list[Shot], str], None]:
        """Each correction with its pictures and the key of their preparation.

        Args:
            doubtful: spans of ours on the scene, for corrections of the whole result.
        """
        file = medium.files[0]
        preparation = preparation_for(medium, self.preparation, vr_tag_id=self.vr_tag_id)
        samples = await self._known(file.identity, preparation.key, self.prompts[Kind.SCENE])
        spans = [doubtful[int(i)] for i in spread([str(n) for n in range(len(doubtful))], RESULT_MARKERS)]
        async with opened_video(
            medium,
            gateway=self.gateway,
            settings=self.settings,
            open_video=self.open_video,
            preparation=preparation,
        ) as reader:
            known_ms = round(file.duration_s * 1000) if file.duration_s else None
            duration_ms = reader.info.duration_ms or known_ms
            for correction in corrections:
                moments = moments_of(correction, samples, duration_ms, spans)
                shots = await _shots(reader.frames, moments, samples)
                if not shots:
                    raise MediaUnreadable("nothing of it can be decoded at the times in question")
                yield correction, shots, preparation.key

    async def of_gallery(self, medium: Medium) -> tuple[list[Shot], str]:
        """The first pictures of some of a gallery's images, and the key of their preparation."""
        ids = await self.gateway.gallery_image_ids(medium.id)
        chosen = spread(ids[:: self.settings.gallery_every], GALLERY_PICTURES)
        images = await self.gateway.media(Kind.IMAGE, chosen)
        shots: list[Shot] = []
        picture, reason = "", "none of its images has a file"
        for image_id in chosen:
            image = images.get(image_id)
            if image is None or not image.files:
                continue
            try:
                some, picture = await self.of_image(image)
            except MediaError as exc:
                reason = str(exc)
                continue
            shots.append(replace(some[0], image_id=image.id, local_only=self.local_only_id in image.tag_ids))
        if not shots:
            raise MediaUnreadable(reason)
        return shots, picture

    async def of_image(self, image: Medium) -> tuple[list[Shot], str]:
        """The pictures of an image as they are sent, and the key of their preparation."""
        file = image.files[0]
        prompt = self.prompts[Kind.IMAGE]
        if not file.is_video or suffix_of(file) in STILL_SUFFIXES:
            place = still_place(image, gateway=self.gateway, settings=self.settings)
            try:
                frames = await self.stills.read(place)
            except MediaError:
                if not file.is_video:
                    raise
            else:
                key = picture_key(self.preparation)
                samples = await self._known(file.identity, key, prompt)
                return [Shot(f, "picture", samples.get(f.at_ms)) for f in frames], key
        samples = await self._known(file.identity, self.preparation.key, prompt)
        async with opened_video(
            image,
            gateway=self.gateway,
            settings=self.settings,
            open_video=self.open_video,
            preparation=self.preparation,
        ) as reader:
            length_ms = round(file.duration_s * 1000) if file.duration_s else reader.info.duration_ms or 0
            wanted = sorted(samples) or list(Moments(length_ms, self.settings.image_moments).wish({}).now)
            moments = [Moment(t, "picture") for t in _spread_times(wanted, self.settings.image_moments)]
            shots = await _shots(reader.frames, moments, samples)
        if not shots:
            raise MediaUnreadable("nothing of it can be decoded")
        return shots, self.preparation.key

    async def _known(self, identity: str, picture: str, prompt: Prompt) -> dict[int, Sample]:
        known = await self.store.known_partly(AnswerKey(identity, picture, prompt), None)
        return {at_ms: partly.sample for at_ms, partly in known.items()}


async def _shots(
    read: Callable[[Sequence[int]], AsyncIterator[Frame]], moments: Sequence[Moment], samples: Mapping[int, Sample]
) -> list[Shot]:
    """The frames of these moments, ascending; what cannot be decoded is left out."""
    places = {m.at_ms: m.place for m in moments}
    return [Shot(f, places[f.at_ms], samples.get(f.at_ms)) async for f in read(sorted(places))]


def _spread_times(times_ms: Sequence[int], most: int) -> list[int]:
    """At most so many of these times, evenly spread."""
    return [int(t) for t in spread([str(t) for t in times_ms], most)]
