"""What Stash sends on stdin, and what it is told when it sends something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import ConfigError, WireError
from haven_vlm.stash_address import StashConnection, is_loopback
from haven_vlm.stash_wire import read_envelope, reply

COOKIE = "MTc2NjQ0fDEyMzQ1Njc4OTA="


def server(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "Scheme": "http",
        "Host": "0.0.0.0",
        "Port": 9999,
        "SessionCookie": {"Name": "session", "Value": COOKIE, "Path": "", "MaxAge": 0},
        "Dir": "/config/stash",
        "PluginDir": "/config/stash/plugins/vlm",
    }
    return {name: value for name, value in (values | changes).items() if value is not ...}


def document(args: Any = None, **changes: Any) -> bytes:
    return json.dumps({"server_connection": server(**changes), "args": {} if args is None else args}).encode()


def test_envelope_of_a_task() -> None:
    call = read_envelope(document({"mode": "tag_videos", "threshold": "0.4"}))
    assert call.mode == "tag_videos"
    assert dict(call.args) == {"threshold": "0.4"}
    assert call.config_dir == Path("/config/stash").absolute()
    assert call.connection.graphql_url == "http://127.0.0.1:9999/graphql"
    assert call.connection.session_cookie == COOKIE
    assert not call.connection.verify_tls


def test_secrets_do_not_show() -> None:
    call = read_envelope(document({"mode": "x", "endpoints": [{"api_key": "sk-secret"}]}))
    assert COOKIE not in repr(call)
    assert "sk-secret" not in repr(call)
    assert "key-1" not in repr(StashConnection.from_url("http://nas", api_key="key-1"))


def test_relative_plugin_folder_becomes_absolute() -> None:
    assert read_envelope(document(PluginDir="plugins/vlm")).plugin_dir == Path.cwd() / "plugins/vlm"


def test_byte_order_mark_and_names_of_any_language() -> None:
    call = read_envelope(b"\xef\xbb\xbf" + document({"mode": "м"}, Dir="/дом/Ünï"))
    assert (call.mode, call.config_dir.name) == ("м", "Ünï")


@pytest.mark.parametrize("args", [None, {}])
def test_no_arguments(args: Any) -> None:
    data = json.dumps({"server_connection": server(), "args": args}).encode()
    assert read_envelope(data).mode == ""
    assert read_envelope(json.dumps({"server_connection": server()}).encode()).args == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "nothing came"),
        (b" \n", "nothing came"),
        (b"tag_videos", "not the JSON"),
        (b'{"server_connection": ', "not the JSON"),
        (b"[" * 100_000, "not the JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[1]", "no object"),
        (b'"text"', "no object"),
        (b"{}", "server_connection"),
        (b'{"server_connection": "http://localhost"}', "server_connection"),
        (document(Scheme="ftp"), "Scheme"),
        (document(Scheme=...), "Scheme"),
        (document(Host=7), "Host"),
        (document(Host="a b"), "Host"),
        (document(Host="evil/path"), "Host"),
        (document(Port="x"), "Port"),
        (document(Port=0), "Port"),
        (document(Port=70000), "Port"),
        (document(Port=True), "Port"),
        (document(Port=1e400), "Port"),
        (document(Port=...), "Port"),
        (document(SessionCookie={"Value": 5}), "SessionCookie"),
        (document(SessionCookie={"Value": "a\r\nApiKey: x"}), "SessionCookie"),
        (document(PluginDir=...), "PluginDir"),
        (document(PluginDir="a\0b"), "PluginDir"),
        (document(Dir=""), "Dir"),
        (document(["mode"]), "args"),
        (document({"mode": 3}), "args.mode"),
    ],
)
def test_what_is_wrong_is_said_without_quoting_it(data: bytes, words: str) -> None:
    with pytest.raises(WireError) as caught:
        read_envelope(data)
    assert words in str(caught.value)
    assert COOKIE not in str(caught.value)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_input_ends_in_another_error(data: bytes) -> None:
    with pytest.raises(WireError):
        read_envelope(data)


@given(
    st.dictionaries(
        st.sampled_from(["Scheme", "Host", "Port", "SessionCookie", "Dir", "PluginDir"]),
        st.none() | st.text() | st.integers() | st.floats() | st.dictionaries(st.just("Value"), st.text()),
    )
)
def test_odd_connections_are_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        call = read_envelope(document(**changes))
    except WireError:
        return
    assert call.connection.graphql_url.startswith(("http://", "https://"))


@pytest.mark.parametrize("cookie", [None, {}, {"Value": ""}, {"Value": None}])
def test_without_a_login(cookie: Any) -> None:
    assert read_envelope(document(SessionCookie=cookie)).connection.secrets == ()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9999"),
        ("", "http://127.0.0.1:9999"),
        ("::", "http://[::1]:9999"),
        ("[::]", "http://[::1]:9999"),
        ("::1", "http://[::1]:9999"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:9999"),
        ("192.168.1.7", "http://192.168.1.7:9999"),
        ("nas.local", "http://nas.local:9999"),
    ],
)
def test_addresses_to_listen_on_become_addresses_to_connect_to(host: str, url: str) -> None:
    assert read_envelope(document(Host=host)).connection.base_url == url


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("nas", "http://nas:9999/graphql"),
        ("nas:1234", "http://nas:1234/graphql"),
        ("http://nas", "http://nas:80/graphql"),
        ("https://home.example/stash/", "https://home.example:443/stash/graphql"),
        ("https://home.example/stash/graphql", "https://home.example:443/stash/graphql"),
        ("http://[::1]:9999", "http://[::1]:9999/graphql"),
        (" http://localhost:9999/ ", "http://localhost:9999/graphql"),
    ],
)
def test_typed_addresses(typed: str, url: str) -> None:
    assert StashConnection.from_url(typed).graphql_url == url


@pytest.mark.parametrize(
    "typed",
    ["", "http://", "ftp://nas", "http://nas:port", "http://nas:99999", "http://na s", "http://nas/?apikey=abcdef"],
)
def test_typed_nonsense_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="address") as caught:
        StashConnection.from_url(typed)
    assert "abcdef" not in str(caught.value)


def test_user_names_in_addresses_and_broken_keys_are_refused_unquoted() -> None:
    with pytest.raises(ConfigError, match="API key") as caught:
        StashConnection.from_url("http://me:hunter2@nas")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="copy it again") as caught:
        StashConnection.from_url("nas", api_key="abc\r\ndef")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "given_", "checked"),
    [
        ("https://localhost", None, False),
        ("https://127.0.0.5", None, False),
        ("https://[::1]", None, False),
        ("https://nas", None, True),
        ("https://nas", False, False),
        ("https://localhost", True, True),
    ],
)
def test_certificates_are_checked_except_on_loopback(typed: str, given_: bool | None, checked: bool) -> None:
    assert StashConnection.from_url(typed, verify_tls=given_).verify_tls is checked
    assert is_loopback("localhost") and not is_loopback("localhost.example")


# --- the reply ------------------------------------------------------------------------------------------------


def test_reply_is_one_line_of_json() -> None:
    assert json.loads(reply("done")) == {"output": "done"}
    assert json.loads(reply({"tagged": 3, "ratio": float("nan"), "who": {"x"}})) == {
        "output": {"tagged": 3, "ratio": None, "who": ["x"]}
    }


@pytest.mark.parametrize(
    ("error", "text"),
    [("no disk", "no disk"), (WireError("bad"), "bad"), (KeyError(), "KeyError"), ("", "failed"), ("  ", "failed")],
)
def test_an_error_is_always_a_text(error: Any, text: str) -> None:
    assert json.loads(reply("ok", error=error))["error"] == text


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(anything, st.none() | st.text(st.characters(codec=None)))
def test_any_reply_can_be_read(output: Any, error: str | None) -> None:
    line = reply(output, error=error)
    line.encode("ascii")
    assert "\n" not in line
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(read) == ({"output"} if error is None else {"output", "error"})


def test_endless_structures_become_text() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert json.loads(reply(endless))["output"]
