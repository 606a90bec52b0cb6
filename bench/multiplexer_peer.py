"""The same scenarios for `multiplexer-llm` from PyPI, run by a Python that has it: a job as JSON in, results out.

It is driven at its best: exactly as many questions at once as there are slots. (With more it gives up after a second
of polling: "All models failed after maximum retries".)
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from bench.multiplexer_load import Queue, Scenario
from tests.virtual_time import VirtualTimeLoop


class _Client:
    """An OpenAI client in virtual time."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.chat = SimpleNamespace(completions=self)

    async def create(self, **_request: Any) -> dict[str, Any]:
        await self._queue.work()
        return {"choices": [{"message": {"content": "{}"}}]}


async def drive(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job: {"scenario", "count", "seed", "urls"?, "messages"?} → {"makespan_s", "lost", "cpu_s"}."""
    openai, peer = import_module("openai"), import_module("multiplexer_llm")  # of the peer's own Python
    scenario, count, seed = Scenario.from_json(job["scenario"]), job["count"], job["seed"]
    clients: list[Any] = []
    pool = peer.Multiplexer()
    for server in scenario.servers:
        if job.get("urls"):
            client: Any = openai.AsyncOpenAI(base_url=job["urls"][server.name], api_key="none", max_retries=0)
            clients.append(client)
        else:
            client = _Client(Queue(server, count, seed))
        pool.add_model(client, server.weight, server.name, max_concurrent=server.slots)
    gate = asyncio.Semaphore(sum(s.slots for s in scenario.servers))
    lost = 0

    async def one() -> None:
        nonlocal lost
        async with gate:
            try:
                await pool.chat.completions.create(messages=job.get("messages", []), **job.get("fields", {}))
            except Exception:  # noqa: BLE001 - whatever it is, the question has no answer
                lost += 1

    loop = asyncio.get_running_loop()
    began_s, cpu_s = loop.time(), time.process_time()
    await asyncio.gather(*(one() for _ in range(count)))
    result = {"makespan_s": loop.time() - began_s, "lost": lost, "cpu_s": time.process_time() - cpu_s}
    for client in clients:
        await client.close()
    return result


def main() -> None:
    """Jobs one a line on standard input, results one a line on standard output."""
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        job = json.loads(line)
        factory = None if job.get("urls") else VirtualTimeLoop
        with asyncio.Runner(loop_factory=factory) as runner:
            print(json.dumps(runner.run(drive(job))), flush=True)


if __name__ == "__main__":
    main()
