"""HTTP to one endpoint, and the only place where a frame can leave: aiohttp behind a border.

* A name is resolved once per connection, addresses beyond the border are taken out of what was resolved, and
  the connection goes to exactly one of the rest; the peer is looked at once more before the first byte is
  sent. Nothing else is ever resolved or connected to: redirects are not followed, proxies of the environment
  are not used, cookies are not kept.
* Questions that must stay at home have a pool of connections of their own.
* Idle connections are dropped before servers drop them (most after 5 s); a pooled connection that turns out
  to be dead at once, before any byte of an answer, is replaced once by a new one.
* The errors of aiohttp end here: whatever goes wrong is an `EndpointError`.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from haven_vlm.endpoint_troubles import translate
from haven_vlm.privacy import Border, is_local

if TYPE_CHECKING:
    import socket

    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

Resolver = AbstractResolver
"""Finds the addresses behind a name; aiohttp's interface."""

KEEP_ALIVE_S = 4.0
"""llama-server, vLLM, SGLang and uvicorn close idle connections after 5 s."""

STALE_WITHIN_S = 0.25
"""A dead connection says so within a round trip; one that breaks later had a server with the question in hand."""

MAX_REPLY_BYTES = 16 * 2**20

LARGE_BODY_BYTES = 2**20
"""A larger body goes to the socket in pieces, with other work between them."""

USER_AGENT = "haven-vlm-connector"


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An HTTP answer, whole."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    is_remote: bool
    """It came from outside loopback and private networks."""
    seconds: float


@dataclass(slots=True)
class _Exchange:
    """What is known of the request under way in this task."""

    leaving: Callable[[], None] | None = None
    """Called when the request is about to go to a remote address."""
    peer: str = ""
    was_pooled: bool = False
    is_answering: bool = False


_CURRENT: ContextVar[_Exchange] = ContextVar("exchange")


class _GuardedResolver(AbstractResolver):
    """Takes addresses beyond the border out of what another resolver found."""

    def __init__(self, inner: AbstractResolver, border: Border) -> None:
        self._inner, self._border = inner, border

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        found = await self._inner.resolve(host, port, family)
        admitted = set(self._border.admit(host, [f["host"] for f in found]))
        return [f for f in found if f["host"] in admitted]

    async def close(self) -> None:
        await self._inner.close()


class _GuardedConnector(aiohttp.TCPConnector):
    """Hands out no connection to a peer beyond the border, however it came about."""

    def __init__(self, border: Border, inner: AbstractResolver, *, tls: ssl.SSLContext | bool) -> None:
        super().__init__(
            resolver=_GuardedResolver(inner, border),
            ssl=tls,
            limit=0,  # the multiplexer limits; a wait in here would count as time to connect
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._border = border
        self._used: WeakSet[object] = WeakSet()

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        literal = req.url.host or ""
        if ":" in literal or literal.replace(".", "").isdigit():
            self._border.admit(literal, [literal])
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "an unknown peer"
        try:
            self._border.admit(literal, [address])
        except BaseException:
            connection.close()
            raise
        exchange = _CURRENT.get()
        exchange.peer = address
        exchange.was_pooled = connection.protocol in self._used
        self._used.add(connection.protocol)
        if exchange.leaving is not None and not self._border.is_local(address):
            exchange.leaving()
        return connection


@dataclass(slots=True)
class Transport:
    """Sends requests to one endpoint; an async context manager, used from one loop.

    Args:
        name: of the endpoint, for messages.
        base_url: up to `/v1`, without a slash at the end.
        key: sent as a bearer token; None: none is sent.
        allow_remote: frames may go to addresses outside the local network.
        verify_tls: check certificates.
        is_local: how addresses are judged.
        resolver: who resolves names; None: the operating system.
    """

    name: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    allow_remote: bool = False
    verify_tls: bool = True
    is_local: Callable[[str], bool] = is_local
    resolver: Resolver | None = None
    clock: Callable[[], float] = time.monotonic
    _stack: AsyncExitStack | None = field(default=None, init=False, repr=False)
    _home: aiohttp.ClientSession = field(init=False, repr=False)
    _open: aiohttp.ClientSession = field(init=False, repr=False)

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError(f"the transport of endpoint “{self.name}” is open already")
        self._stack = AsyncExitStack()
        self._home = await self._stack.enter_async_context(self._session(allow_remote=False))
        self._open = self._home
        if self.allow_remote:
            self._open = await self._stack.enter_async_context(self._session(allow_remote=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    def _session(self, *, allow_remote: bool) -> aiohttp.ClientSession:
        border = Border(allow_remote=allow_remote, is_local=self.is_local)
        headers = {"User-Agent": USER_AGENT}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return aiohttp.ClientSession(
            connector=_GuardedConnector(border, self.resolver or aiohttp.ThreadedResolver(), tls=self.verify_tls),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy of the environment would hide which address frames go to
        )

    @property
    def root_url(self) -> str:
        """The base address without `/v1`, where servers have interfaces of their own."""
        return self.base_url.removesuffix("/v1")

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        connect_timeout_s: float,
        total_timeout_s: float,
        first_byte_timeout_s: float | None = None,
        local_only: bool = False,
        leaving: Callable[[], None] | None = None,
    ) -> HttpReply:
        """One request, one whole answer, whatever its status.

        Args:
            method, url: `url` begins with `base_url` or `root_url`.
            body: JSON.
            connect_timeout_s: for the name, the connection and TLS.
            total_timeout_s: for everything.
            first_byte_timeout_s: for the first byte of the answer, and between two parts of it.
            local_only: never leave the local network, whatever the endpoint allows.
            leaving: called whenever the request is about to go to a remote address, whatever comes of it.

        Raises:
            EndpointError: CONNECT, TIMEOUT, FORBIDDEN or NOT_AN_API.
        """
        if self._stack is None:
            raise RuntimeError(f"the transport of endpoint “{self.name}” is not open")
        if not url.startswith((f"{self.base_url}/", f"{self.root_url}/")):
            raise ValueError(f"{url} is not an address of endpoint “{self.name}”")
        session = self._home if local_only else self._open
        began = self.clock()
        for is_last in (False, True):
            exchange = _Exchange(leaving)
            _CURRENT.set(exchange)
            sent_at = self.clock()
            left_s = max(0.001, total_timeout_s - (sent_at - began))
            timeout = aiohttp.ClientTimeout(
                total=left_s,
                connect=min(connect_timeout_s, left_s),
                sock_connect=min(connect_timeout_s, left_s),
                sock_read=first_byte_timeout_s,
            )
            try:
                status, headers, content = await self._exchange(session, method, url, body, timeout, exchange)
            except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as exc:
                was_stale = exchange.was_pooled and not exchange.is_answering and _is_broken(exc)
                if was_stale and not is_last and self.clock() - sent_at < STALE_WITHIN_S:
                    continue
                raise translate(exc, endpoint=self.name, url=url, seconds=self.clock() - began) from exc
            is_remote = not self.is_local(exchange.peer)
            return HttpReply(status, headers, content, is_remote, self.clock() - began)
        raise AssertionError("the second turn returns or raises")

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,
        exchange: _Exchange,
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        async with session.request(
            method,
            url,
            data=io.BytesIO(body) if body is not None and len(body) >= LARGE_BODY_BYTES else body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            exchange.is_answering = True
            parts, size = [], 0
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > MAX_REPLY_BYTES:
                    response.close()
                    raise aiohttp.ClientPayloadError(f"the answer is larger than {MAX_REPLY_BYTES >> 20} MB")
            return response.status, {k.lower(): v for k, v in response.headers.items()}, b"".join(parts)


def _is_broken(exc: BaseException) -> bool:
    if isinstance(exc, aiohttp.ClientConnectorError):
        return False  # that is a new connection which could not be made
    return isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
