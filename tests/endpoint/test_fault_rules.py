"""Errors at exactly the statuses, shapes and lengths where their meaning changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from haven_vlm.endpoint_faults import MAX_WAIT_S, SYSTEM_ROLE, ErrorText, Verdict, judge, read_error, retry_after_s
from haven_vlm.errors import EndpointFault as F
from haven_vlm.facts import Outcome

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ADDRESS = "Check base_url: it is the address of an OpenAI-compatible server, usually ending in /v1."
KEY = "Set api_key or api_key_env of this endpoint to a key that the server accepts."
CREDIT = "Check credit and limits of this account."


def said(status: int, message: str, **more: object) -> Verdict:
    """The verdict on an error in so many words."""
    return about(status, json.dumps({"error": {"message": message, **more}}).encode())


def about(status: int, body: bytes, **headers: str) -> Verdict:
    verdict = judge(status, headers, body, sent=("logprobs", "top_logprobs", SYSTEM_ROLE), now=NOW)
    assert verdict is not None
    return verdict


# --- where the error is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": "it is ill"}, ErrorText("it is ill")),
        ({"error": {"message": "it is ill", "param": "n"}}, ErrorText("it is ill", param="n")),
        ({"error": {"message": "ill", "code": "A", "type": "B", "status": "C"}}, ErrorText("ill", "a b c")),
        ({"error": {"message": "ill", "code": "429"}}, ErrorText("ill", "429", status=429)),
        ({"error": {"message": "ill", "code": "x", "status": 503}}, ErrorText("ill", "x 503", status=503)),
        ({"error": {"message": "ill", "code": 1500}}, ErrorText("ill", "1500")),
        ({"error": {"code": "gone"}}, ErrorText("gone", "gone")),
        ({"error": {}}, ErrorText("an error without words")),
        ({"error": {"message": "ill", "metadata": {"raw": "very"}}}, ErrorText("ill very")),
        ({"error": {"message": "ill", "metadata": "very"}}, ErrorText("ill")),
        ({"detail": "it is ill"}, ErrorText("it is ill")),
        ({"detail": {"msg": "ill", "type": "T"}}, ErrorText("ill", "t")),
        ({"detail": {"message": "ill"}}, ErrorText("ill")),
        ({"detail": {"why": "ill"}}, ErrorText('{"why": "ill"}')),
        (
            {"detail": [{"loc": ["body", "n", 0], "msg": "too large"}, {"msg": "odd"}, "more"]},
            ErrorText("n.0: too large; : odd; more", "validation", "n"),
        ),
        ({"object": "error", "message": "ill", "choices": []}, ErrorText("ill")),
        ({"message": "ill"}, ErrorText("ill")),
        ({"choices": [{"error": {"message": "ill"}}]}, ErrorText("ill")),
        ([{"ok": 1}, {"error": "it is ill"}, {"error": "twice"}], ErrorText("it is ill")),
        ([{"ok": 1}], None),
        ({"message": "a greeting", "choices": [{"message": {"content": "Foul"}}]}, None),
        ({"error": None, "choices": [{"error": None}]}, None),
        ({"error": "", "detail": ""}, None),
        ({"choices": ["odd"]}, None),
        ({"choices": []}, None),
        ("text", None),
    ],
)
def test_an_error_is_found_in_every_shape(body: object, error: ErrorText | None) -> None:
    assert read_error(body) == error


# --- what the status says -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fault", "fix"),
    [
        (300, F.FORBIDDEN, "If that is the right place, set base_url to it (without the last part): elsewhere"),
        (399, F.FORBIDDEN, "If that is the right place, set base_url to it (without the last part): elsewhere"),
        (200, F.SERVER, ""),
        (299, F.SERVER, ""),
        (400, F.OTHER, ""),
        (401, F.AUTH, KEY),
        (402, F.QUOTA, CREDIT),
        (403, F.AUTH, KEY),
        (404, F.NOT_AN_API, ADDRESS),
        (405, F.NOT_AN_API, ADDRESS),
        (406, F.OTHER, ""),
        (407, F.AUTH, KEY),
        (408, F.TIMEOUT, ""),
        (
            413,
            F.PICTURE,
            "Make pictures smaller (image_max_side), or raise the body limit of the proxy in front of it.",
        ),
        (425, F.RATE_LIMITED, ""),
        (429, F.RATE_LIMITED, ""),
        (499, F.OTHER, ""),
        (500, F.SERVER, ""),
        (503, F.SERVER, ""),
        (504, F.TIMEOUT, ""),
        (529, F.RATE_LIMITED, ""),
        (530, F.SERVER, ""),
    ],
)
def test_a_status_without_helpful_words(status: int, fault: F, fix: str) -> None:
    verdict = said(status, "no")
    assert (verdict.fault, verdict.fix, verdict.retry_after_s) == (fault, fix, None)
    if not 300 <= status < 400:
        carried = F.SERVER if fault is F.OTHER else fault
        assert said(200, "no", code=status).fault is carried, "in the body of a 200"


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (402, F.RATE_LIMITED),
        (408, F.TIMEOUT),
        (429, F.RATE_LIMITED),
        (500, F.SERVER),
        (503, F.RATE_LIMITED),
        (504, F.TIMEOUT),
    ],
)
def test_a_wish_to_wait_is_kept(status: int, fault: F) -> None:
    verdict = judge(status, {"retry-after": "7"}, b'{"error": "no"}', now=NOW)
    assert verdict == Verdict(fault, "no", retry_after_s=7.0)


def test_where_it_sends_on_to_is_told_without_what_may_be_secret() -> None:
    verdict = judge(302, {"location": "https://else.where/v1?key=1#top"}, b"", now=NOW)
    assert verdict is not None
    assert verdict.message == "the server sends on to https://else.where/v1; frames are never sent on"
    long = judge(302, {"location": "h" * 300}, b"", now=NOW)
    assert long is not None
    assert long.fix.endswith(": " + "h" * 200)


# --- no JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "fault", "message", "fix"),
    [
        (200, b"", F.NOT_AN_API, "the answer is an empty answer", ADDRESS),
        (200, b"hello", F.NOT_AN_API, "the answer is hello", ADDRESS),
        (200, b'"hello"', F.NOT_AN_API, 'the answer is "hello"', ADDRESS),
        (200, b'{"choices": [', F.SERVER, "the answer is damaged JSON", ""),
        (299, b" [1", F.SERVER, "the answer is damaged JSON", ""),
        (200, b"<html>", F.NOT_AN_API, "the answer is a web page", ADDRESS),
        (200, b"<!-- two\nlines -->\n<HTML>", F.NOT_AN_API, "the answer is a web page", ADDRESS),
        (500, b"<html>Loading model</html>", F.SERVER, "a web page", ""),
        (400, b"<html>", F.OTHER, "a web page", ""),
        (500, b"", F.SERVER, "an empty answer", ""),
        (503, b"Loading model", F.LOADING, "Loading model", ""),
        (500, b"42", F.SERVER, "42", ""),
    ],
)
def test_what_is_no_json(status: int, body: bytes, fault: F, message: str, fix: str) -> None:
    assert about(status, body) == Verdict(fault, message, fix)


def test_a_page_is_known_by_its_type_as_well() -> None:
    verdict = judge(200, {"content-type": "text/html; charset=utf-8"}, b"{ welcome", now=NOW)
    assert verdict is not None
    assert (verdict.fault, verdict.message) == (F.NOT_AN_API, "the answer is a web page")


@pytest.mark.parametrize(("length", "kept"), [(300, "x" * 300), (301, "x" * 300 + "…")])
def test_a_long_text_is_cut(length: int, kept: str) -> None:
    assert about(500, b"x" * length).message == kept


# --- words before statuses, and where statuses go before words --------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        (401, "exceeded your current quota", F.AUTH),
        (402, "model is loading", F.QUOTA),
        (407, "image too large", F.AUTH),
        (403, "exceeded your current quota", F.QUOTA),
        (429, "exceeded your current quota", F.QUOTA),
        (429, "image too large", F.RATE_LIMITED),
        (428, "image too large", F.PICTURE),
        (503, "image too large", F.SERVER),
        (503, "too many requests", F.RATE_LIMITED),
        (200, "too many requests", F.RATE_LIMITED),
        (500, "too many requests", F.SERVER),
        (400, "too many requests", F.OTHER),
    ],
)
def test_which_goes_before_which(status: int, message: str, fault: F) -> None:
    assert said(status, message).fault is fault


@pytest.mark.parametrize(("status", "outcome"), [(400, Outcome.FILTERED), (402, Outcome.FILTERED), (401, None)])
def test_what_was_flagged_is_no_matter_of_keys(status: int, outcome: Outcome | None) -> None:
    assert said(status, "Your input was flagged").outcome is outcome


@pytest.mark.parametrize(
    ("status", "fault"), [(400, F.MODEL), (404, F.MODEL), (422, F.MODEL), (500, F.SERVER), (405, F.NOT_AN_API)]
)
def test_a_model_that_is_named_as_the_wrong_parameter(status: int, fault: F) -> None:
    assert said(status, "no", param="model").fault is fault


@pytest.mark.parametrize(
    ("status", "field"),
    [(400, "top_logprobs"), (404, "top_logprobs"), (415, "top_logprobs"), (422, "top_logprobs"), (500, None)],
)
def test_a_field_is_blamed_by_its_whole_name(status: int, field: str | None) -> None:
    assert said(status, "top_logprobs is odd").field == field
    assert said(status, "odd", param="top_logprobs[0].x").field == field
    assert said(status, "my_logprobs is odd").field is None


@pytest.mark.parametrize("status", [400, 404, 415, 422, 500, 501])
def test_a_template_without_a_system_message_is_blamed_wherever_it_breaks(status: int) -> None:
    assert said(status, "System role not supported").field == SYSTEM_ROLE


@pytest.mark.parametrize("status", [406, 499, 502])
def test_other_statuses_blame_no_field(status: int) -> None:
    assert said(status, "System role not supported, nor logprobs").field is None


def test_fixes_say_what_to_do() -> None:
    assert said(400, "no models loaded").fix == "Load a vision model on that server."
    assert said(400, "image input is not supported").fix.startswith("Load a vision model there (llama.cpp:")
    assert said(400, "prompt is too long").fix.startswith("Give the model a larger context window")
    assert said(400, "unexpected endpoint or method").fix == ADDRESS
    assert said(400, "invalid api key").fix == KEY
    assert said(400, "insufficient funds").fix == CREDIT


# --- how long to wait -----------------------------------------------------------------------------------------


def epoch(seconds: float) -> float:
    return NOW.timestamp() + seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "99999999"}, MAX_WAIT_S),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 5 "}, 5),
        ({"retry-after": "3600"}, 3600),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "", "x-ratelimit-reset": "3"}, 3),
        ({"retry-after": "Mon, 23 Nov 2026 15:00:00 GMT"}, MAX_WAIT_S),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 +0100"}, 0),
        ({"retry-after": "1000000000"}, MAX_WAIT_S),
        ({"retry-after": f"{epoch(40):.0f}"}, 40),
        ({"retry-after": f"{epoch(-40):.0f}"}, 0),
        ({"retry-after": "1000000000000"}, MAX_WAIT_S),
        ({"retry-after": f"{epoch(40) * 1000:.0f}"}, 40),
        ({"x-ratelimit-reset": "0.5h"}, 1800),
        ({"x-ratelimit-reset": "2h"}, MAX_WAIT_S),
        ({"x-ratelimit-reset": "1m30.5s"}, 90.5),
        ({"x-ratelimit-reset": "120ms"}, 0.12),
        ({"x-ratelimit-reset": "1d"}, None),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "9s"}, 9),
        ({"x-ratelimit-reset-requests": "soon", "ratelimit-reset": "4"}, 4),
        ({"x-ratelimit-reset": "2s", "x-ratelimit-remaining-requests": "1"}, None),
        ({"x-ratelimit-reset": "2s", "x-ratelimit-remaining-requests": "0"}, 2),
        ({"x-ratelimit-reset": "2s", "x-ratelimit-remaining-requests": "some"}, 2),
        (
            {"x-ratelimit-reset": "2s", "x-ratelimit-remaining-requests": "7", "x-ratelimit-remaining-tokens": "0"},
            2,
        ),
        ({"x-ratelimit-remaining-requests": "0"}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds, abs=0.01))


def test_dates_are_taken_from_today_if_nothing_else_is_said() -> None:
    assert retry_after_s({"retry-after": "Mon, 23 Nov 2020 12:00:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "Mon, 23 Nov 2420 12:00:00 GMT"}) == MAX_WAIT_S
