"""Small files of ours: written whole or not at all, and a memory of facts about endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from haven_vlm.own_thread import OwnThread

log = logging.getLogger(__name__)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file (text in UTF-8) so that a reader sees the old or the new content, never half of it.

    On POSIX only the user may read it, and list a folder that had to be made: reports tell what people watch.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


class JsonMemory:
    """Facts kept from run to run in one small JSON file. Losing it costs time, never a result.

    An async context manager: it is read on the way in, and written in a thread of its own, so that nobody waits for
    the disk. Several processes may use the same file: each write reads it anew, so little is lost when two write at
    once.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = {}
        self._thread: OwnThread | None = None

    async def __aenter__(self) -> Self:
        self._thread = OwnThread("memory of endpoints")
        try:
            self._known = await asyncio.wrap_future(self._thread.submit(self._read))
        except BaseException:
            self._thread.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._thread is not None:
            await self._thread.aclose()

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was put under this key last; None when there is nothing usable."""
        value = self._known.get(key)
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Remember `value`, which JSON can hold; a failure to write is logged, not raised."""
        kept = self._known[key] = dict(value)
        assert self._thread is not None
        self._thread.submit(lambda: self._write(key, kept))

    def _write(self, key: str, value: dict[str, Any]) -> None:
        content = self._read()
        if content.get(key) == value:
            return
        content[key] = value
        try:
            write_atomically(self._file, json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True))
        except OSError as exc:
            log.warning("What was learned about the endpoints cannot be kept: %s", exc)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
