"""Every odd picture gives small upright JPEGs, or one clear sentence."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame
from haven_vlm.picture import Preparation
from haven_vlm.stills import (
    GREY,
    LEAST_SIDE_PX,
    MAX_PIXELS,
    UnknownFormat,
    frames_of,
    picture_key,
    pieces_of,
)
from tests.images.oddities import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    animation,
    encoded,
    halves,
    heic,
    jxl,
    png_header,
    turned,
)

SMALL = Preparation(max_side_px=128)


def read(content: bytes, name: str = "a.jpg", *, moments: int = 5, preparation: Preparation = SMALL) -> list[Frame]:
    return list(
        frames_of(
            io.BytesIO(content), name=name, preparation=preparation, moments=moments, reserve=lambda _: nullcontext()
        )
    )


def picture(frame: Frame) -> Image.Image:
    with Image.open(io.BytesIO(frame.jpeg)) as image:
        assert image.format == "JPEG"
        assert image.size == (frame.width_px, frame.height_px)
        assert len(frame.luma) == 32 * 32
        assert "progressive" not in image.info
        return image.convert("RGB")


def near(found: object, wanted: tuple[int, ...], within: int = 24) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


def corners(frame: Frame) -> tuple[object, object]:
    image = picture(frame)
    y = image.height // 2
    return image.getpixel((image.width // 8, y)), image.getpixel((image.width * 7 // 8, y))


def shows_halves(frame: Frame) -> bool:
    left, right = corners(frame)
    return near(left, RED, 40) and near(right, BLUE, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM", "TGA", "JPEG2000"])
def test_a_plain_picture_of_each_format_is_read(kind: str) -> None:
    frames = read(encoded(halves(), kind), f"a.{kind.lower()}")
    assert len(frames) == 1
    assert shows_halves(frames[0])
    assert (frames[0].at_ms, frames[0].shown_ms) == (0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_undone(orientation: int, kind: str) -> None:
    frame = read(turned(orientation, kind))[0]
    assert (frame.width_px, frame.height_px) == (96, 64)
    assert shows_halves(frame)


def test_exif_that_is_garbage_leaves_the_picture_as_it_is() -> None:
    frame = read(encoded(halves(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"))[0]
    assert shows_halves(frame)


def test_cmyk_as_printers_write_it() -> None:
    assert shows_halves(read(encoded(halves().convert("CMYK"), "JPEG", quality=95))[0])
    assert shows_halves(read(encoded(halves().convert("CMYK"), "TIFF"), "a.tif")[0])


@pytest.mark.parametrize("highest", [255, 1023, 4095, 16383, 65535])
def test_sixteen_bits_are_scaled_not_clipped(highest: int) -> None:
    row = [highest // 4] * 32 + [highest] * 32
    image = Image.frombytes("I;16", (64, 32), struct.pack("<64H", *row) * 32)
    left, right = corners(read(encoded(image, "PNG"), "a.png")[0])
    assert near(left, (64, 64, 64), 6)
    assert near(right, WHITE, 6)


def test_floating_point_pixels_are_scaled() -> None:
    image = Image.new("F", (64, 32), -3.0)
    image.paste(9.0, (32, 0, 64, 32))
    left, right = corners(read(encoded(image, "TIFF"), "a.tif")[0])
    assert near(left, (0, 0, 0), 6)
    assert near(right, WHITE, 6)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    image = Image.new("F", (8, 8), float("nan"))
    with pytest.raises(MediaUnreadable, match="not a number"):
        read(encoded(image, "TIFF"), "a.tif")


def test_lab_and_bitmaps_are_read() -> None:
    assert len(read(encoded(Image.new("LAB", (40, 40), (90, 128, 128)), "TIFF"), "a.tif")) == 1
    assert near(corners(read(encoded(Image.new("1", (40, 40), 1), "PNG"), "a.png")[0])[0], WHITE, 4)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_neutral_grey(mode: str, kind: str) -> None:
    image = Image.new(mode, (64, 32))
    ImageDraw.Draw(image).rectangle((32, 0, 64, 32), fill=(255, 255, 255, 255) if mode == "RGBA" else (255, 255))
    left, right = corners(read(encoded(image.convert("RGBA") if kind == "WEBP" else image, kind), "a.png")[0])
    assert near(left, GREY, 6)
    assert near(right, WHITE, 6)


def test_a_palette_with_transparency_lies_on_neutral_grey() -> None:
    image = Image.new("P", (64, 32), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (32, 0, 64, 32))
    for kind in ("PNG", "GIF"):
        left, right = corners(read(encoded(image, kind, transparency=0), "a.png")[0])
        assert near(left, GREY, 12)
        assert near(right, GREEN, 40)


def test_a_colour_that_means_transparent() -> None:
    left, right = corners(read(encoded(halves(), "PNG", transparency=RED), "a.png")[0])
    assert near(left, GREY, 12)
    assert near(right, BLUE, 40)


# --- several pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_frames_spread_evenly(kind: str) -> None:
    colours = [RED] * 4 + [GREEN] * 4 + [BLUE] * 4
    frames = read(animation(colours, kind), f"a.{kind.lower()}", moments=3)
    assert [f.at_ms for f in frames] == [400, 1200, 2000]
    assert [near(corners(f)[0], c, 40) for f, c in zip(frames, (RED, GREEN, BLUE), strict=True)] == [True] * 3


def test_a_short_animation_gives_each_of_its_frames() -> None:
    assert [f.at_ms for f in read(animation([RED, GREEN, BLUE]), "a.gif")] == [0, 200, 400]


def test_frames_of_no_duration_still_have_times_of_their_own() -> None:
    assert [f.at_ms for f in read(animation([RED, GREEN], ms=0), "a.gif")] == [0, 100]


def test_an_animation_that_is_cut_off_gives_what_is_there() -> None:
    content = animation([RED, GREEN, BLUE, WHITE], "GIF", size=(200, 200))
    frames = read(content[: len(content) * 2 // 3], "a.gif", moments=4)
    assert 1 <= len(frames) < 4
    assert near(corners(frames[0])[0], RED, 40)


def test_pages_and_views_are_no_moments() -> None:
    pages = encoded(halves(), "TIFF", save_all=True, append_images=[halves(GREEN, GREEN)])
    assert len(read(pages, "a.tif")) == 1
    views = encoded(halves(), "MPO", save_all=True, append_images=[halves(GREEN, GREEN)])
    assert [shows_halves(f) for f in read(views, "a.mpo")] == [True]


def test_a_panorama_is_cut_into_pieces_that_show_something() -> None:
    image = Image.new("RGB", (1600, 200), RED)
    image.paste(BLUE, (800, 0, 1600, 200))
    frames = read(encoded(image, "JPEG"))
    assert [f.at_ms for f in frames] == [4000, 4001, 4002, 4003]
    assert {(f.width_px, f.height_px) for f in frames} == {(128, 64)}
    assert near(corners(frames[0])[0], RED, 40)
    assert near(corners(frames[3])[0], BLUE, 40)


def test_pieces_follow_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (1600, 200), RED)
    frames = read(encoded(image, "JPEG", exif=exif))
    assert {(f.width_px, f.height_px) for f in frames} == {(64, 128)}


def test_pieces_never_exceed_the_moments() -> None:
    assert len(read(encoded(Image.new("RGB", (4000, 20), RED), "PNG"), "a.png", moments=3)) == 3
    assert len(read(encoded(Image.new("RGB", (4000, 20), RED), "PNG"), "a.png", moments=1)) == 1


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 9))
def test_only_long_strips_are_cut(width: int, height: int, most: int) -> None:
    pieces = pieces_of(width, height, most)
    assert 1 <= pieces <= most
    assert pieces == 1 or max(width, height) >= 3 * min(width, height)
    assert pieces == pieces_of(height, width, most)


# --- sizes ----------------------------------------------------------------------------------------------------


def test_a_tiny_picture_is_padded_to_what_models_take() -> None:
    frame = read(encoded(Image.new("RGB", (1, 1), RED), "PNG"), "a.png")[0]
    assert (frame.width_px, frame.height_px) == (LEAST_SIDE_PX, LEAST_SIDE_PX)


def test_pictures_are_never_enlarged() -> None:
    frame = read(encoded(halves(), "PNG"), preparation=Preparation(max_side_px=4000))[0]
    assert (frame.width_px, frame.height_px) == (96, 64)


def test_a_large_jpeg_is_unpacked_at_a_fraction_of_its_size() -> None:
    reserved: list[int] = []

    @contextmanager
    def note(amount: int) -> Iterator[None]:
        reserved.append(amount)
        yield

    content = encoded(Image.new("L", (16000, 9000), 120), "JPEG", quality=30)
    (frame,) = frames_of(io.BytesIO(content), name="a.jpg", preparation=SMALL, moments=5, reserve=note)
    assert (frame.width_px, frame.height_px) == (128, 72)
    assert reserved == [2000 * 1125]


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS, 2)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    with pytest.raises(MediaUnreadable, match=r"it says that it is .* more than the 120 million"):
        read(png_header(width, height), "a.png")


def test_a_bomb_of_many_frames_is_walked_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.stills.MAX_WALK_PIXELS", 48 * 32 * 4)
    frames = read(animation([RED] * 20 + [BLUE] * 20), "a.gif", moments=40)
    assert len(frames) == 4


# --- faults ---------------------------------------------------------------------------------------------------


def test_an_empty_file_says_so() -> None:
    with pytest.raises(MediaUnreadable, match=r"^the file is empty \(0 bytes\)$"):
        read(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_picture_that_is_cut_off_says_so(kind: str) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    content = encoded(noise, kind)
    with pytest.raises(MediaUnreadable, match=r"cut off|damaged"):
        read(content[: len(content) // 2], f"a.{kind.lower()}")


def test_a_damaged_picture_says_so() -> None:
    content = bytearray(encoded(Image.radial_gradient("L"), "PNG"))
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    with pytest.raises(MediaUnreadable, match="damaged"):
        read(bytes(content), "a.png")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (heic(), "a picture in HEIC format"),
        (jxl(), "a picture in JPEG XL format"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing in SVG format"),
        (b"\0" * 5000, "a file of zeros"),
        (b"\x1aE\xdf\xa3" + b"a" * 99, "a video"),
        (b"what is this", "of a format"),
    ],
)
def test_what_is_no_picture_here_is_named(content: bytes, what: str) -> None:
    with pytest.raises(UnknownFormat, match=f"it is {what}"):
        read(content)


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM"])
def test_what_only_begins_like_a_picture_is_damaged_and_not_worth_a_thumbnail(head: bytes) -> None:
    with pytest.raises(MediaUnreadable, match=r"damaged|cut off") as caught:
        read(head + b"\0" * 40)
    assert not isinstance(caught.value, UnknownFormat)


def test_a_raw_photograph_is_not_taken_for_the_tiny_preview_inside() -> None:
    with pytest.raises(UnknownFormat, match="raw picture"):
        read(encoded(halves(), "TIFF"), "DSC_0001.NEF")


def test_no_program_is_started_for_a_drawing() -> None:
    with pytest.raises(UnknownFormat):
        read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a.eps")


def test_a_picture_too_large_for_the_memory_there_is_says_so() -> None:
    def full(_: int) -> AbstractContextManager[None]:
        raise MemoryError

    with pytest.raises(MediaUnreadable, match="does not fit into memory"):
        frames_of(io.BytesIO(encoded(halves(), "PNG")), name="a.png", preparation=SMALL, moments=1, reserve=full)


def test_a_picture_without_any_width_is_no_strip() -> None:
    assert pieces_of(0, 100, 5) == pieces_of(100, 0, 5) == 1


def test_an_animation_of_which_no_frame_is_whole_says_so() -> None:
    content = animation([RED, BLUE, GREEN])
    with pytest.raises(MediaUnreadable, match=r"cut off|damaged|no frame"):
        read(content[: content.index(b"\x2c") + 12], "a.gif")


def test_a_failing_disk_is_not_held_against_the_picture() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 400:
                raise OSError(5, "Input/output error")
            return super().read(size)

    content = encoded(Image.effect_noise((900, 900), 80), "JPEG")
    with pytest.raises(MediaUnreachable, match="Input/output error"):
        frames_of(Failing(content), name="a", preparation=SMALL, moments=1, reserve=lambda _: nullcontext())


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(1, 2000),
)
def test_no_damage_escapes_as_anything_but_a_sentence(kind: str, changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(
        animation([RED, BLUE, GREEN], kind) if kind in ("GIF", "WEBP", "PNG") else encoded(halves(), kind)
    )
    for where, value in changes:
        content[where % len(content)] = value
    try:
        frames = read(bytes(content[: max(1, length)]), "a.bin")
    except MediaUnreadable as exc:
        assert str(exc)
    else:
        assert all(picture(f) for f in frames)


def test_the_key_names_all_that_shapes_a_still() -> None:
    kinds = (SMALL, Preparation(max_side_px=129), Preparation(max_side_px=128, jpeg_quality=84))
    assert len({picture_key(p) for p in kinds}) == 3
    assert picture_key(Preparation(128, crop_bars=False)) == picture_key(SMALL)
