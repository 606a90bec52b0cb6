"""The seams: what one part may expect of another. Implementations live elsewhere; tests share one suite per port.

Those to the endpoints are in `pool_ports`, those to Stash in `stash_ports`.

Everything async runs on the one event loop. Blocking work (decoding, SQLite, stashapp-tools) sits behind
these ports in threads of its own, so that the loop is never held up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from haven_vlm.facts import (
    Answer,
    Frame,
    Glimpse,
    Kind,
    Prompt,
    Sample,
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

    def measure(self) -> int:
        """Milliseconds from the first picture to the end of the last, found by reading to the end; 0: none is there.

        For media whose container does not know its length.
        """
        ...


class FrameReader(AbstractAsyncContextManager["FrameReader"], Protocol):
    """A `FrameSource` driven from the event loop: own thread, bounded queue, watchdog per read."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def bad_frames(self) -> int: ...

    def frames(self, wanted_ms: Sequence[int], *, snap_ms: int = 0) -> AsyncGenerator[Frame]:
        """As `FrameSource.frames`; decoding runs at most a few frames ahead of the consumer."""
        ...

    async def survey(self) -> tuple[Glimpse, ...]: ...

    async def measure(self) -> int: ...


class FetchBytes(Protocol):
    """Brings a whole file from Stash over HTTP."""

    async def __call__(self, url: str, headers: Mapping[str, str], *, limit_bytes: int) -> bytes:
        """The file's bytes.

        Raises:
            MediaUnreachable: Stash does not answer, wants a login, or says no; the sentence says which.
            MediaUnreadable: it is larger than the limit.
        """
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
    also_in_company: bool = False
    """Answers from questions with several pictures count, too, where there is none about the picture alone."""
    with_examples: bool | None = None
    """True: only answers of models that were shown examples, whichever; False: only other ones; None: either, so that
    nothing is asked twice because the examples have changed."""


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
    is_unfinished: bool = False
    """Its time was up before everything wanted was asked; another run goes on from there."""

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
    kind: Kind = Kind.SCENE
    """`IMAGE` for a clip among the images: some endpoints may be reserved for these."""
    path: str = ""
    """The file as this machine names it, for an engine that opens it itself; it need not be there."""


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


class Settled(StrEnum):
    """How a question was settled."""

    ASKED = "asked"
    """An endpoint answered."""
    KNOWN = "known"
    """The ledger knew; says nothing about the pace."""
    INHERITED = "inherited"
    """Like an answered neighbour, or blank."""
    FAILED = "failed"
    """Not analysed: no picture, or no usable answer."""


class ProgressSink(Protocol):
    """Where progress goes. Units are questions, answered ones of the ledger included."""

    def plan(self, lane: str, planned: int) -> None:
        """Say (anew) how many questions this medium will probably take in all."""
        ...

    def done(self, lane: str, count: int = 1, *, how: Settled = Settled.ASKED) -> None:
        """Say that `count` more of them are settled, and how."""
        ...

    def look(self, lane: str, at_ms: int, jpeg: bytes | None) -> None:
        """Say what is being asked about; `jpeg` is None when the picture is not at hand."""
        ...

    def close(self, lane: str) -> None:
        """The medium is finished: whatever was planned for it counts as settled."""
        ...
