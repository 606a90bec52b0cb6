"""Tag Videos from the button to the markers: accuracy, questions, time and the plugin's peak memory.

    python -m bench.tag_videos [--short] [--scenes N]

The plugin runs as a process of its own against an embedded Stash and an embedded model server that reads the truth
from the pixels (8 slots, 50 ms), so the figures hold everything but the model: decoding, asking, ledger, writing.
Peak memory is the process's high-water mark as the kernel counts it (Linux). Prints tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.footage import TAGS, Plan, cached_clip, random_plan, truth_of
from demo.stash import EmbeddedStash, JobResult, running_stash, start_task
from demo.vision_server import VisionServer
from haven_vlm.facts import Span

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = TAGS[:8]


def share_in_common(found: Sequence[Span], true: Sequence[Span]) -> float:
    """Intersection over union of two sets of disjoint spans; 1 when both are empty."""
    edges = sorted({t for s in (*found, *true) for t in (s.start_ms, s.end_ms)})
    both = either = 0
    for start, end in itertools.pairwise(edges):
        here = [any(s.start_ms <= start < s.end_ms for s in spans) for spans in (found, true)]
        both += (end - start) * all(here)
        either += (end - start) * any(here)
    return both / either if either else 1.0


class Watch(threading.Thread):
    """Keeps reading a process's high-water mark of memory until it is gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._file = Path(f"/proc/{pid}/status")
        self.peak_mb = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            try:
                text = self._file.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)


def press_task(stash: EmbeddedStash, task: str, settings: dict[str, Any]) -> tuple[JobResult, float, float]:
    """Press a button; returns the result, seconds and the plugin's peak memory in MB."""
    stash.settings.configure_plugin("ahavenvlmconnector", settings)
    began = time.monotonic()
    process = start_task(ROOT, task, connection=stash.connection())
    watch = Watch(process.pid)
    watch.start()
    result = process.wait(7200)
    seconds = time.monotonic() - began
    watch.over.set()
    return result, seconds, watch.peak_mb


def one_clip(folder: Path, name: str, plan: Plan, clip: Path, sampling: str) -> dict[str, Any]:
    """Tag one long clip."""
    with (
        running_stash(config_dir=folder) as stash,
        VisionServer(see=truth_of, slots=8, latency_s=0.05).in_thread() as server,
    ):
        scene = stash.add_scene(str(clip), duration=plan.duration_ms / 1000, tags=["VLM_TagMe"])
        settings = {
            "endpoints": f"{server.base_url} max=8",
            "tag_list": ", ".join(VOCABULARY),
            "sampling": sampling,
            "data_dir": tempfile.mkdtemp(dir=folder),
        }
        result, seconds, peak_mb = press_task(stash, "Tag Videos", settings)
        if result.error:
            raise SystemExit(result.error)
        found: dict[str, list[Span]] = {tag: [] for tag in VOCABULARY}
        for m in stash.markers(scene):
            found[m["primary_tag"]].append(
                Span(m["primary_tag"], round(m["seconds"] * 1000), round(m["end_seconds"] * 1000), 1.0)
            )
        tags = sorted({s.tag for s in plan.spans})
        long_ones = [s for s in plan.spans if s.end_ms - s.start_ms >= 4000]
        missed = [
            s for s in long_ones if not any(f.start_ms < s.end_ms and s.start_ms < f.end_ms for f in found[s.tag])
        ]
        right = set(stash.scene_tags(scene)) - {"VLM_Tagged"} == set(tags)
        return {
            "case": f"{name}, {sampling}",
            "questions": len(server.questions()),
            "iou": sum(share_in_common(found[t], plan.spans_of(t)) for t in tags) / len(tags),
            "missed_of_4s": f"{len(missed)} of {len(long_ones)}",
            "tags_right": right,
            "seconds": seconds,
            "peak_mb": peak_mb,
        }


def many_scenes(folder: Path, count: int) -> dict[str, Any]:
    """Tag very many short scenes that share one file's pixels, each under an identity of its own."""
    plan = random_plan(4, tags=VOCABULARY, spans=2, shortest_s=1, longest_s=2, seed=5)
    clip = cached_clip(folder / "clips", plan, size=(320, 180), fps=10, gop=10)
    with (
        running_stash(config_dir=folder) as stash,
        VisionServer(see=truth_of, slots=16).in_thread() as server,
    ):
        with stash.seeding():
            for i in range(count):
                stash.add_scene(
                    str(clip), duration=4.0, tags=["VLM_TagMe"], fingerprints={"oshash": f"{i:016x}"}, title=f"Game {i}"
                )
        settings = {
            "endpoints": f"{server.base_url} max=16",
            "tag_list": ", ".join(VOCABULARY),
            "sampling": "fixed",
            "data_dir": tempfile.mkdtemp(dir=folder),
        }
        first: list[float] = []
        began = time.monotonic()
        stop = threading.Event()

        def wait_for_first() -> None:
            while not stop.wait(0.01):
                if server.questions():
                    first.append(time.monotonic() - began)
                    return

        thread = threading.Thread(target=wait_for_first, daemon=True)
        thread.start()
        result, seconds, peak_mb = press_task(stash, "Tag Videos", settings)
        stop.set()
        if result.error:
            raise SystemExit(result.error)
        return {
            "case": f"{count} scenes of 4 s",
            "questions": len(server.questions()),
            "first_question_s": first[0] if first else None,
            "scenes_per_s": count / seconds,
            "seconds": seconds,
            "peak_mb": peak_mb,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tag_videos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one minute instead of ten and sixty")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "haven-vlm-bench")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    ten = random_plan(60 if options.short else 600, tags=VOCABULARY, spans=20, shortest_s=3, longest_s=60, seed=1)
    sixty = random_plan(60 if options.short else 3600, tags=VOCABULARY, spans=60, shortest_s=3, longest_s=60, seed=2)
    print("making the clips …", flush=True)
    clips = options.folder / "clips"
    hd = cached_clip(clips, ten, size=(1920, 1080), fps=30)
    hour = cached_clip(clips, sixty, size=(1280, 720), fps=10)
    rows = [
        one_clip(options.folder, f"{ten.duration_ms // 60000} min 1080p30", ten, hd, "fixed"),
        one_clip(options.folder, f"{ten.duration_ms // 60000} min 1080p30", ten, hd, "refine"),
        one_clip(options.folder, f"{sixty.duration_ms // 60000} min 720p10", sixty, hour, "fixed"),
    ]
    print(
        f"{'case':<28} {'questions':>9} {'mean IoU':>8} {'missed ≥4 s':>12} {'tags':>6} {'seconds':>8} {'peak MB':>8}"
    )
    for r in rows:
        print(
            f"{r['case']:<28} {r['questions']:>9} {r['iou']:>8.3f} {r['missed_of_4s']:>12} "
            f"{'right' if r['tags_right'] else 'WRONG':>6} {r['seconds']:>8.1f} {r['peak_mb']:>8.0f}"
        )
    many = [many_scenes(options.folder, options.scenes // 10), many_scenes(options.folder, options.scenes)]
    print(f"\n{'case':<28} {'questions':>9} {'first after s':>13} {'scenes/s':>9} {'seconds':>8} {'peak MB':>8}")
    for r in many:
        print(
            f"{r['case']:<28} {r['questions']:>9} {r['first_question_s'] or 0:>13.1f} {r['scenes_per_s']:>9.1f} "
            f"{r['seconds']:>8.1f} {r['peak_mb']:>8.0f}"
        )
    print(f"memory, {many[1]['case']} : {many[0]['case']}  {many[1]['peak_mb'] / many[0]['peak_mb']:.2f}")
    print(json.dumps(rows + many))


if __name__ == "__main__":
    main()
