"""Update Results: new thresholds for many scenes from the ledger alone, without a question.

    python -m bench.update [--scenes 1000] [--frames 500]

The ledger is filled directly; then the plugin runs as a process of its own against an embedded Stash, with an
endpoint that does not exist. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from bench.tag_videos import VOCABULARY, press_task
from demo.footage import random_plan
from demo.stash import running_stash
from haven_vlm.facts import Answer, Outcome, Term
from haven_vlm.journal import Journal
from haven_vlm.picture import Preparation
from haven_vlm.ports import AnswerKey
from haven_vlm.prompts import build_prompt


async def fill(path: Path, scenes: int, frames: int) -> None:
    """Enter answers every 2 s for all scenes, as a run would have."""
    prompt = build_prompt([Term(name) for name in VOCABULARY])
    async with Journal(path) as journal:
        for number in range(scenes):
            plan = random_plan(frames * 2, tags=VOCABULARY, spans=20, seed=number)
            key = AnswerKey(f"oshash:{number:016x}:1000000", Preparation().key, prompt)

            async def one(at_ms: int, key: AnswerKey = key, tags: dict[str, float] | None = None) -> None:
                answer = Answer(Outcome.TAGS if tags else Outcome.NONE, tags or {}, endpoint="past", model="tiny")
                await journal.record(key, at_ms=at_ms, shown_ms=at_ms, answer=answer)

            await asyncio.gather(
                *(one(i * 2000, tags=dict.fromkeys(sorted(plan.at(i * 2000)), 0.8)) for i in range(frames))
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.update", description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=500)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="haven-vlm-update-"))
    try:
        asyncio.run(fill(folder / "data" / "ledger.sqlite", options.scenes, options.frames))
        with running_stash(config_dir=folder) as stash:
            with stash.seeding():
                for number in range(options.scenes):
                    stash.add_scene(
                        f"/nowhere/{number}.mp4",
                        size=1_000_000,
                        duration=options.frames * 2.0,
                        tags=["VLM_UpdateMe"],
                        fingerprints={"oshash": f"{number:016x}"},
                    )
            settings = {
                "endpoints": "http://127.0.0.1:9/v1",
                "tag_list": ", ".join(VOCABULARY),
                "data_dir": str(folder / "data"),
                "min_marker_duration": "5",
            }
            result, seconds, peak_mb = press_task(stash, "Update Results", settings)
            if result.error:
                raise SystemExit(result.error)
            markers = len(stash.markers())
            asked = Counter(record.operation or record.path.rpartition("/")[2] for record in stash.requests)
        row = {
            "scenes": options.scenes,
            "frames": options.frames,
            "questions": 0,
            "markers": markers,
            "scenes_per_s": options.scenes / seconds,
            "requests_per_scene": round(sum(asked.values()) / options.scenes, 2),
            "seconds": seconds,
            "peak_mb": peak_mb,
        }
        print(f"{'scenes':>7} {'frames each':>12} {'questions':>10} {'markers':>8} {'scenes/s':>9} {'peak MB':>8}")
        print(
            f"{row['scenes']:>7} {row['frames']:>12} {row['questions']:>10} {row['markers']:>8} "
            f"{row['scenes_per_s']:>9.1f} {row['peak_mb']:>8.0f}"
        )
        print(f"requests to Stash: {row['requests_per_scene']} a scene: {dict(asked.most_common())}")
        print("(there is no endpoint, so a single question would have ended the run with an error)")
        print(json.dumps(row))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
