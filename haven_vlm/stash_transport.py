"""One document to Stash over HTTP: the login that lasts, timeouts, and the errors of requests as ours.

Importing this module imports requests, a dependency of stashapp-tools: only after `bootstrap`.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from http.cookies import CookieError, SimpleCookie
from typing import Any

from haven_vlm.errors import StashRefused, StashUnavailable
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_faults import NotSent, Reply, read_reply, status_fault

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # requests complains about versions of its dependencies, into Stash's log
    import requests
    import urllib3

CONNECT_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 256 * 2**20
"""Most that is read of one answer, unpacked: ten thousand scenes with all we ask of them are some 50 MB."""


class StashTransport:
    """One HTTP session, one attempt per call. Blocking, for one thread; `auth_headers` may be read from others.

    Args:
        connection: where Stash is and how it knows us at the start.
        timeout_s: seconds without a byte of an answer.
    """

    def __init__(self, connection: StashConnection, *, timeout_s: float) -> None:
        self.connection = connection
        self.timeout_s = timeout_s
        self.api_key = connection.api_key
        """Sent beside the cookie: the key does not run out, the cookie carries Stash's guard against hook loops."""
        self.cookie = connection.session_cookie
        """The latest one Stash gave us."""
        self.met = False
        """Whether it is known that Stash lives there: a page instead of an answer is then a passing trouble."""
        self.session = _session(connection)

    def exchange(self, document: str, variables: Mapping[str, Any]) -> Reply:
        """Send one document; faults of single fields are in the reply.

        Raises:
            NotSent: Stash certainly did not get it.
            StashUnavailable: no answer; Stash may have carried it out.
            StashUnauthorized: Stash does not know us (any more).
            StashRefused: the whole document was refused, or this is no Stash.
        """
        url = self.connection.graphql_url
        body = json.dumps({"query": document, "variables": dict(variables)}).encode()
        with (
            _translated(url),
            self.session.post(
                url,
                data=body,
                headers=self.auth_headers(with_cookie=True),
                timeout=(CONNECT_TIMEOUT_S, self.timeout_s),
                allow_redirects=False,  # the key, a header of its own, would go along to wherever it leads
                stream=True,
            ) as response,
        ):
            answer = _bounded(response, url)
        self._take_cookie(response)
        reply = None
        with contextlib.suppress(ValueError, RecursionError):
            reply = read_reply(json.loads(answer))
        if response.status_code == 200:
            if reply is None and not self.met:
                raise StashRefused(f"{url} answers, but not as Stash does; is that Stash's address?")
            if reply is None:
                raise StashUnavailable("what came from Stash cannot be read")
            return reply
        if reply is not None and reply.worst is not None and response.status_code < 500:
            raise reply.worst
        raise status_fault(
            response.status_code,
            response.reason or "",
            url=url,
            has_key=bool(self.api_key),
            detail=_first_line(response, answer),
        )

    def auth_headers(self, *, with_cookie: bool = False) -> dict[str, str]:
        """Headers that authenticate; the cookie only when there is no key, unless asked for."""
        headers = {"ApiKey": self.api_key} if self.api_key else {}
        if self.cookie and (with_cookie or not headers):
            headers["Cookie"] = f"session={self.cookie}"
        return headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen in any log line: as now, and as handed to us."""
        return tuple({*self.connection.secrets, self.api_key, self.cookie} - {""})

    def masked(self, text: str) -> str:
        """The text without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def close(self) -> None:
        """Close the connections now; urllib3 alone leaves that to the garbage collector."""
        for adapter in self.session.adapters.values():
            if isinstance(adapter, requests.adapters.HTTPAdapter):
                pools = adapter.poolmanager.pools
                for key in pools.keys():  # noqa: SIM118 - this mapping refuses to be iterated
                    pools[key].close()
        self.session.close()

    def _take_cookie(self, response: requests.Response) -> None:
        """Every answer to a cookie brings a fresh one. A cookie jar would send both, and Stash reads the first:
        the old one (stashapp/stash#5332)."""
        for line in response.raw.headers.getlist("Set-Cookie"):
            with contextlib.suppress(CookieError):
                morsel = SimpleCookie(line).get("session")
                if morsel is not None and morsel.value:
                    self.cookie = morsel.value


def _session(connection: StashConnection) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # HTTP_PROXY would apply to loopback, a netrc file would replace our login
    session.verify = connection.verify_tls
    if not connection.verify_tls:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    session.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # `_take_cookie` keeps the one there is
    return session


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """The errors of requests as ours; none of their texts, which may quote headers."""
    try:
        yield
    except requests.exceptions.SSLError as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise StashRefused(
                f"the certificate of {url} is not one this machine trusts; if it is your own, switch its check off"
            ) from exc
        raise StashUnavailable(f"no secure connection to {url}") from exc
    except requests.exceptions.ConnectTimeout as exc:
        raise NotSent(f"nobody answers at {url}") from exc
    except requests.exceptions.ReadTimeout as exc:
        raise StashUnavailable("Stash took longer to answer than stash_timeout allows") from exc
    except requests.exceptions.ConnectionError as exc:
        reason = getattr(exc.args[0] if exc.args else None, "reason", None)
        if isinstance(reason, urllib3.exceptions.NewConnectionError):
            raise NotSent(f"no connection to Stash at {url}; is it running?") from exc
        raise StashUnavailable("the connection to Stash broke before its answer") from exc
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as exc:
        raise StashUnavailable("the connection to Stash broke within its answer") from exc
    except (requests.exceptions.RequestException, urllib3.exceptions.LocationValueError) as exc:
        raise StashRefused(f"cannot ask {url}: {type(exc).__name__}") from exc


def _bounded(response: requests.Response, url: str) -> bytes:
    """The body, as far as it is no longer than an answer of Stash can be.

    Raises:
        StashRefused: it is longer.
    """
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(2**16):
        size += len(part)
        if size > MAX_REPLY_BYTES:
            raise StashRefused(f"{url} answers with more than {MAX_REPLY_BYTES // 2**20} MB; is that Stash's address?")
        parts.append(part)
    return b"".join(parts)


def _first_line(response: requests.Response, answer: bytes) -> str:
    if "text/plain" not in response.headers.get("Content-Type", ""):
        return ""
    return " ".join(answer[:300].decode("utf-8", "replace").split())


class Silence:
    """stashapp-tools' idea of a logger. All it would say is in our errors; at debug it prints variables."""

    def trace(self, _text: object) -> None: ...

    debug = info = warning = error = trace
