"""The connector as a command: what it takes, what it prints, and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from haven_vlm import command_line
from haven_vlm.command_line import MODES, config_dir_of, envelope, parse
from haven_vlm.errors import (
    BusyError,
    ConfigError,
    DependencyError,
    HavenError,
    LedgerError,
    OutageError,
    StashRefused,
    StashUnauthorized,
    StashUnavailable,
)
from haven_vlm.exit_codes import ExitCode, code_for
from haven_vlm.stash_wire import Envelope
from haven_vlm.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent.parent


def call(line: str, *, environ: dict[str, str] | None = None, plugin_dir: Path = ROOT) -> Envelope:
    return envelope(parse(shlex.split(line)), environ or {}, plugin_dir=plugin_dir)


def test_the_modes_are_those_of_the_tasks() -> None:
    assert set(MODES) == set(TASKS)


def test_a_command_becomes_what_stash_would_have_sent(tmp_path: Path) -> None:
    made = call(
        f"tag-videos --stash http://nas --api-key-env KEY --limit 3 --map /data=/mnt/a --map /more=/mnt/b "
        f"--endpoint 'http://gpu:8080/v1 weight=5' --endpoint http://mac:1234/v1 --tags 'Foul, Dunk' "
        f"--set Threshold=0.7 --config-dir '{tmp_path}'",
        environ={"KEY": " secret-key "},
    )
    assert made.mode == "tag_videos"
    assert made.connection.base_url == "http://nas:80"
    assert made.connection.api_key == "secret-key"
    assert made.config_dir == tmp_path
    assert made.args == {
        "limit": 3,
        "path_mutation": {"/data": "/mnt/a", "/more": "/mnt/b"},
        "endpoints": "http://gpu:8080/v1 weight=5; http://mac:1234/v1",
        "tag_list": "Foul, Dunk",
        "threshold": "0.7",
    }


def test_a_selection_becomes_settings() -> None:
    made = call(
        "tag_videos --stash nas --select untagged --skip-organized --skip-tag Private --skip-tag 'Do not touch' "
        "--skip-path /data/archive --skip-studio 'Some Studio' --order newest --limit 50"
    )
    assert made.args == {
        "select": "untagged",
        "skip_organized": True,
        "skip_tags": ["Private", "Do not touch"],
        "skip_paths": ["/data/archive"],
        "skip_studios": ["Some Studio"],
        "select_order": "newest",
        "limit": 50,
    }
    assert call("tag_videos --stash nas --skip-tag Private").args["select"] == "untagged"
    assert call("tag_videos --stash nas").args == {}
    with pytest.raises(ConfigError, match="--skip-tag, --skip-organized: what you tagged by hand"):
        call("tag_videos --stash nas --select tagged --skip-organized --skip-tag Private")


def test_a_certificate_is_verified_unless_told_otherwise() -> None:
    assert call("undo --stash https://nas").connection.verify_tls
    assert not call("undo --stash https://nas --any-certificate").connection.verify_tls


def test_the_key_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n", encoding="utf-8")
    assert call(f"undo --stash nas --api-key-file '{file}'").connection.api_key == "from-a-file"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("--api-key-env NOT_SET", "NOT_SET is not set"),
        ("--api-key-file no-such-file", "cannot be read"),
        ("--set threshold", "KEY=VALUE"),
        ("--set 'a b=1'", "KEY=VALUE"),
    ],
)
def test_a_mistake_in_an_option_is_named(rest: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(f"undo --stash nas {rest}")


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="is not an address of Stash"):
        call("undo --stash ftp://nas")


@pytest.mark.parametrize(
    "line", ["", "fly --stash nas", "undo", "undo --stash nas --map x", "undo --stash nas --quiet --verbose",
             "undo --stash nas --lim 3"],
)  # fmt: skip
def test_a_wrong_command_ends_with_2_and_one_hint(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(shlex.split(line))
    assert ended.value.code == ExitCode.WRONG
    said = capsys.readouterr().err
    assert "--help" in said and len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tag_videos --everything", "--everything goes with update and undo, not with tag_videos"),
        ("tag_videos --apply", "--apply goes with find_marker_settings, not with tag_videos"),
        ("preview --run 3", "--run goes with undo, not with preview"),
        ("undo --select untagged", "--select goes with tag_videos and tag_images and preview, not with undo"),
        ("update --skip-tag Private", "--skip-tag goes with tag_videos"),
        ("update --skip-organized", "--skip-organized goes with tag_videos"),
        ("undo --limit 3", "--limit goes with"),
        ("check_endpoints --ids 3", "--ids goes with"),
        ("collect_incorrect_markers --kind scene", "--kind goes with"),
        ("tag_videos --ids 3 --select untagged", "--ids and --select do not go together"),
        ("update --ids 3 --everything", "--ids and --everything do not go together"),
        ("undo --run 3 --everything", "--run and --everything do not go together"),
        ("find_marker_settings --apply --limit 3", "--apply and --limit do not go together"),
        ("undo --api-key-env A --api-key-file b", "not allowed with"),
    ],
)
def test_what_would_be_ignored_is_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*shlex.split(line), "--stash", "nas"])
    assert ended.value.code == ExitCode.WRONG
    out, err = capsys.readouterr()
    assert said in err and out == ""


def test_every_option_goes_with_the_modes_it_is_for() -> None:
    for line in (
        "undo --run 3",
        "undo --run 3 --ids 5 --kind image",
        "undo --everything",
        "update --everything --limit 9",
        "find_marker_settings --apply",
        "evaluate --ids 3 --limit 1",
        "tag_images --order newest --limit 5",
        "preview --ids 3,4 --kind gallery",
        "check_endpoints --endpoint http://gpu:8080/v1",
    ):
        parse([*shlex.split(line), "--stash", "nas"])


@pytest.mark.parametrize(
    ("line", "mode", "said"),
    [("tag-videos --stash nas --run 3", "tag_videos", "--run goes with undo"), ("fly --stash nas", "", "fly")],
)
def test_a_wrong_command_is_told_to_a_machine_too(
    line: str, mode: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*shlex.split(line), "--json"])
    assert ended.value.code == ExitCode.WRONG
    body = json.loads(capsys.readouterr().out)
    assert (body["mode"], body["ok"], body["exit_code"]) == (mode, False, ExitCode.WRONG)
    assert said in body["error"]


def test_the_version_is_that_of_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--version"])
    assert ended.value.code == 0
    (version,) = re.findall(r"^version: (\S+)$", (ROOT / "ahavenvlmconnector.yml").read_text(encoding="utf-8"), re.M)
    assert capsys.readouterr().out.startswith(f"A Haven VLM Connector {version} (Python 3.")


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o644, True), (0o640, True)])
def test_a_key_that_others_may_read_is_warned_about(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "my key"
    file.write_text("from-a-file\n", encoding="utf-8")
    file.chmod(mode)
    assert call(f"undo --stash nas --api-key-file '{file}'").connection.api_key == "from-a-file"
    assert [r.levelname for r in caplog.records] == (["WARNING"] if warned else [])
    assert (f"chmod 600 '{file}'" in caplog.text) is warned and "from-a-file" not in caplog.text


def test_help_tells_every_mode_every_code_and_examples_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {mode} " in text for mode in MODES)
    assert all(re.search(rf"^ +{code:d}  ", text, re.M) for code in ExitCode)
    assert text.isascii()  # a console of Windows may know nothing else
    examples = re.findall(r"^    python haven_vlm_connector\.py (.*)$", text.replace("\\\n", " "), re.M)
    assert len(examples) >= 5
    for example in examples:
        parse(shlex.split(example.split("2>>")[0]))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.WRONG),
        (DependencyError("x"), ExitCode.WRONG),
        (StashUnauthorized("x"), ExitCode.WRONG),
        (StashUnavailable("x"), ExitCode.LATER),
        (OutageError("x"), ExitCode.LATER),
        (BusyError("x"), ExitCode.LATER),
        (StashRefused("x"), ExitCode.FAILED),
        (LedgerError("x"), ExitCode.FAILED),
    ],
)
def test_the_exit_code_tells_whether_to_try_again(error: HavenError, code: ExitCode) -> None:
    assert code_for(error) is code


def test_data_lies_with_the_stash_the_plugin_is_installed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "stash" / "plugins" / "community" / "ahavenvlmconnector"
    plugin.mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert config_dir_of(plugin) == tmp_path / "home" / ".haven_vlm"
    (tmp_path / "stash" / "config.yml").touch()
    assert config_dir_of(plugin) == tmp_path / "stash"
    assert config_dir_of(tmp_path / "stash" / "elsewhere") == tmp_path / "home" / ".haven_vlm"


def test_without_a_home_the_folder_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="--config-dir"):
        config_dir_of(tmp_path)


def test_json_is_one_line_with_the_report_in_it() -> None:
    text = command_line.result_json(mode="undo", output="ü", error="", code=0, report='{"media": []}')
    assert "\n" not in text and text.isascii()
    assert json.loads(text) == {"mode": "undo", "ok": True, "exit_code": 0, "output": "ü", "report": {"media": []}}
    failed = json.loads(command_line.result_json(mode="undo", output="", error="no", code=1, report=None))
    assert failed == {"mode": "undo", "ok": False, "exit_code": 1, "output": "", "error": "no"}


def test_every_option_has_a_help_text() -> None:
    assert all(action.help for action in command_line.parser()._actions if action.help is not argparse.SUPPRESS)
