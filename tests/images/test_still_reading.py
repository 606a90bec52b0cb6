"""Stills from files, archives and Stash's own routes; memory bounded, the loop never held up."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from haven_vlm.crew import MOST_LOST, Crew
from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.facts import MediaFile
from haven_vlm.fetching import http_fetch
from haven_vlm.picture import Preparation
from haven_vlm.ports import FetchBytes
from haven_vlm.still_reading import StillPlace, StillReader, _Budget
from haven_vlm.stills import UnknownFormat
from tests.images.oddities import encoded, halves, heic, jxl, raw_entry

SMALL = Preparation(max_side_px=128)
JPEG = encoded(halves(), "JPEG")


class Copies:
    """Stash's two routes, as a `FetchBytes` and a `Served`."""

    def __init__(self, **copies: bytes | Exception) -> None:
        self.copies = copies
        self.asked: list[str] = []

    def served(self, copy: str) -> tuple[str, dict[str, str]]:
        return copy, {"ApiKey": "secret"}

    async def __call__(self, url: str, headers: Mapping[str, str], *, limit_bytes: int) -> bytes:
        assert headers == {"ApiKey": "secret"}
        self.asked.append(url)
        found = self.copies[url]
        if isinstance(found, Exception):
            raise found
        return found


async def read(place: StillPlace, fetch: FetchBytes | None = None) -> int:
    async with StillReader(SMALL, moments=3, fetch=fetch, threads=1) as reader:
        return len(await reader.read(place))


async def test_a_file_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    copies = Copies()
    assert await read(StillPlace(str(tmp_path / "a.jpg"), served=copies.served), copies) == 1
    assert copies.asked == []


async def test_a_file_under_another_path_here(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    file = MediaFile("/data/pictures/a.jpg", len(JPEG), is_video=False)
    assert await read(StillPlace.of(file, {"/data/pictures": str(tmp_path)}, None)) == 1


@pytest.mark.parametrize("slash", ["/", "\\"])
async def test_an_entry_of_an_archive_under_another_path_here(tmp_path: Path, slash: str) -> None:
    raw_entry(tmp_path / "g.zip", "試合/1.jpg".encode("cp932"), JPEG)
    archive = f"X:{slash}pictures{slash}g.zip"
    file = MediaFile(f"{archive}{slash}試合{slash}1.jpg", len(JPEG), is_video=False, zip_path=archive)
    assert await read(StillPlace.of(file, {"X:/pictures": str(tmp_path)}, None)) == 1


async def test_what_is_missing_here_comes_from_stash(tmp_path: Path) -> None:
    copies = Copies(image=JPEG)
    assert await read(StillPlace(str(tmp_path / "none.jpg"), served=copies.served), copies) == 1
    place = StillPlace("1.jpg", archive=str(tmp_path / "none.zip"), served=copies.served)
    assert await read(place, copies) == 1
    assert copies.asked == ["image", "image"]


@pytest.mark.parametrize(("name", "content"), [("a.heic", heic()), ("a.jxl", jxl())])
async def test_a_format_unknown_here_comes_as_stashs_thumbnail(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    copies = Copies(thumbnail=JPEG)
    assert await read(StillPlace(str(tmp_path / name), served=copies.served), copies) == 1
    assert copies.asked == ["thumbnail"]
    copies = Copies(image=content, thumbnail=JPEG)
    assert await read(StillPlace(f"/none/{name}", served=copies.served), copies) == 1
    assert copies.asked == ["image", "thumbnail"]


async def test_a_raw_photograph_comes_as_stashs_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(encoded(halves(), "TIFF"))
    copies = Copies(thumbnail=JPEG)
    assert await read(StillPlace(str(tmp_path / "a.dng"), served=copies.served), copies) == 1


@pytest.mark.parametrize("thumbnail", [heic(), b"<svg/>", b"", MediaUnreachable("Stash says HTTP 500")])
async def test_a_thumbnail_that_is_none_ends_in_one_sentence(tmp_path: Path, thumbnail: bytes | Exception) -> None:
    (tmp_path / "a.heic").write_bytes(heic())
    copies = Copies(thumbnail=thumbnail)
    with pytest.raises(MediaUnreadable) as caught:
        await read(StillPlace(str(tmp_path / "a.heic"), served=copies.served), copies)
    assert str(caught.value) == (
        "it is a picture in HEIC format, which cannot be read here, and Stash has no thumbnail of it"
    )


async def test_what_can_be_had_nowhere_says_both_reasons_and_the_fix() -> None:
    copies = Copies(image=MediaUnreachable("Stash says open /none/a.jpg: no such file"))
    with pytest.raises(MediaUnreachable) as caught:
        await read(StillPlace("/none/a.jpg", served=copies.served), copies)
    assert str(caught.value) == (
        "its file cannot be read: /none/a.jpg is not on this machine; and through Stash: Stash says open /none/a.jpg: "
        "no such file. If this machine knows the folder by another path, set path_mutation."
    )


@pytest.mark.parametrize("content", [b"", JPEG[: len(JPEG) // 2]])
async def test_what_is_damaged_here_is_not_asked_for_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    copies = Copies()
    with pytest.raises(MediaUnreadable, match=r"empty|cut off"):
        await read(StillPlace(str(tmp_path / "a.jpg"), served=copies.served), copies)
    assert copies.asked == []


async def test_folders_and_pipes_are_no_files(tmp_path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", Path("a\0b.jpg")):
        with pytest.raises(MediaUnreachable, match=r"not on this machine|cannot be opened"):
            await read(StillPlace(str(path)))


def test_a_budget_is_first_come_first_served_and_never_exceeded() -> None:
    budget = _Budget(10)
    order: list[str] = []
    started = threading.Event()

    def work(name: str, amount: int) -> None:
        started.set()
        with budget.reserve(amount):
            order.append(name)

    with ExitStack() as held:
        held.enter_context(budget.reserve(6))
        threads = []
        for name, amount in (("large", 99), ("small", 1)):
            started.clear()
            threads.append(threading.Thread(target=work, args=(name, amount)))
            threads[-1].start()
            started.wait()
            while len(budget._queue) < len(threads):
                pass
        assert order == []  # the small one fits, and yet does not pass the large one
    for thread in threads:
        thread.join()
    assert order == ["large", "small"]


# --- over HTTP ------------------------------------------------------------------------------------------------


@pytest.fixture
async def stash() -> AsyncIterator[str]:
    async def image(request: web.Request) -> web.StreamResponse:
        match request.match_info["what"]:
            case "ok" if request.headers.get("ApiKey") == "key":
                return web.Response(body=JPEG)
            case "login":
                raise web.HTTPFound("/login")
            case "missing":
                raise web.HTTPInternalServerError(text="open /data/a.jpg: no such file or directory\n")
            case "page":
                return web.Response(status=500, text="<html>", content_type="text/html")
            case "endless":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(64):
                    await response.write(b"x" * 2**16)
                return response
            case "torn":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"x")
                assert request.transport
                request.transport.close()
                return response
        raise web.HTTPUnauthorized

    app = web.Application()
    app.router.add_get("/{what}", image)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


async def test_bytes_are_fetched_with_the_headers_given(stash: str) -> None:
    async with http_fetch() as fetch:
        assert await fetch(f"{stash}/ok", {"ApiKey": "key"}, limit_bytes=2**20) == JPEG


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("login", "Stash wants a login for it"),
        ("denied", "Stash wants a login for it"),
        ("missing", "Stash says open /data/a.jpg: no such file or directory"),
        ("page", "Stash says HTTP 500"),
        ("torn", "the connection to Stash failed (ClientPayloadError)"),
    ],
)
async def test_a_refusal_is_a_sentence(stash: str, what: str, sentence: str) -> None:
    async with http_fetch() as fetch:
        with pytest.raises(MediaUnreachable) as caught:
            await fetch(f"{stash}/{what}", {"ApiKey": "secret"}, limit_bytes=2**20)
    assert str(caught.value) == sentence


async def test_nobody_there_is_a_sentence_without_the_address() -> None:
    async with http_fetch() as fetch:
        with pytest.raises(MediaUnreachable, match=r"^the connection to Stash failed \(ClientConnectorError\)$"):
            await fetch("http://127.0.0.1:9/secret", {}, limit_bytes=1)


async def test_too_much_is_not_taken_in(stash: str) -> None:
    async with http_fetch() as fetch:
        with pytest.raises(MediaUnreadable, match="larger than 1 MB"):
            await fetch(f"{stash}/endless", {}, limit_bytes=2**20)
        with pytest.raises(MediaUnreadable, match="larger than 0 MB"):
            await fetch(f"{stash}/ok", {"ApiKey": "key"}, limit_bytes=3)


async def test_a_drive_that_hangs_costs_one_picture_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    hanging = threading.Event()

    class Dead(type(tmp_path)):  # type: ignore[misc]
        def is_file(self) -> bool:
            return hanging.wait(20)

    with pytest.MonkeyPatch.context() as patch:
        async with StillReader(SMALL, moments=1, threads=1, stall_s=0.05) as reader:
            patch.setattr("haven_vlm.still_reading.Path", Dead)
            with pytest.raises(MediaUnreachable, match=r"no data for 0\.05 seconds; the drive or the network hangs"):
                await reader.read(StillPlace(str(tmp_path / "a.jpg")))
            patch.undo()
            assert len(await reader.read(StillPlace(str(tmp_path / "a.jpg")))) == 1
            hanging.set()


async def test_when_everything_hangs_nothing_more_is_tried() -> None:
    crew, hanging = Crew(1, "crew", stall_s=0.01), threading.Event()
    for _ in range(MOST_LOST):
        with pytest.raises(MediaUnreachable, match="no data"):
            await crew.run(hanging.wait)
    with pytest.raises(MediaUnreachable, match="8 files never came"):
        await crew.run(lambda: None)
    hanging.set()
    await crew.aclose()


async def test_the_end_of_a_run_does_not_wait_for_a_drive_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.crew.CLOSE_S", 0.01)
    crew, hanging = Crew(1, "crew"), threading.Event()
    unwanted = asyncio.ensure_future(crew.run(hanging.wait))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.wait([unwanted])
    await crew.aclose()
    hanging.set()
    await crew.aclose()  # now it comes, and is ended


async def test_a_thread_whose_work_nobody_wants_any_more_is_free_when_it_is_done() -> None:
    crew, gate = Crew(1, "crew"), threading.Event()
    unwanted = asyncio.ensure_future(crew.run(gate.wait))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.wait([unwanted])
    next_one = asyncio.ensure_future(crew.run(lambda: 7))
    await asyncio.sleep(0)
    assert not next_one.done()
    gate.set()
    assert await next_one == 7
    with pytest.raises(ZeroDivisionError):
        await crew.run(lambda: 1 // 0)
    await crew.aclose()


async def test_a_name_that_no_disk_takes_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaUnreachable, match=r"cannot be opened|not on this machine"):
        await read(StillPlace(str(tmp_path / f"{'x' * 5000}.jpg")))


async def test_without_a_way_to_stash_what_is_wrong_here_is_all_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaUnreachable, match=r"not on this machine$"):
        await read(StillPlace(str(tmp_path / "none.jpg")))
    (tmp_path / "a.heic").write_bytes(heic())
    with pytest.raises(UnknownFormat, match="HEIC"):
        await read(StillPlace(str(tmp_path / "a.heic")))
