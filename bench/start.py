"""How long the start takes: importing everything, by package, and from the button to the first question.

    python -m bench.start [--repeat 9]

Every figure is the least of several processes: whatever else the machine does only adds to it. Prints a table, then
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.tag_videos import VOCABULARY
from demo.footage import cached_clip, random_plan, truth_of
from demo.stash import running_stash, start_task
from demo.vision_server import VisionServer

ROOT = Path(__file__).resolve().parent.parent

MODULES = sorted(
    str(file.relative_to(ROOT).with_suffix("")).replace("/", ".").replace("\\", ".")
    for file in [*ROOT.glob("haven_*.py"), *ROOT.glob("haven_vlm/**/*.py")]
    if file.name != "__init__.py"
)
"""Everything that runs in the product."""


WITHOUT_COLLECTING = "import gc; gc.disable(); {}; gc.freeze(); gc.enable()"
"""How the connector imports."""


def kept_compiled(folder: str) -> dict[str, str]:
    """An environment in which modules are compiled once and kept, as they are beside an installed plugin."""
    rest = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return rest | {"PYTHONPYCACHEPREFIX": folder}


def seconds(code: str, repeat: int, environ: Mapping[str, str]) -> tuple[float, float]:
    """Least wall and least processor time, in seconds, that a fresh Python takes for some code."""
    timed = (
        "import time; w, c = time.perf_counter(), time.process_time()\n"
        f"{code}\nprint(time.perf_counter() - w, time.process_time() - c)"
    )
    walls, cpus = [], []
    for _ in range(repeat):
        out = subprocess.run(
            [sys.executable, "-c", timed], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        ).stdout
        wall, cpu = map(float, out.split())
        walls.append(wall)
        cpus.append(cpu)
    return min(walls), min(cpus)


def by_package(code: str, repeat: int, environ: Mapping[str, str]) -> dict[str, float]:
    """Package → least milliseconds its modules took by themselves."""
    runs: list[dict[str, float]] = []
    for _ in range(repeat):
        line = [sys.executable, "-X", "importtime", "-c", code]
        text = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stderr
        sums: dict[str, float] = defaultdict(float)
        for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", text, re.M):
            sums[package_of(name)] += int(own) / 1000
        runs.append(sums)
    return {name: min(run.get(name, 0.0) for run in runs) for name in set().union(*runs)}


def package_of(module: str) -> str:
    top = module.split(".")[0].replace("org", "copy")  # Python's `copy` looks for Jython's `org.python`
    if top.startswith("haven_"):
        return "the connector"
    return "Python's own library" if top in sys.stdlib_module_names or top.startswith("_") else top


def first_question(repeat: int, folder: Path) -> tuple[float, float]:
    """Least seconds, and least processor seconds of the plugin, from the button to the first question at a server."""
    best = best_cpu = float("inf")
    plan = random_plan(20, tags=VOCABULARY, spans=3, seed=1)
    clip = cached_clip(folder, plan, size=(320, 180), fps=10)
    for number in range(repeat):
        home = folder / str(number)
        home.mkdir()
        with running_stash(config_dir=home) as stash, VisionServer(see=truth_of, slots=4).in_thread() as server:
            stash.add_scene(str(clip), duration=20.0, tags=["VLM_TagMe"])
            settings = {"endpoints": server.base_url, "tag_list": ", ".join(VOCABULARY)}
            stash.settings.configure_plugin("ahavenvlmconnector", settings)
            began = time.monotonic()
            job = start_task(ROOT, "Tag Videos", connection=stash.connection())
            while not server.questions() and time.monotonic() < began + 60:
                time.sleep(0.002)
            best, best_cpu = min(best, time.monotonic() - began), min(best_cpu, processor_s(job.pid))
            job.wait(60)
    return best, best_cpu


def processor_s(pid: int) -> float:
    """Processor seconds of a process that runs; 0 where the system does not tell (only Linux does, in hundredths)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / float(os.sysconf("SC_CLK_TCK"))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--repeat", type=int, default=9, help="processes per figure (default 9)")
    options = parser.parse_args(arguments)
    everything = f"import {', '.join(MODULES)}"
    with tempfile.TemporaryDirectory(prefix="haven-vlm-start-") as folder:
        environ = kept_compiled(folder)
        wall, cpu = seconds(everything, options.repeat, environ)
        lean, lean_cpu = seconds(WITHOUT_COLLECTING.format(everything), options.repeat, environ)
        edge, _ = seconds("import haven_vlm_connector", options.repeat, environ)
        packages = by_package(WITHOUT_COLLECTING.format(everything), options.repeat, environ)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ |= environ  # the plugin inherits it
        question, question_cpu = first_question(min(5, options.repeat), Path(folder))
    print("| what | seconds |\n| --- | --- |")
    print(f"| importing everything, on top of Python | {wall:.2f} (processor {cpu:.2f}) |")
    print(f"| the same without search for garbage, as the connector does it | {lean:.2f} (processor {lean_cpu:.2f}) |")
    print(f"| importing the process edge only | {edge:.2f} |")
    print(f"| from the button to the first question | {question:.2f} (processor {question_cpu:.2f}) |\n")
    print("| of importing everything | ms |\n| --- | --- |")
    for name, took in sorted(packages.items(), key=lambda item: -item[1])[:14]:
        print(f"| {name} | {took:.0f} |")
    figures = {"import_s": wall, "import_cpu_s": cpu, "lean_s": lean, "lean_cpu_s": lean_cpu, "edge_s": edge}
    figures |= {"first_question_s": question, "first_question_cpu_s": question_cpu}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
