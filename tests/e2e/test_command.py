"""The command as a process: what comes out where, on a terminal, in a log, for a machine, when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from demo.court import Canvas
from demo.vision.faults import Fault, FaultKind, Occasion
from tests.e2e.rig import ROOT, TAGS, Rig

COMMAND = (sys.executable, str(ROOT / "haven_vlm_connector.py"))


WITH_SIGINT = "import os, signal, sys; signal.signal(signal.SIGINT, signal.{}); os.execv(sys.argv[1], sys.argv[1:])"
"""A Python program that starts another with Ctrl-C let through (SIG_DFL) or ignored (SIG_IGN)."""


def start(rig: Rig, mode: str, *options: str, sigint: str = "", **streams: int) -> subprocess.Popen[bytes]:
    rig.stash.settings.configure_plugin("ahavenvlmconnector", rig.settings)
    line = (*COMMAND, mode, "--stash", rig.stash.url, "--config-dir", str(rig.folder / "mine"), *options)
    if sigint:
        line = (sys.executable, "-c", WITH_SIGINT.format(sigint), *line)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(line, **pipes)  # type: ignore[call-overload,no-any-return]


def run(rig: Rig, mode: str, *options: str) -> tuple[str, str, int]:
    process = start(rig, mode, *options)
    out, err = process.communicate(timeout=120)
    return out.decode(), err.decode(), process.returncode


def kept(rig: Rig) -> int:
    """Answers in the ledger."""
    with closing(sqlite3.connect(f"{(rig.folder / 'mine/haven_vlm/ledger.sqlite').as_uri()}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)


def test_the_result_goes_to_stdout_and_plain_lines_to_stderr(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene()
    out, err, code = run(one, "tag_videos")
    assert code == 0
    assert out.startswith("Tagged 1 of 1 scene") and "Report: " in out
    assert "Tagged 1 of 1 scene" not in err  # once is enough on a terminal, where both are seen
    assert "\x01" not in err and "\r" not in err and "frames" in err
    one.assert_true(scene)


def test_quiet_says_nothing_when_all_is_well_and_all_that_is_wrong(one: Rig) -> None:
    one.use(one.vision())
    one.scene()
    assert run(one, "tag_videos", "--quiet") == ("", "", 0)
    one.use("http://127.0.0.1:9/v1")
    one.scene("second")
    out, _, code = run(one, "tag_videos", "--quiet", "--set", "outage_patience=1")
    assert code == 3
    assert "127.0.0.1:9" in out


def test_json_holds_the_report(one: Rig) -> None:
    one.use(one.vision())
    scene = one.scene()
    out, _, code = run(one, "preview", "--json")
    assert code == 0
    (line,) = out.splitlines()
    body = json.loads(line)
    assert (body["mode"], body["ok"], body["exit_code"]) == ("preview", True, 0)
    (medium,) = body["report"]["media"]
    assert medium["id"] == str(scene) and medium["status"] == "tagged" and len(medium["spans"]) == 3


def test_a_stash_that_does_not_answer_is_worth_another_try_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "undo", "--stash", "http://127.0.0.1:9", "--config-dir", str(tmp_path), "--json"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    body = json.loads(done.stdout)
    assert done.returncode == body["exit_code"] == 3
    assert "127.0.0.1:9" in body["error"]


def test_a_wrong_setting_is_told_before_stash_is_waited_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "tag_videos", "--stash", "http://127.0.0.1:9", "--config-dir", str(tmp_path), "--set", "threshold=9",
         "--set", "no_such_thing=1", "--set", "exclusive_groups=Foul, Dunk", "--json"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    body = json.loads(done.stdout)
    assert done.returncode == body["exit_code"] == 2
    assert "threshold" in body["error"] and "no_such_thing" in body["error"]
    assert "127.0.0.1:9" not in body["error"]


def test_what_was_named_and_is_not_there_is_no_success(one: Rig) -> None:
    """It was skipped with exit code 0: a script with a wrong number never learned of it."""
    one.use(one.vision())
    scene = one.scene()
    out, err, code = run(one, "tag_videos", "--ids", f"{scene},999", "--json")
    assert code == 1
    body = json.loads(out)
    assert "1 scene: there is no such scene in Stash" in body["error"]
    assert {m["id"]: m["status"] for m in body["report"]["media"]} == {str(scene): "tagged", "999": "failed"}
    assert "scene 999: failed" in err
    one.assert_true(scene)
    out, err, code = run(one, "tag_images", "--ids", "999")
    assert "To look at" not in err
    assert code == 1 and "1 image: there is no such image in Stash" in out


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no signals")
@pytest.mark.parametrize(
    ("sigint", "signals", "code"),
    [
        ("SIG_DFL", [signal.SIGINT], 130),
        ("SIG_DFL", [signal.SIGTERM], 143),
        ("SIG_IGN", [signal.SIGINT, signal.SIGTERM], 143),  # as shells start what runs in the background
    ],
)
def test_a_stopped_command_says_so_and_goes_on_next_time(one: Rig, sigint: str, signals: list[int], code: int) -> None:
    # after five answers the server hangs, so that the run cannot end before it is stopped; a sixth question is only
    # asked when these five answers have arrived, but perhaps before the last of them is read and kept
    answered = threading.Event()

    def script(occasion: Occasion) -> Fault | None:
        if occasion.number < 5:
            return None
        answered.set()
        return Fault(FaultKind.HANG)

    server = one.vision(script=script)
    one.use(f"{server.base_url} max=1")
    scene = one.scene()
    process = start(one, "tag_videos", sigint=sigint)
    try:
        assert answered.wait(120)
        deadline = time.monotonic() + 120
        while kept(one) < sum(e.answered and not e.is_probe for e in server.questions()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err.decode()
    assert out.decode() == "Stopped. What was answered is kept; start the task again to go on.\n"
    assert "100%" not in err.decode()
    server.script = lambda _: None
    assert run(one, "tag_videos")[2] == 0
    one.assert_true(scene)
    assert server.asked_twice() == {}


@pytest.mark.parametrize("mode", ["tag_videos", "tag_images"])
def test_an_outage_is_no_progress(one: Rig, mode: str) -> None:
    """The bar once leapt to 100 % when the last server went away."""
    one.use("http://127.0.0.1:9/v1")
    one.scene()
    picture = one.folder / "a.png"
    picture = one.folder / "a.png"
    Canvas(320, 180).backdrop(0, frozenset(), TAGS).save(picture)  # something to see: nobody is asked about blank ones
    one.stash.add_image(picture, tags=("VLM_TagMe",), size=picture.stat().st_size)
    out, err, code = run(one, mode, "--set", "outage_patience=1")
    assert code == 3 and "127.0.0.1:9" in out
    assert "100%" not in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo terminals")
def test_a_terminal_gets_a_bar_that_is_gone_before_the_result(one: Rig) -> None:
    one.use(one.vision(latency_s=0.02))
    one.scene()
    ours, theirs = os.openpty()
    process = start(one, "tag_videos", stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = _read_all(ours)
    assert process.wait(60) == 0
    assert "[####" in shown and "a minute" in shown and "100%" in shown
    last_bar, result = shown.rfind("["), shown.index("Tagged 1 of 1 scene")
    assert last_bar < result
    assert shown[:result].endswith(("\n", "\r"))


def _read_all(terminal: int) -> str:
    data, give_up = b"", time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not chunk:
            break
        data += chunk
    os.close(terminal)
    return data.decode("utf-8", "replace")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo terminals")
def test_without_arguments_a_person_gets_help_instead_of_a_wait() -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(COMMAND, stdin=theirs, capture_output=True, timeout=60, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2 and b"usage: python haven_vlm_connector.py" in done.stderr
