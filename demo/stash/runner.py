"""Stash's part of the plugin protocol: start the process, hand it the JSON, read its two streams, kill it.

    result = run_task(plugin_dir, "Tag Videos", {"limit": 3}, timeout=60)
    result.status, result.output, result.error, result.exit_code, result.progress, result.logs

The process is a direct child of ours; Stop is SIGKILL of that child and of nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from demo.stash.manifest import Manifest, ManifestError, Operation, load, manifests_under

MAX_LINE_BYTES = 64 * 1024
"""A stderr line of this many bytes, newline included, is the longest that is read."""

LEVELS = {"t": "trace", "d": "debug", "i": "info", "w": "warning", "e": "error", "p": "progress"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line in Stash's log."""

    level: str
    """trace, debug, info, warning or error."""
    text: str


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of one run of a plugin."""

    logs: tuple[LogLine, ...]
    progress: tuple[float, ...]
    """As sent, 0 to 1 when the plugin behaves."""
    output: Any
    error: str | None
    exit_code: int | None
    """Negative: killed by that signal."""
    status: str
    """FINISHED, also after an error; CANCELLED after a kill; FAILED when it never started."""
    stdout: str
    stderr: str
    """Everything read before the pipe was closed."""
    seconds: float

    def texts(self, level: str) -> list[str]:
        """Messages of one level."""
        return [line.text for line in self.logs if line.level == level]


@dataclass(frozen=True, slots=True)
class Connection:
    """`server_connection`: how the plugin reaches the server."""

    port: int
    host: str = "0.0.0.0"
    scheme: str = "http"
    cookie: str | None = None
    """Value of the session cookie."""
    config_dir: Path = Path("/")

    def as_json(self, plugin_dir: str) -> dict[str, Any]:
        return {
            "Scheme": self.scheme,
            "Host": self.host,
            "Port": self.port,
            "SessionCookie": None if self.cookie is None else go_cookie(self.cookie),
            "Dir": str(self.config_dir),
            "PluginDir": plugin_dir,
        }


def go_cookie(value: str) -> dict[str, Any]:
    """A cookie with the members of Go's http.Cookie; its lifetime is known only to the signed value."""
    return {
        "Name": "session",
        "Value": value,
        "Quoted": False,
        "Path": "",
        "Domain": "",
        "Expires": "0001-01-01T00:00:00Z",
        "RawExpires": "",
        "MaxAge": 0,
        "Secure": False,
        "HttpOnly": False,
        "SameSite": 0,
        "Partitioned": False,
        "Raw": "",
        "Unparsed": None,
    }


def merged_args(operation: Operation | None, args: dict[str, Any] | None) -> dict[str, Any]:
    """The caller's arguments; the manifest's defaults, always text, fill what is missing."""
    merged: dict[str, Any] = dict(operation.default_args) if operation else {}
    return merged | (args or {})


def resolve_python(python_path: str) -> str | None:
    """The configured interpreter if that file exists, else python3, else python."""
    if python_path and Path(python_path).is_file():
        return python_path
    return shutil.which("python3") or shutil.which("python")


class PluginProcess:
    """One run of a plugin.

    Arguments:
        operation: the task, whose `execArgs` are appended; None when none was named.
        args: `args` of the JSON, complete.
        env: variables added to ours.
        cwd: Stash's own working directory, never the plugin's folder.
        on_progress: called in the reader's thread with each progress value.
    """

    def __init__(
        self,
        manifest: Manifest,
        connection: Connection,
        *,
        operation: Operation | None = None,
        args: dict[str, Any] | None = None,
        python_path: str = "",
        env: dict[str, str] | None = None,
        cwd: Path = Path("/"),
        on_progress: Callable[[float], None] = lambda _value: None,
        on_log: Callable[[LogLine], None] = lambda _line: None,
    ) -> None:
        self.manifest = manifest
        self.logs: list[LogLine] = []
        """Grows while the plugin runs."""
        self.progress: list[float] = []
        self._input = json.dumps(
            {"server_connection": connection.as_json(str(manifest.folder)), "args": args or {}},
            ensure_ascii=False,
        ).encode()
        self._on_progress = on_progress
        self._on_log = on_log
        self._stderr = bytearray()
        self._stdout = b""
        self._killed = False
        self._began = time.monotonic()
        command, python = self._command(operation, python_path)
        environment = os.environ | (env or {})
        if python:
            parents = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
            parents.append(str(manifest.folder.parent.absolute()))
            environment["PYTHONPATH"] = os.pathsep.join(parents)
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._threads = [
            threading.Thread(target=work, daemon=True, name=f"plugin-{manifest.id}-{work.__name__}")
            for work in (self._feed, self._read_stderr, self._read_stdout)
        ]
        for thread in self._threads:
            thread.start()

    def _command(self, operation: Operation | None, python_path: str) -> tuple[list[str], bool]:
        words = [*self.manifest.exec, *(operation.exec_args if operation else ())]
        if not words:
            raise ManifestError("empty exec value")
        folder = self.manifest.folder
        words[1:] = [word.replace("{pluginDir}", str(folder)) for word in words[1:]]
        if words[0] in {"python", "python3"}:
            words[0] = resolve_python(python_path) or words[0]
            return words, True
        if shutil.which(words[0]) is None:
            words[0] = str(folder / words[0])
        return words, False

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """Stop, as Stash does it: at once, the direct child only."""
        self._killed = True
        self.process.kill()

    def wait(self, timeout: float | None = None) -> JobResult:
        """Wait until stdout is closed and the process is gone.

        Raises:
            TimeoutError: it still runs; it is left running.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads[1:][::-1]:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"plugin {self.manifest.id} still runs")
        code = self.process.wait()
        output, error = parse_output(self._stdout)
        if code and error is None:
            error = f"exit status {code}" if code > 0 else f"signal: {'killed' if code == -9 else -code}"
        return JobResult(
            logs=tuple(self.logs),
            progress=tuple(self.progress),
            output=output,
            error=error,
            exit_code=code,
            status="CANCELLED" if self._killed else "FINISHED",
            stdout=self._stdout.decode("utf-8", "replace"),
            stderr=bytes(self._stderr).decode("utf-8", "replace"),
            seconds=time.monotonic() - self._began,
        )

    def _feed(self) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(self._input)
            stdin.close()
        except OSError:
            self._log(LogLine("warning", "error writing input to plugins stdin"))

    def _read_stdout(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        with stdout:
            self._stdout = stdout.read()
        self.process.wait()

    def _read_stderr(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        with stderr:
            for line in scanned(stderr, self._stderr):
                self._take(line)

    def _take(self, line: str) -> None:
        level, text = split_line(line)
        if level is None:
            level = self.manifest.err_log if self.manifest.err_log in {*LEVELS.values(), "none"} else "error"
            if level == "none":
                return
        if level != "progress":
            self._log(LogLine(level, text))
            return
        try:
            value = float(text)
        except ValueError:
            self._log(LogLine("error", f"Error parsing progress value '{text}': invalid syntax"))
            return
        self.progress.append(value)
        self._on_progress(value)

    def _log(self, line: LogLine) -> None:
        self.logs.append(line)
        self._on_log(line)


def scanned(stream: IO[bytes], seen: bytearray) -> Any:
    """Lines of a stream as Go's bufio.Scanner gives them: without line ends, none over the limit.

    A line too long ends the reading; what was read so far has been yielded. Bytes are also added to `seen`.
    """
    pending = b""
    while chunk := os.read(stream.fileno(), MAX_LINE_BYTES):
        seen += chunk
        pending += chunk
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if len(line) >= MAX_LINE_BYTES:
                return
            if text := line.removesuffix(b"\r"):
                yield text.decode("utf-8", "replace")
        if len(pending) >= MAX_LINE_BYTES:
            return
    if pending:
        yield pending.removesuffix(b"\r").decode("utf-8", "replace")


def split_line(line: str) -> tuple[str | None, str]:
    """Level and text of a stderr line; None = not prefixed, or shorter than four bytes."""
    if len(line.encode()) < 4 or line[0] != "\x01" or line[2] != "\x02" or line[1] not in LEVELS:
        return None, line
    return LEVELS[line[1]], line[3:].strip()


def parse_output(stdout: bytes) -> tuple[Any, str | None]:
    """`output` and `error` of one JSON object; anything else is, as a whole, the output.

    An `error` that is no string is an error without words.
    """
    text = stdout.decode("utf-8", "replace")

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        reply = json.loads(text, parse_constant=refuse)
    except ValueError:
        return text, None
    if reply is None:
        return None, None
    if not isinstance(reply, dict):
        return text, None
    found = {key.lower(): value for key, value in reply.items()}
    error = found.get("error")
    if error is not None and not isinstance(error, str):
        return text, ""
    return found.get("output"), error


@dataclass(slots=True)
class Run:
    """Settings of `start_task` that tests rarely change."""

    python_path: str = field(default_factory=lambda: sys.executable)
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    on_progress: Callable[[float], None] = lambda _value: None
    on_log: Callable[[LogLine], None] = lambda _line: None


def the_manifest(plugin_dir: Path) -> Manifest:
    """The one manifest in a plugin's folder; a manifest's own path names it.

    Other *.yml files that Stash would refuse, after a line in its log, are passed over.

    Raises:
        ManifestError: none that Stash takes, or several.
    """
    if plugin_dir.is_file():
        return load(plugin_dir)
    taken: list[Manifest] = []
    refused: list[str] = []
    for path in manifests_under(plugin_dir):
        try:
            taken.append(load(path))
        except ManifestError as exc:
            refused.append(str(exc))
    if len(taken) != 1:
        raise ManifestError("; ".join([f"{plugin_dir}: {len(taken)} manifests", *refused]))
    return taken[0]


def start_task(
    plugin_dir: Path,
    task_name: str | None,
    args: dict[str, Any] | None = None,
    *,
    connection: Connection | None = None,
    run: Run | None = None,
) -> PluginProcess:
    """Start a task as the Tasks page does, and return while it runs.

    Raises:
        ManifestError: the manifest is refused or has no such task.
    """
    run = run or Run()
    manifest = the_manifest(plugin_dir)
    operation = manifest.task(task_name) if task_name is not None else None
    if task_name is not None and operation is None:
        raise ManifestError(f"no task with name {task_name} in plugin {manifest.name}")
    return PluginProcess(
        manifest,
        connection or Connection(port=9999),
        operation=operation,
        args=merged_args(operation, args),
        python_path=run.python_path,
        env=run.env,
        cwd=run.cwd,
        on_progress=run.on_progress,
        on_log=run.on_log,
    )


def run_task(
    plugin_dir: Path,
    task_name: str | None,
    args: dict[str, Any] | None = None,
    *,
    timeout: float = 60.0,
    connection: Connection | None = None,
    run: Run | None = None,
) -> JobResult:
    """Run a task to its end; killed after `timeout` seconds, which shows in `status`."""
    process = start_task(plugin_dir, task_name, args, connection=connection, run=run)
    try:
        return process.wait(timeout)
    except TimeoutError:
        process.kill()
        return process.wait(10.0)
