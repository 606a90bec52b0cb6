"""`python3 demo` runs the whole way from a tagged scene to markers, on this machine alone, and shows the result.

An embedded Stash holds a generated clip of a basketball match; two embedded vision servers answer from its pixels;
the plugin runs as Stash runs it, as a process of its own. With `--endpoint URL --model NAME` a real model server is
asked instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.environment import run_inside  # noqa: E402 - the path above makes it importable

if TYPE_CHECKING:
    from demo.footage import Plan
    from demo.stash import EmbeddedStash, LogLine

RESULTS = ROOT / "demo-results"


def main(arguments: list[str]) -> int:
    """Run the demo; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python3 demo", description=__doc__)
    parser.add_argument("--endpoint", action="append", metavar="URL", help="a real model server, up to /v1; repeatable")
    parser.add_argument("--model", default="", help="model to ask for there")
    parser.add_argument("--minutes", type=float, default=1.0, help="length of the clip (default 1)")
    parser.add_argument("--interval", default="2", help="frame interval, as in the settings (default 2)")
    parser.add_argument("--verbose", action="store_true", help="show debug lines of the log, too")
    options = parser.parse_args(arguments)
    code = run_inside("demo", arguments)
    return run(options) if code is None else code


def run(options: argparse.Namespace) -> int:
    """Make the clip, start the servers, run the plugin, compare."""
    from demo.footage import TAGS, cached_clip, random_plan
    from demo.stash import Run, running_stash, start_task

    tags = TAGS[:8]
    plan = random_plan(
        options.minutes * 60, tags=tags, spans=round(8 * max(1.0, options.minutes)), longest_s=15, seed=3
    )
    print(f"Making a clip of {options.minutes:g} min …", flush=True)
    clip = cached_clip(RESULTS / "clips", plan)
    with ExitStack() as stack:
        stash = stack.enter_context(running_stash(config_dir=RESULTS))
        endpoints = options.endpoint or stack.enter_context(_vision_servers())
        scene = stash.add_scene(str(clip), duration=plan.duration_ms / 1000, title="Match", tags=["VLM_TagMe", "Mine"])
        stash.add_marker(scene, 1.0, "Mine", title="Made by hand")
        settings: dict[str, object] = {
            "endpoints": "; ".join(f"{url} weight={5 - 3 * i}" for i, url in enumerate(endpoints)),
            "model": options.model,
            "tag_list": ", ".join(tags),
            "video_frame_interval": options.interval,
        }
        stash.settings.configure_plugin("ahavenvlmconnector", settings)
        print(f"Stash at {stash.url}, model servers at {', '.join(endpoints)}. Pressing “Tag Videos” …\n", flush=True)
        began = time.monotonic()
        job = start_task(
            ROOT, "Tag Videos", connection=stash.connection(), run=Run(on_log=_show(verbose=options.verbose))
        )
        result = job.wait(3600)
        seconds = time.monotonic() - began
        print(f"\n{result.error or result.output}\n")
        _compare(stash, scene, plan)
        print(f"\nDone in {seconds:.1f} s. Open the report above in a browser to see what was looked at.")
        print(f"All that the demo leaves is in {RESULTS}: answers, too, so the next demo asks only what is new.")
        return 1 if result.error else 0


@contextmanager
def _vision_servers() -> Iterator[list[str]]:
    """Two servers of different speed that read the truth from the pixels."""
    from demo.court import seen_in
    from demo.vision_server import VisionServer

    with ExitStack() as stack:  # one `with` of several lines is what an old Python cannot even read
        servers = [VisionServer(see=seen_in, slots=n, latency_s=s).in_thread() for n, s in ((4, 0.15), (1, 0.4))]
        yield [stack.enter_context(server).base_url for server in servers]


def _show(*, verbose: bool) -> Callable[[LogLine], None]:
    def show(line: LogLine) -> None:
        if verbose or line.level not in ("trace", "debug"):
            print(f"  {line.level:<7} {line.text}", flush=True)

    return show


def _compare(stash: EmbeddedStash, scene: int, plan: Plan) -> None:
    """Print what stands in Stash beside the truth."""
    from haven_vlm_utility import clock_text

    print("What stands in Stash now, beside what the clip really shows:\n")
    print(f"{'tag':<18} {'marker in Stash':<22} in the clip")
    markers = stash.markers(scene)
    for tag in sorted({s.tag for s in plan.spans}):
        found = [m for m in markers if m["primary_tag"] == tag]
        true = plan.spans_of(tag)
        for i in range(max(len(found), len(true))):
            left = right = "–"
            if i < len(found):
                start, end = found[i]["seconds"], found[i]["end_seconds"]
                left = f"{start:7.2f} – {end:7.2f} s"
            if i < len(true):
                right = f"{true[i].start_ms / 1000:7.2f} – {true[i].end_ms / 1000:7.2f} s"
            print(f"{tag if i == 0 else '':<18} {left:<22} {right}")
    print(f"\nTags of the scene: {', '.join(stash.scene_tags(scene))}")
    print("(“Mine” was there before; VLM_Tagged stands in place of VLM_TagMe.)")
    own = [m for m in markers if m["title"] == "Made by hand"]
    print(f"The marker made by hand is {'still there' if own else 'GONE'}, at {clock_text(1000)}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
