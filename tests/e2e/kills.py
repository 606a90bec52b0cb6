"""Killing the plugin and its surroundings at chosen and at random moments, and looking at what is left."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.footage import Plan
from demo.stash import JobResult, PluginProcess
from haven_vlm.facts import Span
from tests.e2e.rig import TAGS, Rig, rig

SHORT = Plan(6_000, (Span("Foul", 1_000, 4_000, 1.0), Span("Dunk", 2_500, 6_000, 1.0)), TAGS)
"""Six seconds, seven questions, two overlapping markers."""
SCENES = 3
QUESTIONS = SCENES * 7
SLOTS = 2
IN_FLIGHT = 4 * SLOTS
"""Answers that a kill can cost: those being asked, and those on their way to the disk while the slots are used again.
On a busy machine one commit takes as long as two answers."""

State = dict[str, Any]


def prepared(one: Rig) -> Any:
    """Three tagged scenes, one with things of the user's own, and a model server; returns the server."""
    server = one.vision(latency_s=0.02, slots=SLOTS)
    one.use(f"{server.base_url} max={SLOTS}")
    first, *_ = [one.scene(f"match {i}", plan=SHORT, tags=("VLM_TagMe", "Mine")) for i in range(SCENES)]
    one.stash.add_marker(first, 0.5, "Mine", end_seconds=1.0, title="By hand")
    return server


def state(one: Rig) -> State:
    """What a user can see, without ids, which depend on the order of writing."""
    everything = one.stash.snapshot()
    names = {tag_id: tag["name"] for tag_id, tag in everything["tags"].items()}
    return {
        "scenes": {i: sorted(one.stash.scene_tags(i)) for i in everything["scenes"]},
        "markers": sorted(
            (m["scene_id"], m["title"], m["seconds"], m["end_seconds"], m["primary_tag"], tuple(m["tags"]))
            for m in one.stash.markers()
        ),
        "tags": sorted(names.values()),
    }


def unbroken(folder: Path, clips: Path) -> State:
    """The state after a run that nothing disturbs."""
    folder.mkdir()
    with rig(folder, clips) as one:
        server = prepared(one)
        result = one.run()
        assert result.error is None, result.error
        assert len(server.questions()) == QUESTIONS
        return state(one)


def killed_at_request(one: Rig, number: int, *, after: bool) -> bool:
    """Run and kill when the n-th request arrives (or was carried out, its reply on the way); False if there is none."""
    seen = 0
    lock = threading.Lock()
    process: list[Any] = []
    started = threading.Event()

    def count(_: object) -> None:
        nonlocal seen
        with lock:
            seen += 1
            mine = seen == number
        if mine:
            started.wait(30)
            process[0].kill()

    (one.stash.log.on_reply if after else one.stash.on_request)(count)
    process.append(one.start("Tag Videos"))
    started.set()
    process[0].wait(120)
    return seen >= number


def _end_of(process: PluginProcess) -> JobResult:
    return process.wait(120)


def killed_at_random(
    process: PluginProcess, dice: random.Random, longest_s: float, wait: Callable[[PluginProcess], JobResult] = _end_of
) -> bool:
    """Kill a run after a random time; False: it was quicker. `wait` waits for its end."""
    timer = threading.Timer(dice.uniform(0.2, longest_s), process.kill)
    timer.start()
    try:
        return wait(process).exit_code not in (0, 1)
    finally:
        timer.cancel()


def killed_at_commit(one: Rig, number: int, *, after: bool) -> bool:
    """Run, and have it die right before (or after) the n-th commit of its ledger; False if there is none."""
    process = one.start_changed("dying.py", str(number), "after" if after else "before")
    return process.wait(120).exit_code not in (0, 1)


def faulted(one: Rig, server: Any, expected: State, operation: str, kind: str, *, after: int = 0) -> bool:
    """Run once while this kind of request fails twice; nothing may differ. False: there was no such request."""
    fault = one.stash.faults.add(operation, kind, times=2, after=after, seconds=0.2)
    result = one.run()
    while result.error and "is that Stash's address?" in result.error and fault.hits <= 2:
        result = one.run()  # a page instead of Stash's first word is told at once, before anything was done
    assert result.error is None, result.error
    assert state(one) == expected
    assert len(server.questions()) == QUESTIONS
    return fault.hits > 0


def finish(one: Rig, server: Any, expected: State, *, kills: int) -> None:
    """Run to the end; everything must be as after an unbroken run, and hardly anything asked again."""
    result = one.run()
    assert result.error is None, result.error
    assert state(one) == expected
    again = len(server.questions()) - QUESTIONS
    assert 0 <= again <= kills * IN_FLIGHT, f"{again} questions asked again after {kills} kills"
