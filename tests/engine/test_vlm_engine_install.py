"""A Python with `vlm-engine`: the one that is named, or one that is made; what cannot be had is a sentence."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
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
    inner = f"#!/bin/sh\\n[ $4 = config ] && exit 0\\necho pip >> {folder}/calls\\n{pip}\\n"
    text = f'mkdir -p "$4/bin"; printf \'{inner}\' > "$4/bin/python"; chmod +x "$4/bin/python"'
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


def test_of_what_pip_says_no_address_is_repeated(tmp_path: Path) -> None:
    said = "ERROR: HTTP error 403 while getting https://coach:whistle@mirror.example/torch"
    base = maker(tmp_path, f"echo {said} >&2; exit 1")
    with pytest.raises(DependencyError, match="HTTP error 403") as caught:
        python_of(tmp_path / "data" / "vlm-engine", None, base=base)
    assert "whistle" not in str(caught.value) and "mirror" not in str(caught.value)


def test_a_python_that_cannot_make_environments_says_what_to_install(tmp_path: Path) -> None:
    base = script(tmp_path / "base", "echo ensurepip is not available.; exit 1")
    with pytest.raises(DependencyError, match="apt install python3-venv"):
        python_of(tmp_path / "data" / "vlm-engine", None, base=base)


def test_no_key_is_seen_by_what_installs_it_or_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COACH", "sk-0123456789abcdef")
    monkeypatch.setenv("PIP_INDEX_URL", "http://mirror.invalid/simple")
    write = f"env >> {tmp_path}/seen"
    base = maker(tmp_path, write)
    base.write_text(f"{base.read_text(encoding='utf-8')}{write}\n", encoding="utf-8")
    python_of(tmp_path / "data" / "vlm-engine", None, base=base)
    python_of(tmp_path / "other", script(tmp_path / "python", write))
    seen = (tmp_path / "seen").read_text(encoding="utf-8")
    assert seen.count("PATH=") >= 3 and "PIP_INDEX_URL=http://mirror.invalid/simple" in seen
    assert "sk-0123456789abcdef" not in seen


# --- with the real venv and pip -------------------------------------------------------------------------------


def source_package(folder: Path, ran: Path) -> None:
    """A package that exists as source only; its code runs when somebody builds it."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "hostile"\nbackend-path = ["."]\n',
        "hostile.py": f"open({str(ran)!r}, 'w').close()\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: vlm-engine\nVersion: 1.1.0\n",
    }
    folder.mkdir()
    with tarfile.open(folder / "vlm_engine-1.1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"vlm_engine-1.1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def wheel_package(folder: Path) -> None:
    """A stand-in for the package, as a wheel."""
    info = "vlm_engine-1.1.0.dist-info"
    files = {
        "vlm_engine.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: vlm-engine\nVersion: 1.1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: coach\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / "vlm_engine-1.1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


@pytest.fixture
def started_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stash was started in a folder with a `pip.py` and a `venv.py`; returns the file that they would write."""
    if importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python brings no pip along")
    ran = tmp_path / "ran"
    (tmp_path / "cwd").mkdir()
    for name in ("pip", "venv", "csv"):
        (tmp_path / "cwd" / f"{name}.py").write_text(f"open({str(ran)!r}, 'w').close()", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 10**12))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return ran


def test_a_package_that_would_have_to_be_built_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_elsewhere: Path
) -> None:
    source_package(tmp_path / "packages", started_elsewhere)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    with pytest.raises(DependencyError, match="No matching distribution found for vlm-engine"):
        python_of(tmp_path / "data" / "vlm-engine", None)
    assert not started_elsewhere.exists()


def test_it_is_installed_for_real_and_its_hash_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_elsewhere: Path
) -> None:
    wheel_package(tmp_path / "packages")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    home = tmp_path / "data" / "vlm-engine"
    python = python_of(home, None)
    assert python_of(tmp_path / "other", python) == python
    (installed,) = json.loads((home / "installed.json").read_text(encoding="utf-8"))
    assert installed["name"] == "vlm-engine" and installed["hash"]
    assert not started_elsewhere.exists()
