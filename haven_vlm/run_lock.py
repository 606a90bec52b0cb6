"""Locks on files that the operating system takes back when the process that holds them dies, however it dies.

`flock` on POSIX, `msvcrt.locking` on Windows. Both belong to the open file, not to the process: a second
attempt within the same process is refused too, and children that are started do not inherit the lock
(Python opens files close-on-exec). Nothing is ever read from the files; that they are locked is the message.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from haven_vlm.errors import LedgerError
from haven_vlm.facts import Kind

if sys.platform == "win32":  # pragma: no cover - the module is there on Windows only
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """An exclusive lock that is held. Made by `try_lock` or `wait_lock`; a context manager that lets go."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def release(self, *, remove: bool = False) -> None:
        """Let go; a second call does nothing. `remove`: delete the file, for names that are used only once."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # while it is still locked: nobody can take a file that is going
        removed = remove and self._remove()
        os.close(fd)
        if remove and not removed:
            self._remove()  # Windows keeps open files; whoever is quicker than us and holds it deletes it after us

    def _remove(self) -> bool:
        """Delete the file; False when somebody's having it open, or the folder's rights, forbid that."""
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:
            return False
        return True

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_lock(path: Path) -> FileLock | None:
    """Take the lock, or return None when somebody alive holds it. Makes the file, not its folder.

    Raises:
        OSError: the file cannot be made at all (folder missing, no permission, disk full).
    """
    for _ in range(100):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(fd)
            if _is_at(fd, path):
                return FileLock(path, fd)
        except (BlockingIOError, PermissionError):  # EWOULDBLOCK; Windows says EACCES
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last owner deleted it between our opening and locking it: this lock guards nothing
    return None


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def wait_lock(
    path: Path,
    *,
    patience_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> FileLock | None:
    """Take the lock, trying for `patience_s` seconds; None when it was held all that time. Blocks the thread."""
    give_up = clock() + patience_s
    while (lock := try_lock(path)) is None:
        if clock() >= give_up:
            return None
        sleep(0.02)
    return lock


def is_held(path: Path) -> bool:
    """Whether somebody alive holds this lock. A file that nobody holds is removed: its owner is dead."""
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    lock.release(remove=True)
    return False


IMAGES_PER_CLAIM = 1000
"""Images are claimed by the thousand: a run writes to hundreds at once, and each claim is an open file."""


def _name(kind: Kind, medium_id: str) -> str:
    if kind is Kind.IMAGE and medium_id.isdecimal():
        return f"images-{int(medium_id) // IMAGES_PER_CLAIM}"
    return f"{kind.value}-{re.sub('[^0-9A-Za-z]', '_', medium_id)}"


class Claims:
    """Media this process works on: a locked file for each (for images: each thousand of them), so that no two runs
    ever write to the same medium.

    A run that meets a medium claimed by another one leaves it out. Claims of a dead process are void at once.

    Args:
        folder: where the files lie; made when needed. All runs that write to the same Stash must share it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, tuple[FileLock, int]] = {}
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def claim(self, kind: Kind, medium_id: str) -> AsyncIterator[bool]:
        """Yield whether the medium is ours until the end of the block. Claims nest within one `Claims`.

        Raises:
            LedgerError: no lock files can be made.
        """
        name = _name(kind, medium_id)
        ours = await self._take(name)
        try:
            yield ours
        finally:
            if ours:
                await self._give_back(name)

    async def _take(self, name: str) -> bool:
        async with self._turn:
            lock, depth = self._held.get(name, (None, 0))
            if lock is None:
                lock = await asyncio.to_thread(self._lock, self._folder / f"{name}.lock")
            if lock is None:
                return False
            self._held[name] = (lock, depth + 1)
            return True

    def _lock(self, path: Path) -> FileLock | None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return try_lock(path)
        except OSError as exc:
            raise LedgerError(f"No lock can be made at {path}: {exc}. Check data_dir and its disk.") from exc

    async def _give_back(self, name: str) -> None:
        await asyncio.shield(self._let_go(name))  # a cancelled task must not keep its medium

    async def _let_go(self, name: str) -> None:
        async with self._turn:  # or whoever claims it meanwhile would find it locked, by ourselves
            lock, depth = self._held[name]
            if depth > 1:
                self._held[name] = (lock, depth - 1)
                return
            del self._held[name]
            await asyncio.to_thread(lock.release, remove=True)
