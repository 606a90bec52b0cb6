"""A broken part of a file costs that part; no file hangs the reader, crashes it, or makes it grow."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from demo.court import time_of
from haven_vlm.container import PacketFeed
from haven_vlm.errors import MediaError, MediaUnreadable
from haven_vlm.facts import Frame
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.picture import Preparation
from tests.media import odd_files as odd
from tests.media.test_times import opened

WANTED = range(0, 10_000, 500)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ten seconds in several containers."""
    folder = tmp_path_factory.mktemp("films")
    times = odd.steady(10)
    quick = {"crf": "30"}
    return {
        "mp4": odd.write(folder / "a.mp4", times, container={"movflags": "faststart"}, options=quick),
        "mkv": odd.write(folder / "a.mkv", times, options=quick),
        "ts": odd.write(folder / "a.ts", times, options=quick),
        "avi": odd.write(folder / "a.avi", times, codec="mpeg4"),
        "mpg": odd.write(folder / "a.mpg", times, codec="mpeg2video", options={"b": "2M"}),
        "flv": odd.write(folder / "a.flv", times, options=quick),
        "h264": odd.write(folder / "a.h264", times, options=quick),
        "hevc": odd.write(folder / "a.hevc", times, codec="libx265", options={"crf": "32"}),
        "webm": odd.write(
            folder / "a.webm", times, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "crf": "50"}
        ),
        "frag.mp4": odd.write(folder / "b.mp4", times, container={"movflags": "frag_keyframe+empty_moov"}),
    }


def right(frame: Frame) -> bool:
    """Whether the picture is whole and the one it says it is."""
    try:
        return abs(time_of(frame.jpeg) - frame.shown_ms) <= 1 and 0 <= frame.at_ms - frame.shown_ms <= 41
    except ValueError:
        return False


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "mpg", "flv", "h264", "frag.mp4", "webm"])
def test_of_a_truncated_file_what_is_there_is_read(films: dict[str, Path], tmp_path: Path, kind: str) -> None:
    path = odd.cut_off(films[kind], tmp_path / f"cut.{kind}", 0.55)
    with opened(path) as source:
        frames = list(source.frames(WANTED))
        last = frames[-1].shown_ms  # stays on screen for a second; half of it may be missing
        assert len(frames) >= 6
        assert all(right(f) for f in frames if f.shown_ms < last)
        assert frames[-1].at_ms <= last + 1040 <= 8000
        assert [f.at_ms for f in frames] == [f.at_ms for f in source.frames(WANTED)]  # the same again, from the start
        assert source.bad_frames > 0


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "mpg", "flv", "webm"])
def test_damage_in_the_middle_costs_the_middle(films: dict[str, Path], tmp_path: Path, kind: str) -> None:
    path = odd.damaged(films[kind], tmp_path / f"torn.{kind}", 0.4, 0.5)
    with opened(path) as source:
        frames = list(source.frames(WANTED))
        good = {f.at_ms for f in frames if right(f)}
        # ten percent are gone, and with them the groups of pictures they touch
        assert {0, 500, 1000, 1500, 2000} <= good
        assert {8000, 8500, 9000, 9500} <= good
        assert len(good) >= 12
        assert source.bad_frames > 0 or kind == "webm"  # VP9 has nothing to tell damage by


@pytest.mark.parametrize("kind", ["avi", "h264", "hevc"])
def test_where_times_are_counted_damage_may_shift_what_follows(
    films: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """These containers know no times, only turns: of the turns that are lost nobody knows how many they were."""
    path = odd.damaged(films[kind], tmp_path / f"torn.{kind}", 0.4, 0.5)
    with opened(path) as source:
        frames = list(source.frames(WANTED))
    assert {0, 500, 1000, 1500, 2000} <= {f.at_ms for f in frames if right(f)}
    readable = 0
    for frame in frames:
        try:
            readable += abs(time_of(frame.jpeg) - frame.shown_ms) < 2500
        except ValueError:
            continue
    assert readable >= 10


def test_a_frame_that_is_damaged_says_so(films: dict[str, Path], tmp_path: Path) -> None:
    path = odd.damaged(films["ts"], tmp_path / "torn.ts", 0.4, 0.5)
    with opened(path) as source:
        frames = list(source.frames(range(0, 10_000, 200)))
    wrong = [f for f in frames if not right(f)]
    assert wrong
    # what a decoder conceals it cannot always know about
    assert sum(f.corrupt for f in wrong) * 2 >= len(wrong)


def test_a_file_of_which_no_picture_can_be_decoded_is_unreadable(films: dict[str, Path], tmp_path: Path) -> None:
    whole = bytearray(films["mp4"].read_bytes())
    begin = whole.index(b"mdat") + 4
    whole[begin:] = random.Random(1).randbytes(len(whole) - begin)
    path = tmp_path / "noise.mp4"
    path.write_bytes(bytes(whole))
    with pytest.raises(MediaUnreadable, match="no picture that can be decoded"):
        opened(path)


@pytest.mark.parametrize("duration", [0, 0x7FFFFFFF])
def test_a_false_length_does_no_harm(films: dict[str, Path], tmp_path: Path, duration: int) -> None:
    """Length zero, or 25 days, in all headers of an mp4."""
    whole = bytearray(films["mp4"].read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = whole.index(box) + offset
        whole[at : at + 4] = struct.pack(">I", duration)
    path = tmp_path / "false.mp4"
    path.write_bytes(bytes(whole))
    with opened(path) as source:
        assert all(right(f) for f in source.frames(WANTED))
        assert len(list(source.frames(WANTED))) == 20


def test_absurd_times_in_the_middle_cost_their_packets_only(films: dict[str, Path], tmp_path: Path) -> None:
    """A few PTS fields of a transport stream point hours ahead."""
    whole = bytearray(films["ts"].read_bytes())
    changed = 0
    for packet in range(0, len(whole) - 188, 188):
        starts = whole[packet + 1] & 0x40
        at = whole.find(b"\x00\x00\x01\xe0", packet, packet + 188)
        if starts and at > 0 and whole[at + 7] & 0x80 and changed < 3 and packet > len(whole) // 3:
            whole[at + 9] = whole[at + 9] & 0xF1 | 0x0E  # the upper bits of 33
            changed += 1
    assert changed == 3
    path = tmp_path / "absurd.ts"
    path.write_bytes(bytes(whole))
    with opened(path) as source:
        good = [f.at_ms for f in source.frames(WANTED) if right(f)]
    assert len(good) >= 16
    assert good[-1] == 9500


def exercise(path: Path) -> str:
    """All that the product does with a file; returns what became of it."""
    try:
        feed = PacketFeed(Location(str(path)), open_timeout_s=5, read_timeout_s=5)
    except MediaError as exc:
        assert str(exc).endswith(".")
        return "not opened"
    try:
        with VideoSource(feed, Preparation(max_side_px=160)) as source:
            count = 0
            for frame in source.frames(range(0, 10_000, 900)):
                assert frame.shown_ms <= frame.at_ms
                assert len(frame.luma) == 1024
                count += 1
            for number, glimpse in enumerate(source.survey()):
                assert len(glimpse.luma) == 1024
                if number > 30:
                    break
            assert 0 <= source.measure() <= 10 * 24 * 3600 * 1000
            return "read" if count else "empty"
    except MediaError as exc:
        assert str(exc).endswith(".")
        return "given up"
    finally:
        feed.close()


MUTATIONS = 36
"""Files for each container: hundreds in all."""


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi", "mpg", "flv", "h264", "hevc", "webm", "frag.mp4"])
def test_mutated_files_never_hang_crash_or_grow_memory(films: dict[str, Path], tmp_path: Path, kind: str) -> None:
    dice = random.Random(kind)
    whole = films[kind].read_bytes()
    results: dict[str, int] = {}
    memory_before = 0
    for number in range(MUTATIONS):
        data = bytearray(whole)
        # headers and indexes matter most: half of the changes go to the first and last kilobytes
        for _ in range(dice.choice((1, 3, 20, 200))):
            zone = dice.choice(((0, 2000), (len(data) - 2000, len(data)), (0, len(data)), (0, len(data))))
            data[dice.randrange(max(0, zone[0]), min(len(data), zone[1]))] = dice.randrange(256)
        if dice.random() < 0.2:
            cut = dice.randrange(len(data))
            del data[cut : cut + dice.randrange(1, 5000)]
        if dice.random() < 0.1:
            cut = dice.randrange(len(data))
            data[cut:cut] = data[max(0, cut - 3000) : cut]
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(bytes(data))
        result = exercise(path)
        results[result] = results.get(result, 0) + 1
        path.unlink()
        if number == MUTATIONS // 3:
            memory_before = resident_bytes()
    assert results.get("read", 0) >= MUTATIONS // 4, results
    assert resident_bytes() - memory_before < 200 * 2**20


def resident_bytes() -> int:
    """Memory this process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    except OSError:
        return 0
