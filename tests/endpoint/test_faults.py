"""Every error a real server is known to answer, in its own words, and what it means."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.chat import OPTIONAL_FIELDS
from haven_vlm.endpoint_faults import MAX_WAIT_S, SYSTEM_ROLE, judge, read_error, retry_after_s
from haven_vlm.errors import EndpointFault as F
from haven_vlm.facts import Outcome

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SENT = OPTIONAL_FIELDS | {SYSTEM_ROLE}


def openai(
    message: str, code: object = None, type_: str = "invalid_request_error", **more: object
) -> dict[str, object]:
    return {"error": {"message": message, "type": type_, "code": code, "param": None, **more}}


CASES: list[tuple[int, Any, F]] = [
    # who may
    (401, openai("Incorrect API key provided: sk-x", "invalid_api_key"), F.AUTH),
    (401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}, F.AUTH),
    (403, {"detail": "Not authenticated"}, F.AUTH),
    (403, b"<html><head><title>403 Forbidden</title></head></html>", F.AUTH),
    (400, openai("No connected db.", "400", "no_db_connection"), F.AUTH),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}], F.AUTH),
    (402, openai("Insufficient credits"), F.QUOTA),
    (429, openai("You exceeded your current quota", "insufficient_quota"), F.QUOTA),
    # too much
    (429, openai("Rate limit reached for requests", "rate_limit_exceeded"), F.RATE_LIMITED),
    (
        429,
        [{"error": {"code": 429, "message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED"}}],
        F.RATE_LIMITED,
    ),
    (529, openai("Overloaded"), F.RATE_LIMITED),
    (503, openai("server busy, please try again.  maximum pending requests exceeded"), F.RATE_LIMITED),
    (
        503,
        {"object": "error", "message": "The request queue is full.", "type": "ServiceUnavailable", "code": 503},
        F.RATE_LIMITED,
    ),
    (
        503,
        {"detail": {"msg": "Server is busy; please try again later.", "type": "service_unavailable"}},
        F.RATE_LIMITED,
    ),
    (503, [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}], F.RATE_LIMITED),
    (503, openai("Loading model", 503, "unavailable_error"), F.LOADING),
    # models
    (404, openai("The model `gpt-9` does not exist.", None, "NotFoundError"), F.MODEL),
    (404, openai("model 'llava' not found, try pulling it first", None, "not_found_error"), F.MODEL),
    (404, {"error": {"message": "Model not found", "code": "model_not_found"}}, F.MODEL),
    (400, {"error": {"code": 400, "message": "model 'x' not found", "type": "invalid_request_error"}}, F.MODEL),
    (400, openai("/chat/completions: Invalid model name passed in model=x"), F.MODEL),
    (
        400,
        {"error": "No models loaded. Please load a model in the developer page or use the `lms load` command."},
        F.MODEL,
    ),
    (503, {"detail": {"error": {"message": "No models are currently loaded."}}}, F.MODEL),
    (400, {"detail": "Failed to load model from /x"}, F.MODEL),
    (
        500,
        openai("image input is not supported - hint: you may need to provide the mmproj", 500, "server_error"),
        F.MODEL,
    ),
    (404, openai("No endpoints found that support image input", 404), F.MODEL),
    (400, openai("Invalid content type. image_url is only supported by certain models."), F.MODEL),
    (400, openai("qwen3-4b is not a multimodal model", None, "BadRequestError"), F.MODEL),
    (200, {"error": "Model does not support images. Please use a model that does."}, F.MODEL),
    # no API
    (404, {"detail": "Not Found"}, F.NOT_AN_API),
    (404, b"404 page not found", F.NOT_AN_API),
    (405, {"detail": "Method Not Allowed"}, F.NOT_AN_API),
    (200, b"<!DOCTYPE html><html>login</html>", F.NOT_AN_API),
    (200, b"Ollama is running", F.NOT_AN_API),
    (200, b'"hello"', F.NOT_AN_API),
    (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, F.NOT_AN_API),
    (404, openai("File Not Found", 404, "not_found_error"), F.NOT_AN_API),
    # length
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (9000 tokens) exceeds the available context size (8192 tokens)",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 8192,
            }
        },
        F.CONTEXT,
    ),
    (
        400,
        openai(
            "maximum context length is 4096 tokens, you requested 5000 tokens (max_tokens=96)", 400, "BadRequestError"
        ),
        F.CONTEXT,
    ),
    (400, openai("litellm.ContextWindowExceededError: too long", "400"), F.CONTEXT),
    (
        200,
        {"error": "The number of tokens to keep from the initial prompt is greater than the context length."},
        F.CONTEXT,
    ),
    (400, openai("This model's maximum context length is 8 tokens", "context_length_exceeded"), F.CONTEXT),
    # pictures
    (400, openai("Failed to load image or audio file"), F.PICTURE),
    (400, openai("invalid image input"), F.PICTURE),
    (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>", F.PICTURE),
    (400, openai("Image is too large: 30 megapixels", "image_too_large"), F.PICTURE),
    (500, {"detail": "Failed to process image: cannot identify image file"}, F.PICTURE),
    # time, and what breaks
    (408, openai("litellm.Timeout"), F.TIMEOUT),
    (504, b"<html>504 Gateway Time-out</html>", F.TIMEOUT),
    (500, b"Internal Server Error", F.SERVER),
    (500, openai("CUDA out of memory", 500, "server_error"), F.SERVER),
    (502, b"<html><body>502 Bad Gateway</body></html>", F.SERVER),
    (503, b"upstream connect error", F.SERVER),
    (200, {"error": {"message": "Provider returned error", "code": 502}}, F.SERVER),
    (200, {"error": {"message": "Provider returned error", "code": 429}}, F.RATE_LIMITED),
    (200, {"choices": [{"error": {"message": "went away", "code": 500}, "finish_reason": "error"}]}, F.SERVER),
    (200, b'{"choices": [', F.SERVER),
    (418, openai("no coffee"), F.OTHER),
    (400, {}, F.OTHER),
    (400, b"", F.OTHER),
    (307, b"", F.FORBIDDEN),
]


def body_of(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(("status", "body", "fault"), CASES, ids=[f"{c[0]}-{c[2]}-{i}" for i, c in enumerate(CASES)])
def test_each_known_error_is_told_apart(status: int, body: Any, fault: F) -> None:
    verdict = judge(status, {}, body_of(body), sent=SENT, now=NOW)
    assert verdict is not None
    assert (verdict.fault, verdict.outcome) == (fault, None)
    assert verdict.message


@pytest.mark.parametrize(
    ("status", "body", "field"),
    [
        (400, openai("Unrecognized request argument supplied: chat_template_kwargs"), "chat_template_kwargs"),
        (
            400,
            openai(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead.",
                "unsupported_parameter",
                param="max_tokens",
            ),
            "max_tokens",
        ),
        (
            400,
            openai(
                "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
                "supported.",
                "unsupported_value",
                param="temperature",
            ),
            "temperature",
        ),
        (
            400,
            [
                {
                    "error": {
                        "code": 400,
                        "message": 'Invalid JSON payload received. Unknown name "top_logprobs": no field.',
                    }
                }
            ],
            "top_logprobs",
        ),
        (
            422,
            {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}
                ]
            },
            "logprobs",
        ),
        (422, {"detail": "Unexpected fields in the request: {'chat_template_kwargs'}"}, "chat_template_kwargs"),
        (400, openai("This response_format type is unavailable now"), "response_format"),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "response_format"),
        (400, openai("JSON schema conversion failed: unsupported"), "response_format"),
        (500, {"detail": "No Metal back-end"}, "response_format"),
        (400, openai('"qwen2.5vl" does not support thinking'), "reasoning_effort"),
        (400, openai("System role not supported"), SYSTEM_ROLE),
        (500, openai("Jinja Exception: System role not supported", 500, "server_error"), SYSTEM_ROLE),
        (400, openai("bad value", param="response_format.json_schema"), "response_format"),
    ],
)
def test_a_refused_field_is_named(status: int, body: Any, field: str) -> None:
    verdict = judge(status, {}, body_of(body), sent=SENT)
    assert verdict is not None
    assert (verdict.fault, verdict.field) == (F.FIELD, field)


def test_a_crash_that_happens_to_hold_the_name_of_a_field_blames_none() -> None:
    verdict = judge(500, {}, body_of(openai("GPU temperature too high")), sent=SENT)
    assert verdict is not None and verdict.fault is F.SERVER


def test_a_status_inside_the_body_is_told() -> None:
    verdict = judge(200, {}, body_of({"error": {"message": "went away", "code": 502}}))
    assert verdict is not None and (verdict.fault, verdict.status) == (F.SERVER, 502)


def test_only_what_was_sent_is_blamed() -> None:
    verdict = judge(400, {}, body_of(openai("top_logprobs is not permitted")), sent=("logprobs",))
    assert verdict is not None and verdict.fault is F.OTHER


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, openai("The response was filtered", "content_filter"), Outcome.FILTERED),
        (403, openai("Your input was flagged", metadata={"reasons": ["x"]}), Outcome.FILTERED),
        (400, openai("Your request was rejected by our safety system", "content_policy_violation"), Outcome.FILTERED),
        (
            500,
            openai("The model produced output that does not match the expected peg-native format"),
            Outcome.UNPARSABLE,
        ),
    ],
)
def test_what_is_the_pictures_own_fate_is_no_fault_of_the_endpoint(status: int, body: Any, outcome: Outcome) -> None:
    verdict = judge(status, {}, body_of(body), sent=SENT)
    assert verdict is not None and verdict.outcome is outcome


def test_an_answer_is_no_error() -> None:
    answer = {"choices": [{"message": {"content": "the context length and the model not found"}}], "error": None}
    assert judge(200, {}, body_of(answer)) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:30 GMT"}, 0),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30"}, 30),
        ({"retry-after": "99999999"}, MAX_WAIT_S),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-reset-requests": "2s"}, 2),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 12)}, 12),
        ({"x-ratelimit-reset": str(int(NOW.timestamp() + 12) * 1000)}, 12),
        ({"x-ratelimit-reset-requests": "60s", "x-ratelimit-remaining-requests": "59"}, None),
        ({"x-ratelimit-reset-requests": "60s", "x-ratelimit-remaining-requests": "0"}, 60),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))


def test_credit_that_comes_back_is_waited_for() -> None:
    verdict = judge(402, {"retry-after": "3"}, body_of(openai("slow down")))
    assert verdict is not None and (verdict.fault, verdict.retry_after_s) == (F.RATE_LIMITED, 3)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "detail", "message", "code", "type", "param", "choices", "msg", "loc", "metadata"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset", "content-type", "location"]), st.text()),
    st.one_of(st.binary(max_size=200), json_values.map(lambda v: json.dumps(v).encode())),
)
def test_nothing_a_server_says_breaks_the_judge(status: int, headers: dict[str, str], body: bytes) -> None:
    verdict = judge(status, headers, body, sent=SENT, now=NOW)
    if status >= 300:
        assert verdict is not None
    if verdict is not None:
        assert verdict.retry_after_s is None or 0 <= verdict.retry_after_s <= MAX_WAIT_S
        assert (verdict.fault is F.FIELD) == (verdict.field is not None)
        assert verdict.field is None or verdict.field in SENT


@given(json_values)
def test_reading_an_error_never_raises(value: object) -> None:
    error = read_error(value)
    assert error is None or isinstance(error.message, str)
