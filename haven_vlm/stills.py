"""One still picture → the small upright JPEGs that are sent of it. Blocking; knows no Stash and no archive.

Most stills give one picture. Animations give several, evenly spread, as a clip does; very long panoramas are cut into
pieces, because a strip of a few pixels' height shows nothing. Pillow does the reading, held to formats that are
pictures (it would start Ghostscript for an EPS file) and to sizes that fit into memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import PurePath
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame
from haven_vlm.picture import Preparation, fitted, frame_from_image

STILL_RECIPE = 1
"""Version of what is done to stills only; a change of it makes old answers another picture's."""

MAX_PIXELS = 120_000_000
"""A picture that must be unpacked whole is refused above this; it would take half a gigabyte."""
MAX_BASELINE_PIXELS = 1_000_000_000
"""The same for a JPEG that is unpacked line by line at an eighth of its size."""
MAX_WALK_PIXELS = 2_000_000_000
"""Of an animation only so many pixels are unpacked, all its frames together: some ten seconds of work."""
LONG_STRIP = 3.0
"""From this ratio of the sides on a picture is cut into pieces."""
LEAST_SIDE_PX = 32
"""Shorter sides are padded: vision models cut pictures into patches of 14 to 28 pixels, and refuse less than one."""
GREY = (128, 128, 128)
"""What shines through transparency: on white, white drawings vanish, on black, black ones."""

FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "PCX", "PSD", "QOI",
)  # fmt: skip
"""What Pillow may take a file for; it finds out by itself when a JPEG holds several views (MPO)."""
_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose further frames are later moments; those of other formats are pages, views or layers."""

ONE_PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".jp2", ".psd", ".tga"})
"""Files that are never animations."""
STILL_SUFFIXES = ONE_PICTURE_SUFFIXES | {".gif", ".webp", ".png", ".apng", ".avif", ".heic", ".heif", ".jxl"}
"""Files that Pillow or Stash's thumbnailer reads better than a video decoder, though Stash may call them videos."""
RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
"""Photographs as the sensor saw them: Pillow would take many for the tiny preview inside."""

Reserve = Callable[[int], AbstractContextManager[None]]
"""Waits until so many bytes may be used for a picture's pixels."""

# Pillow's own limit is one number for all formats and stands in the way of pictures that are read in pieces; the
# limits above take its place, before a single pixel is unpacked
Image.MAX_IMAGE_PIXELS = None


class UnknownFormat(MediaUnreadable):
    """Not a picture that Pillow knows; somebody else may."""


def picture_key(preparation: Preparation) -> str:
    """Text that is the same exactly when stills are made in the same way; part of the ledger's key."""
    return f"still{STILL_RECIPE}:{preparation.max_side_px}:q{preparation.jpeg_quality}"


def frames_of(
    handle: BinaryIO, *, name: str, preparation: Preparation, moments: int, reserve: Reserve
) -> tuple[Frame, ...]:
    """The pictures to send of a still: one, or several of an animation or a long strip; at least one.

    `Frame.at_ms` is 0 for a single picture, the time within an animation, and for a piece of a strip its number
    together with how many there are: with more pieces, each shows something else.

    Args:
        handle: the file, open for reading, positioned at its start.
        name: its name, for sentences and for its suffix.
        moments: most pictures of one file.

    Raises:
        UnknownFormat: Pillow does not know it.
        MediaUnreadable: it is empty, damaged, cut off, or too large; a sentence says which.
        MediaUnreachable: the disk or network failed.
    """
    head = handle.read(64)
    if not head:
        raise MediaUnreadable("the file is empty (0 bytes)")
    handle.seek(0)
    if PurePath(name).suffix.lower() in RAW_SUFFIXES:
        raise UnknownFormat("it is a camera's raw picture, which cannot be read here")
    # about metadata, and on stderr, which is Stash's log; what matters raises. (`catch_warnings` is not for threads.)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with _translated(head), Image.open(handle, formats=FORMATS) as image:
        return _frames(image, preparation, moments, reserve)


def _frames(image: Image.Image, preparation: Preparation, moments: int, reserve: Reserve) -> tuple[Frame, ...]:
    width, height = image.size
    if not width or not height:
        raise MediaUnreadable("it says that it has no width or no height")
    streamed = image.format == "JPEG" and "progressive" not in image.info
    limit = MAX_BASELINE_PIXELS if streamed else MAX_PIXELS
    if width * height > limit:
        raise MediaUnreadable(
            f"it says that it is {width:,} × {height:,} pixels, more than the {limit // 1_000_000} million that are "
            "unpacked; if it is real, make it smaller"
        )
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        with reserve(width * height * 9):  # the frame, the one before it, and the two put together
            return _animation(image, preparation, moments)
    pieces = pieces_of(width, height, moments)
    if image.format in ("JPEG", "MPO"):
        target = _target(width, height, preparation.max_side_px, pieces)
        image.draft("RGB" if image.mode != "L" else "L", target)  # unpacks at 1/2, 1/4 or 1/8, never below the target
    with reserve(image.width * image.height * _bytes_a_pixel(image)):
        image.load()
        turn = _orientation(image)  # only now: Pillow turns a TIFF by itself
        small = _small(image, _target(image.width, image.height, preparation.max_side_px, pieces))
    if turn is not None:
        small = small.transpose(turn)
    if pieces == 1:
        return (frame_from_image(_padded(small), preparation, at_ms=0, shown_ms=0),)
    return tuple(
        frame_from_image(_padded(piece), preparation, at_ms=1000 * pieces + n, shown_ms=1000 * pieces + n)
        for n, piece in enumerate(_cut(small, pieces))
    )


def _animation(image: Image.Image, preparation: Preparation, moments: int) -> tuple[Frame, ...]:
    width, height = image.size
    count = max(1, min(int(getattr(image, "n_frames", 1)), MAX_WALK_PIXELS // (width * height)))
    wanted = {(2 * i + 1) * count // (2 * moments) for i in range(moments)} if count > moments else set(range(count))
    target = fitted(width, height, preparation.max_side_px)
    found: list[Frame] = []
    at_ms = 0
    for number in range(max(wanted) + 1):
        try:
            image.seek(number)
            if number in wanted:
                image.load()
                small = _small(image, target)
                found.append(frame_from_image(_padded(small), preparation, at_ms=at_ms, shown_ms=at_ms))
            else:
                image.load()
        except EOFError:
            break  # fewer frames than the header promises
        except (OSError, ValueError, SyntaxError):
            if not found:
                raise
            break  # a damaged tail takes nothing from what came before
        duration = image.info.get("duration")
        # browsers show frames of 10 ms and less for 100 ms; and two frames cannot have one time
        at_ms += round(duration) if isinstance(duration, int | float) and duration > 10 else 100
    if not found:
        raise MediaUnreadable("it has no frame that can be unpacked")
    return tuple(found)


def pieces_of(width: int, height: int, most: int) -> int:
    """Into how many pieces along its longer side a picture of this size is cut; 1: it is not."""
    if not width or not height:
        return 1
    ratio = max(width, height) / min(width, height)
    return min(most, math.ceil(ratio / 2)) if ratio >= LONG_STRIP else 1


def _target(width: int, height: int, max_side_px: int, pieces: int) -> tuple[int, int]:
    """Size of the whole such that each of its pieces fits."""
    if pieces == 1:
        return fitted(width, height, max_side_px)
    long, short = max(width, height), min(width, height)
    scale = min(1.0, max_side_px / max(long / pieces, short))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cut(image: Image.Image, pieces: int) -> Iterator[Image.Image]:
    wide = image.width >= image.height
    length = image.width if wide else image.height
    edges = [round(length * n / pieces) for n in range(pieces + 1)]
    for start, end in pairwise(edges):
        if end > start:
            yield image.crop((start, 0, end, image.height) if wide else (0, start, image.width, end))


def _padded(image: Image.Image) -> Image.Image:
    """The picture with sides that a model takes; tiny ones stay as they are, on grey."""
    width, height = max(image.width, LEAST_SIDE_PX), max(image.height, LEAST_SIDE_PX)
    if (width, height) == image.size:
        return image
    return ImageOps.pad(image, (width, height), color=GREY if image.mode == "RGB" else GREY[0])


# --- pixels ---------------------------------------------------------------------------------------------------


def _bytes_a_pixel(image: Image.Image) -> int:
    """Bytes that unpacking and turning into RGB take for each pixel; Pillow keeps RGB in four."""
    return 1 if image.mode in ("1", "L") else 4 if image.mode in ("RGB", "CMYK", "YCbCr", "RGBA", "RGBX") else 8


def _small(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at this size as RGB or grey, without transparency; never enlarged."""
    plain = image.getchannel("L") if image.mode == "LAB" else _eight_bits(image)
    transparent = plain.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in plain.info
    if transparent:
        plain = plain.convert("RGBA")
    elif plain.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        plain = plain.convert("RGB")  # palettes and bitmaps cannot be averaged as they are
    if plain.size != size and size[0] <= plain.width and size[1] <= plain.height:
        plain = plain.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if transparent:
        ground = Image.new("RGB", plain.size, GREY)
        ground.paste(plain, mask=plain.getchannel("A"))
        return ground
    return plain if plain.mode in ("L", "RGB") else plain.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of 16 and 32 bits scaled down: Pillow's own conversion would clip them to white."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = image if image.mode in ("I", "F") else image.convert("I")
    extremes: Any = values.getextrema()
    low, high = float(extremes[0]), float(extremes[1])
    if not math.isfinite(low) or not math.isfinite(high):
        raise MediaUnreadable("its brightness is not a number")
    if image.mode == "F" or low < 0:
        offset, span = low, high - low
    else:
        # sensors and scanners fill 10, 12 or 14 of the 16 bits
        offset, span = 0.0, float(next((s for s in (255, 1023, 4095, 16383, 65535) if high <= s), high))
    scale = 255.0 / span if span else 0.0
    return values.point(lambda v: v * scale - offset * scale).convert("L")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Exif 2.3, tag 0x0112: what must be done to the stored picture to see it upright."""


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001 - Exif is written by everybody and raises anything; upright is the best guess
        return None


# --- faults ---------------------------------------------------------------------------------------------------


@contextmanager
def _translated(head: bytes) -> Iterator[None]:
    """What goes wrong in Pillow as our errors."""
    try:
        yield
    except (MediaUnreadable, MediaUnreachable):
        raise
    except UnidentifiedImageError as exc:
        if known := next((name for start, name in _BEGINNINGS if head.startswith(start)), ""):
            raise MediaUnreadable(f"it is damaged: it begins as a {known} picture and does not go on as one") from exc
        raise UnknownFormat(f"it is {_guess(head)}, which cannot be read here") from exc
    except MemoryError as exc:
        raise MediaUnreadable("it does not fit into memory") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise MediaUnreachable(f"it cannot be read: {exc.strerror or exc}") from exc
        raise MediaUnreadable(_damage(exc)) from exc
    except Exception as exc:  # damaged files make Pillow's plugins raise nearly anything
        raise MediaUnreadable(_damage(exc)) from exc


def _damage(error: Exception) -> str:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "it is cut off: the end of the picture is missing"
    return f"it is damaged ({text or type(error).__name__})"


_BEGINNINGS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"RIFF", "WebP"), (b"BM", "BMP"))
"""First bytes of formats that Pillow surely knows. Not TIFF's: cameras' raw pictures of all makers begin like it."""
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}


def _guess(head: bytes) -> str:
    """What a file seems to be, by its first bytes."""
    if head[4:8] == b"ftyp":
        return f"a picture in {_BRANDS[head[8:12]]} format" if head[8:12] in _BRANDS else "a video"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a picture in JPEG XL format"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "a drawing in SVG format"
    if text.startswith(b"<"):
        return "a web page"
    return "of a format" if any(head) else "a file of zeros"
