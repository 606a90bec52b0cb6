"""What an endpoint can do, found out with a few questions about plain coloured pictures.

The first question tells nearly everything: whether the model sees (it is asked for the colour), whether a JSON
schema is enforced (the words ask for one word, the schema for an object), whether there are probabilities,
whether it thinks although it was told not to, and which request fields are refused. The second shows two
pictures. Only doubt costs more.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from PIL import Image

from haven_vlm.chat import THINKING_SWITCHES, Reply, Wanted
from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.facts import Outcome
from haven_vlm.pool_ports import Capabilities
from haven_vlm.server_survey import Model, Server

FORMAT = 1
"""Of the remembered form; another one is not read."""

MAX_AGE = timedelta(days=1)
"""After that, or when the server offers something else, the questions are asked again."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
}

_FIRST, _SECOND = "blue", "green"
"""Neither the first nor the last of the list: what a model that sees nothing says most often."""

_SIDE_PX = 224
_SYSTEM = "You are shown a picture of one plain colour."
_USER = "Which colour is it: red, green, blue or yellow? Answer with one word."
_USER_TWO = "Which colours do these two pictures have: red, green, blue or yellow? Answer with two words."
_ONE: Mapping[str, object] = {"type": "string", "enum": list(COLOURS)}
_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"colour": _ONE},
    "required": ["colour"],
    "additionalProperties": False,
}
_SCHEMA_TWO: Mapping[str, object] = {
    "type": "object",
    "properties": {"colours": {"type": "array", "items": _ONE, "maxItems": 2}},
    "required": ["colours"],
    "additionalProperties": False,
}
_MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back for one probing question."""

    reply: Reply | None
    """None when only `outcome` is known: filtered, or unparsable for the server itself."""
    outcome: Outcome | None
    refused_fields: frozenset[str]
    seconds: float
    is_remote: bool
    detail: str = ""
    """Why there is no reply, in words."""


class Asker(Protocol):
    """Asks one question, leaving out fields that are refused."""

    async def put(self, wanted: Wanted, capabilities: Capabilities) -> Heard:
        """Raises: EndpointError."""
        ...


def assumed(server: Server, model: Model) -> Capabilities:
    """What to try first, before anything is known by experience."""
    thinking = {True: "switchable", False: "none", None: "unknown"}[model.thinks]
    return Capabilities(
        server=server.kind,
        model=model.id,
        sees_pictures=True,
        json_schema="enforced",
        logprobs=server.kind not in ("google", "koboldcpp"),
        several_pictures=False,
        thinking=thinking,
        length_field="max_completion_tokens" if server.kind == "openai" else "max_tokens",
        parallel_hint=model.parallel,
        is_remote=server.is_remote,
        thinking_switch="" if model.thinks is False else _SWITCH.get(server.kind, "chat_template_kwargs"),
    )


_SWITCH: Mapping[str, str] = {
    "ollama": "reasoning_effort",
    "google": "reasoning_effort",
    "openrouter": "reasoning_effort",
    "openai": "",  # models that do not think answer 400 to it; `boosted` sends it when an answer was cut
    "mlx-vlm": "enable_thinking",
}
"""The field to try first; `chat_template_kwargs` for the others, which most either know or ignore."""


async def probe(asker: Asker, server: Server, model: Model) -> Capabilities:
    """Find out what the endpoint can do, in two questions if all goes well and seven at most.

    Raises:
        EndpointError: it cannot answer now, or never will (MODEL: it does not take pictures).
    """
    able = assumed(server, model)
    notes: list[str] = []
    heard = await _put(asker, Wanted(_SYSTEM, _USER, _SCHEMA, _MAX_TOKENS, (plain_jpeg(_FIRST),)), able)
    able = replace(able, refused_fields=heard.refused_fields, answer_s=heard.seconds, is_remote=heard.is_remote)
    if thought(heard.reply):
        able, heard = await _stop_thinking(asker, able, heard)
    elif able.thinking == "unknown" and able.thinking_switch in able.refused_fields | {""}:
        able = replace(able, thinking="none", thinking_switch="")
    able = replace(able, json_schema=_schema_state(heard, able), logprobs=_has_logprobs(heard))
    is_right = _names(heard.reply) == {_FIRST}
    if not is_right:
        heard = await _put(asker, Wanted(_SYSTEM, _USER, _SCHEMA, _MAX_TOKENS, (plain_jpeg(_SECOND),)), able)
        is_right = _names(heard.reply) == {_SECOND}
    if not is_right:
        notes.append(
            f"Could not confirm that “{able.model}” sees pictures: asked for the colour of two plain pictures, "
            f"it gave no right answer."
        )
    else:
        able = await _try_two(asker, able)
    if able.json_schema != "enforced":
        notes.append("The server does not enforce a JSON schema; answers are checked all the same.")
    if able.thinking == "always":
        notes.append("The model thinks before every answer and cannot be told not to: expect it to be slow.")
    return replace(able, notes=tuple(notes))


async def _put(asker: Asker, wanted: Wanted, able: Capabilities) -> Heard:
    try:
        return await asker.put(wanted, able)
    except EndpointError as exc:
        if exc.fault is not EndpointFault.PICTURE:
            raise
        raise EndpointError(  # the picture is a good one: it is the server that cannot take any
            f"the server takes no pictures: {exc}",
            endpoint=exc.endpoint,
            fault=EndpointFault.MODEL,
            status=exc.status,
            fix="Load a vision model there, or set `model` to one that sees pictures.",
        ) from exc


async def _stop_thinking(asker: Asker, able: Capabilities, heard: Heard) -> tuple[Capabilities, Heard]:
    """Try the other ways to turn thinking off; if none works, give the model room to think."""
    wanted = Wanted(_SYSTEM, _USER, _SCHEMA, _MAX_TOKENS, (plain_jpeg(_FIRST),))
    for switch in THINKING_SWITCHES:
        if switch == able.thinking_switch or switch in able.refused_fields:
            continue
        tried = replace(able, thinking_switch=switch)
        heard = await _put(asker, wanted, tried)
        able = replace(able, refused_fields=heard.refused_fields)
        if not thought(heard.reply) and switch not in heard.refused_fields:
            return replace(tried, refused_fields=heard.refused_fields, thinking="switchable"), heard
    able = replace(able, thinking="always", thinking_switch="")
    heard = await _put(asker, wanted, able)
    return replace(able, refused_fields=heard.refused_fields, answer_s=heard.seconds), heard


async def _try_two(asker: Asker, able: Capabilities) -> Capabilities:
    pictures = (plain_jpeg(_FIRST), plain_jpeg(_SECOND))
    try:
        heard = await asker.put(Wanted(_SYSTEM, _USER_TWO, _SCHEMA_TWO, _MAX_TOKENS, pictures), able)
    except EndpointError as exc:
        if exc.fault in (EndpointFault.CONNECT, EndpointFault.LOADING, EndpointFault.AUTH, EndpointFault.RATE_LIMITED):
            raise
        return able  # it answered about one picture: that two are too many is no fault
    both = _names(heard.reply) == {_FIRST, _SECOND}
    # the first question may have loaded the model: the quicker one is the better guess
    quicker = min(heard.seconds, able.answer_s or heard.seconds)
    return replace(able, several_pictures=both, refused_fields=heard.refused_fields, answer_s=quicker)


def thought(reply: Reply | None) -> bool:
    """Whether the model thought aloud before it answered."""
    if reply is None:
        return False
    inside = re.search(r"<think(?:ing)?>(.*?)(?:</think|$)", reply.text, re.DOTALL | re.IGNORECASE)
    return bool(reply.text.strip() and reply.reasoning.strip()) or bool(
        (inside and inside[1].strip()) or (reply.is_cut and reply.reasoning.strip())
    )


def _schema_state(heard: Heard, able: Capabilities) -> str:
    if "response_format" in able.refused_fields:
        return "refused"
    try:
        value = json.loads(_said(heard.reply))
    except (ValueError, RecursionError):
        return "ignored"
    is_bound = isinstance(value, Mapping) and set(value) == {"colour"} and value["colour"] in COLOURS
    return "enforced" if is_bound else "ignored"


def _has_logprobs(heard: Heard) -> bool:
    return heard.reply is not None and bool(heard.reply.tokens)


def _said(reply: Reply | None) -> str:
    if reply is None:
        return ""
    return reply.text if reply.text.strip() else reply.reasoning


def _names(reply: Reply | None) -> set[str]:
    """The colours an answer names, its thoughts left out."""
    text = re.sub(r"^.*</think(?:ing)?>", "", _said(reply), flags=re.DOTALL | re.IGNORECASE).casefold()
    return {colour for colour in COLOURS if re.search(rf"\b{colour}\b", text)}


def plain_jpeg(colour: str) -> bytes:
    """A picture of nothing but one colour."""
    out = io.BytesIO()
    Image.new("RGB", (_SIDE_PX, _SIDE_PX), COLOURS[colour]).save(out, "JPEG", quality=90)
    return out.getvalue()


# --- remembering ----------------------------------------------------------------------------------------------


def to_json(able: Capabilities, *, fingerprint: str, at: datetime) -> dict[str, object]:
    """The form that is remembered."""
    known = asdict(able)
    known["refused_fields"] = sorted(able.refused_fields)
    known["notes"] = list(able.notes)
    return {"format": FORMAT, "at": at.isoformat(), "fingerprint": fingerprint, "capabilities": known}


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier probe found out, and when."""

    capabilities: Capabilities
    at: datetime


def from_json(data: Mapping[str, object] | None, *, fingerprint: str, now: datetime) -> Remembered | None:
    """What was remembered, if it is whole, recent, and of the same server with the same models; else None."""
    if data is None or data.get("format") != FORMAT or data.get("fingerprint") != fingerprint:
        return None
    known = data.get("capabilities")
    try:
        at = datetime.fromisoformat(str(data.get("at")))
        if at.tzinfo is None or not timedelta(0) <= now.astimezone(UTC) - at <= MAX_AGE:
            return None
    except ValueError:
        return None
    if not isinstance(known, Mapping) or set(known) != {f.name for f in fields(Capabilities)}:
        return None
    values = dict(known)
    for name in ("refused_fields", "notes"):
        if not isinstance(values[name], list) or not all(isinstance(v, str) for v in values[name]):
            return None
    values["refused_fields"] = frozenset(values["refused_fields"])
    values["notes"] = tuple(values["notes"])
    for name in ("server", "model", "json_schema", "thinking", "length_field", "thinking_switch"):
        if not isinstance(values[name], str):
            return None
    for name in ("sees_pictures", "logprobs", "several_pictures", "is_remote"):
        if not isinstance(values[name], bool):
            return None
    for name, kind in (("parallel_hint", int), ("most_pictures", int), ("answer_s", int | float)):
        value = values[name]
        if value is None:
            continue
        if (
            isinstance(value, bool) or not isinstance(value, kind) or not value >= (1 if kind is int else 0)
        ):  # not: nor NaN
            return None
    return Remembered(Capabilities(**values), at)
