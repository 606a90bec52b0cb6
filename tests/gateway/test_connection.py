"""Getting in, staying in, and what is said when Stash does not let us."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from demo.stash import EmbeddedStash, running_stash
from haven_media_handler import StashLibrary
from haven_vlm.errors import StashRefused, StashUnauthorized, StashUnavailable
from haven_vlm.facts import Kind
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_faults import NotSent
from haven_vlm.stash_transport import StashTransport
from tests.gateway.support import HANDSHAKE_DATA, Clock, client, connection, library, stash_like, tiny_server

ROOT = Path(__file__).resolve().parents[2]
USER = ("coach", "s3cret")


async def test_two_small_requests_connect() -> None:
    async with EmbeddedStash() as stash, library(stash) as lib:
        assert lib.version == "v0.30.1"
        assert [request.operation for request in stash.requests] == ["HavenHandshake", "getApiKey"]
        assert not any("__schema" in request.query for request in stash.requests)
        assert len(json.dumps([request.reply for request in stash.requests])) < 10_000


def test_stashapi_says_nothing_and_its_log_module_stays_out() -> None:
    """stashapi.log renames a level, binds stderr at import and prints variables; nothing may load it."""
    with running_stash() as stash:
        code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import logging; logging.basicConfig(level=1, stream=sys.stdout)
from haven_vlm.stash_client import StashClient
from haven_vlm.errors import StashError
from haven_vlm.stash_address import StashConnection
made = StashClient(StashConnection.from_url("http://127.0.0.1:{stash.port}"))
try:
    made.find_scenes(f={{"nonsense": 1}}, filter={{}}, fragment="id")
except StashError as exc:
    print("refused:", exc)
print("log loaded:", "stashapi.log" in sys.modules, logging.getLevelName(50))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert "refused: Stash says" in done.stdout
    assert "log loaded: False CRITICAL" in done.stdout
    assert "Variables" not in done.stdout


async def test_too_old_a_stash_is_named() -> None:
    old = HANDSHAKE_DATA | {
        "version": {"version": "v0.27.2", "hash": "x"},
        "marker": {"inputFields": [{"name": "title"}]},
    }

    def answer(_body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, json.dumps({"data": old}).encode()

    with tiny_server(answer) as tiny, pytest.raises(StashRefused, match=r"Stash v0\.27\.2.*v0\.28 or newer.*update"):
        async with StashLibrary(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")):
            pass


async def test_a_development_build_without_a_version_is_taken_for_what_it_can_do() -> None:
    def answer(_body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, json.dumps({"data": HANDSHAKE_DATA | {"version": {"version": None, "hash": ""}}}).encode()

    with tiny_server(answer) as tiny:
        async with StashLibrary(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}/stash")) as lib:
            assert lib.version == "of an unknown version"
        assert tiny.paths == ["/stash/graphql"] * 2


# --- logins ---------------------------------------------------------------------------------------------------


async def test_the_api_key_stash_has_is_found_and_used_beside_the_cookie() -> None:
    async with EmbeddedStash(credentials=USER, api_key="key-of-stash") as stash, library(stash) as lib:
        stash.advance(7200)
        await lib.plugin_settings()
        headers = stash.requests[-1].headers
        assert headers["ApiKey"] == "key-of-stash"
        assert headers["Cookie"].startswith("session=")
        assert lib.stream_url(Kind.SCENE, "3") == (f"{stash.url}/scene/3/stream", {"ApiKey": "key-of-stash"})


async def test_an_api_key_made_anew_while_we_run() -> None:
    async with EmbeddedStash(credentials=USER, api_key="first-key") as stash, library(stash) as lib:
        stash.settings.api_key = "second-key"
        await lib.plugin_settings()
        assert stash.requests[-1].headers["ApiKey"] == "second-key"


async def test_a_key_of_the_user_that_stops_working_is_said() -> None:
    async with (
        EmbeddedStash(credentials=USER, api_key="first-key") as stash,
        StashLibrary(StashConnection.from_url(stash.url, api_key="first-key")) as lib,
    ):
        stash.settings.api_key = "second-key"
        with pytest.raises(StashUnauthorized, match="does not accept the API key") as caught:
            await lib.plugin_settings()
        assert "first-key" not in str(caught.value)


async def test_a_login_of_which_nothing_is_left_is_said_and_the_key_is_kept() -> None:
    """Neither the key nor the cookie opens the door: then the sentence is about the key, as it was."""
    async with EmbeddedStash(credentials=USER, api_key="first-key") as stash, library(stash) as lib:
        refusals = stash.faults.add(lambda _record: True, "401", times=None)
        for _ in range(2):
            with pytest.raises(StashUnauthorized, match="does not accept the API key"):
                await lib.plugin_settings()
        stash.faults.remove(refusals)
        await lib.plugin_settings()
        assert stash.requests[-1].headers["ApiKey"] == "first-key"


@pytest.mark.parametrize("header", ["other=crumb", "session=", "session"])
def test_a_cookie_that_is_not_the_login_changes_nothing(header: str) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        status, headers, content = stash_like(body)
        return status, headers | {"Set-Cookie": header}, content

    with tiny_server(answer) as tiny:
        given = {"Name": "session", "Value": "my-login"}
        server = {"Scheme": "http", "Host": "127.0.0.1", "Port": tiny.port, "SessionCookie": given}
        with client(StashConnection.from_server_connection(server)) as talk:
            talk.run("{ version { version } }", {})
        assert [headers["Cookie"] for headers in tiny.headers] == ["session=my-login"] * len(tiny.headers)
        assert len(tiny.headers) >= 2


async def test_each_answer_renews_the_cookie_so_that_hours_pass() -> None:
    """With the library's own cookie jar the second and third request would send the old cookie first: 401."""
    async with EmbeddedStash(credentials=USER) as stash, library(stash) as lib:
        for _ in range(5):
            stash.advance(3000)
            await lib.plugin_settings()
        sent = [request.headers["Cookie"] for request in stash.requests]
        assert len(set(sent)) >= 5
        assert all(cookie.count("session=") == 1 for cookie in sent)
        url, headers = lib.stream_url(Kind.IMAGE, "7")
        assert url == f"{stash.url}/image/7/image"
        assert list(headers) == ["Cookie"]


async def test_a_cookie_that_ran_out_is_explained() -> None:
    async with EmbeddedStash(credentials=USER) as stash, library(stash) as lib:
        stash.advance(3700)
        with pytest.raises(StashUnauthorized, match="Generate an API key in Settings → Security"):
            await lib.plugin_settings()


async def test_keep_alive_carries_the_cookie_over_a_long_silence() -> None:
    async with EmbeddedStash(credentials=USER, max_session_age_s=3600) as stash:
        ticks: asyncio.Queue[float] = asyncio.Queue()
        go = asyncio.Semaphore(0)

        async def tick(seconds: float) -> None:
            ticks.put_nowait(seconds)
            await go.acquire()

        async with library(stash, keep_alive_sleep=tick) as lib:
            for _ in range(8):
                every_s = await ticks.get()
                assert every_s == 900
                stash.advance(every_s)
                go.release()
            await ticks.get()
            assert stash.count("HavenKeepAlive") == 8
            await lib.plugin_settings()


async def test_a_keep_alive_outlasts_trouble_and_ends_with_the_login(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedStash(credentials=USER, max_session_age_s=3600) as stash:
        ticks: asyncio.Queue[float] = asyncio.Queue()
        go = asyncio.Semaphore(0)

        async def tick(seconds: float) -> None:
            ticks.put_nowait(seconds)
            await go.acquire()

        async with library(stash, keep_alive_sleep=tick) as lib:
            await ticks.get()
            stash.faults.add("HavenKeepAlive", "404")
            go.release()
            await ticks.get()
            assert caplog.text.count("WARNING") == 0, "nothing that the user could do anything about"
            stash.advance(4000)
            go.release()
            assert lib._keeper is not None
            await asyncio.wait([lib._keeper])
            assert "login for this task has run out" in caplog.text
            with pytest.raises(StashUnauthorized):
                await lib.plugin_settings()


@pytest.mark.parametrize(
    "options",
    [{"credentials": USER, "api_key": "k-k-k-k"}, {"credentials": USER, "max_session_age_s": 0}],
    ids=["api key", "endless session"],
)
async def test_no_keep_alive_where_nothing_ages(options: dict[str, Any]) -> None:
    async def never(_seconds: float) -> None:
        raise AssertionError("not needed")

    async with EmbeddedStash(**options) as stash, library(stash, keep_alive_sleep=never) as lib:
        await lib.plugin_settings()
        assert lib._keeper is None


async def test_no_secret_in_any_log_line_or_error(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(1)
    async with EmbeddedStash(credentials=USER, api_key="key-of-stash") as stash, library(stash) as lib:
        secrets = [*lib.secrets, "key-of-stash"]
        assert len(set(secrets)) >= 2
        texts = []
        for fault in ("status", "drop", "junk"):
            stash.faults.add("findTag", fault, times=None)
            with pytest.raises(StashUnavailable) as caught:
                await lib.tags_by_id(["1"])
            texts.append(str(caught.value))
            stash.faults.clear()
        with pytest.raises(StashRefused) as refused:
            await lib.create_tag("x", parent_id="not-a-number key-of-stash")
        texts.append(str(refused.value))
    out = capfd.readouterr()
    for secret in secrets:
        assert not [text for text in texts if secret in text]
        assert secret not in caplog.text + out.err + out.out
    assert out.err == ""


# --- addresses ------------------------------------------------------------------------------------------------


async def test_proxy_variables_and_netrc_do_not_apply(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with EmbeddedStash() as stash, library(stash) as lib:
        await lib.plugin_settings()
        assert not any("Authorization" in request.headers for request in stash.requests)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
async def test_a_stash_that_listens_on_ipv6() -> None:
    with tiny_server(host="::1") as tiny:
        server = {"Scheme": "http", "Host": "::", "Port": tiny.port, "SessionCookie": {"Value": "abc"}}
        async with StashLibrary(StashConnection.from_server_connection(server)) as lib:
            assert lib.version == "v0.30.1"
            assert lib.stream_url(Kind.SCENE, "1") == (
                f"http://[::1]:{tiny.port}/scene/1/stream",
                {"Cookie": "session=abc"},
            )


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-subj", "/CN=stash"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names],
        check=True,
        capture_output=True,
        timeout=60,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_a_self_signed_certificate_on_loopback_is_taken_silently(
    self_signed: ssl.SSLContext, capfd: pytest.CaptureFixture[str]
) -> None:
    with tiny_server(tls=self_signed) as tiny:
        server = {"Scheme": "https", "Host": "0.0.0.0", "Port": tiny.port, "SessionCookie": None}
        async with StashLibrary(StashConnection.from_server_connection(server)) as lib:
            assert lib.version == "v0.30.1"
    assert capfd.readouterr().err == ""


async def test_elsewhere_it_is_refused_at_once(self_signed: ssl.SSLContext) -> None:
    clock = Clock()
    with tiny_server(tls=self_signed) as tiny:
        at = StashConnection.from_url(f"https://127.0.0.1:{tiny.port}", verify_tls=True)
        with pytest.raises(StashRefused, match="certificate"):
            async with StashLibrary(at, clock=clock, sleep=clock.sleep):
                pass
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "headers", "body", "error", "words"),
    [
        (200, {"Content-Type": "text/html"}, b"<html>router</html>", StashRefused, "not as Stash does"),
        (200, {}, b"", StashRefused, "not as Stash does"),
        (200, {}, b'{"data": null}', StashRefused, "not as Stash does"),
        (200, {}, b"[1]", StashRefused, "not as Stash does"),
        (200, {}, b"[" * 100_000, StashRefused, "not as Stash does"),
        (302, {"Location": "/login"}, b"", StashUnauthorized, "login page"),
        (401, {}, b"", StashUnauthorized, "API key"),
        (
            403,
            {"Content-Type": "text/plain"},
            b"exposed to the\npublic internet",
            StashUnauthorized,
            "exposed to the public",
        ),
        (404, {"Content-Type": "text/plain"}, b"404 page not found", StashRefused, "is that Stash's address"),
        (422, {}, b'{"errors": [{"message": "Cannot query field"}]}', StashRefused, "Cannot query field"),
        (502, {}, b"<html>bad gateway</html>", StashUnavailable, "HTTP 502"),
        (500, {}, b'{"errors": [{"message": "internal"}], "data": null}', StashUnavailable, "HTTP 500"),
        (200, {}, b'{"errors": [{"message": "database is locked"}], "data": null}', StashUnavailable, "busy"),
        (200, {}, b'{"errors": ["odd"], "data": {}}', StashRefused, "odd"),
    ],
)
def test_what_else_may_answer(
    status: int, headers: dict[str, str], body: bytes, error: type[Exception], words: str
) -> None:
    clock = Clock()
    with tiny_server(lambda _body: (status, headers, body)) as tiny:
        at = StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")
        with pytest.raises(error, match=words), client(at, clock):
            pass
    assert bool(clock.slept) == (error is StashUnavailable)
    assert sum(clock.slept) <= 20


def test_a_server_that_speaks_no_tls_is_tried_again_and_told() -> None:
    clock = Clock()
    with tiny_server() as tiny:
        at = StashConnection.from_url(f"https://127.0.0.1:{tiny.port}")
        with pytest.raises(StashUnavailable, match="no secure connection to https://127"), client(at, clock):
            pass
    assert clock.slept


class DeadEnd(requests.adapters.HTTPAdapter):
    """A network in which packets vanish."""

    def send(self, *_: Any, **__: Any) -> Any:
        raise requests.exceptions.ConnectTimeout("host='nas' token=hush")


def test_a_machine_that_swallows_packets_is_told_without_what_requests_says() -> None:
    transport = StashTransport(StashConnection.from_url("http://127.0.0.1:9"), timeout_s=1)
    with contextlib.closing(transport):
        transport.session.mount("http://", DeadEnd())
        with pytest.raises(NotSent, match=r"nobody answers at http://127\.0\.0\.1:9/graphql$"):
            transport.exchange("{ version { version } }", {})


def test_an_address_that_is_none_is_told() -> None:
    clock = Clock()
    with pytest.raises(StashRefused, match="cannot ask"), client(StashConnection.from_url("http://nas..local"), clock):
        pass
    assert clock.slept == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_neither_key_nor_cookie_along(status: int) -> None:
    with tiny_server() as elsewhere:
        away = {"Location": f"http://127.0.0.1:{elsewhere.port}/graphql"}
        with tiny_server(lambda _body: (status, away, b"")) as tiny:
            at = StashConnection.from_url(f"http://127.0.0.1:{tiny.port}", api_key="key-of-stash")
            with pytest.raises(StashUnauthorized, match="leads elsewhere"), client(at):
                pass
            assert tiny.headers[0]["ApiKey"] == "key-of-stash"
        assert elsewhere.paths == []


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Counted after unpacking; Stash's real answers are far below the limit."""
    monkeypatch.setattr("haven_vlm.stash_transport.MAX_REPLY_BYTES", 2**20)
    body = b'{"data": "' + b"x" * 2**21 + b'"}'
    answer = (200, {"Content-Encoding": "gzip"}, gzip.compress(body)) if packed else (200, {}, body)
    with tiny_server(lambda _body: answer) as tiny:
        at = StashConnection.from_url(f"http://127.0.0.1:{tiny.port}")
        with pytest.raises(StashRefused, match="answers with more than 1 MB"), client(at):
            pass


# --- patience -------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nobody_there_is_told_soon() -> None:
    clock = Clock()
    at = StashConnection.from_url(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(NotSent, match="is it running"), client(at, clock):
        pass
    assert 5 < sum(clock.slept) <= 20


async def test_a_restart_is_sat_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    first = EmbeddedStash(db=tmp_path / "stash.db", credentials=USER).start()
    scene = first.add_scene("/media/game.mp4", tags=["Court"])
    again: list[EmbeddedStash] = []

    def restart(sleeps: int) -> None:
        if sleeps == 12:
            again.append(EmbeddedStash(db=tmp_path / "stash.db", port=first.port, credentials=USER).start())

    clock.on_sleep = restart
    async with library(first, clock) as lib:
        tag = await lib.find_tag("Court")
        assert tag
        await asyncio.to_thread(first.close)
        assert await lib.media_ids(Kind.SCENE, tag.id) == [str(scene)]
    assert len(clock.slept) == 12
    assert sum(clock.slept) > 60
    assert "Stash is busy or gone; trying again for up to 5 min" in caplog.text
    again[0].close()


async def test_patience_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    async with EmbeddedStash() as stash, library(stash, clock) as lib:
        stash.faults.add("configuration", "locked", times=None)
        with pytest.raises(StashUnavailable, match="busy"):
            await lib.plugin_settings()
        assert 240 < sum(clock.slept) <= 300


async def test_slow_hooks_hold_up_neither_the_loop_nor_each_other() -> None:
    async with EmbeddedStash() as stash, library(stash) as lib:
        held = stash.faults.add("configuration", "slow")
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        stash.on_request(lambda _record: loop.call_soon_threadsafe(arrived.set), match="configuration")
        waiting = asyncio.create_task(lib.plugin_settings())
        await arrived.wait()
        queued = asyncio.create_task(lib.find_tag("Court"))
        await asyncio.sleep(0)
        assert not waiting.done() and not queued.done()
        held.release()
        assert await waiting == {}
        assert await queued is None


async def test_no_answer_within_the_timeout() -> None:
    clock = Clock()
    async with EmbeddedStash() as stash, library(stash, clock, patience_s=0.0) as lib:
        lib.use_timeout(0.05)
        stash.faults.add("configuration", "slow", times=None)
        with pytest.raises(StashUnavailable, match="stash_timeout"):
            await lib.plugin_settings()


# --- lifetime -------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_in_line_is_dropped_one_under_way_is_finished() -> None:
    async with EmbeddedStash() as stash, library(stash) as lib:
        scene = stash.add_scene("/media/game.mp4")
        tag = str(stash.add_tag("Court"))
        held = stash.faults.add("bulkSceneUpdate", "slow")
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        stash.on_request(lambda _record: loop.call_soon_threadsafe(arrived.set), match="bulkSceneUpdate")
        under_way = asyncio.create_task(lib.add_tags(Kind.SCENE, [str(scene)], [tag]))
        await arrived.wait()
        in_line = asyncio.create_task(lib.create_tag("Never"))
        await asyncio.sleep(0)
        under_way.cancel()
        in_line.cancel()
        await asyncio.gather(under_way, in_line, return_exceptions=True)
        held.release()
        await lib.plugin_settings()
        assert stash.scene_tags(scene) == ["Court"]
        assert stash.tag_id("Never") is None


async def test_entered_once_used_only_while_open() -> None:
    async with EmbeddedStash() as stash:
        lib = library(stash)
        with pytest.raises(RuntimeError, match="context manager"):
            await lib.plugin_settings()
        async with lib:
            with pytest.raises(RuntimeError, match="once"):
                await lib.__aenter__()
        with pytest.raises(RuntimeError, match="context manager"):
            await lib.plugin_settings()
        with pytest.raises(RuntimeError, match="once"):
            await lib.__aenter__()


async def test_closing_ends_a_pause() -> None:
    """Without this, a process that wants to end would sit out the patience for Stash."""
    async with EmbeddedStash() as stash:
        lib = StashLibrary(connection(stash))
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with lib:
            stash.faults.add("configuration", "locked", times=None)
            stash.on_request(lambda _record: loop.call_soon_threadsafe(arrived.set), match="configuration")
            waiting = asyncio.create_task(lib.plugin_settings())
            await arrived.wait()
        with pytest.raises(StashUnavailable):
            await waiting


def test_import_needs_no_network_and_leaves_logging_alone() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import logging; before = (logging.getLogger().handlers[:], dict(logging._levelToName))
import haven_media_handler
assert before == (logging.getLogger().handlers[:], dict(logging._levelToName))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_is_sent_as_a_header_never_in_the_address() -> None:
    with tiny_server(stash_like) as tiny:
        with client(StashConnection.from_url(f"http://127.0.0.1:{tiny.port}", api_key="k3y-k3y")):
            pass
        assert tiny.paths == ["/graphql"] * 2
        assert all(headers["ApiKey"] == "k3y-k3y" for headers in tiny.headers)
