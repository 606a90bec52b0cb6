"""A repository to package, a web server for what was built, and Stash's package manager played by its own rules."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from release.package import PACKED, PLUGIN, ROOT


class Repository:
    """The plugin's files as they are now, in a git repository of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for pattern in (*PACKED, "pyproject.toml"):
            for file in ROOT.glob(pattern.replace("/*", "/**/*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    target = folder / file.relative_to(ROOT)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
        self.git("init", "-q")
        self.commit("2026-01-02T03:04:05Z")

    def git(self, *arguments: str, **environ: str) -> str:
        identity = ["-c", "user.name=Coach", "-c", "user.email=coach@court.example", "-c", "core.autocrlf=false"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, env=os.environ | environ, capture_output=True, check=True
        )
        return done.stdout.decode()

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")

    def commit(self, moment: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x", GIT_AUTHOR_DATE=moment, GIT_COMMITTER_DATE=moment)


def install(source: Path, plugins: Path, plugin_id: str = PLUGIN) -> Path:
    """Install or update a package as Stash does (pkg/pkg/manager.go); returns its folder.

    What an earlier installation has listed in `manifest` is deleted, then the zip is unpacked over what is left.
    """
    index = yaml.safe_load((source / "index.yml").read_text(encoding="utf-8"))
    (entry,) = [e for e in index if e["id"] == plugin_id]
    data = (source / entry["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    home = plugins / plugin_id
    manifest = home / "manifest"
    if manifest.exists():
        for name in yaml.safe_load(manifest.read_text(encoding="utf-8"))["files"]:
            (home / name).unlink(missing_ok=True)
        manifest.unlink()
    names = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            target = home / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(info))
            target.chmod(info.external_attr >> 16 & 0o777)
            names.append(info.filename)
    kept: dict[str, Any] = {key: entry[key] for key in ("id", "name", "version", "date", "metadata")}
    manifest.write_text(yaml.safe_dump(kept | {"files": names}), encoding="utf-8")
    return home


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on loopback for a folder; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
