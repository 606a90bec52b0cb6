"""The answers of a server that fails, as real servers word them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from demo.vision.faults import Fault, FaultKind
from demo.vision.wire import Asked, completion

_PAGE = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Log in to your router</body></html>"
_THOUGHT = "The picture shows something. Let me think about it once more. "


async def spoiled(
    request: web.Request, asked: Asked, fault: Fault, number: int, *, work: Callable[[], Awaitable[object]]
) -> web.StreamResponse:
    """Answer with a fault. `work` takes as long as a real answer; what fails at once does not await it."""
    match fault.kind:
        case FaultKind.HANG:
            await asyncio.Event().wait()
            raise AssertionError("an event nobody sets was set")
        case FaultKind.DROP:
            await work()
            return _broken(request)
        case FaultKind.RATE_LIMITED:
            return _error(429, fault.message or "Rate limit reached", "rate_limit_exceeded", fault.retry_after)
        case FaultKind.BUSY:
            message = "server busy, please try again.  maximum pending requests exceeded"
            return _error(503, fault.message or message, "busy", fault.retry_after)
        case FaultKind.LOADING:
            return _error(503, "Loading model", "unavailable_error")
        case FaultKind.UNAUTHORIZED:
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        case FaultKind.NO_MODEL:
            return _error(404, f"model '{asked.model}' not found, try pulling it first", "not_found_error")
        case FaultKind.OVERFLOW:
            message = "request (9000 tokens) exceeds the available context size (4096 tokens)"
            return _error(400, message, "exceed_context_size_error")
        case FaultKind.BAD_PICTURE:
            return _error(400, "Failed to load image or audio file", "invalid_request_error")
        case FaultKind.CRASH:
            return web.Response(status=500, text="Internal Server Error", headers={"Connection": "close"})
        case _:
            await work()
            return _worked(asked, fault, number)


def _worked(asked: Asked, fault: Fault, number: int) -> web.StreamResponse:
    """Faults of an answer that was generated: they take as long as a right one."""
    match fault.kind:
        case FaultKind.SERVER:
            return _error(500, fault.message or "something broke", "server_error")
        case FaultKind.JUNK:
            return web.Response(body=b'\x00\xff{"choices": [', content_type="application/json")
        case FaultKind.HTML:
            return web.Response(text=_PAGE, content_type="text/html")
        case FaultKind.EMPTY_CHOICES:
            return web.json_response({"object": "chat.completion", "model": asked.model, "choices": []})
        case FaultKind.ERROR_IN_200:
            return web.json_response({"error": {"message": fault.message or "provider went away", "code": 502}})
        case FaultKind.TRUNCATED:
            reply = completion(asked, content='{"tags":["Fr', number=number, finish="length")
        case FaultKind.OVERTHINKING:
            thought = _THOUGHT * (1 + asked.max_tokens // 14)
            reply = completion(asked, content="", number=number, finish="length", reasoning=thought)
        case FaultKind.REFUSAL:
            reply = completion(asked, content=None, number=number, refusal="I can't help with that.")
        case FaultKind.REFUSAL_TEXT:
            reply = completion(asked, content="I'm sorry, but I can't assist with that.", number=number)
        case FaultKind.CONTENT_FILTER:
            reply = completion(asked, content=None, number=number, finish="content_filter")
        case FaultKind.NONSENSE:
            reply = completion(asked, content="A quiet evening settles over the harbour.", number=number)
        case _:
            raise AssertionError(f"{fault.kind} has no answer")
    return web.json_response(reply)


def _broken(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # nobody is left to read it


def _error(status: int, message: str, type_: str, retry_after: str | None = None) -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    return web.json_response(
        {"error": {"message": message, "type": type_, "code": status}}, status=status, headers=headers
    )
