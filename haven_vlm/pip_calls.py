"""Calls of pip: wheels only, by way of the index and proxy that the user's pip uses, and told nothing else. Blocking.

Nothing here needs more than the standard library.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from haven_vlm.other_programs import bare

INSTALL_TIMEOUT_S = 1800.0
"""A slow NAS on a slow line needs minutes for about 50 MB of wheels."""
_CONFIG_TIMEOUT_S = 60.0


class PipFailed(Exception):
    """Pip ran and said no, or could not be run at all; its text is one line without any address."""


def install_wheels(
    pip: Sequence[str],
    specs: Sequence[str],
    *,
    report: Path,
    target: Path | None = None,
    timeout_s: float = INSTALL_TIMEOUT_S,
) -> list[dict[str, str]]:
    """Let pip install packages, never by running their code: what exists only as source is not installed.

    Args:
        pip: how pip is started, see `pip_of`.
        specs: what to install, as 'pillow>=10.4,<15'.
        report: a file that may be written, and is gone afterwards.
        target: folder to install into; None: the environment that pip belongs to.
        timeout_s: seconds until it is ended.

    Returns:
        Name, version and hash of each package; none from a pip that is too old to tell.

    Raises:
        PipFailed: why it did not work.
    """
    options = ["install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:"]
    options += ["--target", str(target)] if target else []
    environ = pip_environment(os.environ, user_settings(pip, os.environ))
    # --report came with pip 22.2, so an old pip is asked once more without
    for extra in (["--report", str(report)], []):
        run = _run([*pip, *options, *extra, *specs], environ, timeout_s)
        if run.returncode == 0:
            break
        if "no such option: --report" not in run.stderr:
            raise PipFailed(reason(run.stderr))
    installed = []
    if report.is_file():
        for item in json.loads(report.read_text(encoding="utf-8")).get("install", []):
            archive = item.get("download_info", {}).get("archive_info", {})
            sha = archive.get("hashes", {}).get("sha256") or "hash unknown"
            meta = item.get("metadata", {})
            installed.append({"name": meta.get("name", "?"), "version": meta.get("version", "?"), "hash": sha})
        report.unlink()  # it names addresses that are nobody's business later
    return installed


def _run(line: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise PipFailed(f"pip did not come to an end within {timeout_s / 60:.0f} minutes") from exc
    except OSError as exc:
        raise PipFailed(f"pip could not be run: {exc}") from exc


def pip_of(python: str) -> list[str]:
    """How pip is started: the one that is installed, else the one that comes with Python, straight from its wheel."""
    # -P: Python would import from the working directory, and that is whatever Stash was started in
    if python == sys.executable and importlib.util.find_spec("pip") is None:
        for folder in _wheel_folders():
            for wheel in sorted(folder.glob("pip-*.whl")):
                return [python, "-P", str(wheel / "pip")]
    return [python, "-P", "-m", "pip"]


def _wheel_folders() -> list[Path]:
    """Where a Python keeps pip's wheel for new environments; Debian and Fedora have a folder of their own for it."""
    folders = []
    with contextlib.suppress(ImportError):
        folders.append(Path(importlib.import_module("ensurepip").__file__ or "").parent / "_bundled")
    if shared := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.append(Path(shared))
    return folders


# --- the user's settings of pip -------------------------------------------------------------------------------

_REACHING = frozenset(
    {
        "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert",
        "timeout", "default-timeout", "retries", "resume-retries", "cache-dir", "no-cache-dir", "keyring-provider",
        "use-feature", "use-deprecated", "uploaded-prior-to",
    }
)  # fmt: skip
"""Settings of pip that say where packages come from, and how they are reached. No other counts: it could be meant for
the user's own packages only (a constraint), or lead elsewhere (a prefix), or leave out what is needed (no-deps)."""

_SEEN_BY_PIP = frozenset(
    {
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NIX_SSL_CERT_FILE", "NETRC",
        "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND",
        "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE",
    }
)  # fmt: skip
"""Certificates, folders of pip's own files, the way to a keyring, and where pip itself may lie."""


def pip_environment(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: index, proxy, certificates and cache as the user has them, and no configuration file.

    `--isolated` would ignore those that an installation behind a proxy, or from a mirror, cannot do without.

    Args:
        environ: our own.
        settings: of the user's configuration files, see `user_settings`; what the environment says wins.
    """
    found = {_variable(name): value for name, value in settings.items() if name in _REACHING}
    found |= {k.upper(): v for k, v in environ.items() if k.upper() in map(_variable, _REACHING) and v}
    return _surroundings(environ) | found | {"PIP_CONFIG_FILE": os.devnull}


def user_settings(pip: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What the configuration files of the user's pip say of installing: option → value. Nothing where that fails."""
    surroundings = _surroundings(environ)
    # 0: a file may ask pip to be quiet, and then it would list nothing
    surroundings |= {"PIP_QUIET": "0", "PIP_VERBOSE": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if file := environ.get("PIP_CONFIG_FILE"):
        surroundings["PIP_CONFIG_FILE"] = file
    try:
        listed = _run([*pip, "config", "list"], surroundings, _CONFIG_TIMEOUT_S)
    except PipFailed:
        return {}
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for line in listed.stdout.splitlines():
        key, _, text = line.partition("=")
        section, _, name = key.partition(".")
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(text)  # pip writes each as Python would
            if section in sections and isinstance(value, str) and value.strip():
                sections[section][name] = " ".join(value.split())  # a list may stand on several lines
    return sections["global"] | sections["install"]


def _surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """All but pip's own settings: without any key, whatever it is called."""
    kept = {
        name: value
        for name, value in environ.items()
        if name.upper() in _SEEN_BY_PIP or name.upper().endswith("_PROXY")
    }
    return bare(environ) | kept | {"PYTHONIOENCODING": "utf-8"}


def _variable(option: str) -> str:
    return "PIP_" + option.upper().replace("-", "_")


# --- what pip says --------------------------------------------------------------------------------------------

_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Connection (?:refused|reset)"
    r"|Temporary failure in name resolution|Max retries exceeded|connection broken by",
    re.I,
)


def reason(said: str) -> str:
    """What the complaints of pip, or of venv, come to: one line without any address."""
    if "ensurepip is not available" in said:
        return (
            "this Python cannot make environments: install what it lacks (Debian and Ubuntu: apt install python3-venv)"
        )
    if "No module named pip" in said:
        return (
            "pip is not installed for this Python: install it (Debian and Ubuntu: apt install python3-pip, Alpine: "
            "apk add py3-pip) and start the task again"
        )
    if _UNREACHABLE.search(said):
        return "the package registry cannot be reached: is this machine online, and does it need HTTPS_PROXY?"
    if "No space left on device" in said:
        return "the disk is full"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    worst = next((line for line in reversed(lines) if line.lower().startswith("error")), (lines or ["?"])[-1])
    worst = re.sub(r"\(from [^)]*\)|\bhost='[^']*'|\S*://\S*", "", worst)
    return " ".join(worst.split())[:300]
