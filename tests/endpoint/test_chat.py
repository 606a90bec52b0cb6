"""The wire format, both ways, on anything that can come."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from haven_vlm.chat import (
    OPTIONAL_FIELDS,
    THINKING_ROOM,
    THINKING_SWITCHES,
    Wanted,
    droppable,
    read_reply,
    read_tokens,
    request_body,
    request_form,
)
from haven_vlm.endpoint_faults import SYSTEM_ROLE
from haven_vlm.pool_ports import Capabilities

WANTED = Wanted("the rules", "which?", {"type": "object"}, 100, (b"\xff\xd8one", b"\xff\xd8two"))
PICTURES = ("data:image/jpeg;base64,AA==", "data:image/jpeg;base64,AQ==")
ABLE = Capabilities(
    server="unknown",
    model="m",
    sees_pictures=True,
    json_schema="enforced",
    logprobs=True,
    several_pictures=True,
    thinking="unknown",
    length_field="max_tokens",
    parallel_hint=None,
    is_remote=False,
    thinking_switch="reasoning_effort",
)

refusable = st.frozensets(st.sampled_from(sorted(OPTIONAL_FIELDS | {SYSTEM_ROLE})))


@given(refusable, st.booleans(), st.sampled_from(["max_tokens", "max_completion_tokens"]))
def test_refused_fields_are_never_sent_and_the_question_always_is(
    refused: frozenset[str], boosted: bool, length: str
) -> None:
    body = request_body(WANTED, replace(ABLE, refused_fields=refused, length_field=length), PICTURES, boosted=boosted)
    assert not refused & body.keys()
    assert not refused & droppable(body)
    assert droppable(body) <= OPTIONAL_FIELDS | {SYSTEM_ROLE}
    assert len(body.keys() & {"max_tokens", "max_completion_tokens"}) == (
        0 if {"max_tokens", "max_completion_tokens"} <= refused else 1
    )
    text = json.dumps(body)
    assert "the rules" in text
    assert "which?" in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert text.index("the rules") < text.index("which?") < text.index("data:image")


@pytest.mark.parametrize(
    ("able", "boosted", "tokens"),
    [
        (ABLE, False, 100),
        (ABLE, True, 200),
        (replace(ABLE, thinking="always"), False, 100 + THINKING_ROOM),
        (replace(ABLE, thinking="always"), True, 200 + THINKING_ROOM),
    ],
)
def test_budget(able: Capabilities, boosted: bool, tokens: int) -> None:
    assert request_body(WANTED, able, PICTURES, boosted=boosted)["max_tokens"] == tokens


def test_the_same_question_is_the_same_bytes() -> None:
    assert json.dumps(request_body(WANTED, ABLE, PICTURES)) == json.dumps(request_body(WANTED, ABLE, PICTURES))


def test_only_the_switch_that_works_is_sent() -> None:
    assert request_body(WANTED, ABLE, PICTURES).keys() & THINKING_SWITCHES.keys() == {"reasoning_effort"}
    assert request_body(WANTED, replace(ABLE, thinking_switch=""), PICTURES).keys() & THINKING_SWITCHES.keys() == set()


names = [
    "choices",
    "message",
    "content",
    "finish_reason",
    "usage",
    "logprobs",
    "token",
    "logprob",
    "bytes",
    "top_logprobs",
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(-(10**400))
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=5),
    max_leaves=15,
)


@example({}, {"content": [{"token": "a", "logprob": -(10**400)}]}, {"prompt_tokens": 10**400})
@given(values, values, values)
def test_no_reply_breaks_the_reader(message: object, logprobs: object, usage: object) -> None:
    data = {"choices": [{"message": message, "logprobs": logprobs, "finish_reason": usage}], "usage": usage}
    for reply in (read_reply(data), read_reply(message), read_reply({"choices": message})):
        if reply is not None:
            assert min(reply.tokens_in, reply.tokens_cached, reply.tokens_out) >= 0
            assert all(0 <= t.probability <= 1 for t in reply.tokens)
            assert isinstance(reply.is_cut or reply.is_filtered or reply.is_whole_json, bool)


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(-50, 0)), max_size=5))
def test_probabilities_are_read_as_they_are(pairs: list[tuple[str, float]]) -> None:
    entries = [{"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []} for t, p in pairs]
    tokens = read_tokens({"content": json.loads(json.dumps(entries))})
    assert [t.text.decode() for t in tokens] == [t for t, _ in pairs]


@pytest.mark.parametrize("odd", [[300], ["a"], [-1], [None]])
def test_bytes_that_are_none_give_way_to_the_text(odd: list[object]) -> None:
    (token,) = read_tokens({"content": [{"token": "a", "logprob": -0.1, "bytes": odd}]})
    assert token.text == b"a"


def test_a_token_that_cannot_be_read_makes_all_of_them_useless() -> None:
    good = {"token": "a", "logprob": -0.1}
    assert len(read_tokens({"content": [good, good]})) == 2
    for bad in ({}, {"token": "a"}, {"token": "a", "logprob": None}, {"token": None, "logprob": -1}, 3):
        assert read_tokens({"content": [good, bad]}) == ()


@given(st.text(), st.text(), st.lists(st.binary(max_size=40), max_size=3), st.booleans())
@example("picture 0 goes here 0", "picture 0 goes here 1", [b"\xff\xd8"], False)
def test_a_form_filled_in_is_the_request_itself(system: str, user: str, jpegs: list[bytes], boosted: bool) -> None:
    wanted = Wanted(system, user, {"type": "object", "title": "picture 0 goes here 2"}, 100, tuple(jpegs))
    form = request_form(wanted, ABLE, boosted=boosted)
    urls = ["data:image/jpeg;base64," + base64.b64encode(jpeg).decode() for jpeg in jpegs]
    body = request_body(wanted, ABLE, urls, boosted=boosted)
    assert json.loads(form.filled(jpegs)) == body
    assert list(json.loads(form.filled(jpegs))) == list(body), "in the same order"
    assert form.droppable == droppable(body)
