"""The embedded vision server: strict like real servers, fair, and honest about what clients did."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from demo.court import Canvas
from demo.vision import faults
from demo.vision.faults import Fault, FaultKind
from demo.vision_server import VisionServer, eyes_for
from haven_vlm.facts import Term
from haven_vlm.prompts import build_prompt
from haven_vlm.replies import parse_reply

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPT = build_prompt([Term("Dunk"), Term("Free throw"), Term("Timeout")])


def jpeg(shade: int, size: tuple[int, int] = (64, 36)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(out, "JPEG")
    return out.getvalue()


def see(picture: bytes) -> list[str]:
    with Image.open(io.BytesIO(picture)) as image:
        shade = image.convert("L").tobytes()[0]
    return ["Dunk", "Free throw"] if shade > 200 else ["Timeout"] if shade > 100 else []


def body(picture: bytes, **extra: Any) -> dict[str, Any]:
    url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    schema = {"name": "tags", "schema": PROMPT.schema, "strict": True}
    return {
        "model": "demo-vlm",
        "messages": [
            {"role": "system", "content": PROMPT.system},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
        ],
        "max_tokens": 100,
        "response_format": {"type": "json_schema", "json_schema": schema},
        **extra,
    }


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("never happened")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def post(http: aiohttp.ClientSession, server: VisionServer, payload: dict[str, Any]) -> tuple[int, Any]:
    async with http.post(f"{server.base_url}/chat/completions", json=payload) as response:
        return response.status, await response.json()


async def test_answers_from_the_pixels_by_the_schema(http: aiohttp.ClientSession) -> None:
    async with VisionServer(see) as server:
        for shade, tags in ((255, ("Dunk", "Free throw")), (128, ("Timeout",)), (0, ())):
            status, reply = await post(http, server, body(jpeg(shade), logprobs=True, top_logprobs=2))
            choice = reply["choices"][0]
            assert status == 200
            assert parse_reply(choice["message"]["content"], PROMPT).tags == tags
            pieces = [t["token"] for t in choice["logprobs"]["content"]]
            assert "".join(pieces) == choice["message"]["content"]
        assert server.statistics().answered == 3
        assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_without_enforced_schema_it_follows_the_words(http: aiohttp.ClientSession) -> None:
    async with VisionServer(see, schema="ignored", logprobs=False) as server:
        _, reply = await post(http, server, body(jpeg(255), logprobs=True))
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"tags": ["Dunk", "Free throw"]}
    assert "logprobs" not in reply["choices"][0]


async def test_slots_serve_in_order_and_never_more_at_once(http: aiohttp.ClientSession) -> None:
    gates = [asyncio.Event() for _ in range(6)]
    started: list[int] = []

    async def sleep(number: float) -> None:
        started.append(int(number))
        await gates[int(number)].wait()

    async with VisionServer(see, slots=2, latency_s=float, sleep=sleep) as server:
        asks = []
        for i in range(6):
            asks.append(asyncio.create_task(post(http, server, body(jpeg(i)))))
            await until(lambda: server.statistics().max_waiting >= i - 1 and len(started) >= min(i + 1, 2))  # noqa: B023
        for gate in gates:
            gate.set()
        assert [status for status, _ in await asyncio.gather(*asks)] == [200] * 6
    assert started == [0, 1, 2, 3, 4, 5]
    assert server.statistics().max_in_flight == 2
    assert server.statistics().max_waiting == 4


async def test_a_full_queue_is_refused(http: aiohttp.ClientSession) -> None:
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    async with VisionServer(see, slots=1, max_waiting=1, status_when_full=503, sleep=sleep) as server:
        asks = [asyncio.create_task(post(http, server, body(jpeg(i)))) for i in range(3)]
        done, rest = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
        assert [t.result()[0] for t in done] == [503]
        gate.set()
        assert [status for status, _ in await asyncio.gather(*rest)] == [200, 200]


async def test_a_client_that_leaves_frees_its_slot(http: aiohttp.ClientSession) -> None:
    script = faults.sequence([FaultKind.HANG])
    async with VisionServer(see, slots=1, script=script) as server:
        first = asyncio.create_task(post(http, server, body(jpeg(1))))
        await until(lambda: server.statistics().max_in_flight > 0)
        first.cancel()
        status, _ = await post(http, server, body(jpeg(2)))
        assert status == 200
        assert server.statistics().cancelled == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"messages": []}, 400),
        ({"model": "other"}, 404),
        ({"model": None}, 422),
        ({"stream": True}, 400),
        ({"max_completion_tokens": 5}, 400),
        ({"top_logprobs": 3}, 400),
        ({"logprobs": True, "top_logprobs": 21}, 400),
        ({"response_format": {"type": "json"}}, 400),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 10**6}, 400),
        ({"made_up_field": 1}, 400),
        ({"seed": 1}, 400),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, 400),
    ],
)
async def test_refuses_what_real_servers_refuse(
    http: aiohttp.ClientSession, change: dict[str, Any], status: int
) -> None:
    async with VisionServer(see, refused_fields={"seed"}) as server:
        got, reply = await post(http, server, body(jpeg(1), **change))
        assert got == status
        assert reply["error"]["message"]
        assert server.statistics().answered == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.jpg",
        "data:image/webp;base64,AAAA",
        "data:image/jpeg;base64,!!!!",
        "data:image/jpeg;base64,AAAA",
        "data:image/jpeg;base64,/9j/\n4AAQ",
    ],
)
async def test_refuses_pictures_that_are_none(http: aiohttp.ClientSession, url: str) -> None:
    payload = body(jpeg(1))
    payload["messages"][1]["content"][0]["image_url"]["url"] = url
    async with VisionServer(see) as server:
        assert (await post(http, server, payload))[0] == 400


async def test_wants_its_key(http: aiohttp.ClientSession) -> None:
    async with VisionServer(see, api_key="k") as server:
        assert (await post(http, server, body(jpeg(1))))[0] == 401
        async with http.get(f"{server.base_url}/models") as response:
            assert response.status == 401
        async with http.get(f"{server.base_url}/models", headers={"Authorization": "Bearer k"}) as response:
            assert (await response.json())["data"][0]["id"] == "demo-vlm"


async def test_every_fault_is_really_one(http: aiohttp.ClientSession) -> None:
    harmless = (FaultKind.SLOW, FaultKind.LEAVES_OUT)  # with a single picture there is nothing to leave out
    kinds = [k for k in FaultKind if k is not FaultKind.HANG]
    async with VisionServer(see, script=faults.sequence(kinds)) as server:
        for i, kind in enumerate(kinds):
            try:
                async with http.post(f"{server.base_url}/chat/completions", json=body(jpeg(i))) as response:
                    text = (await response.read()).decode("utf-8", "replace")
                    right = response.status == 200 and '"finish_reason": "stop"' in text and '\\"tags\\"' in text
            except aiohttp.ClientError:
                right = False
            assert right == (kind in harmless), kind
        assert server.statistics().answered == len(harmless)
        assert (await post(http, server, body(jpeg(99))))[0] == 200
        assert [e.fault for e in server.entries] == [*kinds, None]


async def test_the_log_tells_what_was_asked_twice_but_not_tests_of_sight(http: aiohttp.ClientSession) -> None:
    async with VisionServer(see, script=faults.first_attempt(Fault(FaultKind.RATE_LIMITED, retry_after="3"))) as server:
        assert [(await post(http, server, body(jpeg(9))))[0] for _ in range(2)] == [429, 200]
        assert server.asked_twice() == {}
        await post(http, server, body(jpeg(9)))
        assert list(server.asked_twice().values()) == [2]
        red = io.BytesIO()
        Image.new("RGB", (64, 64), (220, 30, 30)).save(red, "JPEG")
        sight = body(red.getvalue())
        del sight["response_format"]
        sight["messages"][0]["content"] = "Which colour: red, green, blue or yellow?"
        for _ in range(3):
            status, reply = await post(http, server, sight)
            assert (status, reply["choices"][0]["message"]["content"]) == (200, "red")
        assert len(server.questions()) == 3
        assert len(server.asked_twice()) == 1


async def test_noise_is_the_same_every_time_and_about_as_much_as_wanted(http: aiohttp.ClientSession) -> None:
    async def answers(seed: int) -> list[tuple[str, ...]]:
        async with VisionServer(see, miss_rate=0.5, false_alarm_rate=0.3, seed=seed) as server:
            texts = []
            for i in range(40):
                _, reply = await post(http, server, body(jpeg(255, (64, 36 + i))))
                texts.append(parse_reply(reply["choices"][0]["message"]["content"], PROMPT).tags)
            return texts

    first = await answers(1)
    assert first == await answers(1)
    assert first != await answers(2)
    assert 10 < sum("Dunk" in tags for tags in first) < 30
    assert 3 < sum("Timeout" in tags for tags in first) < 25


async def test_comes_back_on_the_same_port(http: aiohttp.ClientSession) -> None:
    server = VisionServer(see)
    await server.start()
    port = server.port
    await server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(http, server, body(jpeg(1)))
    async with server:
        assert server.port == port
        assert (await post(http, server, body(jpeg(1))))[0] == 200


def test_runs_beside_synchronous_code_and_ends() -> None:
    with VisionServer(see).in_thread() as server:
        with urllib.request.urlopen(f"{server.base_url}/models", timeout=60) as reply:
            assert json.load(reply)["data"][0]["id"] == "demo-vlm"
        url = f"{server.base_url}/models"
    assert "vision-server" not in {t.name for t in threading.enumerate()}
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=60)


def test_a_port_in_use_is_an_error_not_a_hang() -> None:
    with (
        VisionServer(see).in_thread() as server,
        pytest.raises(OSError),
        VisionServer(see, port=server.port).in_thread(),
    ):
        pass


def test_rates_are_read_and_checked() -> None:
    assert faults.parse_rates("rate_limited=0.25, server=0.5") == {FaultKind.RATE_LIMITED: 0.25, FaultKind.SERVER: 0.5}
    with pytest.raises(ValueError, match="rate_limited"):
        faults.parse_rates("nope=1")
    with pytest.raises(ValueError, match="at most 1"):
        faults.rates({FaultKind.SERVER: 0.7, FaultKind.BUSY: 0.7})


def test_reads_clips_with_fewer_tags_and_takes_other_pictures_for_empty() -> None:
    tags = ("Foul", "Dunk", "Timeout")
    frame = Canvas(320, 180).backdrop(0, frozenset({"Dunk"}), tags)
    out = io.BytesIO()
    frame.save(out, "JPEG", quality=85)
    assert eyes_for(" Foul, Dunk ,Timeout,")(out.getvalue()) == {"Dunk"}
    assert eyes_for("")(jpeg(90)) == frozenset()


def test_runs_by_itself() -> None:
    command = [sys.executable, "-m", "demo.vision_server", "--port", "0", "--model", "a", "--model", "b"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            address = line.split()[2].rstrip(",")
            with urllib.request.urlopen(f"{address}/models", timeout=30) as reply:
                assert [m["id"] for m in json.load(reply)["data"]] == ["a", "b"]
        finally:
            process.terminate()
