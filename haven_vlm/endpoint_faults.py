"""What an answer of a model server means when it is not an answer: every known error, told apart. Pure.

    what the server says                                        EndpointFault or Outcome
    ─────────────────────────────────────────────────────────   ────────────────────────
    3xx                                                         FORBIDDEN
    401, 403, 407                                               AUTH
    402; 429 `insufficient_quota`                               QUOTA
    429, 529; 503 or 200 that tells of a full queue             RATE_LIMITED
    503 "Loading model", any text that says it loads            LOADING
    no such model, none loaded, no eyes                         MODEL
    404, 405 for the path, an HTML page, no JSON in a 200       NOT_AN_API
    400, 422, 500 that names a request field of ours            FIELD
    longer than the context window                              CONTEXT
    413, a picture it cannot read, or not of this size          PICTURE
    408, 504                                                    TIMEOUT
    other 5xx; 200 with an error in it                          SERVER
    flagged, moderated, content policy                          Outcome.FILTERED
    llama-server's "output that does not match the … format"    Outcome.UNPARSABLE
    other 4xx                                                   OTHER

What the text says goes before what the status says, because servers differ in their statuses far more than in
their words: a text model that is shown a picture answers 400, 404, 500 or even 200.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from haven_vlm.errors import EndpointFault
from haven_vlm.facts import Outcome

MAX_WAIT_S = 3600.0
"""Longest wait a server may ask for; anything above is cut to it."""

SYSTEM_ROLE = "system"
"""Stands for a field: the chat template knows no system message."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an HTTP answer means."""

    fault: EndpointFault
    message: str
    """What the server said, one line, not redacted yet."""
    fix: str = ""
    retry_after_s: float | None = None
    field: str | None = None
    status: int | None = None
    """A status inside the body, where the HTTP one is only the carrier's."""
    outcome: Outcome | None = None
    """Set when the failure is one of this very picture or answer: it is an `Answer`, not an error."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """An error as its server words it."""

    message: str
    code: str = ""
    """`code` and `type`, in lower case, joined."""
    param: str = ""
    status: int | None = None
    """A status inside the body, where the HTTP one is only the carrier's."""


def read_error(body: object) -> ErrorText | None:
    """Find the error in a decoded JSON body, whatever shape it has; None when there is none."""
    if isinstance(body, list):
        return next((e for item in body if (e := read_error(item)) is not None), None)
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, Mapping):
        return _from_mapping(error)
    if isinstance(error, str) and error:
        return ErrorText(error)
    detail = body.get("detail")
    if isinstance(detail, Mapping):
        return _from_mapping({"message": detail.get("msg") or detail.get("message") or json.dumps(detail), **detail})
    if isinstance(detail, list):
        return _from_validation(detail)
    if isinstance(detail, str) and detail:
        return ErrorText(detail)
    if body.get("object") == "error" or ("message" in body and "choices" not in body):
        return _from_mapping(body)
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        inner = choices[0].get("error")
        return _from_mapping(inner) if isinstance(inner, Mapping) else None
    return None


def _from_mapping(error: Mapping[object, object]) -> ErrorText:
    code, kind, status = error.get("code"), error.get("type"), error.get("status")
    inner = next((int(str(c)) for c in (code, status) if re.fullmatch(r"[45]\d\d", str(c))), None)
    metadata = error.get("metadata")
    more = metadata.get("raw") if isinstance(metadata, Mapping) else None
    message = " ".join(str(part) for part in (error.get("message") or "", more or "") if part)
    words = " ".join(str(w).lower() for w in (code, kind, status) if w)
    return ErrorText(message or words or "an error without words", words, str(error.get("param") or ""), inner)


def _from_validation(detail: list[object]) -> ErrorText:
    """FastAPI's list of what does not fit, each with the way to it."""
    texts, param = [], ""
    for item in detail:
        if isinstance(item, Mapping):
            where = [str(p) for p in item.get("loc") or () if p != "body"]
            param = param or (where[0] if where else "")
            texts.append(f"{'.'.join(where)}: {item.get('msg', '')}")
        else:
            texts.append(str(item))
    return ErrorText("; ".join(texts), "validation", param)


_HTML = re.compile(r"^\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)

_LOADING = re.compile(r"loading model|model is (?:still |currently )?loading|currently loading|warming up", re.I)
_NO_MODEL_LOADED = re.compile(r"no models? (?:is |are )?(?:currently )?loaded|please load a model|load a model", re.I)
_BLIND = re.compile(
    r"image input is not supported|does not support (?:image|vision|multimodal)|not a (?:vision|multimodal)|"
    r"no endpoints? (?:found )?that support image|image_url is only supported|support image input|mmproj|"
    r"not support (?:image|vision)|vision add-?on|does not have vision|cannot process images|"
    r"is not a multimodal model|missing data required for image input|at most 0 image",
    re.I,
)
_NO_SUCH_MODEL = re.compile(
    r"model[^.]{0,120}?(?:not found|does not exist|doesn't exist|not exist|is not available|unknown)|"
    r"(?:unknown|invalid|no such) model|model_not_found|failed to load model|try pulling it first|invalid model name",
    re.I,
)
_CONTEXT = re.compile(
    r"context[_ ](?:length|size|window)|exceed_context|maximum context|contextwindow|context overflow|"
    r"prompt is too long|too many tokens|exceeds? the (?:model'?s? )?(?:max|context)|longer than the maximum|"
    r"input is too long|larger than the context|greater than the context",
    re.I,
)
_FULL = re.compile(r"busy|queue is full|pending requests|overload|too many requests|capacity|rate.?limit|slots? ", re.I)
_QUOTA = re.compile(
    r"insufficient_quota|insufficient (?:credit|balance|funds)|exceeded your current quota|billing", re.I
)
_FLAGGED = re.compile(
    r"content_?filter|content[_ ]policy|content management|moderation|was flagged|flagged by|responsible_?ai|"
    r"safety (?:system|filter)|prohibited_content|data_inspection_failed",
    re.I,
)
_NO_KEY = re.compile(r"no connected db|no api key passed|api key not valid|invalid api key|api_key_invalid", re.I)
_POISON = re.compile(r"model produced output that does not match", re.I)
_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt)s?[^.]{0,30}not[^.]{0,20}support|does not support[^.]{0,20}system", re.I
)
_PICTURE = re.compile(
    r"(?:load|decode|process|read|open|identify|fetch|parse|invalid|unsupported|corrupt|large|small|bad|too)[^.]{0,40}image"
    r"|image[^.]{0,60}(?:too (?:large|small|big)|invalid|unsupported|corrupt|could not|cannot|fail|not valid|exceed)"
    r"|unsupported_image_format|image_too_large|image_parse_error|megapixel",
    re.I,
)
_SCHEMA = re.compile(
    r"json.?schema|response.?format|grammar|structured.?output|guided|no metal back-?end|schema conversion|xgrammar|"
    r"outlines",
    re.I,
)
_THINKING = re.compile(r"does not support thinking|thinking is not supported|reasoning is not supported", re.I)
_WRONG_PATH = re.compile(
    r"unexpected endpoint or method|file not found|no route|unknown (?:path|route|url)|page not found", re.I
)
_THINKING_FIELDS = ("reasoning_effort", "chat_template_kwargs", "enable_thinking")


def decoded(body: bytes) -> object:
    """What a body of JSON holds; None when it is no JSON, or `null`, which no server means."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    document: object = None,
    sent: Collection[str] = (),
    now: datetime | None = None,
) -> Verdict | None:
    """Tell what an answer means; None: it is a JSON document without an error, to be read as an answer.

    Args:
        status: HTTP status.
        headers: with lower-case names.
        body: as it came.
        document: what the body holds, if it was decoded already; see `decoded`.
        sent: request fields that can be left out; only these are blamed for a 400.
        now: present moment, for Retry-After dates.
    """
    if 300 <= status < 400:
        return _redirected(headers)
    data = decoded(body) if document is None else document
    error = None if data is None else read_error(data)
    if data is not None and error is None and status < 400 and isinstance(data, Mapping | list):
        return None
    wait = retry_after_s(headers, now=now)
    text = body[:200_000].decode("utf-8", "replace")
    if data is None:
        return _no_json(status, text, headers, wait)
    if error is None and status < 400:
        return Verdict(EndpointFault.NOT_AN_API, f"the answer is {_short(text)}", _FIX_ADDRESS)
    if error is None:
        error = ErrorText(_short(text) or "no reason given")
    verdict = _by_words(status, error, sent, wait) or _by_status(status, error, wait)
    return replace(verdict, status=error.status)


_FIX_ADDRESS = "Check base_url: it is the address of an OpenAI-compatible server, usually ending in /v1."
_FIX_EYES = "Load a vision model there (llama.cpp: also its mmproj file), or set `model` to one that sees pictures."
_FIX_KEY = "Set api_key or api_key_env of this endpoint to a key that the server accepts."


def _redirected(headers: Mapping[str, str]) -> Verdict:
    target = re.sub(r"[?#].*", "", headers.get("location", "elsewhere"))[:200]
    return Verdict(
        EndpointFault.FORBIDDEN,
        f"the server sends on to {target}; frames are never sent on",
        f"If that is the right place, set base_url to it (without the last part): {target}",
    )


def _no_json(status: int, text: str, headers: Mapping[str, str], wait: float | None) -> Verdict:
    is_page = bool(_HTML.match(text)) or "text/html" in headers.get("content-type", "")
    said = "a web page" if is_page else _short(text) or "an empty answer"
    if status < 400:
        fault = (
            EndpointFault.NOT_AN_API if is_page or not text.lstrip().startswith(("{", "[")) else EndpointFault.SERVER
        )
        said = f"the answer is {said}" if fault is EndpointFault.NOT_AN_API else "the answer is damaged JSON"
        return Verdict(fault, said, _FIX_ADDRESS if fault is EndpointFault.NOT_AN_API else "")
    error = ErrorText("" if is_page else said)
    verdict = _by_words(status, error, (), wait) if not is_page else None
    return verdict or _by_status(status, ErrorText(said), wait)


def _by_words(status: int, error: ErrorText, sent: Collection[str], wait: float | None) -> Verdict | None:
    said, words = error.message, f"{error.message} {error.code}"
    effective = error.status or status
    if _POISON.search(words):
        return Verdict(EndpointFault.SERVER, said, outcome=Outcome.UNPARSABLE)
    if effective != 401 and _FLAGGED.search(words):
        return Verdict(EndpointFault.OTHER, said, outcome=Outcome.FILTERED)
    if _NO_KEY.search(words):
        return Verdict(EndpointFault.AUTH, said, _FIX_KEY)
    if effective in (401, 402, 407) or (effective == 429 and not _QUOTA.search(words)):
        return None
    if _QUOTA.search(words):
        return Verdict(EndpointFault.QUOTA, said, "Check credit and limits of this account.")
    if _LOADING.search(words):
        return Verdict(EndpointFault.LOADING, said, retry_after_s=wait)
    if _NO_MODEL_LOADED.search(words):
        return Verdict(EndpointFault.MODEL, said, "Load a vision model on that server.")
    if _BLIND.search(words):
        return Verdict(EndpointFault.MODEL, said, _FIX_EYES)
    if _CONTEXT.search(words):
        fix = "Give the model a larger context window on the server, or shorten tag_list and instructions."
        return Verdict(EndpointFault.CONTEXT, said, fix)
    if _WRONG_PATH.search(words):
        return Verdict(EndpointFault.NOT_AN_API, said, _FIX_ADDRESS)
    if _NO_SUCH_MODEL.search(words) or (effective in (400, 404, 422) and error.param == "model"):
        return Verdict(EndpointFault.MODEL, said)
    named = _named(error, sent) if effective in (400, 404, 415, 422) else None
    if (name := named or (_hinted(error, sent) if effective in (400, 404, 415, 422, 500, 501) else None)) is not None:
        return Verdict(EndpointFault.FIELD, said, field=name)
    if _PICTURE.search(words) and effective != 503:
        return Verdict(EndpointFault.PICTURE, said)
    if effective in (200, 503) and _FULL.search(words):
        return Verdict(EndpointFault.RATE_LIMITED, said, retry_after_s=wait)
    return None


def _named(error: ErrorText, sent: Collection[str]) -> str | None:
    """The request field, among those that can be left out, that the error names."""
    root = re.split(r"[.\[]", error.param)[0]
    if root in sent:
        return root
    names = "|".join(re.escape(name) for name in sent if name != SYSTEM_ROLE)
    if names and (match := re.search(rf"(?<!\w)(?:{names})(?!\w)", error.message)):
        return match.group()
    return None


def _hinted(error: ErrorText, sent: Collection[str]) -> str | None:
    """The request field that the error speaks of in other words; such errors come as 500, too."""
    if SYSTEM_ROLE in sent and _NO_SYSTEM.search(error.message):
        return SYSTEM_ROLE
    if "response_format" in sent and _SCHEMA.search(error.message):
        return "response_format"
    if _THINKING.search(error.message):
        return next((name for name in _THINKING_FIELDS if name in sent), None)
    return None


def _by_status(status: int, error: ErrorText, wait: float | None) -> Verdict:
    said, effective = error.message, error.status or status
    match effective:
        case 401 | 403 | 407:
            return Verdict(EndpointFault.AUTH, said, _FIX_KEY)
        case 402 if wait is None:
            return Verdict(EndpointFault.QUOTA, said, "Check credit and limits of this account.")
        case 402 | 425 | 429 | 529:
            return Verdict(EndpointFault.RATE_LIMITED, said, retry_after_s=wait)
        case 404 | 405:
            return Verdict(EndpointFault.NOT_AN_API, said, _FIX_ADDRESS)
        case 408 | 504:
            return Verdict(EndpointFault.TIMEOUT, said, retry_after_s=wait)
        case 413:
            fix = "Make pictures smaller (image_max_side), or raise the body limit of the proxy in front of it."
            return Verdict(EndpointFault.PICTURE, said, fix)
        case 503 if wait is not None:
            return Verdict(EndpointFault.RATE_LIMITED, said, retry_after_s=wait)
    if effective >= 500 or status < 400:
        return Verdict(EndpointFault.SERVER, said, retry_after_s=wait)
    return Verdict(EndpointFault.OTHER, said)


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds the server asks to wait: Retry-After in seconds or as a date, else the x-ratelimit-reset family.

    A date in the past means 0. What cannot be read counts as not said. Cut to `MAX_WAIT_S`.
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return min(MAX_WAIT_S, ms / 1000)
    if value := headers.get("retry-after", "").strip():
        return _wait(value, now)
    left = [headers[n] for n in ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens") if n in headers]
    resets = [
        wait
        for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset", "ratelimit-reset")
        if name in headers and (wait := _wait(headers[name].strip(), now)) is not None
    ]
    if not resets or (left and all(_number(v) not in (0.0, None) for v in left)):
        return None
    return max(resets)


def _wait(value: str, now: datetime | None) -> float | None:
    now = now or datetime.now(UTC)
    if (seconds := _number(value)) is not None:
        if seconds > 1e12:  # a moment in milliseconds (OpenRouter)
            seconds = seconds / 1000 - now.timestamp()
        elif seconds > 1e9:  # a moment in seconds
            seconds -= now.timestamp()
        return min(MAX_WAIT_S, max(0.0, seconds))
    if re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+", value):  # "6m0s", "120ms" (OpenAI)
        unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", value)
        return min(MAX_WAIT_S, sum(float(n) * unit[u] for n, u in parts))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(MAX_WAIT_S, max(0.0, (moment - now).total_seconds()))


def _number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + "…"
