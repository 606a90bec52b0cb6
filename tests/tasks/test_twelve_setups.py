"""Twelve ways to set an endpoint up wrongly, over real sockets: each is named, each with its fix."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from demo.vision.faults import FaultKind, Occasion, always
from demo.vision_server import VisionServer
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.endpoint_check import LEVELS, check_endpoint
from haven_vlm.facts import Answer, Outcome, Question, Term
from haven_vlm.page_data import CheckSection, Verdict
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import EndpointSettings
from tests.multiplexer.fakes import Attempt, FakeEndpoint

TAGS = ("Foul", "Dunk")
PROMPT = build_prompt([Term(tag) for tag in TAGS])
PEM = Path(__file__).parent.parent / "endpoint" / "selfsigned.pem"

Talk = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def check(base_url: str, **more: Any) -> CheckSection:
    settings = EndpointSettings.model_validate({"name": "Mine", "base_url": base_url, **more})
    async with HttpEndpoint(settings) as endpoint:
        return await check_endpoint(endpoint, PROMPT)


@asynccontextmanager
async def website(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", talk)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def page(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<!doctype html><title>Router</title><h1>Welcome</h1>", content_type="text/html")


async def bad_gateway(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="<html><h1>502 Bad Gateway</h1><hr>nginx</html>", content_type="text/html")


async def no_models(request: web.Request) -> web.StreamResponse:
    if request.path == "/v1/models":
        return web.json_response({"object": "list", "data": []})
    message = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=404)


def assert_names(section: CheckSection, *words: str) -> None:
    problems = [item for item in section.items if item.verdict is not Verdict.OK and item.fix]
    told = " ".join(f"{item.text} {item.fix}" for item in problems)
    assert problems and all(word in told for word in words), told


def server(**options: Any) -> VisionServer:
    return VisionServer(see=lambda _: ("Foul",), **options)


async def test_1_server_down() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert_names(await check(f"http://127.0.0.1:{port}/v1"), "nobody answers", "Start the model server")


async def test_2_wrong_port() -> None:
    async with website(page) as url:
        section = await check(url)
    assert_names(section, "the answer is a web page", "Check base_url", "an OpenAI-compatible server", "/v1")


async def test_3_https_on_http() -> None:
    async with server() as good:
        url = good.base_url.replace("http://", "https://")
        assert_names(await check(url), "does not speak TLS as expected: ", "write http:// instead of https://")


async def test_4_wrong_path() -> None:
    async with server() as good:
        assert_names(await check(good.base_url.removesuffix("/v1")), "404", f"Set base_url to {good.base_url}")


async def test_5_text_only_model() -> None:
    async with server(sees_pictures=False) as blind:
        assert_names(await check(blind.base_url), "vision model")


async def test_6_no_model_loaded() -> None:
    async with website(no_models) as url:
        assert_names(await check(url), "it offers no model", "Load a vision model there, or set `model`")


async def test_7_wrong_key() -> None:
    async with server(api_key="right") as locked:
        section = await check(locked.base_url, api_key="wrong-key-of-mine")
    assert_names(section, "the key is refused (401", "Set api_key or api_key_env of this endpoint")
    assert "wrong-key-of-mine" not in repr(section)


async def test_8_self_signed_certificate() -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(PEM)
    async with website(page, tls) as url:
        assert_names(await check(url), "is not trusted: self", "verify_tls: false")


async def test_9_a_proxy_in_between() -> None:
    async with website(bad_gateway) as url:
        assert_names(await check(url), "502", "proxy")


async def test_a_proxy_that_wants_a_login() -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        headers = {"Proxy-Authenticate": 'Basic realm="office"'}
        return web.Response(status=407, text="<h1>Authentication required</h1>", headers=headers)

    async with website(refuse) as url:
        section = await check(url)
    assert_names(section, "407", "a proxy in between", "the model server's own address")
    assert "api_key" not in repr(section)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=407)

    async with website(note) as proxy, server() as good:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/v1"))
        assert (await check(good.base_url)).ok
        await good.stop()
        assert_names(await check(good.base_url), "nobody answers", "Start the model server", "HTTP_PROXY) is not used")
    assert not asked


async def test_10_context_too_small() -> None:
    async with server(context=120) as small:
        section = await check(small.base_url)
    assert_names(section, "exceeds the available context size (120 tokens)", "a larger context window on the server")


async def test_11_a_thinking_model_that_eats_its_budget() -> None:
    async with server(thinks="always", script=always(FaultKind.OVERTHINKING)) as thinker:
        assert_names(await check(thinker.base_url), "thinking")


async def test_12_remote_without_permission() -> None:
    section = await check("http://203.0.113.7:1234/v1")
    assert_names(section, "outside the local network", "allow_remote")


async def test_a_good_one_has_no_problem_and_its_speed_is_told() -> None:
    async with server(slots=2, latency_s=0.01) as good:
        section = await check(good.base_url)
    assert section.ok
    told = {item.name: item.text for item in section.items}
    assert told["sees pictures"] == "yes" and told["where"] == "local" and "frames a minute" in told["speed"]
    assert "questions" in told["useful at once"] and "in, " in told["tokens a frame"]


async def test_a_server_that_refuses_more_at_once_is_measured_all_the_same() -> None:
    """Of the two questions that are asked at once, the one that came first is held until the other was refused."""
    latest, third_is_here = -1, asyncio.Event()

    def watch(occasion: Occasion) -> None:
        nonlocal latest
        latest = max(latest, occasion.number)
        if latest == 2:
            third_is_here.set()

    async def work(_: float) -> None:
        if latest == 1:
            await third_is_here.wait()

    async with server(slots=1, max_waiting=0, script=watch, sleep=work) as narrow:
        section = await check(narrow.base_url)
    assert [entry.status for entry in narrow.questions()].count(429) == 1
    assert section.ok and {i.name: i.text for i in section.items}["useful at once"].startswith("1 question")


@pytest.mark.parametrize("kind", [FaultKind.REFUSAL, FaultKind.CONTENT_FILTER, FaultKind.NONSENSE])
async def test_a_model_that_does_not_answer_is_no_good_endpoint(kind: FaultKind) -> None:
    async with server(script=always(kind)) as odd:
        section = await check(odd.base_url)
    assert not section.ok and any(item.fix for item in section.items)


class Paced(FakeEndpoint):
    """Answers each round of questions in a time of its own, by an injected clock."""

    def __init__(self, *rounds_s: float) -> None:
        super().__init__("Mine", latency_s=0.0)
        self.now, self.left = 0.0, list(rounds_s)
        self.wanted = iter(LEVELS)
        self.due = 0

    def good(self, attempt: Attempt) -> Answer:
        return Answer(Outcome.NONE, model=self.model, tokens_in=300)

    async def ask(self, question: Question, **limits: Any) -> Answer:
        answer = await super().ask(question, **limits)
        self.due = self.due or next(self.wanted)
        self.due -= 1
        if not self.due:  # the last of this round
            self.now += self.left.pop(0)
        return answer


async def useful(*rounds_s: float) -> tuple[str, int]:
    """What the check says of a server that takes so long for one, two, four and eight questions at once."""
    endpoint = Paced(*rounds_s)
    section = await check_endpoint(endpoint, PROMPT, clock=lambda: endpoint.now)
    return {item.name: item.text for item in section.items}["useful at once"], len(endpoint.attempts)


async def test_as_many_at_once_as_are_worth_it() -> None:
    assert await useful(1.0, 1.0, 1.0, 1.0) == ("8 questions", 15), "nothing more is tried than the most"
    assert await useful(1.0, 1.0, 1.9, 1.0) == ("2 questions", 7), "four take nearly twice as long as two"


async def test_a_slow_server_is_not_kept_busy_for_long() -> None:
    assert await useful(20.0, 20.0, 20.0, 20.0) == ("2 questions", 3)
