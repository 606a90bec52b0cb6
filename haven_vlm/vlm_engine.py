"""`engine: vlm-engine`: the package of that name as a second `Analyzer`. Its search and its spans, our questions.

The package runs in a process, and a Python, of its own (it needs torch); it asks through `vlm_engine_bridge`. What is
its own: which frames are looked at, how they are decoded, how spans are made. What it returns is checked: frames that
got no answer are counted at the bridge, a video of which it looked at no frame is an error, and a package that hangs is
ended. Its spans are kept in the ledger as samples, so that the same settings never run it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from haven_vlm.errors import HavenError, MediaError, MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Answer, Outcome, Prompt, Sample, Term
from haven_vlm.other_programs import bare
from haven_vlm.picture import Preparation
from haven_vlm.pool_ports import VisionPool
from haven_vlm.ports import Analysis, AnswerKey, ProgressSink, Settled, TermwiseAnswers, VideoJob
from haven_vlm.settings import Settings, TagSettings
from haven_vlm.vlm_engine_bridge import Bridge
from haven_vlm.vlm_engine_install import ISOLATED

log = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""A package that neither asks nor tells for so long, while no question of it is open, hangs."""

ENDING_S = 10.0
"""So long a process that has closed its output may take to end."""

AT_ONCE = 2
"""Processes of the package at once; each takes some hundred megabytes."""

WORKER = Path(__file__).with_name("vlm_engine_worker.py")


class VlmEngine:
    """An `Analyzer` that lets the package search.

    Args:
        pool, store, progress: as for the built-in engine.
        make_prompt: vocabulary → what is asked of each frame.
        terms: the vocabulary.
        settings: interval, threshold, limits of the tags, and the package's own options.
        preparation: how large the pictures are that go on to the models.
        python: the Python that has the package; installs it when it must.
        any_model: answers of any model count as known.
        clock, patience_s: seconds, for the watchdog.
        worker: the program that runs the package.
    """

    def __init__(
        self,
        *,
        pool: VisionPool,
        store: TermwiseAnswers,
        progress: ProgressSink,
        make_prompt: Callable[[Sequence[Term]], Prompt],
        terms: Sequence[Term],
        settings: Settings,
        preparation: Preparation,
        python: Callable[[], Awaitable[Path]],
        any_model: bool = False,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
        worker: Path = WORKER,
    ) -> None:
        self._pool, self._store, self._progress = pool, store, progress
        self._prompt = make_prompt(tuple(terms))
        self._settings = settings
        self._preparation = preparation
        self._python = python
        self._any_model = any_model
        self._clock, self._patience_s, self._worker = clock, patience_s, worker
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def analyse(self, job: VideoJob) -> Analysis:
        """See `Analyzer.analyse`."""
        request = self._request(job)
        key = AnswerKey(job.identity, f"{job.picture}:vlm-engine:{_digest(request)}", self._prompt)
        known = await self._store.known_partly(key, None if self._any_model else self._pool.models)
        samples = {at_ms: k.sample for at_ms, k in known.items() if not k.missing}
        # the moment 0 is written last: where it is known, all that the package found is
        if 0 in samples:
            self._progress.done(job.lane, len(samples), how=Settled.KNOWN)
            return Analysis(samples, job.duration_ms or max(samples), 0, len(samples), 0, 0, 0)
        if not await asyncio.to_thread(Path(job.path).is_file):
            raise MediaUnreachable(
                "vlm-engine reads files only, and the file is not on this machine. If this machine knows the folder by "
                "another path, set path_mutation, or use the built-in engine."
            )
        try:
            async with self._at_once:
                return await self._search(job, key, request)
        finally:
            self._pool.close_lane(job.lane)

    def _request(self, job: VideoJob) -> dict[str, Any]:
        """What the package is told, without what differs from run to run."""
        settings = self._settings
        length_ms = job.duration_ms or 0
        named = {term.name for term in self._prompt.terms}
        return {
            "tags": {t.name: _limits(t, settings, length_ms) for t in settings.tag_list if t.name in named},
            "interval_s": settings.video_frame_interval.ms(length_ms) / 1000,
            "threshold": settings.threshold,
            "places": 16,
            "options": dict(settings.vlm_engine.options),
        }

    async def _search(self, job: VideoJob, key: AnswerKey, request: Mapping[str, Any]) -> Analysis:
        python = await self._python()
        planned = _planned(job.duration_ms or 0, float(request["interval_s"]))
        bridge = Bridge(
            pool=self._pool,
            prompt=self._prompt,
            lane=job.lane,
            local_only=job.local_only,
            label=job.label,
            preparation=self._preparation,
            settled=lambda: self._tell(job, bridge, planned),
        )
        async with bridge:
            told = {**request, "video": job.path, "bridge": bridge.base_url, "key": bridge.key}
            found = await self._run(python, told, bridge, job)
        if bridge.ended_by is not None:
            raise bridge.ended_by
        if "error" in found:
            raise _error(str(found["error"]), bridge)
        if not bridge.asked:
            raise MediaUnreadable("vlm-engine looked at no frame of it: it cannot decode the file.")
        duration_ms = job.duration_ms or round(float(found["duration_s"]) * 1000)
        samples = samples_of(found["spans"], duration_ms, float(request["interval_s"]), bridge)
        if bridge.asked - bridge.failed < self._settings.min_coverage * bridge.asked:
            # it calls them frames without tags; which ones they were it does not say, so none of it can be trusted
            samples = {t: replace(s, outcome=Outcome.ENDPOINT_ERROR, tags={}) for t, s in samples.items()}
        else:
            await self._keep(key, samples)
        return Analysis(samples, duration_ms, bridge.asked, 0, 0, 0, bridge.left_network, dict(bridge.problems))

    def _tell(self, job: VideoJob, bridge: Bridge, planned: int) -> None:
        self._progress.plan(job.lane, max(planned, bridge.asked + 1))
        self._progress.done(job.lane)
        self._pool.expect(job.lane, max(planned - bridge.asked, 8))

    async def _keep(self, key: AnswerKey, samples: Mapping[int, Sample]) -> None:
        for at_ms in sorted(samples, reverse=True):  # 0 last
            sample = samples[at_ms]
            answer = Answer(sample.outcome, dict(sample.tags), endpoint="vlm-engine", model=sample.model)
            await self._store.record(key, at_ms=at_ms, shown_ms=at_ms, answer=answer)

    async def _run(self, python: Path, told: Mapping[str, Any], bridge: Bridge, job: VideoJob) -> dict[str, Any]:
        """The worker's last word; it is ended when it hangs, or when the run ends."""
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-u",  # what the package prints is known also when it is ended
            ISOLATED,
            str(self._worker),
            env=bare(os.environ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=64 * 2**20,
        )
        errors = asyncio.create_task(_tail(process))
        try:
            assert process.stdin
            process.stdin.write(json.dumps(told).encode() + b"\n")
            with suppress(BrokenPipeError, ConnectionResetError):
                await process.stdin.drain()
            last = await self._listen(process, bridge, job)
            if process.stdout and process.stdout.at_eof():  # so it is ending; to kill it now would lose its exit code
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), ENDING_S)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            tail = await errors
        if not last:
            code = process.returncode
            silent = f"it ended with code {code} and said nothing"
            last = {"error": f"it ended with code {code}; the last it said: {tail}" if tail else silent}
        return last

    async def _listen(self, process: asyncio.subprocess.Process, bridge: Bridge, job: VideoJob) -> dict[str, Any]:
        assert process.stdout
        asked, quiet_since = 0, self._clock()
        line = asyncio.create_task(process.stdout.readline())
        try:
            while bridge.ended_by is None:
                done, _ = await asyncio.wait({line}, timeout=min(1.0, self._patience_s))
                if not done:
                    if bridge.asked != asked or bridge.in_flight:
                        asked, quiet_since = bridge.asked, self._clock()
                    elif self._clock() - quiet_since >= self._patience_s:
                        return {"error": f"it has done nothing for {self._patience_s:.0f} seconds, and was ended"}
                    continue
                quiet_since = self._clock()
                text = line.result()
                if not text:
                    return {}
                with suppress(ValueError):
                    message = json.loads(text)
                    if isinstance(message, dict) and ("spans" in message or "error" in message):
                        return message
                line = asyncio.create_task(process.stdout.readline())
        finally:
            line.cancel()
        return {}


def samples_of(
    spans: Mapping[str, Sequence[Sequence[float]]], duration_ms: int, interval_s: float, bridge: Bridge
) -> dict[int, Sample]:
    """The package's spans as what was seen when: at the interval, and on both sides of each end.

    Args:
        spans: tag → [start_s, end_s, confidence]; both ends are moments at which the tag was seen.
        duration_ms, interval_s: of the video, and of the scan.
        bridge: which model answered most.
    """
    model = bridge.models.most_common(1)[0][0] if bridge.models else ""
    step = max(100, round(interval_s * 1000))
    times = set(range(0, duration_ms, step))
    exact = {
        tag: [(round(start * 1000), round(end * 1000), confidence) for start, end, confidence in found]
        for tag, found in spans.items()
    }
    for found in exact.values():
        for start, end, _ in found:
            times |= {t for t in (start - 1, start, end, end + 1) if 0 <= t < duration_ms}
    samples = {}
    for t in sorted(times | {0}):
        tags = {tag: c for tag, found in exact.items() for start, end, c in found if start <= t <= end}
        samples[t] = Sample(t, t, Outcome.TAGS if tags else Outcome.NONE, tags, model)
    return samples


def _limits(tag: TagSettings, settings: Settings, length_ms: int) -> dict[str, Any]:
    """A tag's limits in the package's own words; a shortest marker of 0 would mean none at all there."""
    shortest = (tag.min_marker_duration or settings.min_marker_duration).ms(length_ms) / 1000
    required = (tag.required_duration or settings.required_duration).ms(length_ms) / 1000
    gap = (tag.max_gap or settings.max_gap).ms(length_ms) / 1000
    return {
        "TagThreshold": settings.threshold if tag.threshold is None else tag.threshold,
        "MinMarkerDuration": f"{max(shortest, 0.001):.3f}s",
        "MaxGap": f"{gap:.3f}s",
        "RequiredDuration": f"{max(required, 0.001):.3f}s",
    }


def _planned(duration_ms: int, interval_s: float) -> int:
    """Questions it will roughly ask: measured, it asks four to six times what a scan does."""
    return max(1, 5 * math.ceil(duration_ms / 1000 / max(interval_s, 0.1)))


def _digest(request: Mapping[str, Any]) -> str:
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _error(text: str, bridge: Bridge) -> HavenError:
    reason = f"vlm-engine gave up: {text.strip().splitlines()[-1][:300]}"
    if not bridge.asked:
        return MediaUnreadable(f"{reason} (it looked at no frame)")
    return MediaError(reason)


async def _tail(process: asyncio.subprocess.Process) -> str:
    """The last line the package logged; the whole of it goes to the debug log."""
    assert process.stderr
    last = ""
    while line := await process.stderr.readline():
        text = line.decode("utf-8", "replace").strip()
        if text:
            last = text
            log.debug("vlm-engine: %s", text)
    return last
