"""The user's file of settings, as far as the connector may write there: a proposal beside it, and applying one.

Nothing is written into the user's own file but what a proposal changes, only when asked, and with a copy kept of what
it was before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from haven_vlm.errors import ConfigError
from haven_vlm.files import write_atomically
from haven_vlm.yaml_edit import KEY, Changes, Entry, block, expected, with_tag_settings

PROPOSED = "haven_vlm_config.proposed.yaml"


class SettingsFile:
    """`haven_vlm_config.yaml` and the proposal for it. Blocking and quick."""

    def __init__(
        self,
        file: Path,
        *,
        spare_dir: Path,
        parse: Callable[[str, str], Mapping[str, Any]],
        outline: Callable[[str], Sequence[Entry]],
    ) -> None:
        """
        Args:
            file: the YAML file that holds; it need not be there yet.
            spare_dir: where the proposal goes if the file's own folder cannot be written to.
            parse: reads YAML; text and a name for messages.
            outline: tells where its keys stand.
        """
        self.path = file
        self._places = [file.with_name(PROPOSED), spare_dir / PROPOSED]
        self._parse = parse
        self._outline = outline

    def propose(self, text: str) -> Path:
        """Write a proposal beside the file, in place of the one before; returns where it is.

        Raises:
            ConfigError: it cannot be written anywhere.
        """
        problems = []
        for place in self._places:
            try:
                write_atomically(place, text)
            except OSError as exc:
                problems.append(f"{place}: {exc}")
                continue
            return place
        raise ConfigError(f"The proposal cannot be written: {'; '.join(problems)}")

    def withdraw(self) -> None:
        """Delete a proposal that does not hold any more."""
        for place in self._places:
            place.unlink(missing_ok=True)

    def proposal(self) -> tuple[Path, Mapping[str, Any]] | None:
        """The latest proposal, and where it is; None when there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        there = [place for place in self._places if place.is_file()]
        if not there:
            return None
        latest = max(there, key=lambda place: place.stat().st_mtime)
        return latest, self._parse(self._read(latest), str(latest))

    def apply(self, changes: Changes, *, now: datetime) -> Path | None:
        """Merge these settings of tags into the file; returns the copy of what it was, None if it was not there.

        Raises:
            ConfigError: it cannot be read or written, or cannot be changed without touching other lines.
        """
        text = self._read(self.path) if self.path.exists() else ""
        before = self._parse(text, str(self.path))
        values = {tag: {k: self._value(v.text) for k, v in s.items()} for tag, s in changes.items()}
        changed = with_tag_settings(text, self._outline(text), before.get(KEY), changes)
        try:
            after = self._parse(changed, str(self.path))
        except ConfigError:
            after = {}
        if after != {**before, KEY: expected(before.get(KEY), values)}:
            raise ConfigError(
                f"{self.path} is written in a way that cannot be changed safely; nothing was changed. Put this into it "
                f"yourself:\n{block(changes)}"
            )
        try:
            return self._replace(changed, now)
        except OSError as exc:
            raise ConfigError(f"{self.path} cannot be written: {exc}. Nothing was changed.") from exc

    def _replace(self, text: str, now: datetime) -> Path | None:
        file = Path(os.path.realpath(self.path))  # a link stays one, and its target is written
        if not file.exists():
            write_atomically(file, text)
            return None
        copy = file.with_name(f"{file.name}.{now:%Y%m%d-%H%M%S}.backup")
        shutil.copy2(file, copy)
        mode = file.stat().st_mode
        bom = "\ufeff" if file.read_bytes().startswith(b"\xef\xbb\xbf") else ""
        write_atomically(file, bom + text)
        file.chmod(mode & 0o7777)
        return copy

    def _value(self, text: str) -> object:
        return self._parse(f"value: {text}", "a proposed value")["value"]

    def _read(self, file: Path) -> str:
        try:
            with file.open(encoding="utf-8-sig", newline="") as handle:  # line ends stay as they are
                return handle.read()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{file} cannot be read: {exc}") from exc
