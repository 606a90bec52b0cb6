"""SIGKILL at every request and at hundreds of random moments; then run to the end and compare with an unbroken run.

    python -m bench.kills [--random 200]

Needs no particular machine: what counts is that no trial differs. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e import kills
from tests.e2e.rig import Rig, rig

KILLS_PER_TRIAL = 5


def trial(folder: Path, clips: Path, expected: kills.State, disturb: Callable[[Rig], int]) -> tuple[bool, int, int]:
    """One trial; returns whether it was disturbed at all, kills, and questions asked again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with rig(folder, clips) as one:
        server = kills.prepared(one)
        count = disturb(one)
        kills.finish(one, server, expected, kills=max(count, 1))
        return count > 0, count, len(server.questions()) - kills.QUESTIONS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--random", type=int, default=200, help="kills at random moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, clips = Path(name), Path(name) / "clips"
        began = time.monotonic()
        expected = kills.unbroken(folder / "unbroken", clips)
        longest_s = time.monotonic() - began + 0.5
        rows: list[tuple[str, int, int, int]] = []
        for after in (False, True):
            trials = again = 0
            number = 1
            while True:

                def at_request(one: Rig, number: int = number, after: bool = after) -> int:
                    return int(kills.killed_at_request(one, number, after=after))

                hit, _, more = trial(folder / "rig", clips, expected, at_request)
                if not hit:
                    break
                trials, again, number = trials + 1, again + more, number + 1
            rows.append(
                (f"at every request, {'after' if after else 'before'} it is carried out", trials, trials, again)
            )
        dice = random.Random(7)
        trials = killed = again = 0
        while killed < options.random:

            def many(one: Rig) -> int:
                done = 0
                for _ in range(KILLS_PER_TRIAL):
                    result = kills.killed_at_random(one, dice, longest_s)
                    done += result is not None and result.status == "CANCELLED"
                return done

            _, count, more = trial(folder / "rig", clips, expected, many)
            trials, killed, again = trials + 1, killed + count, again + more
        rows.append(("at random moments", trials, killed, again))
    print(f"{'SIGKILL':<50} {'trials':>7} {'kills':>6} {'differences':>12} {'asked again':>12}")
    for what, trials, killed, again in rows:
        print(f"{what:<50} {trials:>7} {killed:>6} {0:>12} {again:>12}")
    print(f"(a difference ends the bench; {kills.SLOTS} slots, {kills.QUESTIONS} questions in a run)")
    print(json.dumps([{"case": w, "trials": t, "kills": k, "asked_again": a} for w, t, k, a in rows]))


if __name__ == "__main__":
    main()
