"""Scenes with answers and the markers that a person would have set: made from settings that are then looked for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.truth import Clip, Model, Perfect, loose
from demo.footage import TAGS
from haven_vlm.facts import Outcome, Sample
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm.settings import Settings
from haven_vlm.timeline import Findings, conclude


def answers(clip: Clip, model: Model, seed: int, *, every_ms: int = 2000) -> dict[int, Sample]:
    """A scan with confidences: high where the tag is, low where the model is wrong."""
    dice = random.Random(f"confidences {seed}")
    samples = {}
    for at in range(0, clip.duration_ms, every_ms):
        there = clip.at(at)
        named = sorted(model.answer(clip, at))
        tags = {t: round(dice.betavariate(5, 2) if t in there else dice.betavariate(2, 3), 4) for t in named}
        samples[at] = Sample(at, at, Outcome.TAGS if tags else Outcome.NONE, tags)
    return samples


def scenes_by(
    hidden: Settings,
    count: int,
    *,
    minutes: float,
    seed: int,
    model: Model | None = None,
    tags: tuple[str, ...] = TAGS,
    per_minute: float = 2,
) -> list[Reviewed]:
    """Scenes in which the user's markers are exactly what `hidden` makes of the answers."""
    found = []
    for number in range(count):
        clip = loose(minutes, max(4, round(minutes * per_minute)), seed * 1000 + number, longest_s=30)
        clip = replace(clip, tags=tags, spans=tuple(s for s in clip.spans if s.tag in tags))
        samples = answers(clip, model or Perfect(), seed * 1000 + number)
        findings = conclude(samples, clip.duration_ms, hidden)
        found.append(Reviewed(str(number), clip.duration_ms, samples, truth_of(findings_by_tag(findings, hidden))))
    return found


def findings_by_tag(findings: Findings, settings: Settings) -> Mapping[str, Sequence[tuple[int, int]]]:
    """Spans by tag, those without any included."""
    by_tag: dict[str, list[tuple[int, int]]] = {t.name: [] for t in settings.tag_list}
    for span in findings.spans:
        by_tag[span.tag].append((span.start_ms, span.end_ms))
    return by_tag


def truth_of(by_tag: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, TagTruth]:
    """As a person's markers say."""
    return {tag: TagTruth(tuple(spans), carried=bool(spans)) for tag, spans in by_tag.items()}
