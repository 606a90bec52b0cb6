"""`python3 -m release.wheels` asks pip for the wheels of every platform and Python, and prints the table with sizes.

Nothing is installed: `pip download` resolves requirements.txt for machines other than this one. Everything the
connector needs must exist as a wheel, and the sum must stay below `MOST_MB`. `--write` puts the table into
docs/platforms.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "platforms.md"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MOST_MB = 60
PATIENCE_S = 900


def _manylinux(machine: str) -> tuple[str, ...]:
    old = ("manylinux2014", "manylinux2010", "manylinux1") if machine == "x86_64" else ("manylinux2014",)
    return tuple(f"{tag}_{machine}" for tag in (*(f"manylinux_2_{n}" for n in (28, 27, 26, 24, 17, 12, 5)), *old))


def _macos(machine: str, newest: int) -> tuple[str, ...]:
    new = tuple(f"macosx_{n}_0_{kind}" for n in range(newest, 10, -1) for kind in (machine, "universal2"))
    old = range(15, 8, -1) if machine == "x86_64" else ()
    return new + tuple(f"macosx_10_{n}_{kind}" for n in old for kind in (machine, "universal2"))


PLATFORMS: Mapping[str, tuple[str, ...]] = {
    "Linux x86-64 (musl: Alpine, Stash's Docker image)": tuple(f"musllinux_1_{n}_x86_64" for n in (2, 1, 0)),
    "Linux arm64 (musl)": tuple(f"musllinux_1_{n}_aarch64" for n in (2, 1, 0)),
    "Linux x86-64 (glibc 2.28 or newer)": _manylinux("x86_64"),
    "Linux arm64 (glibc 2.28 or newer)": _manylinux("aarch64"),
    "macOS 14 or newer, Apple silicon": _macos("arm64", 14),
    "macOS 14 or newer, Intel": _macos("x86_64", 14),
    "Windows x86-64": ("win_amd64",),
}
"""What people call it → the tags a pip on such a machine accepts, newest first."""


@dataclass(frozen=True, slots=True)
class Found:
    """What pip says of one platform and Python."""

    wheels: Mapping[str, int]
    """File name → bytes."""
    problem: str = ""
    """Why there is no complete set; empty when there is."""

    @property
    def megabytes(self) -> float:
        return sum(self.wheels.values()) / 1e6

    @property
    def fine(self) -> bool:
        return not self.problem and self.megabytes <= MOST_MB

    @property
    def cell(self) -> str:
        if self.problem:
            return f"✗ {self.problem}"
        av = next((re.match(r"av-([\d.]+)-", name) for name in self.wheels if name.startswith("av-")), None)
        return f"{self.megabytes:.0f} MB{'' if self.fine else ' ✗ too large'}" + (f" (PyAV {av[1]})" if av else "")


Ask = Callable[[Sequence[str], str], Found]


def ask_pip(tags: Sequence[str], python: str) -> Found:
    """Let pip find and fetch the wheels for one platform and Python; they are deleted at once."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        line += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python, "--dest", folder]
        for tag in tags:
            line += ["--platform", tag]
        try:
            done = subprocess.run(
                [*line, "-r", str(ROOT / "requirements.txt")],
                capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Found({}, "pip took too long")
        wheels = {file.name: file.stat().st_size for file in sorted(Path(folder).iterdir())}
    return Found(wheels, reason(done.stderr) if done.returncode else "")


def reason(stderr: str) -> str:
    """The one line of pip's complaints that tells what is missing, without any address."""
    lines = [line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.startswith("ERROR")]
    text = next((line for line in lines if "No matching distribution" in line), (lines or ["pip failed"])[-1])
    return re.sub(r"\(from [^)]*\)|\S*://\S*", "", text).strip()[:120]


def table(found: Mapping[tuple[str, str], Found]) -> str:
    """The answers as a table in Markdown: a row per platform, a column per Python."""
    lines = ["| platform | " + " | ".join(f"Python {p}" for p in PYTHONS) + " |", "| --- |" + " --- |" * len(PYTHONS)]
    for platform in PLATFORMS:
        lines.append(f"| {platform} | " + " | ".join(found[platform, p].cell for p in PYTHONS) + " |")
    return "\n".join(lines)


def into_page(page: str, text: str) -> str:
    """The page with its table replaced."""
    start, end = "<!-- wheels -->\n", "\n<!-- end of wheels -->"
    head, begun, rest = page.partition(start)
    _, ended, tail = rest.partition(end)
    if not begun or not ended:
        raise ValueError("docs/platforms.md has lost the marks around its table")
    return head + start + text + end + tail


def main(arguments: Sequence[str], ask: Ask = ask_pip) -> int:
    """Ask, print, perhaps write; returns 1 when a set is incomplete or too large."""
    parser = argparse.ArgumentParser(prog="python3 -m release.wheels", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/platforms.md")
    options = parser.parse_args(arguments)
    found = {}
    for platform, tags in PLATFORMS.items():
        for python in PYTHONS:
            found[platform, python] = ask(tags, python)
            print(f"{platform}, Python {python}: {found[platform, python].cell}", file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    if options.write:
        PAGE.write_text(into_page(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8", newline="\n")
    return 0 if all(f.fine for f in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
