"""Odd videos, made on the spot. Every frame carries the time, from the first frame on, at which it shall be shown."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from demo.court import TAGS, Canvas

TICKS = 1000
"""Time base of the frames handed to the encoder: milliseconds."""

Dress = Callable[[Image.Image], Image.Image]
"""What is done to a picture before it is encoded: bars, a second eye, …"""


def steady(seconds: float, fps: float = 25) -> list[int]:
    """Times in milliseconds of a constant rate."""
    return [round(n * 1000 / fps) for n in range(round(seconds * fps))]


def picture(at_ms: int, size: tuple[int, int] = (640, 360)) -> Image.Image:
    """The picture of a time; `demo.court.time_of` reads the time back."""
    image = _backdrop(at_ms // 4000, at_ms // 2000 % len(TAGS), size).copy()
    image.paste(Canvas(*size).strip(at_ms).convert("RGB"), (0, 0))
    return image


@lru_cache(maxsize=16)
def _backdrop(shot: int, tag: int, size: tuple[int, int]) -> Image.Image:
    return Canvas(*size).backdrop(shot, frozenset({TAGS[tag]}), TAGS)


def write(
    path: Path,
    times_ms: Sequence[int],
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (640, 360),
    gop: int = 25,
    start_ms: int = 0,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    prepare: Callable[[VideoStream], None] | None = None,
    dress: Dress | None = None,
    sound: bool = False,
    rate: int = 25,
) -> Path:
    """Encode one frame for each time. `start_ms` is added to all times in the container only."""
    quick = {"libx264": {"preset": "veryfast", "sc_threshold": "0"}, "libx265": {"preset": "ultrafast"}}.get(codec, {})
    if codec == "libx265":
        # a clip shorter than its delay for B frames gets decoding times out of uninitialised memory
        quick = {**quick, "x265-params": f"log-level=none:keyint={gop}" + ":bframes=0" * (len(times_ms) < 8)}
    with av.open(str(path), "w", container_options=dict(container or {})) as output:
        stream = output.add_stream(codec, rate=rate, options={**quick, **(options or {})})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.gop_size = gop
        steps_only = codec in ("mpeg4", "mpeg2video")  # these know no finer time base than their rate
        context.time_base = Fraction(1, rate if steps_only else TICKS)
        context.colorspace, context.color_range = 1, 1
        if prepare is not None:
            prepare(stream)
        audio = output.add_stream("aac", rate=44100) if sound else None
        for at_ms in times_ms:
            image = picture(at_ms, size)
            if dress is not None:
                image = dress(image)
            frame = VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            frame = frame.reformat(format=pix_fmt, dst_colorspace="itu709", dst_color_range="MPEG")
            shown = at_ms + start_ms
            frame.pts = round(shown * rate / 1000) if steps_only else shown
            frame.time_base = context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if audio is not None:
            _add_silence(output, audio, (times_ms[-1] + start_ms) / 1000)
    return path


def _add_silence(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for number in range(int(seconds * 44100 / 1024)):
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 44100, number * 1024, Fraction(1, 44100)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def only_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as output:
        _add_silence(output, output.add_stream("aac", rate=44100), 1)
    return path


def remuxed(source: Path, path: Path, shift_ms: int, *, container: Mapping[str, str] | None = None) -> Path:
    """The same packets with other times; what lies before zero is cut off by an edit list in mp4."""
    with av.open(str(source)) as given, av.open(str(path), "w", container_options=dict(container or {})) as output:
        track = given.streams.video[0]
        copy = output.add_stream_from_template(track)
        for packet in given.demux(track):
            if packet.dts is None or packet.pts is None or track.time_base is None:
                continue
            shift = round(Fraction(shift_ms, 1000) / track.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = copy
            output.mux(packet)
    return path


def with_cover(source: Path, path: Path) -> Path:
    """A Matroska film whose first video stream is its cover."""
    cover = picture(0, (320, 320))
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        art = output.add_stream("mjpeg", rate=1)
        assert isinstance(art, VideoStream)
        art.width, art.height, art.pix_fmt = 320, 320, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        track = given.streams.video[0]
        copy = output.add_stream_from_template(track)
        frame = VideoFrame.from_image(cover)  # type: ignore[no-untyped-call]
        frame = frame.reformat(format="yuvj420p")
        frame.pts = 0
        output.mux(art.encode(frame))
        output.mux(art.encode(None))
        for packet in given.demux(track):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    return path


def only_cover(path: Path) -> Path:
    """An album: sound, and a picture on its sleeve."""
    with av.open(str(path), "w", format="mp4") as output:
        art = output.add_stream("mjpeg", rate=1)
        assert isinstance(art, VideoStream)
        art.width, art.height, art.pix_fmt = 320, 320, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        sound = output.add_stream("aac", rate=44100)
        frame = VideoFrame.from_image(picture(0, (320, 320))).reformat(format="yuvj420p")  # type: ignore[no-untyped-call]
        frame.pts = 0
        output.mux(art.encode(frame))
        output.mux(art.encode(None))
        _add_silence(output, sound, 1)
    return path


def cut_off(source: Path, path: Path, share: float) -> Path:
    """The beginning of a file."""
    whole = source.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def damaged(source: Path, path: Path, begin: float, end: float, seed: int = 0) -> Path:
    """A file with noise between two shares of its length."""
    whole = bytearray(source.read_bytes())
    first, last = int(len(whole) * begin), int(len(whole) * end)
    whole[first:last] = random.Random(seed).randbytes(last - first)
    path.write_bytes(bytes(whole))
    return path
