"""Packages become importable by the first way that works, and the failure of all is one clear sentence.

Pip is played by a module of the same name on PYTHONPATH, so nothing is fetched.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from haven_vlm import bootstrap
from haven_vlm.bootstrap import REQUIREMENTS, Requirement, ensure_dependencies
from haven_vlm.errors import DependencyError
from haven_vlm.pip_calls import install_wheels, pip_environment, pip_of, reason
from haven_vlm.run_lock import try_lock

ROOT = Path(__file__).resolve().parent.parent.parent
HOOPS = Requirement("hoopsmod", "hoops-package", "2.1")

FAKE_PIP = """
import json, pathlib, sys
args = sys.argv[1:]
if args[0] == "config": sys.exit(0)
log = pathlib.Path(__file__).parent / "calls"
log.write_text(str(int(log.read_text()) + 1 if log.exists() else 1))
mode = (pathlib.Path(__file__).parent / "mode").read_text()
if mode == "fails":
    print("noise\\nERROR: No matching distribution found for hoops-package", file=sys.stderr); sys.exit(1)
if mode == "old" and "--report" in args:
    print("no such option: --report", file=sys.stderr); sys.exit(2)
target = pathlib.Path(args[args.index("--target") + 1])
if mode == "hangs":
    (target / "half.py").touch(); (log.parent / "hangs").touch(); sys.stdin.close(); import time; time.sleep(60)
(target / "hoopsmod.py").write_text("BALL = 'round'")
info = target / "hoops_package-2.2.dist-info"; info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: hoops-package\\nVersion: 2.2\\n")
if "--report" in args:
    pathlib.Path(args[args.index("--report") + 1]).write_text(json.dumps({"install": [{
        "metadata": {"name": "hoops-package", "version": "2.2"},
        "download_info": {"url": "secret://somewhere", "archive_info": {"hashes": {"sha256": "abc123"}}}}]}))
"""


class Pip:
    """The fake pip: how it behaves and how often it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pip").mkdir(parents=True)
        (folder / "pip" / "__init__.py").touch()
        (folder / "pip" / "__main__.py").write_text(FAKE_PIP, encoding="utf-8")
        self.behave("works")

    def behave(self, mode: str) -> None:
        (self.folder / "pip" / "mode").write_text(mode, encoding="utf-8")

    @property
    def calls(self) -> int:
        file = self.folder / "pip" / "calls"
        return int(file.read_text(encoding="utf-8")) if file.exists() else 0


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pip]:
    fake = Pip(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", str(fake.folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no git: PythonDepManager is not asked
    yield fake
    sys.modules.pop("hoopsmod", None)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins" / "community" / "ahavenvlmconnector"
    folder.mkdir(parents=True)
    return folder


def forget(plugin: Path) -> None:
    """A new process begins: nothing of the private folder is on the path."""
    sys.path[:] = [p for p in sys.path if not p.startswith(str(plugin.parent))]
    importlib.invalidate_caches()


def test_requirements_are_the_same_everywhere() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(r.pip_spec for r in REQUIREMENTS) == sorted(line for line in lines if line and line[0] != "#")


def test_what_is_installed_costs_no_subprocess(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a subprocess was started"))
    monkeypatch.setattr(shutil, "which", lambda name: pytest.fail("git was looked for"))
    assert ensure_dependencies(plugin) == "already installed"
    assert list(plugin.iterdir()) == []


def test_a_private_folder_is_filled_once(plugin: Path, pip: Pip) -> None:
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    import hoopsmod  # type: ignore[import-not-found]

    assert hoopsmod.BALL == "round"
    forget(plugin)
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 1


def test_what_was_installed_is_recorded_with_its_hash_and_no_address(plugin: Path, pip: Pip) -> None:
    ensure_dependencies(plugin, requirements=[HOOPS])
    (record,) = plugin.glob(".python/*/installed.json")
    assert json.loads(record.read_text()) == [{"name": "hoops-package", "version": "2.2", "hash": "abc123"}]
    assert not list(plugin.glob(".python/*/report.json"))


def test_an_old_pip_without_reports_will_do(plugin: Path, pip: Pip) -> None:
    pip.behave("old")
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])


def test_a_failure_is_one_sentence_with_the_reason_and_the_command(plugin: Path, pip: Pip) -> None:
    pip.behave("fails")
    with pytest.raises(DependencyError) as caught:
        ensure_dependencies(plugin, requirements=[HOOPS])
    text = str(caught.value)
    assert "No matching distribution found for hoops-package, ready-made for Python 3." in text
    folder = plugin / ".python" / bootstrap._folder_name([HOOPS])
    assert f'{sys.executable} -m pip install --target "{folder}" "hoops-package>=2.1"' in text
    assert "\n" not in text
    assert not [p for p in plugin.glob(".python/*") if p.is_dir()]


def test_the_command_a_person_is_told_does_it(plugin: Path, pip: Pip) -> None:
    """Debian, Ubuntu and Alpine refuse a plain `pip install`: packages of their own must not be mixed with others."""
    pip.behave("fails")
    with pytest.raises(DependencyError, match="by hand: ") as caught:
        ensure_dependencies(plugin, requirements=[HOOPS])
    command = str(caught.value).partition("by hand: ")[2].removeprefix(sys.executable)
    folder = Path(command.split('"')[1])
    folder.mkdir()
    pip.behave("works")
    subprocess.run([sys.executable, *shlex.split(command.replace("\\", "/"))], check=True)
    assert ensure_dependencies(plugin, requirements=[HOOPS]) == f"private folder {folder}"
    assert pip.calls == 2  # the one that failed, and the person's


def test_with_no_folder_to_write_to_the_command_names_none(plugin: Path, pip: Pip) -> None:
    (plugin / ".python").touch()
    with pytest.raises(DependencyError) as caught:
        ensure_dependencies(plugin, requirements=[HOOPS])
    assert '-m pip install "hoops-package' in str(caught.value) and "--target" not in str(caught.value)


def test_a_half_filled_folder_hides_nothing(plugin: Path, pip: Pip) -> None:
    """Somebody interrupts the command by hand, and installs the packages of the system instead."""
    half = plugin / ".python" / bootstrap._folder_name([HOOPS])
    half.mkdir(parents=True)
    (half / "hoopsmod.py").touch()
    whole = plugin.parent / "whole"
    whole.mkdir()
    install_wheels(pip_of(sys.executable), [HOOPS.pip_spec], report=whole / "report.json", target=whole)
    sys.path.append(str(whole))
    assert ensure_dependencies(plugin, requirements=[HOOPS]) == "already installed"
    spec = importlib.util.find_spec("hoopsmod")
    assert spec and spec.origin and Path(spec.origin).parent == whole


def test_an_interrupted_install_is_repaired(plugin: Path, pip: Pip) -> None:
    home = plugin / ".python"
    for name in (bootstrap._folder_name([HOOPS]), "cpython-39-linux-old.part-x"):
        (home / name).mkdir(parents=True)
        (home / name / "half.py").touch()
    ensure_dependencies(plugin, requirements=[HOOPS])
    (folder,) = [p for p in home.iterdir() if p.is_dir()]
    assert (folder / "hoopsmod.py").exists()
    assert not (folder / "half.py").exists()


def test_a_plugin_folder_that_cannot_be_written_falls_back_to_the_spare_one(
    plugin: Path, pip: Pip, tmp_path: Path
) -> None:
    (plugin / ".python").touch()  # a file where the folder should be: works as root too, unlike permissions
    spare = tmp_path / "spare"
    assert str(spare) in ensure_dependencies(plugin, spare_dir=spare, requirements=[HOOPS])
    forget(tmp_path / "x")
    sys.path[:] = [p for p in sys.path if not p.startswith(str(spare))]
    assert str(spare) in ensure_dependencies(plugin, spare_dir=spare, requirements=[HOOPS])
    assert pip.calls == 1


def test_a_broken_installation_is_replaced(plugin: Path, pip: Pip) -> None:
    ensure_dependencies(plugin, requirements=[HOOPS])
    ensure_dependencies(plugin, requirements=[HOOPS], distrust_installed=True)
    assert pip.calls == 2


def test_what_pip_left_half_done_counts_as_missing(plugin: Path, pip: Pip) -> None:
    half = plugin.parent / "half"
    (half / "hoops_package-2.2.dist-info").mkdir(parents=True)
    (half / "hoopsmod.py").touch()
    sys.path.insert(0, str(half))
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 1


def test_a_folder_that_lost_a_package_is_filled_anew(plugin: Path, pip: Pip) -> None:
    ensure_dependencies(plugin, requirements=[HOOPS])
    (folder,) = [p for p in (plugin / ".python").iterdir() if p.is_dir()]
    (folder / "hoopsmod.py").unlink()
    forget(plugin)
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 2


def test_folders_of_other_pythons_are_left_alone_while_they_are_used(plugin: Path, pip: Pip) -> None:
    other, ancient = plugin / ".python" / "cpython-399-x", plugin / ".python" / "cpython-30-x"
    for folder in (other, ancient):
        folder.mkdir(parents=True)
    os.utime(ancient, (0, 0))
    ensure_dependencies(plugin, requirements=[HOOPS])
    assert other.exists()
    assert not ancient.exists()


def test_two_tasks_at_once_install_once(plugin: Path, pip: Pip) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(ensure_dependencies(plugin, requirements=[HOOPS])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3
    assert pip.calls == 1


def _managed(plugin: Path, version: str) -> Path:
    folder = plugin.parent / "py_dependencies" / "hoopsmod_latest"
    (folder / f"hoops_package-{version}.dist-info").mkdir(parents=True)
    (folder / f"hoops_package-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: hoops-package\nVersion: {version}\n", encoding="utf-8"
    )
    (folder / "hoopsmod.py").touch()
    return folder


def test_what_the_manager_has_installed_is_used_without_it(plugin: Path, pip: Pip) -> None:
    _managed(plugin, "2.1")
    assert ensure_dependencies(plugin, requirements=[HOOPS]) == "installed by PythonDepManager"
    assert pip.calls == 0


def test_what_the_manager_has_installed_and_is_too_old_is_not_used(plugin: Path, pip: Pip) -> None:
    _managed(plugin, "2.0.9")
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])


def test_a_release_that_is_not_known_to_work_is_left_alone(plugin: Path, pip: Pip) -> None:
    bounded = Requirement("hoopsmod", "hoops-package", "2.1", "3")
    assert bounded.pip_spec == "hoops-package>=2.1,<3" and bounded.manager_spec == "hoopsmod:hoops-package>=2.1"
    assert [v for v in ("", "2.0", "2.1", "2.99.1", "3", "3.0.0", "4.1") if bounded.admits(v)] == ["2.1", "2.99.1"]
    _managed(plugin, "3.0")
    assert "private folder" in ensure_dependencies(plugin, requirements=[bounded])
    assert pip.calls == 1


@pytest.mark.parametrize("works", [True, False])
def test_the_manager_is_asked_first_when_git_is_there(
    plugin: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/git")

    class Manager:
        asked: tuple[str, ...] = ()

        def ensure_import(self, *specs: str) -> None:
            Manager.asked = specs
            if not works:
                raise RuntimeError("no network")
            sys.path.insert(0, str(_managed(plugin, "2.5")))

    monkeypatch.setitem(sys.modules, "PythonDepManager", Manager())
    expected = "installed by PythonDepManager" if works else "private folder"
    assert expected in ensure_dependencies(plugin, requirements=[HOOPS])
    assert Manager.asked == ("hoopsmod:hoops-package>=2.1",)


@pytest.mark.parametrize("is_here", [True, False])
def test_a_manager_that_installs_nothing_costs_only_time(
    plugin: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    """It says that it is done and is not; or git is there and the manager is not."""
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/git")
    manager = SimpleNamespace(ensure_import=lambda *_: None) if is_here else None
    monkeypatch.setitem(sys.modules, "PythonDepManager", manager)
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 1


def test_while_another_run_installs_for_too_long_this_one_says_so(
    plugin: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "INSTALL_TIMEOUT_S", 0.0)
    (plugin / ".python").mkdir()
    lock = try_lock(plugin / ".python" / "lock")
    assert lock is not None
    with lock, pytest.raises(DependencyError, match="another run has been installing packages for too long"):
        ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 0


def test_an_index_that_has_only_other_releases_is_a_sentence(plugin: Path, pip: Pip) -> None:
    """A proxy of a company may hold a release that is too old, and pip may be told to take it all the same."""
    newer = Requirement("hoopsmod", "hoops-package", "9.0")
    with pytest.raises(
        DependencyError, match=r"are missing \(hoops-package\) and could not be installed\. Install them"
    ):
        ensure_dependencies(plugin, requirements=[newer])
    assert pip.calls == 1


def test_the_manager_gets_the_names_that_are_imported() -> None:
    specs = {r.manager_spec.split(">")[0] for r in REQUIREMENTS}
    assert {"stashapi:stashapp-tools", "yaml:PyYAML", "PIL:pillow"} <= specs


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9", "2.10"), ("1.99", "2"), ("15.0rc1", "15.0.1"), ("0.2.58", "0.2.59")]
)
def test_versions_are_compared_by_number(older: str, newer: str) -> None:
    assert bootstrap._release(older) < bootstrap._release(newer)
    assert bootstrap._release("15.0") == bootstrap._release("15")


def test_a_private_folder_wins_over_what_made_it_necessary(plugin: Path, pip: Pip) -> None:
    """After an upgrade of Python PythonDepManager's folders look right and do not load; that is found out once."""
    _managed(plugin, "2.5")
    assert ensure_dependencies(plugin, requirements=[HOOPS]) == "installed by PythonDepManager"
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS], distrust_installed=True)
    forget(plugin)
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 1


def test_an_upgraded_python_gets_a_folder_of_its_own(plugin: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_dependencies(plugin, requirements=[HOOPS])
    forget(plugin)
    upgraded = SimpleNamespace(**{**vars(sys.implementation), "cache_tag": "cpython-399"})
    monkeypatch.setattr(sys, "implementation", upgraded)
    assert "cpython-399" in ensure_dependencies(plugin, requirements=[HOOPS])
    assert pip.calls == 2
    assert len([p for p in (plugin / ".python").iterdir() if p.is_dir()]) == 2  # the other may still be in use


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_install_that_was_killed_is_done_again(plugin: Path, pip: Pip) -> None:
    pip.behave("hangs")
    code = (
        "import pathlib, sys; from haven_vlm.bootstrap import *; "
        "ensure_dependencies(pathlib.Path(sys.argv[1]), requirements=[Requirement('hoopsmod', 'hoops-package', '2.1')])"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(pip.folder), str(ROOT)]), "PATH": ""}
    process = subprocess.Popen([sys.executable, "-c", code, str(plugin)], env=environ, start_new_session=True)
    give_up = time.monotonic() + 60
    while not (pip.folder / "pip" / "hangs").exists():
        assert time.monotonic() < give_up and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    assert [p for p in (plugin / ".python").iterdir() if ".part-" in p.name]
    pip.behave("works")
    assert "private folder" in ensure_dependencies(plugin, requirements=[HOOPS])
    (folder,) = [p for p in (plugin / ".python").iterdir() if p.is_dir()]
    assert not (folder / "half.py").exists()


def test_a_set_that_does_not_load_is_replaced_once_and_the_run_goes_on(tmp_path: Path) -> None:
    plugin = tmp_path / "plugins" / "community" / "ahavenvlmconnector"
    shutil.copytree(ROOT / "haven_vlm", plugin / "haven_vlm", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("haven_*.py"):
        shutil.copy(file, plugin)
    broken = tmp_path / "broken"
    (broken / "aiohttp").mkdir(parents=True)
    (broken / "aiohttp" / "__init__.py").write_text("import yarl\nraise ImportError('built for another Python')")
    (broken / "aiohttp-3.99.dist-info").mkdir()
    (broken / "aiohttp-3.99.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: aiohttp\nVersion: 3.99\n")
    (broken / "pip").mkdir()
    (broken / "pip" / "__init__.py").touch()
    spec = importlib.util.find_spec("aiohttp")
    assert spec and spec.origin
    (broken / "pip" / "__main__.py").write_text(_COPYING_PIP, encoding="utf-8")
    (broken / "pip" / "site").write_text(str(Path(spec.origin).parent.parent), encoding="utf-8")
    environ = os.environ | {"PYTHONPATH": str(broken), "PATH": ""}
    connection = {"Scheme": "http", "Host": "127.0.0.1", "Port": 9, "Dir": str(tmp_path), "PluginDir": str(plugin)}
    call = json.dumps({"server_connection": connection, "args": {"mode": "check_endpoints"}}).encode()
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(plugin / "haven_vlm_connector.py")],
            input=call, capture_output=True, env=environ, timeout=120, check=False,
        )  # fmt: skip
        assert "127.0.0.1:9" in json.loads(done.stdout)["error"]  # all is loaded, and Stash is asked
        said.append(done.stderr.decode())
    assert "built for another Python" in said[0] and "does not load" in said[0]
    assert "does not load" not in said[1]
    assert (broken / "pip" / "calls").read_text() == "x"


_COPYING_PIP = """
import pathlib, shutil, sys
if sys.argv[1] == "config": sys.exit(0)
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as log:
    log.write("x")
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1])
for item in pathlib.Path((here / "site").read_text(encoding="utf-8")).glob("aiohttp*"):
    shutil.copytree(item, target / item.name)
"""


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...host='x.example'...)'\n"
         "ERROR: No matching distribution found for av", "cannot be reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("/usr/bin/python3: No module named pip", "pip is not installed"),
        ("noise\nERROR: No matching distribution found for av>=99 (from versions: 1, 2)",
         "No matching distribution found for av>=99"),
        ("", "?"),
    ],
)  # fmt: skip
def test_pips_complaints_come_to_one_line(stderr: str, said: str) -> None:
    assert said in reason(stderr)


@pytest.mark.parametrize(
    "stderr",
    [
        "ERROR: HTTP error 403 while getting https://coach:secret@mirror.example/simple/av (from https://mirror.example)",
        "ERROR: HTTPSConnectionPool(host='mirror.example', port=443): something",
    ],
)
def test_no_address_is_repeated(stderr: str) -> None:
    said = reason(stderr)
    assert "mirror.example" not in said and "secret" not in said and "ERROR: HTTP" in said


def test_what_leads_pip_elsewhere_is_left_out_and_the_index_is_kept() -> None:
    given = {
        "PIP_TARGET": "/x", "pip_prefix": "/y", "PIP_USER": "1", "PIP_INDEX_URL": "mirror", "HTTPS_PROXY": "proxy",
        "PIP_CONSTRAINT": "/z", "PATH": "/bin", "PIP_CERT": "", "COACH": "sk-0123456789abcdef",
    }  # fmt: skip
    of_files = {"index-url": "another mirror", "trusted-host": "nas", "prefix": "/w", "cert": "/ca.pem"}
    assert pip_environment(given, of_files) == {
        "PIP_INDEX_URL": "mirror", "HTTPS_PROXY": "proxy", "PIP_TRUSTED_HOST": "nas", "PIP_CERT": "/ca.pem",
        "PATH": "/bin", "PIP_CONFIG_FILE": os.devnull, "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip


def test_pip_comes_with_python_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pip_of("another")[1:] == ["-P", "-m", "pip"]
    (tmp_path / "_bundled").mkdir()
    (tmp_path / "_bundled" / "pip-25.0-py3-none-any.whl").touch()
    monkeypatch.setitem(sys.modules, "ensurepip", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = pip_of(sys.executable)
    assert line[0] == sys.executable and line[-1].endswith(os.path.join("pip-25.0-py3-none-any.whl", "pip"))


def test_debian_keeps_the_pip_of_new_environments_in_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There `ensurepip` has no `_bundled`, and may not be there at all."""
    wheels = tmp_path / "python-wheels"
    wheels.mkdir()
    (wheels / "pip-26.2-py3-none-any.whl").touch()
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_config_var", {"WHEEL_PKG_DIR": str(wheels)}.get)
    assert pip_of(sys.executable)[-1] == str(wheels / "pip-26.2-py3-none-any.whl" / "pip")
