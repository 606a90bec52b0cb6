"""Entries of archives are found under every spelling of their names, and nothing large or damaged gets in."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.zips import MAX_ENTRIES, Archives, _normal
from tests.images.oddities import raw_entry, zip_with


@pytest.fixture
def archives() -> Iterator[Archives]:
    opened = Archives()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "Übersicht/Spiel 1.jpg"),
        ("cp437", "Übersicht/Spiel 1.jpg"),
        ("cp932", "試合/ダンク表.jpg"),
        ("gb18030", "比赛/扣篮.jpg"),
        ("big5hkscs", "比賽/灌籃.jpg"),
        ("cp949", "경기/덩크.jpg"),
        ("cp1252", "été/château “1”.jpg"),
        ("cp1251", "Матч/Бросок.jpg"),
        ("koi8_r", "Матч/Бросок.jpg"),
        ("cp866", "Матч/Бросок.jpg"),
        ("cp1254", "maç/şut.jpg"),
    ],
)
@pytest.mark.parametrize("flagged", [False, True], ids=["bytes", "marked as UTF-8"])
def test_a_name_in_any_encoding_is_found(
    tmp_path: Path, archives: Archives, encoding: str, name: str, flagged: bool
) -> None:
    archive = tmp_path / "a.zip"
    other = name.replace("1", "2").replace(".jpg", ".png")
    coding = "utf-8" if flagged else encoding
    zip_with(archive, [(other.encode(coding), b"other"), (name.encode(coding), b"it")], utf8=flagged)
    assert archives.read(str(archive), name) == b"it"
    assert archives.read(str(archive), other) == b"other"


def test_slashes_dots_and_accents_are_spelled_as_stash_does(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    names = [b"dir\\one.jpg", b"/abs/two.jpg", b"../../up/three.jpg", b"./here/four.jpg", "e\u0301.jpg".encode()]
    zip_with(archive, [(n, n) for n in names], utf8=True)
    spellings = ["dir/one.jpg", "abs/two.jpg", "up/three.jpg", "here/four.jpg", "é.jpg"]
    assert [archives.read(str(archive), s) for s in spellings] == names
    assert archives.read(str(archive), "dir\\one.jpg") == names[0]


def test_an_entry_whose_name_is_beyond_reading_is_told_by_its_size(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    zip_with(archive, [(b"\xff\xfe\x81.jpg", b"12345"), (b"b.jpg", b"123"), (b"c.png", b"12345")])
    assert archives.read(str(archive), "??\ufffd.jpg", size_bytes=5) == b"12345"


def test_of_several_of_that_size_the_checksum_tells(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    zip_with(archive, [(b"\xff1.jpg", b"abcde"), (b"\xff2.jpg", b"fghij")])
    md5 = hashlib.md5(b"fghij").hexdigest()
    assert archives.read(str(archive), "?.jpg", size_bytes=5, fingerprints={"md5": md5}) == b"fghij"
    with pytest.raises(MediaUnreachable, match="holds nothing called"):
        archives.read(str(archive), "?.jpg", size_bytes=5)


def test_two_entries_of_one_reading_are_told_by_size(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    # the same letter in cp437 and in cp1252
    zip_with(archive, [("ä.jpg".encode("cp1252"), b"1252"), ("ä.jpg".encode("cp850"), b"of cp850")])
    assert archives.read(str(archive), "ä.jpg", size_bytes=8) == b"of cp850"


def test_an_archive_that_is_not_there_is_nobodys_fault(tmp_path: Path, archives: Archives) -> None:
    with pytest.raises(MediaUnreachable, match="not on this machine"):
        archives.read(str(tmp_path / "none.zip"), "a.jpg")


@pytest.mark.parametrize("content", [b"", b"PK nonsense", b"PK\x05\x06" + b"\xff" * 18])
def test_an_archive_that_is_damaged_says_so(tmp_path: Path, archives: Archives, content: bytes) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(MediaUnreadable, match=r"damaged|empty"):
        archives.read(str(archive), "a.jpg")


def test_a_folder_that_is_called_like_an_archive_is_no_damage(tmp_path: Path, archives: Archives) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(MediaUnreachable, match="cannot be read: "):
        archives.read(str(tmp_path / "a.zip"), "a.jpg")


def test_folders_in_an_archive_are_no_pictures(tmp_path: Path, archives: Archives) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.mkdir("a.jpg")
        file.writestr("a.jpg/b.jpg", b"it")
    assert archives.read(str(tmp_path / "a.zip"), "a.jpg/b.jpg") == b"it"
    with pytest.raises(MediaUnreachable):
        archives.read(str(tmp_path / "a.zip"), "a.jpg")


def test_an_entry_that_begins_as_something_else_says_so(tmp_path: Path, archives: Archives) -> None:
    """Its directory is whole, the place it points to holds no entry, or one of another name."""
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"content " * 200)
    whole = archive.read_bytes()
    archive.write_bytes(b"XX" + whole[2:])
    with pytest.raises(MediaUnreadable, match=r"“a\.jpg” is damaged inside its archive"):
        archives.read(str(archive), "a.jpg")
    archive.write_bytes(whole.replace(b"a.jpg", b"b.jpg", 1) + b"")
    with pytest.raises(MediaUnreachable, match="called otherwise within its archive"):
        archives.read(str(archive), "a.jpg")


def test_names_that_are_not_the_utf8_they_claim_to_be_are_left_to_stash(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"abc.jpg", b"x", utf8=True)
    archive.write_bytes(archive.read_bytes().replace(b"abc.jpg", b"\xff\xfe\xfd.jpg"))
    with pytest.raises(MediaUnreachable, match="not what it says"):
        archives.read(str(archive), "abc.jpg")


def test_a_damaged_entry_says_so(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"content " * 200)
    archive.write_bytes(archive.read_bytes().replace(b"content content", b"changed content", 1))
    with pytest.raises(MediaUnreadable, match=r"“a\.jpg” is damaged"):
        archives.read(str(archive), "a.jpg")


def test_an_encrypted_entry_says_so(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"secret")
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(MediaUnreadable, match="encrypted"):
        archives.read(str(archive), "a.jpg")


def test_an_unknown_packing_says_so(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"packed")
    raw = bytearray(archive.read_bytes())
    raw[8] = raw[raw.index(b"PK\x01\x02") + 10] = 9  # deflate64, which Explorer writes for large files
    archive.write_bytes(raw)
    with pytest.raises(MediaUnreadable, match="packed in a way"):
        archives.read(str(archive), "a.jpg")


def test_a_bomb_stays_packed(tmp_path: Path, archives: Archives, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the directory says: nothing of it is unpacked, not even to find out that it is damaged."""
    monkeypatch.setattr("haven_vlm.zips.MAX_ENTRY_BYTES", 2**20)
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"\0" * (2**21), method=zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 5000
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"a.jpg") + 5] ^= 0xFF
    archive.write_bytes(raw)
    with pytest.raises(MediaUnreadable, match="unpacks to more than 1 MB"):
        archives.read(str(archive), "a.jpg")


def claim_size(archive: Path, size: int) -> None:
    """Let the directory say that its one entry unpacks to so many bytes."""
    raw = bytearray(archive.read_bytes())
    struct.pack_into("<I", raw, raw.index(b"PK\x01\x02") + 24, size)
    archive.write_bytes(raw)


def test_of_a_bomb_that_lies_no_more_is_unpacked_than_it_claims(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"\0" * (2**27), method=zipfile.ZIP_DEFLATED)
    claim_size(archive, 1000)
    tracemalloc.start()
    try:
        with pytest.raises(MediaUnreadable, match=r"“a\.jpg” is damaged"):
            archives.read(str(archive), "a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_a_packing_that_unpacks_all_in_one_go_is_refused(
    tmp_path: Path, archives: Archives, method: int, name: str
) -> None:
    """785 bytes of bzip2 are a gigabyte, whatever the directory claims; Stash reads no such archive either."""
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"\0" * 1000, method=method)
    with pytest.raises(MediaUnreadable, match=f"packed in a way that cannot be read here .{name}"):
        archives.read(str(archive), "a.jpg")


@pytest.fixture
def no_entry_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking an entry of a directory apart fails the test: each takes half a kilobyte and some time."""

    def made(*_: object, **__: object) -> None:
        raise AssertionError("an entry was taken apart")

    monkeypatch.setattr(zipfile, "ZipInfo", made)


def endless(archive: Path, count: int, *, says: int, zip64: bool = False, comment: int = 0) -> None:
    """A zip of nothing but a directory, of `count` entries, that says it has another number of them."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 1, 0, comment, 0, 0, 0, 0) + b"a" + bytes(comment)
    directory = entry * count
    size, number = len(directory), says
    end = b""
    if zip64:
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, says, says, size, 0)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
        size, number = 0xFFFFFFFF, 0xFFFF
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number & 0xFFFF, number & 0xFFFF, size, 0, 0)
    archive.write_bytes(directory + end)


@pytest.mark.parametrize("says", [4, 1, 60_000])
@pytest.mark.parametrize("zip64", [False, True], ids=["zip", "zip64"])
@pytest.mark.usefixtures("no_entry_is_made")
def test_an_endless_directory_is_refused_before_it_is_taken_apart(
    tmp_path: Path, archives: Archives, says: int, zip64: bool
) -> None:
    archive = tmp_path / "a.zip"
    endless(archive, MAX_ENTRIES + 1, says=says, zip64=zip64)
    with pytest.raises(MediaUnreadable, match="has more than 200,000 entries"):
        archives.read(str(archive), "a")


@pytest.mark.parametrize("zip64", [False, True], ids=["zip", "zip64"])
@pytest.mark.usefixtures("no_entry_is_made")
def test_a_directory_of_few_huge_entries_is_refused_too(
    tmp_path: Path, archives: Archives, monkeypatch: pytest.MonkeyPatch, zip64: bool
) -> None:
    monkeypatch.setattr("haven_vlm.zips.MAX_DIRECTORY_BYTES", 2**20)
    archive = tmp_path / "a.zip"
    endless(archive, 17, says=17, zip64=zip64, comment=65_000)
    with pytest.raises(MediaUnreadable, match="takes more than 1 MB"):
        archives.read(str(archive), "a")


def test_such_a_directory_within_the_limits_is_read(
    tmp_path: Path, archives: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haven_vlm.zips.MAX_ENTRIES", 3)
    for zip64 in (False, True):
        endless(tmp_path / f"{zip64}.zip", 3, says=3, zip64=zip64)
        with pytest.raises(MediaUnreachable, match="holds nothing called"):
            archives.read(str(tmp_path / f"{zip64}.zip"), "b")


def test_an_archive_that_changed_is_read_anew(tmp_path: Path, archives: Archives) -> None:
    archive = tmp_path / "a.zip"
    raw_entry(archive, b"a.jpg", b"old")
    assert archives.read(str(archive), "a.jpg") == b"old"
    archive.unlink()
    raw_entry(archive, b"a.jpg", b"newer")
    assert archives.read(str(archive), "a.jpg") == b"newer"


def test_few_archives_stay_open_while_many_threads_read(tmp_path: Path) -> None:
    archives = Archives(kept_open=2)
    for number in range(6):
        zip_with(tmp_path / f"{number}.zip", [(b"%d.jpg" % n, b"%d of %d" % (n, number)) for n in range(20)])
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    wrong: list[object] = []

    def work(start: int) -> None:
        for n in range(60):
            number, entry = (start + n) % 6, n % 20
            content = archives.read(str(tmp_path / f"{number}.zip"), f"{entry}.jpg")
            if content != b"%d of %d" % (entry, number):
                wrong.append(content)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    if before:
        assert len(os.listdir("/proc/self/fd")) == before + 2
        archives.close()
        assert len(os.listdir("/proc/self/fd")) == before
    archives.close()


@given(st.text(max_size=30) | st.text(r"./\ab", max_size=12))
def test_a_spelling_is_settled_in_one_go_and_never_leads_up(name: str) -> None:
    once = _normal(name)
    assert _normal(once) == once
    assert not once.startswith("/")
    assert ".." not in once.split("/")
