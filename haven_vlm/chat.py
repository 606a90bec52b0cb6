"""The chat-completions format: a question becomes a request body, a reply becomes what was said. Pure."""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from haven_vlm.confidence import Token
from haven_vlm.endpoint_faults import SYSTEM_ROLE
from haven_vlm.pool_ports import Capabilities

THINKING_ROOM = 2048
"""Extra tokens for a model whose thinking cannot be turned off."""

TOP_LOGPROBS = 5
"""Alternatives asked for per token: every server that gives any gives so many."""

OPTIONAL_FIELDS = frozenset(
    {
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "logprobs",
        "top_logprobs",
        "chat_template_kwargs",
        "reasoning_effort",
        "enable_thinking",
        "stream",
    }
)
"""Request fields that a question can do without."""

THINKING_SWITCHES: Mapping[str, object] = {
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "none",
    "enable_thinking": False,
}
"""Fields that turn thinking off, each on some servers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One question, apart from what the endpoint can do."""

    system: str
    user: str
    schema: Mapping[str, object]
    max_tokens: int
    jpegs: tuple[bytes, ...]
    captions: tuple[str, ...] = ()
    """A text before each picture; none: none of them has one."""


@dataclass(frozen=True, slots=True)
class RequestForm:
    """A request that is encoded but for its pictures: they differ from question to question, all else stays."""

    pieces: tuple[bytes, ...]
    """JSON in UTF-8, in order; a picture belongs between each two."""
    droppable: frozenset[str]
    """Fields that may be left out if the server refuses them."""

    def filled(self, jpegs: Sequence[bytes]) -> bytes:
        """The body of a request with these pictures, as many as the form has room for."""
        parts = [self.pieces[0]]
        for jpeg, piece in zip(jpegs, self.pieces[1:], strict=True):
            parts += (b"data:image/jpeg;base64,", binascii.b2a_base64(jpeg, newline=False), piece)
        return b"".join(parts)


def request_form(wanted: Wanted, capabilities: Capabilities, *, boosted: bool = False) -> RequestForm:
    """Encode all of a question but its pictures; see `request_body`."""
    salt = 0
    while True:
        marks = [f"picture {n} goes here {salt}" for n in range(len(wanted.jpegs))]
        body = request_body(wanted, capabilities, marks, boosted=boosted)
        text = json.dumps(body)
        if all(text.count(mark) == 1 for mark in marks):
            break
        salt += 1  # somebody's instructions hold these very words
    pieces = re.split("|".join(marks), text) if marks else [text]
    return RequestForm(tuple(piece.encode("ascii") for piece in pieces), droppable(body))


def request_body(
    wanted: Wanted, capabilities: Capabilities, pictures: Sequence[str], *, boosted: bool = False
) -> dict[str, object]:
    """The body of the request, shaped by what the server can do, with the addresses of the pictures.

    All that is constant stands before the picture: the only order in which every server keeps it cached.
    `boosted`: every known switch turns thinking off, and the budget is doubled.
    """
    refused = capabilities.refused_fields
    parts: list[dict[str, object]] = []
    messages: list[dict[str, object]] = []
    user = wanted.user
    if SYSTEM_ROLE in refused:
        user = f"{wanted.system}\n\n{user}".strip()
    else:
        messages.append({"role": "system", "content": wanted.system})
    if user:
        parts.append({"type": "text", "text": user})
    for number, picture in enumerate(pictures):
        if wanted.captions:
            parts.append({"type": "text", "text": wanted.captions[number]})
        parts.append({"type": "image_url", "image_url": {"url": picture}})
    messages.append({"role": "user", "content": parts})
    body: dict[str, object] = {
        "model": capabilities.model,
        "messages": messages,
        "temperature": 0,
        "stream": False,
        length_field(capabilities): _budget(wanted, capabilities, boosted=boosted),
    }
    if capabilities.json_schema == "enforced":
        form = {"name": "answer", "strict": True, "schema": wanted.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if capabilities.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = TOP_LOGPROBS
    switches = tuple(THINKING_SWITCHES) if boosted else (capabilities.thinking_switch,)
    body.update({name: THINKING_SWITCHES[name] for name in switches if name in THINKING_SWITCHES})
    return {name: value for name, value in body.items() if name not in refused}


def length_field(capabilities: Capabilities) -> str:
    """The field that bounds the answer: the one the server takes, or the other one if it refused that."""
    chosen = capabilities.length_field
    other = "max_completion_tokens" if chosen == "max_tokens" else "max_tokens"
    return other if chosen in capabilities.refused_fields else chosen


def _budget(wanted: Wanted, capabilities: Capabilities, *, boosted: bool) -> int:
    budget = wanted.max_tokens * (2 if boosted else 1)
    return budget + (THINKING_ROOM if capabilities.thinking == "always" else 0)


def droppable(body: Mapping[str, object]) -> frozenset[str]:
    """Fields of this body that may be left out if the server refuses them."""
    messages = body.get("messages")
    has_system = isinstance(messages, list) and bool(messages) and messages[0].get("role") == "system"
    return frozenset(body.keys() & OPTIONAL_FIELDS) | ({SYSTEM_ROLE} if has_system else frozenset())


# --- replies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """What a chat completion says."""

    text: str
    reasoning: str
    finish: str
    """'stop', 'length', 'content_filter', …; empty when not told."""
    refusal: str
    logprobs: object
    """As the server sent them; see `tokens`."""
    model: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Probabilities of the answer's tokens, read when they are wanted: most frames show nothing to be sure of."""
        return read_tokens(self.logprobs)

    @property
    def is_cut(self) -> bool:
        """The budget ended before the answer did."""
        return self.finish in ("length", "max_tokens", "model_length")

    @property
    def is_filtered(self) -> bool:
        """A filter of the server took the answer away."""
        return self.finish.partition(":")[0] in ("content_filter", "safety", "prohibited_content", "blocklist")

    @property
    def is_whole_json(self) -> bool:
        """The text is a complete JSON document: then a cut after it did not hurt."""
        try:
            json.loads(self.text)
        except (ValueError, RecursionError):
            return False
        return self.text.strip()[:1] in ("{", "[")


def read_reply(data: object) -> Reply | None:
    """Read a decoded chat completion; None when there is no message in it."""
    if not isinstance(data, Mapping):
        return None
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return None
    message = choice.get("message")
    finish = str(choice.get("finish_reason") or choice.get("native_finish_reason") or "").lower()
    if not isinstance(message, Mapping):
        if not finish or finish == "stop":
            return None
        message = {}
    usage = data.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text=_text(message.get("content")),
        reasoning=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
        finish=finish,
        refusal=_text(message.get("refusal")),
        logprobs=choice.get("logprobs"),
        model=str(data.get("model") or ""),
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_cached=_cached(usage, data.get("timings")),
        tokens_out=_count(usage.get("completion_tokens")),
    )


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [p.get("text") for p in content if isinstance(p, Mapping)]
        return "".join(t for t in texts if isinstance(t, str))
    return ""


def _count(value: object) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return max(0, int(value)) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _cached(usage: Mapping[object, object], timings: object) -> int:
    """Tokens of the question that the server had kept, under the names it has on different servers."""
    details = usage.get("prompt_tokens_details")
    if isinstance(details, Mapping) and details.get("cached_tokens") is not None:
        return _count(details["cached_tokens"])
    if usage.get("prompt_cache_hit_tokens") is not None:
        return _count(usage["prompt_cache_hit_tokens"])
    return _count(timings.get("cache_n")) if isinstance(timings, Mapping) else 0


def read_tokens(logprobs: object) -> tuple[Token, ...]:
    """Probabilities of the answer's tokens; empty when there are none, or one of them cannot be read."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        return ()
    tokens = []
    for entry in content:
        read = _token(entry)
        if read is None:
            return ()
        tokens.append(Token(*read, _Others(entry.get("top_logprobs"), read[0])))
    return tuple(tokens)


@dataclass(frozen=True, slots=True)
class _Others:
    """The alternatives to a token, read when they are looked at: five for each token are most of an answer."""

    listed: object
    chosen: bytes

    def __iter__(self) -> Iterator[tuple[bytes, float]]:
        for entry in self.listed if isinstance(self.listed, list) else ():
            read = _token(entry)
            if read is not None and read[0] != self.chosen:
                yield read


def _token(entry: object) -> tuple[bytes, float] | None:
    if not isinstance(entry, Mapping):
        return None
    logprob, text = entry.get("logprob"), entry.get("token")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or logprob != logprob:
        return None
    probability = math.exp(max(-1000, min(0, logprob)))  # bounded first: an integer may be too large for a float
    raw = entry.get("bytes")
    if isinstance(raw, list):
        try:
            return bytes(raw), probability
        except (TypeError, ValueError):
            pass  # no bytes after all
    if not isinstance(text, str):
        return None
    return text.encode("utf-8", "surrogatepass"), probability
