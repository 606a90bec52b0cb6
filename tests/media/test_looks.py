"""What is sent looks right: upright, square, uncropped or cropped as it should be, in the right colours, small."""

from __future__ import annotations

import gc
import io
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from demo.court import time_of, truth_of
from haven_vlm.container import PacketFeed
from haven_vlm.facts import Frame
from haven_vlm.frame_image import OddPicture, View, image_from_frame
from haven_vlm.framing import WHOLE, Box
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.picture import Preparation, fitted, frame_from_image, jpeg_from_image, luma_from_image
from haven_vlm.tone import HLG, PQ, to_sdr
from tests.media import odd_files as odd
from tests.media.test_times import opened

RGB = tuple[int, int, int]


def image_of(frame: Frame) -> Image.Image:
    image = Image.open(io.BytesIO(frame.jpeg))
    image.load()
    assert image.size == (frame.width_px, frame.height_px)
    return image


def first(path: Path, preparation: Preparation | None = None) -> Image.Image:
    with opened(path, preparation) as source:
        return image_of(next(iter(source.frames([0]))))


def pixel(image: Image.Image, x: float, y: float) -> RGB:
    value = image.convert("RGB").getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(value, tuple)
    return value[0], value[1], value[2]


def near(one: RGB, other: RGB, by: int = 8) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= by


QUARTERS: tuple[RGB, RGB, RGB, RGB] = ((200, 40, 40), (40, 180, 60), (50, 70, 200), (210, 200, 60))


def quarters(image: Image.Image) -> Image.Image:
    """Red, green above blue, yellow."""
    out = Image.new("RGB", image.size)
    half_x, half_y = image.width // 2, image.height // 2
    for number, colour in enumerate(QUARTERS):
        x, y = number % 2 * half_x, number // 2 * half_y
        out.paste(colour, (x, y, x + half_x, y + half_y))
    return out


def corners(image: Image.Image) -> list[int]:
    """Which quarter is seen upper left, upper right, lower left, lower right."""
    seen = [pixel(image, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    return [next(n for n, colour in enumerate(QUARTERS) if near(colour, one, 14)) for one in seen]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "mpeg2video"])
@pytest.mark.parametrize("size", [(640, 360), (1280, 720)])
def test_colours_survive(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    options = {"libsvtav1": {"preset": "12", "crf": "20"}, "mpeg2video": {"b": "8M"}}.get(codec, {"crf": "12"})
    path = odd.write(tmp_path / "a.mkv", odd.steady(0.4), codec=codec, size=size, options=options, dress=quarters)
    image = first(path, Preparation(jpeg_quality=95))
    assert image.size == (640, 360)
    assert corners(image) == [0, 1, 2, 3]
    for (x, y), colour in zip(((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)), QUARTERS, strict=True):
        assert near(pixel(image, x, y), colour), (pixel(image, x, y), colour)


def test_standard_definition_that_does_not_say_is_bt601(tmp_path: Path) -> None:
    def silent(stream: VideoStream) -> None:
        stream.codec_context.colorspace = 2

    frame_601 = VideoFrame.from_image(quarters(Image.new("RGB", (640, 360))))  # type: ignore[no-untyped-call]
    assert frame_601.reformat(format="yuv420p", dst_colorspace="itu601").colorspace != 1
    path = odd.write(tmp_path / "a.mp4", [0, 40], prepare=silent, dress=quarters, options={"crf": "12"})
    green = pixel(first(path, Preparation(jpeg_quality=95)), 0.75, 0.25)
    # the file holds BT.709 numbers: read as BT.601 its green comes out lighter
    assert not near(green, QUARTERS[1], 4)
    assert near(green, QUARTERS[1], 40)


@pytest.mark.parametrize(
    ("degrees", "flip", "expected"),
    [
        (0, "", [0, 1, 2, 3]),
        (90, "", [1, 3, 0, 2]),
        (180, "", [3, 2, 1, 0]),
        (270, "", [2, 0, 3, 1]),
        (0, "h", [1, 0, 3, 2]),
        (0, "v", [2, 3, 0, 1]),
    ],
)
def test_pictures_are_upright(tmp_path: Path, degrees: int, flip: str, expected: list[int]) -> None:
    def turned(stream: VideoStream) -> None:
        if not hasattr(stream, "set_display_matrix"):
            pytest.skip("this PyAV cannot write a display matrix")
        one = 1 << 16
        # counter-clockwise by `degrees`, as FFmpeg's own function writes it
        cos, sin = round(math.cos(math.radians(degrees))) * one, round(math.sin(math.radians(degrees))) * one
        matrix = [cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30]
        if flip == "h":
            matrix[0], matrix[3] = -matrix[0], -matrix[3]
        if flip == "v":
            matrix[1], matrix[4] = -matrix[1], -matrix[4]
        stream.set_display_matrix(matrix)

    path = odd.write(tmp_path / "a.mp4", odd.steady(0.4), prepare=turned, dress=quarters, options={"crf": "12"})
    with opened(path) as source:
        image = image_of(next(iter(source.frames([0]))))
        assert (source.info.width_px, source.info.height_px) == ((360, 640) if degrees in (90, 270) else (640, 360))
    assert image.size == ((360, 640) if degrees in (90, 270) else (640, 360))
    assert corners(image) == expected


@pytest.mark.parametrize(
    ("aspect", "size", "expected"),
    [("16/15", (720, 576), (640, 480)), ("2/1", (320, 360), (640, 360)), ("1/2", (1280, 360), (640, 360))],
)
def test_pixels_become_square(tmp_path: Path, aspect: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    def anamorphic(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)

    path = odd.write(tmp_path / "a.mp4", [0, 40], size=size, prepare=anamorphic, dress=quarters)
    with opened(path) as source:
        assert source.info.width_px == round(size[0] * Fraction(aspect))
        frame = next(iter(source.frames([0])))
    assert (frame.width_px, frame.height_px) == expected


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bits_are_as_eight(tmp_path: Path, codec: str) -> None:
    path = odd.write(
        tmp_path / "a.mkv", [0, 40], codec=codec, pix_fmt="yuv420p10le", options={"crf": "10"}, dress=quarters
    )
    image = first(path, Preparation(jpeg_quality=95))
    for (x, y), colour in zip(((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)), QUARTERS, strict=True):
        assert near(pixel(image, x, y), colour)


def test_hdr_is_shown_as_an_ordinary_screen_would(tmp_path: Path) -> None:
    """PQ says how many cd/m² a pixel has: 100 of them are half the reference white, not the middle of the scale."""

    def grey(image: Image.Image) -> Image.Image:
        out = Image.new("RGB", image.size, (130, 130, 130))
        out.paste((192, 192, 192), (0, 0, image.width // 2, image.height))  # about 1,000 cd/m²
        return out

    def hdr(stream: VideoStream) -> None:
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9

    path = odd.write(
        tmp_path / "a.mkv",
        [0, 40],
        codec="libx265",
        pix_fmt="yuv420p10le",
        prepare=hdr,
        dress=grey,
        options={"x265-params": "log-level=none:bframes=0:colorprim=9:transfer=16:colormatrix=9"},
    )
    image = first(path)
    bright, middle = pixel(image, 0.25, 0.5), pixel(image, 0.75, 0.5)
    assert min(bright) >= 244, bright  # five times the reference white
    assert near(middle, (186, 186, 186), 12), middle  # half the reference white, on the sRGB curve


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_the_tone_table_is_monotone_and_keeps_grey_grey(transfer: int) -> None:
    ramp = Image.merge("RGB", [Image.linear_gradient("L").rotate(90)] * 3).filter(to_sdr(transfer))
    values = [pixel(ramp, x / 256, 0.5) for x in range(256)]
    for one, following in pairwise(values):
        assert max(one) - min(one) <= 1
        assert following[0] >= one[0] - 1  # between two nodes of the table it is hardly darker than at them
    assert values[0] == (0, 0, 0)
    assert min(values[-1]) >= 250


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_of_interlaced_pictures_one_field_is_shown(tmp_path: Path, name: str) -> None:
    """The fields of this film are black and white in turn: woven together they would be grey, or striped."""

    def striped(image: Image.Image) -> Image.Image:
        column = Image.new("L", (1, image.height))
        column.putdata([235 if y % 2 == 0 else 20 for y in range(image.height)])
        return column.resize(image.size).convert("RGB")

    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    options = {"flags": "+ildct+ilme", "b": "20M"} if name == "a.mpg" else {"x264-params": "tff=1", "crf": "8"}
    path = odd.write(
        tmp_path / name, odd.steady(1), codec=codec, size=(720, 576), gop=12, options=options, dress=striped
    )
    image = first(path)
    assert image.size == (640, 512)
    assert min(pixel(image, 0.5, y / 10)[0] for y in range(1, 10)) >= 200


def barred(left: float, top: float, right: float, bottom: float, *, dark_start_ms: int = 0) -> odd.Dress:
    def dress(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        out = Image.new("RGB", image.size)
        if time_of(image) >= dark_start_ms:
            out.paste(image.resize((box[2] - box[0], box[3] - box[1])), box[:2])
        return out

    return dress


@pytest.mark.parametrize(
    "bars", [(0, 0.125, 0, 0.125), (0.25, 0, 0.25, 0), (0.1, 0.1, 0.05, 0.2)], ids=["letterbox", "pillars", "window"]
)
@pytest.mark.parametrize("dark_start_ms", [0, 1500], ids=["at once", "after black"])
def test_black_bars_are_cut_off_on_all_sides(
    tmp_path: Path, bars: tuple[float, float, float, float], dark_start_ms: int
) -> None:
    dress = barred(*bars, dark_start_ms=dark_start_ms)
    path = odd.write(tmp_path / "a.mp4", odd.steady(8, 10), size=(960, 540), gop=10, dress=dress, rate=10)
    shape = (1 - bars[0] - bars[2]) * 960 / ((1 - bars[1] - bars[3]) * 540)
    with opened(path) as source:
        frames = list(source.frames(range(2000, 8000, 1000)))
    assert len({(f.width_px, f.height_px) for f in frames}) == 1
    for frame in frames:
        assert frame.width_px / frame.height_px == pytest.approx(shape, rel=0.02)
        assert time_of(frame.jpeg) == frame.shown_ms
        assert truth_of(frame.jpeg)
    assert first(path, Preparation(crop_bars=False)).size == (640, 360)


def test_a_dark_scene_is_not_taken_for_bars(tmp_path: Path) -> None:
    def lamp(image: Image.Image) -> Image.Image:
        out = Image.new("RGB", image.size, (4, 4, 4))
        out.paste((250, 240, 200), (300, 150, 340, 190))
        return out

    assert first(odd.write(tmp_path / "a.mp4", odd.steady(3), dress=lamp)).size == (640, 360)


def two_eyes(image: Image.Image) -> Image.Image:
    """Side by side, the right eye a little shifted, as in VR."""
    eye = image.resize((image.width // 2, image.height))
    out = Image.new("RGB", image.size)
    out.paste(eye, (0, 0))
    out.paste(eye, (image.width // 2 + 6, 0))
    return out


@pytest.mark.parametrize(
    ("name", "size", "is_vr"),
    [
        ("match_180_LR.mp4", (640, 320), True),
        ("match_VR180_SBS.mp4", (640, 320), True),
        ("big.mp4", (2880, 1440), True),
        ("180 degrees.mp4", (640, 320), False),
        ("small.mp4", (640, 320), False),
    ],
)
def test_of_a_vr_film_the_centre_of_one_eye_is_shown(
    tmp_path: Path, name: str, size: tuple[int, int], is_vr: bool
) -> None:
    path = odd.write(tmp_path / name, odd.steady(5, 5), size=size, gop=5, dress=two_eyes, rate=5)
    image = first(path)
    assert image.size == ((192, 192) if size[0] == 640 else (640, 640)) if is_vr else image.size == (640, 320)
    if is_vr:
        assert first(path, Preparation(projection="flat")).size == (640, 320)


def test_wide_films_with_different_halves_stay_whole(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "film.mp4", odd.steady(5, 5), size=(2880, 1440), gop=5, dress=quarters, rate=5)
    assert first(path).size == (640, 320)


def test_a_change_of_size_on_the_way_is_no_trouble(tmp_path: Path) -> None:
    """Raw streams can be joined: the second half has another size."""
    small = odd.write(tmp_path / "a.h264", odd.steady(2), size=(320, 180)).read_bytes()
    large = odd.write(tmp_path / "b.h264", odd.steady(2), size=(640, 360)).read_bytes()
    joined = tmp_path / "joined.h264"
    joined.write_bytes(small + large)
    with opened(joined) as source:
        sizes = [(f.width_px, f.height_px) for f in source.frames([0, 1000, 3000])]
    assert sizes == [(320, 180), (320, 180), (640, 360)]


def test_the_jpeg_is_plain_and_small(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "a.mp4", [0, 40], size=(1920, 1080))
    with opened(path) as source:
        frame = next(iter(source.frames([0])))
    image = image_of(frame)
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    assert "progressive" not in image.info
    assert not image.getexif()
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert len(frame.jpeg) < 60_000
    assert len(frame.luma) == 1024
    assert (
        frame.luma == luma_from_image(image)
        or max(abs(a - b) for a, b in zip(frame.luma, luma_from_image(image), strict=True)) <= 8
    )


def test_metadata_of_a_still_is_not_sent() -> None:
    image = Image.new("RGB", (64, 48), "orange")
    image.info = {
        "comment": b"at home",
        "xmp": b"<x/>",
        "exif": b"Exif\0\0",
        "icc_profile": b"p" * 200,
        "dpi": (72, 72),
    }
    data = jpeg_from_image(image, Preparation())
    assert b"at home" not in data
    with Image.open(io.BytesIO(data)) as back:
        assert set(back.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    frame = frame_from_image(image, Preparation(), at_ms=5, shown_ms=5)
    assert (frame.width_px, frame.height_px, frame.corrupt) == (64, 48, False)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (640, 360)), ((1080, 1920), (360, 640)), ((320, 200), (320, 200)), ((10_000, 3), (640, 1))],
)
def test_pictures_shrink_and_never_grow(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(*size, 640) == expected


def test_the_key_names_all_that_shapes_a_picture() -> None:
    variants = [
        Preparation(),
        Preparation(max_side_px=512),
        Preparation(jpeg_quality=80),
        Preparation(crop_bars=False),
        Preparation(projection="flat"),
    ]
    assert len({v.key for v in variants}) == len(variants)
    assert Preparation().key == "jpeg1:640:q85:crop:auto"  # a change of it makes every known answer void


def test_pictures_that_were_sent_are_let_go(tmp_path: Path) -> None:
    """Once every frame lived on in a reference cycle: 3 MB each until the garbage collector came round."""
    path = odd.write(tmp_path / "a.mp4", odd.steady(3), gop=10)
    with VideoSource(PacketFeed(Location(str(path))), Preparation()) as source:
        gc.collect()
        gc.disable()
        try:
            count = sum(1 for _ in source.frames(range(0, 3000, 40)))
            alive = sum(isinstance(one, VideoFrame) for one in gc.get_objects())
        finally:
            gc.enable()
    assert count == 75
    assert alive <= 8


@pytest.mark.parametrize("pix_fmt", ["rgb4", "gray32le", "yaf32le"])
def test_what_cannot_be_converted_is_an_odd_picture(pix_fmt: str) -> None:
    with pytest.raises(OddPicture, match=pix_fmt):
        image_from_frame(VideoFrame(64, 48, pix_fmt), View(), Preparation())


@pytest.mark.parametrize("pix_fmt", ["rgb24", "nv12", "yuyv422", "gbrp10le", "yuva420p", "yuv411p", "gray", "p010le"])
@pytest.mark.parametrize("box", [WHOLE, Box(0.25, 0.25, 0.75, 0.75)], ids=["whole", "part"])
def test_every_common_pixel_format_can_be_shown(pix_fmt: str, box: Box) -> None:
    source = VideoFrame.from_image(Image.new("RGB", (64, 48), (90, 160, 60)))  # type: ignore[no-untyped-call]
    source = source.reformat(format=pix_fmt, dst_colorspace="itu601")
    image = image_from_frame(source, View(box=box), Preparation())
    assert image.size == ((64, 48) if box == WHOLE else (32, 24))
    expected = (127, 127, 127) if pix_fmt == "gray" else (90, 160, 60)
    assert near(pixel(image, 0.5, 0.5), expected, 10)


def test_a_film_of_odd_pictures_gives_none_and_counts_them(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "a.nut", odd.steady(1), codec="rawvideo", pix_fmt="rgb4")
    with opened(path) as source:
        assert list(source.frames([0, 400, 800])) == []
        assert list(source.survey()) == []
        assert source.bad_frames >= 3
