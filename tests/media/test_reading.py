"""Decoding in a thread: the loop stays free, nothing hangs, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from aiohttp import web
from av.codec.context import CodecContext
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from blockbuster import blockbuster_ctx

from demo.court import time_of
from haven_vlm.container import DecodingThreads, PacketFeed
from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import Frame, Glimpse, VideoInfo
from haven_vlm.location import Location
from haven_vlm.media import VideoSource
from haven_vlm.opening import open_container
from haven_vlm.picture import Preparation
from haven_vlm.reading import VideoReader, open_video
from tests.media import odd_files as odd


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd.write(tmp_path_factory.mktemp("film") / "film.mp4", odd.steady(6))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("reader of")] == []


def reader(*targets: str | Path, headers: dict[str, str] | None = None) -> VideoReader:
    return VideoReader([Location(str(t), headers or {}) for t in targets], Preparation())


async def test_frames_come_out_in_order_and_as_often_as_wanted(film: Path) -> None:
    async with reader(film) as source:
        assert source.info.duration_ms == 6000
        for _ in range(2):
            frames = [frame async for frame in source.frames([4000, 0, 2040])]
            assert [f.at_ms for f in frames] == [0, 2040, 4000]
            assert [time_of(f.jpeg) for f in frames] == [0, 2040, 4000]
        assert [g.at_ms for g in await source.survey()] == list(range(0, 6000, 1000))
        assert source.bad_frames == 0


async def test_the_loop_is_never_blocked_while_two_files_decode(film: Path) -> None:
    async def read() -> int:
        async with reader(film) as source:
            return len([frame async for frame in source.frames(range(0, 6000, 100))])

    with blockbuster_ctx():
        assert list(await asyncio.gather(read(), read())) == [60, 60]


async def test_leaving_in_the_middle_ends_the_pass_and_not_the_reader(film: Path) -> None:
    async with reader(film) as source:
        frames = source.frames(range(0, 6000, 40))
        async for frame in frames:
            if frame.at_ms == 120:
                break
        await frames.aclose()
        assert [f.at_ms async for f in source.frames([5000])] == [5000]


async def test_a_cancelled_consumer_leaves_no_thread(film: Path) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with reader(film) as source:
            async for _ in source.frames(range(0, 6000, 40)):
                started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_decoding_runs_only_a_few_frames_ahead(film: Path) -> None:
    made = 0

    def opener(step: Callable[[], None]) -> FakeSource:
        def frames(wanted: Iterable[int]) -> Iterator[Frame]:
            nonlocal made
            for at_ms in wanted:
                step()
                made += 1
                yield frame_at(at_ms)

        return FakeSource(frames)

    async with VideoReader([], Preparation(), opener=opener) as source:
        taken = 0
        async for _ in source.frames(range(200)):
            taken += 1
            await asyncio.sleep(0)
            assert made <= taken + 3  # two that wait, one in the thread's hand


async def test_an_error_in_the_thread_is_raised_where_the_frames_are_wanted() -> None:
    def opener(step: Callable[[], None]) -> FakeSource:
        def frames(wanted: Iterable[int]) -> Iterator[Frame]:
            yield frame_at(0)
            raise MediaUnreadable("the rest is gone")

        return FakeSource(frames)

    async with VideoReader([], Preparation(), opener=opener) as source:
        got: list[int] = []
        with pytest.raises(MediaUnreadable, match="the rest is gone"):
            async for frame in source.frames([0, 1]):
                got.append(frame.at_ms)
        assert got == [0]


async def test_a_reader_is_used_only_while_it_is_open(film: Path) -> None:
    source = reader(film)
    with pytest.raises(RuntimeError, match="not open"):
        _ = source.info
    async with source:
        assert source.info.duration_ms == 6000
    with pytest.raises(RuntimeError, match="not open"):
        _ = [frame async for frame in source.frames([0])]


async def test_a_reader_given_up_while_it_opens_leaves_no_thread() -> None:
    """The medium takes long to open, and the run is stopped meanwhile."""
    opening, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def opener(step: Callable[[], None]) -> FakeSource:
        loop.call_soon_threadsafe(opening.set)
        go_on.wait()
        step()
        raise AssertionError("nobody wants it any more")

    source = VideoReader([], Preparation(), opener=opener)
    entering = asyncio.create_task(source.__aenter__())
    await opening.wait()
    entering.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert source._thread is not None and not source._thread.is_alive()


class Patience:
    """Time that passes only when the thread has got to a certain place. To be made inside the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self.go_on = threading.Event()
        """What the thread waits for at that place."""

    def hang(self) -> None:
        """In the thread: be at that place until `go_on`."""
        self._loop.call_soon_threadsafe(self._reached.set)
        self.go_on.wait()

    async def __call__(self, event: asyncio.Event, seconds: float) -> bool:
        ways = [asyncio.create_task(one.wait()) for one in (event, self._reached)]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        return event.is_set()


@pytest.mark.parametrize("where", ["opening", "reading"])
async def test_what_hangs_is_given_up(where: str) -> None:
    patience = Patience()

    def hang(step: Callable[[], None]) -> None:
        patience.hang()
        step()
        raise AssertionError("nobody wants it any more")

    def opener(step: Callable[[], None]) -> FakeSource:
        def frames(wanted: Iterable[int]) -> Iterator[Frame]:
            yield frame_at(0)
            hang(step)

        if where == "opening":
            hang(step)
        return FakeSource(frames)

    got = []
    source = VideoReader([Location("/mnt/nas/a.mp4")], Preparation(), opener=opener, wait=patience)
    try:
        with pytest.raises(MediaUnreachable, match="has given no data for 90 seconds; the drive or the network hangs"):
            async with source:
                async for frame in source.frames([0, 1]):
                    got.append(frame.at_ms)
        assert got == ([] if where == "opening" else [0])
    finally:
        patience.go_on.set()
    assert source._thread is not None
    await asyncio.to_thread(source._thread.join)  # once it wakes up, it goes


def test_a_thread_that_wakes_up_after_the_run_has_ended_goes_quietly(caplog: pytest.LogCaptureFixture) -> None:
    left: list[tuple[VideoReader, Patience]] = []

    async def run() -> None:
        patience = Patience()

        def opener(step: Callable[[], None]) -> FakeSource:
            patience.hang()
            return FakeSource(lambda _: iter(()))

        source = VideoReader([Location("/mnt/nas/a.mp4")], Preparation(), opener=opener, wait=patience)
        left.append((source, patience))
        with pytest.raises(MediaUnreachable, match="hangs"):
            async with source:
                raise AssertionError("it cannot be open")

    asyncio.run(run())
    ((source, patience),) = left
    patience.go_on.set()
    assert source._thread is not None
    source._thread.join(60)
    assert not source._thread.is_alive()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "A thread that hangs in “/mnt/nas/a.mp4” is left behind."
    ]


async def test_a_reader_that_hung_says_so_again() -> None:
    patience = Patience()

    def opener(step: Callable[[], None]) -> FakeSource:
        def frames(wanted: Iterable[int]) -> Iterator[Frame]:
            patience.hang()
            yield frame_at(0)

        return FakeSource(frames)

    async with VideoReader([Location("/mnt/nas/a.mp4")], Preparation(), opener=opener, wait=patience) as source:
        for _ in range(2):
            with pytest.raises(MediaUnreachable, match="hangs"):
                _ = [frame async for frame in source.frames([0])]
        patience.go_on.set()
    assert source._thread is not None
    await asyncio.to_thread(source._thread.join)


async def test_slow_is_not_hanging() -> None:
    """A long group of pictures: no frame for many looks of the watchdog, but a sign of life before each."""
    looks, steps = threading.Semaphore(0), threading.Semaphore(0)
    looked = 0
    is_open = False

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        nonlocal looked
        if not is_open or looked == 20:
            return await event.wait()
        looked += 1
        looks.release()
        await asyncio.to_thread(steps.acquire)
        return event.is_set()

    def opener(step: Callable[[], None]) -> FakeSource:
        def frames(wanted: Iterable[int]) -> Iterator[Frame]:
            for _ in range(20):
                looks.acquire()
                step()
                steps.release()
            yield frame_at(0)

        return FakeSource(frames)

    async with VideoReader([], Preparation(), opener=opener, wait=wait) as source:
        is_open = True
        assert len([frame async for frame in source.frames([0])]) == 1
        assert looked == 20
        is_open = False


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda p: None, MediaUnreachable, "is not there.*path_mutation"),
        (lambda p: p.mkdir(), MediaUnreachable, "is a folder"),
        (lambda p: p.write_bytes(b""), MediaUnreadable, "is empty"),
        (lambda p: p.write_text("hello\n" * 500), MediaUnreadable, "holds text"),
        (lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), MediaUnreadable, "is a playlist"),
        (lambda p: p.write_text("ffconcat version 1.0\nfile 'other.mp4'\n"), MediaUnreadable, "is a playlist"),
        (lambda p: p.write_text('<?xml version="1.0"?>\n<MPD></MPD>'), MediaUnreadable, "is a playlist"),
        (lambda p: p.write_bytes(bytes(100_000)), MediaUnreadable, "nothing but zeros"),
        (lambda p: odd.only_sound(p), MediaUnreadable, "only sound"),
        (lambda p: odd.only_cover(p), MediaUnreadable, "no video stream, only a cover picture"),
        (lambda p: odd.cut_off(odd.write(p.with_name("w.mp4"), odd.steady(2)), p, 0.8), MediaUnreadable, "moov"),
    ],
    ids=[
        "missing",
        "folder",
        "empty",
        "text",
        "hls",
        "concat",
        "dash",
        "zeros",
        "sound only",
        "cover only",
        "no index",
    ],
)
async def test_what_cannot_be_read_says_why_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], object], error: type[Exception], sentence: str
) -> None:
    path = tmp_path / "film.mp4"
    make(path)
    with pytest.raises(error, match=sentence) as caught:
        async with reader(path):
            raise AssertionError("it cannot be open")
    assert str(caught.value).endswith(".")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name", ["100% #1 äöü ?.mp4", "image%03d.mp4", "concat:a|b.mp4", "-i.mp4", "http:.mp4", "a'b\"c.mp4", " .mp4"]
)
def test_a_name_is_only_a_name(film: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    try:
        path.write_bytes(film.read_bytes())
    except OSError:
        pytest.skip("no file can have this name here")
    with open_video([Location(str(path))], Preparation()) as source:
        assert [time_of(f.jpeg) for f in source.frames([1000])] == [1000]


async def test_a_name_that_no_disk_takes_is_said() -> None:
    with pytest.raises(MediaUnreachable, match="cannot be reached: file name too long"):
        async with reader(f"/media/{'x' * 5000}.mp4"):
            raise AssertionError("it cannot be open")


async def test_a_second_place_is_tried_only_when_the_first_cannot_be_reached(film: Path, tmp_path: Path) -> None:
    async with reader(tmp_path / "elsewhere.mp4", film) as source:
        assert source.info.duration_ms == 6000
    broken = tmp_path / "broken.mp4"
    broken.write_text("no film " * 100)
    with pytest.raises(MediaUnreadable, match="holds text"):
        async with reader(broken, film):
            raise AssertionError("the medium is at fault, wherever it is read")


# --- Stash's stream ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def stash_stream(film: Path, *, key: str = "secret", breaks_off: int = 0) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that gives the file, ranges included, to those who have the key; its first answers break off."""
    asked: list[str] = []
    whole = await asyncio.to_thread(film.read_bytes)

    async def stream(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        if request.headers.get("ApiKey") != key:
            raise web.HTTPUnauthorized
        if len(asked) <= breaks_off:
            begin = int((request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]) or 0)
            headers = {"Content-Range": f"bytes {begin}-{len(whole) - 1}/{len(whole)}", "Accept-Ranges": "bytes"}
            answer = web.StreamResponse(status=206, headers=headers)
            answer.content_length = len(whole) - begin
            await answer.prepare(request)
            await answer.write(whole[begin : begin + 40_000])
            assert request.transport is not None
            request.transport.close()
            return answer
        return web.FileResponse(film)

    async def says(request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.match_info["status"]))

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"/scene/1/stream?apikey={key}")

    app = web.Application()
    app.router.add_get("/scene/1/stream", stream)
    app.router.add_get("/moved", elsewhere)
    app.router.add_get("/says/{status}", says)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
async def test_a_file_that_is_not_here_is_read_through_stash(tmp_path: Path, name: str) -> None:
    film = odd.write(tmp_path / name, odd.steady(6))
    async with stash_stream(film) as (url, asked):
        async with reader("/data/film.mp4", f"{url}/scene/1/stream", headers={"ApiKey": "secret"}) as source:
            frames = [frame async for frame in source.frames([0, 1000, 5960, 2500])]
        assert [time_of(f.jpeg) for f in frames] == [0, 1000, 2480, 5960]
        assert asked


async def test_a_stream_that_breaks_off_is_taken_up_again(film: Path) -> None:
    async with stash_stream(film, breaks_off=2) as (url, asked):
        async with reader(f"{url}/scene/1/stream", headers={"ApiKey": "secret"}) as source:
            frames = [frame async for frame in source.frames(range(0, 6000, 1000))]
        assert [time_of(f.jpeg) for f in frames] == list(range(0, 6000, 1000))
        assert len(asked) >= 3


@pytest.mark.parametrize(
    ("path", "key", "sentence"),
    [
        ("/scene/1/stream", "wrong", "wants a login"),
        ("/scene/2/stream", "secret", "is not there"),
        ("/moved", "secret", "cannot be reached"),
        ("/says/403", "secret", "is not allowed to us"),
        ("/says/410", "secret", "was refused: "),
    ],
)
async def test_why_the_stream_cannot_be_read_is_said_without_its_address(
    film: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], path: str, key: str, sentence: str
) -> None:
    async with stash_stream(film) as (url, _):
        with pytest.raises(MediaUnreachable, match=sentence) as caught:
            async with reader(f"{url}{path}?apikey=hush", headers={"ApiKey": key}):
                raise AssertionError("it cannot be open")
    said = "".join([str(caught.value), repr(caught.value), caplog.text, *capfd.readouterr()])
    assert "hush" not in said
    assert key not in said
    assert "127.0.0.1" not in said
    assert caught.value.__cause__ is None
    assert key not in repr(Location(url, {"ApiKey": key}))


async def test_a_server_that_does_not_answer() -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/scene/1/stream"
        with pytest.raises(MediaUnreachable, match="did not answer in time"):
            await asyncio.to_thread(open_container, Location(address), (0.05, 0.05))
        over.set()


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(MediaUnreachable, match="connection refused"):
        async with reader("http://127.0.0.1:9/scene/1/stream"):
            raise AssertionError("it cannot be open")


# --- threads and files ------------------------------------------------------------------------------------------


def test_decoders_share_the_cores() -> None:
    threads = DecodingThreads(6)
    first, second, third = threads.take(), threads.take(), threads.take()
    assert (first, second, third) == (4, 2, 1)
    threads.give_back(4)
    assert threads.take(2) == 2
    assert DecodingThreads(1).take() == 1


def test_files_are_closed_whatever_happens(film: Path, tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("open files cannot be counted here")
    sound = odd.only_sound(tmp_path / "sound.mp4")
    open_before = len(list(folder.iterdir()))
    for _ in range(3):
        with open_video([Location(str(film))], Preparation()) as source:
            assert next(iter(source.frames([0]))).at_ms == 0
        with pytest.raises(MediaUnreadable):
            open_video([Location(str(sound))], Preparation())
    assert len(list(folder.iterdir())) == open_before


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """What is only let go of when the collector comes round stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive() -> list[str]:
    """Kinds of what holds an open file, a decoder or decoded pictures."""
    kinds = (InputContainer, VideoStream, CodecContext, VideoFrame, PacketFeed, VideoSource, VideoReader)
    return sorted(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


async def reads_all(path: Path) -> None:
    async with reader(path) as source:
        assert [f.at_ms async for f in source.frames([0, 1000, 5000])] == [0, 1000, 5000]
        assert await source.survey()
        assert await source.measure() == 6000


async def leaves_in_the_middle(path: Path) -> None:
    async with reader(path) as source, aclosing(source.frames(range(0, 6000, 40))) as frames:
        assert (await anext(frames)).at_ms == 0


async def finds_no_picture(path: Path) -> None:
    with pytest.raises(MediaUnreadable, match="only sound"):
        async with reader(odd.only_sound(path.with_name("sound.mp4"))):
            raise AssertionError("it cannot be open")


async def raises_inside(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with reader(path) as source:
            async for frame in source.frames([0, 1000]):
                assert 1 / frame.at_ms


@pytest.mark.parametrize("use", [reads_all, leaves_in_the_middle, finds_no_picture, raises_inside])
async def test_a_closed_video_leaves_nothing_to_the_garbage_collector(
    film: Path, use: Callable[[Path], Awaitable[None]]
) -> None:
    """It counts objects, not the megabytes behind them: 400 videos, four at a time, took 900 MB."""
    with without_garbage_collection():
        before = alive()
        for _ in range(3):
            await use(film)
        assert alive() == before


async def test_a_closed_reader_still_knows_its_bad_frames(film: Path, tmp_path: Path) -> None:
    torn = odd.damaged(film, tmp_path / "torn.mp4", 0.3, 0.5)
    async with reader(torn) as source:
        _ = [frame async for frame in source.frames(range(0, 6000, 500))]
        bad = source.bad_frames
    assert bad > 0
    assert source.bad_frames == bad


def test_nothing_is_printed(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torn = odd.damaged(film, tmp_path / "torn.mp4", 0.3, 0.5)
    try:
        with open_video([Location(str(torn))], Preparation()) as source:
            list(source.frames(range(0, 6000, 500)))
    except MediaUnreadable:
        pytest.fail("its index is intact, so most of it can be read")
    said = capfd.readouterr()
    assert said.out + said.err == ""


class FakeSource:
    """A `FrameSource` that gives what it is told to."""

    def __init__(self, give: Callable[[Iterable[int]], Iterator[Frame]]) -> None:
        self._give = give
        self.info = VideoInfo(1000, 4, 4, 25.0, "none")
        self.bad_frames = 0

    def frames(self, wanted_ms: Iterable[int], *, snap_ms: int = 0) -> Iterator[Frame]:
        return self._give(wanted_ms)

    def survey(self) -> Iterator[Glimpse]:
        return iter(())

    def measure(self) -> int:
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing to close."""


def frame_at(at_ms: int) -> Frame:
    return Frame(at_ms, at_ms, b"", 4, 4, b"")
