"""The seams: what one part may expect of another. Implementations live elsewhere; tests share one suite per port.

Everything async runs on the one event loop. Blocking work (decoding, SQLite, stashapp-tools) sits behind
these ports in threads of its own, so that the loop is never held up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from haven_vlm.facts import (
    Answer,
    Frame,
    Glimpse,
    Kind,
    Marker,
    MarkerDraft,
    Medium,
    Prompt,
    Question,
    Sample,
    TagRef,
    Term,
    VideoInfo,
    Wish,
)

# --- pictures -------------------------------------------------------------------------------------------------


class FrameSource(AbstractContextManager["FrameSource"], Protocol):
    """An open video. Blocking, not thread-safe: one owner, one worker thread."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def bad_frames(self) -> int:
        """Pictures that could not be decoded, or were flagged as damaged, so far."""
        ...

    def frames(self, wanted_ms: Iterable[int], *, snap_ms: int = 0) -> Iterator[Frame]:
        """Yield, for each wanted time in ascending order, the frame on screen then.

        A time at which nothing can be decoded is left out. With `snap_ms` a keyframe within that many
        milliseconds may stand in. May be called again with earlier times: the file stays open.

        Raises:
            MediaUnreadable: nothing (more) of the medium can be decoded.
        """
        ...

    def survey(self) -> Iterator[Glimpse]:
        """Yield a cheap look at every keyframe, ascending."""
        ...


class FrameReader(AbstractAsyncContextManager["FrameReader"], Protocol):
    """A `FrameSource` driven from the event loop: own thread, bounded queue, watchdog per read."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def bad_frames(self) -> int: ...

    def frames(self, wanted_ms: Sequence[int], *, snap_ms: int = 0) -> AsyncIterator[Frame]:
        """As `FrameSource.frames`; decoding runs at most a few frames ahead of the consumer."""
        ...

    async def survey(self) -> tuple[Glimpse, ...]: ...


class FetchBytes(Protocol):
    """Brings a whole file from Stash over HTTP."""

    async def __call__(self, url: str, headers: Mapping[str, str], *, limit_bytes: int) -> bytes:
        """The file's bytes.

        Raises:
            MediaUnreachable: Stash does not answer, wants a login, or says no; the sentence says which.
            MediaUnreadable: it is larger than the limit.
        """
        ...


# --- models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a probe found out about an endpoint; cached between runs."""

    server: str
    """'llama.cpp', 'vllm', 'ollama', 'lm-studio', …, or 'unknown'."""
    model: str
    """The model requests will name."""
    sees_pictures: bool
    json_schema: str
    """'enforced', 'ignored', 'refused'."""
    logprobs: bool
    several_pictures: bool
    thinking: str
    """'none', 'switchable', 'always', 'unknown'."""
    length_field: str
    """'max_tokens' or 'max_completion_tokens'."""
    parallel_hint: int | None
    """Questions the server says it works on at once, if it says so."""
    is_remote: bool
    """The address lies outside loopback and private networks."""
    refused_fields: frozenset[str] = frozenset()
    """Request fields this server answered 400/422 to."""
    answer_s: float | None = None
    """Seconds one question with a picture took in the probe, if one was asked: a first guess at its speed."""
    thinking_switch: str = ""
    """The request field that turned thinking off; empty when none is needed or none works."""
    notes: tuple[str, ...] = ()
    """Sentences for the person: what could not be confirmed, or could be set up better."""


class VisionEndpoint(Protocol):
    """One OpenAI-compatible server. It makes one attempt at a time and never retries by itself,
    except that a request field the server does not know is dropped and the same question sent again."""

    @property
    def name(self) -> str: ...

    @property
    def base_url(self) -> str: ...

    @property
    def model(self) -> str:
        """The model's name; before `prepare` the one from the settings, maybe empty."""
        ...

    @property
    def is_remote(self) -> bool | None:
        """Whether the address that is really connected to is outside; None while nobody knows."""
        ...

    async def prepare(self) -> Capabilities:
        """Find out (or remember) what the server can do.

        Raises:
            EndpointError: it is down, loading, or can never work as it is set up (fault says which).
        """
        ...

    async def ping(self) -> None:
        """Cheap sign of life, without a picture. Raises `EndpointError`."""
        ...

    async def ask(
        self, question: Question, *, connect_timeout_s: float, total_timeout_s: float, boosted: bool = False
    ) -> Answer:
        """Send the question once.

        `boosted`: thinking off and twice the token budget, for an answer that was cut.
        Refused, filtered, truncated and unparsable answers are returned, not raised.

        Raises:
            EndpointError: no answer; `fault` says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """A snapshot of one endpoint's work in this run."""

    name: str
    base_url: str
    model: str
    state: str
    """'ready', 'preparing', 'cooling down', 'parked', 'unused'."""
    reason: str
    """Why it is not ready, and the fix, in words; empty when ready."""
    until_s: float | None
    """Seconds until the next try; None when ready or parked for good."""
    weight: float
    is_fallback: bool
    limit: int
    """Questions it may hold at once now."""
    in_flight: int
    answered: int
    failures: Mapping[str, int]
    """`EndpointFault` value → count."""
    p50_s: float
    p95_s: float
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    left_network: int
    """Frames sent to a remote address."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of the whole pool."""

    endpoints: tuple[EndpointStatistics, ...]
    waiting: int
    """Questions in the ready queue."""
    asked: int
    """Requests sent, retries included."""
    answered: int
    left_network: int
    waiting_for: str = ""
    """Not empty while all endpoints are down: what is being waited for, in words."""


class Ticket(Protocol):
    """Leave to hold one decoded frame and ask one question."""

    async def ask(self, question: Question) -> Answer:
        """Return what became of the question; every fault of a single frame is an `Answer`, not an exception.

        Raises:
            OutageError: no endpoint can take it, and none came back within the patience the settings allow.
        """
        ...


class VisionPool(Protocol):
    """All endpoints together, as the engine sees them."""

    @property
    def models(self) -> frozenset[str] | None:
        """Names of the models behind the endpoints in use: answers of any of them count as known.

        None while the settings leave a model open and its server has not told: then answers of any model do,
        because nothing is to be asked twice.
        """
        ...

    def ticket(self, lane: str, *, local_only: bool = False) -> AbstractAsyncContextManager[Ticket]:
        """Wait for leave to decode one frame and ask about it.

        At most as many tickets are out as the slots can soon use, so decoded frames are bounded. Among
        waiting lanes (one per medium) the one that asked for its first ticket earliest comes first.

        Raises:
            OutageError: as `Ticket.ask`.
        """
        ...

    def expect(self, lane: str, count: int) -> None:
        """Say (anew) for how many more tickets this lane will probably ask, those it waits for now included.

        Only then can the end of a run be told from its middle, where every slot is worth using: the last
        questions are kept from an endpoint that would answer them later than a faster one that is still busy.
        """
        ...

    def close_lane(self, lane: str) -> None:
        """Forget a lane that has no more questions."""
        ...

    def statistics(self) -> PoolStatistics: ...


class EndpointMemory(Protocol):
    """What was learned about endpoints, kept from run to run. Small, blocking, quick; losing it costs speed only."""

    def get(self, key: str) -> Mapping[str, float] | None:
        """What was put under this key last; None when there is nothing usable."""
        ...

    def put(self, key: str, value: Mapping[str, float]) -> None:
        """Remember `value`; a failure to write is logged, not raised."""
        ...


class CapabilityMemory(Protocol):
    """What probes found out, kept from run to run. Small, blocking, quick; losing it costs a probe."""

    def get(self, key: str) -> Mapping[str, object] | None:
        """What was put under this key last, as JSON gives it back; None when there is nothing usable."""
        ...

    def put(self, key: str, value: Mapping[str, object]) -> None:
        """Remember `value` (JSON types only); a failure to write is logged, not raised."""
        ...


# --- memory ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """All that shaped a set of answers, except the time and the model."""

    identity: str
    """`MediaFile.identity`."""
    picture: str
    """Key of the picture preparation: size, quality, crop, projection, version."""
    prompt: Prompt


class AnswerStore(Protocol):
    """The part of the ledger that remembers answers."""

    async def known(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, Sample]:
        """Time in milliseconds → what is known of it under this key by any of these models; None: of any model.

        Only outcomes that a repeated question would not change are known: tags, none, and inherited ones.
        """
        ...

    async def record(self, key: AnswerKey, *, at_ms: int, shown_ms: int, answer: Answer) -> None:
        """Commit one answer. On return it survives a kill and a power cut."""
        ...

    async def record_inherited(self, key: AnswerKey, *, sample: Sample) -> None:
        """Commit that a frame looks like its analysed neighbour and takes over its answer."""
        ...


@dataclass(frozen=True, slots=True)
class PartlyKnown:
    """What the ledger knows of one moment, when the vocabulary has changed since it was looked at."""

    sample: Sample
    """Answers for all terms that are known, merged; with `missing` empty, the whole answer."""
    missing: tuple[Term, ...]
    """Terms of the prompt that nobody was asked about then, in the prompt's order."""


class TermwiseAnswers(AnswerStore, Protocol):
    """An answer store that knows which terms of a vocabulary a moment was asked about."""

    async def known_partly(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, PartlyKnown]:
        """Time → what is known of at least one term, ascending; whole answers have nothing `missing`."""
        ...

    async def missing_terms(
        self, key: AnswerKey, models: Collection[str] | None, times_ms: Iterable[int]
    ) -> dict[tuple[Term, ...], tuple[int, ...]]:
        """Terms still to ask about → the times they are missing at; what is known whole is left out.

        Ask each group with a prompt of these terms (same kind and instructions, hence the same wording), record
        under that prompt, and `known` of the full prompt has it.
        """
        ...


# --- Stash ----------------------------------------------------------------------------------------------------


class StashGateway(Protocol):
    """Stash, as far as this project needs it. All calls retry passing faults by themselves.

    Raises, everywhere:
        StashUnavailable: after the retries, still no answer.
        StashUnauthorized: the login does not hold.
        StashRefused / StashGone: Stash said no / the object is not there.
    """

    async def plugin_settings(self) -> Mapping[str, object]:
        """What the settings page of this plugin holds; empty before anything was saved there."""
        ...

    async def find_tag(self, name: str) -> TagRef | None:
        """The tag of exactly this name (first choice), else the one that has it as an alias; case is ignored."""
        ...

    async def find_tags(self, names: Collection[str]) -> dict[str, TagRef]:
        """`find_tag` for many names in few round trips; names without a tag are left out."""
        ...

    async def tags_by_id(self, ids: Collection[str]) -> dict[str, TagRef]:
        """Tags that still exist among these ids."""
        ...

    async def create_tag(self, name: str, *, parent_id: str | None = None, description: str = "") -> TagRef:
        """Create a tag; raises `StashRefused` when the name clashes."""
        ...

    async def unused_tags(self, ids: Collection[str]) -> set[str]:
        """Those of these tags that still exist and that nothing carries: no medium, marker, performer, studio or
        group, and no tag has it as its parent."""
        ...

    async def destroy_tags(self, ids: Sequence[str]) -> None: ...

    async def media_ids(self, kind: Kind, tag_id: str) -> list[str]:
        """Ids of all media that carry this very tag, ascending by id."""
        ...

    async def medium(self, kind: Kind, medium_id: str) -> Medium | None:
        """The medium as it is now; None when it does not exist (any more)."""
        ...

    async def add_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None:
        """Add tags to media; those already there stay."""
        ...

    async def remove_tags(self, kind: Kind, ids: Sequence[str], tag_ids: Collection[str]) -> None: ...

    async def markers(self, scene_id: str) -> list[Marker]:
        """All markers of a scene, ascending by start."""
        ...

    async def markers_by_id(self, ids: Collection[str]) -> dict[str, Marker]:
        """Markers that still exist among these ids, on whatever scene they stand now (merging scenes moves them)."""
        ...

    async def create_markers(self, drafts: Sequence[MarkerDraft]) -> list[Marker]:
        """Create markers in few round trips; in the order of the drafts.

        Raises:
            PartialWrite: some were created before Stash failed; `created` says which.
        """
        ...

    async def destroy_markers(self, ids: Collection[str]) -> None:
        """Destroy these markers; those that are gone already do not matter."""
        ...

    def stream_url(self, kind: Kind, medium_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's own stream of the primary file, and the headers that authenticate there."""
        ...


@dataclass(frozen=True, slots=True)
class MediaFilter:
    """Which media of one kind a batch run is about, and in which order; see `selection`."""

    kind: Kind
    criteria: Mapping[str, object]
    """Stash's own filter of that kind; never empty, because that would be the whole library."""
    sort: str = "id"
    descending: bool = False


class StashCollections(StashGateway, Protocol):
    """What work on many small media at once needs of Stash besides."""

    async def media(self, kind: Kind, ids: Sequence[str]) -> dict[str, Medium]:
        """Those of these media that exist, in few round trips."""
        ...

    async def gallery_image_ids(self, gallery_id: str) -> list[str]:
        """Ids of a gallery's images, ascending."""
        ...

    async def find_ids(self, wanted: MediaFilter) -> list[str]:
        """Ids of all media that fit, in the order wanted."""
        ...

    async def find_studios(self, names: Collection[str]) -> dict[str, str]:
        """Name or alias of a studio → its id; names without one are left out. Letter case is ignored."""
        ...

    def thumbnail_url(self, image_id: str) -> tuple[str, dict[str, str]]:
        """Address of Stash's small copy of an image, made when it is asked for; and headers, as `stream_url`."""
        ...


# --- analysis -------------------------------------------------------------------------------------------------


class Sampler(Protocol):
    """Where to look next. Pure: the same samples give the same wish, so a run can be replayed from the ledger."""

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        """Times to ask about, given what has been seen; nothing when done. Never repeats a seen time."""
        ...

    def planned(self, seen: Mapping[int, Sample]) -> int:
        """How many samples there will probably be in the end, `seen` included."""
        ...


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that one medium gave."""

    samples: Mapping[int, Sample]
    """Time in milliseconds → what became of it."""
    duration_ms: int
    asked: int
    """Questions asked in this run."""
    reused: int
    """Samples answered by the ledger."""
    inherited: int
    """Samples that look the same as an analysed neighbour, or are black."""
    bad_frames: int
    left_network: int
    problems: Mapping[str, int] = field(default_factory=dict)
    """Sentence about frames that were not analysed → how many."""

    @property
    def coverage(self) -> float:
        """Share of the samples that count as analysed, 0 to 1; 0 when there are none."""
        if not self.samples:
            return 0.0
        return sum(s.outcome.analysed for s in self.samples.values()) / len(self.samples)


@dataclass(frozen=True, slots=True)
class VideoJob:
    """One video to look at."""

    lane: str
    """Key of the medium among all that are worked on: 'scene 12'."""
    label: str
    """For people: 'scene 12 “Final”'."""
    identity: str
    """`MediaFile.identity`."""
    duration_ms: int | None
    """As Stash knows it; None or 0 when it does not."""
    picture: str
    """Key of the picture preparation the reader applies."""
    open_reader: Callable[[], AbstractAsyncContextManager[FrameReader]]
    """Opens the video; called at most once, and only if a frame is needed."""
    local_only: bool = False
    known_times_only: bool = False
    """Look at no moment that was not looked at before: only terms that are new to the vocabulary are asked about.
    A video that was never looked at is looked at as usual."""


class Analyzer(Protocol):
    """Looks at a video and says what is where."""

    async def analyse(self, job: VideoJob) -> Analysis:
        """Look at one video until its sampler has nothing more to ask.

        Raises:
            MediaError: no frame of it can be had.
            OutageError: the endpoints are gone; what was answered is in the ledger.
            LedgerError: answers can no longer be kept.
        """
        ...


class ProgressSink(Protocol):
    """Where progress goes. Units are questions, answered ones of the ledger included."""

    def plan(self, lane: str, planned: int) -> None:
        """Say (anew) how many questions this medium will probably take in all."""
        ...

    def done(self, lane: str, count: int = 1, *, known: bool = False) -> None:
        """Say that `count` more of them are settled; `known`: by the ledger, which says nothing about the pace."""
        ...

    def close(self, lane: str) -> None:
        """The medium is finished: whatever was planned for it counts as settled."""
        ...
