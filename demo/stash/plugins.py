"""The plugins of one server: loaded from its folder, run as tasks, operations and hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.stash.manifest import Manifest, ManifestError, Operation, load, manifests_under
from demo.stash.runner import Connection, JobResult, LogLine, PluginProcess, merged_args
from demo.stash.sessions import Session, Sessions
from demo.stash.settings import ServerSettings
from demo.stash.store import StashError
from demo.stash.variables import as_json

if TYPE_CHECKING:
    from demo.stash.backend import Call
    from demo.stash.jobs import Job

MAX_NESTED_HOOKS = 10
"""A plugin's hook on one trigger does not run again when the request is already nested in this many of its runs."""


class Plugins:
    """Manifests, and the ways to run what they describe.

    Arguments:
        connection: how a plugin reaches us; called with the cookie value when a process starts.
    """

    def __init__(
        self, settings: ServerSettings, sessions: Sessions, connection: Callable[[str | None], Connection]
    ) -> None:
        self.settings = settings
        self.found: dict[str, Manifest] = {}
        self.refused: list[str] = []
        """Why manifests were refused; Stash logs these at Error."""
        self.logs: list[tuple[str, LogLine]] = []
        """Plugin id and line, in the order of arrival: Stash's log as far as plugins write it."""
        self.results: dict[int, JobResult] = {}
        """Job id to what the plugin's process left."""
        self.env: dict[str, str] = {}
        """Added to the environment of every plugin process."""
        self.cwd = Path("/")
        self._sessions = sessions
        self._connection = connection
        self._lock = threading.Lock()
        self.load()

    def load(self) -> None:
        """Read all manifests again."""
        found: dict[str, Manifest] = {}
        refused: list[str] = []
        paths = manifests_under(self.settings.plugins_path) if self.settings.plugins_path.is_dir() else []
        for path in paths:
            try:
                manifest = load(path)
            except ManifestError as exc:
                refused.append(str(exc))
                continue
            if manifest.id.lower() in {known.lower() for known in found}:
                refused.append(f"{path}: plugin id {manifest.id} already exists")
                continue
            found[manifest.id] = manifest
        with self._lock:
            self.found, self.refused = found, refused

    def enabled(self, plugin_id: str) -> bool:
        return plugin_id not in self.settings.store.kept("disabled_plugins", [])

    def enable(self, wanted: dict[str, bool]) -> None:
        disabled = set(self.settings.store.kept("disabled_plugins", []))
        for plugin_id, on in wanted.items():
            (disabled.discard if on else disabled.add)(plugin_id)
        self.settings.store.keep("disabled_plugins", sorted(disabled))

    def task_job(
        self, plugin_id: str, task_name: str | None, args: dict[str, Any] | None, user: str
    ) -> Callable[[Job], None]:
        """The work of a queued task; the cookie is made when it starts."""

        def execute(job: Job) -> None:
            manifest = self._usable(plugin_id)
            operation = manifest.task(task_name) if task_name is not None else None
            if task_name is not None and operation is None:
                raise StashError(f"Error creating plugin task: no task with name {task_name} in plugin {manifest.name}")

            def show(value: float) -> None:
                job.progress = min(1.0, max(0.0, value))

            try:
                process = self._start(manifest, operation, merged_args(operation, args), Session(user), show)
            except StashError as exc:
                raise StashError(f"Error running plugin task: {exc}") from exc
            job.on_cancel = process.kill
            if job.cancelled.is_set():
                process.kill()
            result = process.wait()
            job.result = self.results[job.id] = result
            if result.error is not None:
                self.logs.append((plugin_id, LogLine("error", f"Plugin returned error: {result.error}")))
            elif result.output is not None:
                self.logs.append((plugin_id, LogLine("debug", f"Plugin returned: {result.output}")))

        return execute

    def operate(self, plugin_id: str, args: dict[str, Any], user: str) -> Any:
        """Run at once and wait; returns `output`.

        Raises:
            StashError: the plugin is unknown, or reports an error.
        """
        manifest = self.found.get(plugin_id)
        if manifest is not None and not self.enabled(plugin_id):
            raise StashError(f"plugin {plugin_id} is disabled")
        if manifest is None:
            raise StashError(
                "Internal system error. Error <runtime error: invalid memory address or nil pointer dereference>"
            )
        result = self._start(manifest, None, args, Session(user), lambda _value: None).wait()
        if result.error is not None:
            raise StashError(result.error)
        return result.output

    def run_hooks(self, call: Call, object_id: int, trigger: str, given: Any, fields: list[str] | None) -> None:
        """Run every plugin hooked on a trigger, one process after another."""
        context = {"id": object_id, "type": trigger, "input": as_json(given)}
        if fields is not None:
            context["inputFields"] = fields
        for manifest in list(self.found.values()):
            hooks = [hook for hook in manifest.hooks if trigger in hook.triggered_by]
            if not hooks or not self.enabled(manifest.id):
                continue
            mark = f"{manifest.id}/{trigger}"
            if call.visited_hooks.count(mark) >= MAX_NESTED_HOOKS:
                continue
            session = Session(call.user, (*call.visited_hooks, mark))
            for hook in hooks:
                args = merged_args(hook, None) | {"hookContext": context}
                self._start(manifest, hook, args, session, lambda _value: None).wait()

    def _usable(self, plugin_id: str) -> Manifest:
        manifest = self.found.get(plugin_id)
        if manifest is None:
            raise StashError(f"Error creating plugin task: no plugin with ID {plugin_id}")
        if not self.enabled(plugin_id):
            raise StashError(f"Error creating plugin task: plugin {plugin_id} is disabled")
        return manifest

    def _start(
        self,
        manifest: Manifest,
        operation: Operation | None,
        args: dict[str, Any],
        session: Session,
        show: Callable[[float], None],
    ) -> PluginProcess:
        try:
            return PluginProcess(
                manifest,
                self._connection(self._sessions.issue(session)),
                operation=operation,
                args=args,
                python_path=self.settings.python_path,
                env=self.env,
                cwd=self.cwd,
                on_progress=show,
                on_log=lambda line: self.logs.append((manifest.id, line)),
            )
        except ManifestError as exc:
            raise StashError(str(exc)) from exc
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise StashError(f"error running plugin: fork/exec {exc.filename}: {reason}") from exc
