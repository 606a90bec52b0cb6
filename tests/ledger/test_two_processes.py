"""Real processes: killed without warning, and two at once on the same ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from haven_vlm.facts import Kind
from haven_vlm.journal import Journal
from tests.ledger.answers import MODELS, answer, key

ROOT = Path(__file__).resolve().parents[2]

RECORD = """
import asyncio, sys
from pathlib import Path
from haven_vlm.facts import Kind
from haven_vlm.journal import Journal
from tests.ledger.answers import answer, key

async def main(path, first, count):
    async with Journal(path) as journal:
        run = await journal.start_run("tag_videos")
        print("open", run, flush=True)
        async with journal.claims.claim(Kind.SCENE, "7"):
            async def one(at_ms):
                await journal.record(key(), at_ms=at_ms, shown_ms=at_ms, answer=answer("Dunk"))
                print(at_ms, flush=True)
            for start in range(first, first + count, 8):
                await asyncio.gather(*(one(t) for t in range(start, start + 8)))
        await journal.end_run(run, "done")

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""

HOLD = """
import asyncio, sys
from pathlib import Path
from haven_vlm.facts import Kind
from haven_vlm.journal import Journal

async def main(path):
    async with Journal(path) as journal:
        await journal.start_run("tag_videos")
        async with journal.claims.claim(Kind.SCENE, "7") as ours:
            print(ours, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main(Path(sys.argv[1])))
"""


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, ended at the end of the block."""
    command = [sys.executable, "-c", code, *(str(a) for a in arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.parametrize("after", [1, 40, 333])
def test_every_acknowledged_answer_survives_a_kill(path: Path, after: int) -> None:
    with child(RECORD, path, 0, 100_000) as process:
        said = lines(process, 1 + after)
        process.kill()
        assert process.stdout
        said += process.stdout.read().split("\n")[:-1]  # the last line may be half a number
    acknowledged = {int(line) for line in said[1:] if line.strip()}

    async def check() -> None:
        async with Journal(path) as journal:
            assert journal.notices == ()
            known = await journal.known(key(), MODELS)
            assert acknowledged <= known.keys()
            assert len(known) <= len(acknowledged) + 16, "and little more: only what was in flight"
            (run,) = await journal.runs()
            assert (run.alive, run.ended_at) == (False, None)

    asyncio.run(check())


def test_two_processes_write_at_once(path: Path) -> None:
    with child(RECORD, path, 0, 400) as one, child(RECORD, path, 1000, 400) as two:

        async def main() -> None:
            async with Journal(path) as journal:
                for t in range(2000, 2100):
                    await journal.record(key(), at_ms=t, shown_ms=t, answer=answer("Foul"))

        asyncio.run(main())
        for process in (one, two):
            process.communicate(timeout=60)
            assert process.returncode == 0

    async def check() -> None:
        async with Journal(path) as journal:
            assert {*await journal.known(key(), MODELS)} == {*range(400), *range(1000, 1400), *range(2000, 2100)}
            assert [r.result for r in await journal.runs()] == ["done", "done"]

    asyncio.run(check())


def test_a_claim_holds_until_its_process_is_killed(path: Path) -> None:
    async def ours() -> tuple[bool, int]:
        async with Journal(path) as journal, journal.claims.claim(Kind.SCENE, "7") as claimed:
            return claimed, len(await journal.other_runs_alive())

    with child(HOLD, path) as process:
        assert lines(process, 1) == ["True"]
        assert asyncio.run(ours()) == (False, 1)
        process.kill()
        process.wait(timeout=60)
        assert asyncio.run(ours()) == (True, 0)


def test_many_processes_make_the_ledger_at_the_same_moment(path: Path) -> None:
    with child(RECORD, path, 0, 8) as a, child(RECORD, path, 8, 8) as b, child(RECORD, path, 16, 8) as c:
        for process in (a, b, c):
            process.communicate(timeout=60)
            assert process.returncode == 0

    async def check() -> None:
        async with Journal(path) as journal:
            assert journal.notices == ()
            assert {*await journal.known(key(), MODELS)} == {*range(24)}

    asyncio.run(check())
