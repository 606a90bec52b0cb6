"""Check Endpoints: what works, what does not, and what to do about it. Reads everywhere, writes nowhere."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from haven_vlm.errors import EndpointError, StashError
from haven_vlm.facts import Kind
from haven_vlm.journal import Journal
from haven_vlm.marks import find_marks
from haven_vlm.pool_ports import VisionEndpoint
from haven_vlm.server_survey import Found, discover
from haven_vlm.settings import EndpointSettings, Settings
from haven_vlm.stash_ports import StashGateway
from haven_vlm_utility import count_text, map_path

log = logging.getLogger(__name__)

FEW_BYTES = 200 * 1024 * 1024
"""Free space below which the ledger is in danger."""
FILES_LOOKED_AT = 3

Discover = Callable[[], Awaitable[tuple[Found, ...]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check."""

    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'✓' if self.ok else '✗'} {self.text}"


async def check_everything(
    *,
    settings: Settings,
    endpoints: Sequence[VisionEndpoint],
    gateway: StashGateway,
    stash_version: str,
    journal: Journal,
    data_dir: Path,
    find_servers: Discover = discover,
) -> list[Finding]:
    """Check endpoints, Stash, a few files, ledger and disk; what fails becomes a finding, never an exception."""
    findings = list(await asyncio.gather(*(check_endpoint(e) for e in endpoints)))
    if not all(f.ok for f in findings):
        found = await other_servers([e.base_url for e in endpoints], find_servers)
        findings += [Finding(True, offered(f)) for f in found]
    findings += await _stash(settings, gateway, stash_version)
    findings.append(await _ledger(journal))
    findings.append(await asyncio.to_thread(_disk, data_dir))
    return findings


async def check_endpoint(endpoint: VisionEndpoint) -> Finding:
    """Try one endpoint with a picture and say what it can do, or what to mend."""
    name = f"{endpoint.name} ({endpoint.base_url})"
    try:
        found = await endpoint.prepare()
    except EndpointError as exc:
        return Finding(False, f"{name}: {exc}{' ' + exc.fix if exc.fix else ''}")
    traits = [
        f"server {found.server}",
        f"model {found.model}",
        "sees pictures" if found.sees_pictures else "whether it sees pictures could not be confirmed",
        f"JSON schema {found.json_schema}",
        "gives probabilities" if found.logprobs else "gives no probabilities",
        "OUTSIDE the local network" if found.is_remote else "local",
    ]
    if found.thinking not in ("none", "unknown"):
        traits.append(f"thinking {found.thinking}")
    if found.parallel_hint:
        traits.append(f"{found.parallel_hint} at once")
    if found.several_pictures and found.thinking != "always":
        most = found.most_pictures
        traits.append(f"up to {most} pictures a question" if most else "several pictures a question")
    if found.answer_s:
        traits.append(f"one answer took {found.answer_s:.1f} s")
    return Finding(True, f"{name}: {', '.join(traits)}" + "".join(f"; {note.rstrip('.')}" for note in found.notes))


async def other_servers(base_urls: Collection[str], find_servers: Discover = discover) -> list[Found]:
    """Model servers on this machine's usual ports that are not among these addresses."""
    named = {url.replace("localhost", "127.0.0.1") for url in base_urls}
    return [found for found in await find_servers() if found.base_url not in named]


def offered(found: Found) -> str:
    """The sentence that offers a server nobody asked for."""
    return f"On this machine {found.kind} answers at {found.base_url}; to use it, add that to endpoints."


async def with_servers_found(settings: Settings, find_servers: Discover = discover) -> Settings:
    """The settings, and with `discover_endpoints` also this machine's other model servers, as fallbacks."""
    if not settings.discover_endpoints:
        return settings
    found = await other_servers([e.base_url for e in settings.endpoints], find_servers)
    more = [EndpointSettings(name=f"{f.kind} at {f.base_url}", base_url=f.base_url, is_fallback=True) for f in found]
    for endpoint in more:
        log.info("Found on this machine, used when no other endpoint answers: %s", endpoint.name)
    return settings.model_copy(update={"endpoints": (*settings.endpoints, *more)})


async def _stash(settings: Settings, gateway: StashGateway, version: str) -> list[Finding]:
    try:
        marks = await find_marks(gateway, settings)
        ids = await gateway.media_ids(Kind.SCENE, marks.trigger.id) if marks.trigger.id else []
        findings = [
            Finding(True, f"Stash {version} answers; {count_text(len(ids), 'scene')} tagged “{marks.trigger.name}”.")
        ]
        for scene_id in ids[:: max(1, len(ids) // FILES_LOOKED_AT)][:FILES_LOOKED_AT]:
            medium = await gateway.medium(Kind.SCENE, scene_id)
            if medium is not None and medium.files:
                findings.append(await _file(map_path(medium.files[0].path, settings.path_mutation)))
    except StashError as exc:
        return [Finding(False, f"Stash: {exc}")]
    return findings


async def _file(path: str) -> Finding:
    if await asyncio.to_thread(Path(path).is_file):
        return Finding(True, f"{path} can be read here.")
    return Finding(
        True,
        f"{path} is not on this machine: it will be read through Stash, which is slower. If this machine knows the "
        f"folder by another path, set path_mutation.",
    )


async def _ledger(journal: Journal) -> Finding:
    held = await journal.statistics()
    size = f"{held.size_bytes / 1024 / 1024:.1f} MB"
    text = f"The ledger holds {held.answers:,} answers about {count_text(held.files, 'file')} ({size})."
    return Finding(not journal.notices, " ".join([text, *journal.notices]))


def _disk(data_dir: Path) -> Finding:
    free = shutil.disk_usage(data_dir).free
    text = f"{free / 1024**3:.1f} GB are free in {data_dir}"
    return Finding(free >= FEW_BYTES, f"{text}." if free >= FEW_BYTES else f"Only {text}: make room there.")
