"""The pip of this Python against wheels of the test's own: nothing leaves the machine."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from haven_vlm.bootstrap import Requirement, ensure_dependencies
from haven_vlm.errors import DependencyError
from haven_vlm.pip_calls import pip_of, user_settings

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")

NAME = "hoops_package-2.2-py3-none-any.whl"
HOOPS = Requirement("hoopsmod", "hoops-package", "2.1")


def write_wheel(folder: Path, name: str = "hoops", needs: str = "") -> Path:
    """A package of one module."""
    info = f"{name}_package-2.2.dist-info"
    files = {
        f"{name}mod.py": b"BALL = 'round'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 2.2\n{needs}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: coach\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir()
    wheel = folder / NAME.replace("hoops", name)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return write_wheel(tmp_path / "wheels")


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of this machine's pip counts, and no git is there."""
    for name in [n for n in os.environ if n.upper().startswith("PIP_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("hoopsmod", None)


def record(plugin: Path) -> list[dict[str, str]]:
    (file,) = plugin.glob(".python/*/installed.json")
    content: list[dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_a_folder_of_wheels_will_do(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert "private folder" in ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
    (installed,) = record(tmp_path / "plugin")
    assert (installed["name"], installed["version"]) == ("hoops-package", "2.2")
    assert installed["hash"] in ("hash unknown", hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_settings_that_lead_elsewhere_do_not(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[install]\nuser = true\n[global]\nrequire-virtualenv = true\n", encoding="utf-8")
    for name, value in {
        "PIP_CONFIG_FILE": config, "PIP_TARGET": tmp_path / "wrong", "PIP_PREFIX": tmp_path / "wrong", "PIP_USER": 1,
        "PIP_REQUIRE_VIRTUALENV": 1, "PIP_DRY_RUN": 1, "PIP_NO_INDEX": 1, "PIP_FIND_LINKS": wheel.parent,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    assert "private folder" in ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
    assert not (tmp_path / "wrong").exists()


def users_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of somebody's pip, where pip finds it by itself."""
    file = home / "pip" / "pip.ini" if os.name == "nt" else home / ".pip" / "pip.conf"
    file.parent.mkdir()
    monkeypatch.setenv("APPDATA" if os.name == "nt" else "HOME", str(home))
    monkeypatch.delenv("PIP_CONFIG_FILE")
    return file


@pytest.mark.parametrize(
    "lines",
    [
        "[install]\nprefix = {wrong}", "[install]\ntarget = {wrong}", "[install]\nroot = {wrong}",
        "[global]\nno-deps = true", "[global]\nno-binary = :all:", "[install]\ndry-run = true",
        "[install]\nrequire-hashes = true", "[global]\nconstraint = {wrong}/none.txt", "[install]\nuser = true",
        "[install]\nreport = {wrong}", "[global]\nquiet = 3", "[install]\nnonsense",
        "[global]\nplatform = hoops_1", "[install]\nrequirement = {wrong}/none.txt",
    ],
)  # fmt: skip
def test_a_configuration_file_of_pip_leads_nowhere_else(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    wrong = tmp_path / "wrong"
    users_file(tmp_path, monkeypatch).write_text(lines.format(wrong=wrong) + "\n", encoding="utf-8")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    needing = write_wheel(tmp_path / "more", "passes", "Requires-Dist: hoops-package")
    shutil.move(needing, wheel.parent)
    assert "private folder" in ensure_dependencies(
        tmp_path / "plugin", requirements=[Requirement("passesmod", "passes-package", "2.1")]
    )
    assert sorted(package["name"] for package in record(tmp_path / "plugin")) == ["hoops-package", "passes-package"]
    assert not wrong.exists()


def test_the_index_of_a_configuration_file_is_used(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users_file(tmp_path, monkeypatch).write_text(
        "[global]\nno-index = true\nquiet = 2\nfind-links = /nowhere\nprefix = /wrong\n"
        f"[install]\nfind-links =\n    {tmp_path / 'none'}\n    {wheel.parent}\n",
        encoding="utf-8",
    )
    found = user_settings(pip_of(sys.executable), os.environ)
    assert found["find-links"].split() == [str(tmp_path / "none"), str(wheel.parent)]
    (tmp_path / "none").mkdir()
    assert "private folder" in ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])


def test_a_file_called_pip_where_stash_was_started_is_not_run(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text("open('run', 'w')", encoding="utf-8")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
    assert not (tmp_path / "run").exists()


def test_a_package_that_would_have_to_be_built_is_not_and_its_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "hostile"\nbackend-path = ["."]\n',
        "hostile.py": f"open({str(ran)!r}, 'w').close()\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: hoops-package\nVersion: 2.2\n",
    }
    (tmp_path / "sources").mkdir()
    with tarfile.open(tmp_path / "sources" / "hoops_package-2.2.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"hoops_package-2.2/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "sources"))
    with pytest.raises(DependencyError, match="No matching distribution"):
        ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
    assert not ran.exists()


class _Proxy(BaseHTTPRequestHandler):
    """A proxy that is the registry as well, and writes down what it is asked for."""

    seen: list[str]
    wheel: Path

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.endswith(".whl"):
            body, kind = self.wheel.read_bytes(), "application/octet-stream"
        else:
            body, kind = f'<!DOCTYPE html><html><body><a href="{NAME}">{NAME}</a></body></html>'.encode(), "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_proxy_is_used(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Proxy", (_Proxy,), {"seen": [], "wheel": wheel})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("PIP_INDEX_URL", "http://registry.invalid/simple")
        monkeypatch.setenv("PIP_TRUSTED_HOST", "registry.invalid")
        try:
            assert "private folder" in ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
        finally:
            server.shutdown()
            thread.join()
    assert [path for path in kind.seen if path.startswith("http://registry.invalid/")]  # type: ignore[attr-defined]
    assert len(record(tmp_path / "plugin")[0]["hash"]) == 64


def test_offline_is_said_to_be_offline_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # what it says of a retry is how we know
    with pytest.raises(DependencyError) as caught:
        ensure_dependencies(tmp_path / "plugin", requirements=[HOOPS])
    text = str(caught.value)
    assert "cannot be reached" in text and "127.0.0.1:9" not in text and "-m pip install" in text


def test_two_processes_at_once_install_once(tmp_path: Path, wheel: Path) -> None:
    code = (
        "import logging, pathlib, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from haven_vlm.bootstrap import *\n"
        "print(ensure_dependencies(pathlib.Path(sys.argv[1]), requirements=[Requirement('hoopsmod', 'hoops-package', "
        "'2.1')]))\nimport hoopsmod"
    )
    environ = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code, str(tmp_path / "plugin")]
    processes = [subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert all("private folder" in out for out in outputs)
    assert sum(out.count("Installing Python packages") for out in outputs) == 1


def test_the_pip_that_comes_with_python_runs_from_its_wheel(tmp_path: Path) -> None:
    ensurepip = importlib.util.find_spec("ensurepip")
    wheels = sorted(Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl")) if ensurepip and ensurepip.origin else []
    if not wheels:
        pytest.skip("this Python brings no pip along")
    done = subprocess.run([sys.executable, "-P", str(wheels[0] / "pip"), "--version"], capture_output=True, check=True)
    assert done.stdout.startswith(b"pip ")
    assert pip_of(sys.executable) == [sys.executable, "-P", "-m", "pip"]
