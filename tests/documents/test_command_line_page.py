"""The page of the command line: its examples for cron, systemd and Windows are commands that parse."""

from __future__ import annotations

import configparser
import re
import shlex
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
    (cron,) = re.findall(r"^```cron\n(.*)\n```", PAGE, re.M)
    assert re.match(r"(\S+ ){5}python3 /", cron)
    assert "schtasks /Create" in PAGE


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
