"""One video → what is where: reader, sampler, endpoints, ledger. Knows no Stash.

Work goes in passes over the file: all times wanted now are decoded in ascending order, and each frame is asked
about as soon as the pool gives leave, while decoding goes on. Answers are committed the moment they arrive; a
repeated run finds them in the ledger and asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import cache, cached_property

from haven_vlm.errors import HavenError, MediaUnreadable
from haven_vlm.facts import Example, Frame, Glimpse, Outcome, Prompt, Question, Sample, Term, Wish
from haven_vlm.likeness import is_blank
from haven_vlm.pool_ports import VisionPool
from haven_vlm.ports import (
    Analysis,
    AnswerKey,
    FrameReader,
    ProgressSink,
    Sampler,
    Settled,
    TermwiseAnswers,
    VideoJob,
)
from haven_vlm.prompts import with_examples
from haven_vlm.slicing import joined, slices
from haven_vlm.video_look import Look, OnlyThese
from haven_vlm_utility import clock_text, first_error

log = logging.getLogger(__name__)

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
        make_several: Callable[[Sequence[Term], int], Prompt] | None = None,
        frames_per_question: int = 1,
        terms_at_once: int = 300,
        examples: Sequence[Example] = (),
        time_limit_ms: Callable[[int], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            needs_survey: the sampler wants to see the keyframes.
            skip_similar: frames that look like their neighbour take over its answer.
            any_model: answers of any model count as known.
            make_several: terms and number of pictures → the prompt for them; None: one picture a question, always.
            frames_per_question: pictures of the coarse look that share a question, where an endpoint can.
            examples: shown with each frame of other videos than their own, where an endpoint can. Every frame then
                gets a question of its own.
            time_limit_ms: duration of a video → how long one run may work on it, from its first question on.
        """
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
        self._make_several = cache(make_several) if make_several is not None else None
        self._terms_at_once = terms_at_once
        self._examples = tuple(examples)
        # slices of a long vocabulary and several frames in one question do not go together
        self._accepts_company = make_several is not None and frames_per_question > 1 and len(terms) <= terms_at_once
        self._most = frames_per_question if self._accepts_company and not examples else 1
        self._time_limit_ms = time_limit_ms
        self._clock = clock

    async def analyse(self, job: VideoJob) -> Analysis:
        """See `Analyzer.analyse`."""
        # what several frames were asked at once is good enough where that is wanted, or where nothing else is
        in_company = self._accepts_company or job.known_times_only
        key = AnswerKey(job.identity, job.picture, self._prompt, also_in_company=in_company)
        known = await self._store.known_partly(key, None if self._any_model else self._pool.models)
        look = Look(
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

    async def _run(self, look: Look, stack: AsyncExitStack) -> None:
        job = look.job
        look.duration_ms = job.duration_ms or 0
        known_times = sorted({*look.seen, *look.partly}) if job.known_times_only else []
        reader: FrameReader | None = None
        glimpses: tuple[Glimpse, ...] | None = None
        if not known_times and (self._needs_survey or not look.duration_ms):
            reader = await stack.enter_async_context(job.open_reader())
            glimpses = await reader.survey() if self._needs_survey else None
            look.duration_ms = await _length(look.duration_ms, reader)
        sampler: Sampler = OnlyThese(known_times) if known_times else self._make_sampler(look.duration_ms, glimpses)
        known: int | None = len(look.seen)
        async with asyncio.TaskGroup() as tasks:
            while True:
                settled = look.settled
                # in a thread: a search over thousands of samples takes longer than the loop may be held up
                planned, wish = await asyncio.to_thread(_evaluated, sampler, dict(look.seen))
                look.coarse |= wish.coarse
                self._progress.plan(job.lane, planned)
                if known is not None:  # only after the plan: without one what is known would be all there is
                    self._progress.done(job.lane, known, how=Settled.KNOWN)
                    known = None
                self._pool.expect(job.lane, max(0, planned - len(look.seen) - len(look.under_way)))
                now = [t for t in wish.now if t not in look.seen and t not in look.under_way]
                is_over = self._is_out_of_time(look)
                if is_over or not now:
                    if not look.under_way and settled == look.settled:
                        look.is_unfinished = is_over and bool(now)
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
                look.bad_frames = await self._pass(look, reader, tasks, now, wish)

    async def _pass(self, look: Look, reader: FrameReader, tasks: asyncio.TaskGroup, now: list[int], wish: Wish) -> int:
        """Decode the wanted times once, in order, and set a question going for each; returns the bad frames so far."""
        stored = {t: f for t in now if (f := look.spare.take(t)) is not None}
        extra = [t for t in wish.maybe if t not in look.seen and t not in look.under_way and t not in look.spare]
        wanted = sorted({*(t for t in now if t not in stored), *extra})
        for frame in stored.values():
            await self._consider(look, frame, tasks, wish.coarse)
        missing = set(wanted) - set(extra)
        if wanted:
            try:
                async with aclosing(reader.frames(wanted)) as frames:
                    async for frame in frames:
                        if self._is_out_of_time(look):
                            missing.clear()  # they could have been decoded
                            break
                        if frame.at_ms not in missing:
                            look.spare.put(frame)
                            continue
                        missing.discard(frame.at_ms)
                        await self._consider(look, frame, tasks, wish.coarse)
            except MediaUnreadable as exc:
                if not look.seen and not look.under_way:
                    raise
                log.warning("%s: part of the file cannot be decoded: %s", look.job.label, exc)
        await self._ask_waiting(look, tasks, to_the_last=True)
        self._give_up(look, missing)
        return reader.bad_frames

    def _is_out_of_time(self, look: Look) -> bool:
        if self._time_limit_ms is not None and look.began_s is not None and not look.is_out_of_time:
            limit_ms = self._time_limit_ms(look.duration_ms)
            look.is_out_of_time = (self._clock() - look.began_s) * 1000 >= limit_ms
        return look.is_out_of_time

    def _give_up(self, look: Look, times_ms: Collection[int]) -> None:
        """Settle moments of which there is no picture."""
        for at_ms in times_ms:
            look.problems["no picture can be decoded"] += 1
            look.settle(Sample(at_ms, at_ms, Outcome.UNDECODABLE))
            self._progress.done(look.job.lane, how=Settled.FAILED)

    async def _consider(self, look: Look, frame: Frame, tasks: asyncio.TaskGroup, coarse: Collection[int] = ()) -> None:
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
        if self._most > 1 and frame.at_ms in coarse:
            look.asking(frame)
            look.waiting.append(frame)
            await self._ask_waiting(look, tasks, to_the_last=False)
        else:
            await self._start(look, frame, tasks)

    async def _ask_waiting(self, look: Look, tasks: asyncio.TaskGroup, *, to_the_last: bool) -> None:
        """Ask about the frames that wait for company, as many at once as an endpoint takes."""
        while look.waiting:
            together = min(self._most, self._pool.pictures(local_only=look.job.local_only, kind=look.job.kind))
            if len(look.waiting) < together and not to_the_last:
                return
            frames, look.waiting = look.waiting[:together], look.waiting[together:]
            if len(frames) == 1:
                await self._start(look, frames[0], tasks)
                continue
            admitted = asyncio.Event()
            tasks.create_task(self._ask_several(look, frames, tasks, admitted))
            await admitted.wait()

    async def _start(self, look: Look, frame: Frame, tasks: asyncio.TaskGroup) -> None:
        """Set a frame's question going, and go on once the pool has given leave: decoding waits here."""
        look.asking(frame)
        admitted = asyncio.Event()
        tasks.create_task(self._ask(look, frame, admitted))
        await admitted.wait()

    async def _ask(self, look: Look, frame: Frame, admitted: asyncio.Event) -> None:
        job = look.job
        partly = look.partly.get(frame.at_ms)
        sample = Sample(frame.at_ms, frame.shown_ms, Outcome.NONE, partly.sample.tags if partly else {})
        try:
            for terms in slices(partly.missing if partly else self._prompt.terms, self._terms_at_once):
                plain = self._make_prompt(terms)
                prompt = self._with_examples(plain, job)
                question = Question(prompt, (frame.jpeg,), job.local_only, f"{job.lane} at {clock_text(frame.at_ms)}")
                # the ticket is taken by the task that uses it, so that one cancelled before its start holds none
                closely = frame.at_ms not in look.coarse
                async with self._pool.ticket(
                    job.lane, local_only=job.local_only, kind=job.kind, closely=closely
                ) as ticket:
                    self._admitted(look, frame, admitted)
                    answer = await ticket.ask(question)
                key = replace(look.key, prompt=prompt if answer.examples else plain)
                await self._store.record(key, at_ms=frame.at_ms, shown_ms=frame.shown_ms, answer=answer)
                look.count(answer)
                sample = joined(sample, answer)
                if answer.examples:
                    look.instructed.add(frame.at_ms)
                if not answer.outcome.analysed:
                    break  # what the other slices answered is in the ledger
        except BaseException:
            look.under_way.discard(frame.at_ms)
            raise
        await self._settle(look, frame, sample)

    def _with_examples(self, prompt: Prompt, job: VideoJob) -> Prompt:
        """Never of the video itself: its neighbours would tell too much, and evaluating it would prove nothing."""
        return with_examples(prompt, [e for e in self._examples if e.identity != job.identity])

    def _admitted(self, look: Look, frame: Frame, admitted: asyncio.Event) -> None:
        self._progress.look(look.job.lane, frame.at_ms, frame.jpeg)
        if look.began_s is None:
            look.began_s = self._clock()
        admitted.set()

    async def _ask_several(
        self, look: Look, frames: Sequence[Frame], tasks: asyncio.TaskGroup, admitted: asyncio.Event
    ) -> None:
        """One question about several frames; those it brings no answer for are asked about again, by themselves."""
        job = look.job
        question = Question(
            self._several_prompt(len(frames)),
            tuple(f.jpeg for f in frames),
            job.local_only,
            f"{job.lane} from {clock_text(frames[0].at_ms)} to {clock_text(frames[-1].at_ms)}",
        )
        try:
            async with self._pool.ticket(job.lane, local_only=job.local_only, kind=job.kind) as ticket:
                self._admitted(look, frames[0], admitted)
                answer = await ticket.ask(question)
            each = answer.each or (answer,) * len(frames)
            good = [(f, a) for f, a in zip(frames, each, strict=True) if answer.each and a.outcome.analysed]
            key = self._several_key(look.key)
            records = (self._store.record(key, at_ms=f.at_ms, shown_ms=f.shown_ms, answer=own) for f, own in good)
            await asyncio.gather(*records)  # one commit for all
        except BaseException:
            look.under_way.difference_update(f.at_ms for f in frames)
            raise
        look.count(answer, pictures=len(frames))
        for frame, own in good:
            look.severally.add(frame.at_ms)
            await self._settle(look, frame, Sample(frame.at_ms, frame.shown_ms, own.outcome, dict(own.tags), own.model))
        again = [f for f in frames if f.at_ms not in {g.at_ms for g, _ in good}]
        together = min(self._most, self._pool.pictures(local_only=job.local_only, kind=job.kind))
        if good or together >= len(frames):
            together = 1  # it was not for their number: whatever spoils them shall not spoil others again
        if again:
            log.debug("%s: %d of %d frames get a question of their own: %s", job.lane, len(again), len(frames), answer)
        for first in range(0, len(again), together):
            some = again[first : first + together]
            if len(some) == 1:
                tasks.create_task(self._ask(look, some[0], asyncio.Event()))
            else:
                tasks.create_task(self._ask_several(look, some, tasks, asyncio.Event()))

    @cached_property
    def _several_wording(self) -> Prompt:
        return self._several_prompt(2)

    def _several_prompt(self, pictures: int) -> Prompt:
        assert self._make_several is not None
        return self._make_several(self._prompt.terms, pictures)

    def _several_key(self, key: AnswerKey) -> AnswerKey:
        """The same, for answers that came from a question with several pictures; their number does not matter."""
        return replace(key, prompt=self._several_wording)

    async def _settle(self, look: Look, frame: Frame, sample: Sample) -> None:
        """Take in a frame's answer, for those that look the same as well."""
        look.settle(sample)
        self._progress.done(look.job.lane, how=Settled.ASKED if sample.outcome.analysed else Settled.FAILED)
        if self._log_frames:
            log.info("%s at %s: %s %s", look.job.lane, clock_text(frame.at_ms), sample.outcome, dict(sample.tags))
        for follower in look.followers.pop(frame.at_ms, ()):
            if sample.outcome.analysed:
                await self._inherit(look, _inherited(follower, sample))
            else:
                look.under_way.discard(follower.at_ms)
                look.spare.put(follower)  # its neighbour has no answer: it will be asked itself

    async def _inherit(self, look: Look, sample: Sample) -> None:
        key = look.key
        if sample.inherited_from_ms in look.severally:
            key = self._several_key(key)
            look.severally.add(sample.at_ms)
        elif sample.inherited_from_ms in look.instructed:
            key = replace(key, prompt=self._with_examples(self._prompt, look.job))
            look.instructed.add(sample.at_ms)
        await self._store.record_inherited(key, sample=sample)
        look.inherited += 1
        look.settle(sample)
        self._progress.done(look.job.lane, how=Settled.INHERITED)


def _evaluated(sampler: Sampler, seen: Mapping[int, Sample]) -> tuple[int, Wish]:
    return sampler.planned(seen), sampler.wish(seen)


async def _length(known_ms: int, reader: FrameReader) -> int:
    """How long the pictures last, in milliseconds.

    Stash counts the sound too, and what lies behind the last picture is nobody's fault: the shorter length holds.
    Where neither Stash nor the container knows (raw streams, recordings that were cut off), it is read to its end.

    Raises:
        MediaUnreadable: nothing tells.
    """
    lengths = [ms for ms in (known_ms, reader.info.duration_ms or 0) if ms > 0]
    if not lengths and (measured_ms := await reader.measure()) > 0:
        lengths = [measured_ms]
    if not lengths:
        raise MediaUnreadable("its length cannot be found out: no picture of it can be decoded")
    return min(lengths)


def _inherited(frame: Frame, source: Sample) -> Sample:
    return replace(source, at_ms=frame.at_ms, shown_ms=frame.shown_ms, inherited_from_ms=source.at_ms)
