"""Where Stash is and how it knows us: the connection that a plugin is handed, or that a person types.

Secrets never show in a `repr`. Python's own rules for hosts and Go's differ in a few places (0.0.0.0, bare
IPv6 addresses); they are settled here, once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from haven_vlm.errors import ConfigError, WireError

DEFAULT_PORT = 9999
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses a server listens on that nobody can connect to (on every system), and what to use instead."""
_HEADER_SAFE = re.compile(r"[!-~]+")
"""Visible ASCII: what a key or a cookie consists of. Anything else could break out of its header."""


@dataclass(frozen=True, slots=True)
class StashConnection:
    """Address of Stash and what authenticates us there. Frozen; a refreshed cookie is the gateway's business."""

    scheme: str
    """'http' or 'https'."""
    host: str
    """Name or address to connect to, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path below which a reverse proxy serves Stash: '' or '/stash'."""
    session_cookie: str = field(default="", repr=False)
    """Value of the cookie `session` that a task is handed; it ages."""
    api_key: str = field(default="", repr=False)
    verify_tls: bool = True
    """False: take any certificate. On loopback self-signed ones are the rule, and nobody listens in between."""

    @classmethod
    def from_server_connection(cls, value: object) -> StashConnection:
        """Read `server_connection` of a plugin's input.

        Raises:
            WireError: it is not what Stash sends.
        """
        if not isinstance(value, Mapping):
            raise WireError("Stash's input has no server_connection; is the plugin's interface “raw”?")
        scheme = value.get("Scheme")
        if scheme not in ("http", "https"):
            raise WireError("server_connection.Scheme must be http or https")
        host = value.get("Host")
        if not isinstance(host, str) or not _usable_host(host):
            raise WireError("server_connection.Host must be a host name or an address")
        port = _port(value.get("Port"))
        if port is None:
            raise WireError("server_connection.Port must be a number from 1 to 65535")
        cookie = value.get("SessionCookie")
        token = cookie.get("Value") if isinstance(cookie, Mapping) else cookie
        if token is not None and (not isinstance(token, str) or (token and not _HEADER_SAFE.fullmatch(token))):
            raise WireError("server_connection.SessionCookie is not a cookie as Stash makes them")
        return cls(scheme, _reachable(host), port, session_cookie=token or "", verify_tls=False)

    @classmethod
    def from_url(cls, url: str, *, api_key: str = "", verify_tls: bool | None = None) -> StashConnection:
        """Read an address as typed by a person: 'http://nas:9999', 'nas', 'https://home.example/stash'.

        Args:
            url: with or without scheme, port, path and a trailing `/graphql`.
            api_key: from Settings → Security in Stash; empty when Stash asks for no login.
            verify_tls: check the certificate; None: yes, except on loopback.

        Raises:
            ConfigError: it is no such address, or the key cannot be a key.
        """
        text = url.strip()
        text = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as exc:
            raise ConfigError(_BAD_URL.format(url=url)) from exc
        if parts.scheme not in ("http", "https") or not host or not _usable_host(host) or parts.query:
            raise ConfigError(_BAD_URL.format(url=url if "@" not in url and "?" not in url else "(not shown)"))
        if "@" in parts.netloc:
            raise ConfigError("Stash has no user names in its address; give an API key instead (Settings → Security)")
        key = api_key.strip()
        if key and not _HEADER_SAFE.fullmatch(key):
            raise ConfigError("the API key of Stash contains characters that no key has; copy it again")
        host = _reachable(host)
        if port is None:
            port = 443 if parts.scheme == "https" else 80 if "://" in url else DEFAULT_PORT
        prefix = re.sub(r"/graphql/?$", "", parts.path).rstrip("/")
        check = verify_tls if verify_tls is not None else not is_loopback(host)
        return cls(parts.scheme, host, port, prefix=prefix, api_key=key, verify_tls=check)

    @property
    def base_url(self) -> str:
        """'http://127.0.0.1:9999', without a slash at the end and without secrets."""
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def graphql_url(self) -> str:
        return f"{self.base_url}/graphql"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen in any log line."""
        return tuple(secret for secret in (self.session_cookie, self.api_key) if secret)


_BAD_URL = "“{url}” is not an address of Stash; write for example http://localhost:9999"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this very machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _usable_host(host: str) -> bool:
    return not re.search(r"[\s/\\@?#\x00-\x1f\x7f]", host) and len(host) <= 255


def _reachable(host: str) -> str:
    bare = host.removeprefix("[").removesuffix("]")
    return _ANYWHERE.get(bare, bare)


def _port(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if 1 <= number <= 65535 else None
