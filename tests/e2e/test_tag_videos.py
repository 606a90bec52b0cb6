"""Tag Videos from the button to the markers, and what happens when anything around it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.vision.faults import FaultKind, always, never
from tests.e2e.kills import IN_FLIGHT
from tests.e2e.rig import PLAN, ROOT, TAGS, MakeRig, Rig, wait_for_questions


def test_a_tagged_scene_gets_its_tags_and_markers(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    scene = one.scene()
    result = one.run()
    assert result.error is None
    one.assert_true(scene)
    tags = one.stash.scene_tags(scene)
    assert "VLM_Tagged" in tags and "VLM_TagMe" not in tags
    assert "Tagged 1 of 1 scene" in result.output
    assert server.asked_twice() == {}


def test_who_has_not_said_what_to_look_for_is_told_that_examples_are_looked_for(one: Rig) -> None:
    one.use(one.vision())
    one.scene()
    del one.settings["tag_list"]
    result = one.run("Preview")
    assert result.error is None
    (said,) = [line for line in result.logs if "No tags to look for are set" in line.text]
    assert said.level == "warning" and "Basketball point" in said.text and "Tags to look for" in said.text


def test_created_tags_stand_below_the_parent_and_existing_ones_are_reused(one: Rig) -> None:
    mine = one.stash.add_tag("Slam", aliases=["Dunk"])
    one.use(one.vision())
    scene = one.scene()
    one.run()
    assert "Slam" in one.stash.scene_tags(scene) and "Dunk" not in one.stash.tag_names()
    assert [m["primary_tag"] for m in one.stash.markers(scene)].count("Slam") == 1
    assert mine == one.stash.tag_id("Slam")


def test_the_users_own_things_are_untouched_by_two_runs(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene(tags=("VLM_TagMe", "Mine", "Foul"))
    one.stash.add_marker(scene, 3.0, "Mine", end_seconds=4.0, title="By hand")
    one.run()
    first = one.stash.snapshot()
    one.stash.tag_scene(scene, "VLM_TagMe")
    one.run()
    assert one.stash.snapshot() == first
    assert {"Mine", "Foul"} <= set(one.stash.scene_tags(scene))
    assert [m["title"] for m in one.stash.markers(scene)].count("By hand") == 1


def test_two_endpoints_share_the_work(one: Rig) -> None:
    fast, slow = one.vision(latency_s=0.01), one.vision(latency_s=0.01)
    one.use(fast, slow)
    one.scene()
    assert one.run().error is None
    assert fast.questions() and slow.questions()


def test_nothing_to_do_is_no_error_and_the_trigger_tag_is_made(one: Rig) -> None:
    one.use(one.vision())
    result = one.run()
    assert result.error is None and "did not exist yet" in result.output
    assert "VLM_TagMe" in one.stash.tag_names()
    assert "no scene is tagged" in one.run().output


def test_log_and_progress_are_as_stash_wants_them(make_rig: MakeRig) -> None:
    rig = make_rig(credentials=("coach", "whistle-2000"), api_key="key-that-is-secret")
    rig.use(rig.vision())
    rig.scene()
    result = rig.run()
    assert result.error is None
    assert result.texts("error") == []
    assert result.progress and result.progress[-1] == 1.0 and list(result.progress) == sorted(result.progress)
    everything = result.stdout + result.stderr
    for secret in ("whistle-2000", "key-that-is-secret", rig.stash.connection().cookie or "no cookie"):
        assert secret not in everything
    assert list(json.loads(result.stdout)) == ["output"]


def test_preview_writes_nothing_and_tagging_later_asks_nothing_again(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    scene = one.scene()
    before = one.stash.snapshot()
    result = one.run("Preview")
    assert "Nothing was written" in result.output and "Looked at 1 of 1" in result.output
    assert one.stash.snapshot() == before
    asked = len(server.questions())
    one.run()
    assert len(server.questions()) == asked
    one.assert_true(scene)


def test_new_settings_are_applied_without_a_question(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    scene = one.scene()
    one.run()
    asked = len(server.questions())
    one.stash.tag_scene(scene, "VLM_UpdateMe")
    one.settings["min_marker_duration"] = "5.5"
    result = one.run("Update Results")
    assert result.error is None
    assert len(server.questions()) == asked
    assert [tag for tag, _, _ in one.spans(scene)] == ["Foul"]
    assert "VLM_UpdateMe" not in one.stash.scene_tags(scene)


def test_a_new_tag_asks_about_itself_only(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    scene = one.scene()
    one.settings["tag_list"] = "Foul, Dunk"
    one.run()
    asked = len(server.questions())
    one.stash.tag_scene(scene, "VLM_UpdateMe")
    one.settings["tag_list"] = ", ".join(TAGS)
    one.run("Update Results")
    assert len(server.questions()) == 2 * asked
    one.assert_true(scene)


def test_undo_restores_what_was_there(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene(tags=("VLM_TagMe", "Mine"))
    one.run("Check Endpoints")
    before = one.stash.scene_tags(scene), one.stash.markers(scene)
    one.run()
    result = one.run("Undo Last Run")
    assert result.error is None and "Undone for 1 medium" in result.output
    assert (one.stash.scene_tags(scene), one.stash.markers(scene)) == before
    assert not set(TAGS) & set(one.stash.tag_names())


# --- trouble --------------------------------------------------------------------------------------------------


def test_five_mistakes_in_the_settings_are_one_message(one: Rig) -> None:
    one.settings = {
        "endpoints": "http://127.0.0.1:1/v1 weight=0",
        "video_frame_interval": "soon",
        "sampling": "sometimes",
        "image_max_side": 3,
        "threshold": "7",
    }
    one.scene()
    result = one.run()
    assert result.error and "5 settings are wrong" in result.error
    for key in ("weight", "video_frame_interval", "sampling", "image_max_side", "threshold"):
        assert key in result.error


def test_a_dead_endpoint_does_not_stop_the_others(one: Rig) -> None:
    one.use("http://127.0.0.1:9/v1 name=dead", one.vision())
    scene = one.scene()
    assert one.run().error is None
    one.assert_true(scene)


@pytest.mark.parametrize(
    ("trouble", "fix"),
    [
        ({"api_key": "right"}, "api_key"),
        ({"models": ("other",)}, "other"),
        ({"script": always(FaultKind.HTML)}, "/v1"),
        ({"sees_pictures": False}, "picture"),
    ],
)
def test_an_endpoint_set_up_wrongly_is_named_with_its_fix_and_the_run_completes(
    one: Rig, trouble: dict[str, object], fix: str
) -> None:
    wrong, right = one.vision(**trouble), one.vision()
    one.use(f"{wrong.base_url} name=Wrong model=demo-vlm", f"{right.base_url} model=demo-vlm")
    scene = one.scene()
    result = one.run()
    assert result.error is None
    one.assert_true(scene)
    assert [line.text for line in result.logs if "Wrong" in line.text and fix in line.text]
    assert result.output
    (said,) = [line for line in result.output.splitlines() if "“Wrong” is out" in line]
    assert fix in said, "the summary, too, says what to mend"


def test_a_wrong_key_everywhere_ends_the_run_and_keeps_everything(one: Rig) -> None:
    wrong = one.vision(api_key="right")
    one.use(f"{wrong.base_url} model=demo-vlm")
    scene = one.scene()
    before = one.stash.scene_tags(scene)
    result = one.run()
    assert result.error and "api_key" in result.error
    assert one.stash.scene_tags(scene) == before
    assert one.stash.markers(scene) == []


def test_one_bad_scene_does_not_spoil_the_others(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    good = one.scene("good")
    broken = one.scene("broken")
    broken_file = one.folder / "media" / "broken.mp4"
    broken_file.write_bytes(b"this is no video at all" * 100)
    empty = one.stash.add_scene(None, title="empty", tags=("VLM_TagMe",))
    missing = one.scene("missing")
    (one.folder / "media" / "missing.mp4").unlink()
    result = one.run()
    assert result.error
    one.assert_true(good)
    assert {"VLM_Errored", "VLM_TagMe"} <= set(one.stash.scene_tags(broken))
    assert {"VLM_Errored", "VLM_TagMe"} <= set(one.stash.scene_tags(empty))
    assert "VLM_TagMe" in one.stash.scene_tags(missing) and "VLM_Errored" not in one.stash.scene_tags(missing)
    warnings = "\n".join(result.texts("warning"))
    assert "it has no file" in warnings
    assert "is not on this machine" in warnings and "path_mutation" in warnings
    assert "Tagged 1 of 4 scenes" in result.error


def test_a_truncated_video_is_said_to_be_one_and_keeps_its_mark(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene()
    file = one.folder / "media" / "match.mp4"
    data = file.read_bytes()
    moov_last = data.rfind(b"moov") > data.find(b"mdat")
    file.write_bytes(data[: len(data) // 2])
    result = one.run()
    assert result.error
    assert {"VLM_TagMe", "VLM_Errored"} <= set(one.stash.scene_tags(scene))
    assert one.spans(scene) == []
    assert moov_last  # so the half that is left has no index: nothing can be decoded


def test_a_scene_deleted_in_mid_run_is_said_to_be_gone(one: Rig) -> None:
    server = one.vision()
    one.use(server)
    doomed, good = one.scene("doomed"), one.scene("good")

    def vanish(_: object) -> None:
        if doomed in one.stash.snapshot()["scenes"]:
            one.stash.delete("scenes", doomed)

    one.stash.on_request(vanish, match=lambda record: "sceneMarkerCreate" in record.fields)
    result = one.run()
    texts = "\n".join(line.text for line in result.logs)
    assert "deleted" in texts or "no longer in Stash" in texts or "not found" in texts
    one.assert_true(good)


def test_a_file_that_is_not_here_is_read_through_stash(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene()
    one.settings["path_mutation"] = f"{one.folder / 'media'}={one.folder / 'elsewhere'}"
    result = one.run()
    assert result.error is None
    one.assert_true(scene)
    assert len([line for line in result.logs if "is read through Stash" in line.text]) == 1


def test_folders_under_other_names_are_mapped(one: Rig) -> None:
    one.use(one.vision())
    path = one.clip("match")
    scene = one.stash.add_scene("/data/match.mp4", duration=20.0, tags=("VLM_TagMe",))
    one.settings["path_mutation"] = f"/data={path.parent}"
    assert one.run().error is None
    one.assert_true(scene)


def test_a_killed_run_goes_on_and_asks_nothing_twice(one: Rig) -> None:
    server = one.vision(latency_s=0.05, slots=2)
    one.use(f"{server.base_url} max=2")
    scenes = [one.scene(f"match {i}") for i in range(3)]
    process = one.start("Tag Videos")
    wait_for_questions(server, 15)
    process.kill()
    process.wait(20)
    result = one.run()
    assert result.error is None
    for scene in scenes:
        one.assert_true(scene)
    assert len(server.questions()) <= 3 * 21 + IN_FLIGHT  # those under way when it was killed


def test_the_endpoints_going_away_in_mid_run_keeps_what_was_answered(one: Rig) -> None:
    one.settings |= {"concurrent_task_limit": 1}
    server = one.vision(latency_s=0.02)
    one.use(server)
    scene = one.scene()
    process = one.start("Tag Videos", {"outage_patience": 1})
    wait_for_questions(server, 5)
    server.script = always(FaultKind.DROP)
    result = process.wait(120)
    assert result.error and "VLM_TagMe" in one.stash.scene_tags(scene)
    answered = len(server.questions())
    server.script = never
    assert one.run().error is None
    one.assert_true(scene)
    assert len(server.questions()) - answered <= 21


def test_a_limit_that_is_used_up_ends_the_run_and_the_next_one_goes_on(one: Rig) -> None:
    server = one.vision()
    one.use(f"{server.base_url} max_requests_per_day=12")
    scene = one.scene()
    result = one.run()
    assert result.error and "max_requests_per_day is used up (12 of 12 requests)" in result.error
    assert "at midnight" in result.error
    assert "VLM_TagMe" in one.stash.scene_tags(scene)
    assert len(server.entries) == 12
    result = one.run()
    assert result.error and "max_requests_per_day" in result.error
    assert len(server.entries) == 12, "the day is not over"
    one.use(f"{server.base_url} max_requests_per_day=500")
    asked = len(server.questions())
    assert one.run().error is None
    one.assert_true(scene)
    assert len(server.questions()) - asked <= 21 - asked + 1


# --- the process edge -----------------------------------------------------------------------------------------


def bare(data: bytes, *arguments: str, cwd: Path = ROOT) -> tuple[dict[str, str], int, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "haven_vlm_connector.py"), *arguments],
        input=data, capture_output=True, timeout=60, cwd=cwd, check=False,
    )  # fmt: skip
    return json.loads(done.stdout), done.returncode, done.stderr.decode()


CONNECTION = {"Scheme": "http", "Host": "127.0.0.1", "Port": 9, "Dir": "/tmp", "PluginDir": str(ROOT)}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "nothing came"),
        (b"{", "not the JSON"),
        (b"[]", "no object"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{}", "server_connection"),
        (json.dumps({"server_connection": CONNECTION, "args": {"mode": "fly"}}).encode(), "“fly” is no task"),
        (json.dumps({"server_connection": CONNECTION, "args": {}}).encode(), "no task was named"),
        (json.dumps({"server_connection": CONNECTION, "args": []}).encode(), "args must be"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_1(data: bytes, said: str) -> None:
    reply, code, stderr = bare(data)
    assert said in reply["error"]
    assert code == 1
    assert all(line.startswith("\x01") for line in stderr.splitlines())


def test_the_same_file_is_a_command(one: Rig, tmp_path: Path) -> None:
    one.use(one.vision())
    scene = one.scene()
    one.stash.settings.configure_plugin("ahavenvlmconnector", one.settings)
    reply, code, _ = bare(
        b"", "tag_videos", "--stash", one.stash.url, "--config-dir", str(tmp_path / "mine"), "--json", cwd=tmp_path
    )
    assert code == 0 and "Tagged 1 of 1" in reply["output"]
    one.assert_true(scene)


def test_the_plan_of_these_tests_overlaps() -> None:
    assert PLAN.at(6_000) == {"Basketball point", "Foul"}
