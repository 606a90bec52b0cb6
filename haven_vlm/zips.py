"""Entries of zip archives, read in place: names in any encoding, bounded in bytes, archives kept open for a while.

Stash names an entry by the text it guessed the archive's character set to be; Python takes cp437 for everything that
is not marked as UTF-8. So an entry is looked for under every reading of its name's bytes, and when none fits, by what
its content says: extension, size and checksum.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from haven_vlm.errors import MediaUnreachable, MediaUnreadable

KEPT_OPEN = 4
"""Archives kept open: galleries are read one after the other, and a directory takes a while to read."""
MAX_ENTRY_BYTES = 128 * 2**20
"""A larger picture inside an archive is refused: it has to be unpacked into memory."""
MAX_ENTRIES = 200_000
"""An archive with a longer directory is refused."""
MAX_DIRECTORY_BYTES = 64 * 2**20
"""So is one whose directory takes more room."""

_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that Stash reads. Of the others Python unpacks a few bytes to gigabytes in one go, whatever is asked for."""
_OTHER_PACKINGS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard"}

ENCODINGS = (
    "utf-8", "cp437", "cp932", "gb18030", "big5hkscs", "cp949", "euc_jp", "cp1252", "cp1251", "koi8_r", "cp866",
    "cp850", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "iso8859_5", "iso8859_7", "latin_1",
)  # fmt: skip
"""Readings of a name that is not marked as UTF-8: what archivers write, and what Stash's guess can be."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, IndexError, ValueError)


class _Bytes(io.BufferedReader):
    """The bytes of an archive, as `ZipFile` reads them: a directory without end is refused before it is taken apart.

    Here and nowhere earlier: which bytes are the directory is what `ZipFile` makes of several records, and a second
    opinion could be another one.
    """

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))
        self._path = path
        self.opening = True

    def read(self, size: int | None = -1, /) -> bytes:
        """
        Raises:
            MediaUnreadable: it is the directory, and too long.
        """
        if not self.opening:
            return super().read(size)
        if (size or 0) > MAX_DIRECTORY_BYTES:
            raise MediaUnreadable(
                f"the directory of the archive {self._path} takes more than {MAX_DIRECTORY_BYTES // 2**20} MB"
            )
        data = super().read(size)
        if _has_more_entries(data, MAX_ENTRIES):
            raise MediaUnreadable(f"the archive {self._path} has more than {MAX_ENTRIES:,} entries")
        return data


def _has_more_entries(directory: bytes, most: int) -> bool:
    """Whether a directory (or what is read on the way to it) lists more; what it says of itself may be a lie."""
    at = 0
    for _ in range(most + 1):
        if directory[at : at + 4] != b"PK\1\2" or at + 46 > len(directory):
            return False
        at += 46 + sum(struct.unpack_from("<HHH", directory, at + 28))  # lengths of name, extra field and comment
    return True


@dataclass(slots=True)
class _Archive:
    raw: _Bytes
    file: zipfile.ZipFile
    stamp: tuple[int, int]
    names: dict[str, zipfile.ZipInfo]
    """Name as Python reads it → entry."""
    readings: dict[str, list[zipfile.ZipInfo]] | None = None
    """Every other reading of a name → entries; made when first needed."""
    users: int = 0
    doomed: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        self.file.close()
        self.raw.close()


class Archives:
    """Open archives, the least recently used closed first. Safe for several threads; `close` when done."""

    def __init__(self, *, kept_open: int = KEPT_OPEN) -> None:
        self._kept_open = kept_open
        self._open: OrderedDict[str, _Archive] = OrderedDict()
        self._guard = threading.Lock()

    def read(
        self, path: str, entry: str, *, size_bytes: int = 0, fingerprints: Mapping[str, str] | None = None
    ) -> bytes:
        """The content of an entry.

        Args:
            path: the archive.
            entry: the name as Stash tells it, with slashes of either kind.
            size_bytes: unpacked size as Stash knows it, 0 when it does not; finds entries whose name cannot be read.
            fingerprints: `md5` among them decides between entries of the same size.

        Raises:
            MediaUnreachable: there is no such archive here, or no such entry in it that we can tell.
            MediaUnreadable: archive or entry is damaged, encrypted, packed in an unknown way, or too large.
        """
        with self._archive(path) as archive:
            info = _find(archive, entry, size_bytes, dict(fingerprints or {}))
            if info is None:
                raise MediaUnreachable(f"{path} holds nothing called “{entry}” that can be told from its other entries")
            return _content(archive.file, info)

    def close(self) -> None:
        """Close every archive; one that is being read from is closed right after."""
        with self._guard:
            for archive in self._open.values():
                _doom(archive)
            self._open.clear()

    @contextmanager
    def _archive(self, path: str) -> Iterator[_Archive]:
        archive = self._borrow(path)
        try:
            yield archive
        finally:
            with self._guard:
                archive.users -= 1
                if archive.doomed and not archive.users:
                    archive.close()

    def _borrow(self, path: str) -> _Archive:
        with self._guard:  # opening too: two threads that want the same archive read its directory once
            try:
                found = Path(path).stat()
            except OSError as exc:
                raise MediaUnreachable(f"{path} is not on this machine") from exc
            stamp = (found.st_mtime_ns, found.st_size)
            archive = self._open.pop(path, None)
            if archive is not None and archive.stamp != stamp:
                _doom(archive)
                archive = None
            if archive is None:
                archive = _opened(path, stamp)
            self._open[path] = archive
            archive.users += 1
            while len(self._open) > self._kept_open:
                _doom(self._open.popitem(last=False)[1])
            return archive


def _doom(archive: _Archive) -> None:
    archive.doomed = True
    if not archive.users:
        archive.close()


def _opened(path: str, stamp: tuple[int, int]) -> _Archive:
    if not stamp[1]:
        raise MediaUnreadable(f"the archive {path} is empty (0 bytes)")
    raw: _Bytes | None = None
    try:
        raw = _Bytes(path)
        file = zipfile.ZipFile(raw)
        raw.opening = False
    except UnicodeDecodeError as exc:  # marked as UTF-8 and is not; Stash copes with that
        raise MediaUnreachable(f"the names in {path} are not what it says they are") from exc
    except _DAMAGE as exc:
        raise MediaUnreadable(f"the archive {path} is damaged: {exc}") from exc
    except OSError as exc:
        raise MediaUnreachable(f"the archive {path} cannot be read: {exc.strerror or exc}") from exc
    finally:
        if raw is not None and raw.opening:
            raw.close()
    names: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        if not info.is_dir():
            names.setdefault(_normal(info.orig_filename), info)
    return _Archive(raw, file, stamp, names)


def _normal(name: str) -> str:
    """A name as Stash (Go's archive/zip) would show it: slashes, no way up, composed letters."""
    # from the root nothing leads up any more
    clean = posixpath.normpath("/" + name.split("\0", 1)[0].replace("\\", "/"))
    return unicodedata.normalize("NFC", clean.lstrip("/"))


def _find(archive: _Archive, entry: str, size_bytes: int, fingerprints: Mapping[str, str]) -> zipfile.ZipInfo | None:
    wanted = _normal(entry)
    if (info := archive.names.get(wanted)) is not None:
        return info
    with archive.guard:
        if archive.readings is None:
            archive.readings = _readings(archive.names.values())
    same_name = archive.readings.get(wanted, [])
    if len(same_name) == 1:
        return same_name[0]
    suffix = posixpath.splitext(wanted)[1].lower()
    candidates = [
        info
        for info in same_name or archive.names.values()
        if info.file_size == size_bytes and info.orig_filename.lower().endswith(suffix)
    ]
    if len(candidates) == 1 and size_bytes:
        return candidates[0]
    md5 = fingerprints.get("md5", "")
    for info in candidates[:32] if md5 else ():
        if hashlib.md5(_content(archive.file, info), usedforsecurity=False).hexdigest() == md5:
            return info
    return same_name[0] if same_name else None


def _readings(entries: Iterable[zipfile.ZipInfo]) -> dict[str, list[zipfile.ZipInfo]]:
    found: dict[str, list[zipfile.ZipInfo]] = {}
    for info in entries:
        raw = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
        for name in {_normal(reading) for reading in _decoded(raw)}:
            found.setdefault(name, []).append(info)
    return found


def _decoded(raw: bytes) -> Iterator[str]:
    for encoding in ENCODINGS:
        try:
            yield raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    yield raw.decode("utf-8", "replace")  # a database holds it so when nothing fitted


def _content(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    name = posixpath.basename(_normal(info.orig_filename))
    if info.flag_bits & 0x1:
        raise MediaUnreadable(f"“{name}” is encrypted; unpack its archive, then scan again")
    if info.file_size > MAX_ENTRY_BYTES:
        raise MediaUnreadable(f"“{name}” unpacks to more than {MAX_ENTRY_BYTES // 2**20} MB and is left packed")
    if info.compress_type not in _PACKINGS:
        kind = _OTHER_PACKINGS.get(info.compress_type, f"type {info.compress_type}")
        raise MediaUnreadable(f"“{name}” is packed in a way that cannot be read here ({kind})")
    try:
        with file.open(info) as handle:
            # not a byte more is unpacked, however much there is: where the directory lies, the checksum tells
            return handle.read(info.file_size + 1)
    except NotImplementedError as exc:  # a patched or strongly encrypted one
        raise MediaUnreadable(f"“{name}” is packed in a way that cannot be read here ({exc})") from exc
    except zipfile.BadZipFile as exc:
        if "differ" in str(exc):  # directory and entry spell the name differently; Stash does not mind
            raise MediaUnreachable(f"“{name}” is called otherwise within its archive") from exc
        raise MediaUnreadable(f"“{name}” is damaged inside its archive: {exc}") from exc
    except (*_DAMAGE, RuntimeError) as exc:
        raise MediaUnreadable(f"“{name}” is damaged inside its archive: {exc}") from exc
    except OSError as exc:
        raise MediaUnreachable(f"“{name}” cannot be read: {exc.strerror or exc}") from exc
