"""Stills from wherever they are: a file, an entry of an archive, or what Stash serves of it. Never blocks the loop."""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

from haven_vlm.crew import STALL_S, Crew
from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame, MediaFile
from haven_vlm.picture import Preparation
from haven_vlm.ports import FetchBytes
from haven_vlm.stills import UnknownFormat, frames_of
from haven_vlm.zips import MAX_ENTRY_BYTES, Archives
from haven_vlm_utility import map_path

PIXEL_BYTES = 512 * 2**20
"""Most that the pixels of all pictures being unpacked may take together; one picture alone may always."""

Served = Callable[[Literal["image", "thumbnail"]], tuple[str, dict[str, str]]]
"""Which of Stash's copies → its address, and the headers that authenticate there."""


@dataclass(frozen=True, slots=True)
class StillPlace:
    """Where a still can be had."""

    path: str
    """As this machine names it; inside an archive it goes on behind the archive's path."""
    archive: str | None = None
    size_bytes: int = 0
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    served: Served | None = None
    """Where Stash serves it; None: only what is on this machine counts."""

    @classmethod
    def of(
        cls,
        file: MediaFile,
        path_mutation: Mapping[str, str],
        served: Served | None,
    ) -> StillPlace:
        """The place of a file that Stash knows."""
        archive = file.zip_path
        inside = archive is not None and file.path.startswith(archive)
        return cls(
            path=file.path[len(archive or "") + 1 :] if inside else map_path(file.path, path_mutation),
            archive=map_path(archive, path_mutation) if archive is not None and inside else None,
            size_bytes=file.size_bytes,
            fingerprints=file.fingerprints,
            served=served,
        )


class StillReader:
    """Reads stills with a few threads and bounded memory; an async context manager.

    Args:
        preparation: how large the pictures that are sent may be.
        moments: most pictures of one still.
        fetch: brings what Stash serves; None: only what is on this machine is read.
        threads: pictures unpacked at the same time.
        stall_s: seconds after which a picture counts as hanging in a dead drive.
    """

    def __init__(
        self,
        preparation: Preparation,
        *,
        moments: int,
        fetch: FetchBytes | None = None,
        threads: int | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self._preparation = preparation
        self._moments = moments
        self._fetch = fetch
        self._budget = _Budget(PIXEL_BYTES)
        self._archives = Archives()
        self._crew = Crew(threads or min(4, os.cpu_count() or 2), "stills", stall_s=stall_s)

    async def __aenter__(self) -> StillReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._crew.aclose()
        self._archives.close()

    async def read(self, place: StillPlace) -> tuple[Frame, ...]:
        """The pictures to send of a still, at least one.

        Raises:
            MediaUnreadable: the medium itself is at fault; a sentence says how.
            MediaUnreachable: it can be had neither here nor through Stash; says both reasons.
        """
        try:
            return await self._crew.run(lambda: self._local(place))
        except UnknownFormat as exc:
            if place.served is None or self._fetch is None:
                raise
            # Stash would serve the file as it is; only its thumbnail is worth a request
            return await self._thumbnail(place, exc)
        except MediaUnreachable as exc:
            if place.served is None or self._fetch is None:
                raise
            here = str(exc)
        try:
            return await self._served(place, "image")
        except UnknownFormat as exc:
            return await self._thumbnail(place, exc)
        except MediaUnreachable as exc:
            raise MediaUnreachable(
                f"its file cannot be read: {here}; and through Stash: {exc}. "
                "If this machine knows the folder by another path, set path_mutation."
            ) from exc

    async def _thumbnail(self, place: StillPlace, unknown: UnknownFormat) -> tuple[Frame, ...]:
        """What Stash's own tools make of a picture that Pillow does not know."""
        try:
            return await self._served(place, "thumbnail")
        except (MediaUnreachable, MediaUnreadable) as exc:
            # without a thumbnail Stash serves the file itself again, or a drawing that stands for it
            raise MediaUnreadable(f"{unknown}, and Stash has no thumbnail of it") from exc

    async def _served(self, place: StillPlace, copy: Literal["image", "thumbnail"]) -> tuple[Frame, ...]:
        assert place.served is not None and self._fetch is not None
        url, headers = place.served(copy)
        body = io.BytesIO(await self._fetch(url, headers, limit_bytes=MAX_ENTRY_BYTES))
        name = place.path if copy == "image" else "thumbnail.jpg"
        return await self._crew.run(lambda: self._decoded(body, name))

    def _local(self, place: StillPlace) -> tuple[Frame, ...]:
        if place.archive is not None:
            entry = self._archives.read(
                place.archive, place.path, size_bytes=place.size_bytes, fingerprints=place.fingerprints
            )
            return self._decoded(io.BytesIO(entry), place.path)
        path = Path(place.path)
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                raise MediaUnreachable(f"{path} is not on this machine")
            with path.open("rb") as handle:
                return self._decoded(handle, path.name)
        except (OSError, ValueError) as exc:
            raise MediaUnreachable(f"{path} cannot be opened: {getattr(exc, 'strerror', None) or exc}") from exc

    def _decoded(self, handle: BinaryIO, name: str) -> tuple[Frame, ...]:
        return frames_of(
            handle,
            name=name,
            preparation=self._preparation,
            moments=self._moments,
            reserve=self._budget.reserve,
        )


class _Budget:
    """Bytes that several threads share, first come, first served; who wants more than there is gets it alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        amount = min(amount, self._total)
        turn = object()
        with self._changed:
            self._queue.append(turn)
            self._changed.wait_for(lambda: self._queue[0] is turn and self._used + amount <= self._total)
            self._queue.popleft()
            self._used += amount
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()
