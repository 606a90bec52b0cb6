"""Which scenes a person has gone through, what is true there, and what the ledger knows of them. Asks no model.

The truth is what stands in Stash now: markers whose primary tag is one of the vocabulary's, but for those flagged as
wrong, now or when the flags were collected. It counts for a scene and a tag when the user has said something about it,
or when today's settings find the same nothing as there is:

* a marker of the tag stands there (set by hand, moved, or left as the connector wrote it, in a scene gone through);
* or a marker of the tag that the connector wrote was deleted, or the ledger holds another correction of it.

Where neither is the case and today's settings would find something, nothing was ever written there (the tag is new, or
markers are off), so nothing is learned from that scene about that tag. A scene counts as gone through when it is
named, when the ledger holds a correction of it, or when a marker of it was made, moved or deleted by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from haven_vlm.agreement import Stretch
from haven_vlm.corrections import Correction, Verdict
from haven_vlm.facts import Kind, Marker, Medium, Prompt
from haven_vlm.journal import Journal
from haven_vlm.ownership import Record, Role
from haven_vlm.ports import AnswerKey, PartlyKnown
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm.settings import Settings
from haven_vlm.stash_ports import StashCollections
from haven_vlm.timeline import conclude

MOST_SCENES = 500
"""Scenes looked at, those added to Stash last first; more would say little more."""

PAGE = 40
"""Scenes asked for at once."""

WITH_EXAMPLES = " + examples"
"""Behind the name of a model: its answers where it was shown examples (never of the same scene)."""

END_SHARE = 0.05
"""Share of a scene behind its last answer, or before its first, from which its answers do not cover it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to learn from."""

    scenes: tuple[Reviewed, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why scenes that were gone through are of no use → how many."""
    keys: Mapping[str, AnswerKey] = field(default_factory=dict)
    """Scene id → where its answers are."""


class Gatherer:
    """Finds scenes that were gone through."""

    def __init__(
        self,
        gateway: StashCollections,
        journal: Journal,
        settings: Settings,
        *,
        prompt: Prompt,
        picture: Callable[[Medium], str],
    ) -> None:
        """`prompt`: of the whole vocabulary; `picture`: key of the preparation that a scene's frames get."""
        self._gateway = gateway
        self._journal = journal
        self._settings = settings
        self._prompt = prompt
        self._picture = picture
        self._names: dict[str, str] = {}
        """Id of a tag in Stash → its name in the vocabulary."""
        self._unknown: tuple[str, ...] = ()
        """Names of the vocabulary for which Stash has no tag: nobody has seen them anywhere yet."""
        self._flag_id = ""
        """Of the tag that flags what is wrong."""

    async def gather(self, ids: Sequence[str] = (), *, limit: int | None = None) -> Evidence:
        """Look at the scenes named, else at all that were gone through.

        Args:
            ids: scenes to look at, gone through or not; none: find them.
            limit: so many at most.

        Raises:
            StashError: Stash cannot be asked.
            LedgerError: the ledger cannot be read.
        """
        await self._find_tags()
        chosen = list(ids) or await self.reviewed_ids()
        left_out: Counter[str] = Counter()
        most = min(limit or MOST_SCENES, MOST_SCENES)
        if len(chosen) > most:
            left_out[f"only {most} are looked at in one run"] += len(chosen) - most
        scenes: list[Reviewed] = []
        keys: dict[str, AnswerKey] = {}
        corrections = await self._corrections()
        for at in range(0, min(most, len(chosen)), PAGE):
            page = chosen[:most][at : at + PAGE]
            media = await self._gateway.media(Kind.SCENE, page)
            for scene_id in page:
                if (medium := media.get(scene_id)) is None:
                    left_out["no longer in Stash"] += 1
                    continue
                if not medium.files or not medium.files[0].duration_s:
                    left_out["Stash does not know how long they are"] += 1
                    continue
                key = AnswerKey(medium.files[0].identity, self._picture(medium), self._prompt, also_in_company=True)
                found = await self._scene(medium, medium.files[0].duration_s, key, corrections.get(scene_id, []))
                if isinstance(found, str):
                    left_out[found] += 1
                else:
                    scenes.append(found)
                    keys[scene_id] = key
        return Evidence(tuple(scenes), dict(left_out), keys)

    async def by_model(self, evidence: Evidence) -> dict[str, tuple[Reviewed, ...]]:
        """The same scenes, for each model with its own answers only; apart, those given by examples."""
        found: dict[str, list[Reviewed]] = {}
        for scene in evidence.scenes:
            for shown, suffix in ((False, ""), (True, WITH_EXAMPLES)):
                key = replace(evidence.keys[scene.scene_id], with_examples=shown)
                for model in await self._journal.models_of(key):
                    known = await self._journal.known_partly(key, {model})
                    asked = _asked_about(self._prompt, known)
                    truth = {tag: t for tag, t in scene.truth.items() if tag in asked}
                    samples = {at_ms: k.sample for at_ms, k in known.items()}
                    found.setdefault(model + suffix, []).append(replace(scene, samples=samples, truth=truth))
        return {model: tuple(found[model]) for model in sorted(found)}

    async def reviewed_ids(self) -> list[str]:
        """Ids of all scenes that the user has gone through, the latest first."""
        await self._find_tags()
        owned = await self._journal.ownership.markers()
        standing: dict[str, Marker] = {}
        for tag_id in self._names:
            standing |= {m.id: m for m in await self._gateway.markers_with_tag(tag_id) if m.primary_tag_id == tag_id}
        touched = set(await self._corrections())
        touched |= {m.scene_id for i, m in standing.items() if owned.get(i) != m}
        ours = {m.scene_id for i, m in owned.items() if i in standing}
        # where nothing of ours is left, the scene was cleared or restored from a backup: that is no correction
        touched |= {m.scene_id for i, m in owned.items() if i not in standing and m.scene_id in ours}
        return sorted(touched, key=int, reverse=True)

    async def _find_tags(self) -> None:
        if not self._names:
            names = {t.stash_name: t.name for t in self._settings.tag_list}
            found = await self._gateway.find_tags(list(names))
            self._names = {tag.id: names[name] for name, tag in found.items()}
            self._unknown = tuple(name for stash_name, name in names.items() if stash_name not in found)
            flag = await self._gateway.find_tag(self._settings.incorrect_tag)
            self._flag_id = flag.id if flag else ""

    async def _corrections(self) -> dict[str, list[Correction]]:
        found: dict[str, list[Correction]] = {}
        for correction in await self._journal.corrections.all(kind=Kind.SCENE):
            found.setdefault(correction.medium_id, []).append(correction)
        return found

    async def _scene(
        self, medium: Medium, duration_s: float, key: AnswerKey, corrections: Sequence[Correction]
    ) -> Reviewed | str:
        """The scene; or why it is of no use."""
        duration_ms = round(duration_s * 1000)
        known = await self._journal.known_partly(key, None)
        if not known:
            return "the ledger has no answers for them under today's tags, definitions and picture settings"
        if not covers(sorted(known), duration_ms):
            return "the ledger has answers for a part of them only"
        standing = [m for m in await self._gateway.markers(medium.id) if m.primary_tag_id in self._names]
        markers = [m for m in standing if self._flag_id not in m.tag_ids and not _is_rejected(m, corrections)]
        record = await self._journal.ownership.record(Kind.SCENE, medium.id, [m.id for m in standing])
        samples = {at_ms: k.sample for at_ms, k in known.items()}
        today = await asyncio.to_thread(conclude, samples, duration_ms, self._settings)
        asked = _asked_about(self._prompt, known)
        truth: dict[str, TagTruth] = {}
        for tag_id, name in self._names.items():
            mine = [m for m in markers if m.primary_tag_id == tag_id]
            told = bool(mine) or _said(tag_id, record, markers, corrections)
            if name in asked and (told or not any(s.tag == name for s in today.spans)):
                truth[name] = TagTruth(
                    *_stretches(mine), carried=_carried(tag_id, medium, record, today_has=name in today.tags)
                )
        for name in self._unknown:
            if name in asked and not any(s.tag == name for s in today.spans):
                truth[name] = TagTruth((), (), carried=False)
        if not truth:
            return "nothing of them was gone through"
        return Reviewed(medium.id, duration_ms, samples, truth, self._rejected(record, standing, corrections))

    def _rejected(
        self, record: Record, standing: Sequence[Marker], corrections: Sequence[Correction]
    ) -> tuple[tuple[str, Stretch], ...]:
        """Spans of ours that the user deleted, or said to be wrong."""
        left = {m.id for m in standing}
        deleted = [o.marker for i, o in record.markers.items() if i not in left]
        spans = [(m.primary_tag_id, (m.start_ms, m.end_ms)) for m in deleted if m.end_ms is not None]
        said = [c for c in corrections if c.verdict is Verdict.REJECTED and c.before is not None]
        spans += [(c.tag_id, c.before) for c in said if c.before is not None]
        return tuple(sorted({(self._names[i], span) for i, span in spans if i in self._names}))


def covers(times_ms: Sequence[int], duration_ms: int) -> bool:
    """Whether answers at these times (ascending) reach over the whole of a scene."""
    if not times_ms:
        return False
    distances = sorted(b - a for a, b in pairwise(times_ms)) or [duration_ms]
    reach = max(END_SHARE * duration_ms, 2 * distances[len(distances) * 3 // 4])
    return times_ms[0] <= reach and duration_ms - times_ms[-1] <= reach


def _asked_about(prompt: Prompt, known: Mapping[int, PartlyKnown]) -> set[str]:
    """Names of the vocabulary that nearly all moments were asked about."""
    missing = Counter(term.name for k in known.values() for term in k.missing)
    return {t.name for t in prompt.terms if missing[t.name] <= len(known) // 50}


def _said(tag_id: str, record: Record, markers: Sequence[Marker], corrections: Sequence[Correction]) -> bool:
    """Whether the user has said something about a tag of which no marker stands."""
    if tag_id in record.rejected_tags or any(span.tag_id == tag_id for span in record.rejected_spans):
        return True
    if any(correction.tag_id == tag_id for correction in corrections):
        return True
    standing = {m.id for m in markers}
    return any(o.marker.primary_tag_id == tag_id and i not in standing for i, o in record.markers.items())


def _is_rejected(marker: Marker, corrections: Sequence[Correction]) -> bool:
    """Whether the last word on a marker that still stands is that it is wrong: flags are cleared, markers may stay."""
    span = (marker.start_ms, max(marker.end_ms or 0, marker.start_ms + 1))
    words = [
        c.verdict
        for c in corrections
        if c.tag_id == marker.primary_tag_id and (c.after or c.before) == span and c.marker_id in ("", marker.id)
    ]
    return bool(words) and words[-1] is Verdict.REJECTED


def _carried(tag_id: str, medium: Medium, record: Record, *, today_has: bool) -> bool | None:
    if tag_id in medium.tag_ids:
        return True
    owned = record.tags.get(tag_id)
    if tag_id in record.rejected_tags or (owned is not None and owned.role is Role.RESULT) or not today_has:
        return False
    return None


def _stretches(markers: Sequence[Marker]) -> tuple[tuple[Stretch, ...], tuple[int, ...]]:
    """Spans, those that overlap or touch joined; and times of markers without an end."""
    spans: list[Stretch] = []
    points = []
    for marker in sorted(markers, key=lambda m: m.start_ms):
        if marker.end_ms is None or marker.end_ms <= marker.start_ms:
            points.append(marker.start_ms)
        elif spans and marker.start_ms <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], marker.end_ms))
        else:
            spans.append((marker.start_ms, marker.end_ms))
    return tuple(spans), tuple(points)
