"""How a call ends when something happens that nobody planned for: in words, without keys, and with the right code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import haven_vlm_connector as connector
from haven_vlm.errors import DependencyError, WireError
from haven_vlm.exit_codes import ExitCode
from haven_vlm.stash_log import StashLogHandler
from haven_vlm.stash_wire import Envelope, read_envelope


@pytest.fixture
def display() -> StashLogHandler:
    return StashLogHandler(io.BytesIO())


def sent(mode: str, **args: Any) -> bytes:
    """What Stash writes to the plugin's standard input."""
    server = {"Scheme": "http", "Host": "127.0.0.1", "Port": 9, "PluginDir": str(connector.PLUGIN_DIR), "Dir": "config"}
    return json.dumps({"server_connection": server, "args": {"mode": mode, **args}}).encode()


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (WireError("Stash sent nothing."), "Stash sent nothing.", ExitCode.FAILED),
        (
            KeyboardInterrupt(),
            "Stopped. What was answered is kept; start the task again to go on.",
            ExitCode.INTERRUPTED,
        ),
        (
            ZeroDivisionError("api_key=abcdef123456"),
            "Unexpected error (ZeroDivisionError: api_key=[key]). The log",
            ExitCode.FAILED,
        ),
    ],
)
def test_whatever_happens_a_call_ends_in_words(
    display: StashLogHandler, error: BaseException, said: str, code: ExitCode
) -> None:
    def read(_: bytes) -> Envelope:
        raise error

    outcome = connector.serve(read, display, data=b"")
    assert outcome.error.startswith(said) and outcome.code == code and outcome.output == ""
    assert "abcdef123456" not in outcome.error


@pytest.mark.parametrize(("mode", "said"), [("", "no task was named"), ("dance", "“dance” is no task of this plugin")])
def test_a_task_that_there_is_not_is_answered_with_those_there_are(
    display: StashLogHandler, mode: str, said: str
) -> None:
    outcome = connector.serve(read_envelope, display, data=sent(mode))
    assert outcome.error.startswith(said) and "tag_videos" in outcome.error


class Packages:
    """What importing the tasks meets, one time after the other; None: all is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *meets: ImportError | None) -> None:
        self._meets = list(meets)
        self.installed = 0
        monkeypatch.setattr("importlib.import_module", self._load)
        monkeypatch.setattr(connector, "ensure_dependencies", self._ensure)

    def _load(self, name: str) -> None:
        assert name == "haven_vlm.tasks"
        if (error := self._meets.pop(0)) is not None:
            raise error

    def _ensure(self, _: Path, *, spare_dir: Path, distrust_installed: bool = False) -> str:
        self.installed += distrust_installed
        return ""


def test_packages_that_do_not_load_are_replaced_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = Packages(monkeypatch, ImportError("built for another Python", name="av"), None)
    connector._load_tasks(tmp_path)
    assert packages.installed == 1


def test_packages_that_do_not_load_anew_either_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    foreign = ImportError("no such instruction", name="av")
    packages = Packages(monkeypatch, foreign, foreign)
    with pytest.raises(DependencyError, match=r"still do not load on this machine \(no such instruction\).*platforms"):
        connector._load_tasks(tmp_path)
    assert packages.installed == 1


def test_a_part_of_our_own_that_is_missing_is_nothing_that_packages_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages = Packages(monkeypatch, ImportError("gone", name="haven_vlm.videos"))
    with pytest.raises(ImportError, match="gone"):
        connector._load_tasks(tmp_path)
    assert packages.installed == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DependencyError("pip is missing."), "pip is missing."),
        (ZeroDivisionError("token=abcdef123456"), "Unexpected error (ZeroDivisionError: token=[key]). The log has"),
    ],
)
def test_the_page_gets_a_sentence_whatever_happens(
    display: StashLogHandler, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """The page shows the sentence; an error of the whole call would only stand in Stash's log."""

    def broken(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(connector, "ensure_dependencies", broken)
    outcome = connector.serve(read_envelope, display, data=sent("page", op="scene", id=1))
    assert isinstance(outcome.answer, dict) and outcome.error == ""
    assert str(outcome.answer["error"]).startswith(said)
