"""Our own programs that a document shows, run for real as far as they can be made small: benches, demo, tests, package.

What they print at full size is in docs/benchmarks.md; here they only have to work and to print their figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from demo import environment
from tests.e2e.rig import ROOT

SMALL_BENCHES = (
    "bench.start --repeat 1",
    "bench.images --images 20 --slots 4 --latency-ms 1",
    "bench.update --scenes 2 --frames 20",
    "bench.kills --random 1 --cases random",
    "bench.ledger --answers 10000 --folder {folder}",
    "bench.markers --quick --only small",
)
"""A bench and options that make it small. The others take minutes at their smallest, or need another Python."""


def run(line: str, folder: Path, *, cwd: Path = ROOT, **environ: str) -> str:
    """Run a program of ours with this Python; returns what it printed."""
    words = [sys.executable, *(word.format(folder=folder) for word in line.split())]
    here = {**os.environ, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environ}
    done = subprocess.run(words, cwd=cwd, env=here, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
@pytest.mark.skipif(os.name == "nt", reason="the benches measure memory in a way that Windows does not know")
@pytest.mark.parametrize("line", SMALL_BENCHES)
def test_a_bench_ends_in_its_figures(line: str, tmp_path: Path) -> None:
    figures = json.loads(run(f"-m {line}", tmp_path).splitlines()[-1])
    assert figures and isinstance(figures, dict | list)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files, so that what the programs leave behind is not left in it."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    for part in ("*.py", "*.toml", "*.txt", "*.yml", "haven_vlm", "demo", "tests", "page"):
        for path in ROOT.glob(part):
            target = folder / path.name
            folder.mkdir(exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(path, target)
    return folder


@pytest.mark.timeout(400)
def test_the_demo_shows_the_whole_way(copy: Path, tmp_path: Path) -> None:
    # inside the environment that it would make: that this is made is another test (tests/edge/test_environment.py)
    told = run("demo --minutes 0.5 --interval 4", tmp_path, cwd=copy, **inside(copy))
    assert "Tagged 1 of 1 scene" in told and "Done in" in told
    assert (copy / "demo-results").is_dir()


@pytest.mark.timeout(400)
def test_a_part_of_the_tests_runs_as_the_documents_say(copy: Path, tmp_path: Path) -> None:
    told = run("tests tests/pure/test_progress.py -k pace -p no:cacheprovider", tmp_path, cwd=copy, **inside(copy))
    assert "1 passed" in told


def inside(project: Path) -> dict[str, str]:
    return {environment._INSIDE: str(project / environment.ENVIRONMENT.name)}


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="packages are made from a commit"
)
def test_the_package_source_is_built(tmp_path: Path) -> None:
    told = run("-m release.package {folder}/package-source", tmp_path)
    source = tmp_path / "package-source"
    (entry,) = yaml.safe_load((source / "index.yml").read_text(encoding="utf-8"))
    digest = hashlib.sha256((source / entry["path"]).read_bytes()).hexdigest()
    assert digest == entry["sha256"] and digest in told
