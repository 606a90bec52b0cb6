"""The probe: what it finds out, in how many questions, and what is remembered of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from demo.vision import faults
from demo.vision.faults import FaultKind
from demo.vision_server import VisionServer
from haven_vlm.capability import from_json, plain_jpeg, to_json
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.errors import EndpointError
from haven_vlm.errors import EndpointFault as F
from haven_vlm.facts import Outcome
from haven_vlm.pool_ports import Capabilities
from tests.endpoint.conftest import PROMPT, Connect, Stub, ask, completion, question

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def nothing(_: bytes) -> list[str]:
    return []


def dunk(_: bytes) -> list[str]:
    return ["Dunk"]


async def prepared(connect: Connect, server: VisionServer, **options: Any) -> tuple[HttpEndpoint, Capabilities]:
    endpoint = await connect(server.base_url, **options)
    return endpoint, await endpoint.prepare()


async def test_two_questions_tell_all(connect: Connect) -> None:
    async with VisionServer(nothing) as server:
        _, able = await prepared(connect, server)
        assert len(server.entries) == 2
        assert all(e.is_probe for e in server.entries)
    assert able.sees_pictures and able.logprobs and able.several_pictures
    assert (able.json_schema, able.length_field, able.model) == ("enforced", "max_tokens", "demo-vlm")
    assert able.is_remote is False
    assert able.answer_s is not None
    assert able.notes == ()


@pytest.mark.parametrize(
    ("schema", "state"), [("enforced", "enforced"), ("ignored", "ignored"), ("refused", "refused")]
)
async def test_what_becomes_of_a_schema(connect: Connect, schema: str, state: str) -> None:
    async with VisionServer(dunk, schema=schema) as server:
        endpoint, able = await prepared(connect, server)
        assert able.json_schema == state
        assert any("schema" in note for note in able.notes) == (state != "enforced")
        before = len(server.entries)
        answer = await ask(endpoint)
        assert (answer.outcome, set(answer.tags)) == (Outcome.TAGS, {"Dunk"})
        assert len(server.entries) == before + 1


async def test_probabilities_that_are_promised_but_absent(connect: Connect) -> None:
    async with VisionServer(dunk, logprobs=False) as server:
        _, able = await prepared(connect, server)
    assert able.logprobs is False


@pytest.mark.parametrize(("thinks", "state"), [("switchable", "unknown"), ("always", "always")])
async def test_thinking(connect: Connect, thinks: str, state: str) -> None:
    async with VisionServer(dunk, thinks=thinks) as server:
        endpoint, able = await prepared(connect, server)
        assert able.thinking == state
        assert any("thinks" in note for note in able.notes) == (state == "always")
        assert len(server.entries) <= 7
        assert (await ask(endpoint)).outcome is Outcome.TAGS


@pytest.mark.parametrize("works", ["chat_template_kwargs", "reasoning_effort", "enable_thinking"])
async def test_the_switch_that_works_is_found_and_used(stub: Stub, connect: Connect, works: str) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if works in body:
            return web.json_response(completion('{"colour":"blue"}' if "colour" in str(body) else '{"tags":[]}'))
        return web.json_response(
            completion("", choice={"finish_reason": "length"}, message={"reasoning_content": "Hmm, let me see."})
        )

    stub.says("/v1/models", {"data": [{"id": "thinker"}]})
    stub.replies["/v1/chat/completions"] = reply
    endpoint = await connect(stub.base_url)
    able = await endpoint.prepare()
    assert able.thinking_switch == works
    assert able.thinking in ("switchable", "unknown")
    answer = await ask(endpoint)
    assert answer.outcome is Outcome.NONE
    assert works in json.loads(stub.seen[-1][3])


async def test_thinking_inside_the_answer_is_noticed(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", {"data": [{"id": "thinker"}]})
    stub.says("/v1/chat/completions", completion("<think>red or blue?</think>blue"))
    endpoint = await connect(stub.base_url)
    able = await endpoint.prepare()
    assert able.thinking == "always"
    await ask(endpoint)
    assert json.loads(stub.seen[-1][3])["max_tokens"] > PROMPT.max_tokens + 1000


async def test_an_empty_thought_is_none(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", {"data": [{"id": "m"}]})
    stub.says("/v1/chat/completions", completion("<think>\n\n</think>\n\nblue"))
    assert (await (await connect(stub.base_url)).prepare()).thinking == "unknown"


@pytest.mark.parametrize("content", ["It is a lovely day.", "yellow", "", "I cannot see any picture."])
async def test_sight_that_cannot_be_confirmed_is_said_and_no_failure(
    stub: Stub, connect: Connect, content: str
) -> None:
    stub.says("/v1/models", {"data": [{"id": "tiny"}]})
    stub.says("/v1/chat/completions", completion(content))
    able = await (await connect(stub.base_url)).prepare()
    assert able.sees_pictures
    assert able.several_pictures is False
    assert any("Could not confirm" in note for note in able.notes)
    assert stub.paths().count("/v1/chat/completions") == 2


async def test_naming_all_colours_confirms_nothing(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", {"data": [{"id": "tiny"}]})
    stub.says("/v1/chat/completions", completion("red, green, blue or yellow"))
    able = await (await connect(stub.base_url)).prepare()
    assert any("Could not confirm" in note for note in able.notes)


async def test_a_model_without_eyes_is_refused_with_its_fix(connect: Connect) -> None:
    async with VisionServer(nothing, sees_pictures=False) as server:
        endpoint = await connect(server.base_url)
        with pytest.raises(EndpointError, match="not supported") as caught:
            await endpoint.prepare()
    assert caught.value.fault is F.MODEL
    assert "vision model" in caught.value.fix


async def test_a_server_that_cannot_take_a_good_picture_takes_none(connect: Connect) -> None:
    async with VisionServer(nothing, script=faults.always(FaultKind.BAD_PICTURE)) as server:
        endpoint = await connect(server.base_url)
        with pytest.raises(EndpointError, match="takes no pictures") as caught:
            await endpoint.prepare()
    assert caught.value.fault is F.MODEL


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(FaultKind.LOADING, F.LOADING), (FaultKind.RATE_LIMITED, F.RATE_LIMITED), (FaultKind.CRASH, F.SERVER)],
)
async def test_what_passes_is_raised_as_such(connect: Connect, kind: FaultKind, fault: F) -> None:
    async with VisionServer(nothing, script=faults.always(kind)) as server:
        endpoint = await connect(server.base_url)
        with pytest.raises(EndpointError) as caught:
            await endpoint.prepare()
        assert caught.value.fault is fault
        server.script = faults.never
        assert (await endpoint.prepare()).sees_pictures


async def test_an_output_the_server_itself_cannot_read_leaves_doubt_only(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", {"data": [{"id": "tiny"}]})
    poison = {"error": {"message": "The model produced output that does not match the expected format", "code": 500}}
    stub.says("/v1/chat/completions", poison, status=500)
    able = await (await connect(stub.base_url)).prepare()
    assert any("Could not confirm" in note for note in able.notes)


async def test_two_pictures_too_many_are_no_fault(stub: Stub, connect: Connect) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        if (await request.read()).count(b"image_url") > 2:
            return web.json_response({"error": {"message": "At most 1 image(s) may be provided"}}, status=400)
        return web.json_response(completion("blue"))

    stub.says("/v1/models", {"data": [{"id": "m", "owned_by": "vllm"}]})
    stub.replies["/v1/chat/completions"] = reply
    able = await (await connect(stub.base_url)).prepare()
    assert (able.server, able.several_pictures) == ("vllm", False)
    assert not any("Could not confirm" in note for note in able.notes)


async def test_frames_and_key_in_plain_text_to_the_outside_are_mentioned(connect: Connect) -> None:
    async with VisionServer(nothing) as server:
        _, able = await prepared(connect, server, allow_remote=True, is_local=lambda _: False)
    assert able.is_remote is True
    assert any("unencrypted" in note for note in able.notes)


def test_test_pictures_are_small_and_plain() -> None:
    assert len(plain_jpeg("red")) < 4000
    assert plain_jpeg("red") != plain_jpeg("blue")


# --- remembering ----------------------------------------------------------------------------------------------


class Notebook:
    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.writes = 0

    def get(self, key: str) -> Mapping[str, object] | None:
        page = self.pages.get(key)
        return json.loads(page) if page is not None else None

    def put(self, key: str, value: Mapping[str, object]) -> None:
        self.writes += 1
        self.pages[key] = json.dumps(value)


async def test_what_is_remembered_costs_no_question_for_a_day(connect: Connect) -> None:
    notebook, now = Notebook(), NOW
    async with VisionServer(nothing) as server:
        for hours, questions in ((0, 2), (1, 2), (23, 2), (25, 4)):
            now = NOW + timedelta(hours=hours)
            _, able = await prepared(connect, server, memory=notebook, now=lambda: now)  # noqa: B023
            assert able.several_pictures
            assert len(server.entries) == questions
        assert notebook.writes == 2


async def test_another_model_behind_the_same_address_is_probed_anew(connect: Connect) -> None:
    notebook = Notebook()
    async with VisionServer(nothing) as server:
        await prepared(connect, server, memory=notebook)
        server.models = ("demo-vlm", "other-vlm")
        await prepared(connect, server, memory=notebook, model="demo-vlm")
        assert len(server.entries) == 4


async def test_an_endpoint_that_comes_back_as_another_is_probed_anew(connect: Connect) -> None:
    async with VisionServer(nothing) as server:
        endpoint, able = await prepared(connect, server, memory=Notebook())
        assert able.model == "demo-vlm"
        await server.stop()
        with pytest.raises(EndpointError):
            await endpoint.prepare()
        server.models = ("new-vlm",)
        await server.start()
        assert (await endpoint.prepare()).model == "new-vlm"
        assert endpoint.model == "new-vlm"


async def test_fields_refused_later_are_remembered_without_making_the_memory_younger(connect: Connect) -> None:
    notebook, now = Notebook(), NOW
    async with VisionServer(dunk) as server:
        await prepared(connect, server, memory=notebook, now=lambda: NOW)
        now = NOW + timedelta(hours=20)
        endpoint, _ = await prepared(connect, server, memory=notebook, now=lambda: now)
        server.refused_fields = frozenset({"temperature"})
        await ask(endpoint, question(3))
        (page,) = notebook.pages.values()
        value = json.loads(page)
        assert value["at"] == NOW.isoformat()
        assert value["capabilities"]["refused_fields"] == ["temperature"]


capabilities = st.builds(
    Capabilities,
    server=st.text(max_size=10),
    model=st.text(max_size=10),
    sees_pictures=st.booleans(),
    json_schema=st.sampled_from(["enforced", "ignored", "refused"]),
    logprobs=st.booleans(),
    several_pictures=st.booleans(),
    thinking=st.sampled_from(["none", "switchable", "always", "unknown"]),
    length_field=st.sampled_from(["max_tokens", "max_completion_tokens"]),
    parallel_hint=st.none() | st.integers(1, 999),
    is_remote=st.booleans(),
    refused_fields=st.frozensets(st.text(max_size=5), max_size=3),
    answer_s=st.none() | st.floats(0, 100),
    thinking_switch=st.sampled_from(["", "reasoning_effort"]),
    notes=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)


@given(capabilities)
def test_what_is_written_is_what_is_read(able: Capabilities) -> None:
    value = json.loads(json.dumps(to_json(able, fingerprint="f", at=NOW)))
    read = from_json(value, fingerprint="f", now=NOW + timedelta(hours=1))
    assert read is not None
    assert (read.capabilities, read.at) == (able, NOW)
    assert from_json(value, fingerprint="g", now=NOW) is None
    assert from_json(value, fingerprint="f", now=NOW + timedelta(days=2)) is None
    assert from_json(value, fingerprint="f", now=NOW - timedelta(minutes=1)) is None


junk = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@given(capabilities, st.sampled_from([f.name for f in fields(Capabilities)]), junk, st.booleans())
def test_a_damaged_memory_is_no_memory(able: Capabilities, name: str, value: object, drop: bool) -> None:
    data: dict[str, Any] = to_json(able, fingerprint="f", at=NOW)
    if drop:
        del data["capabilities"][name]
    else:
        data["capabilities"][name] = value
    read = from_json(data, fingerprint="f", now=NOW)
    if read is not None:
        assert not drop
        kinds = {f.name: type(getattr(able, f.name)) for f in fields(Capabilities)}
        got = getattr(read.capabilities, name)
        if name in ("parallel_hint", "most_pictures"):
            assert got is None or (type(got) is int and got >= 1)
        elif name == "answer_s":
            assert got is None or (type(got) in (int, float) and got >= 0)
        else:
            assert isinstance(got, kinds[name]) or got is None
    for other in (None, {}, {"format": 1, "fingerprint": "f"}, {"format": 1, "fingerprint": "f", "at": 3}):
        assert from_json(other, fingerprint="f", now=NOW) is None
