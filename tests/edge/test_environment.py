"""The environment that `python3 demo` and `python3 tests` make for themselves, on Pythons that lack a part."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import environment

Lacking = Callable[..., None]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that were run; all of them go well. The environment would lie in a folder of the test's."""
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (tmp_path / "environment").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(environment, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Lacking:
    def lack(*names: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else object())

    return lack


def test_with_all_there_pip_runs_inside(started: list[list[str]], lacking: Lacking) -> None:
    lacking()
    python = environment._ensure()
    assert [c[0] for c in started] == [sys.executable, str(python)]
    assert "--without-pip" not in started[0]


def test_without_ensurepip_the_pip_outside_is_borrowed(started: list[list[str]], lacking: Lacking) -> None:
    lacking("ensurepip")
    python = environment._ensure()
    assert "--without-pip" in started[0]
    assert started[1][:5] == [sys.executable, "-m", "pip", "--python", str(python)]


def test_a_python_without_any_pip_says_what_to_install(
    started: list[list[str]], lacking: Lacking, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's python3 alone: everything but a way to install something."""
    lacking("ensurepip", "pip")
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        environment._ensure()
    assert started == []
    assert capsys.readouterr().err == ""  # no promise of a minute or two before


def test_the_command_that_failed_is_named(
    started: list[list[str]], lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking()
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(SystemExit, match=r"this command failed: .*-m venv"):
        environment._ensure()


def test_what_is_ready_is_not_made_again(started: list[list[str]], lacking: Lacking) -> None:
    lacking()
    python = environment._ensure()
    python.parent.mkdir(parents=True)
    python.touch()
    started.clear()
    assert environment._ensure() == python
    assert started == []


@pytest.mark.parametrize("name", ["demo/__main__.py", "demo/environment.py", "tests/__main__.py"])
def test_an_old_python_can_read_as_far_as_the_sentence_that_it_is_too_old(name: str) -> None:
    text = (environment.ROOT / name).read_text(encoding="utf-8")
    assert ast.parse(text, feature_version=(3, 7))
