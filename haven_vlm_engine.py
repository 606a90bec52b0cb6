"""One video → what is where: reader, sampler, endpoints, ledger. Knows no Stash.

Work goes in passes over the file: all times wanted now are decoded in ascending order, and each frame is asked
about as soon as the pool gives leave, while decoding goes on. Answers are committed the moment they arrive; a
repeated run finds them in the ledger and asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cache

from haven_vlm.errors import HavenError, MediaUnreadable
from haven_vlm.facts import Answer, Frame, Glimpse, Outcome, Prompt, Question, Sample, Term, Wish
from haven_vlm.likeness import is_blank, same_picture
from haven_vlm.pool_ports import VisionPool
from haven_vlm.ports import (
    Analysis,
    AnswerKey,
    FrameReader,
    PartlyKnown,
    ProgressSink,
    Sampler,
    TermwiseAnswers,
    VideoJob,
)
from haven_vlm_utility import clock_text, first_error

log = logging.getLogger(__name__)

SPARE_BYTES = 8 * 1024 * 1024
"""Most that decoded pictures kept for the next pass may take, for each video."""

SamplerFactory = Callable[[int, tuple[Glimpse, ...] | None], Sampler]
"""Duration in milliseconds and (if `needs_survey`) the keyframes → where to look."""


class BuiltInEngine:
    """The connector's own `Analyzer`."""

    def __init__(
        self,
        *,
        pool: VisionPool,
        store: TermwiseAnswers,
        make_prompt: Callable[[Sequence[Term]], Prompt],
        terms: Sequence[Term],
        make_sampler: SamplerFactory,
        progress: ProgressSink,
        needs_survey: bool = False,
        skip_similar: bool = True,
        any_model: bool = False,
        log_frames: bool = False,
    ) -> None:
        self._pool = pool
        self._store = store
        self._make_prompt = cache(make_prompt)
        self._prompt = self._make_prompt(tuple(terms))
        self._make_sampler = make_sampler
        self._progress = progress
        self._needs_survey = needs_survey
        self._skip_similar = skip_similar
        self._any_model = any_model
        self._log_frames = log_frames

    async def analyse(self, job: VideoJob) -> Analysis:
        """See `Analyzer.analyse`."""
        key = AnswerKey(job.identity, job.picture, self._prompt)
        known = await self._store.known_partly(key, None if self._any_model else self._pool.models)
        look = _Look(
            job=job,
            key=key,
            seen={at_ms: k.sample for at_ms, k in known.items() if not k.missing},
            partly={at_ms: k for at_ms, k in known.items() if k.missing},
        )
        look.reused = len(look.seen)
        try:
            async with AsyncExitStack() as stack:
                stack.callback(self._pool.close_lane, job.lane)
                await self._run(look, stack)
        except BaseExceptionGroup as group:
            # one outage reaches many questions at once; one sentence will do
            raise first_error(group, HavenError) from None
        return look.analysis()

    async def _run(self, look: _Look, stack: AsyncExitStack) -> None:
        job = look.job
        look.duration_ms = job.duration_ms or 0
        known_times = sorted({*look.seen, *look.partly}) if job.known_times_only else []
        reader: FrameReader | None = None
        glimpses: tuple[Glimpse, ...] | None = None
        if not known_times and (self._needs_survey or not look.duration_ms):
            reader = await stack.enter_async_context(job.open_reader())
            glimpses = await reader.survey() if self._needs_survey else None
            look.duration_ms = await _length(look.duration_ms, reader)
        sampler: Sampler = _OnlyThese(known_times) if known_times else self._make_sampler(look.duration_ms, glimpses)
        self._progress.done(job.lane, len(look.seen), known=True)
        async with asyncio.TaskGroup() as tasks:
            while True:
                settled = look.settled
                # in a thread: a search over thousands of samples takes longer than the loop may be held up
                planned, wish = await asyncio.to_thread(_evaluated, sampler, dict(look.seen))
                self._progress.plan(job.lane, planned)
                self._pool.expect(job.lane, max(0, planned - len(look.seen) - len(look.under_way)))
                now = [t for t in wish.now if t not in look.seen and t not in look.under_way]
                if not now:
                    if not look.under_way and settled == look.settled:
                        return
                    await look.wait_for_change(settled)
                    continue
                if reader is None:
                    reader = await stack.enter_async_context(job.open_reader())
                    length_ms = await _length(look.duration_ms, reader)
                    if length_ms != look.duration_ms and not known_times:
                        look.duration_ms = length_ms
                        sampler = self._make_sampler(length_ms, glimpses)
                        continue
                look.bad_frames = await self._pass(look, reader, tasks, now, wish.maybe)

    async def _pass(
        self, look: _Look, reader: FrameReader, tasks: asyncio.TaskGroup, now: list[int], maybe: tuple[int, ...]
    ) -> int:
        """Decode the wanted times once, in order, and set a question going for each; returns the bad frames so far."""
        stored = {t: f for t in now if (f := look.spare.take(t)) is not None}
        extra = [t for t in maybe if t not in look.seen and t not in look.under_way and t not in look.spare]
        wanted = sorted({*(t for t in now if t not in stored), *extra})
        for frame in stored.values():
            await self._consider(look, frame, tasks)
        missing = set(wanted) - set(extra)
        if wanted:
            frames = reader.frames(wanted)
            try:
                async for frame in frames:
                    if frame.at_ms not in missing:
                        look.spare.put(frame)
                        continue
                    missing.discard(frame.at_ms)
                    await self._consider(look, frame, tasks)
            except MediaUnreadable as exc:
                if not look.seen and not look.under_way:
                    raise
                log.warning("%s: part of the file cannot be decoded: %s", look.job.label, exc)
        self._give_up(look, missing)
        return reader.bad_frames

    def _give_up(self, look: _Look, times_ms: Collection[int]) -> None:
        """Settle moments of which there is no picture."""
        for at_ms in times_ms:
            look.problems["no picture can be decoded"] += 1
            look.settle(Sample(at_ms, at_ms, Outcome.UNDECODABLE))
            self._progress.done(look.job.lane)

    async def _consider(self, look: _Look, frame: Frame, tasks: asyncio.TaskGroup) -> None:
        """Answer a frame without a question if it looks like its neighbour or is black; else ask."""
        if frame.at_ms in look.partly:
            await self._start(look, frame, tasks)  # half an answer is worth more than a neighbour's
            return
        if frame.corrupt:
            if is_blank(frame.luma):  # the grey a decoder paints where it has nothing
                self._give_up(look, [frame.at_ms])
            else:
                await self._start(look, frame, tasks)
            return
        if self._skip_similar and is_blank(frame.luma):
            await self._inherit(look, Sample(frame.at_ms, frame.shown_ms, Outcome.NONE, inherited_from_ms=frame.at_ms))
            return
        if self._skip_similar and (leader := look.alike(frame)) is not None:
            settled = look.seen.get(leader)
            if settled is None:
                look.follow(leader, frame)
                return
            if settled.outcome.analysed:
                await self._inherit(look, _inherited(frame, settled))
                return
        await self._start(look, frame, tasks)

    async def _start(self, look: _Look, frame: Frame, tasks: asyncio.TaskGroup) -> None:
        """Set a frame's question going, and go on once the pool has given leave: decoding waits here."""
        look.asking(frame)
        admitted = asyncio.Event()
        tasks.create_task(self._ask(look, frame, admitted))
        await admitted.wait()

    async def _ask(self, look: _Look, frame: Frame, admitted: asyncio.Event) -> None:
        job = look.job
        partly = look.partly.get(frame.at_ms)
        prompt = self._make_prompt(partly.missing) if partly else self._prompt
        question = Question(prompt, (frame.jpeg,), job.local_only, f"{job.lane} at {clock_text(frame.at_ms)}")
        try:
            # the ticket is taken by the task that uses it, so that one cancelled before its start holds none
            async with self._pool.ticket(job.lane, local_only=job.local_only, kind=job.kind) as ticket:
                admitted.set()
                answer = await ticket.ask(question)
            key = replace(look.key, prompt=prompt)
            await self._store.record(key, at_ms=frame.at_ms, shown_ms=frame.shown_ms, answer=answer)
        except BaseException:
            look.under_way.discard(frame.at_ms)
            raise
        look.count(answer)
        tags, outcome = dict(answer.tags), answer.outcome
        if partly and outcome.analysed:  # the new terms' answer joins what is known of the others
            tags = {**partly.sample.tags, **tags}
            outcome = Outcome.TAGS if tags else Outcome.NONE
        sample = Sample(frame.at_ms, frame.shown_ms, outcome, tags, answer.model)
        look.settle(sample)
        self._progress.done(look.job.lane)
        if self._log_frames:
            log.info("%s at %s: %s %s", look.job.lane, clock_text(frame.at_ms), answer.outcome, dict(answer.tags))
        for follower in look.followers.pop(frame.at_ms, ()):
            if sample.outcome.analysed:
                await self._inherit(look, _inherited(follower, sample))
            else:
                look.under_way.discard(follower.at_ms)
                look.spare.put(follower)  # its neighbour has no answer: it will be asked itself

    async def _inherit(self, look: _Look, sample: Sample) -> None:
        await self._store.record_inherited(look.key, sample=sample)
        look.inherited += 1
        look.settle(sample)
        self._progress.done(look.job.lane)


def _evaluated(sampler: Sampler, seen: Mapping[int, Sample]) -> tuple[int, Wish]:
    return sampler.planned(seen), sampler.wish(seen)


async def _length(known_ms: int, reader: FrameReader) -> int:
    """How long the pictures last, in milliseconds.

    Stash counts the sound too, and what lies behind the last picture is nobody's fault: the shorter length holds.
    Where neither Stash nor the container knows (raw streams, recordings that were cut off), the last keyframe tells.

    Raises:
        MediaUnreadable: nothing tells.
    """
    lengths = [ms for ms in (known_ms, reader.info.duration_ms or 0) if ms > 0]
    if not lengths:
        lengths = [glimpse.at_ms + 1 for glimpse in (await reader.survey())[-1:]]
    if not lengths:
        raise MediaUnreadable("its length cannot be found out: no picture of it can be decoded")
    return min(lengths)


def _inherited(frame: Frame, source: Sample) -> Sample:
    return replace(source, at_ms=frame.at_ms, shown_ms=frame.shown_ms, inherited_from_ms=source.at_ms)


class _OnlyThese:
    """A `Sampler` that wants given moments and no others."""

    def __init__(self, times_ms: Sequence[int]) -> None:
        self._times_ms = times_ms

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        return Wish(now=tuple(t for t in self._times_ms if t not in seen))

    def planned(self, seen: Mapping[int, Sample]) -> int:
        return len(self._times_ms)


class _Spare:
    """Decoded pictures that may be wanted in the next pass, bounded in bytes; the oldest go first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._bytes = 0

    def __contains__(self, at_ms: int) -> bool:
        return at_ms in self._frames

    def put(self, frame: Frame) -> None:
        if frame.at_ms in self._frames:
            return
        self._frames[frame.at_ms] = frame
        self._bytes += len(frame.jpeg)
        while self._bytes > self._limit:
            _, dropped = self._frames.popitem(last=False)
            self._bytes -= len(dropped.jpeg)

    def take(self, at_ms: int) -> Frame | None:
        frame = self._frames.pop(at_ms, None)
        if frame is not None:
            self._bytes -= len(frame.jpeg)
        return frame


@dataclass(slots=True)
class _Look:
    """The state of looking at one video."""

    job: VideoJob
    key: AnswerKey
    seen: dict[int, Sample]
    partly: dict[int, PartlyKnown]
    """Moments that were asked about some of the terms only."""
    reused: int = 0
    duration_ms: int = 0
    settled: int = 0
    """Samples settled so far, whatever came of them."""
    asked: int = 0
    inherited: int = 0
    left_network: int = 0
    bad_frames: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    under_way: set[int] = field(default_factory=set)
    """Times that are being asked about, or wait for their leader's answer."""
    followers: dict[int, list[Frame]] = field(default_factory=dict)
    spare: _Spare = field(default_factory=lambda: _Spare(SPARE_BYTES))
    _lumas: dict[int, bytes] = field(default_factory=dict)
    _luma_times: list[int] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def asking(self, frame: Frame) -> None:
        self.under_way.add(frame.at_ms)
        if frame.at_ms not in self._lumas:
            insort(self._luma_times, frame.at_ms)
        self._lumas[frame.at_ms] = frame.luma
        if len(self._lumas) > 4096:  # two hours at 2 s; what is dropped costs a question, never an answer
            del self._lumas[self._luma_times.pop(0)]

    def alike(self, frame: Frame) -> int | None:
        """The nearest asked frame on either side that looks the same.

        Frames are compared with frames that were really asked, so likeness cannot drift along a chain.
        """
        position = bisect_left(self._luma_times, frame.at_ms)
        sides = self._luma_times[max(0, position - 1) : position + 1]
        for leader in sorted(sides, key=lambda t: abs(t - frame.at_ms)):
            if same_picture(self._lumas[leader], frame.luma):
                return leader
        return None

    def follow(self, leader: int, frame: Frame) -> None:
        self.under_way.add(frame.at_ms)
        self.followers.setdefault(leader, []).append(frame)

    def count(self, answer: Answer) -> None:
        self.asked += 1
        self.left_network += answer.remote
        if not answer.outcome.analysed:
            self.problems[answer.detail or str(answer.outcome)] += 1

    def settle(self, sample: Sample) -> None:
        self.under_way.discard(sample.at_ms)
        self.seen[sample.at_ms] = sample
        self.settled += 1
        self._changed.set()

    async def wait_for_change(self, since: int) -> None:
        """Wait until enough has been settled since then that looking for new wishes is worth its cost."""
        enough = since + max(1, len(self.under_way) // 4)
        while self.settled < enough and self.under_way:
            self._changed.clear()
            await self._changed.wait()

    def analysis(self) -> Analysis:
        samples: Mapping[int, Sample] = dict(sorted(self.seen.items()))
        return Analysis(
            samples=samples,
            duration_ms=self.duration_ms or max(samples, default=0),
            asked=self.asked,
            reused=self.reused,
            inherited=self.inherited,
            bad_frames=self.bad_frames,
            left_network=self.left_network,
            problems=dict(self.problems),
        )
