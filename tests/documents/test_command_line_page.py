"""The page of the command line: its examples for cron, systemd and Windows are commands that parse."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from haven_vlm.command_line import parser
from haven_vlm.exit_codes import ExitCode

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"haven_vlm_connector\.py ([^\n\"`]*)", PAGE)


@pytest.mark.parametrize("rest", COMMANDS)
def test_every_command_parses(rest: str) -> None:
    if rest == "--help":
        return
    options = parser().parse_args(shlex.split(re.split(r" 2>>| \|", rest)[0].replace("\\", "/")))
    assert options.stash.startswith("http://")


def test_the_page_shows_cron_systemd_and_windows() -> None:
    assert len(COMMANDS) >= 7
    assert "schtasks /Create" in PAGE


def test_the_line_of_cron_is_one_that_cron_takes() -> None:
    (cron,) = re.findall(r"^```cron\n(.*)\n```", PAGE, re.M)
    *when, command = cron.split(maxsplit=5)
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # minute, hour, day, month, weekday: crontab(5)
    for field, (low, high) in zip(when, bounds, strict=True):
        for part in field.split(","):
            span, _, step = part.partition("/")
            ends = [low, high] if span == "*" else [int(end) for end in span.split("-")]
            assert all(low <= end <= high for end in ends) and ends == sorted(ends) and len(ends) <= 2, field
            assert not step or 1 <= int(step) <= high, field
    assert (when[0], when[1]) == ("30", "2")  # half past two, as the page says
    assert "%" not in command  # which ends the line for cron
    assert command.startswith("python3 /") and "--quiet" in command.split()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    names = re.findall(r"`~/\.config/systemd/user/(haven\.\w+)`", PAGE)
    units = re.findall(r"^```ini\n(.*?)^```", PAGE, re.M | re.S)
    assert names == ["haven.service", "haven.timer"]
    for name, text in zip(names, units, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "run").mkdir(mode=0o700)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path)}

    def told(*words: str) -> tuple[int, str]:
        line = ["systemd-analyze", *words]
        done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = told("verify", "--user", "--man=no", *(str(tmp_path / name) for name in names))
    assert code == 0 and "haven." not in said, said
    (when,) = re.findall(r"^OnCalendar=(.*)$", units[1], re.M)
    assert told("calendar", when)[0] == 0
    (tmp_path / "haven.timer").write_text(units[1].replace("OnCalendar=", "OnCalender="), encoding="utf-8")
    assert "OnCalender" in told("verify", "--user", "--man=no", str(tmp_path / "haven.timer"))[1]  # it does look


def test_the_units_of_systemd_are_whole() -> None:
    service, timer = re.findall(r"^```ini\n(.*?)^```", PAGE, re.M | re.S)
    units = []
    for text in (service, timer):
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
        units.append(unit)
    assert units[0]["Service"]["Type"] == "oneshot"
    assert int(units[0]["Service"]["SuccessExitStatus"]) == ExitCode.LATER
    assert "--api-key-file %h/" in units[0]["Service"]["ExecStart"]
    assert "OnCalendar" in units[1]["Timer"] and units[1]["Install"]["WantedBy"] == "timers.target"


def test_every_exit_code_stands_there_as_the_help_says_it() -> None:
    for code in ExitCode:
        assert f"| {code:d} | {code.meaning} |" in PAGE
