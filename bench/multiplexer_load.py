"""Load for the multiplexer's benchmark: servers with slots and jittered latencies, and the best makespan they allow.

Standard library only: also the peer's Python reads this file.

The optimum of a scenario is the best achievable makespan for these very slots and latencies, known in advance: each
server works through its own list of latencies with all its slots and without a pause; the optimum is the earliest
moment at which all servers together have finished as many questions as were asked. No scheduler can be faster, and one
that does not know the latencies in advance can rarely be as fast.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

JITTER = 0.3
"""Latencies are uniform within this part above and below the mean."""
SERVERS = (("one", 1, 0.2), ("two", 2, 0.1), ("four", 4, 0.4))
"""Name, slots, seconds."""
SLOW = ("slow", 1, 2.0)
"""Ten times slower than the slot of 200 ms, twenty times than those of 100 ms."""


@dataclass(frozen=True)
class Server:
    """One model server of a scenario."""

    name: str
    slots: int
    latency_s: float
    weight: int = 1


@dataclass(frozen=True)
class Scenario:
    """Servers, and whether the pool is told how many slots they have."""

    name: str
    servers: tuple[Server, ...]
    auto: bool = False
    remembered: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scenario:
        return cls(**{**data, "servers": tuple(Server(**s) for s in data["servers"])})


def _servers(weights: Mapping[str, int], *, slow: bool = False) -> tuple[Server, ...]:
    chosen = (*SERVERS, SLOW) if slow else SERVERS
    return tuple(Server(name, slots, latency_s, weights.get(name, 1)) for name, slots, latency_s in chosen)


SCENARIOS = (
    Scenario("weights right", _servers({"one": 5, "two": 20, "four": 10})),
    Scenario("weights equal", _servers({})),
    Scenario("weights wrong", _servers({"one": 20, "two": 1, "four": 5})),
    Scenario("one ten times slower", _servers({}, slow=True)),
    Scenario("auto, cold", _servers({}), auto=True),
    Scenario("auto, remembered", _servers({}), auto=True, remembered=True),
)


def latencies(server: Server, count: int, seed: int) -> list[float]:
    """What each question takes there, in the order in which work on them begins."""
    random = Random(f"{seed} {server.name}")
    return [server.latency_s * random.uniform(1 - JITTER, 1 + JITTER) for _ in range(count)]


def optimum(servers: Sequence[Server], count: int, seed: int) -> float:
    """Seconds of the best achievable makespan; see the module."""
    finished: list[float] = []
    for server in servers:
        slots = [0.0] * server.slots
        for latency_s in latencies(server, count, seed):
            done = heapq.heappop(slots) + latency_s
            heapq.heappush(slots, done)
            finished.append(done)
    return sorted(finished)[count - 1]


class Queue:
    """A server's slots in virtual or real time: first come, first served, as many at once as there are slots."""

    def __init__(self, server: Server, count: int, seed: int) -> None:
        self._latencies = iter(latencies(server, 2 * count + 100, seed))
        self._gate = asyncio.Semaphore(server.slots)
        self.answered = 0

    async def work(self) -> None:
        """Take a turn."""
        async with self._gate:
            await asyncio.sleep(next(self._latencies))
        self.answered += 1


async def drive_bare(queues: Sequence[tuple[Server, Queue]], count: int) -> None:
    """The same questions without any pool, for comparing the cost: every slot takes the next one."""
    numbers = iter(range(count))

    async def slot(queue: Queue) -> None:
        for _ in numbers:
            await queue.work()

    await asyncio.gather(*(slot(queue) for server, queue in queues for _ in range(server.slots)))
