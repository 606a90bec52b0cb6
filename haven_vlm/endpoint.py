"""One OpenAI-compatible endpoint: questions go out shaped by what the server can do, answers come back judged."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from haven_vlm.budget import GUESS
from haven_vlm.capability import Heard, assumed, from_json, probe, to_json
from haven_vlm.chat import OPTIONAL_FIELDS, RequestForm, Wanted, read_reply, request_form
from haven_vlm.endpoint_faults import Verdict, decoded, judge
from haven_vlm.endpoint_transport import Resolver, Transport
from haven_vlm.errors import EndpointError, EndpointFault
from haven_vlm.facts import Answer, Prompt, Question
from haven_vlm.judging import judged
from haven_vlm.model_choice import choose, nearest
from haven_vlm.pool_ports import Capabilities, CapabilityMemory, Usage
from haven_vlm.privacy import is_local, redact
from haven_vlm.prompts import captions
from haven_vlm.server_survey import Model, Server, look, survey
from haven_vlm.settings import EndpointSettings

log = logging.getLogger(__name__)

MAX_DROPPED = len(OPTIONAL_FIELDS) + 1
"""Fields left out for one question at most: each is refused once."""

PROBE_CONNECT_TIMEOUT_S = 10.0

MAX_FORMS = 64
"""Encoded questions kept per endpoint: one for each prompt in use, or two."""

UNTOLD = replace(GUESS, requests=0)
"""What counts for an answer of a server that does not say how many tokens it used."""

MOST_PICTURES = 16
"""Pictures of one question where no smaller limit is known."""

TOO_LARGE = frozenset({EndpointFault.CONTEXT, EndpointFault.PICTURE, EndpointFault.OTHER})
"""Faults that a question with fewer pictures may not meet: servers word their limit in many ways."""


NOT_WITH_EXAMPLES = TOO_LARGE | {EndpointFault.SERVER, EndpointFault.FORBIDDEN}
"""Faults that the same question without examples may not meet."""


class HttpEndpoint:
    """A `VisionEndpoint` over HTTP; an async context manager, used from one loop.

    Args:
        settings: of this endpoint.
        memory: what was found out in earlier runs; None: find out anew.
        environ: where `api_key_env` is looked up.
        resolver: who resolves names; None: the operating system.
        is_local: how addresses are judged.
        clock: seconds that never go back.
        now: the present moment, with a time zone.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        memory: CapabilityMemory | None = None,
        environ: Mapping[str, str] = os.environ,
        resolver: Resolver | None = None,
        is_local: Callable[[str], bool] = is_local,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._memory, self._now, self._clock = settings, memory, now, clock
        self._key, self._key_problem = _key(settings, environ)
        self._transport = Transport(
            settings.name,
            settings.base_url,
            key=self._key,
            allow_remote=settings.allow_remote,
            verify_tls=settings.verify_tls,
            is_local=is_local,
            resolver=resolver,
            clock=clock,
        )
        self._server: Server | None = None
        self._kinds: dict[str, str] = {}
        self._capabilities: Capabilities | None = None
        self._probed_at = now()
        self._is_remote: bool | None = None
        self._used = Usage()
        self._shows_examples = True
        self._forms: dict[tuple[object, ...], tuple[object, Capabilities, RequestForm]] = {}

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.name!r}, {self.base_url!r}, model={self.model!r})"

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def base_url(self) -> str:
        return self._settings.base_url

    @property
    def model(self) -> str:
        return self._capabilities.model if self._capabilities is not None else self._settings.model

    @property
    def is_remote(self) -> bool | None:
        return self._is_remote

    @property
    def used(self) -> Usage:
        return self._used

    async def prepare(self) -> Capabilities:
        """See `VisionEndpoint.prepare`. What is remembered is used while the server offers the same as then."""
        self._check_key()
        server = await survey(self._transport, wanted=self._settings.model, fail=self._failure, kinds=self._kinds)
        self._server, self._is_remote = server, server.is_remote
        model = choose(server, self._settings.model, fail=lambda verdict: self._failure(verdict, None))
        value = self._memory.get(self._memory_key(model.id)) if self._memory is not None else None
        remembered = from_json(value, fingerprint=server.fingerprint, now=self._now())
        if remembered is not None:
            self._capabilities = replace(remembered.capabilities, is_remote=server.is_remote)
            self._probed_at = remembered.at
            return self._capabilities
        known = await probe(self, server, model)
        self._capabilities = replace(known, notes=(*known.notes, *self._warnings(known)))
        self._probed_at = self._now()
        self._remember()
        return self._capabilities

    def _memory_key(self, model: str) -> str:
        return f"abilities of {self.base_url} {model}"

    def _warnings(self, known: Capabilities) -> tuple[str, ...]:
        if known.is_remote and self.base_url.startswith("http://"):
            return ("Frames and key travel unencrypted to a remote address: use https:// if the server has it.",)
        return ()

    def _remember(self) -> None:
        if self._memory is not None and self._server is not None and self._capabilities is not None:
            value = to_json(self._capabilities, fingerprint=self._server.fingerprint, at=self._probed_at)
            self._memory.put(self._memory_key(self._capabilities.model), value)

    async def ping(self) -> None:
        """See `VisionEndpoint.ping`."""
        self._check_key()
        kind = self._server.kind if self._server is not None else ""
        lists = self._server is None or self._server.lists_models
        # llama-server lists its models before they are loaded; its health tells the truth
        url = f"{self._transport.root_url}/health" if kind == "llama.cpp" else f"{self.base_url}/models"
        page = await look(self._transport, url)
        if page.verdict is not None and (lists or page.reply.status in (401, 403, 502, 503, 504)):
            raise self._failure(page.verdict, page.reply.status)

    async def ask(
        self,
        question: Question,
        *,
        connect_timeout_s: float,
        total_timeout_s: float,
        first_byte_timeout_s: float | None = None,
        boosted: bool = False,
        served: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """See `VisionEndpoint.ask`."""
        self._check_key()
        began, prompt = self._clock(), question.prompt
        refusal: EndpointError | None = None
        is_served = False

        async def arrived() -> None:
            nonlocal is_served
            is_served = True
            if served is not None:
                await served()

        async def put(question: Question, left_s: float) -> Answer:
            return await self._ask(
                question,
                connect_timeout_s=connect_timeout_s,
                total_timeout_s=left_s,
                first_byte_timeout_s=first_byte_timeout_s,
                boosted=boosted,
                served=arrived,
            )

        if prompt.plain is None:
            return await put(question, total_timeout_s)
        if not boosted and self._shows(prompt):  # an answer that was cut gets all the room there is
            try:
                # whatever else may leave for this endpoint: examples stay inside
                return await put(replace(question, local_only=True), total_timeout_s)
            except EndpointError as error:
                if error.fault is EndpointFault.TIMEOUT or (is_served and error.fault in NOT_WITH_EXAMPLES):
                    self._show_no_more(error)
                if is_served or error.fault not in NOT_WITH_EXAMPLES:
                    raise  # once an answer came the slot is somebody else's
                refusal = error
        left_s = max(1.0, total_timeout_s - (self._clock() - began))
        answer = await put(replace(question, prompt=prompt.plain), left_s)
        if refusal is not None and refusal.fault is not EndpointFault.FORBIDDEN:  # it was for the examples, then
            self._show_no_more(refusal)
            if refusal.fault in TOO_LARGE:
                self._learn_most_pictures(1 + len(prompt.examples))
        return answer

    def _shows(self, prompt: Prompt) -> bool:
        """Whether the examples of a prompt may and can be shown here."""
        return self._shows_examples and self._is_remote is False and len(prompt.examples) < self.most_pictures

    def _show_no_more(self, error: EndpointError) -> None:
        if self._shows_examples:
            self._shows_examples = False
            log.warning("endpoint “%s” is shown no more examples in this run: %s", self.name, error)

    async def _ask(
        self,
        question: Question,
        *,
        connect_timeout_s: float,
        total_timeout_s: float,
        first_byte_timeout_s: float | None,
        boosted: bool,
        served: Callable[[], Awaitable[None]],
    ) -> Answer:
        """Ask this very question, with the examples it has."""
        prompt = question.prompt
        wanted = Wanted(
            prompt.system,
            prompt.user,
            prompt.schema,
            prompt.max_tokens,
            (*(example.jpeg for example in prompt.examples), *question.jpegs),
            captions(prompt),
        )
        able = self._capabilities or _untested(self._settings.model)
        has_left = False

        def leaving() -> None:
            nonlocal has_left
            has_left = True
            self._used += Usage(left_network=len(question.jpegs))

        try:
            heard = await self._put(
                wanted,
                able,
                connect_timeout_s=connect_timeout_s,
                total_timeout_s=total_timeout_s,
                first_byte_timeout_s=first_byte_timeout_s,
                local_only=question.local_only,
                leaving=leaving,
                boosted=boosted,
                served=served,
            )
        except EndpointError as error:
            error.left_network = has_left
            if error.fault in TOO_LARGE:
                self._learn_most_pictures(len(question.jpegs))
            raise
        if boosted and heard.reply is not None and heard.reply.is_cut and not heard.reply.is_whole_json:
            self._learn_most_pictures(len(question.jpegs))  # question and answer share the context
        if self._capabilities is not None and heard.refused_fields - self._capabilities.refused_fields:
            learned = self._capabilities.refused_fields | heard.refused_fields
            self._capabilities = replace(self._capabilities, refused_fields=learned)
            self._remember()
        answer = judged(heard, prompt, endpoint=self.name, model=self.model)
        return replace(answer, examples=len(prompt.examples)) if prompt.examples else answer

    @property
    def most_pictures(self) -> int:
        """See `VisionEndpoint.most_pictures`. A model that thinks about several pictures does not come to an end."""
        able = self._capabilities
        if able is None or not able.several_pictures or able.thinking == "always":
            return 1
        return able.most_pictures or MOST_PICTURES

    def _learn_most_pictures(self, too_many: int) -> None:
        """So many did not fit: half of it from now on, and in the next runs while the server stays the same."""
        if self._capabilities is not None and 1 < too_many <= self.most_pictures:
            self._capabilities = replace(self._capabilities, most_pictures=too_many // 2)
            self._remember()

    async def put(self, wanted: Wanted, capabilities: Capabilities) -> Heard:
        """Ask a probing question; see `capability.Asker`."""
        return await self._put(
            wanted,
            capabilities,
            connect_timeout_s=PROBE_CONNECT_TIMEOUT_S,
            total_timeout_s=self._settings.timeout,
            first_byte_timeout_s=None,
            local_only=False,
            leaving=None,  # a picture of our own is no frame
            boosted=False,
            served=None,
        )

    async def _put(
        self,
        wanted: Wanted,
        able: Capabilities,
        *,
        connect_timeout_s: float,
        total_timeout_s: float,
        first_byte_timeout_s: float | None,
        local_only: bool,
        leaving: Callable[[], None] | None,
        boosted: bool,
        served: Callable[[], Awaitable[None]] | None,
    ) -> Heard:
        left_s = total_timeout_s
        for _ in range(MAX_DROPPED + 1):
            form = self._form(wanted, able, boosted=boosted)
            self._used += Usage(requests=1)
            http = await self._transport.send(
                "POST",
                f"{self.base_url}/chat/completions",
                body=form.filled(wanted.jpegs),
                connect_timeout_s=connect_timeout_s,
                total_timeout_s=left_s,
                first_byte_timeout_s=first_byte_timeout_s,
                local_only=local_only,
                leaving=leaving,
            )
            self._is_remote = http.is_remote
            if served is not None and http.status == 200 and b'"choices"' in http.body:
                await served()  # reading takes a millisecond in which the server would have nothing to do
            document = decoded(http.body)
            verdict = judge(
                http.status, http.headers, http.body, document=document, sent=form.droppable, now=self._now()
            )
            if verdict is None:
                reply = read_reply(document)
                if reply is not None:
                    told = reply.tokens_in or reply.tokens_out
                    self._used += Usage(0, reply.tokens_in, reply.tokens_out) if told else UNTOLD
                if reply is None or (reply.finish in ("error", "abort") and not reply.text):
                    empty = Verdict(EndpointFault.SERVER, "the answer has no content in the agreed form")
                    raise self._failure(empty, http.status)
                return Heard(reply, None, able.refused_fields, http.seconds, http.is_remote)
            if verdict.outcome is not None:
                return Heard(
                    None,
                    verdict.outcome,
                    able.refused_fields,
                    http.seconds,
                    http.is_remote,
                    self._safe(verdict.message),
                )
            left_s -= http.seconds
            if verdict.fault is EndpointFault.NOT_AN_API and self._capabilities is not None:
                # it was an API before: a proxy or the server itself stumbles, and that passes
                verdict = replace(verdict, fault=EndpointFault.SERVER, fix="")
            if verdict.fault is not EndpointFault.FIELD or verdict.field is None or left_s <= 0:
                raise self._failure(verdict, http.status)
            able = replace(able, refused_fields=able.refused_fields | _with_dependents(verdict.field))
        raise self._failure(Verdict(EndpointFault.OTHER, "the server refuses every form of the question"), None)

    def _form(self, wanted: Wanted, able: Capabilities, *, boosted: bool) -> RequestForm:
        """The encoded form of a question, kept for the next one with the same words."""
        key = (wanted.system, wanted.user, wanted.max_tokens, len(wanted.jpegs), wanted.captions, boosted)
        schema, known, form = self._forms.get(key, (None, None, None))
        if form is None or schema is not wanted.schema or known is not able:
            form = request_form(wanted, able, boosted=boosted)
            if len(self._forms) >= MAX_FORMS:
                self._forms.clear()
            self._forms[key] = (wanted.schema, able, form)
        return form

    # --- judging ----------------------------------------------------------------------------------------------

    def _failure(self, verdict: Verdict, status: int | None) -> EndpointError:
        """An error for people, without secrets."""
        said, fix = self._safe(verdict.message), verdict.fix
        message = f"it answers {status}: {said}" if status is not None and status >= 400 else said
        if verdict.fault is EndpointFault.AUTH:
            what = "the key is refused" if self._key is not None else "it wants a key, and none is set"
            message = f"{what} ({status}: {said})"
        if verdict.fault is EndpointFault.MODEL and not fix:
            names = [m.id for m in self._server.models] if self._server is not None else []
            fix = nearest(self.model, names) if names else "Set `model` of this endpoint to one the server has."
        if verdict.fault is EndpointFault.SERVER and status is not None:
            fix = fix or "Look into the server's log." + ("" if self._key else " If it wants a key, set api_key.")
        return EndpointError(
            message,
            endpoint=self.name,
            fault=verdict.fault,
            status=verdict.status or status,
            retry_after_s=verdict.retry_after_s,
            field=verdict.field,
            fix=self._safe(fix),
        )

    def _safe(self, text: str) -> str:
        line = " ".join(redact(text[:100_000], (self._key,) if self._key else ()).split())
        return line if len(line) <= 300 else line[:300] + "…"

    def _check_key(self) -> None:
        if self._key_problem:
            fix = "Set that variable where Stash runs (in the container, if it runs in one), or use api_key."
            raise EndpointError(self._key_problem, endpoint=self.name, fault=EndpointFault.AUTH, fix=fix)


def _with_dependents(field: str) -> frozenset[str]:
    return frozenset({field, "top_logprobs"}) if field == "logprobs" else frozenset({field})


def _untested(model: str) -> Capabilities:
    """What is assumed of a server that was never probed."""
    return assumed(Server("unknown", (), "", is_remote=False), Model(model))


def _key(settings: EndpointSettings, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The key to send, and what is wrong with it."""
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if settings.api_key_env:
        key = environ.get(settings.api_key_env)
        if not (key or "").strip():
            return None, f"the environment variable {settings.api_key_env} (api_key_env) is not set"
    key = (key or "").strip()
    if not key:
        return None, ""
    if not key.isascii() or not key.isprintable() or " " in key:
        return None, "the key holds characters that no key has (copied with something around it?)"
    return key, ""
