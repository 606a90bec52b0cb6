"""However a run is stopped, the next one finishes it: same result, nothing doubled, hardly a question asked again.

`python -m bench.kills` does the same at every request and at hundreds of random moments.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.e2e import kills
from tests.e2e.rig import Rig


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> kills.State:
    return kills.unbroken(tmp_path_factory.mktemp("unbroken") / "rig", clips)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("mutation", ["sceneMarkerCreate", "bulkSceneUpdate"])
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_around_a_write(one: Rig, expected: kills.State, mutation: str, nth: int, *, after: bool) -> None:
    server = kills.prepared(one)
    seen = 0
    process = one.start("Tag Videos")

    def kill(record: object) -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            process.kill()

    (one.stash.log.on_reply if after else one.stash.on_request)(kill, match=mutation)
    process.wait(120)
    assert seen >= nth
    kills.finish(one, server, expected, kills=1)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(one: Rig, expected: kills.State, seed: int) -> None:
    server = kills.prepared(one)
    dice = random.Random(seed)
    for _ in range(3):
        kills.killed_at_random(one, dice, 3.0)
    kills.finish(one, server, expected, kills=3)


@pytest.mark.parametrize("kind", ["locked", "drop", "drop_after", "500", "junk"])
@pytest.mark.parametrize(
    "operation", ["findScenes", "findScene", "findTags", "tagCreate", "sceneMarkerCreate", "bulkSceneUpdate"]
)
def test_a_passing_fault_of_stash_changes_nothing(one: Rig, expected: kills.State, operation: str, kind: str) -> None:
    server = kills.prepared(one)
    fault = one.stash.faults.add(operation, kind, times=2)
    result = one.run()
    assert result.error is None, result.error
    assert fault.hits > 0
    assert kills.state(one) == expected
    assert len(server.questions()) == kills.QUESTIONS
