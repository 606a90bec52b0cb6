"""A Python with `vlm-engine`: the one that is named, or one that is made; what cannot be had is a sentence."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from haven_vlm.errors import BusyError, DependencyError
from haven_vlm.run_lock import FileLock, try_lock
from haven_vlm.vlm_engine_install import python_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins for Python are shell scripts")


def script(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def maker(folder: Path, pip: str) -> Path:
    """Stands in for the Python that makes an environment; the environment's Python runs `pip`."""
    inner = f"#!/bin/sh\\necho pip >> {folder}/calls\\n{pip}\\n"
    text = f'mkdir -p "$3/bin"; printf \'{inner}\' > "$3/bin/python"; chmod +x "$3/bin/python"'
    return script(folder / "base", text)


def test_a_named_python_that_has_it_is_used_as_it_is(tmp_path: Path) -> None:
    named = script(tmp_path / "python", "echo 1.1.0")
    assert python_of(tmp_path / "home", named) == named
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["echo 'No package metadata was found' >&2; exit 1", None])
def test_a_named_python_without_it_is_a_sentence_with_the_command(tmp_path: Path, text: str | None) -> None:
    named = tmp_path / "python"
    if text:
        script(named, text)
    with pytest.raises(DependencyError, match="-m pip install vlm-engine=="):
        python_of(tmp_path / "home", named)


def test_it_is_installed_once(tmp_path: Path) -> None:
    home, base = tmp_path / "data" / "vlm-engine", maker(tmp_path, "exit 0")
    first = python_of(home, None, base=base)
    assert first == home / "bin/python"
    assert python_of(home, None, base=tmp_path / "gone") == first
    assert (tmp_path / "calls").read_text() == "pip\n"


def test_an_installation_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    home = tmp_path / "data" / "vlm-engine"
    (home / "bin").mkdir(parents=True)
    script(home / "bin/python", "exit 0")
    (home / "rubbish").touch()
    python_of(home, None, base=maker(tmp_path, "exit 0"))
    assert not (home / "rubbish").exists()


def test_what_pip_cannot_do_is_said_and_nothing_stays(tmp_path: Path) -> None:
    home = tmp_path / "data" / "vlm-engine"
    base = maker(tmp_path, "echo ERROR: No matching distribution found for decord >&2; exit 1")
    with pytest.raises(DependencyError, match=r"No matching distribution found for decord.*engine: built-in"):
        python_of(home, None, base=base)
    assert not home.exists()


def test_a_full_disk_is_said_before_it_is_fuller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(DependencyError, match=r"needs 10 GB.*only 1\.0 GB"):
        python_of(tmp_path / "data" / "vlm-engine", None, base=maker(tmp_path, "exit 0"))


def test_a_python_that_cannot_make_environments_is_said(tmp_path: Path) -> None:
    home = tmp_path / "data" / "vlm-engine"
    with pytest.raises(DependencyError, match=r"could not be installed: .*No such file.*engine: built-in"):
        python_of(home, None, base=tmp_path / "gone")
    assert not home.exists()


def test_while_another_run_installs_it_this_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haven_vlm.vlm_engine_install._INSTALL_TIMEOUT_S", 0.0)
    home = tmp_path / "vlm-engine"
    lock = try_lock(home.with_suffix(".lock"))
    assert lock is not None
    with lock, pytest.raises(BusyError, match="Another run is installing vlm-engine"):
        python_of(home, None, base=maker(tmp_path, "exit 0"))
    assert not home.exists()


def test_what_another_run_has_installed_meanwhile_is_not_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, base = tmp_path / "vlm-engine", maker(tmp_path, "exit 0")

    def other_was_first(path: Path, *, patience_s: float) -> FileLock | None:
        monkeypatch.undo()
        python_of(home, None, base=base)
        return try_lock(path)

    monkeypatch.setattr("haven_vlm.vlm_engine_install.wait_lock", other_was_first)
    assert python_of(home, None, base=tmp_path / "never used") == home / "bin/python"
    assert (tmp_path / "calls").read_text() == "pip\n"
