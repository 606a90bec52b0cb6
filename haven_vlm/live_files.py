"""Where the files of the page lie, and reading them: needs nothing but the standard library, and starts at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "live"
FILES: Mapping[str, str] = {"status": "status.json", "runs": "runs.json", "check": "check.json"}
"""Operations of the page that answer with a file → its name."""


def folders(plugin_dir: Path, data_dir: Path) -> tuple[Path, Path]:
    """Where the folder may lie: in the plugin's assets, else in the data folder."""
    return plugin_dir / FOLDER, data_dir / FOLDER


def read_json(file: Path) -> dict[str, Any] | None:
    """An object from a file; None when there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_newest(plugin_dir: Path, data_dir: Path, name: str) -> dict[str, Any] | None:
    """The file of this name from whichever of the two folders was written to last."""

    def written(folder: Path) -> float:
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            return -1.0

    newest = max(folders(plugin_dir, data_dir), key=written)
    return read_json(newest / name)


def from_file(op: str, plugin_dir: Path, data_dir: Path) -> dict[str, Any] | None:
    """The reply of `status`, `runs` or `check`; None when there is no such file yet."""
    return read_newest(plugin_dir, data_dir, FILES[op])
