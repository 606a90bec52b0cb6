"""`python3 -m release.audit` asks pip-audit whether the packages of the product have known vulnerabilities.

That needs the network. Where it cannot be had, this says so and passes: a check must not depend on it. With `--strict`
(as in the workflow) a vulnerability is a failure; without, it is told.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120


def product_packages(requirements: str) -> set[str]:
    """Names of what a requirements file names and of all that these need in turn, as far as they are installed."""
    names: set[str] = set()
    waiting = [line for line in requirements.splitlines() if line.strip() and not line.startswith(("#", "-"))]
    while waiting:
        line = waiting.pop()
        name = plain(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0])
        if name in names or "extra ==" in line:
            continue
        names.add(name)
        try:
            waiting += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
    return names


def plain(name: str) -> str:
    """A package's name in the one spelling in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(answer: str, packages: set[str]) -> tuple[list[str], int]:
    """What pip-audit's JSON says of these packages: the vulnerabilities, and how many packages it could look up."""
    vulnerable, checked = [], 0
    for item in json.loads(answer)["dependencies"]:
        if plain(item["name"]) not in packages or "skip_reason" in item:
            continue
        checked += 1
        for hole in item.get("vulns", []):
            mended = ", ".join(hole.get("fix_versions", [])) or "no release yet"
            vulnerable.append(f"{item['name']} {item['version']}: {hole['id']} (mended in {mended})")
    return vulnerable, checked


def main(arguments: Sequence[str]) -> int:
    """Audit the packages that are installed beside this Python; returns an exit code."""
    packages = product_packages((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    line = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        vulnerable, checked = read(done.stdout, packages)
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        vulnerable, checked = [], 0
    if not checked:  # its own words name addresses
        print("audit: NOT CHECKED: the service that knows vulnerabilities cannot be reached from here")
        return 0
    print("\n".join(vulnerable) or f"audit: no known vulnerability in {checked} of {len(packages)} packages")
    return 1 if vulnerable and "--strict" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
