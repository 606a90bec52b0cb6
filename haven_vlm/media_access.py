"""Where a medium of Stash can be read from here: its file by the path this machine knows, else as Stash serves it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from haven_vlm.errors import MediaUnreachable
from haven_vlm.facts import Kind, MediaFile, Medium
from haven_vlm.location import Location
from haven_vlm.picture import Preparation
from haven_vlm.ports import FrameReader
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections, StashGateway
from haven_vlm.still_reading import StillPlace
from haven_vlm_utility import map_path

log = logging.getLogger(__name__)

OpenVideo = Callable[[Sequence[Location], Preparation], AbstractAsyncContextManager[FrameReader]]
"""Where the bytes are, best first; preparation → a reader."""


async def locations_of(
    medium: Medium, gateway: StashGateway, settings: Settings, *, again: bool = False
) -> tuple[str, list[Location]]:
    """The path of the primary file as this machine names it; and where its bytes are, best first. It needs a file.

    `again` is for what was opened before in this run: the log has said then where it is read.
    """
    path = map_path(medium.files[0].path, settings.path_mutation)
    url, headers = gateway.stream_url(medium.kind, medium.id)
    locations = [Location(path), Location(url, headers)]
    if not await asyncio.to_thread(_is_file, path):
        if not again:
            log.info("%s is read through Stash: %s is not on this machine", medium.label, path)
        locations = locations[1:]
    return path, locations


@asynccontextmanager
async def opened_video(
    medium: Medium,
    *,
    gateway: StashGateway,
    settings: Settings,
    open_video: OpenVideo,
    preparation: Preparation,
    again: bool = False,
) -> AsyncIterator[FrameReader]:
    """Open a scene, or a clip among the images, by its path here, else through Stash's own stream.

    `again`: it was opened before in this run.

    Raises:
        MediaError: neither works; says why.
    """
    path, locations = await locations_of(medium, gateway, settings, again=again)
    async with AsyncExitStack() as stack:
        try:
            reader = await stack.enter_async_context(open_video(locations, preparation))
        except MediaUnreachable as exc:
            here = "" if len(locations) > 1 else f"{path} is not on this machine, and "
            raise MediaUnreachable(
                f"its file cannot be read: {here}{exc} If this machine knows the folder by another path, "
                "set path_mutation."
            ) from exc
        yield reader


def preparation_for(medium: Medium, preparation: Preparation, *, vr_tag_id: str) -> Preparation:
    """How a scene's pictures are made: one with Stash's VR tag is VR, whatever its file says; '': no such tag."""
    is_vr = bool(vr_tag_id) and vr_tag_id in medium.tag_ids
    return replace(preparation, projection="vr") if is_vr else preparation


def still_place(medium: Medium, *, gateway: StashCollections, settings: Settings) -> StillPlace:
    """Where the still picture of an image can be had."""

    def served(copy: Literal["image", "thumbnail"]) -> tuple[str, dict[str, str]]:
        if copy == "thumbnail":
            return gateway.thumbnail_url(medium.id)
        return gateway.stream_url(Kind.IMAGE, medium.id)

    return StillPlace.of(medium.files[0], settings.path_mutation, served)


def suffix_of(file: MediaFile) -> str:
    """'.jpg': the end of a file's name, in small letters, whatever system it lies on."""
    return PurePosixPath(file.path.replace("\\", "/")).suffix.lower()


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except ValueError:  # a zero byte in it
        return False
