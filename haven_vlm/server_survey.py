"""What a model server says about itself: its kind, its models, what they can do. Each server in its own words.

Only GET requests without pictures; everything a server may leave out may be missing. Shapes are those of
llama.cpp b11434, vLLM 0.33, SGLang 0.5, Ollama 2026-08, LM Studio 0.4, mlx-vlm 0.7, KoboldCpp 2026, OpenRouter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from haven_vlm.endpoint_faults import Verdict, decoded, judge
from haven_vlm.endpoint_transport import HttpReply, Transport
from haven_vlm.errors import EndpointError, EndpointFault

LOOK_TIMEOUT_S = 15.0
"""For one answer about the server itself; some answer only between two pieces of work."""

KNOWN_PORTS: Mapping[int, str] = {
    1234: "LM Studio",
    11434: "Ollama",
    8080: "llama.cpp or LocalAI",
    8000: "vLLM or mlx-vlm",
    30000: "SGLang",
    5001: "KoboldCpp",
    5000: "text-generation-webui or TabbyAPI",
    1337: "Jan",
    4000: "LiteLLM",
}
"""Ports on which model servers listen unless told otherwise."""

_LIST_ALL = frozenset({"vllm", "ollama", "lm-studio", "sglang", "mlx-vlm"})
"""Servers that list every model they would answer for; others are asked, and judge names themselves."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model on offer."""

    id: str
    sees: bool | None = None
    """Whether it takes pictures; None when the server does not say."""
    loaded: bool | None = None
    thinks: bool | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says about itself."""

    kind: str
    """'llama.cpp', 'vllm', 'sglang', 'ollama', 'lm-studio', 'mlx-vlm', 'koboldcpp', 'litellm', 'openai',
    'openrouter', 'google', or 'unknown'."""
    models: tuple[Model, ...]
    fingerprint: str
    """Changes when the server offers other models, or itself is another one."""
    is_remote: bool
    lists_models: bool = True
    checks_names: bool = False
    """A name that is not in the list is wrong."""


@dataclass(frozen=True, slots=True)
class _Page:
    reply: HttpReply
    data: object
    verdict: Verdict | None


async def look(transport: Transport, url: str, *, post: Mapping[str, object] | None = None) -> _Page:
    """Fetch one JSON document, whatever the status.

    Raises:
        EndpointError: there was no HTTP answer.
    """
    reply = await transport.send(
        "GET" if post is None else "POST",
        url,
        body=None if post is None else json.dumps(post).encode(),
        connect_timeout_s=LOOK_TIMEOUT_S / 3,
        total_timeout_s=LOOK_TIMEOUT_S,
    )
    data = decoded(reply.body)
    return _Page(reply, data, judge(reply.status, reply.headers, reply.body, document=data))


async def survey(
    transport: Transport,
    *,
    wanted: str,
    fail: Callable[[Verdict, int], EndpointError],
    kinds: MutableMapping[str, str] | None = None,
) -> Server:
    """Ask the server for its models and, in its own way, for what they can do.

    Args:
        transport: open.
        wanted: model of the settings; with one, a server that lists no models will do.
        fail: makes an error of a verdict and a status.
        kinds: what was found out about servers that do not say what they are, so that they are asked once.

    Raises:
        EndpointError: no answer, no API there, a wrong key, or it is loading.
    """
    page = await look(transport, f"{transport.base_url}/models")
    if page.verdict is not None:
        await _complain(transport, page, page.verdict, wanted=wanted, fail=fail)
    entries = _entries(page.data)
    kind = _kind(transport.base_url, page.reply.headers, entries)
    models = [_generic(e) for e in entries]
    if kind == "unknown" and not page.reply.is_remote:
        kinds = {} if kinds is None else kinds
        looks = _fingerprint(page, entries, models)
        if looks not in kinds:
            kinds[looks] = await _ask_around(transport)
        kind = kinds[looks]
    details = _DETAILS.get(kind)
    if details is not None:
        models = await details(transport, models, wanted, fail)
    is_router = kind == "llama.cpp" and any(m.loaded is not None for m in map(_generic, entries))
    return Server(
        kind,
        tuple(models),
        _fingerprint(page, entries, models),
        page.reply.is_remote,
        lists_models=page.verdict is None,
        checks_names=kind in _LIST_ALL or is_router,
    )


async def _complain(
    transport: Transport, page: _Page, verdict: Verdict, *, wanted: str, fail: Callable[[Verdict, int], EndpointError]
) -> None:
    """Raise what a failed list of models means, unless the server can do without one."""
    status = page.reply.status
    if verdict.fault is EndpointFault.NOT_AN_API:
        base = transport.base_url
        for ending in ("/chat/completions", "/completions", "/models"):
            if base.endswith(ending):
                raise fail(replace(verdict, fix=f"Set base_url to {base.removesuffix(ending)}"), status)
        if not base.endswith("/v1"):
            corrected = await look(transport, f"{base}/v1/models")
            if corrected.verdict is None or corrected.verdict.fault is EndpointFault.AUTH:
                raise fail(replace(verdict, fix=f"Set base_url to {base}/v1"), status)
    is_json = page.data is not None
    no_list = verdict.fault in (EndpointFault.NOT_AN_API, EndpointFault.SERVER, EndpointFault.OTHER) and is_json
    if not (wanted and (no_list or (status == 500 and verdict.fault is EndpointFault.SERVER))):
        raise fail(verdict, status)


def _entries(data: object) -> list[Mapping[str, object]]:
    listed = data.get("data") if isinstance(data, Mapping) else data
    if not isinstance(listed, list):
        return []
    return [e for e in listed if isinstance(e, Mapping) and isinstance(e.get("id"), str)]


def _kind(base_url: str, headers: Mapping[str, str], entries: Sequence[Mapping[str, object]]) -> str:
    host = urlsplit(base_url).hostname or ""
    for ending, kind in (
        ("api.openai.com", "openai"),
        ("openrouter.ai", "openrouter"),
        ("generativelanguage.googleapis.com", "google"),
    ):
        if host == ending or host.endswith("." + ending):
            return kind
    software = headers.get("server", "").lower()
    owners = {str(e.get("owned_by", "")).lower() for e in entries}
    if any(name.startswith("x-litellm") for name in headers):
        return "litellm"
    if "llama.cpp" in software or "llamacpp" in owners:
        return "llama.cpp"
    if "mlx_vlm" in software or "mlx-vlm" in owners:
        return "mlx-vlm"
    for owner, kind in (("vllm", "vllm"), ("sglang", "sglang"), ("koboldcpp", "koboldcpp"), ("library", "ollama")):
        if owner in owners:
            return kind
    if any(str(e["id"]).startswith("koboldcpp/") for e in entries):
        return "koboldcpp"
    return "lm-studio" if "organization_owner" in owners else "unknown"


async def _ask_around(transport: Transport) -> str:
    """Tell servers apart that say nothing of themselves in their list of models."""
    for path, kind, mark in (("/api/version", "ollama", "version"), ("/api/v0/models", "lm-studio", "data")):
        page = await look(transport, f"{transport.root_url}{path}")
        if page.reply.status == 200 and isinstance(page.data, Mapping) and mark in page.data:
            return kind
    return "unknown"


def _generic(entry: Mapping[str, object]) -> Model:
    architecture = entry.get("architecture")
    modalities = architecture.get("input_modalities") if isinstance(architecture, Mapping) else None
    sees = "image" in modalities if isinstance(modalities, list) and modalities else None
    status = entry.get("status")
    state = status.get("value") if isinstance(status, Mapping) else None
    loaded = state == "loaded" if isinstance(state, str) else None
    return Model(str(entry["id"]), sees=sees, loaded=loaded)


# --- each server's own words ----------------------------------------------------------------------------------

_Fail = Callable[[Verdict, int], EndpointError]


async def _llama_cpp(transport: Transport, models: list[Model], _: str, fail: _Fail) -> list[Model]:
    page = await look(transport, f"{transport.root_url}/props")
    if page.verdict is not None and page.verdict.fault is EndpointFault.LOADING:
        raise fail(page.verdict, page.reply.status)  # its list of models is there before the model is
    if page.verdict is not None or not isinstance(page.data, Mapping) or len(models) != 1:
        return models
    if page.data.get("role") == "router":
        return models  # it has no properties of its own
    modalities, template = page.data.get("modalities"), page.data.get("chat_template")
    vision = modalities.get("vision") if isinstance(modalities, Mapping) else None
    return [
        replace(
            models[0],
            sees=vision if isinstance(vision, bool) else models[0].sees,
            loaded=True,
            thinks="enable_thinking" in template if isinstance(template, str) else None,
            parallel=_positive(page.data.get("total_slots")),
        )
    ]


async def _ollama(transport: Transport, models: list[Model], wanted: str, _: _Fail) -> list[Model]:
    running = await look(transport, f"{transport.root_url}/api/ps")
    listed = running.data.get("models") if isinstance(running.data, Mapping) else None
    listed = listed if isinstance(listed, list) else []
    loaded = {str(m.get("model") or m.get("name")) for m in listed if isinstance(m, Mapping)}
    asked_for = {wanted, f"{wanted}:latest"} if wanted else {m.id for m in models}
    result: list[Model] = []
    for model in models:
        if model.id in asked_for and len(result) < 50:  # one more request each
            page = await look(transport, f"{transport.root_url}/api/show", post={"model": model.id})
            able = page.data.get("capabilities") if isinstance(page.data, Mapping) else None
            if isinstance(able, list):
                model = replace(model, sees="vision" in able, thinks="thinking" in able)
        result.append(replace(model, loaded=model.id in loaded))
    return result


async def _lm_studio(transport: Transport, models: list[Model], _: str, __: _Fail) -> list[Model]:
    told: dict[str, Model] = {}
    page = await look(transport, f"{transport.root_url}/api/v1/models")
    listed = page.data.get("models") if isinstance(page.data, Mapping) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping):
            told |= {m.id: m for m in _lm_studio_model(entry)}
    if not told:
        page = await look(transport, f"{transport.root_url}/api/v0/models")
        for entry in _entries(page.data):
            kind, state = entry.get("type"), entry.get("state")
            sees = kind == "vlm" if kind in ("vlm", "llm") else None
            told[str(entry["id"])] = Model(str(entry["id"]), sees=sees, loaded=state == "loaded")
    return [told.get(m.id, m) for m in models]


def _lm_studio_model(entry: Mapping[object, object]) -> Iterable[Model]:
    able, instances = entry.get("capabilities"), entry.get("loaded_instances")
    running = [i for i in instances if isinstance(i, Mapping)] if isinstance(instances, list) else []
    sees = able.get("vision") if isinstance(able, Mapping) else None
    thinks = bool(able["reasoning"]) if isinstance(able, Mapping) and "reasoning" in able else None
    configs = [c for i in running if isinstance(c := i.get("config"), Mapping)]
    parallel = next((p for c in configs if (p := _positive(c.get("parallel"))) is not None), None)
    for name in {str(entry.get("key")), *(str(i.get("id")) for i in running)}:
        yield Model(name, sees if isinstance(sees, bool) else None, bool(running), thinks, parallel)


async def _koboldcpp(transport: Transport, models: list[Model], _: str, __: _Fail) -> list[Model]:
    page = await look(transport, f"{transport.root_url}/api/extra/version")
    vision = page.data.get("vision") if isinstance(page.data, Mapping) else None
    sees = vision if isinstance(vision, bool) else None
    return [replace(m, sees=sees, loaded=True, parallel=1) for m in models]


_DETAILS = {"llama.cpp": _llama_cpp, "ollama": _ollama, "lm-studio": _lm_studio, "koboldcpp": _koboldcpp}


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096 else None


def _fingerprint(page: _Page, entries: Sequence[Mapping[str, object]], models: Sequence[Model]) -> str:
    steady = [{k: e.get(k) for k in ("id", "owned_by", "meta", "architecture", "max_model_len")} for e in entries]
    own = [[m.id, m.sees, m.thinks, m.parallel] for m in models]
    text = json.dumps([page.reply.headers.get("server", ""), steady, own], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- servers nobody configured --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A model server on this machine."""

    base_url: str
    kind: str
    """As `Server.kind`, or what usually listens on that port."""
    models: tuple[str, ...]


async def discover(ports: Mapping[int, str] = KNOWN_PORTS, *, timeout_s: float = 1.0) -> tuple[Found, ...]:
    """Look for model servers on this machine's usual ports, all at once; never raises for those that are not there."""

    async def at(port: int, usual: str) -> Found | None:
        base = f"http://127.0.0.1:{port}/v1"
        async with Transport("discovery", base) as transport:
            try:
                reply = await transport.send(
                    "GET", f"{base}/models", connect_timeout_s=timeout_s / 2, total_timeout_s=timeout_s
                )
                data = json.loads(reply.body)
            except (EndpointError, ValueError, RecursionError):
                return None
        entries = _entries(data)
        if reply.status not in (200, 401, 403) or (reply.status == 200 and not entries):
            return None
        kind = _kind(base, reply.headers, entries)
        return Found(base, usual if kind == "unknown" else kind, tuple(str(e["id"]) for e in entries))

    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(at(port, usual)) for port, usual in ports.items()]
    return tuple(found for task in looks if (found := task.result()) is not None)
