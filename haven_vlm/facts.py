"""Frozen facts that travel between the parts: media, frames, questions, answers, spans.

Times are whole milliseconds from the first shown frame (PTS 0 = first frame) and end in `_ms`; durations
of waiting are seconds and end in `_s`; sizes of pictures are pixels and end in `_px`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What carries tags in Stash and can be looked at."""

    SCENE = "scene"
    IMAGE = "image"
    GALLERY = "gallery"


class Outcome(StrEnum):
    """What became of one frame. Only `TAGS` and `NONE` count as analysed."""

    TAGS = "tags"
    """The model named at least one tag of the vocabulary."""
    NONE = "none"
    """The model answered in the agreed form that no tag applies."""
    REFUSED = "refused"
    """The model declined to look."""
    FILTERED = "filtered"
    """A content filter of the server cut the question or the answer."""
    TRUNCATED = "truncated"
    """The answer ran out of tokens, also when asked again with a larger budget."""
    UNPARSABLE = "unparsable"
    """There is an answer, and it cannot be read without guessing."""
    ENDPOINT_ERROR = "endpoint_error"
    """No endpoint could answer within the frame's budget of attempts."""
    UNDECODABLE = "undecodable"
    """The medium holds no decodable picture at that time."""

    @property
    def analysed(self) -> bool:
        """Whether the frame was really looked at and answered."""
        return self in (Outcome.TAGS, Outcome.NONE)


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of the vocabulary as the model sees it."""

    name: str
    definition: str = ""
    aliases: tuple[str, ...] = ()
    """Other words for the same thing, accepted in answers."""


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its right answer, for a model to go by."""

    identity: str
    """`MediaFile.identity` of the video it is from."""
    at_ms: int
    tags: tuple[str, ...]
    """All names of the vocabulary that apply; none: nothing of it can be seen."""
    jpeg: bytes = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked of every frame of a run: byte-identical, so that servers can keep it cached."""

    system: str
    """Constant text: the task, the vocabulary, the form of the answer."""
    user: str
    """Short text before the picture; may be empty."""
    schema: Mapping[str, object]
    """JSON Schema of the answer, for servers that enforce one."""
    terms: tuple[Term, ...]
    wording: str
    """Hash of the wording alone: its version, the kind of picture and extra instructions, without the terms."""
    key: str
    """Hash of all that shapes an answer here: `wording`, names and definitions of the terms."""
    max_tokens: int
    """Tokens an answer may take, with room to spare; doubled once when an answer is cut."""
    pictures: int = 1
    """Pictures of one question; the answer then speaks of each by its number."""
    company_wording: str = ""
    """Of a prompt for one picture: `wording` of the same question about several at once."""
    examples: tuple[Example, ...] = ()
    """Shown before the picture in question, by endpoints inside the local network that can; see `plain`."""
    plain: Prompt | None = None
    """Of a prompt with examples, and of no other: the same question without them, for all other endpoints."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture, ready to send."""

    at_ms: int
    """The time that was wanted: the frame is the one on screen then. Key in the ledger."""
    shown_ms: int
    """When this very frame is first shown (≤ `at_ms`, or its snapped keyframe's time)."""
    jpeg: bytes
    """Baseline JPEG without metadata."""
    width_px: int
    height_px: int
    luma: bytes
    """32 × 32 grey values, row by row, for comparing frames cheaply."""
    corrupt: bool = False
    """The decoder flagged damage in this picture."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a vision model."""

    prompt: Prompt
    jpegs: tuple[bytes, ...]
    """One picture; several only where the endpoint can and the caller asked for it."""
    local_only: bool
    """True: may go to loopback and private networks only, whatever the endpoints allow."""
    label: str
    """For people: 'scene 12 at 0:34'."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question, successful or not."""

    outcome: Outcome
    tags: Mapping[str, float] = field(default_factory=dict)
    """Tag name of the vocabulary → confidence, 0 to 1. Empty unless `outcome` is `TAGS`."""
    endpoint: str = ""
    """Name of the endpoint that answered (or failed last)."""
    model: str = ""
    raw: str = ""
    """The text the model wrote, cut to a few kilobytes."""
    detail: str = ""
    """Why the outcome is not an analysis, in words; empty otherwise."""
    unknown_words: int = 0
    """Names in the answer that are not in the vocabulary; dropped, never guessed at."""
    latency_s: float = 0.0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    remote: bool = False
    """The frame left the local network to get this answer."""
    examples: int = 0
    """How many examples the model was shown: all those of the prompt, or none, and then `Prompt.plain` was asked."""
    each: tuple[Answer, ...] = ()
    """Of a question with several pictures: what became of each, in their order. `outcome` is then an analysed one if
    any of theirs is, and `tags` is empty."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One looked-at moment of a medium: what sampling, timeline and reports work with."""

    at_ms: int
    shown_ms: int
    outcome: Outcome
    tags: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    inherited_from_ms: int | None = None
    """Time of the analysed neighbour whose answer this frame took over, because they look the same."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sampler wants next."""

    now: tuple[int, ...] = ()
    """Times to ask about, in milliseconds, ascending."""
    coarse: frozenset[int] = frozenset()
    """Those of `now` that belong to the first, coarse look: they may share a question with others."""
    maybe: tuple[int, ...] = ()
    """Times likely to be wanted soon near `now`: worth decoding in the same pass, not worth a call yet."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A cheap look at one keyframe: enough to find cuts, black and still stretches."""

    at_ms: int
    luma: bytes
    """32 × 32 grey values, row by row."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a container says about its picture track."""

    duration_ms: int | None
    """Unknown for live recordings and raw streams."""
    width_px: int
    height_px: int
    """Of the upright picture with square pixels, before scaling down."""
    frames_per_second: float | None
    codec: str
    keyframes_ms: tuple[int, ...] | None = None
    """Times of the keyframes, if the container's index names them."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in which a tag applies."""

    tag: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class MarkerDraft:
    """A marker as it should stand in Stash."""

    scene_id: str
    title: str
    start_ms: int
    end_ms: int | None
    primary_tag_id: str
    tag_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker as it stands in Stash."""

    id: str
    scene_id: str
    title: str
    start_ms: int
    end_ms: int | None
    primary_tag_id: str
    tag_ids: tuple[str, ...] = ()
    """Secondary tags, sorted; Stash never repeats the primary tag here."""


@dataclass(frozen=True, slots=True)
class TagRef:
    """A tag in Stash."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    parent_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file behind a scene or an image, as Stash knows it."""

    path: str
    size_bytes: int
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Type ('oshash', 'md5', 'phash') → value."""
    duration_s: float | None = None
    width_px: int = 0
    height_px: int = 0
    is_video: bool = True
    zip_path: str | None = None
    """Path of the zip archive that holds the file; `path` then goes on inside it."""

    @property
    def identity(self) -> str:
        """Identity that survives renames and moves: oshash, else md5, with the size; else path and size."""
        for kind in ("oshash", "md5"):
            if value := self.fingerprints.get(kind):
                return f"{kind}:{value}:{self.size_bytes}"
        return f"path:{self.path}:{self.size_bytes}"


@dataclass(frozen=True, slots=True)
class Medium:
    """A scene, image or gallery as Stash describes it at one moment."""

    kind: Kind
    id: str
    title: str
    files: tuple[MediaFile, ...]
    """The first is the primary one; may be empty."""
    tag_ids: frozenset[str]
    organized: bool = False
    updated_at: str = ""
    """RFC 3339 text: when Stash last changed the medium or its tags (markers do not count); '' if unknown."""

    @property
    def label(self) -> str:
        """Name for people: 'scene 12 “Final”'."""
        return f"{self.kind} {self.id} “{self.title}”" if self.title else f"{self.kind} {self.id}"
