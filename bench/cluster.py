"""One endpoint that is a cluster: Ray Serve in front of replicas of the scripted vision server; one is killed.

    python -m bench.cluster --ray-python PATH [--questions 600] [--latency-ms 200] [--slots 8]

`--ray-python` is a Python that has `ray[serve]`, `aiohttp` and `pillow`. Cases: one replica; two replicas; two of
which one gets SIGKILL after a third of the questions (Ray starts another). The optimum is questions × latency ÷
(replicas × slots). The last line is JSON with all figures.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from subprocess import PIPE, Popen
from typing import Any

from PIL import Image

from bench.multiplexer import PROMPT, Memory
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.facts import Outcome, Question
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.pool_ports import Ticket
from haven_vlm.settings import Settings


class Cluster:
    """The serving process, as the benchmark sees it."""

    def __init__(self, process: Popen[str]) -> None:
        self._process = process
        self.port = int(self._read()["port"])

    def replicas(self) -> list[int]:
        """Process ids of the replicas that live."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return list(self._read())

    def _read(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError("the cluster did not start")


@contextmanager
def cluster_of(python: str, replicas: int, latency_ms: float, slots: int) -> Iterator[Cluster]:
    """Start it; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": os.getcwd(), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, "-m", "bench.cluster_ray", str(port), str(replicas), str(latency_ms), str(slots)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environ) as process:
        try:
            yield Cluster(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(60)


async def run(cluster: Cluster, count: int, places: int, *, kill: bool) -> dict[str, Any]:
    """Ask so many questions through the pool; with `kill` one replica dies after a third of them."""
    endpoint = {
        "name": "Cluster",
        "base_url": f"http://127.0.0.1:{cluster.port}/v1",
        "model": "scripted",
        "max_concurrent": places,
    }
    settings = Settings.model_validate({"endpoints": [endpoint], "tag_list": [t.name for t in PROMPT.terms]})
    outcomes: list[Outcome] = []
    file = io.BytesIO()
    Image.effect_noise((640, 360), 40).convert("RGB").save(file, "JPEG", quality=85)
    picture = file.getvalue()

    async def one(ticket: Ticket, stack: AsyncExitStack, number: int) -> None:
        async with stack:
            answer = await ticket.ask(Question(PROMPT, (picture + number.to_bytes(4, "big"),), False, "scene 1"))
            outcomes.append(answer.outcome)

    memory = Memory()
    async with (
        HttpEndpoint(settings.endpoints[0], memory=memory) as http,
        Multiplexer([http], settings, memory=memory) as pool,
    ):
        await pool.prepared()
        victims = cluster.replicas()
        began = time.monotonic()
        pool.expect("scene 1", count)
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                if kill and number == count // 3:
                    os.kill(victims[0], signal.SIGKILL)
                stack = AsyncExitStack()
                ticket = await stack.enter_async_context(pool.ticket("scene 1"))
                tasks.create_task(one(ticket, stack, number))
        seconds = time.monotonic() - began
        failures = dict(pool.statistics().endpoints[0].failures)
    return {
        "seconds": round(seconds, 2),
        "answered": sum(o.analysed for o in outcomes),
        "lost": count - sum(o.analysed for o in outcomes),
        "failed_attempts": sum(failures.values()),
        "replicas_at_the_end": len(cluster.replicas()),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-python", required=True)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    rows = []
    print(f"{'case':<32}{'optimum s':>10}{'seconds':>9}{'of it':>7}{'answered':>10}{'lost':>6}{'retried':>9}")
    for case, replicas, kill in (("one replica", 1, False), ("two replicas", 2, False), ("two, one killed", 2, True)):
        with cluster_of(options.ray_python, replicas, options.latency_ms, options.slots) as cluster:
            places = replicas * options.slots
            row = asyncio.run(run(cluster, options.questions, places, kill=kill))
        best = options.questions * options.latency_ms / 1000 / places
        rows.append({"case": case, "optimum_s": round(best, 2), **row})
        print(
            f"{case:<32}{best:>10.1f}{row['seconds']:>9.1f}{best / row['seconds']:>7.0%}"
            f"{row['answered']:>10}{row['lost']:>6}{row['failed_attempts']:>9}",
            flush=True,
        )
    print(json.dumps({"bench": "cluster", "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
