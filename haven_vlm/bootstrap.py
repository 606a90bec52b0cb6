"""Make the packages the connector needs importable, with as little work as possible.

In this order: the private folder, once it was needed; already importable and recent enough (both: no subprocess,
no network) → PythonDepManager, the community's plugin for that → a private folder filled by pip → one clear
sentence. Nothing here runs at import time, and nothing here needs more than the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from haven_vlm.errors import DependencyError
from haven_vlm.pip_calls import INSTALL_TIMEOUT_S, PipFailed, install_wheels, pip_of
from haven_vlm.run_lock import wait_lock
from haven_vlm_utility import count_text

log = logging.getLogger(__name__)

KEPT_UNUSED_S = 30 * 24 * 3600
"""Private folders of other Pythons, or for other requirements, go when they have not been used for so long."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One package, by the two names it goes by."""

    import_name: str
    pip_name: str
    minimum: str
    below: str = ""
    """The first release that is not known to work, a major one as a rule; empty: none."""

    @property
    def pip_spec(self) -> str:
        """For pip: 'pillow>=10.4,<15'."""
        return f"{self.pip_name}>={self.minimum}" + (f",<{self.below}" if self.below else "")

    @property
    def manager_spec(self) -> str:
        """For PythonDepManager, which imports what it installed and knows no upper bounds: 'PIL:pillow>=10.4'."""
        return f"{self.import_name}:{self.pip_name}>={self.minimum}"

    def admits(self, version: str) -> bool:
        """Whether a release will do; what pip left half done can have no version at all."""
        found = _release(version)
        return bool(version) and found >= _release(self.minimum) and not (self.below and found >= _release(self.below))


REQUIREMENTS = (
    Requirement("aiohttp", "aiohttp", "3.10.11", "4"),
    Requirement("av", "av", "18.1", "20"),
    Requirement("PIL", "pillow", "10.4", "15"),
    Requirement("pydantic", "pydantic", "2.8", "3"),
    Requirement("yaml", "PyYAML", "6.0", "7"),
    Requirement("stashapi", "stashapp-tools", "0.2.58", "0.3"),
)


def ensure_dependencies(
    plugin_dir: Path,
    *,
    spare_dir: Path | None = None,
    requirements: Sequence[Requirement] = REQUIREMENTS,
    python: str | None = None,
    distrust_installed: bool = False,
) -> str:
    """Make every requirement importable; returns where they come from, in words.

    Args:
        plugin_dir: folder of the plugin; the private folder lies in it.
        spare_dir: where the private folder lies when `plugin_dir` cannot be written.
        requirements: what is needed.
        python: interpreter that runs pip; this one by default.
        distrust_installed: something importable turned out to be broken (built for another Python, half
            installed): use a fresh private folder.

    Raises:
        DependencyError: something is missing and cannot be installed here; says what and how.
    """
    python = python or sys.executable
    homes = [plugin_dir / ".python", *([spare_dir / "python"] if spare_dir else [])]
    folder_name = _folder_name(requirements)
    if not distrust_installed:
        # first, because it was made for a reason: what else is importable was missing, too old or broken; a person
        # who was told to fill it by hand leaves no note of being complete there
        for home in homes:
            if _complete(home / folder_name) or _holds(home / folder_name, requirements):
                _use([home / folder_name])
                if not missing(requirements):
                    with contextlib.suppress(OSError):
                        os.utime(home / folder_name)
                    return f"private folder {home / folder_name}"
        if not missing(requirements):
            return "already installed"
        _use(_managed_folders(plugin_dir.parent / "py_dependencies", requirements))
        if not missing(requirements):
            return "installed by PythonDepManager"
        if _ask_manager(requirements) and not missing(requirements):
            return "installed by PythonDepManager"
    problem = target = ""
    for home in homes:
        # a folder that says it is complete and still lacks something was damaged: it is filled anew
        try:
            folder = _install(
                home, folder_name, requirements, python, anew=distrust_installed or _complete(home / folder_name)
            )
        except OSError as exc:  # read-only plugin folder, disk full
            problem = str(exc)
            continue
        except PipFailed as exc:
            problem = _explained(str(exc))
            # Debian, Ubuntu and Alpine let nobody install beside their own packages, but into a folder
            target = f'--target "{home / folder_name}" '
            break
        _use([folder])
        if not missing(requirements):
            return f"private folder {folder}"
    names = ", ".join(r.pip_name for r in missing(requirements)) or "all packages"
    specs = " ".join(f'"{r.pip_spec}"' for r in requirements)
    raise DependencyError(
        f"Python packages are missing ({names}) and could not be installed"
        f"{f' ({problem})' if problem else ''}. Install them for {python} by hand: "
        f"{python} -m pip install {target}{specs}"
    )


def missing(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Those that are not importable, too old or too new. Costs no subprocess and imports nothing."""
    return [r for r in requirements if not _importable(r)]


def _importable(requirement: Requirement) -> bool:
    try:
        if importlib.util.find_spec(requirement.import_name) is None:
            return False
        found = _told(importlib.metadata.distribution(requirement.pip_name), "Version")
    except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
        return False
    return requirement.admits(found)


def _told(distribution: importlib.metadata.Distribution, field: str) -> str:
    """What a package says of itself; empty where pip left it half done, which Python 3.15 makes an error of."""
    try:
        said = distribution.metadata
    except OSError:
        return ""
    return str((said.get_all(field) or [""])[0])


def _release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: enough to compare a release with a lower bound."""
    numbers = []
    for part in version.split("."):
        digits = "".join(c for c in part[: len(part) - len(part.lstrip("0123456789"))])
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()  # 15.0 and 15 are the same release
    return tuple(numbers)


def _use(folders: Iterable[Path]) -> None:
    for folder in folders:
        text = str(folder)
        if text not in sys.path:
            sys.path.insert(0, text)
    importlib.invalidate_caches()


# --- PythonDepManager -----------------------------------------------------------------------------------------


def _managed_folders(base: Path, requirements: Iterable[Requirement]) -> list[Path]:
    """Folders PythonDepManager has filled before: using them directly saves its two subprocesses a run."""
    chosen = []
    for requirement in requirements:
        candidates = []
        with contextlib.suppress(OSError):
            for folder in base.glob(f"{requirement.import_name}_*"):
                found = _version_in(folder, requirement.pip_name)
                if found and requirement.admits(found):
                    candidates.append((_release(found), folder))
        if candidates:
            chosen.append(max(candidates, key=lambda pair: pair[0])[1])
    return chosen


def _holds(folder: Path, requirements: Iterable[Requirement]) -> bool:
    """Whether all of them lie in one folder; what is half there must not hide what is whole elsewhere."""
    return folder.is_dir() and all(r.admits(_version_in(folder, r.pip_name) or "") for r in requirements)


def _version_in(folder: Path, pip_name: str) -> str | None:
    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        if plain(_told(distribution, "Name")) == plain(pip_name):
            return _told(distribution, "Version")
    return None


def _ask_manager(requirements: Sequence[Requirement]) -> bool:
    """Let PythonDepManager install; False when it is not there or cannot."""
    if shutil.which("git") is None:
        return False  # it insists on git, and reports its absence as an error in the user's log
    try:
        manager = importlib.import_module("PythonDepManager")
    except ImportError:
        return False
    log.info("Installing Python packages with PythonDepManager; this happens once and can take some minutes")
    try:
        manager.ensure_import(*(r.manager_spec for r in requirements))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - somebody else's plugin: whatever it raises, we go on
        log.info("PythonDepManager could not install the packages (%s); using a private folder", exc)
        return False
    return True


# --- pip ------------------------------------------------------------------------------------------------------


def _folder_name(requirements: Iterable[Requirement]) -> str:
    """A name that changes with the requirements and with the Python that compiled parts are built for."""
    # a folder of plugins may be shared by machines: by Docker images with another libc, by a NAS with another processor
    libc = platform.libc_ver()[0] or "musl" if sys.platform == "linux" else ""
    abi = "-".join(part for part in (sys.implementation.cache_tag, sysconfig.get_platform(), libc) if part)
    digest = hashlib.sha256("\n".join(sorted(r.pip_spec for r in requirements)).encode()).hexdigest()[:8]
    return f"{abi}-{digest}"


def _complete(folder: Path) -> bool:
    return (folder / "installed.json").is_file()


def _install(home: Path, name: str, requirements: Sequence[Requirement], python: str, *, anew: bool) -> Path:
    """Fill `home/name` with pip, once, whoever else tries at the same time; an interrupted try leaves nothing."""
    home.mkdir(parents=True, exist_ok=True)
    folder = home / name
    lock = wait_lock(home / "lock", patience_s=INSTALL_TIMEOUT_S)  # it vanishes with its process, however that dies
    if lock is None:
        raise PipFailed("another run has been installing packages for too long")
    with lock:
        if not anew and _complete(folder):
            return folder  # the other process was faster
        if folder.exists():
            shutil.rmtree(folder)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=home))
        try:
            log.info("Installing Python packages into %s; this happens once and can take some minutes", folder)
            report = install_wheels(
                pip_of(python), [r.pip_spec for r in requirements], report=part / "report.json", target=part
            )
            (part / "installed.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
            for package in report:
                log.debug("Installed %s %s (%s)", package["name"], package["version"], package["hash"])
            versions = ", ".join(f"{package['name']} {package['version']}" for package in report)
            log.info("Installed %s: %s", count_text(len(report), "package"), versions)
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in home.iterdir():
            # an interrupted try; or what nobody has used for long: another Python may need its own at this moment
            unused = old.is_dir() and old != folder and time.time() - old.stat().st_mtime > KEPT_UNUSED_S
            if old.is_dir() and (".part-" in old.name or unused):
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _explained(problem: str) -> str:
    """Pip's complaint, and for a Python that has just come out, or a rare processor, what it means."""
    if "No matching distribution" not in problem:
        return problem
    version = ".".join(map(str, sys.version_info[:2]))
    return (
        f"{problem}, ready-made for Python {version} on {sysconfig.get_platform()}. Packages exist for Python "
        "3.11 to 3.14 on the systems in docs/platforms.md; in Stash, Settings → System → Python executable path "
        "names the Python"
    )
