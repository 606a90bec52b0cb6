"""An embedded Stash as a process of its own, on a library in a file: killed, and started again at the same address."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo.stash import Connection, EmbeddedStash, JobResult, PluginProcess, Run, start_task
from demo.vision_server import VisionServer
from tests.e2e import kills
from tests.e2e.rig import ROOT, Rig
from tests.stash.servers import free_port

PORTS_TRIED = 10

DEATHS = 10
"""So often Stash dies in a run, at most, where it dies at random moments."""


class StashApart:
    """Stash in another process. What is set up before (or looked at after) is done on its file, while it is off."""

    def __init__(self, folder: Path, clips: Path, stack: ExitStack, **options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._clips = clips
        self._stack = stack
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._over = False
        self.deaths = 0

    @contextmanager
    def library(self) -> Iterator[Rig]:
        """The library as a rig, in this process; Stash must be off."""
        config = self.folder / "config"
        config.mkdir(exist_ok=True)
        stash = EmbeddedStash(db=self.folder / "stash.sqlite", config_dir=config)
        try:
            yield Rig(self.folder, stash, self._clips, self._stack)
        finally:
            stash.close()

    def state(self) -> kills.State:
        """What a user can see; Stash must be off."""
        with self.library() as one:
            return kills.state(one)

    def start(self, *arguments: str) -> None:
        """Start it, or start it again; returns when it listens."""
        with self._turn:
            if self._over:
                return
            for _ in range(PORTS_TRIED):
                if self._listens(arguments):
                    return
                if self.deaths == 0:  # nobody knows the address yet
                    self.port = free_port()
            raise RuntimeError(f"Stash cannot be started at port {self.port}")

    def _listens(self, arguments: Sequence[str]) -> bool:
        """Start it; False: another program was quicker to take the port."""
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self._options.items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "demo.stash", f"--db={self.folder / 'stash.sqlite'}", f"--port={self.port}",
             f"--config-dir={self.folder / 'config'}", *options, *arguments],
            cwd=ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            process.wait()
            process.stdout.close()
            return False
        assert json.loads(said)["port"] == self.port
        self._process = process
        return True

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with self._turn:
            if self._process is not None:
                self._process.kill()
                self._gone()

    def wait_until_it_dies(self, timeout_s: float) -> bool:
        """For one that was started to die by itself; False: it still lives."""
        process = self._process
        assert process is not None
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        with self._turn:
            self._gone()
        return True

    def _gone(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self.deaths += 1

    def close(self) -> None:
        """Kill it for good."""
        self.kill()
        with self._turn:
            self._over = True

    def press(
        self, task: str = "Tag Videos", args: dict[str, Any] | None = None, *, run: Run | None = None
    ) -> PluginProcess:
        """Press a button."""
        connection = Connection(port=self.port, host="127.0.0.1", config_dir=self.folder / "config")
        return start_task(ROOT, task, args, connection=connection, run=run)


@contextmanager
def apart(folder: Path, clips: Path, **options: str) -> Iterator[tuple[StashApart, VisionServer]]:
    """The library of the kill tests in a Stash apart (still off), and the model server."""
    with ExitStack() as stack:
        stash = StashApart(folder, clips, stack, **options)
        with stash.library() as one:
            server = kills.prepared(one)
            one.stash.settings.configure_plugin("ahavenvlmconnector", one.settings)
        stack.callback(stash.close)
        yield stash, server


def run_with_deaths_of_stash(stash: StashApart, process: PluginProcess, dice: random.Random) -> JobResult:
    """Kill and restart Stash at random moments until the run is over, or has outlived `DEATHS` of them.

    From the moment the run is under way: its start waits 20 s for Stash, and how long Stash takes to come back is the
    machine's affair. For the same reason there is an end to it: a slow machine does little between two deaths.
    """
    over = threading.Event()

    def trouble() -> None:
        while not process.progress:
            if over.wait(0.01):
                return
        for _ in range(DEATHS):
            stash.kill()
            over.wait(dice.uniform(0, 0.5))
            stash.start()
            if over.wait(dice.uniform(0.3, 4)):
                return

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        return process.wait(600)
    except BaseException:  # the test's own end, too: a run without its Stash would wait for it for ever
        process.kill()
        raise
    finally:
        over.set()
        thread.join()


def run_while_stash_dies_at(stash: StashApart, number: int, *, after: bool) -> tuple[JobResult, bool]:
    """Run; Stash dies at its n-th request, and comes back at once. Also whether it came to that."""
    stash.start(f"--die-at={number}", *(["--die-after"] if after else []))
    process = stash.press()
    back = threading.Event()

    def revive() -> None:
        while not back.is_set():
            if stash.wait_until_it_dies(0.05):
                stash.start()
                return

    thread = threading.Thread(target=revive)
    thread.start()
    try:
        result = process.wait(600)
    except BaseException:
        process.kill()
        raise
    finally:
        back.set()
        thread.join()
    return result, stash.deaths > 0
