"""The folder of a collection: pictures, lines, and what makes it survive a kill. Blocking; runs in a thread.

Pictures are on disk before the line that names them, and a line before the ledger remembers its correction. A folder
that is being filled holds a file `.unfinished`; the next collection goes on there, after the last whole line.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from haven_vlm.collection import examples
from haven_vlm.errors import BusyError, HavenError
from haven_vlm.run_lock import FileLock, try_lock

LINES = "corrections.jsonl"
UNFINISHED = ".unfinished"


class CollectionFolder:
    """One collection; opened by `open`, made on the disk with its first line.

    Raises, everywhere:
        HavenError: the folder cannot be written.
    """

    def __init__(self, root: Path, stamp: str) -> None:
        """
        Args:
            root: folder of all collections.
            stamp: name for a new one, free of characters that any system refuses.
        """
        self._root = root
        self._lock: FileLock | None = None
        self.path = root / stamp
        self.lines = 0
        """Lines written, those of an interrupted collection included."""
        self._handle: Any = None

    @property
    def name(self) -> str:
        """The folder's name, by which the ledger remembers it."""
        return self.path.name

    def open(self) -> list[int]:
        """Take hold of the folder; returns the numbers of corrections that an interrupted collection holds already.

        Raises:
            BusyError: another collection is at work.
        """
        with _said(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = try_lock(self._root / ".lock")
            if self._lock is None:
                raise BusyError("Another run is collecting corrections; start again when it is done.")
            interrupted = sorted(self._root.glob(f"*/{UNFINISHED}"))
            if not interrupted:
                number, wanted = 1, self.path
                while self.path.exists():
                    number += 1
                    self.path = wanted.with_name(f"{wanted.name}-{number}")
                return []
            self.path = interrupted[-1].parent
            return self._recover()

    def _recover(self) -> list[int]:
        file = self.path / LINES
        held: list[int] = []
        whole = 0
        if file.exists():
            with file.open("rb") as handle:
                for line in handle:
                    if not line.endswith(b"\n"):
                        break  # a kill or a power cut in the middle of it
                    try:
                        content = json.loads(line)
                    except ValueError:
                        break
                    whole += len(line)
                    self.lines += 1
                    if "problem" not in content or content.get("gone"):
                        held.append(int(content["correction"]))
            os.truncate(file, whole)
        return held

    def add(self, lines: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> None:
        """Put pictures (path inside the folder → JPEG) and lines on the disk; on return they survive a power cut."""
        with _said(self.path):
            if self._handle is None:
                (self.path / "frames").mkdir(parents=True, exist_ok=True)
                (self.path / UNFINISHED).touch()
                self._handle = (self.path / LINES).open("ab")
            for name, jpeg in pictures.items():
                with (self.path / name).open("wb") as picture:
                    picture.write(jpeg)
                    picture.flush()
                    os.fsync(picture.fileno())
            for line in lines:
                self._handle.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                self.lines += 1
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def finish(self, terms: Sequence[str]) -> None:
        """Write the chats for fine-tuning, of what may leave and of what must not apart, and call it finished."""
        with _said(self.path):
            if not (self.path / UNFINISHED).exists():
                return
            for name, local_only in (("training.jsonl", False), ("training.local-only.jsonl", True)):
                self._write_examples(self.path / name, terms, local_only=local_only)
            (self.path / UNFINISHED).unlink()

    def _write_examples(self, file: Path, terms: Sequence[str], *, local_only: bool) -> None:
        chats = (
            json.dumps(chat, ensure_ascii=False, separators=(",", ":"))
            for line in self._read()
            if line["local_only"] is local_only
            for chat in examples(line, terms)
        )
        part = file.with_name(f".{file.name}.part")
        some = False
        with part.open("w", encoding="utf-8", newline="\n") as handle:
            for chat in chats:
                some = True
                handle.write(chat + "\n")
        if some:
            os.replace(part, file)
        else:
            part.unlink()

    def _read(self) -> Iterator[dict[str, Any]]:
        if not (self.path / LINES).exists():
            return  # a kill before the first line, and nothing to collect since
        with (self.path / LINES).open(encoding="utf-8") as handle:
            for line in handle:
                yield json.loads(line)

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


@contextlib.contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HavenError(
            f"The collection cannot be written to {folder}: {exc.strerror or exc}. Make room there or set data_dir to "
            "another folder, then start again; what was collected is kept."
        ) from exc
