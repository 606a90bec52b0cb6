"""Check Endpoints: what works, what does not, and what to do about it. Reads everywhere, writes nowhere."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from random import Random

from haven_vlm.bootstrap import REQUIREMENTS
from haven_vlm.endpoint_check import check_endpoint
from haven_vlm.errors import ConfigError, StashError
from haven_vlm.facts import Kind, Term
from haven_vlm.journal import Journal
from haven_vlm.marks import find_marks
from haven_vlm.page_data import CheckItem, CheckSection, Verdict
from haven_vlm.pool_ports import VisionEndpoint
from haven_vlm.prompts import build_prompt
from haven_vlm.server_survey import Found, discover
from haven_vlm.settings import EndpointSettings, Settings
from haven_vlm.stash_ports import MediaFilter, StashCollections
from haven_vlm_utility import count_text, map_path

log = logging.getLogger(__name__)

FEW_BYTES = 200 * 1024 * 1024
"""Free space below which the ledger is in danger."""
FILES_LOOKED_AT = 3

Discover = Callable[[], Awaitable[tuple[Found, ...]]]


async def check_everything(
    *,
    settings: Settings,
    endpoints: Sequence[VisionEndpoint],
    gateway: StashCollections,
    stash_version: str,
    journal: Journal,
    data_dir: Path,
    login_ages: bool = False,
    find_servers: Discover = discover,
    random: Random | None = None,
) -> list[CheckSection]:
    """Check endpoints, Stash, dependencies, a few files, disk and ledger; what fails becomes a finding.

    `login_ages`: Stash knows us by a session that ends, not by a key.
    """
    terms = [Term(t.name, t.definition, t.aliases) for t in settings.tag_list]
    prompt = build_prompt(terms, instructions=settings.instructions)
    sections = list(await asyncio.gather(*(check_endpoint(e, prompt) for e in endpoints)))
    if not all(s.ok for s in sections):
        found = await other_servers([e.base_url for e in endpoints], find_servers)
        items = tuple(CheckItem("found here", Verdict.NOTE, offered(f)) for f in found)
        sections += [CheckSection("endpoint", "Other model servers", "", items)] if items else []
    sections += await _stash(settings, gateway, stash_version, random or Random(), login_ages=login_ages)
    sections.append(CheckSection("dependencies", "Python packages", "", tuple(await asyncio.to_thread(_packages))))
    sections.append(CheckSection("disk", "Disk", "", (await asyncio.to_thread(_disk, data_dir),)))
    sections.append(CheckSection("ledger", "Ledger", "", (await _ledger(journal),)))
    return sections


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


async def _stash(
    settings: Settings, gateway: StashCollections, version: str, random: Random, *, login_ages: bool
) -> list[CheckSection]:
    try:
        marks = await find_marks(gateway, settings)
        ids = await gateway.media_ids(Kind.SCENE, marks.trigger.id) if marks.trigger.id else []
        tagged = f"{count_text(len(ids), 'scene')} tagged “{marks.trigger.name}”"
        items = [CheckItem("login", Verdict.OK, f"Stash {version} answers"), CheckItem("to do", Verdict.OK, tagged)]
        if login_ages:
            items.append(CheckItem("long runs", Verdict.NOTE, "the login is a session that ages", _FIX_KEY))
        else:
            items.append(CheckItem("long runs", Verdict.OK, "the login lasts as long as a run"))
        everything = MediaFilter(Kind.SCENE, {"file_count": {"value": 0, "modifier": "GREATER_THAN"}})
        scenes = await gateway.find_ids(everything)
        files = []
        for scene_id in random.sample(scenes, min(FILES_LOOKED_AT, len(scenes))):
            medium = await gateway.medium(Kind.SCENE, scene_id)
            if medium is not None and medium.files:
                files.append(await _file(map_path(medium.files[0].path, settings.path_mutation)))
    except (StashError, ConfigError) as exc:
        return [CheckSection("stash", "Stash", "", (CheckItem("login", Verdict.PROBLEM, str(exc)),))]
    paths = files or [CheckItem("files", Verdict.NOTE, "There is no scene with a file yet.")]
    return [
        CheckSection("stash", "Stash", "", tuple(items)),
        CheckSection("paths", "Files of scenes", "", tuple(paths)),
    ]


_FIX_KEY = "Generate an API key in Stash (Settings → Security): then a run of any length stays logged in."


async def _file(path: str) -> CheckItem:
    if await asyncio.to_thread(Path(path).is_file):
        return CheckItem("file", Verdict.OK, f"{path} can be read here")
    text = f"{path} is not on this machine: it is read through Stash, which is slower"
    return CheckItem("file", Verdict.NOTE, text, "If this machine knows the folder by another path, set path_mutation.")


def _packages() -> list[CheckItem]:
    found = []
    for requirement in REQUIREMENTS:
        try:
            version = importlib.metadata.version(requirement.pip_name)
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
        found.append(CheckItem(requirement.pip_name, Verdict.OK, version))
    return found


async def _ledger(journal: Journal) -> CheckItem:
    held = await journal.statistics()
    size = f"{held.size_bytes / 1024 / 1024:.1f} MB"
    text = f"It holds {held.answers:,} answers about {count_text(held.files, 'file')} ({size})."
    verdict = Verdict.NOTE if journal.notices else Verdict.OK
    return CheckItem("ledger", verdict, " ".join([text, *journal.notices]))


def _disk(data_dir: Path) -> CheckItem:
    free = shutil.disk_usage(data_dir).free
    text = f"{free / 1024**3:.1f} GB are free in {data_dir}"
    if free >= FEW_BYTES:
        return CheckItem("free", Verdict.OK, text)
    return CheckItem("free", Verdict.PROBLEM, f"Only {text}", "Make room there, or point data_dir to another disk.")
