"""What really goes over the wire, and to whom: proven by listeners, never by trust."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions, web
from aiohttp.client_reqrep import ConnectionKey

from demo.vision_server import VisionServer
from haven_vlm.endpoint_transport import MAX_REPLY_BYTES, HttpReply, Transport
from haven_vlm.endpoint_troubles import translate
from haven_vlm.errors import EndpointError
from haven_vlm.errors import EndpointFault as F
from haven_vlm.pool_ports import Usage
from tests.endpoint.conftest import Connect, Names, Stub, ask, completion, question, until

PEM = Path(__file__).with_name("selfsigned.pem")


def everything_is_remote(_: str) -> bool:
    return False


@asynccontextmanager
async def listener(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A bare TCP server; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


async def send(transport: Transport, *, local_only: bool = False, body: bytes | None = b"{}") -> HttpReply:
    url = f"{transport.base_url}/chat/completions"
    return await transport.send("POST", url, body=body, connect_timeout_s=5, total_timeout_s=10, local_only=local_only)


# --- the border -----------------------------------------------------------------------------------------------


async def test_an_address_outside_gets_no_byte_without_permission(stub: Stub) -> None:
    async with Transport("lan", stub.base_url, is_local=everything_is_remote) as transport:
        with pytest.raises(EndpointError, match="outside the local network") as caught:
            await send(transport)
    assert caught.value.fault is F.FORBIDDEN
    assert "allow_remote" in caught.value.fix
    assert stub.seen == []


@pytest.mark.parametrize("addresses", [["203.0.113.7"], ["203.0.113.7", "2001:4860:4860::8888"]])
async def test_a_private_name_that_resolves_to_a_public_address_is_refused(addresses: list[str]) -> None:
    names = Names(gpu_lan=[addresses])
    async with Transport("lan", "http://gpu.lan:1234/v1", resolver=names) as transport:
        with pytest.raises(EndpointError, match=r"203\.0\.113\.7") as caught:
            await send(transport)
    assert caught.value.fault is F.FORBIDDEN


@pytest.mark.parametrize("host", ["203.0.113.7", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]", "134744072", "8.8"])
async def test_a_public_address_in_numbers_is_refused(host: str) -> None:
    async with Transport("lan", f"http://{host}:9/v1", resolver=Names()) as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault in (F.FORBIDDEN, F.NOT_AN_API, F.CONNECT)
    assert caught.value.fault is F.FORBIDDEN or host in ("134744072", "8.8")


async def test_of_a_mixed_name_only_the_address_at_home_is_connected_to(stub: Stub) -> None:
    port = stub.base_url.split(":")[2].split("/")[0]
    stub.says("/v1/chat/completions", completion())
    names = Names(gpu_lan=[["203.0.113.7", "127.0.0.1"]])
    async with Transport("lan", f"http://gpu.lan:{port}/v1", resolver=names) as transport:
        reply = await send(transport)
    assert (reply.status, reply.is_remote) == (200, False)


async def test_what_was_checked_is_what_is_connected_to(stub: Stub) -> None:
    """DNS rebinding: a second look-up between check and connection would get the public address."""
    port = stub.base_url.split(":")[2].split("/")[0]
    stub.says("/v1/chat/completions", completion())
    names = Names(gpu_lan=[["127.0.0.1"], ["203.0.113.7"]])
    async with Transport("lan", f"http://gpu.lan:{port}/v1", resolver=names) as transport:
        assert (await send(transport)).status == 200
        assert names.asked == ["gpu.lan"]
    async with Transport("lan", f"http://gpu.lan:{port}/v1", resolver=names) as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.FORBIDDEN


async def test_a_connection_is_refused_by_its_peer_even_if_no_address_was_looked_at(stub: Stub) -> None:
    """The last guard: judge by the peer of the finished connection, whatever led there."""
    verdicts = iter([True, False])  # the address passes, the peer does not
    async with Transport("lan", stub.base_url, is_local=lambda _: next(verdicts)) as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.FORBIDDEN
    assert stub.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_frames_are_never_sent_on(stub: Stub, connect: Connect, status: int) -> None:
    reached: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))

    async with listener(elsewhere) as port:
        for target in (f"http://127.0.0.1:{port}/v1/chat/completions", "https://models.example/v1/chat/completions"):
            stub.says("/v1/chat/completions", b"", status=status, headers={"Location": target})
            names = Names(models_example=[["127.0.0.1"]])
            endpoint = await connect(stub.base_url, model="m", resolver=names)
            with pytest.raises(EndpointError, match="never sent on") as caught:
                await ask(endpoint)
            assert caught.value.fault is F.FORBIDDEN
            assert target in caught.value.fix
            assert names.asked == []
    assert reached == []


async def test_questions_that_must_stay_at_home_never_use_a_connection_outside(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion())
    endpoint = await connect(stub.base_url, model="m", allow_remote=True, is_local=everything_is_remote)
    answer = await ask(endpoint)
    assert answer.remote is True
    assert endpoint.is_remote is True
    before = len(stub.seen)
    with pytest.raises(EndpointError) as caught:
        await ask(endpoint, question(local_only=True))
    assert caught.value.fault is F.FORBIDDEN
    assert len(stub.seen) == before


async def test_proxies_of_the_environment_are_not_used(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))

    stub.says("/v1/chat/completions", completion())
    async with listener(proxy) as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with Transport("lan", stub.base_url) as transport:
            assert (await send(transport)).status == 200
    assert reached == []


async def test_cookies_are_not_kept_and_keys_go_only_into_their_header(stub: Stub) -> None:
    stub.says("/v1/chat/completions", completion(), headers={"Set-Cookie": "session=1"})
    async with Transport("lan", stub.base_url, key="secret-key") as transport:
        await send(transport)
        await send(transport)
        assert "secret-key" not in repr(transport)
    method, path, headers, body = stub.seen[1]
    assert headers["Authorization"] == "Bearer secret-key"
    assert "Cookie" not in headers
    assert "secret-key" not in f"{method} {path} {body!r}"


async def test_only_addresses_of_the_endpoint_are_requested(stub: Stub) -> None:
    async with Transport("lan", stub.base_url) as transport:
        with pytest.raises(ValueError, match="not an address"):
            await transport.send("GET", "http://127.0.0.1:1/v1/x", connect_timeout_s=1, total_timeout_s=1)


# --- connections ----------------------------------------------------------------------------------------------


def reply_bytes(body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def test_a_pooled_connection_that_is_dead_is_replaced_once() -> None:
    asked: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(asked)
        await read_request(reader)
        asked.append(f"connection {number}")
        writer.write(reply_bytes())
        await writer.drain()
        if number == 0:
            await read_request(reader)  # a second request, and the server is gone
            asked.append("lost")
        else:
            await reader.read()

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        assert [(await send(transport)).status for _ in range(2)] == [200, 200]
    assert asked == ["connection 0", "lost", "connection 2"]


async def test_a_question_that_was_being_worked_on_is_not_sent_twice() -> None:
    now = 0.0
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, asked
        await read_request(reader)
        asked += 1
        writer.write(reply_bytes())
        await writer.drain()
        await read_request(reader)
        asked += 1
        now += 30.0  # it worked on it for half a minute, then crashed

    def clock() -> float:
        return now

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1", clock=clock) as transport:
        await send(transport)
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.CONNECT
    assert asked == 2


async def test_a_fresh_connection_that_breaks_is_not_tried_again() -> None:
    asked = 0

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.CONNECT
    assert asked == 1


async def test_a_large_body_arrives_whole(stub: Stub) -> None:
    stub.says("/v1/chat/completions", completion(), headers={"Connection": "keep-alive"})
    body = b'"' + b"x" * 3_000_000 + b'"'
    async with Transport("lan", stub.base_url) as transport:
        for _ in range(2):
            assert (await send(transport, body=body)).status == 200
    assert [seen == body for *_, seen in stub.seen] == [True, True]


async def test_an_answer_that_ends_in_the_middle_is_no_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply_bytes(b'{"choices": []}')[:-4])
        await writer.drain()

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError, match="middle") as caught:
            await send(transport)
    assert caught.value.fault is F.CONNECT


async def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while sent < 4 * MAX_REPLY_BYTES:
            writer.write(b"x" * 2**18)
            await writer.drain()
            sent += 2**18

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError):
            await send(transport)
    assert sent < 3 * MAX_REPLY_BYTES


async def test_no_answer_in_time_is_a_timeout_and_leaves_no_connection() -> None:
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        assert await reader.read() == b""  # the client hangs up
        left.set()

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError, match="no whole answer") as caught:
            await transport.send("GET", f"{transport.base_url}/models", connect_timeout_s=5, total_timeout_s=0.05)
        assert caught.value.fault is F.TIMEOUT
        await asyncio.wait_for(left.wait(), 10)


async def test_who_is_cancelled_hangs_up() -> None:
    working, left = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        working.set()
        assert await reader.read() == b""
        left.set()

    async with listener(talk) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        asking = asyncio.create_task(send(transport))
        await asyncio.wait_for(working.wait(), 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(left.wait(), 10)


async def test_many_cancelled_at_any_moment_leave_nothing_behind(stub: Stub) -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.001)
        return web.json_response(completion())

    stub.replies["/v1/chat/completions"] = slow
    before = len(asyncio.all_tasks())
    async with Transport("lan", stub.base_url) as transport:
        for turns in range(40):
            asking = asyncio.create_task(send(transport))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert (await send(transport)).status == 200
    await until(lambda: len(asyncio.all_tasks()) <= before + 1)


async def test_a_transport_is_opened_once_and_used_open() -> None:
    transport = Transport("lan", "http://127.0.0.1:1/v1")
    with pytest.raises(RuntimeError, match="not open"):
        await send(transport)
    async with transport:
        with pytest.raises(RuntimeError, match="open already"):
            await transport.__aenter__()


# --- what goes wrong before HTTP ------------------------------------------------------------------------------


async def test_nobody_there(connect: Connect) -> None:
    async with listener(lambda r, w: asyncio.sleep(0)) as port:
        pass
    endpoint = await connect(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(EndpointError, match=r"nobody answers at 127.*refused") as caught:
        await endpoint.prepare()
    assert caught.value.fault is F.CONNECT
    assert caught.value.fix


async def test_a_name_that_does_not_exist(connect: Connect) -> None:
    endpoint = await connect("http://gpu.lan/v1", resolver=Names())
    with pytest.raises(EndpointError, match=r"gpu\.lan cannot be resolved") as caught:
        await endpoint.ping()
    assert caught.value.fault is F.CONNECT


def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    return context


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(reply_bytes(b'{"object": "list", "data": [{"id": "m"}]}'))
    await writer.drain()
    await reader.read()


async def test_a_self_signed_certificate_is_refused_with_its_fix_or_accepted_if_told_so() -> None:
    async with listener(answer_once, tls()) as port:
        async with Transport("lan", f"https://127.0.0.1:{port}/v1") as transport:
            with pytest.raises(EndpointError, match="certificate") as caught:
                await send(transport)
        assert caught.value.fault is F.NOT_AN_API
        assert "verify_tls: false" in caught.value.fix
        async with Transport("lan", f"https://127.0.0.1:{port}/v1", verify_tls=False) as transport:
            assert (await send(transport)).status == 200


async def test_https_to_a_server_without_tls() -> None:
    async with listener(answer_once) as port, Transport("lan", f"https://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError) as caught:
            await transport.send("GET", f"{transport.base_url}/models", connect_timeout_s=0.5, total_timeout_s=5)
    assert caught.value.fault in (F.NOT_AN_API, F.CONNECT)
    assert "write http://" in caught.value.fix


async def test_https_to_a_server_that_answers_in_plain_text(stub: Stub) -> None:
    async with Transport("lan", stub.base_url.replace("http:", "https:")) as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.NOT_AN_API
    assert "http://" in caught.value.fix


async def test_http_to_a_server_with_tls() -> None:
    async with listener(answer_once, tls()) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault in (F.NOT_AN_API, F.CONNECT)
    assert "https://" in caught.value.fix


async def test_an_alert_of_tls_is_known() -> None:
    """As OpenSSL and most proxies answer plain text: a record of two bytes, fatal, and no word of HTTP."""

    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x15\x03\x03\x00\x02\x02\x46")
        await writer.drain()
        await reader.read()

    async with listener(alert) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port} speaks TLS") as caught:
            await send(transport)
    assert caught.value.fix == "Write https:// instead of http:// in base_url."


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_a_server_that_hangs_up_without_a_word(secure: bool) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    address = f"{'https' if secure else 'http'}://127.0.0.1"
    async with (
        listener(hang_up, tls() if secure else None) as port,
        Transport("lan", f"{address}:{port}/v1", verify_tls=False) as transport,
    ):
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.CONNECT
    if "without an answer" in str(caught.value):  # else it was told as a broken connection
        assert ("https://" in caught.value.fix) is not secure


def test_errors_that_come_together_are_all_looked_at() -> None:
    """Several addresses of a name are tried at once, and all their errors come in one."""
    group = ExceptionGroup("all addresses", [OSError(111, "refused"), ssl.SSLError(1, "wrong version number")])
    error = translate(aiohttp.ClientError("x").with_traceback(None), endpoint="lan", url="https://h:1/v1", seconds=1)
    assert error.fault is F.CONNECT
    both = aiohttp.ClientError("x")
    both.__cause__ = group
    error = translate(both, endpoint="lan", url="https://h:1/v1", seconds=1)
    assert error.fault is F.NOT_AN_API and "does not speak TLS" in str(error)


@pytest.mark.parametrize("host", ["gpu..lan", "x" * 70])
async def test_a_name_that_cannot_be_one_is_said(host: str) -> None:
    async with Transport("lan", f"http://{host}/v1") as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault in (F.CONNECT, F.NOT_AN_API)
    assert "base_url" in caught.value.fix


async def test_something_that_does_not_speak_http() -> None:
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        await reader.read()

    async with listener(ssh) as port, Transport("lan", f"http://127.0.0.1:{port}/v1") as transport:
        with pytest.raises(EndpointError) as caught:
            await send(transport)
    assert caught.value.fault is F.NOT_AN_API


def _made(kind: type[BaseException]) -> BaseException:
    key = ConnectionKey("h", 1, False, True, None, None, None)
    for arguments in (
        (),
        ("x",),
        (key, OSError(1, "x")),
        (key, ValueError("x")),
        ("p", key, OSError(1, "x")),
        (None, ()),
        (b"x", b"y", "h", 1),
    ):
        try:
            return kind(*arguments)
        except TypeError:
            continue
    raise AssertionError(f"cannot make a {kind.__name__}")


LIBRARY_ERRORS: list[type[aiohttp.ClientError]] = [
    e for e in vars(client_exceptions).values() if isinstance(e, type) and issubclass(e, aiohttp.ClientError)
]


@pytest.mark.parametrize("kind", LIBRARY_ERRORS)
def test_every_error_of_the_http_library_is_translated(kind: type[BaseException]) -> None:
    exc = _made(kind)
    error = translate(exc, endpoint="lan", url="http://h:1/v1", seconds=1)
    assert error.fault in (F.CONNECT, F.TIMEOUT, F.NOT_AN_API, F.FORBIDDEN)
    assert str(error)


async def test_many_questions_at_once_are_limited_by_nobody_here(stub: Stub) -> None:
    at_once, gate = 0, asyncio.Event()  # opens only when all are there, so too few at once would hang

    async def hold(_: web.Request) -> web.StreamResponse:
        nonlocal at_once
        at_once += 1
        if at_once == 120:
            gate.set()
        await gate.wait()
        return web.json_response({})

    stub.replies["/v1/chat/completions"] = hold
    async with Transport("lan", stub.base_url) as transport:
        replies = await asyncio.wait_for(asyncio.gather(*(send(transport) for _ in range(120))), 60)
    assert [r.status for r in replies] == [200] * 120


async def test_a_server_that_says_nothing_is_given_up_before_one_that_is_slow_to_finish(stub: Stub) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(30):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        await response.write(b"{}")
        return response

    async def silence(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.json_response({})

    async with Transport("lan", stub.base_url) as transport:
        url = f"{transport.base_url}/models"
        stub.replies["/v1/models"] = silence
        with pytest.raises(EndpointError, match="nothing was heard") as caught:
            await transport.send("GET", url, connect_timeout_s=5, total_timeout_s=3600, first_byte_timeout_s=0.05)
        assert caught.value.fault is F.TIMEOUT
        stub.replies["/v1/models"] = trickle
        reply = await transport.send("GET", url, connect_timeout_s=5, total_timeout_s=60, first_byte_timeout_s=1.2)
        assert reply.body.strip() == b"{}"


# --- what left the network ------------------------------------------------------------------------------------


async def test_frames_that_went_outside_count_whatever_came_of_them(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion(usage={"prompt_tokens": 7, "completion_tokens": 2}))
    away = await connect(stub.base_url, model="m", allow_remote=True, is_local=everything_is_remote)
    assert (await ask(away)).remote
    assert away.used == Usage(requests=1, tokens_in=7, tokens_out=2, left_network=1)
    stub.says("/v1/chat/completions", {"error": {"message": "boom"}}, status=500)
    with pytest.raises(EndpointError) as caught:
        await ask(away)
    assert caught.value.left_network
    assert away.used == Usage(requests=2, tokens_in=7, tokens_out=2, left_network=2)


async def test_a_frame_that_was_under_way_to_the_outside_when_it_was_dropped_counts(connect: Connect) -> None:
    arrived = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    async with listener(silent) as port:
        away = await connect(f"http://127.0.0.1:{port}/v1", model="m", allow_remote=True, is_local=everything_is_remote)
        asking = asyncio.create_task(ask(away))
        await arrived.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert away.used == Usage(requests=1, left_network=1)
        with pytest.raises(EndpointError) as caught:
            await away.ask(question(), connect_timeout_s=5, total_timeout_s=0.05)
        assert caught.value.fault is F.TIMEOUT and caught.value.left_network
        assert away.used == Usage(requests=2, left_network=2)


async def test_what_was_refused_here_or_found_nobody_did_not_leave(stub: Stub, connect: Connect) -> None:
    barred = await connect(stub.base_url, model="m", is_local=everything_is_remote)
    deaf = await connect("http://127.0.0.1:9/v1", model="m", allow_remote=True, is_local=everything_is_remote)
    home = await connect(stub.base_url, model="m")
    for endpoint in (barred, deaf, home):
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint)
        assert not caught.value.left_network
        assert endpoint.used.left_network == 0


async def test_probes_and_refused_forms_are_requests_too(connect: Connect) -> None:
    async with VisionServer(lambda _: ("Dunk",), slots=2) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        await ask(endpoint)
        assert endpoint.used.requests == len(server.entries)
        assert endpoint.used.requests > 1
        assert endpoint.used.tokens_in > 0


async def test_a_server_that_does_not_tell_its_tokens_is_taken_to_use_some(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion())
    endpoint = await connect(stub.base_url, model="m")
    answer = await ask(endpoint)
    assert (answer.tokens_in, answer.tokens_out) == (0, 0)
    assert endpoint.used.tokens_in >= 1000
