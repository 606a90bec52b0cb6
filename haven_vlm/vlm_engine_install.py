"""A Python that has `vlm-engine`: the one the settings name, or an environment of its own in `data_dir`. Blocking."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from haven_vlm.errors import BusyError, DependencyError
from haven_vlm.other_programs import bare
from haven_vlm.pip_calls import PipFailed, install_wheels, reason
from haven_vlm.run_lock import wait_lock

log = logging.getLogger(__name__)

PACKAGE = "vlm-engine==1.1.0"
"""The version whose ways the adapter knows."""

NEEDED_GB = 10
"""Room that torch and its companions take while they are unpacked; 7 GB stay."""

ISOLATED = "-I"
"""How its Python is always started: with nothing from the working directory, from PYTHONPATH or from the user's own
packages."""

_VENV_TIMEOUT_S = 600.0
_INSTALL_TIMEOUT_S = 3600.0
_PROBE = "import importlib.metadata as m; print(m.version('vlm-engine'))"


def python_of(home: Path, named: Path | None, *, base: Path = Path(sys.executable)) -> Path:
    """The Python to run the package with; installs the package when nothing is named and it is not there yet.

    Args:
        home: folder for an environment of its own.
        named: what the settings name; nothing is ever installed there.
        base: the Python that makes the environment.

    Raises:
        DependencyError: it is not there and cannot be made; says what to do.
        BusyError: another run installs it.
    """
    if named is not None:
        if (problem := _problem(named)) is not None:
            raise DependencyError(
                f"The Python that vlm_engine.python names ({named}) does not have vlm-engine: {problem}. "
                f"Install it there ({named} -m pip install {PACKAGE}), or leave the setting empty."
            )
        return named
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = home / "complete.txt"
    if done.is_file() and python.exists():
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = wait_lock(home.with_suffix(".lock"), patience_s=_INSTALL_TIMEOUT_S)
    if lock is None:
        raise BusyError("Another run is installing vlm-engine. Start again when it is done.")
    with lock:
        if not done.is_file():
            _install(home, python, base)
            done.write_text(PACKAGE + "\n", encoding="utf-8")
    return python


def _problem(python: Path) -> str | None:
    """Why this Python cannot run the package; None: it can."""
    try:
        _run([str(python), ISOLATED, "-c", _PROBE], timeout_s=60)
    except PipFailed as exc:
        return str(exc)
    return None


def _run(line: list[str], *, timeout_s: float) -> None:
    """Run a Python that is to see nothing of ours.

    Raises:
        PipFailed: it says no, or does not run.
    """
    try:
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=bare(os.environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PipFailed(str(exc)) from exc
    if done.returncode:
        raise PipFailed(reason(done.stderr or done.stdout))


def _install(home: Path, python: Path, base: Path) -> None:
    """Make the environment anew; what was installed is kept with the hash of each file."""
    free_gb = shutil.disk_usage(home.parent).free / 1e9
    if free_gb < NEEDED_GB:
        raise DependencyError(
            f"vlm-engine needs {NEEDED_GB} GB to be installed, and only {free_gb:.1f} GB are free at {home.parent}. "
            "Make room, set data_dir to a larger disk, or use the built-in engine (engine: built-in)."
        )
    log.warning("Installing vlm-engine and what it needs into %s: some 3 GB to download, 7 GB on disk; once", home)
    shutil.rmtree(home, ignore_errors=True)
    try:
        _run([str(base), ISOLATED, "-m", "venv", str(home)], timeout_s=_VENV_TIMEOUT_S)
        pip = [str(python), ISOLATED, "-m", "pip"]
        report = install_wheels(pip, [PACKAGE], report=home / "report.json", timeout_s=_INSTALL_TIMEOUT_S)
    except PipFailed as exc:
        shutil.rmtree(home, ignore_errors=True)
        raise DependencyError(
            f"vlm-engine could not be installed: {exc}. It needs torch and decord, which exist for Linux with "
            "glibc on x86-64 and for Windows, not for Alpine (Stash's own image) or ARM. The built-in engine needs "
            "neither (engine: built-in); or name a Python that has it in vlm_engine.python."
        ) from exc
    (home / "installed.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
