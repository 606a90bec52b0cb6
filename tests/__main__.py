"""`python3 tests` sets up what is needed and runs all tests; `python3 tests --checks` runs the other checks.

Anything else goes to pytest: `python3 tests tests/pure -k timeline`.
"""

from __future__ import annotations

import subprocess
import sys
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


def main(arguments: list[str]) -> int:
    """Run the tests or the checks; returns an exit code."""
    code = run_inside("tests", arguments)
    if code is not None:
        return code
    if arguments[:1] == ["--checks"]:
        worst = 0
        for check in CHECKS:
            print("$", *check, flush=True)
            worst = max(worst, subprocess.call([sys.executable, "-m", *check], cwd=ROOT))
        return worst
    import pytest

    parallel = [] if any(a.startswith(("-n", "-p", "tests/")) for a in arguments) else ["-n", "auto"]
    return int(pytest.main(["--rootdir", str(ROOT), *parallel, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
