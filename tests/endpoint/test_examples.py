"""Examples before the picture in question: who is shown them, in which form, and what follows when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from demo.vision import faults
from demo.vision.faults import Fault, FaultKind
from demo.vision_server import VisionServer
from haven_vlm.chat import Wanted, request_form
from haven_vlm.errors import EndpointError
from haven_vlm.facts import Example, Outcome, Question
from haven_vlm.privacy import is_local
from haven_vlm.prompts import captions, with_examples
from tests.endpoint.conftest import PROMPT, Connect, Names, ask, jpeg, question
from tests.endpoint.test_capability import Notebook

EXAMPLES = (
    Example("oshash:1:1", 34_000, ("Dunk",), jpeg(200)),
    Example("oshash:2:1", 5_000, (), jpeg(210)),
)
GUIDED = with_examples(PROMPT, EXAMPLES)
NOT_IN_QUESTION = {jpeg(200), jpeg(210)}


def see(picture: bytes) -> list[str]:
    assert picture not in NOT_IN_QUESTION  # an example is not what the answer is about
    return ["Timeout"] if picture == jpeg(90) else []


def about(shade: int, *, local_only: bool = False) -> Question:
    return Question(GUIDED, (jpeg(shade),), local_only, "scene 1 at 0:34")


def shown(server: VisionServer) -> list[int]:
    """For each question, the number of examples."""
    return [len(e.examples) for e in server.questions()]


async def test_examples_stand_between_the_constant_text_and_the_picture_in_question(connect: Connect) -> None:
    async with VisionServer(see) as server:
        able = await (await connect(server.base_url)).prepare()
    pictures = (b"one", b"two", b"three")
    wanted = Wanted(GUIDED.system, GUIDED.user, GUIDED.schema, GUIDED.max_tokens, pictures, captions(GUIDED))
    system, user = json.loads(request_form(wanted, able).filled(pictures))["messages"]
    assert system["content"] == PROMPT.system
    assert [part.get("text", part["type"]) for part in user["content"]] == [
        GUIDED.user,
        "Example 1:",
        "image_url",
        'Right answer: {"tags":["Dunk"]}\n\nExample 2:',
        "image_url",
        'Right answer: {"tags":[]}\n\nThe picture in question. Which tags of the list apply to it?',
        "image_url",
    ]


async def test_the_answer_is_about_the_picture_in_question_and_says_what_was_shown(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        answer = await ask(endpoint, about(90))
        other = await ask(endpoint, about(0))
        plain = await ask(endpoint, question(90))
    assert (answer.outcome, set(answer.tags), answer.examples) == (Outcome.TAGS, {"Timeout"}, 2)
    assert (other.outcome, other.examples) == (Outcome.NONE, 2)
    assert (set(plain.tags), plain.examples) == ({"Timeout"}, 0)
    assert shown(server) == [2, 2, 0]
    first, second, _ = server.questions()
    assert first.examples == second.examples and first.text == second.text


async def test_an_endpoint_outside_gets_the_plain_question(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url, allow_remote=True, is_local=lambda _: False)
        await endpoint.prepare()
        assert endpoint.most_pictures == 16
        answer = await ask(endpoint, about(90))
        plain = await ask(endpoint, question(90))
    assert (set(answer.tags), answer.examples, answer.remote) == ({"Timeout"}, 0, True)
    assert plain.tags == answer.tags
    first, second = server.questions()
    assert first.text == second.text  # word for word what is asked without examples
    assert shown(server) == [0, 0]
    assert endpoint.used.left_network == 2


async def test_an_endpoint_that_nobody_has_looked_at_gets_the_plain_question(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url, model="demo-vlm")
        assert (await ask(endpoint, about(90))).examples == 0


async def test_a_name_that_moves_outside_takes_no_example_along(connect: Connect) -> None:
    """The address counts that is connected to: at the moment of connecting, not when the endpoint was looked at."""
    inside = True
    async with VisionServer(see) as server:
        port = server.base_url.rsplit(":", 1)[1]
        names = Names(gpu_lan=[["127.0.0.1"]])
        endpoint = await connect(
            f"http://gpu.lan:{port}", allow_remote=True, resolver=names, is_local=lambda a: inside and is_local(a)
        )
        await endpoint.prepare()
        assert (await ask(endpoint, about(90))).examples == 2
        inside = False
        answer = await ask(endpoint, about(0))
        later = await ask(endpoint, about(0))
    assert (answer.examples, answer.remote, later.examples) == (0, True, 0)
    assert shown(server) == [2, 0, 0]


@pytest.mark.parametrize("limit", ["context", "pictures"])
async def test_where_examples_do_not_fit_they_are_left_out_and_that_is_remembered(connect: Connect, limit: str) -> None:
    notebook = Notebook()
    options: Mapping[str, int] = (
        {"context": len(PROMPT.system) // 4 + PROMPT.max_tokens + 40} if limit == "context" else {"most_pictures": 2}
    )
    async with VisionServer(see, **options) as server:  # type: ignore[arg-type]
        endpoint = await connect(server.base_url, memory=notebook)
        await endpoint.prepare()
        answers = [await ask(endpoint, about(90)), await ask(endpoint, about(90))]
        assert [set(a.tags) for a in answers] == [{"Timeout"}] * 2
        assert [a.examples for a in answers] == [0, 0]
        assert endpoint.most_pictures < 3
        later = await connect(server.base_url, memory=notebook)
        await later.prepare()
        assert (await ask(later, about(90))).examples == 0
    refused = [e for e in server.questions() if not e.answered]
    assert len(refused) == 1  # once, in the first run


async def test_a_question_that_fails_without_examples_too_says_nothing_about_them(connect: Connect) -> None:
    async with VisionServer(see, script=faults.sequence([FaultKind.BAD_PICTURE, FaultKind.BAD_PICTURE])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        with pytest.raises(EndpointError):
            await ask(endpoint, about(90))
        assert (await ask(endpoint, about(90))).examples == 2


async def test_a_server_that_stumbles_over_examples_is_shown_none_in_this_run(connect: Connect) -> None:
    async with VisionServer(see, script=faults.sequence([Fault(FaultKind.SERVER)])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        answers = [await ask(endpoint, about(90)) for _ in range(2)]
    assert [a.examples for a in answers] == [0, 0]
    assert [e.answered for e in server.questions()] == [False, True, True]
    assert endpoint.most_pictures == 16


async def test_when_an_answer_came_the_slot_is_somebody_elses_and_nothing_more_is_asked_with_it(
    connect: Connect,
) -> None:
    told = 0

    async def served() -> None:
        nonlocal told
        told += 1

    async with VisionServer(see, script=faults.sequence([FaultKind.EMPTY_CHOICES])) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        with pytest.raises(EndpointError):
            await endpoint.ask(about(90), connect_timeout_s=5, total_timeout_s=20, served=served)
        assert (told, len(server.questions())) == (1, 1)
        answer = await endpoint.ask(about(90), connect_timeout_s=5, total_timeout_s=20, served=served)
    assert (answer.examples, told) == (0, 2)


async def test_an_answer_that_was_cut_is_asked_for_again_without_examples(connect: Connect) -> None:
    async with VisionServer(see) as server:
        endpoint = await connect(server.base_url)
        await endpoint.prepare()
        assert (await ask(endpoint, about(90), boosted=True)).examples == 0


def test_what_is_shown_is_part_of_the_key_and_the_picture_itself_is_not() -> None:
    other = (replace(EXAMPLES[0], at_ms=35_000), EXAMPLES[1])
    keys = {PROMPT.key, GUIDED.key, with_examples(PROMPT, other).key, with_examples(PROMPT, EXAMPLES[:1]).key}
    keys.add(with_examples(PROMPT, (replace(EXAMPLES[0], tags=("Timeout",)), EXAMPLES[1])).key)
    keys.add(with_examples(PROMPT, EXAMPLES[::-1]).key)
    assert len(keys) == 6
    again = with_examples(PROMPT, (replace(EXAMPLES[0], jpeg=b"decoded by another version"), EXAMPLES[1]))
    assert (again.key, again.wording) == (GUIDED.key, GUIDED.wording)
    assert with_examples(PROMPT, ()) is PROMPT and GUIDED.plain is PROMPT
