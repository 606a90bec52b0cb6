"""What went wrong before there was an answer, as a sentence with its fix. Of aiohttp it knows the errors only."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp

from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.privacy import AddressRefused, is_local, redact

_TLS_INSTEAD_OF_TEXT = ("\\x15\\x03", "\x15\x03")
"""How a TLS alert looks to who expected an HTTP status line."""


def translate(exc: BaseException, *, endpoint: str, url: str, seconds: float) -> EndpointError:
    """Say what an error of the HTTP library means.

    `AddressRefused` → FORBIDDEN; TLS that does not fit, or an answer that is no HTTP → NOT_AN_API;
    time out after connecting → TIMEOUT; everything else → CONNECT.
    """

    def error(fault: EndpointFault, message: str, fix: str = "") -> EndpointError:
        return EndpointError(message, endpoint=endpoint, fault=fault, fix=fix)

    parts = urlsplit(url)
    host, where = parts.hostname or "", parts.netloc
    for cause in _causes(exc):
        if isinstance(cause, AddressRefused):
            found = [address for address in cause.addresses if address != host]
            is_what = f"is {', '.join(found)}, outside" if found else "is outside"
            message = f"{host} {is_what} the local network: nothing was sent there"
            return error(EndpointFault.FORBIDDEN, message, _FIX_REMOTE)
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = _told(exc, "verify_message") or "it cannot be verified"
            message = f"the certificate of {where} is not trusted: {reason}"
            return error(EndpointFault.NOT_AN_API, message, _FIX_CERTIFICATE)
        if isinstance(cause, ssl.SSLError) and "certificate" not in str(cause).lower():
            fix = f"If the server has no TLS, write http:// instead of https:// in base_url ({where})."
            return error(EndpointFault.NOT_AN_API, f"{where} does not speak TLS as expected: {_tls_words(exc)}", fix)
    match exc:
        case aiohttp.ClientConnectorDNSError():
            fix = (
                "Check the name in base_url, or write the address in numbers (names ending in .local may not resolve)."
            )
            return error(EndpointFault.CONNECT, f"the name {host} cannot be resolved", fix)
        case aiohttp.ConnectionTimeoutError():
            message = f"no connection to {where} in time"
            tls = "If the server has no TLS, write http:// in base_url. " if parts.scheme == "https" else ""
            return error(EndpointFault.CONNECT, message, tls + _fix_connect(host))
        case aiohttp.ClientConnectorError():
            return error(EndpointFault.CONNECT, f"nobody answers at {where}: {_words(exc)}", _fix_connect(host))
        case aiohttp.ServerTimeoutError():
            message = f"nothing was heard of an answer for a long time ({seconds:.0f} s in all)"
            return error(EndpointFault.TIMEOUT, message, _FIX_SLOW)
        case TimeoutError():
            message = f"no whole answer within {seconds:.0f} s"
            return error(EndpointFault.TIMEOUT, message, _FIX_SLOW)
        case aiohttp.ClientResponseError():
            if parts.scheme == "http" and any(mark in exc.message for mark in _TLS_INSTEAD_OF_TEXT):
                fix = "Write https:// instead of http:// in base_url."
                return error(EndpointFault.NOT_AN_API, f"{where} speaks TLS", fix)
            message = f"what listens at {where} does not speak HTTP"
            return error(EndpointFault.NOT_AN_API, message, "Check the port in base_url.")
        case aiohttp.InvalidURL():
            fix = "Check base_url, for example http://192.168.1.20:1234/v1."
            return error(EndpointFault.NOT_AN_API, "the address is not valid", fix)
        case UnicodeError():
            fix = "Check the name in base_url."
            return error(EndpointFault.CONNECT, f"the name {host} cannot be looked up", fix)
        case aiohttp.ClientPayloadError():
            return error(EndpointFault.CONNECT, f"the connection to {where} ended in the middle of an answer")
        case aiohttp.ServerDisconnectedError():
            fix = "Look into the server's log."
            if parts.scheme == "http":
                fix = "Look into the server's log; if it speaks TLS, write https:// in base_url."
            return error(EndpointFault.CONNECT, f"{where} closed the connection without an answer", fix)
        case _:
            return error(EndpointFault.CONNECT, f"the connection to {where} broke: {_words(exc)}")


_FIX_SLOW = "If the server is that slow, raise `timeout` of this endpoint, or lower its `max_concurrent`."
_FIX_REMOTE = "Set allow_remote: true on this endpoint if frames may leave your network."
_FIX_CERTIFICATE = (
    "If it is your own server with a self-signed certificate, set verify_tls: false on this endpoint, "
    "or add its certificate to this machine's trusted ones."
)


def _fix_connect(host: str) -> str:
    if host == "localhost" or (is_local(host) and (host.startswith("127.") or host == "::1")):
        return (
            f"Start the model server, and check its port. If Stash runs in a container, {host} is the container "
            "itself: use the address of the machine the server runs on, or host.docker.internal."
        )
    return "Start the model server there, let it listen on all addresses (0.0.0.0), and check port and firewall."


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error and all it came from, those that aiohttp keeps in attributes too."""
    seen: set[int] = set()
    queue: list[BaseException] = [exc]
    while queue and len(seen) < 20:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = [current.__cause__, current.__context__]
        linked += [getattr(current, name, None) for name in ("os_error", "certificate_error")]
        if isinstance(current, BaseExceptionGroup):
            linked += current.exceptions
        queue += [link for link in linked if isinstance(link, BaseException)]


def _told(exc: BaseException, name: str) -> str:
    """What the first cause that has such an attribute says in it."""
    texts = (getattr(cause, name, None) for cause in _causes(exc))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _tls_words(exc: BaseException) -> str:
    """OpenSSL's reason ('wrong version number'); the number of its errors means something else to the system."""
    return _told(exc, "reason").replace("_", " ").lower() or "it breaks off"


def _words(exc: BaseException) -> str:
    """What an error says, in a line; its class when it says nothing."""
    inner = getattr(exc, "os_error", None) or exc
    number = getattr(inner, "errno", None)
    # asyncio's own text only repeats the address
    known = os.strerror(number).lower() if isinstance(number, int) and number > 0 else ""
    text = known or getattr(inner, "strerror", None) or str(exc) or type(exc).__name__
    return redact(" ".join(str(text).split())[:200])
