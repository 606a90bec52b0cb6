"""A small scan: media files below some folders become scenes, images and galleries."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import av
from PIL import Image

from demo.stash.seeding import Library
from demo.stash.store import Store

VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg"}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}
ZIPS = {".zip", ".cbz"}


def scan(store: Store, roots: list[Path]) -> None:
    """Take in every media file not yet known by its path."""
    library = Library(store)
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if not path.is_file() or store.value("SELECT 1 FROM files WHERE path = ?", str(path)):
                continue
            suffix = path.suffix.lower()
            if suffix in VIDEOS:
                library.add_scene(path, fingerprints={"oshash": oshash(path)}, **probe(path))
            elif suffix in PICTURES:
                with Image.open(path) as picture:
                    library.add_image(
                        path,
                        width=picture.width,
                        height=picture.height,
                        format=_as_probed(picture),
                        fingerprints=_md5(path.read_bytes()),
                    )
            elif suffix in ZIPS:
                _scan_zip(library, path)


def _scan_zip(library: Library, path: Path) -> None:
    with library.seeding(), zipfile.ZipFile(path) as archive:
        gallery_id = library.add_gallery(zip_path=path)
        for entry in archive.namelist():
            if Path(entry).suffix.lower() not in PICTURES:
                continue
            body = archive.read(entry)
            with Image.open(io.BytesIO(body)) as picture:
                library.add_zip_image(
                    path,
                    entry,
                    width=picture.width,
                    height=picture.height,
                    format=(picture.format or "").lower(),
                    size=len(body),
                    fingerprints=_md5(body),
                    galleries=[gallery_id],
                )


def _md5(body: bytes) -> dict[str, str]:
    return {"md5": hashlib.md5(body).hexdigest()}


def _as_probed(picture: Image.Image) -> str:
    """The codec's name, which is what the real scan notes for files outside a zip."""
    name = (picture.format or "").lower()
    return "mjpeg" if name == "jpeg" else name


def probe(path: Path) -> dict[str, Any]:
    """Size, duration and rate of a video, as keyword arguments of `add_scene`."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        seconds = float(container.duration / av.time_base) if container.duration else 0.0
        rate = video.average_rate or video.guessed_rate
        return {
            "duration": round(seconds, 2),
            "width": video.codec_context.width,
            "height": video.codec_context.height,
            "frame_rate": round(float(rate), 2) if rate else 0.0,
            "bit_rate": container.bit_rate,
            "video_codec": video.codec_context.name,
            "audio_codec": container.streams.audio[0].codec_context.name if container.streams.audio else "",
            "format": path.suffix.lower().removeprefix("."),
        }


def oshash(path: Path) -> str:
    """File size plus the 64-bit words of the first and last 64 KiB, 16 hexadecimal digits."""
    size = path.stat().st_size
    block = min(65536, size) // 8 * 8
    total = size
    with path.open("rb") as file:
        for start in (0, max(0, size - block)):
            file.seek(start)
            total += sum(struct.unpack(f"<{block // 8}Q", file.read(block)))
    return f"{total % 2**64:016x}"
