"""One endpoint in front of the embedded vision server: every fault, every outcome, every field."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from demo.vision import faults
from demo.vision.faults import Fault, FaultKind
from demo.vision_server import VisionServer
from haven_vlm.confidence import WITHOUT_PROBABILITIES
from haven_vlm.errors import EndpointError
from haven_vlm.errors import EndpointFault as F
from haven_vlm.facts import Outcome, Question, Term
from haven_vlm.judging import MAX_RAW_CHARACTERS
from haven_vlm.pool_ports import VisionEndpoint
from haven_vlm.prompts import build_prompt
from tests.endpoint.conftest import PROMPT, Connect, Stub, ask, completion, jpeg, question, until

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def see(picture: bytes) -> list[str]:
    return ["Dunk", "Free throw"] if picture == jpeg(255) else []


async def test_an_answer_has_all_there_is_to_know(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint: VisionEndpoint = await connect(server.base_url)
        await endpoint.prepare()
        first = await endpoint.ask(question(255), connect_timeout_s=5, total_timeout_s=20)
        second = await endpoint.ask(question(0), connect_timeout_s=5, total_timeout_s=20)
    assert (first.outcome, set(first.tags)) == (Outcome.TAGS, {"Dunk", "Free throw"})
    assert all(0.9 < c < 1 for c in first.tags.values())
    assert (first.endpoint, first.model, first.remote) == ("lan", "demo-vlm", False)
    assert first.raw == '{"tags":["Dunk","Free throw"]}'
    assert first.tokens_in > 100
    assert first.tokens_out > 5
    assert first.latency_s > 0
    assert (second.outcome, dict(second.tags)) == (Outcome.NONE, {})
    assert second.tokens_cached > 0
    assert len({e.text for e in server.questions()}) == 1
    assert server.asked_twice() == {}


EXPECTED: dict[FaultKind, F | Outcome] = {
    FaultKind.DROP: F.CONNECT,
    FaultKind.HANG: F.TIMEOUT,
    FaultKind.RATE_LIMITED: F.RATE_LIMITED,
    FaultKind.BUSY: F.RATE_LIMITED,
    FaultKind.LOADING: F.LOADING,
    FaultKind.SERVER: F.SERVER,
    FaultKind.CRASH: F.SERVER,
    FaultKind.JUNK: F.SERVER,  # it was an API a moment ago: that passes
    FaultKind.HTML: F.SERVER,
    FaultKind.EMPTY_CHOICES: F.SERVER,
    FaultKind.ERROR_IN_200: F.SERVER,
    FaultKind.UNAUTHORIZED: F.AUTH,
    FaultKind.NO_MODEL: F.MODEL,
    FaultKind.OVERFLOW: F.CONTEXT,
    FaultKind.BAD_PICTURE: F.PICTURE,
    FaultKind.SLOW: Outcome.TAGS,
    FaultKind.LEAVES_OUT: Outcome.TAGS,
    FaultKind.TRUNCATED: Outcome.TRUNCATED,
    FaultKind.OVERTHINKING: Outcome.TRUNCATED,
    FaultKind.REFUSAL: Outcome.REFUSED,
    FaultKind.REFUSAL_TEXT: Outcome.REFUSED,
    FaultKind.CONTENT_FILTER: Outcome.FILTERED,
    FaultKind.NONSENSE: Outcome.UNPARSABLE,
}


@pytest.mark.parametrize("kind", FaultKind)
async def test_every_fault_has_its_class_and_the_next_question_goes_well(connect: Connect, kind: FaultKind) -> None:
    async def no_time(_: float) -> None:
        await asyncio.sleep(0)

    async with VisionServer(see, script=faults.sequence([kind]), sleep=no_time) as server:
        endpoint = await connect(server.base_url, model="demo-vlm")
        if kind is not FaultKind.DROP:  # a pooled connection that breaks at once is replaced; here it is a new one
            await endpoint.prepare()
        asked = question(255)
        expected = EXPECTED[kind]
        patience_s = 0.2 if kind is FaultKind.HANG else 20
        if isinstance(expected, Outcome):
            answer = await endpoint.ask(asked, connect_timeout_s=5, total_timeout_s=patience_s)
            assert answer.outcome is expected
            assert bool(answer.detail) == (not expected.analysed)
            assert bool(answer.tags) == (expected is Outcome.TAGS)
        else:
            with pytest.raises(EndpointError) as caught:
                await endpoint.ask(asked, connect_timeout_s=5, total_timeout_s=patience_s)
            assert caught.value.fault is expected
            assert caught.value.endpoint == "lan"
            assert str(caught.value)
        assert (await ask(endpoint, asked)).outcome is Outcome.TAGS
        assert len(server.questions()) == 2


@pytest.mark.parametrize("kind", [None, *FaultKind])
async def test_served_is_said_once_for_a_whole_answer_and_never_for_a_failure(
    connect: Connect, kind: FaultKind | None
) -> None:
    """A server that fails must not be sent the next question before the failure is looked at."""
    said = 0

    async def served() -> None:
        nonlocal said
        said += 1

    async def no_time(_: float) -> None:
        await asyncio.sleep(0)

    async with VisionServer(see, script=faults.sequence([kind] if kind else []), sleep=no_time) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        patience_s = 0.2 if kind is FaultKind.HANG else 20
        try:
            await endpoint.ask(question(255), connect_timeout_s=5, total_timeout_s=patience_s, served=served)
        except EndpointError as error:
            # what looks like an answer, and is none, is found out by reading
            assert said == (kind in (FaultKind.EMPTY_CHOICES, FaultKind.JUNK)), error
        else:
            assert said == 1


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90)]
)
async def test_how_long_to_wait_is_told(connect: Connect, header: str, seconds: float) -> None:
    script = faults.sequence([Fault(FaultKind.RATE_LIMITED, retry_after=header)])
    async with VisionServer(see, script=script) as server:
        endpoint = await connect(server.base_url, now=lambda: NOW)
        await endpoint.prepare()
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint)
    assert (caught.value.fault, caught.value.retry_after_s, caught.value.status) == (F.RATE_LIMITED, seconds, 429)


# --- fields ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "refused",
    [
        {"response_format"},
        {"logprobs", "top_logprobs"},
        {"chat_template_kwargs"},
        {"temperature", "stream"},
        {"max_tokens"},
        {"response_format", "logprobs", "top_logprobs", "chat_template_kwargs", "temperature", "max_tokens", "stream"},
    ],
)
async def test_refused_fields_are_left_out_at_once_and_remembered(
    connect: Connect, refused: set[str], status: int
) -> None:
    async with VisionServer(see, refused_fields=refused, refusal_status=status) as server:
        endpoint = await connect(server.base_url)
        able = await endpoint.prepare()
        assert able.refused_fields <= refused
        before = len(server.entries)
        answer = await ask(endpoint, question(255))
        assert answer.outcome is Outcome.TAGS
        assert len(server.entries) == before + 1


async def test_a_field_that_is_refused_only_later_is_left_out_too(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        server.refused_fields = frozenset({"logprobs", "top_logprobs"})
        answer = await ask(endpoint, question(255))
        assert dict(answer.tags) == {"Dunk": WITHOUT_PROBABILITIES, "Free throw": WITHOUT_PROBABILITIES}
        before = len(server.entries)
        await ask(endpoint, question(1))
        assert len(server.entries) == before + 1


async def test_the_system_text_moves_where_no_system_message_is_allowed(stub: Stub, connect: Connect) -> None:
    async def strict(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["messages"][0]["role"] == "system":
            return web.json_response({"error": {"message": "System role not supported"}}, status=400)
        return web.json_response(completion())

    stub.replies["/v1/chat/completions"] = strict
    endpoint = await connect(stub.base_url, model="gemma")
    assert (await ask(endpoint)).outcome is Outcome.TAGS
    messages = json.loads(stub.seen[-1][3])["messages"]
    assert [m["role"] for m in messages] == ["user"]
    assert messages[0]["content"][0]["text"].startswith(PROMPT.system)


async def test_a_server_that_blames_the_same_field_for_ever_is_not_asked_for_ever(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", {"error": {"message": "bad messages", "param": "messages"}}, status=400)
    endpoint = await connect(stub.base_url, model="m")
    with pytest.raises(EndpointError) as caught:
        await ask(endpoint)
    assert caught.value.fault is F.OTHER
    assert len(stub.seen) == 1

    async def blames_anything(request: web.Request) -> web.StreamResponse:
        names = sorted(set(await request.json()) - {"model", "messages"})
        blamed = names[0] if names else "messages"
        return web.json_response({"error": {"message": f"unknown field {blamed}"}}, status=400)

    stub.seen.clear()
    stub.replies["/v1/chat/completions"] = blames_anything
    with pytest.raises(EndpointError):
        await ask(endpoint)
    assert len(stub.seen) < 12


async def test_the_time_for_one_question_includes_what_refused_fields_cost(stub: Stub, connect: Connect) -> None:
    now = 0.0

    async def slow_refusal(request: web.Request) -> web.StreamResponse:
        nonlocal now
        now += 15.0
        names = sorted(set(await request.json()) - {"model", "messages"})
        return web.json_response({"error": {"message": f"unknown field {names[0]}"}}, status=400)

    stub.replies["/v1/chat/completions"] = slow_refusal
    endpoint = await connect(stub.base_url, model="m", clock=lambda: now)
    with pytest.raises(EndpointError):
        await ask(endpoint)
    assert len(stub.seen) == 2


async def test_boosted_turns_thinking_off_in_every_way_and_doubles_the_budget(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion())
    endpoint = await connect(stub.base_url, model="m")
    await ask(endpoint)
    await ask(endpoint, boosted=True)
    usual, boosted = (json.loads(body) for _, _, _, body in stub.seen)
    assert usual["max_tokens"] == PROMPT.max_tokens
    assert boosted["max_tokens"] == 2 * PROMPT.max_tokens
    assert boosted["chat_template_kwargs"] == {"enable_thinking": False}
    assert boosted["reasoning_effort"] == "none"
    assert boosted["enable_thinking"] is False


async def test_the_question_has_the_form_that_every_server_takes(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion())
    endpoint = await connect(stub.base_url, model="m", api_key="topsecret")
    await ask(endpoint)
    _, path, headers, raw = stub.seen[0]
    body = json.loads(raw)
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer topsecret"
    assert b"topsecret" not in raw
    assert body["model"] == "m"
    assert body["temperature"] == 0
    assert body["stream"] is False
    assert "max_completion_tokens" not in body
    system, user = body["messages"]
    assert system == {"role": "system", "content": PROMPT.system}
    assert [p["type"] for p in user["content"]] == ["text", "image_url"]
    url = user["content"][1]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) == jpeg()
    assert body["response_format"]["json_schema"]["schema"] == PROMPT.schema


# --- answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "outcome", "tags"),
    [
        (completion('{"tags":["Dunk"]}'), Outcome.TAGS, {"Dunk"}),
        (completion('<think>Foul?</think>\n```json\n{"tags": ["slam"]}\n```'), Outcome.TAGS, {"Dunk"}),
        (completion([{"type": "text", "text": '{"tags":[]}'}]), Outcome.NONE, set()),  # type: ignore[arg-type]
        (completion('{"tags":["Dunk"]}   \n\n\n', choice={"finish_reason": "length"}), Outcome.TAGS, {"Dunk"}),
        (completion('{"tags":["Dunk","Ti', choice={"finish_reason": "length"}), Outcome.TRUNCATED, set()),
        (completion('{"tags":["Dunk"', choice={"finish_reason": "length"}), Outcome.TRUNCATED, set()),
        (completion("", message={"reasoning_content": '{"tags":["Dunk"]}'}), Outcome.TAGS, {"Dunk"}),
        (completion("", message={"reasoning": "Is it a Dunk? It is."}), Outcome.UNPARSABLE, set()),
        (completion(None, message={"refusal": "no"}), Outcome.REFUSED, set()),
        (completion(None, choice={"finish_reason": "content_filter: PROHIBITED_CONTENT"}), Outcome.FILTERED, set()),
        (completion(None), Outcome.UNPARSABLE, set()),
        ({"choices": [{"index": 0, "finish_reason": "content_filter"}]}, Outcome.FILTERED, set()),
    ],
)
async def test_what_an_answer_means(stub: Stub, connect: Connect, reply: Any, outcome: Outcome, tags: set[str]) -> None:
    stub.says("/v1/chat/completions", reply)
    answer = await ask(await connect(stub.base_url, model="m"))
    assert (answer.outcome, set(answer.tags)) == (outcome, tags)


@pytest.mark.parametrize(
    ("extra", "cached"),
    [
        ({"usage": {"prompt_tokens": 50, "prompt_tokens_details": {"cached_tokens": 40}}}, 40),
        ({"usage": {"prompt_tokens": 50, "prompt_tokens_details": None}}, 0),
        ({"usage": {"prompt_tokens": 50, "prompt_cache_hit_tokens": 30}}, 30),
        ({"usage": {"prompt_tokens": 50}, "timings": {"cache_n": 20}}, 20),
        ({"usage": {"prompt_tokens": 50, "prompt_tokens_details": {"cached_tokens": "many"}}}, 0),
    ],
)
async def test_tokens_the_server_had_kept(stub: Stub, connect: Connect, extra: dict[str, Any], cached: int) -> None:
    stub.says("/v1/chat/completions", completion(**extra))
    answer = await ask(await connect(stub.base_url, model="m"))
    assert (answer.tokens_in, answer.tokens_cached) == (50, cached)


async def test_what_is_kept_of_an_answer_is_bounded(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion("x " * 100_000, model="…"))
    answer = await ask(await connect(stub.base_url, model="m"))
    assert len(answer.raw) == MAX_RAW_CHARACTERS


async def test_names_with_lone_surrogates_can_be_asked(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion('{"tags":[]}'))
    prompt = build_prompt([Term("odd \ud800 name")])
    answer = await ask(await connect(stub.base_url, model="m"), Question(prompt, (jpeg(),), False, "x"))
    assert answer.outcome is Outcome.NONE


# --- keys -----------------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_told_apart_from_none(connect: Connect) -> None:
    async with VisionServer(see, api_key="right-key-123456") as server:
        for options, words in (({"api_key": "wrong-key-654321"}, "key is refused"), ({}, "wants a key")):
            endpoint = await connect(server.base_url, **options)
            with pytest.raises(EndpointError, match=words) as caught:
                await endpoint.prepare()
            assert caught.value.fault is F.AUTH
            assert "api_key_env" in caught.value.fix
            with pytest.raises(EndpointError):
                await endpoint.ping()
        environ = {"HAVEN_KEY": " right-key-123456\n"}
        endpoint = await connect(server.base_url, api_key_env="HAVEN_KEY", environ=environ)
        assert (await endpoint.prepare()).model == "demo-vlm"
        await endpoint.ping()


@pytest.mark.parametrize(
    ("value", "words"), [(None, "HAVEN_KEY.*not set"), ("  ", "not set"), ("ä\x00b", "characters")]
)
async def test_a_key_that_cannot_be_one_is_said_before_anything_is_sent(
    stub: Stub, connect: Connect, value: str | None, words: str
) -> None:
    environ = {} if value is None else {"HAVEN_KEY": value}
    endpoint = await connect(stub.base_url, api_key_env="HAVEN_KEY", environ=environ)
    for call in (endpoint.prepare(), endpoint.ping(), ask(endpoint)):
        with pytest.raises(EndpointError, match=words) as caught:
            await call
        assert caught.value.fault is F.AUTH
    assert stub.seen == []


async def test_a_key_is_in_no_message_and_no_repr(stub: Stub, connect: Connect) -> None:
    key = "sk-live-0123456789abcdefghij"
    stub.says("/v1/chat/completions", {"error": {"message": f"Incorrect API key provided: {key}"}}, status=401)
    endpoint = await connect(stub.base_url, model="m", api_key=key)
    with pytest.raises(EndpointError) as caught:
        await ask(endpoint)
    assert key not in f"{caught.value} {caught.value.fix} {caught.value!r} {endpoint!r}"
    assert "0123456789" not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"


# --- signs of life --------------------------------------------------------------------------------------------


async def test_a_sign_of_life_costs_no_question(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url)
        await endpoint.ping()
        await endpoint.prepare()
        asked = len(server.entries)
        await endpoint.ping()
        assert len(server.entries) == asked
        await server.stop()
        with pytest.raises(EndpointError) as caught:
            await endpoint.ping()
        assert caught.value.fault is F.CONNECT
        await server.start()
        await endpoint.ping()


async def test_llama_cpp_is_asked_for_its_health_because_it_lists_models_while_it_loads(
    stub: Stub, connect: Connect
) -> None:
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    stub.says("/v1/models", {"data": [{"id": "m", "owned_by": "llamacpp"}]})
    stub.says("/props", loading, status=503)
    endpoint = await connect(stub.base_url)
    with pytest.raises(EndpointError) as caught:
        await endpoint.prepare()
    assert caught.value.fault is F.LOADING
    stub.says("/props", {"total_slots": 3, "modalities": {"vision": True}, "chat_template": "{{ x }}"})
    stub.says("/v1/chat/completions", completion('{"colour":"red"}'))
    able = await endpoint.prepare()
    assert (able.server, able.parallel_hint, able.thinking) == ("llama.cpp", 3, "none")
    stub.says("/health", loading, status=503)
    with pytest.raises(EndpointError) as caught:
        await endpoint.ping()
    assert caught.value.fault is F.LOADING


async def test_a_cancelled_question_frees_the_servers_slot(connect: Connect) -> None:
    async with VisionServer(see, slots=1, script=faults.sequence([FaultKind.HANG])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        before = server.statistics().cancelled
        asking = asyncio.create_task(ask(endpoint))
        await until(lambda: server.in_flight == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await ask(endpoint, question(255))).outcome is Outcome.TAGS
        assert server.statistics().cancelled == before + 1
