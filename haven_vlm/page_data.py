"""What the page inside Stash reads: the files in `live/` and the replies of `mode: page`. Pure; see docs/page.md.

Fields may be added under the same `SCHEMA`; a field that changes its meaning or goes makes it a new one. Times of
day are ISO 8601 with offset or milliseconds since 1970 (`updated`), moments of a medium and durations are seconds.
All texts are plain text: whoever shows them must treat them so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum

SCHEMA = 1

STATUS_FILE = "status.json"
RUNS_FILE = "runs.json"
CHECK_FILE = "check.json"
REPORTS_FOLDER = "reports"

MAX_STATUS_BYTES = 64 * 1024
MAX_CURRENT = 16
"""Media under way that a status names."""
MAX_ENDPOINTS = 64
MAX_CAUSES = 20
MAX_OTHERS = 4
"""Other runs that a status names."""
MAX_RUNS = 50
MAX_THUMBNAILS = 48
MAX_TEXT = 300
"""Characters of a title or a reason; what is longer is cut with an ellipsis."""


# --- live/status.json -----------------------------------------------------------------------------------------


class RunState(StrEnum):
    """What a run is doing."""

    PREPARING = "preparing"
    """Finds out what there is to do, and what the endpoints can."""
    RUNNING = "running"
    WAITING = "waiting"
    """No endpoint answers; `message` says what is waited for."""
    FINISHED = "finished"
    FAILED = "failed"
    """Ended without having done all that was asked; `message` says why."""


@dataclass(frozen=True, slots=True)
class CurrentMedium:
    """A medium that is being worked on."""

    kind: str
    """'scene', 'image' or 'gallery'."""
    id: str
    title: str
    done: int
    """Questions settled."""
    planned: int


@dataclass(frozen=True, slots=True)
class MediaCount:
    """Media of the run."""

    total: int = 0
    done: int = 0
    current: tuple[CurrentMedium, ...] = ()
    """`MAX_CURRENT` at most."""


@dataclass(frozen=True, slots=True)
class QuestionCount:
    """Moments of all media of the run, by what became of them."""

    asked: int = 0
    """Answered by an endpoint in this run."""
    planned: int = 0
    """All together, as far as can be told now."""
    known: int = 0
    """Answered by the ledger."""
    inherited: int = 0
    """Like an answered neighbour, or blank."""
    failed: int = 0
    """Not analysed: no picture, or no usable answer."""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint, now."""

    name: str
    model: str
    state: str
    """'ready', 'preparing', 'cooling down', 'parked' or 'unused'."""
    until: float | None
    """Seconds until it is tried again; None when it is ready, or not tried any more."""
    reason: str
    """Why it is not ready, and the fix; empty when ready."""
    in_flight: int
    limit: int
    done: int
    share: float
    """Of all answers, 0 to 1."""
    weight_share: float
    """Of the weights of all endpoints that have answered, 0 to 1: what `share` should be while all are busy."""
    p50_ms: float
    p95_ms: float
    tokens_in_per_s: float
    tokens_out_per_s: float
    cached_share: float
    """Share of the tokens in that the server had cached, 0 to 1."""
    failures: Mapping[str, int]
    remote: bool | None
    """Outside the local network; None while nobody knows."""


@dataclass(frozen=True, slots=True)
class LookingAt:
    """The picture that was asked about last."""

    kind: str
    id: str
    title: str
    time_s: float
    image: str | None
    """Name of a small JPEG in `live/`; None for images, and while there is none."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why media were not tagged."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class OtherRun:
    """A run that goes on at the same time, as cron may start one."""

    run_id: int
    mode: str
    state: str
    message: str
    progress: float
    done: int
    """Media."""
    total: int


@dataclass(frozen=True, slots=True)
class Status:
    """`live/status.json`: the run that goes on, or the last one."""

    run_id: int
    mode: str
    token: str
    """Changes with every process, so that a reader can tell two runs apart."""
    started: str
    updated: int
    """Milliseconds since 1970. Older than `stale_after_s` in an unfinished run: its process was killed."""
    state: RunState
    message: str = ""
    progress: float = 0.0
    media: MediaCount = field(default_factory=MediaCount)
    questions: QuestionCount = field(default_factory=QuestionCount)
    rate_per_minute: float = 0.0
    eta_seconds: float | None = None
    endpoints: tuple[EndpointState, ...] = ()
    left_network: int = 0
    """Frames sent to remote addresses."""
    looking_at: LookingAt | None = None
    causes: tuple[Cause, ...] = ()
    """`MAX_CAUSES` at most, the most frequent first."""
    others: tuple[OtherRun, ...] = ()
    """`MAX_OTHERS` at most."""
    stale_after_s: int = 15
    schema: int = SCHEMA


# --- live/runs.json -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One finished run in `live/runs.json`, which is {"schema": 1, "runs": [newest first]}."""

    run_id: int
    mode: str
    started: str
    seconds: float
    written: bool
    """False for a preview and for a check."""
    ok: bool
    counts: Mapping[str, int]
    """'tagged', 'incomplete', 'errored', 'failed', 'skipped' → media."""
    asked: int
    known: int
    inherited: int
    markers: int
    left_network: int
    ended_because: str
    """Why it ended early; empty when it did not."""
    summary: str
    """Some lines."""
    causes: tuple[Cause, ...]
    report: str | None
    """Path below `live/`, such as 'reports/2026-11-23T140000-run7.html'; None when there is none any more."""
    report_file: str = ""
    """The same report on the machine that runs Stash, for people."""
    stopped: bool = False
    """Its process was killed; all that is known is what it had last said of itself. `counts` is empty then."""


# --- live/check.json ------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """How one finding turned out."""

    OK = "ok"
    NOTE = "note"
    """Works, and could be set up better."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One finding."""

    name: str
    """What was looked at: 'reachable', 'model', 'sees pictures', 'speed' …"""
    verdict: Verdict
    text: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty when nothing."""


@dataclass(frozen=True, slots=True)
class CheckSection:
    """All findings about one thing."""

    kind: str
    """'endpoint', 'stash', 'dependencies', 'paths', 'disk' or 'ledger'."""
    title: str
    """For an endpoint its name."""
    address: str = ""
    """Of an endpoint."""
    items: tuple[CheckItem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return all(item.verdict is not Verdict.PROBLEM for item in self.items)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`live/check.json`: the last Check Endpoints."""

    run_id: int
    at: str
    ok: bool
    sections: tuple[CheckSection, ...]
    schema: int = SCHEMA


# --- replies of `mode: page` ----------------------------------------------------------------------------------


class SpanState(StrEnum):
    """Whose a span of a lane is."""

    FOUND = "found"
    """Follows from the answers; there is no marker of it in Stash."""
    OURS = "ours"
    """A marker that a run wrote and nobody changed."""
    USER = "user"
    """A marker of the user's, or one of ours that the user has changed."""
    REJECTED = "rejected"
    """The user does not want a marker here; there is none of ours."""
    CONFIRMED = "confirmed"
    """A marker that the user has looked at and found right."""


@dataclass(frozen=True, slots=True)
class LaneSpan:
    """A stretch of a lane."""

    start: float
    end: float
    confidence: float | None
    """0 to 1; None when no answer tells."""
    marker_id: str | None
    state: SpanState


@dataclass(frozen=True, slots=True)
class Lane:
    """One tag over time."""

    tag: str
    """Name in the vocabulary."""
    stash_name: str
    spans: tuple[LaneSpan, ...]
    on_scene: bool = False
    """Whether the scene carries the tag."""


class SampleState(StrEnum):
    """What became of one moment."""

    ASKED = "asked"
    INHERITED = "inherited"
    FAILED = "failed"
    BLANK = "blank"
    """Black or of one colour: nobody was asked."""


@dataclass(frozen=True, slots=True)
class SampleAt:
    """One looked-at moment."""

    t: float
    state: SampleState
    reason: str = ""
    """Why it failed."""
    tags: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScenePaths:
    """Addresses of the scene's pictures in Stash, relative to its base address, without any key."""

    screenshot: str


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """The scene itself."""

    id: str
    title: str
    duration: float
    paths: ScenePaths | None = None


@dataclass(frozen=True, slots=True)
class SceneReply:
    """Reply of op 'scene'."""

    scene: SceneFacts
    lanes: tuple[Lane, ...]
    samples: tuple[SampleAt, ...]
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture of op 'thumbnails'."""

    t: float
    image: str | None
    """data:image/jpeg;base64,… or None when there is none, or time was up."""


@dataclass(frozen=True, slots=True)
class ThumbnailsReply:
    """Reply of op 'thumbnails'."""

    thumbnails: tuple[Thumbnail, ...]


class Action(StrEnum):
    """What a person decides about a span."""

    CONFIRM = "confirm"
    REJECT = "reject"
    MOVE = "move"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of op 'review'; times in seconds."""

    action: Action
    tag: str
    """Name in the vocabulary, or in Stash."""
    start: float
    end: float
    marker_id: str | None = None
    new_start: float | None = None
    new_end: float | None = None


@dataclass(frozen=True, slots=True)
class ReviewReply:
    """Reply of op 'review'."""

    done: int
    """Decisions carried out."""
    messages: tuple[str, ...]
    """What could not be done, or was done otherwise, in words."""


# --- JSON -----------------------------------------------------------------------------------------------------


def plain(value: object) -> object:
    """A contract's object as JSON knows it: tuples as lists, numbers that JSON lacks as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value


def to_json(value: object) -> str:
    """One line of JSON in ASCII: nothing in it can be taken for markup by whoever sniffs at it."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """The text on one line, without control characters, not longer than `limit`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
