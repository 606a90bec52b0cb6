"""The built-in engine beside `vlm-engine` on the same clips, from the button to the markers.

    python -m bench.engines --python PATH [--seconds 60] [--intervals 4,8]

`--python` has `vlm-engine`. Both engines ask the same embedded model server (8 slots, 50 ms), which reads the truth
from the pixels; vlm-engine asks through the connector's bridge, as with `engine: vlm-engine`. Rules of markers are the
same. IoU is the mean over the tags that occur. Peak memory is that of the plugin's process; vlm-engine's own comes
on top.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench.tag_videos import press_task, share_in_common
from demo.footage import TAGS, Plan, cached_clip, random_plan, truth_of
from demo.stash import running_stash
from demo.vision_server import VisionServer
from haven_vlm.facts import Span

VOCABULARY = TAGS[:5]


def run(plan: Plan, clip: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Tag one clip with these settings; figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stash(config_dir=Path(folder)) as stash,
        VisionServer(see=partial(truth_of, tags=VOCABULARY), slots=8, latency_s=0.05).in_thread() as server,
    ):
        scene = stash.add_scene(str(clip), duration=plan.duration_ms / 1000, tags=["VLM_TagMe"])
        # JSON is YAML, too
        (Path(folder) / "haven_vlm_config.yaml").write_text(json.dumps({"tag_list": list(VOCABULARY), **settings}))
        result, seconds, peak_mb = press_task(stash, "Tag Videos", {"endpoints": f"{server.base_url} max=8"})
        if result.error:
            raise SystemExit(result.error)
        found: dict[str, list[Span]] = {tag: [] for tag in VOCABULARY}
        for m in stash.markers(scene):
            tag = m["primary_tag"]
            found[tag].append(Span(tag, round(m["seconds"] * 1000), round(m["end_seconds"] * 1000), 1.0))
        tags = sorted({s.tag for s in plan.spans})
        missed = [
            s for s in plan.spans if not any(f.start_ms < s.end_ms and s.start_ms < f.end_ms for f in found[s.tag])
        ]
        return {
            "questions": len(server.questions()),
            "iou": round(sum(share_in_common(found[t], plan.spans_of(t)) for t in tags) / len(tags), 3),
            "missed": len(missed),
            "spans": len(plan.spans),
            "seconds": round(seconds, 1),
            "peak_mb": round(peak_mb),
        }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a Python that has vlm-engine")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clips")
    parser.add_argument("--intervals", default="4,8", help="seconds between the frames of the scan")
    options = parser.parse_args()
    length = options.seconds
    plans = {
        "one tag at a time": random_plan(
            length, tags=VOCABULARY, spans=length // 20, shortest_s=4, longest_s=12, overlap=False
        ),
        "overlapping tags": random_plan(
            length, tags=VOCABULARY, spans=length // 15, shortest_s=4, longest_s=20, seed=1
        ),
    }
    engines: dict[str, dict[str, Any]] = {
        "built-in, fixed": {"sampling": "fixed"},
        "built-in, refine": {"sampling": "refine"},
        "vlm-engine": {"engine": "vlm-engine", "vlm_engine": {"python": options.python}},
    }
    rows = []
    print(f"{'clip':<20}{'engine':<20}{'interval':>9}{'questions':>11}{'IoU':>7}{'missed':>10}{'seconds':>9}{'MB':>6}")
    for name, plan in plans.items():
        clip = cached_clip(Path(tempfile.gettempdir()) / "haven-vlm-engines", plan, size=(640, 360), fps=25, gop=50)
        for engine, settings in engines.items():
            for interval in map(int, options.intervals.split(",")):
                row = run(plan, clip, {**settings, "video_frame_interval": interval})
                rows.append({"clip": name, "engine": engine, "interval_s": interval, **row})
                print(
                    f"{name:<20}{engine:<20}{interval:>8}s{row['questions']:>11}{row['iou']:>7.3f}"
                    f"{row['missed']:>5} of {row['spans']:<2}{row['seconds']:>9.1f}{row['peak_mb']:>6}",
                    flush=True,
                )
    print(json.dumps({"bench": "engines", "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
