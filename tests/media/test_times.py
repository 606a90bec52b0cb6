"""The frame that comes out is the one on screen at the wanted time, in every odd container."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from demo.court import time_of
from haven_vlm.container import PacketFeed
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.picture import Preparation
from tests.media import odd_files as odd

STEADY = odd.steady(6)
VARIABLE = [0, 40, 80, 500, 510, 530, 1000, 1033, 1500, 1900, 2300, 6300, 6340, 6400, 7000, 7001, 7500]
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=25:min-keyint=25:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=25"}
QUICK_VP = {"deadline": "realtime", "cpu-used": "8"}
FIELDS = {"flags": "+ildct+ilme"}

Maker = Callable[[Path], Path]


def encoded(name: str, times: list[int] = STEADY, **options: object) -> tuple[str, Maker, list[int]]:
    def make(folder: Path) -> Path:
        path = folder / name
        return path if path.exists() else odd.write(path, times, **options)  # type: ignore[arg-type]

    return name, make, times


def shifted(name: str, shift_ms: int) -> tuple[str, Maker, list[int]]:
    """The same film with other times in its container."""

    def make(folder: Path) -> Path:
        return odd.remuxed(odd.write(folder / f"plain-{name}", STEADY), folder / name, shift_ms)

    return name, make, [t for t in STEADY if t + shift_ms >= 0] if shift_ms < 0 else STEADY


FILES = [
    encoded("plain.mp4"),
    encoded("plain.mkv"),
    encoded("with sound.mp4", sound=True),
    encoded("variable.mp4", VARIABLE, gop=10),
    encoded("variable.mkv", VARIABLE, gop=10),
    encoded("starts at an hour.ts", start_ms=3_600_000),
    encoded("starts at twelve seconds.mkv", start_ms=12_000),
    shifted("waits five seconds.mp4", 5000),
    shifted("edit list cuts its beginning.mp4", -1480),
    encoded("fragments.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    encoded("live.mkv", container={"live": "1"}),
    encoded("live.webm", odd.steady(3), codec="libvpx", options=QUICK_VP, container={"live": "1"}),
    encoded("open groups.mp4", options=OPEN_GOP),
    encoded("open groups.ts", options=OPEN_GOP),
    encoded("open groups hevc.mkv", codec="libx265", options={"x265-params": "log-level=none:open-gop=1:keyint=25"}),
    encoded("renewed in stripes.mp4", options=REFRESH),
    encoded("one keyframe.mkv", odd.steady(12), gop=2000),
    encoded("program stream.mpg", codec="mpeg2video", gop=12, options={"bf": "2", "b": "4M"}),
    encoded("mpeg2.ts", codec="mpeg2video", gop=12, options={"bf": "2", "b": "4M"}),
    encoded("mpeg4.avi", codec="mpeg4", options={"bf": "2"}),
    encoded("h264.avi"),
    encoded("old.wmv", codec="wmv2", options={"b": "4M"}),
    encoded("old.flv"),
    encoded("raw.h264"),
    encoded("raw.hevc", codec="libx265"),
    encoded("fields.ts", options={"x264-params": "tff=1", **FIELDS}),
    encoded("fields.mpg", codec="mpeg2video", gop=12, options={"b": "4M", **FIELDS}),
    encoded("every frame a key.mov", codec="mjpeg", pix_fmt="yuvj420p"),
    encoded("one frame.mp4", [0]),
    encoded("one frame.webm", [0], codec="libvpx-vp9"),
    encoded("ten bits.mkv", codec="libx265", pix_fmt="yuv420p10le"),
    encoded("vp9.webm", odd.steady(3), codec="libvpx-vp9", options=QUICK_VP),
]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def opened(path: Path, preparation: Preparation | None = None) -> VideoSource:
    return VideoSource(PacketFeed(Location(str(path))), preparation or Preparation(), name=path.name)


@pytest.mark.parametrize(("make", "times"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
@pytest.mark.parametrize("seek_cost", [0.0, 1e9], ids=["seeking", "reading on"])
def test_the_frame_on_screen_at_each_wanted_time(films: Path, make: Maker, times: list[int], seek_cost: float) -> None:
    first = times[0]
    shown = [t - first for t in times]
    plans = [
        list(range(0, shown[-1] + 1, 400)),
        sorted(random.Random(4).sample(range(shown[-1] + 1), min(30, shown[-1] + 1))),
        shown[:12],
        [shown[-1]],
        [0],
    ]
    feed = PacketFeed(Location(str(make(films))))
    feed._seek_cost = _Fixed(seek_cost)  # type: ignore[assignment]
    with VideoSource(feed, Preparation()) as source:
        for wanted in plans:
            frames = list(source.frames(wanted))
            assert [f.at_ms for f in frames] == sorted(set(wanted))
            for frame in frames:
                expected = shown[bisect_right(shown, frame.at_ms) - 1]
                # containers that count in units of their own round a time by up to a millisecond
                assert abs(frame.shown_ms - expected) <= 1
                assert frame.shown_ms <= frame.at_ms
                assert abs(time_of(frame.jpeg) - first - expected) <= 1
        assert list(source.frames([shown[-1] + 60_000])) == []
        assert list(source.frames([-1])) == []


def test_the_container_tells_length_rate_and_keyframes(tmp_path: Path) -> None:
    with opened(odd.write(tmp_path / "a.mp4", STEADY)) as source:
        assert source.info.duration_ms == 6000
        assert source.info.frames_per_second == 25
        assert source.info.codec == "h264"
        assert (source.info.width_px, source.info.height_px) == (640, 360)
        assert source.info.keyframes_ms == tuple(range(0, 6000, 1000))
        assert source.bad_frames == 0


@pytest.mark.parametrize(
    ("name", "start_ms", "duration_ms"),
    [("a.ts", 3_600_000, 6000), ("a.mkv", 12_000, 6000), ("a.h264", 0, None)],
)
def test_the_length_counts_from_the_first_picture(
    tmp_path: Path, name: str, start_ms: int, duration_ms: int | None
) -> None:
    with opened(odd.write(tmp_path / name, STEADY, start_ms=start_ms)) as source:
        assert source.info.duration_ms == duration_ms


@pytest.mark.parametrize(("make", "times"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_reading_to_the_end_measures_the_length(films: Path, make: Maker, times: list[int]) -> None:
    """The last keyframe may be long before it."""
    with opened(make(films)) as source:
        length_ms = source.measure()
        last_ms = times[-1] - times[0]
        assert last_ms < length_ms <= last_ms + 3000  # some muxers make the last picture long
        if times is STEADY:
            assert length_ms == pytest.approx(
                6000, abs=120
            )  # where times are counted in pairs of fields, or not at all
        assert [f.at_ms for f in source.frames([0])] == [0]  # and it can still be read


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.h264"])
def test_a_survey_shows_every_keyframe_and_leaves_the_source_usable(tmp_path: Path, name: str) -> None:
    with opened(odd.write(tmp_path / name, STEADY)) as source:
        for _ in range(2):
            glimpses = list(source.survey())
            assert [g.at_ms for g in glimpses] == list(range(0, 6000, 1000))
            assert {len(g.luma) for g in glimpses} == {1024}
            assert len({g.luma for g in glimpses}) >= 4
        assert [f.shown_ms for f in source.frames([1234])] == [1200]
        next(iter(source.survey()))
        assert [f.shown_ms for f in source.frames([3999, 80])] == [80, 3960]


def test_a_keyframe_near_by_stands_in_when_that_is_allowed(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts"):
        with opened(odd.write(tmp_path / name, STEADY)) as source:
            frames = list(source.frames([300, 1200, 2500, 3700, 5900], snap_ms=350))
            assert [f.at_ms for f in frames] == [300, 1200, 2500, 3700, 5900]
            assert [f.shown_ms for f in frames][1:3] == [1000, 2480]
            assert frames[4].shown_ms == 5880
            if not name.endswith(".ts"):  # without an index only keyframes behind a time are known
                assert [frames[0].shown_ms, frames[3].shown_ms] == [0, 4000]
            for frame in frames:
                assert time_of(frame.jpeg) == frame.shown_ms


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    path = odd.with_cover(odd.write(tmp_path / "a.mp4", STEADY), tmp_path / "covered.mkv")
    with opened(path) as source:
        assert source.info.codec == "h264"
        assert [time_of(f.jpeg) for f in source.frames([0, 5000])] == [0, 5000]


def test_seeking_and_reading_on_give_the_same_frames(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "a.mp4", odd.steady(20), gop=50)
    wanted = list(range(130, 20_000, 2500))
    seen: list[list[bytes]] = []
    for seek_cost in (0.0, 1e9):
        feed = PacketFeed(Location(str(path)))
        feed._seek_cost = _Fixed(seek_cost)  # type: ignore[assignment]
        with VideoSource(feed, Preparation()) as source:
            seen.append([f.jpeg for f in source.frames(wanted)])
    assert len(seen[0]) == len(wanted)
    assert seen[0] == seen[1]


class _Fixed:
    """A measured cost that never changes."""

    def __init__(self, value: float) -> None:
        self.value = value

    def add(self, amount: float, *, over: float = 1.0) -> None:
        """Learn nothing."""


def test_what_is_decoded_is_close_to_what_must_be(tmp_path: Path) -> None:
    """With a keyframe every second and a picture wanted every two, at most half of the packets need decoding."""
    path = odd.write(tmp_path / "a.mp4", odd.steady(20))
    with opened(path) as source:
        fed = 0
        finder = source._finder
        decoded = finder._decoded

        def counting(piece, *, whole):  # type: ignore[no-untyped-def]
            nonlocal fed
            fed += 1
            return decoded(piece, whole=whole)

        finder._decoded = counting  # type: ignore[method-assign]
        assert len(list(source.frames(range(0, 20_000, 2000)))) == 10
        assert fed <= 60  # the keyframes themselves, and what was read ahead for the first picture
        fed = 0
        assert len(list(source.frames([1960, 5960]))) == 2
        assert fed <= 2 * 25


def test_every_frame_in_order_is_every_frame(tmp_path: Path) -> None:
    path = odd.write(tmp_path / "a.mp4", odd.steady(3), options={"bf": "3"})
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(video=0))
    with opened(path) as source:
        assert [time_of(f.jpeg) for f in source.frames(range(0, 3000, 40))] == [n * 40 for n in range(count)]
