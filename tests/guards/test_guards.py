"""The guards themselves: what they are for fails a test, and what is fine does not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import INSIDE
from tests.guards.inside.haven_guard import FINDINGS

ROOT = Path(__file__).resolve().parent.parent.parent

PREAMBLE = """
import asyncio, contextlib, os, socket, subprocess, sys, threading, time
from pathlib import Path
from haven_vlm.files import write_atomically
from haven_vlm.live import prune

kept = []
"""

PLUGIN = """
import asyncio, contextlib, logging, time

async def main():
    with contextlib.suppress(Exception):
        time.sleep(0.001)
    asyncio.sleep(1)
    asyncio.create_task(asyncio.sleep(60), name="forgotten")

logging.captureWarnings(True)
asyncio.run(main())
"""

FINE = {
    "a blocking call in a thread": """
        async def test_it(tmp_path):
            await asyncio.to_thread(write_atomically, tmp_path / "file", "text")
            assert (tmp_path / "file").read_text(encoding="utf-8") == "text"
    """,
    "everything closed": """
        async def test_it():
            thread = threading.Thread(target=time.sleep, args=(0,))
            thread.start()
            with socket.socket(), open(os.devnull, encoding="utf-8"):
                subprocess.run([sys.executable, "-S", "-c", ""], check=True)
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await asyncio.wait([task])
            thread.join()
    """,
    "a thread that was told to end, and takes a moment": """
        def test_it():
            threading.Timer(0.2, lambda: None).start()
    """,
}

TROUBLES = {
    "a blocking call below a coroutine of ours": (
        "Blocking call to os.mkdir at files.py",
        """
        async def test_it(tmp_path):
            write_atomically(tmp_path / "file", "text")
        """,
    ),
    "one that is caught": (
        "Blocking call to os.mkdir at files.py",
        """
        async def test_it(tmp_path):
            with contextlib.suppress(Exception):
                write_atomically(tmp_path / "file", "text")
        """,
    ),
    "a thread": (
        "left behind: thread forgotten",
        """
        def test_it():
            threading.Thread(target=time.sleep, args=(300,), daemon=True, name="forgotten").start()
        """,
    ),
    "a process": (
        "left behind: child process",
        """
        def test_it():
            kept.append(subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE))
        """,
    ),
    "an open file": (
        "left behind: descriptor",
        """
        def test_it(tmp_path):
            kept.append((tmp_path / "file").open("w", encoding="utf-8"))
        """,
    ),
    "a socket": (
        "left behind: descriptor",
        """
        def test_it():
            kept.append(socket.socket())
        """,
    ),
    "a task": (
        "task forgotten of sleep",
        """
        def test_it():
            async def main():
                kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))
            asyncio.run(main())
        """,
    ),
    "a file that is collected while it is open": (
        "ResourceWarning: unclosed file",
        """
        def test_it(tmp_path):
            (tmp_path / "file").open("w", encoding="utf-8")
        """,
    ),
    "a coroutine that nobody awaits": (
        "was never awaited",
        """
        def test_it():
            asyncio.sleep(1)
        """,
    ),
    "an exception in a finalizer": (
        "ValueError: in the finalizer",
        """
        class Careless:
            def __del__(self):
                raise ValueError("in the finalizer")

        def test_it():
            Careless()
        """,
    ),
    "an exception in a thread": (
        "ValueError: in the thread",
        """
        def test_it():
            def fail():
                raise ValueError("in the thread")

            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
        """,
    ),
    "what another process found": (
        "process 7: Blocking call to time.sleep",
        """
        def test_it():
            (Path(os.environ["HAVEN_GUARD_FINDINGS"]) / "7.txt").write_text("Blocking call to time.sleep")
        """,
    ),
}


CONFTEST = """
import tests.conftest as ours
from tests.conftest import *
from tests.conftest import _belongings, _nothing_blocks_the_loop, _processes_are_watched

ours.WAIT_S = 1.0
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Case → what pytest says of it, empty when it passes. One run of all, with our configuration and conftest."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    cases = {f"test_{number}": case for number, case in enumerate([*FINE.items(), *TROUBLES.items()])}
    for module, (_, code) in cases.items():
        test = textwrap.dedent(code if isinstance(code, str) else code[1])
        (folder / f"{module}.py").write_text(PREAMBLE + test, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(folder),
         "-c", str(ROOT / "pyproject.toml"), "--basetemp", str(folder / "temp"), "--junitxml", str(folder / "out.xml"),
         str(folder)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = {name: "" for name, _ in cases.values()}
    for judged in ElementTree.parse(folder / "out.xml").iter("testcase"):
        name, _ = cases[judged.attrib["classname"].rpartition(".")[2]]
        found[name] += "".join(trouble.text or "" for kind in ("failure", "error") for trouble in judged.iter(kind))
    return found


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_passes(said: Mapping[str, str], name: str) -> None:
    assert not said[name]


@pytest.mark.parametrize("name", TROUBLES)
def test_what_is_not_fails_its_test_and_is_named(said: Mapping[str, str], name: str) -> None:
    assert TROUBLES[name][0] in said[name]


def test_a_plugin_process_that_blocks_its_loop_or_forgets_something_tells(tmp_path: Path) -> None:
    plugin = tmp_path / "haven_vlm_connector.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    findings = tmp_path / "findings"
    findings.mkdir()
    environ = os.environ | {FINDINGS: str(findings), "PYTHONPATH": str(INSIDE)}
    subprocess.run([sys.executable, str(plugin)], env=environ, timeout=120, check=True)
    (file,) = findings.iterdir()
    told = file.read_text(encoding="utf-8")
    assert "Blocking call to time.sleep at haven_vlm_connector.py:" in told
    assert "task forgotten of sleep" in told and "was never awaited" in told
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0)"], env=environ, timeout=120, check=True)
    assert [*findings.iterdir()] == [file], "only the plugin is watched"
