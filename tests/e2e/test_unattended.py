"""What a long run meets when nobody looks: a full disk, a login that is over, things that vanish, another run."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import kills
from tests.e2e.rig import TAGS, MakeRig, Rig, wait_for_questions
from tests.images.test_tag_images import jpeg


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> kills.State:
    return kills.unbroken(tmp_path_factory.mktemp("unbroken") / "rig", clips)


def wait_until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def data_dir(one: Rig) -> Path:
    return one.folder / "config" / "haven_vlm"


# --- the disk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [1, 6, 12, 20, 28])
def test_a_full_disk_ends_the_run_with_a_sentence_and_the_next_goes_on(
    one: Rig, expected: kills.State, commit: int
) -> None:
    server = kills.prepared(one)
    result = one.start_changed("full_disk.py", str(commit)).wait(120)
    assert result.exit_code == 1
    assert result.error and "disk is full" in result.error and "run again" in result.error
    assert "Traceback" not in result.stderr and "please report" not in result.stderr
    assert "Mine" in one.stash.scene_tags(1) and "By hand" in [m["title"] for m in one.stash.markers(1)]
    kills.finish(one, server, expected, kills=1)


def test_a_report_that_cannot_be_written_costs_nothing_else(one: Rig, expected: kills.State) -> None:
    kills.prepared(one)
    data_dir(one).mkdir()
    (data_dir(one) / "reports").write_text("a file where a folder should be", encoding="utf-8")
    result = one.run()
    assert result.error is None
    assert "The report could not be written" in result.output
    assert kills.state(one) == expected


# --- Stash ----------------------------------------------------------------------------------------------------


def test_a_login_that_runs_out_ends_the_run_politely_and_the_next_goes_on(make_rig: MakeRig) -> None:
    one = make_rig(credentials=("coach", "whistle-2000"), max_session_age_s=3600)
    server = one.vision(latency_s=0.02, slots=2)
    one.use(f"{server.base_url} max=2")
    scenes = [one.scene(f"match {i}") for i in range(3)]
    process = one.start("Tag Videos")
    wait_for_questions(server, 5)
    one.stash.advance(4000)
    result = process.wait(120)
    assert result.error and "login" in result.error and "Generate an API key" in result.error
    assert all("VLM_TagMe" in one.stash.scene_tags(scene) for scene in scenes)
    asked = len(server.questions())
    assert one.run().error is None
    for scene in scenes:
        one.assert_true(scene)
    assert len(server.questions()) - asked <= 3 * 21 - asked + 2 * kills.SLOTS


def test_with_an_api_key_the_session_may_run_out(make_rig: MakeRig) -> None:
    one = make_rig(credentials=("coach", "whistle-2000"), api_key="a-key-of-stash", max_session_age_s=3600)
    server = one.vision(latency_s=0.02, slots=2)
    one.use(f"{server.base_url} max=2")
    scene = one.scene()
    process = one.start("Tag Videos")
    wait_for_questions(server, 5)
    one.stash.advance(4000)
    assert process.wait(120).error is None
    one.assert_true(scene)


def test_a_tag_deleted_in_mid_run_is_left_out(one: Rig) -> None:
    one.settings["concurrent_task_limit"] = 1
    one.use(one.vision())
    scene = one.scene(tags=("VLM_TagMe", "Mine"))
    one.stash.add_tag("Foul")
    gone: list[int | None] = []

    def delete(_: object) -> None:
        if not gone and "Dunk" in one.stash.tag_names():
            gone.append(one.stash.tag_id("Foul"))
            one.stash.delete("tags", gone[0] or 0)

    one.stash.on_request(delete, match="sceneMarkerCreate")
    result = one.run()
    assert gone
    assert result.error is None, result.error
    assert {"Mine", "VLM_Tagged", "Dunk", "Basketball point"} <= set(one.stash.scene_tags(scene))
    assert "VLM_TagMe" not in one.stash.scene_tags(scene)
    assert {tag for tag, _, _ in one.spans(scene)} == {"Basketball point", "Dunk"}


# --- two runs -------------------------------------------------------------------------------------------------


def test_two_runs_at_once_share_the_work_and_write_nothing_twice(one: Rig, expected: kills.State) -> None:
    server = kills.prepared(one)
    one.settings["concurrent_task_limit"] = 1
    held = one.stash.faults.add("sceneMarkerCreate", "slow")
    first = one.start("Tag Videos")
    wait_until(lambda: held.hits == 1)
    second = one.run()  # the first is writing to its first scene all the while
    assert second.error is None
    assert "Tagged 2 of 3 scenes" in second.output and "1 scene: another run is working on it" in second.output
    held.release()
    result = first.wait(120)
    assert result.error is None
    assert "Tagged 1 of 3 scenes" in result.output and "2 scenes: it is no longer tagged" in result.output
    assert kills.state(one) == expected
    assert len(server.questions()) == kills.QUESTIONS


def test_a_run_on_another_machine_doubles_nothing(one: Rig, expected: kills.State, tmp_path: Path) -> None:
    """Another data folder: neither run knows of the other, and Stash is all they share."""
    kills.prepared(one)
    first = one.start("Tag Videos")
    second = one.start("Tag Videos", {"data_dir": str(tmp_path / "second machine")})
    for process in (first, second):
        assert process.wait(120).error is None
    assert kills.state(one) == expected


# --- the ledger is lost ---------------------------------------------------------------------------------------


def lose(one: Rig) -> None:
    shutil.rmtree(data_dir(one))


def test_after_the_loss_of_the_ledger_nothing_is_doubled_and_it_is_said(one: Rig, expected: kills.State) -> None:
    server = kills.prepared(one)
    assert one.run().error is None
    lose(one)
    undone = one.run("Undo Last Run")
    assert undone.error is None
    assert "Nothing to undo" in undone.output and "earlier ledger was lost" in undone.output
    lose(one)
    for scene in range(1, 1 + kills.SCENES):
        one.stash.tag_scene(scene, "VLM_TagMe")
    result = one.run()
    assert result.error is None
    assert "3 scenes carried “VLM_Tagged” before" in result.output and "Undo cannot take it back" in result.output
    assert kills.state(one) == expected
    assert len(server.questions()) == 2 * kills.QUESTIONS, "the answers are lost with it"
    one.run("Undo Last Run")
    after = kills.state(one)
    assert after["markers"] == expected["markers"], "what an unknown run wrote is never removed"
    assert all(set(TAGS[1:]) <= set(tags) for tags in after["scenes"].values())
    assert "earlier ledger" not in one.run().output, "said once: there is a run in the new one now"


def test_a_damaged_ledger_is_set_aside_and_what_is_ours_stays_ours(one: Rig, expected: kills.State) -> None:
    server = kills.prepared(one)
    before = kills.state(one)
    assert one.run().error is None
    ledger = data_dir(one) / "ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    content[18:28] = b"\xff" * 10  # the header: nothing opens it any more
    ledger.write_bytes(content)
    one.stash.tag_scene(1, "VLM_TagMe")
    result = one.run()
    assert result.error is None
    assert "The ledger was damaged" in result.output and "set aside as ledger.damaged-" in result.output
    assert [f for f in data_dir(one).iterdir() if f.name.startswith("ledger.damaged-")]
    assert kills.state(one) == expected
    assert len(server.questions()) in (kills.QUESTIONS, 2 * kills.QUESTIONS - 14), "at most this scene's"
    assert before != expected


# --- undo and forgetting --------------------------------------------------------------------------------------


def test_undo_of_one_image_and_of_one_scene(one: Rig, tmp_path: Path) -> None:
    one.use(one.vision())
    one.scene()
    images = []
    for name in "ab":
        file = tmp_path / f"{name}.jpg"
        file.write_bytes(jpeg("Foul", shot=ord(name)))
        images.append(one.stash.add_image(file, tags=("VLM_TagMe",), size=file.stat().st_size))
    assert one.run().error is None and one.run("Tag Images").error is None
    result = one.run("Undo Last Run", {"ids": str(images[0]), "kind": "image"})
    assert result.error is None and "Undone for 1 medium" in result.output
    assert one.stash.image_tags(images[0]) == ["VLM_TagMe"]
    assert set(one.stash.image_tags(images[1])) == {"Foul", "VLM_Tagged"}
    assert "Foul" in one.stash.scene_tags(1)
    assert one.run("Undo Last Run", {"ids": "1"}).error is None
    assert one.stash.scene_tags(1) == ["VLM_TagMe"]
    assert set(one.stash.image_tags(images[1])) == {"Foul", "VLM_Tagged"}
    refused = one.run("Tag Videos", {"ids": "1", "kind": "image"})
    assert refused.error and "kind: this task works on scenes" in refused.error
    for wrong, said in (
        ({"kind": "scene"}, "name ids"),
        ({"ids": "1", "kind": "film"}, "one of scene, image, gallery"),
    ):
        refused = one.run("Undo Last Run", wrong)
        assert refused.error and said in refused.error


def test_old_answers_are_forgotten_only_when_wished_and_it_is_said(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    old, used = one.scene("old"), one.scene("used")
    assert "Forgotten" not in one.run().output
    wish = {"keep_answers": "30 days"}
    ages(one, days=40)
    one.stash.tag_scene(used, "VLM_UpdateMe")
    assert "Forgotten" not in one.run("Update Results", wish).output, "after a long break the first run forgets nothing"
    one.stash.tag_scene(used, "VLM_UpdateMe")
    result = one.run("Update Results", wish)
    assert "Forgotten, because of no use for 30 days (keep_answers): 21 answers." in result.output
    asked = len(server.questions())
    for scene in (old, used):
        one.stash.tag_scene(scene, "VLM_TagMe")
    assert one.run().error is None
    assert len(server.questions()) == asked + 21
    one.assert_true(old)
    one.assert_true(used)
    one.run("Undo Last Run", {"everything": True})
    assert not set(TAGS) & set(one.stash.scene_tags(old)), "what is ours is known for ever"


def ages(one: Rig, *, days: int) -> None:
    """Let everything in the ledger be older by so many days."""
    db = sqlite3.connect(data_dir(one) / "ledger.sqlite")
    with db:
        db.execute("UPDATE files SET used_on = used_on - ?", (days,))
        db.execute("UPDATE runs SET started_at = started_at - ?", (days * 86400,))
    db.close()
