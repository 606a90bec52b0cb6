"""What goes wrong below FFmpeg while a file is read: a faulty drive costs packets, a broken connection the medium."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from haven_vlm.container import MAX_BAD_READS, PacketFeed
from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.picture import Preparation
from tests.media import odd_files as odd

Fault = Callable[[], object]
STREAM = Location("http://127.0.0.1:9/stream", {"ApiKey": "secret"})


def broken() -> None:
    raise OSError(errno.EIO, "Input/output error")


def damaged() -> None:
    raise av.error.InvalidDataError(1, "Invalid data found when processing input")


def interrupted() -> None:
    raise av.error.ExitError(1, "Immediate exit requested")


def empty_packet() -> Any:
    packet = av.Packet(0)
    packet.dts = 5
    return packet


class Faulty:
    """An open file whose next reads and seeks end in faults; all else is the real one."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self.reads: list[Fault] = []
        self.seeks: list[Fault | None] = []
        """None: this one goes well."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        real = self._container.demux(stream)
        while True:
            yield self.reads.pop(0)() if self.reads else next(real)

    def seek(self, *where: Any, **how: Any) -> None:
        fault = self.seeks.pop(0) if self.seeks else None
        if fault is not None:
            fault()
        self._container.seek(*where, **how)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd.write(tmp_path_factory.mktemp("films") / "a.mp4", odd.steady(4), options={"crf": "30"})


@pytest.fixture
def feed(film: Path) -> Iterator[PacketFeed]:
    with_faults = PacketFeed(Location(str(film)))
    with_faults._container = Faulty(with_faults._container)  # type: ignore[assignment]
    yield with_faults
    with_faults.close()


def faults(feed: PacketFeed) -> Faulty:
    found: Any = feed._container
    assert isinstance(found, Faulty)
    return found


def packets(feed: PacketFeed) -> int:
    count = 0
    while feed.read() is not None:
        count += 1
    return count


@pytest.mark.parametrize("fault", [broken, damaged])
def test_reads_that_fail_are_counted_and_the_rest_is_read(feed: PacketFeed, film: Path, fault: Fault) -> None:
    whole = PacketFeed(Location(str(film)))
    every = packets(whole)
    whole.close()
    faults(feed).reads = [fault] * 3
    assert packets(feed) == every
    assert feed.failed_reads == 3 and not feed.gave_up


def test_a_drive_that_only_fails_is_given_up(feed: PacketFeed) -> None:
    faults(feed).reads = [broken] * MAX_BAD_READS
    assert feed.read() is None
    assert feed.gave_up, "the end of the file was not reached"
    assert feed.read() is not None, "what comes back is read on"
    assert not feed.gave_up


def test_an_empty_packet_in_the_middle_is_not_the_end(feed: PacketFeed) -> None:
    faults(feed).reads = [empty_packet]
    assert packets(feed) > 50


@pytest.mark.parametrize(
    ("fault", "words"), [(broken, "Stash's stream of the file broke off"), (interrupted, "gives no more data")]
)
def test_a_connection_that_breaks_is_no_fault_of_the_film(feed: PacketFeed, fault: Fault, words: str) -> None:
    feed.location = STREAM
    faults(feed).reads = [fault]
    with pytest.raises(MediaUnreachable, match=words) as told:
        feed.read()
    assert "secret" not in str(told.value) and "127.0.0.1" not in str(told.value)


def test_a_connection_that_breaks_while_moving_is_no_fault_of_the_film(feed: PacketFeed) -> None:
    feed.location = STREAM
    faults(feed).seeks = [broken]
    with pytest.raises(MediaUnreachable, match="broke off"):
        feed.seek(20_000)


def test_a_file_that_cannot_be_moved_about_in_is_read_from_its_beginning(feed: PacketFeed) -> None:
    first = feed.read()
    assert first is not None
    faults(feed).seeks = [damaged]
    feed.seek(20_000)
    assert not feed.can_seek
    again = feed.read()
    assert again is not None and again[1:] == first[1:]
    assert not feed.is_worth_a_seek(40_000)


def test_a_file_that_can_be_read_once_only_says_so(feed: PacketFeed) -> None:
    faults(feed).seeks = [damaged, damaged]
    with pytest.raises(MediaUnreadable, match="cannot be read a second time from its beginning"):
        feed.seek(0)


def test_a_connection_that_breaks_on_the_way_back_is_no_fault_of_the_film(feed: PacketFeed) -> None:
    feed.location = STREAM
    faults(feed).seeks = [broken, broken]
    with pytest.raises(MediaUnreachable, match="broke off"):
        feed.seek(0)


def looked_at(film: Path, preparation: Preparation, name: str = "film.mp4") -> tuple[int, int]:
    """Size of the part of the pictures that counts."""
    with VideoSource(PacketFeed(Location(str(film))), preparation, name=name) as source:
        return source.info.width_px, source.info.height_px


@pytest.mark.parametrize(
    ("stereo", "sphere", "projection"),
    [
        (1, 0, "360-left-right"),
        (2, 0, "360-top-bottom"),
        (0, 0, "360"),
        (1, 4, "180-left-right"),
        (2, 4, "180-top-bottom"),
        (0, 5, "180"),
        (0, 1, "flat"),
    ],
)
def test_what_the_file_says_about_eyes_and_sphere_holds(
    film: Path, monkeypatch: pytest.MonkeyPatch, stereo: int, sphere: int, projection: Any
) -> None:
    """FFmpeg's numbers; a cube map (1) is looked at as it is."""
    monkeypatch.setattr("haven_vlm.media.stereo_and_sphere", lambda _: (stereo, sphere))
    assert looked_at(film, Preparation()) == looked_at(film, Preparation(projection=projection))


def test_a_film_said_to_be_vr_whose_shape_no_vr_film_has_is_looked_at_as_it_is(film: Path) -> None:
    flat = looked_at(film, Preparation(projection="flat"))
    assert looked_at(film, Preparation(projection="vr")) == flat
    assert looked_at(film, Preparation(projection="vr"), "film_180_LR.mp4") != flat


def test_keyframes_too_many_to_list_are_not_listed(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoSource(PacketFeed(Location(str(film))), Preparation()) as source:
        assert source.info.keyframes_ms
        count = len(source.info.keyframes_ms)
    monkeypatch.setattr("haven_vlm.media.MAX_KEYFRAMES_LISTED", count - 1)
    with VideoSource(PacketFeed(Location(str(film))), Preparation()) as source:
        assert source.info.keyframes_ms is None
