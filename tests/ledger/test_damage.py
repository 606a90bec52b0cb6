# ruff: noqa: ASYNC240 - nothing else runs on the loop while these tests look at files
"""Damaged, foreign and unusable files: set aside with a sentence, carried over where readable, never dropped."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from haven_vlm.errors import LedgerError
from haven_vlm.facts import Kind
from haven_vlm.journal import Journal
from haven_vlm.journal_schema import connect
from haven_vlm.journal_thread import translated
from haven_vlm.ownership import Desired
from haven_vlm.run_lock import try_lock
from tests.ledger.answers import MODELS, answer, key
from tests.ledger.harness import League, process, span

PAGE = 4096


async def fill(path: Path, count: int) -> None:
    async with Journal(path) as journal:
        await asyncio.gather(*(journal.record(key(), at_ms=t, shown_ms=t, answer=answer("Dunk")) for t in range(count)))


def aside(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if ".damaged-" in p.name and p.suffix == ".sqlite3")


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def cut_off(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is a text file and no database\n" * 10, "not a database"),
        (b"SQLite", "not a database"),
        (b"\0" * 8192, "not a database"),
    ],
)
async def test_a_file_that_is_no_database_is_set_aside(path: Path, content: bytes, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    async with Journal(path) as journal:
        (notice,) = journal.notices
        assert said in notice
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
        assert list(await journal.known(key(), MODELS)) == [0]
    (kept,) = aside(path)
    assert kept.read_bytes() == content
    assert kept.name in notice


@pytest.mark.parametrize("at", [16, 21], ids=["page size", "fixed fractions"])
async def test_a_damaged_header_is_noticed(path: Path, at: int) -> None:
    await fill(path, 10)
    overwrite(path, at, b"\x7f\x7f\x7f")
    async with Journal(path) as journal:
        assert "header" in journal.notices[0]
    assert len(aside(path)) == 1


async def test_a_file_that_was_cut_off_is_noticed_and_what_is_left_carried_over(path: Path) -> None:
    await fill(path, 5000)
    cut_off(path, path.stat().st_size * 8 // 10 // PAGE * PAGE)
    async with Journal(path) as journal:
        (notice,) = journal.notices
        assert "cut off" in notice
        kept = len(await journal.known(key(), MODELS))
    assert 1000 < kept < 5000
    assert f"{kept:,} answers were carried over" in notice


async def test_bad_pages_in_the_middle_cost_only_what_lies_on_them(path: Path) -> None:
    """Found while reading, not at opening: the rest is carried over, and the run goes on."""
    await fill(path, 5000)
    pages = path.stat().st_size // PAGE
    middle = pages * 5 // 6  # among the answers: those before hold the list of tables, too
    overwrite(path, middle * PAGE, b"\xff" * PAGE)
    said: list[str] = []
    async with Journal(path, report=said.append) as journal:
        known = await journal.known(key(), MODELS)
        assert 4000 < len(known) < 5000
        assert len(said) == 1
        assert f"{len(known):,} answers were carried over" in said[0]
        await journal.record(key(), at_ms=10**7, shown_ms=0, answer=answer())
        assert 10**7 in await journal.known(key(), MODELS)
    (damaged,) = aside(path)
    assert damaged.stat().st_size >= pages * PAGE
    async with Journal(path) as journal:
        assert journal.notices == ()
        assert len(await journal.known(key(), MODELS)) == len(known) + 1


async def test_damage_found_while_writing_loses_no_acknowledged_answer_of_the_batch(path: Path) -> None:
    await fill(path, 5000)
    async with Journal(path) as journal:
        run = await journal.start_run("tag_videos")

        def spoil(db: sqlite3.Connection) -> None:
            if not spoiled:
                spoiled.append(True)
                broken = sqlite3.DatabaseError("database disk image is malformed")
                broken.sqlite_errorcode = 11
                raise broken

        spoiled: list[bool] = []
        await asyncio.gather(
            journal.record(key(), at_ms=9001, shown_ms=0, answer=answer("Dunk")),
            journal._file.write(spoil),
            journal.record(key(), at_ms=9002, shown_ms=0, answer=answer("Dunk")),
        )
        assert len(journal.notices) == 1
        known = await journal.known(key(), MODELS)
        assert len(known) == 5002
        (seen,) = await journal.runs()
        assert (seen.id, seen.alive) == (run, True), "the run goes on in the new ledger"
        await journal.end_run(run, "done")


async def test_ownership_is_carried_over_and_the_user_safe(path: Path) -> None:
    made = League()
    scene = made.stash.scene(made.tag_me, made.favourite)
    wanted: Desired = made.desired(scene, {made.dunk}, span(scene, made.dunk, 0, 1000))
    async with process(made.stash, path) as running:
        await running.applier.apply(await running.journal.start_run("tag_videos"), wanted)
    overwrite(path, 24, b"\0\0\0\1\0\0\xff\xff")  # the header claims more pages than there are
    overwrite(path, 92, b"\0\0\0\1")
    async with process(made.stash, path) as running:
        assert "damaged" in running.journal.notices[0]
        await running.applier.apply(await running.journal.start_run("update"), made.desired(scene, set()))
    assert made.stash.markers_of(scene.id) == []
    assert made.stash.on((Kind.SCENE, scene.id)) == {made.favourite, made.tagged}


async def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE scenes (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        async with Journal(path):
            pass
    assert path.read_bytes() == before


async def test_a_ledger_of_a_newer_version_is_left_alone(path: Path) -> None:
    await fill(path, 1)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("INSERT INTO migrations VALUES ('9999 wonders', 0)")
        newer.commit()
    with pytest.raises(LedgerError, match="newer version"):
        async with Journal(path):
            pass
    assert aside(path) == []


async def test_a_file_deleted_under_us_is_begun_anew_and_said(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows keeps files that are open")
    async with Journal(path) as journal:
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
        for part in path.parent.glob("ledger.sqlite3*"):
            part.unlink()
        await journal.record(key(), at_ms=1, shown_ms=0, answer=answer("Dunk"))
        assert any("removed while in use" in notice for notice in journal.notices)
        assert list(await journal.known(key(), MODELS)) == [1]
    async with Journal(path) as journal:
        assert list(await journal.known(key(), MODELS)) == [1]


async def test_a_file_set_aside_by_another_process_is_not_written_to_any_more(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows keeps files that are open")
    async with Journal(path) as one, Journal(path) as two:
        await one.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
        await two.record(key(), at_ms=1, shown_ms=0, answer=answer("Dunk"))
        await one._file.write(lambda db: None)
        await asyncio.to_thread(one._file._begin_anew, "made up for this test")
        await two.record(key(), at_ms=2, shown_ms=0, answer=answer("Dunk"))
        assert list(await one.known(key(), MODELS)) == [0, 1, 2]
        assert list(await two.known(key(), MODELS)) == [0, 1, 2]
    assert len(aside(path)) == 1


async def test_a_folder_that_cannot_hold_a_ledger_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3"):
        async with Journal(tmp_path / "data" / "ledger.sqlite3"):
            pass


async def test_a_journal_left_by_a_kill_in_mid_write_is_recovered(path: Path, tmp_path: Path) -> None:
    """A copy of all files while the ledger is open is what a power cut leaves behind."""
    async with Journal(path) as journal:
        for t in range(50):
            await journal.record(key(), at_ms=t, shown_ms=t, answer=answer("Dunk"))
        await asyncio.to_thread(shutil.copytree, path.parent, tmp_path / "after")
    after = tmp_path / "after" / path.name
    wal = after.with_name(after.name + "-wal")
    wal.write_bytes(wal.read_bytes()[:-100])  # the last frame was under way
    async with Journal(after) as journal:
        assert journal.notices == ()
        assert len(await journal.known(key(), MODELS)) >= 49


@pytest.mark.parametrize(
    ("code", "said"),
    [(5, "locked"), (8, "read-only"), (10, "disk"), (13, "full"), (14, "folder"), (1, "cannot be used")],
)
def test_every_fault_of_the_database_becomes_a_sentence(code: int, said: str) -> None:
    fault = sqlite3.OperationalError("whatever")
    fault.sqlite_errorcode = code | 0x300
    error = translated(fault, Path("ledger.sqlite3"))
    assert isinstance(error, LedgerError)
    assert said in str(error)


def test_a_full_disk_told_by_the_file_system_reads_the_same() -> None:
    assert "full" in str(translated(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Path("ledger.sqlite3")))


async def test_damage_of_the_first_page_costs_all_but_never_the_file(path: Path) -> None:
    """The list of tables is on it: nothing behind it can be found any more."""
    await fill(path, 10)
    overwrite(path, 100, b"\x7f" * 8)
    content = path.read_bytes()
    async with Journal(path) as journal:
        (notice,) = journal.notices
        assert "malformed" in notice and "nothing in it could be read" in notice
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    (kept,) = aside(path)
    assert kept.read_bytes()[100:] == content[100:]


def nearly_full(monkeypatch: pytest.MonkeyPatch, path: Path, pages: int) -> None:
    """The ledger's own file can grow to so many pages, and SQLite says of the disk what it says of a full one."""
    real = connect

    def limited(file: Path) -> sqlite3.Connection:
        connection = real(file)
        if file == path:
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr("haven_vlm.journal_damage.connect", limited)


async def test_a_rescue_that_was_stopped_is_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of it: what was not carried over yet comes along when there is room again."""
    await fill(path, 5000)
    cut_off(path, path.stat().st_size - 10 * PAGE)
    monkeypatch.setattr("haven_vlm.journal_damage._CHUNK", 500)
    with monkeypatch.context() as small:
        nearly_full(small, path, 45)
        for _ in range(2):
            with pytest.raises(LedgerError, match="The disk is full"):
                async with Journal(path):
                    pass
    async with Journal(path) as journal:
        (notice,) = journal.notices
        kept = len(await journal.known(key(), MODELS))
    assert "cut off" in notice and aside(path)[0].name in notice
    assert 1000 < kept < 5000 and f"{kept:,} answers were carried over" in notice
    assert len(aside(path)) == 1
    async with Journal(path) as journal:
        assert journal.notices == ()
        assert len(await journal.known(key(), MODELS)) == kept


async def test_a_rescue_whose_damaged_file_was_taken_away_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, 5000)
    cut_off(path, path.stat().st_size - 10 * PAGE)
    with monkeypatch.context() as small:
        nearly_full(small, path, 45)
        with pytest.raises(LedgerError, match="The disk is full"):
            async with Journal(path):
                pass
    aside(path)[0].unlink()
    async with Journal(path) as journal:
        assert journal.notices == ()


async def test_a_disk_that_damages_every_new_file_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = connect

    def spoil(file: Path) -> sqlite3.Connection:
        file.write_bytes(bytes(PAGE))
        return real(file)

    monkeypatch.setattr("haven_vlm.journal_damage.connect", spoil)
    with pytest.raises(LedgerError, match=r"A new ledger at .* is damaged at once .*Check the disk"):
        async with Journal(path):
            pass


async def test_a_ledger_that_another_program_holds_is_left_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path, 1)
    monkeypatch.setattr("haven_vlm.journal_schema.BUSY_TIMEOUT_S", 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM answers WHERE 0")
        with pytest.raises(LedgerError, match="locked by another program"):
            async with Journal(path):
                pass
        other.execute("ROLLBACK")
    assert aside(path) == []
    async with Journal(path) as journal:
        assert len(await journal.known(key(), MODELS)) == 1


async def test_one_process_opens_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.journal_damage._OPENING_PATIENCE_S", 0.0)
    path.parent.mkdir()
    lock = await asyncio.to_thread(try_lock, path.with_name(path.name + ".lock"))
    assert lock is not None
    with lock, pytest.raises(LedgerError, match="Another process has been opening"):
        async with Journal(path):
            pass
    async with Journal(path) as journal:
        assert journal.notices == ()


async def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    async with Journal(path) as journal:
        assert journal.notices == ()
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))


async def test_two_damaged_files_of_one_second_are_both_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.journal_damage.time.strftime", lambda _: "20260101-000000")
    path.parent.mkdir()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        async with Journal(path):
            pass
    names = ["ledger.damaged-20260101-000000-1.sqlite3", "ledger.damaged-20260101-000000.sqlite3"]
    assert [(p.name, p.read_bytes()) for p in aside(path)] == list(zip(names, (b"two", b"one"), strict=True))


async def test_a_thousand_damaged_files_are_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.journal_damage.time.strftime", lambda _: "20260101-000000")
    path.parent.mkdir()
    path.write_bytes(b"one more")
    for number in range(1000):
        (path.parent / f"ledger.damaged-20260101-000000{f'-{number}' if number else ''}.sqlite3").touch()
    with pytest.raises(LedgerError, match="Too many damaged ledgers"):
        async with Journal(path):
            pass
    assert path.read_bytes() == b"one more"


async def test_a_damaged_file_that_another_program_keeps_open_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows does with files that are open."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    path.parent.mkdir()
    path.write_bytes(b"no database")
    with monkeypatch.context() as windows, pytest.raises(LedgerError, match="End other runs of the connector"):
        windows.setattr(Path, "rename", refuse)
        async with Journal(path):
            pass
    assert path.read_bytes() == b"no database"
    async with Journal(path) as journal:
        assert "not a database" in journal.notices[0]


def malformed(_: sqlite3.Connection) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = 11
    raise error


async def test_a_disk_that_damages_what_was_just_written_is_said(path: Path) -> None:
    await fill(path, 10)
    async with Journal(path) as journal:
        with pytest.raises(LedgerError, match=r"cannot be read: .*malformed.*Check the disk"):
            await journal._file.read(malformed)
        assert len(journal.notices) == 1
        assert len(await journal.known(key(), MODELS)) == 10, "what was readable was carried over"


async def test_a_damaged_ledger_that_cannot_be_replaced_now_is_replaced_when_it_can(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On Windows, another program has it open just then."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    await fill(path, 10)
    async with Journal(path) as journal:
        with monkeypatch.context() as windows:
            windows.setattr(Path, "rename", refuse)
            with pytest.raises(LedgerError, match="malformed"):
                await journal._file.write(malformed)
            assert "the damaged ledger cannot be replaced" in caplog.text
            with pytest.raises(LedgerError, match="could not be opened again"):
                await journal.known(key(), MODELS)
        await journal.record(key(), at_ms=99, shown_ms=99, answer=answer("Dunk"))
        assert len(await journal.known(key(), MODELS)) == 11


async def test_a_mistake_of_one_job_does_not_cost_the_others_their_commit(path: Path) -> None:
    def mistaken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO migrations (name, made_at) VALUES (NULL, NULL)")

    async with Journal(path) as journal:
        found = await asyncio.gather(
            journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk")),
            journal._file.write(mistaken),
            journal.record(key(), at_ms=1, shown_ms=1, answer=answer("Dunk")),
            return_exceptions=True,
        )
        assert isinstance(found[1], LedgerError) and found[0] is None and found[2] is None
        assert list(await journal.known(key(), MODELS)) == [0, 1]


async def test_a_disk_that_is_full_at_the_very_start_leaves_a_file_to_go_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as small:
        nearly_full(small, path, 4)
        with pytest.raises(LedgerError, match="The disk is full"):
            async with Journal(path):
                pass
    async with Journal(path) as journal:
        assert journal.notices == ()
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))


@pytest.mark.skipif(sys.platform == "win32", reason="SQLite's ways of locking without shared memory are POSIX's")
async def test_a_folder_without_shared_memory_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite finds on network shares."""

    def share(file: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{file}?vfs=unix-none", uri=True, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr("haven_vlm.journal_damage.connect", share)
    with pytest.raises(LedgerError, match=r"lacks shared memory maps \(a network share\?\)\. Point data_dir"):
        async with Journal(path):
            pass
    assert aside(path) == []


async def test_a_folder_for_locks_that_cannot_be_made_is_said(path: Path) -> None:
    async with Journal(path) as journal:
        await asyncio.to_thread((path.parent / "runs").write_text, "a file where the folder should be")
        with pytest.raises(LedgerError, match=r"No lock can be made in .*runs.*Check data_dir"):
            await journal.start_run("tag_videos")
