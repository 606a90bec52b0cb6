"""A server that says exactly what it is told, a resolver that does too, and an endpoint in front of them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import settings
from PIL import Image

from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.facts import Answer, Question, Term
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import EndpointSettings

settings.register_profile("untimed", deadline=None)  # how long a machine takes says nothing about the code
settings.load_profile("untimed")

PROMPT = build_prompt([Term("Dunk", aliases=("slam",)), Term("Free throw"), Term("Timeout")])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def jpeg(shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 36), (shade, shade, shade)).save(out, "JPEG")
    return out.getvalue()


def question(shade: int = 0, *, local_only: bool = False) -> Question:
    return Question(PROMPT, (jpeg(shade),), local_only, "scene 1 at 0:34")


async def ask(endpoint: HttpEndpoint, asked: Question | None = None, *, boosted: bool = False) -> Answer:
    return await endpoint.ask(asked or question(), connect_timeout_s=5, total_timeout_s=20, boosted=boosted)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds; no clock involved."""
    for _ in range(200_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("never happened")


@dataclass
class Stub:
    """Answers each path with what was put there; counts connections and requests."""

    replies: dict[str, Handler] = field(default_factory=dict)
    seen: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    """Method, path, headers, body."""
    base_url: str = ""

    def says(self, path: str, data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        async def reply(_: web.Request) -> web.StreamResponse:
            if isinstance(data, bytes):
                return web.Response(body=data, status=status, headers=headers)
            return web.json_response(data, status=status, headers=headers)

        self.replies[path] = reply

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, request.headers, await request.read()))
        handler = self.replies.get(request.path)
        if handler is None:
            return web.json_response({"error": {"message": "File Not Found", "code": 404}}, status=404)
        return await handler(request)

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.seen]


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    made = Stub()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield made
    await runner.cleanup()


class Names(AbstractResolver):
    """Resolves names as told; each call takes the next list of addresses, the last one stays."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): lists for name, lists in names.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        lists = self.names.get(host)
        if lists is None:
            raise OSError(f"no such name: {host}")
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


Connect = Callable[..., Awaitable[HttpEndpoint]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make and open an endpoint: `await connect(base_url, model=…, resolver=…)`; closed at the end."""
    async with AsyncExitStack() as stack:

        async def made(base_url: str, **options: Any) -> HttpEndpoint:
            own = {k: options.pop(k) for k in list(options) if k in EndpointSettings.model_fields}
            chosen = EndpointSettings.model_validate({"base_url": base_url, "name": "lan", **own})
            return await stack.enter_async_context(HttpEndpoint(chosen, **options))

        yield made


@pytest.fixture(autouse=True)
def _no_forgotten_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """A connection that nobody closed warns when it is collected: collect while the test can still fail."""
    yield
    if inspect.iscoroutinefunction(request.function):  # not for pure tests: it takes its time
        gc.collect()


def completion(content: str | None = '{"tags":["Dunk"]}', **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **changes.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes.pop("choice", {})}
    return {"object": "chat.completion", "model": "m", "choices": [choice], **changes}
