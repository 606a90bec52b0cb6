"""`python3 tests` sets up what is needed and runs all tests; `python3 tests --checks` runs the other checks.

`python3 tests --coverage` runs all tests, measured, and prints what none of them reaches; it fails below the share that
pyproject.toml asks for. Anything else goes to pytest: `python3 tests tests/pure -k timeline`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.environment import run_inside  # noqa: E402 - the path above makes it importable

PRODUCT = ("haven_vlm", *sorted(p.name for p in ROOT.glob("haven_*.py")))

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("docs.generate", "--check"),
    ("bandit", "-q", "-c", "pyproject.toml", "-r", *PRODUCT),
    ("release.secret_scan",),
    ("release.audit",),
)


MEASURED = (
    ("coverage", "erase"),
    ("coverage", "run", "-m", "pytest", "--rootdir", str(ROOT), "-n", "auto"),
    ("coverage", "combine", "-q"),
    ("coverage", "report"),
)


def main(arguments: list[str]) -> int:
    """Run the tests, measured or not, or the checks; returns an exit code."""
    code = run_inside("tests", arguments)
    if code is not None:
        return code
    if arguments[:1] == ["--checks"]:
        return _worst(CHECKS)
    if arguments[:1] == ["--coverage"]:
        return _worst(MEASURED)
    import pytest

    parallel = [] if any(a.startswith(("-n", "-p", "tests/")) for a in arguments) else ["-n", "auto"]
    return int(pytest.main(["--rootdir", str(ROOT), *parallel, *arguments]))


def _worst(commands: Sequence[Sequence[str]]) -> int:
    """Run modules one after the other, whatever each says; returns the worst exit code."""
    worst = 0
    for command in commands:
        print("$", *command, flush=True)
        worst = max(worst, subprocess.call([sys.executable, "-m", *command], cwd=ROOT))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
