"""SIGKILL at every request, every commit and at hundreds of random moments; Stash killed, too; faults of every kind.

    python -m bench.kills [--random 200] [--every 1] [--cases requests,commits,random,stash,both,faults]

After each trial a run to the end must leave everything as an unbroken run does. Needs no particular machine: what
counts is that no trial differs. Says what it does as it goes, then prints a table and one line of JSON; the exit
code is 1 when there was a difference.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

from demo.stash.faults import KINDS
from tests.e2e import kills
from tests.e2e.apart import apart, run_while_stash_dies_at, run_with_deaths_of_stash
from tests.e2e.rig import Rig, rig

KILLS_PER_TRIAL = 5
FAULTS = (*(kind for kind in KINDS if not kind.startswith("status")), "429", "500", "503")
CASES = ("requests", "commits", "random", "stash", "both", "faults")


@dataclass(slots=True)
class Row:
    """A line of the table."""

    case: str
    trials: int = 0
    kills: int = 0
    differences: int = 0
    asked_again: int = 0

    @contextmanager
    def trial(self, what: str) -> Iterator[None]:
        """Count a trial, and what it asserts in vain as a difference."""
        outcome, self.trials = "as unbroken", self.trials + 1
        try:
            yield
        except (AssertionError, TimeoutError) as difference:
            self.differences += 1
            outcome = f"DIFFERENT: {difference}"
        print(f"{self.case}: trial {self.trials}, {what}: {outcome}", flush=True)


class Bench:
    """All trials, in one folder that each begins anew; every public method is a case."""

    def __init__(self, folder: Path, *, kills_at_random: int, every: int) -> None:
        self._folder = folder / "rig"
        self._clips = folder / "clips"
        self._wanted = kills_at_random
        self._every = every
        self.rows: list[Row] = []
        began = time.monotonic()
        self._expected = kills.unbroken(folder / "unbroken", self._clips)
        self._longest_s = time.monotonic() - began + 0.5

    def requests(self) -> None:
        """The plugin is killed around each of its requests to Stash."""
        self._around_each("plugin, around every request to Stash", kills.killed_at_request)

    def commits(self) -> None:
        """The plugin is killed around each commit of the ledger: each recorded step, each answer."""
        self._around_each("plugin, around every commit of the ledger", kills.killed_at_commit)

    def random(self) -> None:
        """The plugin is killed at random moments, several times before it may end."""
        row, dice = self._row("plugin, at random moments"), Random(7)

        def many(one: Rig) -> int:
            runs = (one.start("Tag Videos") for _ in range(KILLS_PER_TRIAL))
            return sum(kills.killed_at_random(process, dice, self._longest_s) for process in runs)

        while row.kills < self._wanted:
            self._kill(row, many)

    def stash(self) -> None:
        """Stash is killed around each request and at random moments; the run waits and goes on by itself."""
        row = self._row("Stash, around every request")
        for after in (False, True):
            number = 1
            while self._kill_stash_at(row, number, after=after):
                number += self._every
        row, dice = self._row("Stash, at random moments"), Random(11)
        while row.kills < self._wanted // 2:
            self._kill_stash_at_random(row, dice, plugin_too=False)

    def both(self) -> None:
        """Stash and the plugin are killed at random moments."""
        row, dice = self._row("plugin and Stash, at random moments"), Random(13)
        while row.kills < self._wanted:
            self._kill_stash_at_random(row, dice, plugin_too=True)

    def faults(self) -> None:
        """Every kind of fault strikes every kind of request twice."""
        row = self._row("no kill: every kind of fault at every kind of request")
        with self._rig() as one:
            kills.prepared(one)
            one.run()
            fields = sorted({field for record in one.stash.requests for field in record.fields})
        for field, kind in list(product(fields, FAULTS))[:: self._every]:
            with row.trial(f"{kind} at {field}"), self._rig() as one:
                assert kills.faulted(one, kills.prepared(one), self._expected, field, kind), "no such request"

    # --- trials -----------------------------------------------------------------------------------------------

    def _around_each(self, case: str, kill: Callable[..., bool]) -> None:
        row = self._row(case)
        for after in (False, True):
            number = 1
            while self._kill(row, partial(kill, number=number, after=after)):
                number += self._every

    def _kill(self, row: Row, disturb: Callable[[Rig], int]) -> bool:
        """One trial; False when there was nothing left to disturb."""
        with self._rig() as one:
            server = kills.prepared(one)
            count = int(disturb(one))
            if count:
                with row.trial(f"killed {count}×"):
                    row.kills += count
                    kills.finish(one, server, self._expected, kills=count)
                    row.asked_again += len(server.questions()) - kills.QUESTIONS
        return count > 0

    def _kill_stash_at(self, row: Row, number: int, *, after: bool) -> bool:
        with apart(self._fresh(), self._clips) as (stash, server):
            result, died = run_while_stash_dies_at(stash, number, after=after)
            stash.close()
            if died:
                with row.trial(f"{'after' if after else 'before'} request {number}"):
                    row.kills += 1
                    assert result.error is None, result.error
                    assert stash.state() == self._expected
                    assert len(server.questions()) == kills.QUESTIONS
        return died

    def _kill_stash_at_random(self, row: Row, dice: Random, *, plugin_too: bool) -> None:
        with apart(self._fresh(), self._clips) as (stash, server), row.trial("Stash killed at random"):
            stash.start()
            runs = (stash.press() for _ in range(KILLS_PER_TRIAL if plugin_too else 0))
            wait = partial(run_with_deaths_of_stash, stash, dice=dice)
            killed = sum(kills.killed_at_random(process, dice, 2 * self._longest_s, wait) for process in runs)
            result = wait(stash.press())
            row.kills += killed + stash.deaths
            assert result.error is None, result.error
            stash.close()
            assert stash.state() == self._expected
            again = len(server.questions()) - kills.QUESTIONS
            row.asked_again += again
            assert 0 <= again <= killed * kills.IN_FLIGHT, f"{again} asked again after {killed} kills"

    # --- around them ------------------------------------------------------------------------------------------

    def _row(self, case: str) -> Row:
        self.rows.append(Row(case))
        return self.rows[-1]

    def _fresh(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        return self._folder

    def _rig(self) -> AbstractContextManager[Rig]:
        return rig(self._fresh(), self._clips)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--random", type=int, default=200, help="kills at random moments")
    parser.add_argument("--every", type=int, default=1, help="of the chosen moments and faults only each n-th")
    parser.add_argument("--cases", default=",".join(CASES), help="some of: %(default)s")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that die are what this is about
    with tempfile.TemporaryDirectory(prefix="haven-vlm-kills-") as name:
        bench = Bench(Path(name), kills_at_random=options.random, every=max(1, options.every))
        for case in cases:
            getattr(bench, case)()
    print(f"{'what is killed':<54} {'trials':>7} {'kills':>6} {'differences':>12} {'asked again':>12}")
    for row in bench.rows:
        print(f"{row.case:<54} {row.trials:>7} {row.kills:>6} {row.differences:>12} {row.asked_again:>12}")
    print(f"({kills.SLOTS} slots, {kills.QUESTIONS} questions in an unbroken run)")
    print(json.dumps([asdict(row) for row in bench.rows]))
    return 1 if any(row.differences for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
