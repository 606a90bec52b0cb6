"""Scenes that a person has gone through: what the ledger knows of them, and what is true. Frozen facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from haven_vlm.agreement import Stretch
from haven_vlm.facts import Sample


@dataclass(frozen=True, slots=True)
class TagTruth:
    """What is true of one tag in one scene."""

    spans: tuple[Stretch, ...]
    """Its markers with start and end; none: the tag is nowhere to be seen."""
    points_ms: tuple[int, ...] = ()
    """Its markers without an end."""
    carried: bool | None = None
    """Whether the scene has the tag; None when nothing tells whether it should."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One scene whose markers were gone through."""

    scene_id: str
    duration_ms: int
    samples: Mapping[int, Sample]
    """Time in milliseconds → what the ledger knows, for all tags in `truth`."""
    truth: Mapping[str, TagTruth]
    """By name in the vocabulary. A tag that is not here was not gone through in this scene."""
    rejected: tuple[tuple[str, Stretch], ...] = ()
    """Tags with spans that were found and that the user deleted, or said to be wrong; ascending."""
