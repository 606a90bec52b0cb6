"""Real servers on loopback for the multiplexer's benchmark, in a process of their own: `demo.vision_server`.

As a program: one JSON list of servers as argument; prints their addresses; then every line "seed count" on standard
input begins a new run with fresh latencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from subprocess import PIPE, Popen

from bench.multiplexer_load import Server, latencies
from demo.vision_server import VisionServer


class _Tape:
    """Latencies in order of the questions; the mean before the first run and after the last question."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._left: Iterator[float] = iter(())

    def rewind(self, seed: int, count: int) -> None:
        self._left = iter(latencies(self._server, 2 * count + 100, seed))

    def __call__(self, _number: int) -> float:
        return next(self._left, self._server.latency_s)


async def serve(servers: list[Server]) -> None:
    """Listen until standard input ends."""
    tapes = {s.name: _Tape(s) for s in servers}
    async with AsyncExitStack() as stack:
        urls = {}
        for server in servers:
            vision = VisionServer(
                lambda _jpeg: ("Dunk",), slots=server.slots, latency_s=tapes[server.name], models=[server.name]
            )
            urls[server.name] = (await stack.enter_async_context(vision)).base_url
        print(json.dumps(urls), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            seed, count = map(int, line.split())
            for tape in tapes.values():
                tape.rewind(seed, count)
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


if __name__ == "__main__":
    asyncio.run(serve([Server(**s) for s in json.loads(sys.argv[1])]))
