"""Locks that the operating system takes back."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from haven_vlm import run_lock
from haven_vlm.errors import LedgerError
from haven_vlm.facts import Kind
from haven_vlm.run_lock import Claims, is_held, try_lock, wait_lock


def test_a_lock_is_exclusive_within_a_process_too(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = try_lock(path)
    assert lock is not None
    assert try_lock(path) is None
    assert is_held(path)
    lock.release()
    lock.release()
    assert not is_held(path)
    assert not path.exists(), "what nobody holds is cleared away"


def test_a_removed_lock_file_guards_nothing(tmp_path: Path) -> None:
    """Who opened the file just before its owner deleted it must not believe to hold the lock."""
    path = tmp_path / "a.lock"
    first = try_lock(path)
    assert first is not None
    first.release(remove=True)
    second = try_lock(path)
    assert second is not None
    assert path.exists()
    assert try_lock(path) is None
    second.release(remove=True)


def test_a_lock_file_that_goes_between_opening_and_locking_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    lock_now, owners = run_lock._lock, [path]

    def lock(fd: int) -> None:
        if owners:
            owners.pop().unlink()  # its last owner was done just now
        lock_now(fd)

    monkeypatch.setattr(run_lock, "_lock", lock)
    with try_lock(path) or pytest.fail("free, and not taken"):
        assert path.exists()
        assert try_lock(path) is None


def test_a_file_that_cannot_be_deleted_while_it_is_open_goes_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows; and what somebody else has opened meanwhile is theirs to delete."""
    kept_open, unlink = [1], Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if kept_open.pop():
            raise PermissionError(13, "in use")
        unlink(path, missing_ok=missing_ok)

    path = tmp_path / "a.lock"
    for others, stays in (([0, 1], False), ([1, 1], True)):
        kept_open[:] = others
        lock = try_lock(path)
        assert lock is not None
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", refusing)
            lock.release(remove=True)
        assert path.exists() is stays
        assert kept_open == []
    with try_lock(path) or pytest.fail("a file that is left over stands in nobody's way"):
        pass


async def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network drives know no locks; then two runs could write to one scene."""

    def lock(fd: int) -> None:
        opened.append(fd)
        raise OSError(errno.ENOLCK, "No locks available")

    opened: list[int] = []
    monkeypatch.setattr(run_lock, "_lock", lock)
    with pytest.raises(LedgerError, match=r"No lock can be made at .*No locks available.*Check data_dir"):
        async with Claims(tmp_path).claim(Kind.SCENE, "1"):
            raise AssertionError("claimed without a lock")
    for fd in opened:
        with pytest.raises(OSError, match=r"[Bb]ad file descriptor"):
            os.fstat(fd)


def test_waiting_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with wait_lock(path, patience_s=1, sleep=sleep, clock=lambda: now[0]) or pytest.fail("free, and not taken"):
        assert wait_lock(path, patience_s=5, sleep=sleep, clock=lambda: now[0]) is None
    assert 5 <= now[0] < 6


async def test_two_runs_never_hold_the_same_medium(tmp_path: Path, never_blocks: BlockBuster) -> None:
    one, two = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    async with one.claim(Kind.SCENE, "12") as first:
        assert first
        async with two.claim(Kind.SCENE, "12") as second, two.claim(Kind.IMAGE, "12") as other:
            assert (second, other) == (False, True)
        async with one.claim(Kind.SCENE, "12") as nested:
            assert nested
        async with two.claim(Kind.SCENE, "12") as still:
            assert not still, "the end of the inner claim is not the end of the outer one"
    async with two.claim(Kind.SCENE, "12") as free:
        assert free
    assert await asyncio.to_thread(lambda: [*(tmp_path / "claims").iterdir()]) == []


async def test_claims_of_many_tasks_are_counted(tmp_path: Path) -> None:
    claims, inside = Claims(tmp_path), 0

    async def work() -> None:
        nonlocal inside
        async with claims.claim(Kind.SCENE, "1") as ours:
            inside += ours
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(20)))
    assert inside == 20
    async with Claims(tmp_path).claim(Kind.SCENE, "1") as free:
        assert free


async def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("a file", encoding="utf-8")
    with pytest.raises(LedgerError, match="data_dir"):
        async with Claims(tmp_path / "claims").claim(Kind.SCENE, "1"):
            pass
