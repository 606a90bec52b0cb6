"""A clock that jumps, a connected library, and a server of a few lines for what no Stash would answer."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from demo.stash import EmbeddedStash
from haven_media_handler import StashLibrary
from haven_vlm.stash_address import StashConnection
from haven_vlm.stash_client import StashClient


@dataclass
class Clock:
    """Monotonic time that passes only while somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    on_sleep: Callable[[int], None] = lambda _count: None
    """Called with the number of the sleep, from 1, while the gateway pauses."""

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.on_sleep(len(self.slept))


def connection(stash: EmbeddedStash, **changes: Any) -> StashConnection:
    """As a plugin of this Stash would get it."""
    return StashConnection.from_server_connection(stash.server_connection() | changes)


def library(stash: EmbeddedStash, clock: Clock | None = None, **options: Any) -> StashLibrary:
    clock = clock or Clock()
    return StashLibrary(connection(stash), clock=clock, sleep=clock.sleep, **options)


@contextmanager
def client(at: StashConnection, clock: Clock | None = None, **options: Any) -> Iterator[StashClient]:
    clock = clock or Clock()
    made = StashClient(at, clock=clock, sleep=clock.sleep, **options)
    try:
        yield made
    finally:
        made.transport.close()


HANDSHAKE_DATA: dict[str, Any] = {
    "version": {"version": "v0.30.1", "hash": "5cf4d1ba8"},
    "configuration": {"general": {"apiKey": "", "maxSessionAge": 3600}},
    "marker": {"inputFields": [{"name": "seconds"}, {"name": "end_seconds"}]},
    "file": {"fields": [{"name": "path"}, {"name": "zip_file"}]},
}


@dataclass
class TinyServer:
    """Answers each POST with what `answer` returns: status, headers, body."""

    answer: Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]
    port: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def stash_like(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Enough of a Stash for the constructor."""
    return 200, {"Content-Type": "application/json"}, json.dumps({"data": HANDSHAKE_DATA}).encode()


@contextmanager
def tiny_server(
    answer: Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]] = stash_like,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> Iterator[TinyServer]:
    tiny = TinyServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            tiny.paths.append(self.path)
            tiny.headers.append(dict(self.headers))
            status, headers, content = tiny.answer(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: object, client_address: object) -> None: ...

    server = Server((host, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=True)
    tiny.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield tiny
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
