"""The OpenAI wire format as real servers check it: questions in, answers out. Pure but for reading pictures."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
}
"""Names of plain colours the server recognises, whatever else it can see: clients test their sight with them."""

KNOWN_FIELDS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "logprobs",
        "top_logprobs",
        "chat_template_kwargs",
        "reasoning_effort",
        "enable_thinking",
        "n",
        "user",
    }
)


class Rejection(Exception):
    """The request is one that real servers refuse."""

    def __init__(self, status: int, message: str, *, type_: str = "invalid_request_error", **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type_, "code": status, **extra}}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, checked."""

    model: str
    text: str
    """All text of all messages."""
    pictures: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each picture, pixels."""
    schema: Mapping[str, Any] | None
    wants_json: bool
    logprobs: bool
    top_logprobs: int
    max_tokens: int
    thinking_off: bool
    fields: frozenset[str]
    numbers: tuple[int, ...] = ()
    """Number of each picture, if a text with a number stands before every one of several."""
    examples: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    """Pictures shown before the one in question, with the names that are said to apply."""

    @property
    def picture(self) -> str:
        """Hash of the first picture; empty without one."""
        return picture_hash(self.pictures[0]) if self.pictures else ""

    @property
    def tokens(self) -> int:
        """Length of the question: four characters a token, 32 × 32 pixels a token."""
        return len(self.text) // 4 + sum(max(4, round(w / 32) * round(h / 32)) for w, h in self.sizes)


def picture_hash(jpeg: bytes) -> str:
    """Name of a picture in the request log."""
    return hashlib.sha256(jpeg).hexdigest()[:16]


def read_question(body: bytes) -> Asked:
    """Check a request body as strictly as the strictest common server.

    Raises:
        Rejection: with the status and words of a real refusal.
    """
    try:
        data = json.loads(body)
    except ValueError as exc:
        raise Rejection(400, f"parse error: {exc}") from exc
    if not isinstance(data, dict):
        raise Rejection(400, "the body must be an object")
    if not isinstance(data.get("model"), str) or not data["model"]:
        raise Rejection(422, "Field required: model", param="model")
    if data.get("stream"):
        raise Rejection(400, "streaming is not supported here", param="stream")
    if "max_tokens" in data and "max_completion_tokens" in data:
        raise Rejection(400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    limit = data.get("max_completion_tokens", data.get("max_tokens", 4096))
    if not isinstance(limit, int) or limit < 1:
        raise Rejection(400, "max_tokens must be at least 1", param="max_tokens")
    if "top_logprobs" in data and not data.get("logprobs"):
        raise Rejection(400, "top_logprobs requires logprobs to be set to true", param="top_logprobs")
    top = data.get("top_logprobs", 0)
    if not isinstance(top, int) or not 0 <= top <= 20:
        raise Rejection(400, "top_logprobs must be between 0 and 20", param="top_logprobs")
    temperature = data.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 <= temperature <= 2:
        raise Rejection(400, "temperature must be between 0 and 2", param="temperature")
    texts, pictures, sizes, numbers, example_count = _messages(data.get("messages"))
    schema, wants_json = _response_format(data.get("response_format"))
    kwargs = data.get("chat_template_kwargs", {})
    if not isinstance(kwargs, dict) or not isinstance(kwargs.get("enable_thinking", False), bool):
        raise Rejection(400, "invalid type for chat_template_kwargs.enable_thinking", param="chat_template_kwargs")
    return Asked(
        model=data["model"],
        text="\n".join(texts),
        pictures=tuple(pictures[example_count:]),
        sizes=tuple(sizes),
        schema=schema,
        wants_json=wants_json,
        logprobs=bool(data.get("logprobs")),
        top_logprobs=top,
        max_tokens=limit,
        thinking_off=kwargs.get("enable_thinking") is False
        or data.get("enable_thinking") is False
        or data.get("reasoning_effort") == "none",
        fields=frozenset(data),
        numbers=tuple(numbers) if len(numbers) == len(pictures) > 1 else (),
        examples=_examples(texts, pictures[:example_count]),
    )


def _examples(texts: Sequence[str], pictures: Sequence[bytes]) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
    """Each example with what its right answer says.

    Raises:
        Rejection: an example has no answer.
    """
    answers = [m[1] for text in texts for m in re.finditer(r"^Right answer: (.*)$", text, re.MULTILINE)]
    if len(answers) != len(pictures):
        raise Rejection(400, f"{len(pictures)} examples with {len(answers)} answers", param="messages")
    return tuple((p, tuple(json.loads(answer)["tags"])) for p, answer in zip(pictures, answers, strict=True))


def _messages(messages: object) -> tuple[list[str], list[bytes], list[tuple[int, int]], list[int], int]:
    if not isinstance(messages, list) or not messages:
        raise Rejection(400, "'messages' is required", param="messages")
    texts: list[str] = []
    pictures: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    numbers: list[int] = []
    example_count = 0
    for position, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user", "assistant") or (role == "system" and position):
            raise Rejection(400, f"messages.{position}: unexpected role {role!r}", param="messages")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise Rejection(400, f"messages.{position}: content must be text or parts", param="messages")
        for part in parts:
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
                if label := re.fullmatch(r"\s*(?:picture|image|frame)\s*(\d+)\s*:?\s*", part["text"], re.IGNORECASE):
                    numbers.append(int(label[1]))
                elif label := re.search(r"^Example (\d+):$", part["text"], re.MULTILINE):
                    example_count += 1
                    if int(label[1]) != example_count or len(pictures) != example_count - 1:
                        raise Rejection(400, f"messages.{position}: unexpected example {label[1]}", param="messages")
            elif part.get("type") == "image_url":
                picture, size = _picture(part.get("image_url"))
                pictures.append(picture)
                sizes.append(size)
            else:
                raise Rejection(400, f"unsupported content[].type {part.get('type')!r}", param="messages")
    return texts, pictures, sizes, numbers, example_count


def _picture(image_url: object) -> tuple[bytes, tuple[int, int]]:
    url = image_url.get("url") if isinstance(image_url, dict) else None
    match = re.fullmatch(r"data:image/(jpeg|png);base64,([A-Za-z0-9+/]+={0,2})", url if isinstance(url, str) else "")
    if match is None:
        raise Rejection(400, "invalid image input: only base64 data URLs of JPEG or PNG pictures")
    try:
        data = base64.b64decode(match[2], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            if (picture.format or "").lower() != match[1]:
                raise Rejection(400, f"the picture is {picture.format}, not {match[1]}")
            return data, picture.size
    except (binascii.Error, OSError) as exc:
        raise Rejection(400, "Failed to load image or audio file") from exc


def _response_format(value: object) -> tuple[Mapping[str, Any] | None, bool]:
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        return None, False
    if kind == "json_object":
        return None, True
    if kind != "json_schema" or not isinstance(value, dict):
        raise Rejection(400, "response_format type must be one of text, json_object, json_schema")
    wrapper = value.get("json_schema")
    if not isinstance(wrapper, dict) or not wrapper.get("name") or not isinstance(wrapper.get("schema"), dict):
        raise Rejection(400, "JSON schema conversion failed: json_schema needs name and schema")
    return wrapper["schema"], True


# --- answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sight:
    """What the model sees in a picture, and how sure it is of each."""

    names: tuple[str, ...]
    sureness: Mapping[str, float] = field(default_factory=dict)
    """Name → probability; 0.97 where nothing is said."""


def plain_colour(jpeg: bytes) -> str | None:
    """The colour of a picture that has only one; None for any other picture."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        rgb = picture.convert("RGB").resize((8, 8))
    pixels = [rgb.getpixel((x, y)) for x in range(8) for y in range(8)]
    for name, wanted in COLOURS.items():
        if all(isinstance(p, tuple) and max(abs(a - b) for a, b in zip(p, wanted, strict=True)) < 40 for p in pixels):
            return name
    return None


def asks_for_colours(text: str) -> bool:
    """Whether the question names all the colours: then it tests the sight of the model."""
    folded = text.casefold()
    return all(colour in folded for colour in COLOURS)


def vocabulary(asked: Asked) -> list[str]:
    """Names the question allows: those of the schema's lists, else the lines of the text that begin with a dash."""
    if asked.schema is not None and (names := list(_enums(asked.schema))):
        return names
    return [m.strip() for m in re.findall(r"^- ([^:\n]+)", asked.text, re.MULTILINE)]


def _enums(schema: object) -> Collection[str]:
    if isinstance(schema, Mapping):
        own = [v for v in schema.get("enum", ()) if isinstance(v, str)]
        return own + [n for v in schema.values() for n in _enums(v)]
    return []


def write_answer(asked: Asked, seen: Collection[str]) -> str:
    """The text a model with this sight writes: by the schema, else as the words of the question want it."""
    folded = {n.casefold() for n in seen}
    if asked.schema is not None:
        return json.dumps(_fill(asked.schema, folded), separators=(",", ":"), ensure_ascii=False)
    allowed = vocabulary(asked)
    names = [n for n in allowed if n.casefold() in folded] if allowed else list(seen)
    if asked.wants_json or '{"tags"' in asked.text:
        return json.dumps({"tags": names}, separators=(",", ":"), ensure_ascii=False)
    return ", ".join(names) or "none"


def write_several(asked: Asked, seen: Mapping[int, Collection[str]]) -> str:
    """The text about numbered pictures: for each number the names of what that picture shows."""
    allowed = vocabulary(asked)
    answer = {}
    for number, names in seen.items():
        folded = {n.casefold() for n in names}
        answer[str(number)] = [n for n in dict.fromkeys(allowed) if n.casefold() in folded]
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def _fill(schema: Mapping[str, Any], seen: Collection[str]) -> object:
    if "enum" in schema:
        return next((v for v in schema["enum"] if str(v).casefold() in seen), schema["enum"][0])
    match schema.get("type"):
        case "object":
            return {
                name: (name.casefold() in seen) if rule.get("type") == "boolean" else _fill(rule, seen)
                for name, rule in schema.get("properties", {}).items()
            }
        case "array":
            names = [v for v in schema.get("items", {}).get("enum", seen) if str(v).casefold() in seen]
            return names[: schema.get("maxItems", len(names))]
        case "string":
            return ", ".join(sorted(seen))
        case "boolean":
            return False
        case _:
            return 0


def tokens_of(text: str) -> list[str]:
    """Cut a text into pieces as a tokenizer might: words with their leading blank, and single marks."""
    return re.findall(r" ?\w+|\s|[^\w\s]", text)


def logprobs_of(text: str, sureness: Mapping[str, float], top: int) -> dict[str, object]:
    """Probabilities in the shape all servers share; the first token of a name carries the doubt about it."""
    content = []
    starts = {text.find(f'"{name}"') + 1: p for name, p in sureness.items() if f'"{name}"' in text}
    position = 0
    for token in tokens_of(text):
        p = min(1 - 1e-6, max(1e-6, starts.get(position, 0.999)))
        entry = {"token": token, "bytes": list(token.encode()), "logprob": math.log(p)}
        other = {"token": "]", "bytes": [93], "logprob": math.log(1 - p)}
        content.append({**entry, "top_logprobs": [entry, other][:top]})
        position += len(token)
    return {"content": content}


def completion(
    asked: Asked,
    *,
    content: str | None,
    number: int,
    finish: str = "stop",
    reasoning: str = "",
    refusal: str | None = None,
    cached: int = 0,
    sureness: Mapping[str, float] | None = None,
) -> dict[str, object]:
    """A whole reply. With `sureness` it carries logprobs."""
    message: dict[str, object] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if refusal is not None:
        message["refusal"] = refusal
    choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": finish}
    if sureness is not None and content is not None:
        choice["logprobs"] = logprobs_of(content, sureness, asked.top_logprobs)
    out = len(tokens_of((content or "") + reasoning))
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": asked.tokens,
            "completion_tokens": out,
            "total_tokens": asked.tokens + out,
            "prompt_tokens_details": {"cached_tokens": min(cached, asked.tokens)},
        },
    }


def model_list(models: Sequence[str], owned_by: str) -> dict[str, object]:
    """What `/v1/models` answers."""
    return {"object": "list", "data": [{"id": m, "object": "model", "owned_by": owned_by} for m in models]}
