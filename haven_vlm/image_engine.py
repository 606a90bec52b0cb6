"""One image → what is in it: known answers, likeness to its neighbours, questions. Knows no Stash and no file.

Unlike a video, an image is one question or a few, so what matters is what happens between images: all share one lane
of the pool, at most as many are decoded as the endpoints can soon use, and an image that looks like one of its
neighbours (a burst, the same picture in two sizes) takes over its answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cache

from haven_vlm.errors import HavenError
from haven_vlm.facts import Answer, Frame, Kind, Outcome, Prompt, Question, Sample, Term, Wish
from haven_vlm.likeness import SAME_MEAN, is_blank, same_picture
from haven_vlm.pool_ports import Ticket, VisionPool
from haven_vlm.ports import (
    Analysis,
    AnswerKey,
    PartlyKnown,
    TermwiseAnswers,
)
from haven_vlm.settings import Settings
from haven_vlm.slicing import joined, slices
from haven_vlm_utility import first_error

LANE = "images"
"""All images of a run wait in one line: first come, first served."""

NEIGHBOURS = 128
"""Questions back that an image is compared with: more than are under way at once, few enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to look at."""

    label: str
    """For people: 'image 12 “Final”'."""
    identity: str
    """`MediaFile.identity`."""
    picture: str
    """Key of the picture preparation the reader applies."""
    read: Callable[[], Awaitable[tuple[Frame, ...]]]
    """Brings the pictures to send, at least one; called at most once, and only if they are needed.
    Raises `MediaError`."""
    single: bool
    """Surely only one picture: a known answer to it is all there is to know."""
    local_only: bool = False


class ImageEngine:
    """Looks at images; many at a time.

    Args:
        pool, store: as for videos.
        make_prompt: terms → the question; with the wording for stills.
        terms: the vocabulary.
        terms_at_once: more of them are asked in several questions.
        skip_similar: take over the answer of a neighbour that looks the same, and ask nothing about blank pictures.
        any_model: answers of any model count as known.
    """

    def __init__(
        self,
        *,
        pool: VisionPool,
        store: TermwiseAnswers,
        make_prompt: Callable[[Sequence[Term]], Prompt],
        terms: Sequence[Term],
        terms_at_once: int = 300,
        skip_similar: bool = True,
        any_model: bool = False,
    ) -> None:
        self._pool = pool
        self._store = store
        self._make_prompt = cache(make_prompt)
        self._prompt = self._make_prompt(tuple(terms))
        self._terms_at_once = terms_at_once
        self._skip_similar = skip_similar
        self._any_model = any_model
        self._to_come = 0
        self._neighbours: deque[_Neighbour] = deque(maxlen=NEIGHBOURS)

    def expect(self, images: int) -> None:
        """Say how many more images will be looked at."""
        self._to_come += images
        self._pool.expect(LANE, self._to_come)

    def skip(self) -> None:
        """One of the images that were expected will not be looked at after all, or needs no question."""
        self._to_come = max(0, self._to_come - 1)
        self._pool.expect(LANE, self._to_come)

    def close(self) -> None:
        """Nothing more will be looked at."""
        self._to_come = 0
        self._pool.close_lane(LANE)

    async def look(self, job: ImageJob) -> Analysis:
        """Find out what is in one image.

        Raises:
            MediaError: no picture of it can be had.
            OutageError: the endpoints are gone; what was answered is in the ledger.
            LedgerError: answers can no longer be kept.
        """
        look = _Look(job, AnswerKey(job.identity, job.picture, self._prompt))
        try:
            known = await self._store.known_partly(look.key, None if self._any_model else self._pool.models)
            whole = {at_ms: k.sample for at_ms, k in known.items() if not k.missing}
            look.partly = {at_ms: k for at_ms, k in known.items() if k.missing}
            if job.single and 0 in whole:
                look.reuse(whole[0])
                return look.analysis()
            async with AsyncExitStack() as stack:
                ticket = await stack.enter_async_context(self._ticket(look))
                frames = await job.read()
                for frame in frames:
                    if frame.at_ms in whole:
                        look.reuse(whole[frame.at_ms])
                await self._answer(look, [f for f in frames if f.at_ms not in whole], ticket, stack)
            return look.analysis()
        finally:
            self.skip()

    async def _answer(self, look: _Look, frames: Sequence[Frame], ticket: Ticket, stack: AsyncExitStack) -> None:
        """Settle these pictures; the first question uses the ticket, which is given back before anything waits."""
        to_ask: list[tuple[Frame, _Neighbour | None]] = []
        alike: list[tuple[Frame, _Neighbour]] = []
        for frame in frames:
            if frame.at_ms in look.partly or not self._skip_similar:
                to_ask.append((frame, None))  # half an answer is worth more than a neighbour's
            elif is_blank(frame.luma):
                await self._inherit(look, frame, Sample(0, 0, Outcome.NONE))
            elif (leader := self._like(frame)) is not None:
                alike.append((frame, leader))
            else:
                to_ask.append((frame, self._lead(frame)))
        try:
            if to_ask:
                async with asyncio.TaskGroup() as tasks:
                    for frame, leader in to_ask[1:]:
                        tasks.create_task(self._ask_apart(look, frame, leader))
                    await self._ask(look, *to_ask[0], ticket, stack)
            await stack.aclose()
            for frame, leader in alike:
                settled = await asyncio.shield(leader.sample)
                if settled is not None and settled.outcome.analysed:
                    await self._inherit(look, frame, settled)
                else:
                    await self._ask_apart(look, frame, None)
        except BaseExceptionGroup as group:
            raise first_error(group, HavenError) from None
        finally:
            for _, own in to_ask:
                if own is not None and not own.sample.done():
                    own.sample.set_result(None)  # whoever waits for it asks itself

    async def _ask_apart(self, look: _Look, frame: Frame, leader: _Neighbour | None) -> None:
        async with AsyncExitStack() as stack:
            ticket = await stack.enter_async_context(self._ticket(look))
            await self._ask(look, frame, leader, ticket, stack)

    async def _ask(
        self, look: _Look, frame: Frame, leader: _Neighbour | None, ticket: Ticket, stack: AsyncExitStack
    ) -> None:
        """Ask about one picture; `stack` holds the ticket."""
        partly = look.partly.get(frame.at_ms)
        sample = Sample(frame.at_ms, frame.shown_ms, Outcome.NONE, partly.sample.tags if partly else {})
        for number, terms in enumerate(slices(partly.missing if partly else self._prompt.terms, self._terms_at_once)):
            if number:  # whoever waits for leave must not hold any
                await stack.aclose()
                ticket = await stack.enter_async_context(self._ticket(look))
            answer = await self._ask_terms(look, frame, terms, ticket)
            sample = joined(sample, answer)
            if not answer.outcome.analysed:
                break  # what the other slices answered is in the ledger
        if leader is not None:
            leader.sample.set_result(sample)
        look.settle(sample)

    def _ticket(self, look: _Look) -> AbstractAsyncContextManager[Ticket]:
        return self._pool.ticket(LANE, local_only=look.job.local_only, kind=Kind.IMAGE)

    async def _ask_terms(self, look: _Look, frame: Frame, terms: tuple[Term, ...], ticket: Ticket) -> Answer:
        """One question about some of the vocabulary."""
        prompt = self._make_prompt(terms)
        answer = await ticket.ask(Question(prompt, (frame.jpeg,), look.job.local_only, look.job.label))
        key = replace(look.key, prompt=prompt)
        await self._store.record(key, at_ms=frame.at_ms, shown_ms=frame.shown_ms, answer=answer)
        look.count(answer)
        return answer

    async def _inherit(self, look: _Look, frame: Frame, source: Sample) -> None:
        sample = replace(source, at_ms=frame.at_ms, shown_ms=frame.shown_ms, inherited_from_ms=frame.at_ms)
        await self._store.record_inherited(look.key, sample=sample)
        look.inherited += 1
        look.settle(sample)

    # --- neighbours -------------------------------------------------------------------------------------------

    def _like(self, frame: Frame) -> _Neighbour | None:
        """The latest neighbour that shows the same picture in the same shape.

        Pictures are compared with those that were really asked about, so likeness cannot drift along a chain.
        """
        light = sum(frame.luma)
        for other in reversed(self._neighbours):
            # the means of two pictures differ by no more than the mean of their differences
            near = abs(other.light - light) <= SAME_MEAN * len(frame.luma)
            if near and other.shape == _shape(frame) and same_picture(other.luma, frame.luma):
                return other
        return None

    def _lead(self, frame: Frame) -> _Neighbour:
        neighbour = _Neighbour(frame.luma, sum(frame.luma), _shape(frame), asyncio.get_running_loop().create_future())
        self._neighbours.append(neighbour)
        return neighbour


@dataclass(frozen=True, slots=True)
class _Neighbour:
    luma: bytes
    light: int
    shape: int
    sample: asyncio.Future[Sample | None]
    """Its answer; None when there will be none."""


def _shape(frame: Frame) -> int:
    """Ratio of the sides, in twentieths: the grey values alone do not tell a square from a strip."""
    return round(20 * frame.width_px / frame.height_px)


@dataclass(slots=True)
class _Look:
    """The state of looking at one image."""

    job: ImageJob
    key: AnswerKey
    partly: dict[int, PartlyKnown] = field(default_factory=dict)
    samples: dict[int, Sample] = field(default_factory=dict)
    asked: int = 0
    reused: int = 0
    inherited: int = 0
    left_network: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def settle(self, sample: Sample) -> None:
        self.samples[sample.at_ms] = sample

    def reuse(self, sample: Sample) -> None:
        self.reused += 1
        self.settle(sample)

    def count(self, answer: Answer) -> None:
        self.asked += 1
        self.left_network += answer.remote
        if not answer.outcome.analysed:
            self.problems[answer.detail or str(answer.outcome)] += 1

    def analysis(self) -> Analysis:
        samples: Mapping[int, Sample] = dict(sorted(self.samples.items()))
        return Analysis(
            samples=samples,
            duration_ms=max(samples, default=0),
            asked=self.asked,
            reused=self.reused,
            inherited=self.inherited,
            bad_frames=0,
            left_network=self.left_network,
            problems=dict(self.problems),
        )


class Moments:
    """A `Sampler` of a few moments, evenly spread: for clips, whose markers nobody asks for."""

    def __init__(self, duration_ms: int, count: int) -> None:
        self._times_ms = sorted({(2 * n + 1) * max(0, duration_ms) // (2 * count) for n in range(count)})

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        """See `Sampler.wish`."""
        return Wish(now=tuple(t for t in self._times_ms if t not in seen))

    def planned(self, seen: Mapping[int, Sample]) -> int:
        """See `Sampler.planned`."""
        return len({*self._times_ms, *seen})


def union(samples: Iterable[Sample], settings: Settings) -> dict[str, float]:
    """The tags an image has: those that count in any of its pictures, with their highest confidence. Pure.

    Within each picture the rules are those of a video at one moment: thresholds; what a tag implies holds too; of an
    exclusive group only the surest stays, else the one named first; and a tag goes when something it implies has lost.
    """
    best: dict[str, float] = {}
    for sample in samples:
        if sample.outcome.analysed:
            for name, sure in _holding(sample.tags, settings).items():
                best[name] = max(sure, best.get(name, 0.0))
    return best


def _holding(tags: Mapping[str, float], settings: Settings) -> dict[str, float]:
    limits = {t.name: settings.threshold if t.threshold is None else t.threshold for t in settings.tuned_tags}
    found = _implied({n: c for n, c in tags.items() if n in limits and c >= limits[n]}, settings.implications)
    for group in settings.exclusive_groups:
        rivals = [name for name in dict.fromkeys(group) if name in found]
        for name in sorted(rivals, key=lambda n: (-found[n], group.index(n)))[1:]:
            del found[name]
    while unfounded := [n for n in found if not found.keys() >= set(settings.implications.get(n, ()))]:
        for name in unfounded:
            del found[name]
    return found


def _implied(found: Mapping[str, float], implications: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What is found, and what follows from it, over several steps; as sure as what it follows from."""
    whole = dict(found)
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        for other in implications.get(name, ()):
            if whole[name] > whole.get(other, -1.0):
                whole[other] = whole[name]
                waiting.append(other)
    return whole
