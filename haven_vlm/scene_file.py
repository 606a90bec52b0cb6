"""Where a scene's file can be read: by its path on this machine, else through Stash's own stream."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from haven_vlm.facts import Medium
from haven_vlm.location import Location
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashGateway
from haven_vlm_utility import map_path

log = logging.getLogger(__name__)


async def locations_of(medium: Medium, gateway: StashGateway, settings: Settings) -> tuple[str, list[Location]]:
    """The path of the primary file as this machine names it; and where its bytes are, best first. It needs a file."""
    path = map_path(medium.files[0].path, settings.path_mutation)
    url, headers = gateway.stream_url(medium.kind, medium.id)
    locations = [Location(path), Location(url, headers)]
    if not await asyncio.to_thread(Path(path).is_file):
        log.info("%s is read through Stash: %s is not on this machine", medium.label, path)
        locations = locations[1:]
    return path, locations
