"""What is known of a video while it is looked at: answers, questions under way, pictures kept for later."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from haven_vlm.facts import Answer, Frame, Sample, Wish
from haven_vlm.likeness import same_picture
from haven_vlm.ports import Analysis, AnswerKey, PartlyKnown, VideoJob

SPARE_BYTES = 8 * 1024 * 1024
"""Most that decoded pictures kept for the next pass may take, for each video."""


class OnlyThese:
    """A `Sampler` that wants given moments and no others."""

    def __init__(self, times_ms: Sequence[int]) -> None:
        self._times_ms = times_ms

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        return Wish(now=tuple(t for t in self._times_ms if t not in seen))

    def planned(self, seen: Mapping[int, Sample]) -> int:
        return len(self._times_ms)


class Spare:
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
class Look:
    """The state of looking at one video."""

    job: VideoJob
    key: AnswerKey
    seen: dict[int, Sample]
    partly: dict[int, PartlyKnown]
    """Moments that were asked about some of the terms only."""
    severally: set[int] = field(default_factory=set)
    """Moments whose answer came with that of others in this run, from a question with several pictures."""
    coarse: set[int] = field(default_factory=set)
    """Times of the first look, as far as they were wished for."""
    instructed: set[int] = field(default_factory=set)
    """Moments whose answer was given by examples in this run."""
    waiting: list[Frame] = field(default_factory=list)
    """Frames that wait for company in their question."""
    began_s: float | None = None
    """When its first question got leave, by the engine's clock."""
    is_out_of_time: bool = False
    is_unfinished: bool = False
    """Its time was up, and something was still wanted."""
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
    spare: Spare = field(default_factory=lambda: Spare(SPARE_BYTES))
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

    def count(self, answer: Answer, *, pictures: int = 1) -> None:
        self.asked += 1
        self.left_network += pictures * answer.remote
        if pictures == 1 and not answer.outcome.analysed:
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
            is_unfinished=self.is_unfinished,
        )
