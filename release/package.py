"""`python3 -m release.package FOLDER` builds a package source for Stash: `index.yml` and the zips it names.

Put the folder on any web server (or name it by a file address), and add the address of `index.yml` in Stash under
Settings → Plugins → Available Plugins → Add Source. What Stash expects is in its pkg/pkg.

The same commit gives the same bytes, on every machine: files come from the commit and not from the working copy,
in a fixed order, with the commit's time, and packed without compression (compressed bytes depend on the version of
the library that makes them; the plugin is small).
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "ahavenvlmconnector"

PACKED = (
    f"{PLUGIN}.yml",
    "haven_*.py",
    "haven_vlm/*",
    "page/*",
    "docs/*.md",
    "docs/pictures/*.png",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "requirements.txt",
)
"""What the plugin and its user need, as patterns of paths in the repository; `*` takes slashes, too."""

OF_STASH = "manifest"
"""The file in which Stash keeps what it installed; a package must not bring one along."""


class PackageError(Exception):
    """The package cannot be built; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """A zip and its entry in the index."""

    zip_name: str
    zip_bytes: bytes
    entry: Mapping[str, Any]


def own_package(root: Path, commit: str = "HEAD", *, available: Sequence[str] = ()) -> Package:
    """The plugin as it stands in a commit.

    Args:
        root: the repository.
        commit: anything git takes for one.
        available: ids of the other packages of the index. Of those that the manifest requires, only these are
            named: Stash's page looks for a requirement in the same index, and the plugin runs without, too.

    Raises:
        PackageError: git cannot, or something does not fit together.
    """
    sha = _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    moment = datetime.datetime.fromtimestamp(int(_git(root, "show", "-s", "--format=%ct", sha)), datetime.UTC)
    files = {name: data for name, data in _files(root, sha).items() if _is_packed(name)}
    if f"{PLUGIN}.yml" not in files:
        raise PackageError(f"the commit {sha[:7]} holds no {PLUGIN}.yml")
    wanted = _required(files[f"{PLUGIN}.yml"].decode())
    return _package(PLUGIN, files, moment, sha[:7], [name for name in wanted if name in available])


def other_package(folder: Path) -> Package:
    """Another plugin's folder, such as PythonDepManager's, for the same index.

    Its date is that of the last commit that touched it, or of its newest file when git knows nothing of it.

    Raises:
        PackageError: there is not exactly one manifest in it.
    """
    manifests = sorted(folder.glob("*.yml"))
    if len(manifests) != 1:
        raise PackageError(f"{folder} must hold exactly one manifest (*.yml); it holds {len(manifests)}")
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    try:
        newest = int(_git(folder, "log", "-1", "--format=%ct", "--", "."))
    except (PackageError, ValueError):
        newest = max(int(p.stat().st_mtime) for p in paths)
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    moment = datetime.datetime.fromtimestamp(newest, datetime.UTC)
    return _package(manifests[0].stem, files, moment, digest[:7], _required(manifests[0].read_text(encoding="utf-8")))


def index_of(packages: Sequence[Package]) -> str:
    """The text of `index.yml`."""
    return yaml.safe_dump(
        [dict(p.entry) for p in packages], sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=False
    )


def check_release(root: Path, commit: str, tag: str) -> None:
    """See that a tag, the manifest, pyproject.toml and the changelog speak of the same version.

    Raises:
        PackageError: naming those that do not.
    """
    version = tag.removeprefix("v")
    files = _files(root, commit)
    found = {
        f"{PLUGIN}.yml": rf"^version: *{re.escape(version)} *$",
        "pyproject.toml": rf'^version = "{re.escape(version)}"$',
        "CHANGELOG.md": rf"^## {re.escape(version)} – \d{{4}}-\d\d-\d\d$",
    }
    wrong = [name for name, line in found.items() if not re.search(line, files.get(name, b"").decode(), re.M)]
    if wrong:
        raise PackageError(
            f"the tag {tag} says version {version}; {', '.join(wrong)} "
            f"{'does' if len(wrong) == 1 else 'do'} not (a released version has its date in the changelog)"
        )


def write_source(folder: Path, packages: Sequence[Package]) -> None:
    """Write zips and index. The index comes last: what it names is there.

    Raises:
        PackageError: the folder lies inside the repository, where Stash would take the index for a plugin.
    """
    if folder.resolve().is_relative_to(ROOT):
        raise PackageError(f"{folder} lies inside the repository; choose a folder elsewhere, such as ../package-source")
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        (folder / package.zip_name).write_bytes(package.zip_bytes)
    (folder / "index.yml").write_text(index_of(packages), encoding="utf-8", newline="\n")


def _package(
    plugin_id: str, files: Mapping[str, bytes], moment: datetime.datetime, build: str, requires: Sequence[str]
) -> Package:
    manifest = yaml.safe_load(files[f"{plugin_id}.yml"])
    if OF_STASH in files:
        raise PackageError(f"{plugin_id}: a file called “{OF_STASH}” would be overwritten by Stash's own")
    data = _zip(files, moment)
    version = f"{manifest.get('version', '0')}-{build}"
    # the version in its name: no cache on the way can pair an old zip with a new index
    zip_name = f"{plugin_id}-{version}.zip"
    entry: dict[str, Any] = {
        "id": plugin_id,
        "name": str(manifest["name"]),
        "version": version,
        # UTC, and the only thing Stash compares when it looks for updates
        "date": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "path": zip_name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "metadata": {"description": str(manifest.get("description", ""))},
    }
    if requires:
        entry["requires"] = list(requires)
    return Package(zip_name, data, entry)


def _zip(files: Mapping[str, bytes], moment: datetime.datetime) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, moment.timetuple()[:6])
            info.create_system = 3  # Unix, on every machine
            info.external_attr = 0o100644 << 16  # Stash gives its files these modes; none would make them unreadable
            archive.writestr(info, files[name])
    return made.getvalue()


def _required(manifest: str) -> list[str]:
    """Ids behind `# requires:`, the convention of the community's scripts."""
    lines = re.findall(r"^# requires:(.*)$", manifest, re.M)
    return [name for line in lines for name in re.split(r"[,\s]+", line) if name]


def _is_packed(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PACKED)


def _files(root: Path, commit: str) -> dict[str, bytes]:
    # as they were committed: no line endings of this machine
    data = _git(root, "-c", "core.autocrlf=false", "-c", "core.eol=lf", "archive", "--format=tar", commit)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: f.read() for m in archive if m.isfile() and (f := archive.extractfile(m)) is not None}


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except OSError as exc:
        raise PackageError(f"git cannot be run: {exc}") from exc
    if done.returncode:
        raise PackageError(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def parser() -> argparse.ArgumentParser:
    """What may stand on the command line."""
    made = argparse.ArgumentParser(prog="python3 -m release.package", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("folder", type=Path, help="where index.yml and the zips go")
    made.add_argument("--commit", default="HEAD", help="what to package (default HEAD)")
    made.add_argument("--tag", help="refuse unless manifest, pyproject.toml and changelog have this version")
    made.add_argument(
        "--also", type=Path, action="append", default=[], metavar="FOLDER",
        help="another plugin for the same index, such as PythonDepManager's folder; repeatable",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """Build the package source; returns an exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.tag:
            check_release(ROOT, options.commit, options.tag)
        others = [other_package(folder) for folder in options.also]
        own = own_package(ROOT, options.commit, available=[str(p.entry["id"]) for p in others])
        write_source(options.folder, [own, *others])
    except PackageError as exc:
        print(f"Not built: {exc}", file=sys.stderr)
        return 1
    for package in (own, *others):
        print(f"{package.entry['sha256']}  {options.folder / package.zip_name}")
    print(f"Serve {options.folder} with a web server, and add the address of its index.yml in Stash as a source.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
