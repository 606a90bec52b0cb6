"""An OpenAI-compatible vision server for demos, tests and measurements. Its answers come from the pixels.

It checks requests as strictly as real servers do, works through a queue with so many slots, fails when it is
told to, and keeps a log that proves what a client did:

    async with VisionServer(see=truth_of, slots=4, latency_s=0.2) as server:
        ...                                  # talk to server.base_url
        assert server.asked_twice() == {}

`with VisionServer(...).in_thread() as server:` runs it beside synchronous code, and
`python -m demo.vision_server --port 8009 --tags "Foul, Dunk"` by itself, for clips whose cards are those.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Self

from aiohttp import web

from demo.court import TAGS, seen_in
from demo.vision.eyes import Eyes, See
from demo.vision.faults import Fault, FaultKind, Occasion, Script, never, parse_rates, rates
from demo.vision.record import Entry, Record, ServerStatistics
from demo.vision.replies import spoiled
from demo.vision.wire import (
    KNOWN_FIELDS,
    Asked,
    Rejection,
    asks_for_colours,
    completion,
    model_list,
    picture_hash,
    read_question,
    write_answer,
    write_several,
)

log = logging.getLogger(__name__)


class VisionServer:
    """The server; starts and stops as an async context manager, as often as wanted, on the same port.

    Args:
        see: names of what a picture shows; called once per picture.
        host, port: where to listen; port 0 picks a free one.
        slots: questions worked on at once; others wait in order.
        max_waiting: questions that may wait; None: any number, as llama-server.
        status_when_full: 429 or 503, for questions beyond that.
        latency_s: seconds of work a question, or a function of the question's number.
        models: names on offer; the first is loaded. Others are refused with 404.
        api_key: wanted as a bearer token; None: anybody may ask.
        script: what goes wrong, and when.
        schema: 'enforced', 'ignored', or 'refused' (400).
        logprobs: whether probabilities are given when asked for.
        most_pictures: of one question; more are refused as vLLM refuses them.
        sees_pictures: False: a text model, which refuses pictures as llama-server does.
        thinks: 'no'; 'switchable': unless turned off; 'always'.
        refused_fields: request fields that get `refusal_status`, as strict servers do.
        miss_rate, false_alarm_rate: share of names left out, and of names made up, per picture; by `seed`.
        context: tokens a question and its answer may take.
        max_body_bytes: larger requests get 413.
        sleep, clock: injectable time.
    """

    def __init__(
        self,
        see: See,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        slots: int = 4,
        max_waiting: int | None = None,
        status_when_full: int = 429,
        latency_s: float | Callable[[int], float] = 0.0,
        models: Sequence[str] = ("demo-vlm",),
        api_key: str | None = None,
        script: Script = never,
        schema: str = "enforced",
        logprobs: bool = True,
        most_pictures: int | None = None,
        sees_pictures: bool = True,
        thinks: str = "no",
        refused_fields: Collection[str] = (),
        refusal_status: int = 400,
        miss_rate: float = 0.0,
        false_alarm_rate: float = 0.0,
        seed: int = 0,
        context: int = 32768,
        max_body_bytes: int = 100 * 2**20,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.script = script
        self.slots = slots
        self.models = tuple(models)
        self.api_key = api_key
        self.most_pictures = most_pictures
        self.sees_pictures = sees_pictures
        self._host, self._port = host, port
        self._max_waiting, self._status_when_full = max_waiting, status_when_full
        self._latency = latency_s if callable(latency_s) else lambda _, fixed=latency_s: fixed
        self._schema, self._logprobs, self._thinks = schema, logprobs, thinks
        self.refused_fields, self._refusal_status = frozenset(refused_fields), refusal_status
        self._eyes = Eyes(see, miss_rate=miss_rate, false_alarm_rate=false_alarm_rate, seed=seed)
        self._context, self._max_body = context, max_body_bytes
        self._sleep, self._clock = sleep, clock
        self._began = clock()
        self._attempts: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._count = self._questions = 0
        self._record = Record()
        self._gate = asyncio.Semaphore(slots)
        self._runner: web.AppRunner | None = None

    # --- life -------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """Address to configure, up to `/v1`."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def port(self) -> int:
        """Port it listens on, or will."""
        return self._port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. The port stays the same over any number of stops and starts."""
        app = web.Application(client_max_size=self._max_body)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._gate = asyncio.Semaphore(self.slots)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, keepalive_timeout=5.0, shutdown_timeout=0.05
        )
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port).start()
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and break what is under way, as a crash does."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run in a thread with a loop of its own; stopped and joined at the end."""
        started = threading.Event()
        failure: list[BaseException] = []
        loop, end = asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            async with self:
                started.set()
                await end.wait()

        def body() -> None:
            try:
                loop.run_until_complete(serve())
            except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits
                failure.append(exc)
            finally:
                loop.close()
                started.set()

        thread = threading.Thread(target=body, name="vision-server", daemon=True)
        thread.start()
        started.wait()
        if failure:
            thread.join()
            raise failure[0]
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(end.set)
            thread.join()

    # --- evidence ---------------------------------------------------------------------------------------------

    @property
    def entries(self) -> deque[Entry]:
        """One per question, in the order they ended."""
        return self._record.entries

    @property
    def in_flight(self) -> int:
        """Questions worked on now."""
        return self._record.in_flight

    def statistics(self) -> ServerStatistics:
        """A snapshot of the counters."""
        return self._record.statistics()

    def questions(self) -> list[Entry]:
        """The log without tests of the model's sight."""
        return self._record.questions()

    def asked_twice(self) -> dict[str, int]:
        """Pictures that were answered more than once, by hash; the tests of sight do not count."""
        return self._record.asked_twice()

    # --- requests ---------------------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if (denied := self._denied(request)) is not None:
            return denied
        return web.json_response(model_list(self.models, "haven-demo"))

    def _denied(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        error = {"message": "Invalid API Key", "type": "authentication_error", "code": 401}
        return web.json_response({"error": error}, status=401)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        number, at_s = self._count, self._clock() - self._began
        self._count += 1
        entry = Entry(number, "", at_s, 0, None, 0)
        try:
            body = await request.read()
            entry = replace(entry, body_bytes=len(body))
            asked = self._accept(request, body)
            attempt = self._attempts[asked.picture]
            self._attempts[asked.picture] += 1
            is_probe = asks_for_colours(asked.text)
            fault = self.script(Occasion(-1 if is_probe else self._questions, asked.picture, attempt))
            self._questions += not is_probe
            entry = replace(
                entry,
                picture=asked.picture,
                pictures=len(asked.pictures),
                examples=tuple(map(picture_hash, (jpeg for jpeg, _ in asked.examples))),
                fault=fault.kind if fault else None,
                is_probe=is_probe,
                text=picture_hash(asked.text.encode()),
            )
            response = await self._in_turn(request, asked, fault, number)
            kind = fault.kind if fault is not None else None
            answered = kind in (None, FaultKind.SLOW, FaultKind.LEAVES_OUT)
            spoken_of = asked.pictures[:-1] if kind is FaultKind.LEAVES_OUT and asked.numbers else asked.pictures
            entry = replace(entry, all_answered=tuple(map(picture_hash, spoken_of)))
            status = 0 if entry.fault is FaultKind.DROP else response.status
            entry = replace(entry, status=status, answered=answered and status == 200)
            return response
        except Rejection as exc:
            entry = replace(entry, status=exc.status)
            return web.json_response(exc.body, status=exc.status)
        except web.HTTPRequestEntityTooLarge:
            entry = replace(entry, status=413)
            raise
        except asyncio.CancelledError:
            entry = replace(entry, is_cancelled=True)
            raise
        finally:
            self.entries.append(entry)

    def _accept(self, request: web.Request, body: bytes) -> Asked:
        if self._denied(request) is not None:
            raise Rejection(401, "Invalid API Key", type_="authentication_error")
        if request.content_type != "application/json":
            raise Rejection(415, f"Unsupported media type {request.content_type}")
        asked = read_question(body)
        for name in sorted(self.refused_fields & asked.fields):
            raise Rejection(self._refusal_status, f"Unrecognized request argument supplied: {name}", param=name)
        if unknown := asked.fields - KNOWN_FIELDS:
            raise Rejection(self._refusal_status, f"Unrecognized request argument supplied: {min(unknown)}")
        if asked.model not in self.models:
            raise Rejection(404, f"The model `{asked.model}` does not exist.", type_="NotFoundError", param="model")
        if self.most_pictures is not None and len(asked.sizes) > self.most_pictures:
            raise Rejection(400, f"At most {self.most_pictures} image(s) may be provided in one request.")
        if asked.pictures and not self.sees_pictures:
            raise Rejection(500, "image input is not supported - hint: you may need to provide the mmproj")
        if asked.schema is not None and self._schema == "refused":
            raise Rejection(400, "This response_format type is unavailable now", param="response_format")
        if asked.tokens + asked.max_tokens > self._context:
            raise Rejection(
                400,
                f"request ({asked.tokens} tokens) exceeds the available context size ({self._context} tokens)",
                type_="exceed_context_size_error",
                n_prompt_tokens=asked.tokens,
                n_ctx=self._context,
            )
        return asked if self._schema == "enforced" else replace(asked, schema=None, wants_json=False)

    async def _in_turn(
        self, request: web.Request, asked: Asked, fault: Fault | None, number: int
    ) -> web.StreamResponse:
        if self._gate.locked():
            if self._max_waiting is not None and self._record.waiting >= self._max_waiting:
                raise Rejection(
                    self._status_when_full, "server busy, please try again: the queue is full", type_="busy"
                )
            self._record.queued()
            try:
                await self._gate.acquire()
            finally:
                self._record.unqueued()
        else:
            await self._gate.acquire()
        began = self._clock()
        self._record.began()
        try:
            return await self._work(request, asked, fault, number)
        finally:
            self._record.ended(self._clock() - began)
            self._gate.release()

    async def _work(self, request: web.Request, asked: Asked, fault: Fault | None, number: int) -> web.StreamResponse:
        leaves_out = fault is not None and fault.kind is FaultKind.LEAVES_OUT
        if fault is not None and fault.kind is not FaultKind.SLOW and not leaves_out:
            return await spoiled(request, asked, fault, number, work=lambda: self._sleep(self._latency(number)))
        await self._sleep(self._latency(number) + (fault.seconds if fault and not leaves_out else 0.0))
        sight = self._eyes.look(asked)
        reasoning = ""
        if self._thinks == "always" or (self._thinks == "switchable" and not asked.thinking_off):
            reasoning = "Let me look at the picture from left to right. " * 8
        cached = len(asked.text) // 4 if self._texts[asked.text] else 0
        self._texts[asked.text] += 1
        content = write_answer(asked, sight.names)
        if asked.numbers:
            seen = dict(zip(asked.numbers, (s.names for s in self._eyes.look_at_each(asked)), strict=True))
            if leaves_out:
                del seen[asked.numbers[-1]]
            content = write_several(asked, seen)
        sureness = {n: sight.sureness.get(n, 0.97) for n in sight.names}
        return web.json_response(
            completion(
                asked,
                content=content,
                number=number,
                reasoning=reasoning,
                cached=cached,
                sureness=sureness if asked.logprobs and self._logprobs else None,
            )
        )


def eyes_for(tags: str) -> See:
    """Eyes for generated clips with these tags, by commas, in the order of their cards; for all eight if empty."""
    names = tuple(name.strip() for name in tags.split(",") if name.strip())
    return partial(seen_in, tags=names or TAGS)


def _function(path: str) -> See:
    module, _, function = path.partition(":")
    see: See = getattr(importlib.import_module(module), function)
    return see


async def _forever(server: VisionServer) -> None:
    async with server:
        log.info("listening at %s, models %s", server.base_url, ", ".join(server.models))
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(prog="demo.vision_server", description="An OpenAI-compatible vision server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8009)
    parser.add_argument("--tags", default="", help="those of the clips, in their order, by commas; default: all eight")
    parser.add_argument("--see", default="", help="instead: module:function from a JPEG to its tags")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--max-waiting", type=int, default=None)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--model", action="append", help="may be given several times; the first one is loaded")
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--faults", default="", help="for example rate_limited=0.1,server=0.05")
    parser.add_argument("--miss", type=float, default=0.0)
    parser.add_argument("--false-alarm", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.see and options.tags:
        parser.error("--tags belongs to the generated clips; what --see names has tags of its own")
    server = VisionServer(
        _function(options.see) if options.see else eyes_for(options.tags),
        host=options.host,
        port=options.port,
        slots=options.slots,
        max_waiting=options.max_waiting,
        latency_s=options.latency_ms / 1000,
        models=options.model or ("demo-vlm",),
        api_key=options.api_key,
        script=rates(parse_rates(options.faults), seed=options.seed) if options.faults else never,
        miss_rate=options.miss,
        false_alarm_rate=options.false_alarm,
        seed=options.seed,
    )
    try:
        asyncio.run(_forever(server))
    except KeyboardInterrupt:
        log.info("%s", server.statistics())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
