"""Cookies, API keys, and what is asked of whom."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from tests.stash import servers
from tests.stash.conftest import BOTH
from tests.stash.servers import Reply, Server

VERSION = "{ version { version } }"
LIFETIME_S = 3


def session_of(headers: Mapping[str, str]) -> str:
    """Value of the session cookie a reply sets."""
    found = re.match(r"session=([^;]+); ", headers["Set-Cookie"])
    assert found
    return found[1]


def login(server: Server, password: str = "secret") -> requests.Response:
    server.http.cookies.clear()
    form = {"username": "user", "password": password}
    return server.http.post(f"{server.url}/login", data=form, allow_redirects=False, timeout=30)


def with_cookies(server: Server, *values: str) -> Reply:
    return server.gql(VERSION, headers={"Cookie": "; ".join(f"session={value}" for value in values)})


@pytest.fixture
def guarded(own_server: Server, media: Path) -> Server:
    """A scanned server that asks for credentials."""
    own_server.scan(media)
    query = 'mutation { configureGeneral(input: {username: "user", password: "secret"}) { username } }'
    assert own_server.data(query) == {"configureGeneral": {"username": "user"}}
    return own_server


def test_without_credentials_everybody_may_do_everything(server: Server) -> None:
    assert server.gql(VERSION).status == 200
    assert with_cookies(server, "junk").status == 200
    assert "Set-Cookie" not in with_cookies(server, "junk").headers
    assert server.get("/scene/1/stream").status_code == 200


def test_a_key_is_refused_while_none_is_configured(server: Server) -> None:
    reply = server.gql(VERSION, headers={"ApiKey": "key"})
    assert (reply.status, reply.body) == (401, "")


def test_anonymous_requests_are_401_or_sent_to_the_login_page(guarded: Server) -> None:
    reply = guarded.gql(VERSION)
    assert (reply.status, reply.body, reply.headers["WWW-Authenticate"]) == (401, "", "FormBased")
    for path in ("/scene/1/stream", "/image/1/image?x=1", "/plugin/none/javascript"):
        answer = guarded.get(path)
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/login?returnURL=%2F")
    assert guarded.get("/scene/1/stream.mp4").status_code == 401
    assert guarded.get("/plugin/none/assets/a.txt").status_code == 401
    assert guarded.get("/healthz").status_code == 200
    page = guarded.get("/login")
    assert (page.status_code, page.headers["Content-Type"].partition(";")[0]) == (200, "text/html")


def test_a_cookie_lets_in_and_is_renewed_by_every_request(guarded: Server) -> None:
    assert login(guarded, "wrong").status_code == 401
    cookie = session_of(login(guarded).headers)
    reply = with_cookies(guarded, cookie)
    assert reply.status == 200
    assert re.search(r"; Path=/; .*Max-Age=3600; SameSite=Lax$", reply.headers["Set-Cookie"])
    assert with_cookies(guarded, session_of(reply.headers)).status == 200
    media = guarded.get("/scene/1/stream", Cookie=f"session={cookie}")
    assert (media.status_code, "Set-Cookie" in media.headers) == (200, True)


def test_the_first_of_two_cookies_counts(guarded: Server) -> None:
    cookie = session_of(login(guarded).headers)
    assert with_cookies(guarded, cookie, "junk").status == 200
    assert with_cookies(guarded, "junk", cookie).status == 401


def test_a_tampered_cookie_is_nobody(guarded: Server) -> None:
    cookie = session_of(login(guarded).headers)
    middle = len(cookie) // 2
    other = "A" if cookie[middle] != "A" else "B"
    assert with_cookies(guarded, cookie[:middle] + other + cookie[middle + 1 :]).status == 401


def test_the_key_comes_before_the_cookie(guarded: Server) -> None:
    cookie = session_of(login(guarded).headers)
    made = guarded.gql("mutation { generateAPIKey(input: {}) }", headers={"Cookie": f"session={cookie}"})
    key = made.data["generateAPIKey"]
    reply = guarded.gql(VERSION, headers={"ApiKey": key})
    assert (reply.status, "Set-Cookie" in reply.headers) == (200, False)
    assert guarded.gql(VERSION, headers={"ApiKey": key, "Cookie": "session=junk"}).status == 200
    assert guarded.gql(VERSION, headers={"ApiKey": "wrong", "Cookie": f"session={cookie}"}).status == 401
    assert guarded.get("/scene/1/stream", ApiKey=key).status_code == 200
    assert guarded.get(f"/scene/1/stream?apikey={key}").status_code == 200
    shown = guarded.gql(
        "{ findScene(id: 1) { paths { stream screenshot } } configuration { general { apiKey } } }",
        headers={"ApiKey": key},
    ).data
    assert shown["findScene"]["paths"]["stream"] == f"{guarded.url}/scene/1/stream?apikey={key}"
    assert key not in shown["findScene"]["paths"]["screenshot"]
    assert shown["configuration"]["general"]["apiKey"] == key


@pytest.fixture(params=BOTH)
def short_lived(request: pytest.FixtureRequest, tmp_path: Path, media: Path) -> Iterator[Server]:
    """A server whose cookies are valid for LIFETIME_S seconds."""
    start = {"embedded": servers.embedded, "real": servers.real}[request.param]
    with start(tmp_path / "own", media, max_session_age_s=LIFETIME_S) as running:
        running.data('mutation { configureGeneral(input: {username: "user", password: "secret"}) { username } }')
        yield running


def test_a_cookie_dies_by_its_age_and_its_successor_lives_on(short_lived: Server) -> None:
    old = session_of(login(short_lived).headers)
    short_lived.pass_time(2.0)
    renewed = session_of(with_cookies(short_lived, old).headers)
    short_lived.pass_time(2.2)
    assert with_cookies(short_lived, old).status == 401
    assert with_cookies(short_lived, renewed).status == 200
