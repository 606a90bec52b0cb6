"""Hostile servers and files: what they try, and that nothing comes of it."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest

from haven_vlm.endpoint_transport import MAX_REPLY_BYTES, Transport
from haven_vlm.errors import EndpointError, MediaUnreachable, MediaUnreadable
from haven_vlm.fetching import http_fetch
from haven_vlm.ffmpeg_cli import CliSource, ffmpeg_is_here
from haven_vlm.files import write_atomically
from haven_vlm.location import Location
from haven_vlm.opening import open_container
from haven_vlm.picture import Preparation
from haven_vlm.reading import open_video
from tests.e2e.conftest import clips as clips
from tests.e2e.conftest import make_rig as make_rig
from tests.e2e.conftest import one as one
from tests.e2e.rig import Rig
from tests.endpoint.test_transport import listener, read_request, send
from tests.media import odd_files


class _Recorder(BaseHTTPRequestHandler):
    """Answers every request with the status and headers it was made for, and remembers it."""

    seen: list[str]
    status: int
    answer: dict[str, str]
    body: bytes

    def do_GET(self) -> None:
        self.seen.append(" ".join(filter(None, (self.path, self.headers["Cookie"]))))
        self.send_response(self.status)
        for name, value in self.answer.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def recorder(
    *, status: int = 200, answer: dict[str, str] | None = None, body: bytes = b""
) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback; yields its address and the paths it was asked for, each with its cookie."""
    seen: list[str] = []
    kind = type("R", (_Recorder,), {"seen": seen, "status": status, "answer": answer or {}, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_stream_that_redirects_is_not_followed(status: int) -> None:
    with recorder() as (elsewhere, reached):
        with recorder(status=status, answer={"Location": f"{elsewhere}/inside"}) as (stash, asked):
            with pytest.raises((MediaUnreachable, MediaUnreadable)):
                open_container(Location(f"{stash}/scene/1/stream", {"ApiKey": "whistle"}), (5.0, 5.0))
            assert asked
        assert reached == []


@pytest.mark.parametrize("mime", ["application/vnd.apple.mpegurl", "audio/mpegurl", "video/mp4"])
def test_a_playlist_in_a_stream_reaches_nobody_and_gives_no_key_away(mime: str) -> None:
    """FFmpeg sends the headers of a stream along to whatever address stands in a playlist."""
    with recorder() as (elsewhere, reached):
        body = PLAYLIST.format(url=f"{elsewhere}/secret.ts").encode()
        with recorder(answer={"Content-Type": mime, "Content-Length": str(len(body))}, body=body) as (stash, asked):
            with pytest.raises(MediaUnreadable):
                open_container(Location(f"{stash}/scene/1/stream.m3u8", {"ApiKey": "whistle"}), (5.0, 5.0))
            assert asked
        assert reached == []


async def test_a_file_fetched_from_stash_is_not_fetched_from_elsewhere() -> None:
    with recorder() as (elsewhere, reached):
        with recorder(status=302, answer={"Location": f"{elsewhere}/inside"}) as (stash, _):
            async with http_fetch() as fetch:
                with pytest.raises(MediaUnreachable, match="login"):
                    await fetch(f"{stash}/image/1/image", {"ApiKey": "whistle"}, limit_bytes=1000)
        assert reached == []


async def test_a_file_larger_than_allowed_is_not_fetched_whole() -> None:
    packed = gzip.compress(bytes(5_000_000))
    with recorder(answer={"Content-Encoding": "gzip"}, body=packed) as (stash, _):
        async with http_fetch() as fetch:
            with pytest.raises(MediaUnreadable, match="too large"):
                await fetch(f"{stash}/image/1/image", {}, limit_bytes=1_000_000)


async def test_no_cookie_of_an_answer_is_sent_with_the_next_request() -> None:
    """The caller sends the login that holds now; an older one would stand before it."""
    with recorder(answer={"Set-Cookie": "session=of-yesterday"}, body=b"x") as (stash, asked):
        async with http_fetch() as fetch:
            for _ in range(2):
                # by name, for cookies of bare addresses are kept by nobody
                await fetch(stash.replace("127.0.0.1", "localhost"), {"Cookie": "session=of-today"}, limit_bytes=10)
        assert asked == ["/ session=of-today"] * 2


async def test_an_answer_that_unpacks_to_too_much_is_cut_off() -> None:
    packed = gzip.compress(bytes(8 * MAX_REPLY_BYTES))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        writer.write(head.encode() + packed)
        await writer.drain()

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError):
            await send(transport)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["match.mp4", "match.m3u8", "match.ts"])
def test_a_playlist_that_calls_itself_a_video_reaches_nobody(tmp_path: Path, name: str) -> None:
    with recorder() as (elsewhere, reached):
        file = tmp_path / name
        file.write_text(PLAYLIST.format(url=f"{elsewhere}/secret.ts"), encoding="utf-8")
        with pytest.raises(MediaUnreadable):
            open_container(Location(str(file)), (5.0, 5.0))
        assert reached == []


@pytest.mark.skipif(not ffmpeg_is_here(), reason="no ffmpeg on this machine")
@pytest.mark.parametrize("name", ["match.mp4", "match.m3u8"])
def test_nor_does_it_by_way_of_the_ffmpeg_program(tmp_path: Path, name: str) -> None:
    with recorder() as (elsewhere, reached):
        file = tmp_path / name
        file.write_text(PLAYLIST.format(url=f"{elsewhere}/secret.ts"), encoding="utf-8")
        with pytest.raises(MediaUnreadable):
            CliSource(str(file), Preparation())
        assert reached == []


def test_a_playlist_of_files_of_this_machine_is_refused(tmp_path: Path) -> None:
    odd_files.write(tmp_path / "private.ts", [0, 200, 400])
    file = tmp_path / "match.m3u8"
    file.write_text(PLAYLIST.format(url="private.ts"), encoding="utf-8")
    with pytest.raises(MediaUnreadable, match="is a playlist"):
        open_container(Location(str(file)), (5.0, 5.0))


def test_pyav_is_told_that_only_files_may_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's own list for files is wider, and grows with its releases."""
    path = odd_files.write(tmp_path / "match.mp4", [0, 200, 400])
    real, asked = av.open, []

    def spy(target: str, **options: Any) -> Any:
        asked.append((target, options["container_options"]["protocol_whitelist"]))
        return real(target, **options)

    monkeypatch.setattr(av, "open", spy)
    open_container(Location(str(path)), (5.0, 5.0)).close()
    assert asked == [(f"file:{path}", "file")]


@pytest.mark.skipif(not ffmpeg_is_here(), reason="no ffmpeg on this machine")
def test_so_is_the_ffmpeg_program_in_each_call_and_it_prints_only_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = odd_files.write(tmp_path / "match.mp4", [n * 40 for n in range(50)])
    monkeypatch.setattr("haven_vlm.ffmpeg_cli.MAX_OUTPUT_BYTES", 10**6)
    monkeypatch.setenv("COACH", "sk-0123456789abcdef")
    real, calls = subprocess.run, []

    def spy(line: Sequence[str], **options: Any) -> Any:
        done = real(line, **options)
        calls.append((list(line), options, len(done.stdout)))
        return done

    monkeypatch.setattr(subprocess, "run", spy)
    with CliSource(str(path), Preparation()) as source:
        assert list(source.frames([1900])) == []  # its fifty pictures would be 34 MB
        assert source.measure() > 1900
    assert [line[0] for line, _, _ in calls] == ["ffprobe", "ffmpeg", "ffprobe"]
    for line, options, printed in calls:
        whitelist = line.index("-protocol_whitelist")
        assert line[whitelist + 1] == "file,pipe" and whitelist < line.index(f"file:{path}")
        assert str(path) not in line
        assert printed < 4 * 10**6
        assert "COACH" not in options["env"]


@pytest.mark.parametrize("reads", ["av", "ffmpeg"])
@pytest.mark.parametrize("name", ["concat:a|b.mp4", "-i.mp4", "-y", "pipe:0", "http:.mp4", "image%03d.mp4"])
def test_a_bare_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reads: str) -> None:
    """Nothing stands before it: the name alone could be a protocol or an option."""
    if reads == "ffmpeg" and not ffmpeg_is_here():
        pytest.skip("no ffmpeg on this machine")
    monkeypatch.chdir(tmp_path)
    try:
        odd_files.write(tmp_path / "film.mp4", [0, 200, 400]).rename(tmp_path / name)
    except OSError:
        pytest.skip("no file can have this name here")
    opened = open_video([Location(name)], Preparation()) if reads == "av" else CliSource(name, Preparation())
    with opened as source:
        assert isinstance(source, CliSource) == (reads == "ffmpeg")
        assert len(list(source.frames([200]))) == 1


@pytest.mark.skipif(not ffmpeg_is_here(), reason="no ffmpeg on this machine")
@pytest.mark.parametrize("name", ["match.mp4", "match.ffconcat"])
def test_a_playlist_shows_no_picture_of_another_file(tmp_path: Path, name: str) -> None:
    """The ffmpeg program reads what PyAV cannot, and by that way a text file would show the pictures of any video."""
    odd_files.write(tmp_path / "private.mp4", [0, 200, 400])
    file = tmp_path / name
    file.write_text("ffconcat version 1.0\nfile private.mp4\n", encoding="utf-8")
    with pytest.raises(MediaUnreadable, match="playlist"):
        CliSource(str(file), Preparation())
    with pytest.raises(MediaUnreadable):
        open_video([Location(str(file))], Preparation())


@pytest.mark.skipif(os.name == "nt", reason="Windows gives files the rights of their folder")
def test_ledger_reports_and_memories_are_the_users_alone(one: Rig) -> None:
    before = os.umask(0o022)
    try:
        one.use(one.vision())
        one.scene()
        assert one.run().error is None
    finally:
        os.umask(before)
    data = one.folder / "config" / "haven_vlm"
    paths = [data, *data.rglob("*")]
    assert {"ledger.sqlite", "endpoints.json", "reports"} <= {p.name for p in paths}
    assert {p.name: oct(stat.S_IMODE(p.stat().st_mode)) for p in paths if p.stat().st_mode & 0o077} == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows gives files the rights of their folder")
def test_a_file_that_others_could_read_is_written_anew_for_the_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")
    file.chmod(0o666)
    write_atomically(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="names of Windows hold no control characters")
def test_a_name_that_speaks_the_log_protocol_is_only_a_name(one: Rig) -> None:
    name = "match\n\x01e\x02forged \x1b[2J\u202e"
    one.use(one.vision())
    path = one.clip("plain")
    hostile = path.with_name("x\n\x01p\x020.9.mp4")
    shutil.move(path, hostile)
    one.stash.add_scene(str(hostile), title=name, duration=20.0, tags=("VLM_TagMe",))
    result = one.run()
    assert result.error is None
    assert not [line for line in result.logs if line.text.startswith("forged")]
    assert result.texts("error") == []
    assert "\x1b[2J" not in result.stderr and "\u202e" not in result.stderr
    assert any("\\x01e\\x02forged" in line.text for line in result.logs)
