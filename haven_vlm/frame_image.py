"""A decoded frame as a small image: upright, with square pixels, without bars, of ordinary dynamic range.

Scaling happens in the decoder's own pixel format in one step (swscale, area averaging): turning the full picture
into RGB first costs ten times as much.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from PIL import Image

from haven_vlm.framing import WHOLE, Box, Probe, lit_part
from haven_vlm.picture import LUMA_SIDE, Preparation, fitted
from haven_vlm.tone import HLG, PQ, to_sdr

MAX_LINES = 8192
"""Rows or columns by which bars are looked for; more are taken together."""

_UNSPECIFIED, _BT2020, _BT2020_CONSTANT = 2, 9, 10  # matrix coefficients, ITU-T H.273 table 4
_SWS_709, _SWS_601, _SWS_240, _SWS_2020 = 1, 5, 7, 9  # swscale's own numbers of the same
_FULL_RANGE = 2

_TRANSPOSE: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Display matrix (a, b, c, d), rounded → what Pillow calls it."""

_SIDEWAYS = frozenset(
    {
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
    }
)

_CUTTABLE = re.compile(r"yuvj?4(?:20|22|44|40)p(?:(?:9|10|12|14|16)le)?|gray(?:(?:9|10|12|14|16)le)?|nv12|p010le")


class OddPicture(Exception):
    """A picture was decoded that nothing can be made of: damage gave it a size or colours that do not exist."""


@dataclass(frozen=True, slots=True)
class View:
    """How the frames of one file have to be looked at."""

    box: Box = WHOLE
    """The part that counts, of the picture as it is stored."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a stored pixel divided by its height."""
    transfer: int = _UNSPECIFIED
    """Transfer characteristics, as ITU-T H.273 (table 3) numbers them."""
    turn: Image.Transpose | None = None
    """What must be done to the stored picture to see it upright; None: nothing."""


def image_from_frame(frame: VideoFrame, view: View, preparation: Preparation) -> Image.Image:
    """The small upright RGB image of a decoded frame."""
    cut, line_height = _cut(frame, view.box)
    shape = float(cut.width * view.pixel_aspect), cut.height * line_height
    width, height = fitted(*shape, preparation.max_side_px)
    small = _reformatted(cut, width, height, "rgb24")
    plane = small.planes[0]
    image = Image.frombytes("RGB", (width, height), bytes(plane), "raw", "RGB", plane.line_size)
    if view.transfer in (PQ, HLG):
        image = image.filter(to_sdr(view.transfer))
    return image if view.turn is None else image.transpose(view.turn)


def orientation(frame: VideoFrame) -> Image.Transpose | None:
    """What must be done to the stored picture to see it upright, from the display matrix; None: nothing."""
    raw = _side_data(frame, "DISPLAYMATRIX")
    if len(raw) < 36:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", raw[:36])
    largest = max(abs(a), abs(b), abs(c), abs(d)) or 1
    return _TRANSPOSE.get((round(a / largest), round(b / largest), round(c / largest), round(d / largest)))


def upright_size(frame: VideoFrame, view: View) -> tuple[int, int]:
    """Width and height in pixels of the part that counts, upright, with square pixels, before scaling down."""
    box = view.box
    width = max(1, round(frame.width * (box.right - box.left) * view.pixel_aspect))
    height = max(1, round(frame.height * (box.bottom - box.top)))
    return (height, width) if view.turn in _SIDEWAYS else (width, height)


def glimpse_luma(frame: VideoFrame) -> bytes:
    """The 32 × 32 grey values of a whole frame as it is stored; the cheapest look there is."""
    return _grey(frame, LUMA_SIDE, LUMA_SIDE)


def probe_of(frame: VideoFrame) -> Probe:
    """What a frame says about bars and eyes."""
    blocks, height, width = 16, min(frame.height, MAX_LINES), min(frame.width, MAX_LINES)
    rows = _grey(frame, blocks, height)
    columns = _grey(frame, width, blocks)
    edges = lit_part(
        [rows[n * blocks : (n + 1) * blocks] for n in range(height)],
        [columns[n::width] for n in range(width)],
    )
    return Probe(edges, glimpse_luma(frame))


def stereo_and_sphere(frame: VideoFrame) -> tuple[int | None, int | None]:
    """The container's own VR tags: FFmpeg's numbers of stereo layout and of projection; None where it has none."""
    stereo, sphere = (_side_data(frame, kind)[:4] for kind in ("STEREO3D", "SPHERICAL"))
    return _number(stereo), _number(sphere)


def _number(raw: bytes) -> int | None:
    return int(struct.unpack("=i", raw)[0]) if len(raw) == 4 else None


def _side_data(frame: VideoFrame, kind: str) -> bytes:
    """What goes along with a frame; empty: nothing of this kind.

    Not by `frame.side_data`: that makes frame and side data hold each other, and with them megabytes of pixels until
    the garbage collector comes round, which counts objects and not what they weigh.
    """
    container: Any = SideDataContainer  # PyAV's own description of it tells neither what makes one nor all its keys
    try:
        return bytes(container(frame)[kind])
    except KeyError:
        return b""


def _grey(frame: VideoFrame, width: int, height: int) -> bytes:
    small = _reformatted(frame, width, height, "gray")
    plane = small.planes[0]
    raw = bytes(plane)
    if plane.line_size == width:
        return raw[: width * height]
    return b"".join(raw[n * plane.line_size : n * plane.line_size + width] for n in range(height))


def _reformatted(frame: VideoFrame, width: int, height: int, pixel_format: str) -> VideoFrame:
    matrix = frame.colorspace
    if matrix in (_BT2020, _BT2020_CONSTANT):
        source = _SWS_2020
    elif matrix == 1 or (matrix == _UNSPECIFIED and frame.height >= 720):
        source = _SWS_709  # what players assume of high definition that does not say
    elif matrix == 7:
        source = _SWS_240
    else:
        source = _SWS_601
    return _converted(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        src_colorspace=source,
        dst_colorspace=_SWS_601,
        dst_color_range=_FULL_RANGE,
        interpolation="AREA",
    )


def _converted(frame: VideoFrame, **wanted: Any) -> VideoFrame:
    if frame.format.name.startswith("yaf"):  # FFmpeg 8 does not refuse these, it aborts the process
        raise OddPicture(f"a picture in {frame.format.name}")
    try:
        # on its own swscale would start a thread for each core, for a millisecond's work
        return frame.reformat(threads=1, **wanted)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as exc:
        raise OddPicture(f"a picture of {frame.width} × {frame.height} {frame.format.name}") from exc


def _cut(frame: VideoFrame, box: Box) -> tuple[VideoFrame, int]:
    """The part of a frame, of an interlaced one only its upper field; the frame itself if that is all of it.

    The number says how many lines of the frame each line of the part stands for.

    Planes are cut as bytes by Pillow, which copies without looking at them: about a millisecond for 1080p.
    """
    whole = box == WHOLE
    if whole and not frame.interlaced_frame:
        return frame, 1
    if not _CUTTABLE.fullmatch(frame.format.name):
        if whole:
            return frame, 1
        frame = _converted(frame, format="yuv420p")
    step = 2 if frame.interlaced_frame and frame.height >= 8 else 1
    # chroma comes in pairs, and pairs of lines of a field lie four lines apart
    grid_x, grid_y = 2, 2 * step
    left, top = (int(box.left * frame.width) // grid_x * grid_x, int(box.top * frame.height) // grid_y * grid_y)
    width = max(grid_x, (round(box.right * frame.width) - left) // grid_x * grid_x)
    height = max(grid_y, (round(box.bottom * frame.height) - top) // grid_y * grid_y)
    out = VideoFrame(width, height // step, frame.format.name)
    sample_bytes = 2 if frame.format.name.endswith("le") else 1
    for number, (source, target) in enumerate(zip(frame.planes, out.planes, strict=True)):
        pair = 2 if number and len(frame.planes) == 2 else 1  # nv12 and its like keep both colours in one plane
        row_bytes = source.width * sample_bytes * pair
        shrink_y = 2 if source.height * 2 <= frame.height + 1 else 1
        x0, y0 = left * row_bytes // frame.width, top // shrink_y // step
        # two lines side by side in a picture of double width: its left half is the upper field
        lines = source.height // step
        stored = Image.frombuffer("L", (source.line_size * step, lines), bytes(source), "raw", "L", 0, 1)
        part = stored.crop((x0, y0, x0 + target.line_size, y0 + target.height))
        target.update(part.tobytes())
    out.colorspace, out.color_range = frame.colorspace, frame.color_range
    return out, step
