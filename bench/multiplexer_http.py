"""Real servers on loopback for the multiplexer's benchmark, in a process of their own.

As a program: one JSON list of servers as argument; prints their addresses; then every line "seed count" on standard
input begins a new run with fresh latencies.

What is to be measured is the client, so a server costs next to nothing beside its latency: until a run begins
requests are answered by `demo.vision`, so that a probe learns what it wants to know; from then on the body is
received but not read, and every question gets the same answer as soon as it has had its turn in a slot.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from subprocess import PIPE, Popen
from typing import Self

from bench.multiplexer_load import Server, latencies
from demo.vision.eyes import Eyes
from demo.vision.wire import Asked, completion, model_list, read_question, write_answer


class SlotServer:
    """A model server with so many slots; others wait in order. An async context manager."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.base_url = ""
        self._free = server.slots
        self._waiting: deque[_Connection] = deque()
        self._left: Iterator[float] | None = None
        self._eyes = Eyes(lambda _jpeg: ("Dunk",), miss_rate=0.0, false_alarm_rate=0.0, seed=0)
        self._answer = b""
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening is not None:
            self._listening.close()

    def rewind(self, seed: int, count: int) -> None:
        """Begin a run: latencies in the order in which work begins; the mean after the last one."""
        self._left = iter(latencies(self.server, 2 * count + 100, seed))
        self._answer = b""  # the first question of the run is read

    def asked(self, connection: _Connection, path: str, body: bytes) -> None:
        """A whole request is here."""
        if not path.endswith("/chat/completions"):
            connection.reply(http(json.dumps(model_list([self.server.name], "haven-demo"))))
            return
        if self._left is None or not self._answer:
            self._answer = self._seen(read_question(body))
        connection.answer = self._answer
        self._waiting.append(connection)
        self._serve()

    def _seen(self, asked: Asked) -> bytes:
        names = self._eyes.look(asked).names
        sureness = dict.fromkeys(names, 0.97) if asked.logprobs else None
        content = write_answer(asked, names)
        return http(json.dumps(completion(asked, content=content, number=1, reasoning="", cached=0, sureness=sureness)))

    def _serve(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            latency_s = self.server.latency_s if self._left is None else next(self._left, self.server.latency_s)
            asyncio.get_running_loop().call_later(latency_s, self._done, self._waiting.popleft())

    def _done(self, connection: _Connection) -> None:
        connection.reply(connection.answer)
        self._free += 1
        self._serve()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as the client speaks it: a length, no pipelining."""

    def __init__(self, server: SlotServer) -> None:
        self._server = server
        self._received = bytearray()
        self._whole = 0
        """Length of the request under way; 0 while its head is incomplete."""
        self._body_at = 0
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._body_at, self._whole = end + 4, end + 4 + int(length or 0)
        if self._whole and len(self._received) >= self._whole:
            path = bytes(self._received.split(b" ", 2)[1]).decode("ascii")
            body = bytes(self._received[self._body_at : self._whole])
            self._received.clear()
            self._whole = 0
            self._server.asked(self, path, body)

    def reply(self, answer: bytes) -> None:
        """Send it, unless the client has gone."""
        if not self._transport.is_closing():
            self._transport.write(answer)


def http(document: str) -> bytes:
    """A reply with this JSON."""
    body = document.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def serve(servers: list[Server]) -> None:
    """Listen until standard input ends."""
    async with AsyncExitStack() as stack:
        listening = [await stack.enter_async_context(SlotServer(server)) for server in servers]
        print(json.dumps({s.server.name: s.base_url for s in listening}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            seed, count = map(int, line.split())
            for server in listening:
                server.rewind(seed, count)
            print("ready", flush=True)


class Servers:
    """The serving process, as the benchmark sees it."""

    def __init__(self, process: Popen[str]) -> None:
        self._process = process
        self.urls: dict[str, str] = json.loads(self._read())

    def begin(self, seed: int, count: int) -> None:
        """Fresh latencies for a run."""
        assert self._process.stdin
        self._process.stdin.write(f"{seed} {count}\n")
        self._process.stdin.flush()
        self._read()

    def _read(self) -> str:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the servers did not start")
        return line


@contextmanager
def servers_of(servers: tuple[Server, ...]) -> Iterator[Servers]:
    """Start them; stopped at the end."""
    listed = json.dumps([vars(s) for s in servers])
    with Popen([sys.executable, "-m", "bench.multiplexer_http", listed], stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield Servers(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(10)


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact to microseconds: epoll's and poll's count in whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve([Server(**s) for s in json.loads(sys.argv[1])]))
