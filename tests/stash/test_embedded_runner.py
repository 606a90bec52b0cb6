"""The runner used directly, without a server, and the plugin side of the embedded one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.stash import Connection, EmbeddedStash, LogLine, ManifestError, Run, load, run_task, running_stash, start_task
from demo.stash.manifest import manifests_under
from demo.stash.runner import parse_output, split_line
from tests.stash import probe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return probe.install(tmp_path / "plugins")


def test_what_a_plugin_is_given(folder: Path) -> None:
    connection = Connection(port=1234, host="0.0.0.0", cookie="value", config_dir=Path("/config"))
    result = run_task(folder, "Echo", {"n": 7}, connection=connection, timeout=30)
    given = result.output["given"]
    assert given["args"] == {"mode": "x", "flag": "true", "n": 7, "f": "1.50", "nothing": "", "day": "2024-01-02"}
    told = given["server_connection"]
    assert (told["Host"], told["Port"], told["Dir"], told["PluginDir"]) == ("0.0.0.0", 1234, "/config", str(folder))
    assert told["SessionCookie"]["Value"] == "value"
    assert result.output["cwd"] == "/"
    assert result.output["argv"] == [str(folder), "--extra"]
    assert result.output["env"]["PYTHONPATH"].split(os.pathsep)[-1] == str(folder.parent)
    assert (result.status, result.error, result.exit_code) == ("FINISHED", None, 0)


def test_an_existing_pythonpath_comes_first(folder: Path) -> None:
    result = run_task(folder, "Echo", run=Run(env={"PYTHONPATH": "/first"}), timeout=30)
    assert result.output["env"]["PYTHONPATH"] == f"/first{os.pathsep}{folder.parent}"


def test_log_lines(folder: Path) -> None:
    lines = [
        "\x01t\x02trace\n", "\x01d\x02debug\n", "\x01i\x02 info  \n", "\x01w\x02warn\n", "\x01e\x02err\n", "plain\n",
        "\n", "\x01i\x02\n", "\x01i\x02x\n", "\x01z\x02odd\n", "\x01p\x02bad\n", "\x01p\x020.25\n", " \x01i\x02x\n",
        "dos\r\n", "\x01i\x02 \n", "no end",
    ]  # fmt: skip
    result = run_task(folder, "Echo", {"do": "log", "lines": lines}, timeout=30)
    assert list(result.logs) == [
        LogLine("trace", "trace"),
        LogLine("debug", "debug"),
        LogLine("info", "info"),
        LogLine("warning", "warn"),
        LogLine("error", "err"),
        LogLine("warning", "plain"),
        LogLine("warning", "\x01i\x02"),
        LogLine("info", "x"),
        LogLine("warning", "\x01z\x02odd"),
        LogLine("error", "Error parsing progress value 'bad': invalid syntax"),
        LogLine("warning", " \x01i\x02x"),
        LogLine("warning", "dos"),
        LogLine("info", ""),
        LogLine("warning", "no end"),
    ]
    assert result.progress == (0.25,)
    assert result.texts("info") == ["info", "x", ""]


def test_a_killed_plugin_is_cancelled_at_once(folder: Path) -> None:
    process = start_task(folder, "Other", {"do": "sleep", "seconds": 60})
    deadline = time.monotonic() + 10
    while not process.progress and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    result = process.wait(10)
    if sys.platform == "win32":  # where a process that is killed ends with 1
        ended = ("CANCELLED", 1, "exit status 1")
    else:
        ended = ("CANCELLED", -signal.SIGKILL, "signal: killed")
    assert (result.status, result.exit_code, result.error) == ended
    assert result.progress == (0.5,)
    assert not (folder / "slept").exists()


def test_a_task_over_its_time_is_killed(folder: Path) -> None:
    result = run_task(folder, "Other", {"do": "sleep", "seconds": 60}, timeout=0.5)
    assert result.status == "CANCELLED"


def test_waiting_too_short_leaves_it_running(folder: Path) -> None:
    process = start_task(folder, "Other", {"do": "sleep", "seconds": 60})
    with pytest.raises(TimeoutError):
        process.wait(0.05)
    assert process.process.poll() is None
    process.kill()
    process.wait(10)


def test_a_second_yml_below_the_folder_is_tried_as_a_second_plugin(folder: Path) -> None:
    other = folder / "deep" / "settings.yml"
    other.parent.mkdir()
    other.write_text("interval: 1\n", encoding="utf-8")
    assert run_task(folder, "Echo", timeout=30).status == "FINISHED", "refused, and passed over"
    other.write_text("name: Second\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="2 manifests"):
        run_task(folder, "Echo")
    assert run_task(folder / "probe.yml", "Echo", timeout=30).status == "FINISHED"


def test_unknown_tasks_and_broken_manifests(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no task with name Nope"):
        start_task(folder, "Nope")
    broken = tmp_path / "broken.yml"
    broken.write_text("name: x\nunknown: 1\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="field unknown not found"):
        load(broken)
    broken.write_text("name: x\nname: y\n", encoding="utf-8")
    with pytest.raises(ManifestError, match='key "name" already set'):
        load(broken)


def test_a_manifest_read(folder: Path) -> None:
    manifest = load(manifests_under(folder)[0])
    assert (manifest.id, manifest.name, manifest.version, manifest.err_log) == ("probe", "Probe", "1.10", "warning")
    task = manifest.task("Echo")
    assert task is not None
    assert task.default_args["flag"] == "true"
    assert manifest.settings["zeta"].type == "NUMBER"
    assert manifest.hooks[0].triggered_by[0] == "Scene.Update.Post"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"output": 1, "error": null}', (1, None)),
        ('{"error": "x"}', (None, "x")),
        ('{"error": 5}', ('{"error": 5}', "")),
        ("{}", (None, None)),
        ("junk", ("junk", None)),
        ('{"output": Infinity}', ('{"output": Infinity}', None)),
    ],
)
def test_stdout(text: str, parsed: tuple[Any, str | None]) -> None:
    assert parse_output(text.encode()) == parsed


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("\x01i\x02x", ("info", "x")),
        ("\x01p\x020.5", ("progress", "0.5")),
        ("\x01i\x02", (None, "\x01i\x02")),
        ("\x01q\x02x", (None, "\x01q\x02x")),
        ("abc", (None, "abc")),
    ],
)
def test_stderr_prefixes(line: str, parsed: tuple[str | None, str]) -> None:
    assert split_line(line) == parsed


@pytest.fixture
def stash(folder: Path) -> Iterator[EmbeddedStash]:
    with running_stash(plugins_path=folder.parent) as running:
        yield running


def test_a_task_through_the_queue_from_python(stash: EmbeddedStash) -> None:
    job, result = stash.wait_for_job(stash.run_plugin_task("probe", "Echo", {"n": 1}), 30)
    assert job.status == "FINISHED"
    assert result is not None
    assert result.output["given"]["args"]["n"] == 1
    assert result.output["given"]["server_connection"]["Port"] == stash.port
    assert ("probe", LogLine("debug", f"Plugin returned: {result.output}")) in stash.plugins.logs


def test_held_jobs_stay_ready(stash: EmbeddedStash) -> None:
    stash.jobs.hold()
    job_id = stash.run_plugin_task("probe", "Echo")
    found = stash.jobs.find(job_id)
    assert found is not None
    assert found.status == "READY"
    stash.jobs.hold(False)
    assert stash.wait_for_job(job_id, 30)[0].status == "FINISHED"


def test_closing_the_server_kills_what_runs(folder: Path) -> None:
    with running_stash(plugins_path=folder.parent) as stash:
        job_id = stash.run_plugin_task("probe", "Other", {"do": "sleep", "seconds": 60})
        deadline = time.monotonic() + 10
        while not (folder / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    job = stash.jobs.find(job_id)
    assert job is not None
    assert job.status == "CANCELLED"
