"""What each server says about itself, in the shapes they really have, and which model is chosen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from demo.vision_server import VisionServer
from haven_vlm.endpoint_faults import Verdict
from haven_vlm.errors import EndpointError
from haven_vlm.errors import EndpointFault as F
from haven_vlm.model_choice import choose, nearest
from haven_vlm.server_survey import Model, Server, discover
from tests.endpoint.conftest import Connect, Stub, completion

VLLM = {"object": "list", "data": [{"id": "Qwen/Qwen3-VL-8B", "owned_by": "vllm", "max_model_len": 8192}]}
LLAMA = {"object": "list", "data": [{"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}]}
OLLAMA = {"data": [{"id": "llava:latest", "owned_by": "library"}, {"id": "phi:latest", "owned_by": "library"}]}
LMS = {"data": [{"id": "qwen-vl", "owned_by": "organization_owner"}, {"id": "gemma", "owned_by": "organization_owner"}]}


async def able(stub: Stub, connect: Connect, models: Any, **options: Any) -> Any:
    stub.says("/v1/models", models)
    stub.says("/v1/chat/completions", completion('{"colour":"blue"}'))
    return await (await connect(stub.base_url, **options)).prepare()


async def refused(stub: Stub, connect: Connect, models: Any, **options: Any) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        await able(stub, connect, models, **options)
    return caught.value


async def test_vllm(stub: Stub, connect: Connect) -> None:
    got = await able(stub, connect, VLLM)
    assert (got.server, got.model) == ("vllm", "Qwen/Qwen3-VL-8B")


async def test_llama_cpp_says_how_many_it_works_on_and_answers_to_any_name(stub: Stub, connect: Connect) -> None:
    stub.says("/props", {"total_slots": 4, "modalities": {"vision": True}, "chat_template": "{{ enable_thinking }}"})
    got = await able(stub, connect, LLAMA, model="whatever")
    assert (got.server, got.model, got.parallel_hint) == ("llama.cpp", "m.gguf", 4)
    assert (got.thinking, got.thinking_switch) == ("switchable", "chat_template_kwargs")


async def test_llama_cpp_without_its_projector(stub: Stub, connect: Connect) -> None:
    stub.says("/props", {"total_slots": 4, "modalities": {"vision": False}})
    error = await refused(stub, connect, LLAMA)
    assert (error.fault, "mmproj" in error.fix) == (F.MODEL, True)
    assert "/v1/chat/completions" not in stub.paths()


async def test_a_router_of_llama_cpp_has_many_models(stub: Stub, connect: Connect) -> None:
    listed = [
        {"id": "a", "owned_by": "llamacpp", "status": {"value": "unloaded"}},
        {"id": "b", "owned_by": "llamacpp", "status": {"value": "loaded"}},
    ]
    assert (await able(stub, connect, {"data": listed})).model == "b"
    assert (await able(stub, connect, {"data": listed}, model="a")).model == "a"
    stub.says("/props", {"role": "router"})
    assert (await able(stub, connect, {"data": listed[:1]})).model == "a"
    assert (await refused(stub, connect, {"data": listed[:1]}, model="c")).fault is F.MODEL


@pytest.mark.parametrize(
    ("listed", "headers", "kind"),
    [
        ({"id": "m", "owned_by": "openai"}, {"x-litellm-version": "1.80"}, "litellm"),
        ({"id": "m", "owned_by": "mlx-vlm"}, {}, "mlx-vlm"),
        ({"id": "koboldcpp/some-model", "owned_by": "me"}, {}, "koboldcpp"),
        ({"id": "m", "owned_by": "koboldcpp"}, {}, "koboldcpp"),
        ({"id": "m", "owned_by": "sglang"}, {}, "sglang"),
    ],
)
async def test_servers_are_known_by_their_marks(
    stub: Stub, connect: Connect, listed: dict[str, str], headers: dict[str, str], kind: str
) -> None:
    stub.says("/v1/chat/completions", completion('{"colour":"blue"}'))
    stub.says("/v1/models", {"data": [listed]}, headers=headers)
    assert (await (await connect(stub.base_url)).prepare()).server == kind


async def test_ollama(stub: Stub, connect: Connect) -> None:
    stub.says("/api/ps", {"models": [{"model": "llava:latest"}]})
    stub.says("/api/show", {"capabilities": ["completion", "vision", "thinking"]})
    got = await able(stub, connect, OLLAMA, model="llava")
    assert (got.server, got.model) == ("ollama", "llava:latest")
    assert (got.thinking, got.thinking_switch) == ("switchable", "reasoning_effort")


async def test_ollama_with_a_text_model(stub: Stub, connect: Connect) -> None:
    stub.says("/api/show", {"capabilities": ["completion"]})
    error = await refused(stub, connect, OLLAMA, model="phi")
    assert error.fault is F.MODEL
    assert "does not see pictures" in str(error)


async def test_ollama_is_recognised_by_its_own_interface(stub: Stub, connect: Connect) -> None:
    stub.says("/api/version", {"version": "0.20.0"})
    stub.says("/api/show", {"capabilities": ["vision"]})
    got = await able(stub, connect, {"data": [{"id": "me/mine:latest", "owned_by": "me"}]})
    assert got.server == "ollama"


async def test_a_server_that_does_not_say_what_it_is_is_asked_around_once(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", {"data": [{"id": "m"}]})
    stub.says("/v1/chat/completions", {"error": {"message": "Rate limit reached"}}, status=429)
    endpoint = await connect(stub.base_url)
    for _ in range(3):
        with pytest.raises(EndpointError):
            await endpoint.prepare()
    assert stub.paths().count("/api/version") == 1


async def test_lm_studio_uses_the_vision_model_that_is_loaded(stub: Stub, connect: Connect) -> None:
    listed = [
        {
            "key": "qwen-vl",
            "capabilities": {"vision": True, "reasoning": None},
            "loaded_instances": [{"id": "qwen-vl", "config": {"context_length": 4096, "parallel": 6}}],
        },
        {"key": "gemma", "capabilities": {"vision": True}, "loaded_instances": []},
    ]
    stub.says("/api/v1/models", {"models": listed})
    got = await able(stub, connect, LMS)
    assert (got.server, got.model, got.parallel_hint) == ("lm-studio", "qwen-vl", 6)


async def test_an_older_lm_studio(stub: Stub, connect: Connect) -> None:
    listed = [{"id": "qwen-vl", "type": "llm", "state": "loaded"}, {"id": "gemma", "type": "vlm", "state": "loaded"}]
    stub.says("/api/v0/models", {"data": listed})
    got = await able(stub, connect, LMS)
    assert (got.server, got.model) == ("lm-studio", "gemma")
    error = await refused(stub, connect, LMS, model="qwen-vl")
    assert (error.fault, "gemma" in error.fix) == (F.MODEL, True)


async def test_lm_studio_would_answer_with_another_model_so_the_name_is_checked(stub: Stub, connect: Connect) -> None:
    error = await refused(stub, connect, LMS, model="qwen-v1")
    assert error.fault is F.MODEL
    assert "Did you mean “qwen-vl”?" in error.fix
    assert "/v1/chat/completions" not in stub.paths()


async def test_koboldcpp_works_on_one_at_a_time(stub: Stub, connect: Connect) -> None:
    stub.says("/api/extra/version", {"result": "KoboldCpp", "version": "1.99", "vision": True})
    got = await able(stub, connect, {"data": [{"id": "koboldcpp/m", "owned_by": "koboldcpp"}]})
    assert (got.server, got.parallel_hint) == ("koboldcpp", 1)


async def test_models_that_say_what_they_take(stub: Stub, connect: Connect) -> None:
    listed = [
        {"id": "text", "architecture": {"input_modalities": ["text"]}},
        {"id": "eyes", "architecture": {"input_modalities": ["text", "image"]}},
    ]
    assert (await able(stub, connect, {"data": listed})).model == "eyes"
    error = await refused(stub, connect, {"data": listed}, model="text")
    assert "eyes" in error.fix


async def test_several_models_and_none_named(stub: Stub, connect: Connect) -> None:
    error = await refused(stub, connect, {"data": [{"id": "a"}, {"id": "b"}]})
    assert error.fault is F.MODEL
    assert "a, b" in error.fix


async def test_no_model_at_all(stub: Stub, connect: Connect) -> None:
    error = await refused(stub, connect, {"data": []})
    assert (error.fault, str(error)) == (F.MODEL, "it offers no model")


async def test_a_server_that_lists_nothing_will_do_if_the_model_is_named(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/chat/completions", completion("red"))
    for status, data in ((404, {"detail": "Not Found"}), (500, b"Internal Server Error")):
        stub.says("/v1/models", data, status=status)
        endpoint = await connect(stub.base_url, model="m")
        assert (await endpoint.prepare()).model == "m"
        await endpoint.ping()
        with pytest.raises(EndpointError):
            await (await connect(stub.base_url)).prepare()


async def test_a_missing_v1_is_told(stub: Stub, connect: Connect) -> None:
    stub.says("/v1/models", VLLM)
    root = stub.base_url.removesuffix("/v1")
    with pytest.raises(EndpointError) as caught:
        await (await connect(root)).prepare()
    assert caught.value.fault is F.NOT_AN_API
    assert caught.value.fix == f"Set base_url to {stub.base_url}"


async def test_the_address_of_a_single_interface_is_told(stub: Stub, connect: Connect) -> None:
    with pytest.raises(EndpointError) as caught:
        await (await connect(f"{stub.base_url}/chat/completions")).prepare()
    assert caught.value.fix == f"Set base_url to {stub.base_url}"


@pytest.mark.parametrize("page", [b"<!doctype html><html>router</html>", b"Ollama is running"])
async def test_a_web_page_is_no_model_server(stub: Stub, connect: Connect, page: bytes) -> None:
    stub.says("/v1/models", page)
    with pytest.raises(EndpointError) as caught:
        await (await connect(stub.base_url, model="m")).prepare()
    assert caught.value.fault is F.NOT_AN_API


@pytest.mark.parametrize(
    "data",
    [[], {"data": None}, {"data": [1, {"id": 3}, {}]}, {"data": "x"}, 7, {"models": []}],
)
async def test_lists_of_odd_shape_are_lists_of_nothing(stub: Stub, connect: Connect, data: Any) -> None:
    error = await refused(stub, connect, data)
    assert error.fault in (F.MODEL, F.NOT_AN_API)


@pytest.mark.parametrize("data", [[], 3, {"models": 3}, {"models": [3, {"key": 1, "loaded_instances": [4]}]}, None])
@pytest.mark.parametrize("models", [LLAMA, OLLAMA, LMS])
async def test_details_of_odd_shape_do_no_harm(stub: Stub, connect: Connect, models: Any, data: Any) -> None:
    for path in ("/props", "/api/ps", "/api/show", "/api/v1/models", "/api/v0/models"):
        stub.says(path, data)
    name = models["data"][0]["id"]
    assert (await able(stub, connect, models, model=name)).model == name


def test_the_nearest_names_come_with_the_refusal() -> None:
    names = ["qwen3-vl-8b", "gemma-3-12b"]
    assert nearest("qwen3-vl-8B", names).startswith("Did you mean “qwen3-vl-8b”?")
    assert "Did you mean" not in nearest("zzz", names)
    assert "no model" in nearest("x", [])


def test_a_name_is_found_whatever_its_case_and_tag() -> None:
    def fail(verdict: Verdict) -> EndpointError:
        return EndpointError(verdict.message, endpoint="lan", fault=verdict.fault, fix=verdict.fix)

    server = Server("ollama", (Model("LLaVA:latest"), Model("b:latest")), "f", is_remote=False, checks_names=True)
    assert choose(server, "llava:latest", fail=fail).id == "LLaVA:latest"
    assert choose(server, "b", fail=fail).id == "b:latest"
    twins = Server("vllm", (Model("a"), Model("A")), "f", is_remote=False)
    assert choose(twins, "A", fail=fail).id == "A"


async def test_servers_on_this_machine_are_found() -> None:
    async with VisionServer(lambda _: []) as open_one, VisionServer(lambda _: [], api_key="k") as locked:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        async with server:
            silent = server.sockets[0].getsockname()[1]
            found = await discover({open_one.port: "Demo", locked.port: "Locked", silent: "x"}, timeout_s=5)
    assert [(f.base_url, f.kind, f.models) for f in found] == [
        (open_one.base_url, "Demo", ("demo-vlm",)),
        (locked.base_url, "Locked", ()),
    ]
