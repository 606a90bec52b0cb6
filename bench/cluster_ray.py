"""Replicas of the scripted vision server behind Ray Serve's proxy; run by a Python that has `ray[serve]` and Pillow.

    python -m bench.cluster_ray PORT REPLICAS LATENCY_MS SLOTS

Prints one JSON line {"port": …} once the proxy answers; ends when standard input does. Every line on standard input
is answered by one JSON line: the process ids of the replicas, oldest first.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import Any

import ray
from ray import serve


@serve.deployment
class Vision:
    """One replica: a vision server of its own on a free port of loopback, and the way there."""

    def __init__(self, latency_ms: float, slots: int) -> None:
        import aiohttp

        from demo.vision_server import VisionServer

        server = VisionServer(lambda _jpeg: ("Dunk",), slots=slots, latency_s=latency_ms / 1000, models=["scripted"])
        self._running = server.in_thread()
        self._running.__enter__()
        self._base = server.base_url.removesuffix("/v1")
        self._new_session = aiohttp.ClientSession
        self._session: Any = None

    async def process(self) -> int:
        """Its process id."""
        return os.getpid()

    async def __call__(self, request: Any) -> Any:
        """Hand a request on, and its answer back."""
        from starlette.responses import Response

        if self._session is None:
            self._session = self._new_session()
        headers = {"Content-Type": request.headers.get("content-type", "application/json")}
        url = self._base + request.url.path
        async with self._session.request(request.method, url, data=await request.body(), headers=headers) as answer:
            return Response(await answer.read(), answer.status, media_type="application/json")


def replicas(seen: list[int]) -> list[int]:
    """Process ids of the replicas that live: first those known before."""
    from ray.util.state import list_actors

    alive = {
        int(a.pid) for a in list_actors() if a.state == "ALIVE" and "Vision" in str(a.name or a.class_name) and a.pid
    }
    found = [pid for pid in seen if pid in alive]
    return found + sorted(alive - set(found))


def main(port: int, count: int, latency_ms: float, slots: int) -> None:
    """Serve until standard input ends."""
    ray.init(num_cpus=4, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 120})
    options: dict[str, Any] = {
        "num_replicas": count,
        "max_ongoing_requests": slots,
        "max_queued_requests": -1,
        "ray_actor_options": {"num_cpus": 0.1},
        "health_check_period_s": 1,
    }
    deployment: Any = Vision
    serve.run(deployment.options(**options).bind(latency_ms, slots), name="vision", route_prefix="/")
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                break
        except OSError:
            time.sleep(0.5)
    pids: list[int] = []
    print(json.dumps({"port": port}), flush=True)
    for _line in sys.stdin:
        pids = replicas(pids)
        print(json.dumps(pids), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
