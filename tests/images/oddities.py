"""Odd pictures, made on the spot: every kind of file that people have and that naive readers stumble over."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

RGB = tuple[int, int, int]
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 40), (30, 40, 210), (255, 255, 255)


def halves(left: RGB = RED, right: RGB = BLUE, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture whose left and right halves differ: shows whether it was turned or mirrored."""
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animation(colours: Sequence[RGB], kind: str = "GIF", *, ms: int = 200, size: tuple[int, int] = (48, 32)) -> bytes:
    """Frames of one colour each."""
    first, *rest = [Image.new("RGB", size, c) for c in colours]
    # a dot that differs keeps writers from merging equal frames
    for number, frame in enumerate(rest):
        frame.putpixel((number % size[0], 0), (number % 255, 1, 2))
    return encoded(first, kind, save_all=True, append_images=rest, duration=ms, loop=0)


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """`halves`, stored so that only its Exif orientation makes it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = halves() if undo is None else halves().transpose(undo)
    return encoded(image, kind, exif=exif)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any pixels: a decompression bomb without its powder."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def heic() -> bytes:
    """What a HEIC file starts with; no decoder here reads it."""
    return struct.pack(">I", 24) + b"ftypheic" + b"\0\0\0\0mif1heic" + b"\x5a" * 400


def jxl() -> bytes:
    """What a JPEG XL file starts with."""
    return b"\xff\x0a" + bytes(range(1, 200))


def raw_entry(archive: Path, name: bytes, content: bytes, *, utf8: bool = False, method: int = 0) -> None:
    """A zip with one entry whose name is these very bytes, as archivers of all countries write them."""
    zip_with(archive, [(name, content)], utf8=utf8, method=method)


def zip_with(archive: Path, entries: Sequence[tuple[bytes, bytes]], *, utf8: bool = False, method: int = 0) -> None:
    """A zip whose names are these bytes; `utf8` sets the flag that says so."""
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, content in entries:
            info = _AsBytes("x")
            info.raw, info.claims_utf8 = name, utf8
            info.filename = info.orig_filename = name.decode("utf-8" if utf8 else "cp437")
            info.compress_type = method
            file.writestr(info, content)


class _AsBytes(zipfile.ZipInfo):
    """An entry whose name is written as given, not as Python would encode it."""

    raw = b""
    claims_utf8 = False

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits | 0x800 if self.claims_utf8 else self.flag_bits & ~0x800
