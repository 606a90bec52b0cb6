"""What is at home, and what is never written down."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.privacy import AddressRefused, Border, is_local, redact

HOME = """127.0.0.1 127.8.9.1 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1 169.254.7.7 100.64.0.1
100.127.255.254 0.0.0.0 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd7a:115c:a1e0::5 ::ffff:192.168.1.1 ::ffff:127.0.0.1"""
OUTSIDE = """8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 192.167.1.1 192.169.0.1 100.63.255.255 100.128.0.0 11.0.0.1
203.0.113.7 198.18.0.1 224.0.0.1 255.255.255.255 2001:4860:4860::8888 2002:c0a8:0101::1 64:ff9b::c0a8:101
2001:0:4136:e378:8000:63bf:3fff:fdd2 ::ffff:8.8.8.8 ::192.168.1.1 ff02::1 fec0::1 localhost 2130706433 127.1 lan"""


@pytest.mark.parametrize("address", HOME.split())
def test_home(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", [*OUTSIDE.split(), ""])
def test_outside(address: str) -> None:
    assert not is_local(address)


@given(st.ip_addresses(v=4))
def test_an_address_inside_ipv6_is_what_it_holds(address: ipaddress.IPv4Address) -> None:
    assert is_local(f"::ffff:{address}") == is_local(str(address))


@given(st.ip_addresses())
def test_nothing_that_is_routed_on_the_internet_is_home(address: ipaddress.IPv4Address) -> None:
    if address.is_global:
        assert not is_local(str(address))


def test_a_border_takes_out_what_is_beyond_it() -> None:
    border = Border(allow_remote=False)
    assert border.admit("gpu.lan", ["8.8.8.8", "10.0.0.2", "::1"]) == ["10.0.0.2", "::1"]
    assert border.admit("gpu.lan", []) == []
    with pytest.raises(AddressRefused, match=r"gpu\.lan.*8\.8\.8\.8"):
        border.admit("gpu.lan", ["8.8.8.8"])
    assert Border(allow_remote=True).admit("gpu.lan", ["8.8.8.8"]) == ["8.8.8.8"]


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: KEY.",
        "Authorization: Bearer KEY",
        "http://host/v1?api_key=KEY&x=1",
        '{"api_key": "KEY"}',
        "http://user:KEY@host/v1",
    ],
)
@pytest.mark.parametrize("key", ["sk-proj-abcdefghijklmnopqrstuv", "correct-horse-battery"])
def test_keys_are_taken_out(text: str, key: str) -> None:
    assert key not in redact(text.replace("KEY", key), (key,))


def test_keys_of_others_are_taken_out_too() -> None:
    for text in ("Bearer abcdef0123456789", "sk-or-v1-0123456789abcdef0123", "?token=0123456789abcdef"):
        assert "0123456789" not in redact(text)


def test_a_key_with_its_middle_left_out_is_taken_out() -> None:
    assert "wxyz" not in redact("Incorrect API key provided: sk-ab****************wxyz", ("sk-abcdefghijklmnopwxyz",))


def test_a_key_of_two_letters_does_not_riddle_every_text() -> None:
    assert redact("no model is loaded", ["", "o", "mo"]) == "no model is loaded"


def test_pictures_are_taken_out() -> None:
    assert redact("cannot read data:image/jpeg;base64,/9j/4AAQSkZJRg==, sorry") == "cannot read [picture], sorry"
    assert redact("x " + "QUJD" * 100 + " y") == "x [picture] y"


keys = st.text("abcdefXYZ0123456789-_", min_size=8, max_size=40)


@given(st.text(), keys, st.text())
def test_a_key_in_use_is_never_left(before: str, key: str, after: str) -> None:
    assert key not in redact(f"{before}{key}{after}", (key,))
