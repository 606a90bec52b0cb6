"""Several pictures in one question: what leaves for the server, and what comes back of each."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from demo.vision import faults
from demo.vision.faults import FaultKind
from demo.vision_server import VisionServer
from haven_vlm.chat import Wanted, request_form
from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.facts import Outcome, Question
from haven_vlm.prompts import build_several_prompt, captions
from tests.endpoint.conftest import PROMPT, Connect, Stub, ask, jpeg, question
from tests.endpoint.test_capability import Notebook

SHADES = {255: ["Dunk"], 0: [], 90: ["Free throw", "Dunk"], 180: ["Timeout"]}


def see(picture: bytes) -> list[str]:
    return next(names for shade, names in SHADES.items() if jpeg(shade) == picture)


def about(*shades: int) -> Question:
    prompt = build_several_prompt(PROMPT.terms, len(shades))
    return Question(prompt, tuple(map(jpeg, shades)), False, "scene 1 from 0:34 to 0:40")


@pytest.mark.parametrize("schema", ["enforced", "ignored"])
async def test_each_picture_gets_its_own_answer(connect: Connect, schema: str) -> None:
    async with VisionServer(see, schema=schema) as server:
        endpoint = await connect(server.base_url)
        assert endpoint.most_pictures == 1  # nothing is known before the probe
        await endpoint.prepare()
        assert endpoint.most_pictures == 16
        answer = await ask(endpoint, about(255, 0, 90, 180))
    assert answer.outcome is Outcome.TAGS and answer.tags == {}
    assert [set(a.tags) for a in answer.each] == [{"Dunk"}, set(), {"Free throw", "Dunk"}, {"Timeout"}]
    assert [a.outcome for a in answer.each] == [Outcome.TAGS, Outcome.NONE, Outcome.TAGS, Outcome.TAGS]
    assert {(a.endpoint, a.model) for a in answer.each} == {("lan", "demo-vlm")}
    assert answer.tokens_in > 100
    assert server.asked_twice() == {}


async def test_what_is_left_out_is_told_apart(connect: Connect) -> None:
    async with VisionServer(see, script=faults.sequence([FaultKind.LEAVES_OUT])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        answer = await ask(endpoint, about(255, 90))
        again = await ask(endpoint, question(90))
        assert server.asked_twice() == {}
    assert [a.outcome for a in answer.each] == [Outcome.TAGS, Outcome.UNPARSABLE]
    assert answer.each[1].detail == "the answer leaves this picture out"
    assert again.outcome is Outcome.TAGS


@pytest.mark.parametrize("several", [False, True], ids=["one picture", "several"])
async def test_a_refusal_is_the_pictures_own_fate(connect: Connect, several: bool) -> None:
    async with VisionServer(see, script=faults.sequence([FaultKind.REFUSAL])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        answer = await ask(endpoint, about(255, 90) if several else question(90))
    assert (answer.outcome, answer.each, answer.tags) == (Outcome.REFUSED, (), {})
    assert answer.detail == "the model declined to look" and answer.tokens_in > 0


async def test_a_filter_that_answers_with_an_error_is_no_fault_of_the_server(connect: Connect, stub: Stub) -> None:
    error = {"error": {"message": "The response was filtered", "type": "x", "code": "content_filter"}}
    stub.says("/v1/chat/completions", error, status=400)
    answer = await ask(await connect(stub.base_url))
    assert answer.outcome is Outcome.FILTERED and "The response was filtered" in answer.detail
    assert (answer.endpoint, answer.tags) == ("lan", {})


@pytest.mark.parametrize("limit", ["context", "pictures"])
async def test_a_question_that_does_not_fit_halves_the_number_and_that_is_remembered(
    connect: Connect, limit: str
) -> None:
    notebook = Notebook()
    options: Mapping[str, int] = {"context": 500} if limit == "context" else {"most_pictures": 2}
    async with VisionServer(see, **options) as server:  # type: ignore[arg-type]
        endpoint = await connect(server.base_url, memory=notebook)
        await endpoint.prepare()
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint, about(255, 0, 90, 180))
        assert caught.value.fault in (EndpointFault.CONTEXT, EndpointFault.OTHER, EndpointFault.PICTURE)
        assert endpoint.most_pictures == 2
        assert len((await ask(endpoint, about(255, 0))).each) == 2
        later = await connect(server.base_url, memory=notebook)
        await later.prepare()
        assert later.most_pictures == 2
        assert sum(e.is_probe for e in server.entries) == 2  # the second run remembered


async def test_models_that_take_one_picture_or_always_think_get_one(connect: Connect) -> None:
    for options in ({"most_pictures": 1}, {"thinks": "always"}):
        async with VisionServer(see, **options) as server:
            endpoint = await connect(server.base_url)
            await endpoint.prepare()
            assert endpoint.most_pictures == 1


async def test_a_number_stands_before_each_picture_and_thinking_is_off(connect: Connect) -> None:
    async with VisionServer(see, thinks="switchable") as server:
        endpoint = await connect(server.base_url)
        able = await endpoint.prepare()
    prompt = build_several_prompt(PROMPT.terms, 2)
    wanted = Wanted(
        prompt.system, prompt.user, prompt.schema, prompt.max_tokens, (b"a", b"b"), captions=captions(prompt)
    )
    body = json.loads(request_form(wanted, able).filled(wanted.jpegs))
    kinds = [part.get("text", part["type"]) for part in body["messages"][1]["content"]]
    assert kinds == [prompt.user, "Picture 1:", "image_url", "Picture 2:", "image_url"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
