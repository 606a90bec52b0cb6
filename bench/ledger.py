"""The ledger under load: millions of answers, and what each of them costs.

    python -m bench.ledger [--answers 5000000] [--folder /tmp/…]

Prints a table, and as its last line the same figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from haven_vlm.facts import Answer, Outcome, Term
from haven_vlm.journal import Journal
from haven_vlm.journal_answers import AnswerWriter, row_of
from haven_vlm.ports import AnswerKey
from haven_vlm.prompts import build_prompt

FRAMES = 500
"""Answers for each scene: a quarter of an hour at an interval of two seconds."""

TERMS = tuple(Term(name, f"One sees a {name.lower()}.") for name in (
    "Dunk", "Layup", "Free throw", "Three-pointer", "Block", "Steal", "Foul", "Rebound", "Pass", "Time-out",
))  # fmt: skip
MODELS = frozenset({"seer-7b"})


def key(scene: int, prompt_terms: tuple[Term, ...] = TERMS) -> AnswerKey:
    """The key of one scene."""
    return AnswerKey(f"oshash:{scene:016x}:{scene * 7919 + 10**8}", "640q85v1", build_prompt(prompt_terms))


def answers(scene: int) -> Iterator[tuple[int, Answer]]:
    """Plausible answers: a third without tags, the others with one or two; a few with a confidence."""
    chance = random.Random(scene)
    for frame in range(FRAMES):
        names = chance.sample([t.name for t in TERMS], chance.choice([0, 1, 1, 1, 2, 0]))
        tags = {name: 1.0 if chance.random() < 0.9 else round(chance.random(), 4) for name in names}
        outcome = Outcome.TAGS if tags else Outcome.NONE
        yield frame * 2000, Answer(outcome, tags, "attic", "seer-7b", raw='{"tags":[]}')


async def fill(path: Path, first: int, scenes: int) -> float:
    """Put whole scenes in, eight side by side as a run does; returns seconds."""
    started = time.perf_counter()
    async with Journal(path) as journal:
        writer = AnswerWriter()

        def store(db: sqlite3.Connection) -> None:
            writer.forget()
            streams = [(key(s), answers(s)) for s in batch]
            for group in zip(*(stream for _, stream in streams), strict=True):
                for (one, _), (at_ms, answer) in zip(streams, group, strict=True):
                    row = row_of(one, at_ms=at_ms, shown_ms=at_ms - at_ms % 41, answer=answer)
                    writer.store(db, one, answer.model, row, today=20000)

        for start in range(first, first + scenes, 8):
            batch = range(start, min(start + 8, first + scenes))
            await journal._file.write(store)
    return time.perf_counter() - started


async def opening(path: Path) -> float:
    """Median seconds to open, of five times; each open checks the file."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        async with Journal(path):
            times.append(time.perf_counter() - started)
    return sorted(times)[2]


async def look_up(path: Path, scenes: int, count: int) -> float:
    """Milliseconds to read what is known of one scene, median of scenes at random."""
    chance = random.Random(1)
    times = []
    async with Journal(path) as journal:
        for _ in range(count):
            one = key(chance.randrange(scenes))
            started = time.perf_counter()
            known = await journal.known(one, MODELS)
            times.append(time.perf_counter() - started)
            assert len(known) == FRAMES
    return sorted(times)[len(times) // 2] * 1000


async def record_rate(path: Path, lanes: int, per_lane: int) -> float:
    """Answers a second, each acknowledged on disk before its lane sends the next."""
    async with Journal(path) as journal:

        async def lane(number: int) -> None:
            one = key(10**9 + number)
            for at_ms, answer in list(answers(number))[:per_lane]:
                await journal.record(one, at_ms=at_ms, shown_ms=at_ms, answer=answer)

        started = time.perf_counter()
        await asyncio.gather(*(lane(n) for n in range(lanes)))
        return lanes * per_lane / (time.perf_counter() - started)


class Watch:
    """How long the event loop was held up at most, in milliseconds; on a busy machine also by others."""

    def __init__(self) -> None:
        self.held_ms = 0.0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _look(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.held_ms = max(self.held_ms, (time.perf_counter() - before - 0.001) * 1000)


async def re_threshold(path: Path, scenes: int) -> tuple[float, float, float]:
    """Read all samples of many scenes, under the vocabulary as it was, and with one term more.

    Returns scenes a second for both, and how long the loop was held up.
    """
    more = (*TERMS, Term("Alley-oop"))
    async with Journal(path) as journal, Watch() as watch:
        started = time.perf_counter()
        for scene in range(scenes):
            assert len(await journal.known(key(scene), MODELS)) == FRAMES
        same = scenes / (time.perf_counter() - started)
        started = time.perf_counter()
        for scene in range(scenes // 5):
            groups = await journal.missing_terms(key(scene, more), MODELS, range(0, FRAMES * 2000, 2000))
            assert [len(times) for times in groups.values()] == [FRAMES]
        changed = scenes // 5 / (time.perf_counter() - started)
    return same, changed, watch.held_ms


async def main(total: int, folder: Path) -> None:
    """Measure at a tenth of the answers and at all of them."""
    path = folder / "ledger.sqlite3"
    figures: dict[str, float] = {}
    scenes = total // FRAMES
    done = 0
    print(f"{'answers':>12} {'size':>10} {'a frame':>9} {'open':>9} {'look-up':>9}")
    for goal in sorted({max(1, scenes // 100), max(1, scenes // 10), scenes}):
        seconds = await fill(path, done, goal - done)
        rate = (goal - done) * FRAMES / seconds
        done = goal
        size = path.stat().st_size
        opened, looked = await opening(path), await look_up(path, done, 200)
        count = done * FRAMES
        print(f"{count:12,} {size / 1e6:7.1f} MB {size / count:6.1f} B {opened * 1000:6.1f} ms {looked:6.2f} ms")
        figures |= {
            f"size_mb_{count}": size / 1e6,
            f"bytes_per_answer_{count}": size / count,
            f"open_ms_{count}": opened * 1000,
            f"look_up_ms_{count}": looked,
        }
    figures["bulk_answers_per_s"] = rate
    for lanes in (1, 16, 256):
        figures[f"record_per_s_{lanes}"] = await record_rate(path, lanes, 400 if lanes < 256 else 100)
        print(f"recorded, {lanes} at a time: {figures[f'record_per_s_{lanes}']:,.0f} answers/s, each on disk")
    same, changed, held = await re_threshold(path, min(1000, scenes))
    print(f"re-read for new thresholds: {same:,.0f} scenes/s ({same * FRAMES:,.0f} samples/s)")
    print(f"what a new tag is missing at: {changed:,.0f} scenes/s")
    async with Watch() as idle:
        await asyncio.sleep(5)
    print(f"the loop was held up {held:.1f} ms at most; doing nothing at all, {idle.held_ms:.1f} ms")
    figures |= {"re_threshold_scenes_per_s": same, "missing_terms_scenes_per_s": changed, "loop_held_up_ms": held}
    figures["loop_held_up_idle_ms"] = idle.held_ms
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"peak memory of all this: {figures['peak_memory_mb']:.0f} MB")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    chosen: Path = options.folder or Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    try:
        asyncio.run(main(options.answers, chosen))
    finally:
        if options.folder is None:
            shutil.rmtree(chosen, ignore_errors=True)
