"""However a review is stopped, what was decided is neither lost nor done twice: a run, or saving again, ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.stash.faults import RequestRecord
from haven_vlm.facts import Kind
from haven_vlm.journal import Journal
from tests.e2e import kills
from tests.e2e.rig import Rig, rig

WRITES = (
    ("move of ours", "sceneMarkerUpdate", 1),
    ("rejection of ours", "sceneMarkersDestroy", 1),
    ("rejection of the user's", "sceneMarkerUpdate", 2),
    ("move of the user's", "sceneMarkerUpdate", 3),
    ("addition", "sceneMarkerCreate", 1),
    ("confirmation of what was only found", "sceneMarkerCreate", 2),
)
"""What each decision of `decisions_about` asks of Stash: the how-manieth mutation of this kind in the review."""
COMMITS = (4, 9, 14)
"""Commits of the ledger at which a review dies: within its first, a middle and one of its last decisions."""

State = tuple[list[Any], list[Any]]


@dataclass
class Reviews:
    """A library of scenes alike, each tagged by one run and with two markers of the user's own."""

    one: Rig
    fresh: list[int]
    """Scenes nobody has reviewed."""
    after: list[State]
    """What an unbroken review leaves after each of its decisions."""

    def decisions(self, scene: int) -> list[dict[str, Any]]:
        """Six decisions, of every kind."""
        marker = {(m["primary_tag"], m["seconds"]): str(m["id"]) for m in self.one.stash.markers(scene)}
        foul = next(key for key in marker if key[0] == "Foul")
        dunk = next(key for key in marker if key[0] == "Dunk")
        point = "Basketball point"
        return [
            {"action": "move", **_at(foul, marker), "end": 4.0, "new_start": 1.5, "new_end": 4.5},
            {"action": "reject", **_at(dunk, marker), "end": 6.0},
            {"action": "reject", **_at((point, 0.0), marker), "end": 1.0},
            {"action": "move", **_at((point, 3.0), marker), "end": 4.0, "new_start": 3.2, "new_end": 4.6},
            {"action": "add", "tag": "Dunk", "start": 5.0, "end": 5.8},
            {"action": "confirm", "tag": point, "start": 5.0, "end": 6.0},
        ]

    def args(self, scene: int, decisions: list[dict[str, Any]]) -> dict[str, Any]:
        return {"mode": "page", "op": "review", "id": str(scene), "decisions": decisions}

    def state(self, scene: int) -> State:
        """Markers as the user sees them, and what the ledger remembers of their decisions; without ids and times."""
        markers = sorted(
            (m["primary_tag"], m["seconds"], m["end_seconds"], m["title"], tuple(m["tags"]))
            for m in self.one.stash.markers(scene)
        )

        async def said() -> list[Any]:
            async with Journal(self.one.folder / "config" / "haven_vlm" / "ledger.sqlite") as journal:
                assert not await journal.corrections.begun(str(scene))
                found = await journal.corrections.all(kind=Kind.SCENE, medium_id=str(scene))
            return sorted((c.verdict.value, c.tag_id, c.before or (), c.after or ()) for c in found)

        return markers, asyncio.run(said())


def _at(key: tuple[str, float], marker: dict[tuple[str, float], str]) -> dict[str, Any]:
    return {"tag": key[0], "start": key[1], "marker_id": marker[key]}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Reviews]:
    with rig(tmp_path_factory.mktemp("reviews"), clips) as one:
        one.use(one.vision())
        scenes = [one.scene(f"match {n}", plan=kills.SHORT) for n in range(1 + 2 * len(WRITES) + 2 * len(COMMITS))]
        assert not one.run().error
        for scene in scenes:
            for start in (0.0, 3.0):
                one.stash.add_marker(scene, start, "Basketball point", end_seconds=start + 1, title="By hand")
        made = Reviews(one, scenes, [])
        first = made.fresh.pop()
        for decision in made.decisions(first):
            assert one.page("review", id=str(first), decisions=[decision])["done"] == 1
            made.after.append(made.state(first))
        yield made


def killed_at(one: Rig, args: dict[str, Any], mutation: str, nth: int, *, late: bool) -> bool:
    """Review and kill when the n-th such mutation arrives, or was carried out; False if there is none."""
    seen, began = 0, time.time()
    process = one.start(None, args)

    def kill(request: RequestRecord) -> None:
        nonlocal seen
        if request.at < began:
            return  # of a review that was killed before: Stash still finishes what it was asked
        seen += 1
        if seen == nth:
            process.kill()  # what later processes ask for finds it past killing

    (one.stash.log.on_reply if late else one.stash.on_request)(kill, match=mutation)
    process.wait(120)
    return seen >= nth


def test_killed_around_each_write(reviews: Reviews) -> None:
    """The next run finishes the decision that was under way; saving again does the rest, and nothing twice."""
    one, killed = reviews.one, []
    for number, (what, mutation, nth) in enumerate(WRITES):
        for late in (False, True):
            scene = reviews.fresh.pop()
            decisions = reviews.decisions(scene)
            assert killed_at(one, reviews.args(scene, decisions), mutation, nth, late=late), what
            killed.append((what, number, scene, decisions))
    said = one.run().output
    assert "Finished what an interrupted review had begun" in said
    for what, number, scene, _ in killed:
        assert reviews.state(scene) == reviews.after[number], what
    for what, _, scene, decisions in killed[::3]:
        assert not one.page("review", id=str(scene), decisions=decisions).get("error")
        assert reviews.state(scene) == reviews.after[-1], what


@pytest.mark.parametrize("nth", COMMITS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_a_commit(reviews: Reviews, nth: int, when: str) -> None:
    scene = reviews.fresh.pop()
    decisions = reviews.decisions(scene)
    args = reviews.args(scene, decisions)
    process = reviews.one.start_changed("dying.py", str(nth), when, task=None, args=args)
    assert process.wait(120).exit_code not in (0, 1)
    reply = reviews.one.page("review", id=str(scene), decisions=decisions)
    assert reply["done"] + len(reply["messages"]) >= len(decisions)
    assert reviews.state(scene) == reviews.after[-1]
