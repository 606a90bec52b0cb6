"""However a run is stopped, the next one finishes it: same result, nothing doubled, hardly a question asked again.

`python -m bench.kills` does the same at every request and at hundreds of random moments.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from demo.stash import RequestRecord
from tests.e2e import kills
from tests.e2e.apart import apart, run_while_stash_dies_at, run_with_deaths_of_stash
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
        kills.killed_at_random(one.start("Tag Videos"), dice, 3.0)
    kills.finish(one, server, expected, kills=3)


@pytest.mark.parametrize("kind", ["locked", "drop", "drop_after", "500", "junk"])
@pytest.mark.parametrize(
    "operation", ["findScenes", "findScene", "findTags", "tagCreate", "sceneMarkerCreate", "bulkSceneUpdate"]
)
def test_a_passing_fault_of_stash_changes_nothing(one: Rig, expected: kills.State, operation: str, kind: str) -> None:
    assert kills.faulted(one, kills.prepared(one), expected, operation, kind)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [9, 17, 25])
def test_killed_around_a_commit_of_the_ledger(one: Rig, expected: kills.State, nth: int, *, after: bool) -> None:
    server = kills.prepared(one)
    assert kills.killed_at_commit(one, nth, after=after)
    kills.finish(one, server, expected, kills=1)


def test_a_run_that_only_finishes_what_an_earlier_one_began_says_so(one: Rig, expected: kills.State) -> None:
    server = kills.prepared(one)
    one.settings["concurrent_task_limit"] = 1
    process = one.start("Tag Videos")
    removals = 0

    def kill(record: RequestRecord) -> None:
        nonlocal removals
        removals += record.variables["input"]["tag_ids"]["mode"] == "REMOVE"
        if removals == kills.SCENES:  # the last trigger is about to come off, and it does
            process.kill()

    one.stash.log.on_reply(kill, match="bulkSceneUpdate")
    process.wait(120)
    assert removals == kills.SCENES
    result = one.run()
    assert result.error is None
    assert "Nothing to do" in result.output
    assert "Finished what an earlier run had begun to write: 1 medium." in result.output
    assert kills.state(one) == expected
    assert len(server.questions()) == kills.QUESTIONS


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [8, 13, 21])
def test_stash_killed_around_a_request_and_started_again(
    tmp_path: Path, clips: Path, expected: kills.State, nth: int, *, after: bool
) -> None:
    """The run waits for Stash, finds out what became of the request, and ends as if nothing had happened."""
    with apart(tmp_path, clips) as (stash, server):
        result, died = run_while_stash_dies_at(stash, nth, after=after)
        stash.close()
        assert died
        assert result.error is None, result.error
        assert stash.state() == expected
    assert len(server.questions()) == kills.QUESTIONS


def test_stash_killed_and_started_again_all_the_time(tmp_path: Path, clips: Path, expected: kills.State) -> None:
    with apart(tmp_path, clips) as (stash, server):
        stash.start()
        result = run_with_deaths_of_stash(stash, stash.press(), random.Random(5))
        assert stash.deaths > 0
        stash.close()
        assert result.error is None, result.error
        assert stash.state() == expected
    assert len(server.questions()) == kills.QUESTIONS
