"""`python3 -m release.audit` asks pip-audit whether the packages of the product have known vulnerabilities.

That needs the network. Where it cannot be had, this says so and passes: a check must not depend on it. With `--strict`
(as in the workflow) a vulnerability is a failure, and so is a package that could not be looked up; without, it is told.
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


def read(answer: str, packages: set[str]) -> tuple[list[str], list[str], int]:
    """What pip-audit's JSON says of these packages: vulnerabilities, names it could not look up, how many it could."""
    vulnerable, skipped, checked = [], [], 0
    for item in json.loads(answer)["dependencies"]:
        if plain(item["name"]) not in packages:
            continue
        if "skip_reason" in item:
            skipped.append(item["name"])
            continue
        checked += 1
        for hole in item.get("vulns", []):
            mended = ", ".join(hole.get("fix_versions", [])) or "no release yet"
            vulnerable.append(f"{item['name']} {item['version']}: {hole['id']} (mended in {mended})")
    return vulnerable, skipped, checked


def main(arguments: Sequence[str]) -> int:
    """Audit the packages that are installed beside this Python; returns an exit code."""
    packages = product_packages((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    line = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    vulnerable: list[str] = []
    skipped: list[str] = []
    checked, unknown = 0, ""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        vulnerable, skipped, checked = read(done.stdout, packages)
    except subprocess.TimeoutExpired:
        unknown = f"no answer within {PATIENCE_S} seconds"
    except (ValueError, KeyError, TypeError):  # its own words name addresses
        unknown = "pip-audit failed; can the service that knows vulnerabilities be reached from here?"
    if skipped:
        unknown = f"{', '.join(sorted(skipped))} could not be looked up"
    elif not checked and not unknown:
        unknown = "none of the packages could be looked up"
    if unknown:
        print(f"audit: NOT CHECKED: {unknown}")
    if checked:
        print("\n".join(vulnerable) or f"audit: no known vulnerability in {checked} of {len(packages)} packages")
    return 1 if (vulnerable or unknown) and "--strict" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
