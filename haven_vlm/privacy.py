"""Which addresses are at home, and what must never be written down. Pure.

A frame may go to loopback and private networks; anywhere else only by permission. The decision is taken on
the address that is really connected to, never on a name: `transport` asks here for every address a name
resolves to, and once more for the peer of every connection before a byte is sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_LOCAL = tuple(
    ipaddress.ip_network(n)
    for n in (
        "0.0.0.0/32",  # "this machine", as people copy it from a server's --host option
        "::/128",
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",  # link-local
        "fe80::/10",
        "fc00::/7",  # unique local addresses, Tailscale's IPv6 among them
        "100.64.0.0/10",  # shared address space: Tailscale and other overlays
    )
)
"""RFC 1918, 3927, 4193, 4291, 6598. Not `is_private` of the standard library: that one counts documentation,
benchmarking and reserved ranges as private, and what it counts changes from release to release."""


@lru_cache(maxsize=1024)
def is_local(address: str) -> bool:
    """Whether an IP address (with or without a zone) is loopback or of a private network.

    IPv4 inside IPv6 (`::ffff:…`) counts as what it holds. Tunnels and translators (6to4, Teredo, NAT64)
    lead outside and are not local. Anything that is no address is not local.
    """
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in _LOCAL)


class AddressRefused(OSError):
    """A connection would leave the local network without permission. An `OSError`, as resolvers raise them."""

    def __init__(self, host: str, addresses: Sequence[str]) -> None:
        super().__init__(f"{host} is {', '.join(addresses)}, which is outside the local network")
        self.host = host
        self.addresses = tuple(addresses)


@dataclass(frozen=True, slots=True)
class Border:
    """Decides which addresses may be connected to.

    Args:
        allow_remote: addresses outside are fine.
        is_local: how an address is judged.
    """

    allow_remote: bool
    is_local: Callable[[str], bool] = is_local

    def admit(self, host: str, addresses: Iterable[str]) -> list[str]:
        """Those of the addresses that may be connected to, in order.

        Raises:
            AddressRefused: there are addresses, and none may be.
        """
        found = list(addresses)
        admitted = [a for a in found if self.allow_remote or self.is_local(a)]
        if found and not admitted:
            raise AddressRefused(host, found)
        return admitted


_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_KEY_WORDS = re.compile(
    r"(?i)\b(api[_-]?key|apikey|token|access_token|key|sig|signature)(\"?\s*[=:]\s*\"?)[^\s&\"'<>]{6,}"
)
_KEY_SHAPES = re.compile(r"\b(?:sk|pk|rk|gsk|hf|xai|AIza)[-_]?[A-Za-z0-9_-]{16,}")
_PICTURE = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=\s]*|[A-Za-z0-9+/]{200,}={0,2}")
_USER = re.compile(r"(?i)\b(https?://)[^/\s@]+@")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Take keys and pictures out of a text that came from outside, before anybody reads or stores it.

    Args:
        text: what a server or a library said.
        secrets: keys in use; each is replaced wherever it stands, also when a server cut its middle out.
    """
    for secret in secrets:
        if len(secret) >= 3:
            text = text.replace(secret, "[key]")
        if len(secret) >= 12:  # "Incorrect API key provided: sk-ab****wxyz" still tells two ends of the key
            text = re.sub(re.escape(secret[:3]) + r"[\w.-]*[*.…]{2,}" + r"[\w-]*", "[key]", text)
    text = _PICTURE.sub("[picture]", text)
    text = _BEARER.sub(r"\1 [key]", text)
    text = _KEY_WORDS.sub(r"\1\2[key]", text)
    return _USER.sub(r"\1", _KEY_SHAPES.sub("[key]", text))
