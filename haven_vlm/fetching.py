"""Fetching a file's bytes from Stash over HTTP; nothing else is ever asked there this way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from haven_vlm.errors import MediaUnreachable, MediaUnreadable
from haven_vlm.ports import FetchBytes

AT_ONCE = 4
"""Files fetched at the same time: Stash makes thumbnails on demand, and has other guests."""
SILENCE_S = 60.0
"""Seconds without a byte after which a fetch is given up."""


@asynccontextmanager
async def http_fetch(*, verify_tls: bool = True) -> AsyncIterator[FetchBytes]:
    """A `FetchBytes` over connections of its own.

    Args:
        verify_tls: check the certificate of an https address; Stash's own is often self-signed.
    """
    connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=verify_tls)
    timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=10.0, sock_read=SILENCE_S)
    jar = aiohttp.DummyCookieJar()  # the caller sends the login that holds now; an older one would come first
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:

        async def fetch(url: str, headers: Mapping[str, str], *, limit_bytes: int) -> bytes:
            try:
                # a redirect leads to the login page
                async with session.get(url, headers=dict(headers), allow_redirects=False) as response:
                    if response.status != 200:
                        raise MediaUnreachable(await _refusal(response))
                    if (response.content_length or 0) > limit_bytes:
                        raise MediaUnreadable(_too_large(limit_bytes))
                    return await _body(response, limit_bytes)
            except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as exc:
                # not its text, which may hold the address
                raise MediaUnreachable(f"the connection to Stash failed ({type(exc).__name__})") from exc

        yield fetch


async def _body(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(2**18):
        size += len(part)
        if size > limit_bytes:
            raise MediaUnreadable(_too_large(limit_bytes))
        parts.append(part)
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse) -> str:
    if response.status in (301, 302, 303, 307, 308, 401, 403):
        return "Stash wants a login for it"
    words = ""
    if response.content_type == "text/plain":
        words = " ".join((await response.content.read(200)).decode("utf-8", "replace").split())
    return f"Stash says {words or f'HTTP {response.status}'}"


def _too_large(limit_bytes: int) -> str:
    return f"it is larger than {limit_bytes // 2**20} MB, too large to be fetched"
