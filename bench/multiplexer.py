"""How close the multiplexer comes to the best achievable makespan, beside `multiplexer-llm` from PyPI.

    python -m bench.multiplexer [--peer-python PATH] [--runs 9] [--http] [--http-frames 46,460,4600] [--skip-virtual]

Virtual time shows the scheduling alone; `--http` repeats everything over loopback with real servers and the real
client. A ratio is optimum / makespan, 1 being perfect; see `bench.multiplexer_load` for what the optimum is. Questions
are asked as the engine does: leave for one frame at a time, in one lane that says how much is left. "Lost" counts
questions without an answer. "Remembered" means one earlier run of 460 frames. Over loopback, servers and client take
their own time on top of the latencies, more so on a busy machine: "client alone" is the same without the pool, with
one worker for each slot. Every question carries a frame of the demo's court, as large as a real one. The last line is
JSON with all figures.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import io
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from random import Random
from subprocess import PIPE, Popen
from typing import Any

from bench.multiplexer_http import Servers, servers_of
from bench.multiplexer_load import SCENARIOS, Queue, Scenario, Server, drive_bare, latencies, optimum
from demo.court import TAGS, Canvas
from haven_vlm.endpoint import HttpEndpoint
from haven_vlm.facts import Answer, Outcome, Question, Term
from haven_vlm.multiplexer import Multiplexer
from haven_vlm.pool_ports import Capabilities, Ticket, Usage, VisionEndpoint
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings
from tests.virtual_time import run as run_in_virtual_time

FRAMES = (46, 460, 4600)
LONG_OVER_HTTP = ("weights equal", "auto, cold")
"""4,600 frames take more than two minutes over loopback: only for these, and without the others beside them."""
PROMPT = build_prompt([Term("Dunk"), Term("Free throw"), Term("Timeout")])


class Memory(dict[str, Mapping[str, Any]]):
    """What is remembered between two runs."""

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self[key] = value


class Simulated:
    """A `VisionEndpoint` over a queue in virtual time. Like the real one, it knows how long its probe took."""

    def __init__(self, server: Server, count: int, seed: int) -> None:
        self.name, self.model, self.is_remote, self.most_pictures = server.name, "tiny-vlm", False, 1
        self.base_url = f"http://{server.name}/v1"
        self._queue = Queue(server, count, seed)
        self.used = Usage()
        self._probe_s = latencies(server, 1, -seed - 1)[0]

    async def prepare(self) -> Capabilities:
        return Capabilities(
            server="simulated", model=self.model, sees_pictures=True, json_schema="enforced", logprobs=False,
            several_pictures=False, thinking="none", length_field="max_tokens", parallel_hint=None, is_remote=False,
            answer_s=self._probe_s,
        )  # fmt: skip

    async def ping(self) -> None: ...

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
        await self._queue.work()
        if served is not None:
            await served()
        return Answer(Outcome.NONE, endpoint=self.name, model=self.model)


def settings_of(scenario: Scenario, urls: Mapping[str, str]) -> Settings:
    """Settings as a user would write them."""
    endpoints = [
        {
            "name": s.name,
            "base_url": urls[s.name],
            "model": s.name,
            "weight": s.weight,
            "max_concurrent": "auto" if scenario.auto else s.slots,
        }
        for s in scenario.servers
    ]
    return Settings.model_validate({"endpoints": endpoints, "tag_list": [t.name for t in PROMPT.terms]})


async def ask_all(pool: Multiplexer, count: int, jpeg: bytes) -> int:
    """Ask as the engine does; returns how many questions have no answer."""
    lost = 0

    async def one(stack: AsyncExitStack, ticket: Ticket, number: int) -> None:
        nonlocal lost
        async with stack:
            # a comment at the end makes each picture its own, as frames are
            picture = jpeg + number.to_bytes(4, "big")
            answer = await ticket.ask(Question(PROMPT, (picture,), False, "scene 1"))
            lost += not answer.outcome.analysed

    pool.expect("scene 1", count)
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            stack = AsyncExitStack()
            ticket = await stack.enter_async_context(pool.ticket("scene 1"))
            tasks.create_task(one(stack, ticket, number))
    return lost


async def drive(
    endpoints: Sequence[VisionEndpoint], settings: Settings, count: int, seed: int, memory: Memory, jpeg: bytes
) -> dict[str, float]:
    """One run; {"makespan_s", "lost", "cpu_s"}."""
    loop = asyncio.get_running_loop()
    async with Multiplexer(endpoints, settings, memory=memory, clock=loop.time, random=Random(seed)) as pool:
        await pool.prepared()
        gc.collect()
        began_s, cpu_s = loop.time(), time.process_time()
        lost = await ask_all(pool, count, jpeg)
        return {"makespan_s": loop.time() - began_s, "lost": lost, "cpu_s": time.process_time() - cpu_s}


def virtual(scenario: Scenario, count: int, seed: int, memory: Memory) -> dict[str, float]:
    """One run in virtual time."""

    async def main() -> dict[str, float]:
        endpoints = [Simulated(s, count, seed) for s in scenario.servers]
        settings = settings_of(scenario, {e.name: e.base_url for e in endpoints})
        return await drive(endpoints, settings, count, seed, memory, b"jpeg")

    return run_in_virtual_time(main())


def bare_cpu(scenario: Scenario, count: int, seed: int) -> float:
    """CPU seconds of the same questions without a pool, in virtual time."""

    async def main() -> float:
        queues = [(s, Queue(s, count, seed)) for s in scenario.servers]
        gc.collect()
        cpu_s = time.process_time()
        await drive_bare(queues, count)
        return time.process_time() - cpu_s

    return run_in_virtual_time(main())


async def drive_slots(
    scenario: Scenario, endpoints: Sequence[VisionEndpoint], count: int, jpeg: bytes
) -> dict[str, float]:
    """The same questions without a pool: as many workers as slots, each with its endpoint, take the next question."""
    numbers = iter(range(count))

    async def slot(endpoint: VisionEndpoint) -> None:
        for number in numbers:
            asked = Question(PROMPT, (jpeg + number.to_bytes(4, "big"),), False, "scene 1")
            await endpoint.ask(asked, connect_timeout_s=10, total_timeout_s=60)

    gc.collect()
    began_s, cpu_s = time.monotonic(), time.process_time()
    pairs = zip(scenario.servers, endpoints, strict=True)
    await asyncio.gather(*(slot(endpoint) for server, endpoint in pairs for _ in range(server.slots)))
    return {"makespan_s": time.monotonic() - began_s, "lost": 0, "cpu_s": time.process_time() - cpu_s}


def over_http(
    scenario: Scenario, count: int, seed: int, memory: Memory | None, servers: Servers, jpeg: bytes
) -> dict[str, float]:
    """One run over loopback, without a memory also without the pool. All is probed before the clock starts."""

    async def main() -> dict[str, float]:
        settings = settings_of(scenario, servers.urls)
        async with AsyncExitStack() as stack:
            endpoints = [await stack.enter_async_context(HttpEndpoint(e, memory=memory)) for e in settings.endpoints]
            for endpoint in endpoints:
                await endpoint.prepare()  # the probe's own questions must not use up the run's latencies
            servers.begin(seed, count)
            if memory is None:
                return await drive_slots(scenario, endpoints, count, jpeg)
            return await drive(endpoints, settings, count, seed, memory, jpeg)

    return asyncio.run(main())


class Peer:
    """`multiplexer-llm` in its own Python."""

    def __init__(self, process: Popen[str]) -> None:
        self._process = process

    def run(self, job: Mapping[str, Any]) -> dict[str, float]:
        """One run."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the peer ended")
        result: dict[str, float] = json.loads(line)
        return result


@contextmanager
def peer_of(python: str | None) -> Iterator[Peer | None]:
    """The peer, if there is a Python that has it."""
    if python is None:
        print("multiplexer-llm is not compared: no --peer-python was given.\n")
        yield None
        return
    command = [python, "-m", "bench.multiplexer_peer"]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield Peer(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(10)


def messages(jpeg: bytes) -> list[dict[str, Any]]:
    """The peer gets the same question in the OpenAI form."""
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    picture = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": [picture]}]


HEAD = (
    ("scenario", -20), ("frames", 6), ("runs", 4), ("optimum s", 9), ("ours", 6), ("worst", 6), ("lost", 4),
    ("CPU ms", 6), ("client alone", 12), ("CPU ms", 6), ("multiplexer-llm", 15), ("lost", 4), ("CPU ms", 6),
)  # fmt: skip
"""Columns of the tables, and their widths; negative: to the left."""


def show(cells: Sequence[str]) -> None:
    """One line of a table, at once: a run takes minutes."""
    widths = [width for _, width in HEAD]
    padded = (c.ljust(-w) if w < 0 else c.rjust(w) for c, w in zip(cells, widths, strict=True))
    print("  ".join(padded), flush=True)


def show_row(row: Mapping[str, Any]) -> None:
    """The medians of one scenario."""
    ours, bare, peer = row["ours"], row.get("client_alone"), row.get("peer")
    line = [row["scenario"], str(row["frames"]), str(row["runs"]), f"{row['optimum_s']:.2f}"]
    line += [f"{ours['ratio']:.1%}", f"{ours['worst']:.1%}", str(ours["lost"]), f"{ours['cpu_ms']:.2f}"]
    line += [f"{bare['ratio']:.1%}", f"{bare['cpu_ms']:.2f}"] if bare else ["–"] * 2
    line += [f"{peer['ratio']:.1%}", str(peer["lost"]), f"{peer['cpu_ms']:.2f}"] if peer else ["–"] * 3
    show(line)


def measured(title: str, jobs: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Do the jobs one after another and print their table as it grows."""
    print(f"\n{title}\n")
    show([name for name, _ in HEAD])
    rows = []
    for job in jobs:
        rows.append(job())
        show_row(rows[-1])
    return rows


def summary(runs: Sequence[Mapping[str, float]], best_s: Sequence[float], count: int) -> dict[str, float]:
    """Median ratio, worst ratio, questions lost in all runs, median CPU per question in milliseconds."""
    ratios = [best / run["makespan_s"] for best, run in zip(best_s, runs, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "worst": round(min(ratios), 4),
        "lost": int(sum(run["lost"] for run in runs)),
        "cpu_ms": round(1000 * statistics.median(run["cpu_s"] for run in runs) / count, 3),
    }


def measure(
    scenario: Scenario, count: int, runs: int, peer: Peer | None, servers: Servers | None, jpeg: bytes,
    *, compared: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """All runs of one row; `compared`: with the client alone and the peer."""

    def one(number: int, seed: int, memory: Memory) -> dict[str, float]:
        if servers is None:
            return virtual(scenario, number, seed, memory)
        return over_http(scenario, number, seed, memory, servers, jpeg)

    ours, theirs, bare, best_s = [], [], [], []
    for seed in range(runs):
        memory = Memory()
        if scenario.remembered:
            one(460, seed + 1000, memory)  # the run before this one
        best_s.append(optimum(scenario.servers, count, seed))
        ours.append(one(count, seed, memory))
        if servers is not None and compared:
            bare.append(over_http(scenario, count, seed, None, servers, jpeg))
        if peer is not None and compared and not scenario.auto:
            job: dict[str, Any] = {"scenario": scenario.to_json(), "count": count, "seed": seed}
            if servers is not None:
                servers.begin(seed, count)
                job |= {"urls": servers.urls, "messages": messages(jpeg), "fields": {"max_tokens": 100}}
            theirs.append(peer.run(job))
    row = {
        "scenario": scenario.name,
        "frames": count,
        "runs": runs,
        "optimum_s": round(statistics.median(best_s), 3),
        "ours": summary(ours, best_s, count),
    }
    if bare:
        row["client_alone"] = summary(bare, best_s, count)
    if theirs:
        row["peer"] = summary(theirs, best_s, count)
    return row


def court_jpeg() -> bytes:
    """A frame of the demo's court as the plugin sends it: 640 pixels wide, quality 85."""
    canvas = Canvas(640, 360)
    image = canvas.backdrop(1, frozenset(TAGS[:2]), TAGS)
    image.paste(canvas.crowd(1).crop((0, 0, *canvas.crowd_size)), (0, canvas.crowd_top))
    picture = io.BytesIO()
    image.save(picture, "JPEG", quality=85)
    return picture.getvalue()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python that has multiplexer-llm")
    parser.add_argument("--runs", type=int, default=9, help="runs of each row in virtual time (9); fewer for 4,600")
    parser.add_argument("--http", action="store_true", help="also over loopback: takes real time")
    parser.add_argument("--http-frames", default="46,460,4600", help="numbers of frames over loopback")
    parser.add_argument("--http-runs", type=int, default=3, help="runs of 46 frames over loopback (3); one of others")
    parser.add_argument("--skip-virtual", action="store_true", help="only over loopback")
    parser.add_argument("--only", help="scenarios whose name contains this")
    options = parser.parse_args()
    scenarios = [s for s in SCENARIOS if not options.only or options.only in s.name]
    figures: dict[str, Any] = {}
    jpeg = court_jpeg()
    with peer_of(options.peer_python) as peer:
        rows = measured(
            "Virtual time: scheduling alone (median of the runs; CPU per question of the whole process)",
            [
                partial(measure, s, n, max(3, options.runs // 3) if n > 1000 else options.runs, peer, None, b"")
                for s in ([] if options.skip_virtual else scenarios)
                for n in FRAMES
            ],
        )
        if rows:
            bare_ms = 1000 * statistics.median(bare_cpu(SCENARIOS[1], 4600, seed) for seed in range(5)) / 4600
            own_ms = max(r["ours"]["cpu_ms"] for r in rows if r["frames"] == 4600) - bare_ms
            print(f"\nThe pool's own CPU per question, the simulation's share ({bare_ms:.3f} ms) taken off:"
                  f" {own_ms:.3f} ms at most.")  # fmt: skip
            figures |= {"virtual": rows, "own_cpu_ms": round(own_ms, 4)}
        if options.http:
            counts = [int(n) for n in options.http_frames.split(",")]
            with ExitStack() as stack:
                jobs = []
                for scenario in scenarios:
                    servers = stack.enter_context(servers_of(scenario.servers))
                    for count in counts:
                        if count <= 1000 or scenario.name in LONG_OVER_HTTP:
                            runs = options.http_runs if count < 100 else 1
                            compared = count <= 1000
                            jobs.append(partial(measure, scenario, count, runs, peer, servers, jpeg, compared=compared))
                title = "Loopback HTTP: real servers, real client (CPU with the HTTP client's)"
                figures["http"] = measured(title, jobs)
    print()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
