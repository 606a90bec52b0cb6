"""Operations of the page inside Stash: short processes that answer with an object. The contract is in `page_data`."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from haven_vlm.applying import Applier
from haven_vlm.errors import MediaError, WireError
from haven_vlm.facts import Kind, Medium, Sample, TagRef, Term
from haven_vlm.journal import Journal
from haven_vlm.lanes import LaneTag, lanes_of, samples_at
from haven_vlm.live_files import FILES
from haven_vlm.media_access import OpenVideo, opened_video, preparation_for
from haven_vlm.page_data import (
    MAX_THUMBNAILS,
    SCHEMA,
    Action,
    Decision,
    SceneFacts,
    ScenePaths,
    SceneReply,
    Thumbnail,
    ThumbnailsReply,
    plain,
)
from haven_vlm.picture import Preparation
from haven_vlm.ports import AnswerKey
from haven_vlm.prompts import build_prompt
from haven_vlm.reviewing import MAX_DECISIONS, Reviewer
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashReviewing
from haven_vlm.timeline import conclude

log = logging.getLogger(__name__)

THUMBNAIL = Preparation(max_side_px=160, jpeg_quality=70)
THUMBNAILS_S = 20.0
"""Decoding stops after so many seconds; the rest of the thumbnails are null."""
SNAP_MS = 1000
"""A keyframe this near will do for a thumbnail: it costs a tenth."""


class Library(StashReviewing, Protocol):
    """What the operations need of Stash."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the operations work with; made and closed by the connector."""

    gateway: Library
    settings: Settings
    journal: Journal
    open_video: Callable[[], OpenVideo]
    """Only called when pictures are wanted: what is behind it takes long to load."""
    clock: Callable[[], float] = time.monotonic


def empty(op: str) -> object:
    """The reply of `status`, `runs` or `check` before anything was written."""
    return {"schema": SCHEMA, "runs": []} if op == "runs" else {"schema": SCHEMA, op: None}


async def operate(desk: Desk, op: str, args: Mapping[str, object]) -> object:
    """Carry out `scene`, `thumbnails` or `review`; returns what JSON can hold.

    Raises:
        WireError: there is no such operation, or its arguments are wrong.
        HavenError: as the parts.
    """
    match op:
        case "scene":
            return plain(await scene(desk, _id(args)))
        case "thumbnails":
            return plain(await thumbnails(desk, _id(args), _times(args)))
        case "review":
            return plain(await _review(desk, _id(args), _decisions(args)))
    known = ", ".join([*FILES, "scene", "thumbnails", "review"])
    raise WireError(f"“{op}” is no operation of the page; there are: {known}")


# --- the scene ------------------------------------------------------------------------------------------------


async def scene(desk: Desk, scene_id: str) -> SceneReply:
    """All there is to see of a scene: lanes and samples."""
    gateway, settings = desk.gateway, desk.settings
    medium = await _scene(desk, scene_id)
    now, ours = await Applier(gateway, desk.journal).look(Kind.SCENE, scene_id, write=False)
    tags = await gateway.find_tags([t.stash_name for t in settings.tag_list])
    samples, failures = await _answers(desk, medium)
    duration_ms = _duration_ms(medium, samples)
    corrections = await desk.journal.corrections.all(kind=Kind.SCENE, medium_id=scene_id)
    lanes = await asyncio.to_thread(
        lambda: lanes_of(
            _lane_tags(settings, tags),
            found=conclude(samples, duration_ms, settings).spans if samples and duration_ms else (),
            markers=now.markers,
            ours=ours.markers.keys(),
            rejected=ours.rejected_spans,
            corrections=corrections,
            carried=medium.tag_ids,
        )
    )
    facts = SceneFacts(scene_id, medium.title, duration_ms / 1000, ScenePaths(f"scene/{scene_id}/screenshot"))
    return SceneReply(facts, lanes, samples_at(samples, failures))


async def _scene(desk: Desk, scene_id: str) -> Medium:
    medium = await desk.gateway.medium(Kind.SCENE, scene_id)
    if medium is None:
        raise WireError(f"There is no scene {scene_id} in Stash (any more).")
    return medium


async def _answers(desk: Desk, medium: Medium) -> tuple[dict[int, Sample], dict[int, str]]:
    """What the ledger knows of the primary file under the present settings: samples; time → why it has none."""
    if not medium.files:
        return {}, {}
    settings = desk.settings
    terms = [Term(t.name, t.definition, t.aliases) for t in settings.tag_list]
    preparation = await _preparation(desk, medium)
    prompt = build_prompt(terms, instructions=settings.instructions)
    key = AnswerKey(medium.files[0].identity, preparation.key, prompt, also_in_company=True)
    known = await desk.journal.known_partly(key, None)
    samples = {at_ms: k.sample for at_ms, k in known.items()}
    failures = {f.at_ms: f.detail or str(f.outcome) for f in await desk.journal.failures(key)}
    return samples, failures


async def _preparation(desk: Desk, medium: Medium) -> Preparation:
    """As a run prepares the pictures of this scene."""
    preparation = Preparation(max_side_px=desk.settings.image_max_side, jpeg_quality=desk.settings.jpeg_quality)
    name = await desk.gateway.ui_setting("vrTag")
    tag = await desk.gateway.find_tag(name.strip()) if isinstance(name, str) and name.strip() else None
    return preparation_for(medium, preparation, vr_tag_id=tag.id if tag else "")


def _duration_ms(medium: Medium, samples: Mapping[int, Sample]) -> int:
    stated = medium.files[0].duration_s if medium.files else None
    return round(stated * 1000) if stated else max(samples, default=0)


def _lane_tags(settings: Settings, tags: Mapping[str, TagRef]) -> list[LaneTag]:
    names = [(t.name, t.stash_name) for t in settings.tag_list]
    return [LaneTag(name, called, tags[called].id if called in tags else "") for name, called in names]


# --- pictures -------------------------------------------------------------------------------------------------


async def thumbnails(desk: Desk, scene_id: str, times_s: Sequence[float]) -> ThumbnailsReply:
    """Small pictures of a scene at these times, as far as they can be had in `THUMBNAILS_S` seconds."""
    medium = await _scene(desk, scene_id)
    if not medium.files:
        return ThumbnailsReply(tuple(Thumbnail(t, None) for t in times_s))
    wanted = sorted({round(t * 1000) for t in times_s})
    found: dict[int, str] = {}
    until = desk.clock() + THUMBNAILS_S
    try:
        opened = opened_video(
            medium, gateway=desk.gateway, settings=desk.settings, open_video=desk.open_video(), preparation=THUMBNAIL
        )
        async with (
            asyncio.timeout(THUMBNAILS_S),
            opened as reader,
            aclosing(reader.frames(wanted, snap_ms=SNAP_MS)) as frames,
        ):
            async for frame in frames:
                found[frame.at_ms] = "data:image/jpeg;base64," + base64.b64encode(frame.jpeg).decode("ascii")
                if desk.clock() > until:
                    break
    except TimeoutError:
        log.info("%s: not all thumbnails in %.0f s", medium.label, THUMBNAILS_S)
    except MediaError as exc:
        if not found:
            raise
        log.info("%s: %s", medium.label, exc)
    return ThumbnailsReply(tuple(Thumbnail(t, found.get(round(t * 1000))) for t in times_s))


# --- decisions ------------------------------------------------------------------------------------------------


async def _review(desk: Desk, scene_id: str, decisions: Sequence[Decision]) -> object:
    await _scene(desk, scene_id)
    runs: list[int] = []

    async def start_run() -> int:
        runs.append(await desk.journal.start_run("review"))
        return runs[-1]

    applier = Applier(desk.gateway, desk.journal)
    reviewer = Reviewer(desk.gateway, desk.journal, applier, desk.settings, start_run=start_run)
    try:
        reply = await reviewer.review(scene_id, decisions)
    finally:
        for run_id in runs:
            await desk.journal.end_run(run_id, f"Reviewed scene {scene_id}.")
    return reply


# --- arguments ------------------------------------------------------------------------------------------------


def _id(args: Mapping[str, object]) -> str:
    value = args.get("id")
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()):
        raise WireError("id: the number of a scene is needed")
    return text


def _times(args: Mapping[str, object]) -> list[float]:
    given = args.get("times")
    if not isinstance(given, list) or not all(_is_time(t) for t in given):
        raise WireError("times: a list of seconds is needed")
    if len(given) > MAX_THUMBNAILS:
        raise WireError(f"times: {MAX_THUMBNAILS} at most")
    return [float(t) for t in given]


def _is_time(value: object) -> bool:
    # a week: longer than any medium, and far from what milliseconds can hold
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 7 * 86400


def _decisions(args: Mapping[str, object]) -> list[Decision]:
    given = args.get("decisions")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_DECISIONS:
        raise WireError(f"decisions: a list of 1 to {MAX_DECISIONS} is needed")
    return [_decision(item, f"decisions, number {place}") for place, item in enumerate(given, 1)]


def _decision(item: object, where: str) -> Decision:
    if not isinstance(item, Mapping):
        raise WireError(f"{where}: an object is needed")
    action, tag, marker_id = item.get("action"), item.get("tag"), item.get("marker_id")
    if action not in set(Action):
        raise WireError(f"{where}: action must be one of {', '.join(Action)}")
    if not isinstance(tag, str) or not tag.strip():
        raise WireError(f"{where}: tag must be the name of a tag")
    times: dict[str, float | None] = {}
    for name in ("start", "end", "new_start", "new_end"):
        value = item.get(name)
        if not _is_time(value) and (value is not None or name in ("start", "end")):
            raise WireError(f"{where}: {name} must be seconds")
        times[name] = None if value is None else float(value)
    start, end = times["start"], times["end"]
    if start is None or end is None or end < start:
        raise WireError(f"{where}: the end lies before the start")
    return Decision(
        action=Action(action),
        tag=tag.strip(),
        start=start,
        end=end,
        marker_id=None if marker_id in (None, "") else str(marker_id),
        new_start=times["new_start"],
        new_end=times["new_end"],
    )
