"""Set up a virtual environment of the project's own, once, and go on inside it. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".haven-environment"
_INSIDE = "HAVEN_VLM_INSIDE_ENVIRONMENT"


def run_inside(module: str, arguments: Sequence[str]) -> int | None:
    """Make sure that `module` runs in the project's environment.

    Returns:
        None when this process is inside already and shall go on; else the exit code of the process that
        was started inside.

    Raises:
        SystemExit: the environment cannot be made; says why.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older Python gets to see first
        raise SystemExit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    if os.environ.get(_INSIDE) == str(ENVIRONMENT):
        return None
    python = _ensure()
    environ = {**os.environ, _INSIDE: str(ENVIRONMENT)}
    return subprocess.call([str(python), "-m", module, *arguments], cwd=ROOT, env=environ)


def _ensure() -> Path:
    """Make the environment unless one for these requirements and this Python is there; returns its interpreter."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = _fingerprint()
    stamp = ENVIRONMENT / "ready"
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    steps = _steps(python)
    print(f"Setting up {ENVIRONMENT} (once; some 100 MB of packages, a minute or two) …", file=sys.stderr, flush=True)  # noqa: T201
    for step in steps:
        done = subprocess.run(step, check=False)
        if done.returncode:
            raise SystemExit(f"The environment could not be set up; this command failed: {' '.join(step)}")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _steps(python: Path) -> list[list[str]]:
    """The commands that make the environment whose interpreter will be `python`.

    Raises:
        SystemExit: this Python can install nothing; says what to do.
    """
    install = ["install", "--quiet", "--disable-pip-version-check", "-r", str(ROOT / "requirements-dev.txt")]
    venv = [sys.executable, "-m", "venv", "--clear"]
    if importlib.util.find_spec("ensurepip"):
        return [[*venv, str(ENVIRONMENT)], [str(python), "-m", "pip", *install]]
    if importlib.util.find_spec("pip"):  # then the environment borrows the pip outside
        return [
            [*venv, "--without-pip", str(ENVIRONMENT)],
            [sys.executable, "-m", "pip", "--python", str(python), *install],
        ]
    raise SystemExit(
        f"This Python ({sys.executable}) came without pip, so packages cannot be fetched. Install it (Debian and "
        "Ubuntu: sudo apt install python3-venv, Alpine: apk add py3-pip) and start this command again."
    )


def _fingerprint() -> str:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")]
    return hashlib.sha256("\n".join([sys.version, sys.executable, *texts]).encode()).hexdigest()
