"""An OpenAI-compatible address on this machine behind which stands the pool of endpoints.

`vlm-engine` asks here instead of at the endpoints themselves: so weights, retries, privacy and budgets are those of the
connector, and a frame that could not be analysed is counted, where the package would call it a frame without tags.
"""

from __future__ import annotations

import base64
import hmac
import io
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web
from PIL import Image, UnidentifiedImageError

from haven_vlm.errors import HavenError
from haven_vlm.facts import Answer, Kind, Outcome, Prompt, Question
from haven_vlm.picture import Preparation, jpeg_from_image
from haven_vlm.pool_ports import VisionPool

_MAX_BODY_BYTES = 64 * 2**20
"""An 8K frame as JPEG with base64 around it, with room to spare."""


class Bridge:
    """Serves one video's questions; an async context manager.

    Args:
        pool: who answers.
        prompt: what is asked of each frame, in the connector's own words.
        lane, local_only, label: as in `VideoJob`.
        preparation: how large the pictures are that go on.
        settled: called after each question.
    """

    def __init__(
        self,
        *,
        pool: VisionPool,
        prompt: Prompt,
        lane: str,
        local_only: bool,
        label: str,
        preparation: Preparation,
        settled: Callable[[], None],
    ) -> None:
        self.key = secrets.token_urlsafe(24)
        self.outcomes: Counter[Outcome] = Counter()
        self.problems: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.left_network = 0
        self.in_flight = 0
        self.ended_by: HavenError | None = None
        """What ended the questions for good: an outage, a ledger that is full."""
        self._pool, self._prompt, self._lane = pool, prompt, lane
        self._local_only, self._label = local_only, label
        self._preparation, self._settled = preparation, settled
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
        self._port = 0

    @property
    def base_url(self) -> str:
        """Up to `/v1`."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def asked(self) -> int:
        """Questions so far, whatever became of them."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Those that were not analysed."""
        return sum(n for outcome, n in self.outcomes.items() if not outcome.analysed)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            return web.json_response({"error": {"message": "not for you"}}, status=401)
        self.in_flight += 1
        try:
            return await self._answer(await request.json())
        except (ValueError, KeyError, TypeError, UnidentifiedImageError, OSError) as exc:
            self._count(Answer(Outcome.UNDECODABLE, detail=f"vlm-engine sent no picture that can be read ({exc})"))
            return _completion("")
        finally:
            self.in_flight -= 1
            self._settled()

    async def _answer(self, body: Any) -> web.Response:
        jpeg = _small(_picture(body), self._preparation)
        question = Question(self._prompt, (jpeg,), self._local_only, f"{self._label}, asked by vlm-engine")
        try:
            async with self._pool.ticket(self._lane, local_only=self._local_only, kind=Kind.SCENE) as ticket:
                answer = await ticket.ask(question)
        except HavenError as exc:
            self.ended_by = self.ended_by or exc
            return web.json_response({"error": {"message": "the run ends"}}, status=503)
        self._count(answer)
        # its own form: a description, a bar, tags. It takes several, although it asks models for one only
        return _completion(f"a frame | {', '.join(answer.tags) or 'none'}")

    def _count(self, answer: Answer) -> None:
        self.outcomes[answer.outcome] += 1
        self.left_network += answer.remote
        if answer.outcome.analysed:
            self.models[answer.model] += 1
        else:
            self.problems[answer.detail or str(answer.outcome)] += 1


def _picture(body: Any) -> bytes:
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part.get("type") == "image_url":
                _, _, data = str(part["image_url"]["url"]).partition("base64,")
                return base64.b64decode(data, validate=True)
    raise ValueError("no picture in the question")


def _small(data: bytes, preparation: Preparation) -> bytes:
    """As the connector's own pictures: small, and without metadata."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (preparation.max_side_px * 2, preparation.max_side_px * 2))
        small = picture.convert("RGB")
    small.thumbnail((preparation.max_side_px, preparation.max_side_px), Image.Resampling.BICUBIC)
    return jpeg_from_image(small, preparation)


def _completion(text: str) -> web.Response:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return web.json_response(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "connector", "choices": [choice]}
    )
