"""The HTTP server around the library, in a thread of its own."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from demo.stash.backend import Backend
from demo.stash.faults import Faults, RequestLog, RequestRecord
from demo.stash.jobs import Job, JobQueue
from demo.stash.plugins import Plugins
from demo.stash.runner import Connection, JobResult
from demo.stash.seeding import Library
from demo.stash.sessions import Session, Sessions
from demo.stash.settings import ServerSettings
from demo.stash.store import Row, Store
from demo.stash.web_app import WebApp

WORKERS = 32
"""Requests carried out at the same time."""


class EmbeddedStash(Library):
    """A Stash on loopback. `with` or `async with`; see the package's docstring.

    Arguments:
        db: an SQLite file that outlives the process; None = in memory.
        port: 0 = a free one.
        credentials: user name and password; None = everybody may do everything.
        api_key: a configured API key.
        max_session_age_s: seconds a cookie is valid from its issue; 0 = for ever.
        plugins_path: folder whose `*.yml` are manifests.
        advertised_host: `Host` that plugins are given; the real default is 0.0.0.0.
        python_path: interpreter for plugins whose `exec` says `python`; empty = the one on PATH.
        general: overrides of fields of `configuration.general`.
    """

    def __init__(
        self,
        *,
        db: Path | None = None,
        port: int = 0,
        credentials: tuple[str, str] | None = None,
        api_key: str | None = None,
        max_session_age_s: int = 3600,
        plugins_path: Path | None = None,
        config_dir: Path | None = None,
        advertised_host: str = "0.0.0.0",
        external_host: str = "",
        version: str = "v0.30.1",
        python_path: str = "",
        general: dict[str, Any] | None = None,
    ) -> None:
        self._ahead_s = 0.0
        super().__init__(Store(str(db) if db else ":memory:", self.clock))
        self._wanted_port = port
        self._temporary = None if config_dir else tempfile.TemporaryDirectory(prefix="stash-")
        config_dir = config_dir or Path(self._temporary.name if self._temporary else "/")
        user, password = credentials or ("", "")
        self.settings = ServerSettings(
            store=self.store,
            config_dir=config_dir,
            plugins_path=plugins_path or config_dir / "plugins",
            username=user,
            password=password,
            max_session_age_s=max_session_age_s,
            version=version,
            advertised_host=advertised_host,
            external_host=external_host,
            python_path=python_path,
            general=general or {},
        )
        if api_key is not None:
            self.settings.api_key = api_key
        self.sessions = Sessions(self.settings, self.clock)
        self.plugins = Plugins(self.settings, self.sessions, self.connection)
        self.jobs = JobQueue(self.clock)
        self.faults = Faults()
        self.log = RequestLog()
        self.backend = Backend(self.store, self.settings, self.plugins, self.jobs)
        self.port = 0
        """The port listened on, once started."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    # ---- time ----

    def clock(self) -> float:
        """The server's time: real, plus what `advance` added."""
        return time.time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward: cookies age, `updated_at` of later changes differs."""
        self._ahead_s += seconds

    # ---- addresses and keys ----

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def graphql_url(self) -> str:
        return f"{self.url}/graphql"

    def cookie(self, user: str | None = None) -> str:
        """A fresh session cookie's value, as a plugin gets it."""
        return self.sessions.issue(Session(self.settings.username if user is None else user))

    def connection(self, cookie: str | None = None) -> Connection:
        """`server_connection` for a plugin that is to talk to this server."""
        return Connection(
            port=self.port,
            host=self.settings.advertised_host,
            cookie=self.cookie() if cookie is None else cookie,
            config_dir=self.settings.config_dir,
        )

    def server_connection(self, plugin_dir: Path | str = "/plugins/plugin") -> Row:
        """The same as the JSON object a plugin reads from stdin."""
        return self.connection().as_json(str(plugin_dir))

    # ---- scripting and watching ----

    @property
    def requests(self) -> list[RequestRecord]:
        return list(self.log.records)

    def count(self, name: str) -> int:
        """Requests so far for an operation, a root field or a path prefix."""
        return len(self.log.named(name))

    def on_request(self, callback: Callable[[RequestRecord], Any], *, match: Any = None) -> None:
        """Call back before each (matching) request is carried out; the callback may change the library."""
        self.log.on_request(callback, match=match)

    def run_plugin_task(self, plugin_id: str, task_name: str | None, args: Row | None = None) -> int:
        """Queue a task as the Tasks page does; returns the job's id."""
        work = self.plugins.task_job(plugin_id, task_name, args, self.settings.username)
        return self.jobs.add(f"Running plugin task: {task_name or plugin_id}", work)

    def wait_for_job(self, job_id: int, timeout: float = 60.0) -> tuple[Job, JobResult | None]:
        """Wait for a job's end; also what its process left, when it ran a plugin."""
        return self.jobs.wait(job_id, timeout), self.plugins.results.get(job_id)

    # ---- life ----

    def start(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        if self._thread:
            raise RuntimeError("already started")
        ready = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                asyncio.run(self._serve(ready))
            except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits for us
                failure.append(exc)
                ready.set()

        self._thread = threading.Thread(target=work, daemon=True, name="embedded-stash")
        self._thread.start()
        ready.wait()
        if failure:
            self.close()
            raise failure[0]
        return self

    def close(self) -> None:
        """Release everything that waits, end the jobs, stop listening, close the library."""
        self.faults.clear()
        self.jobs.close()
        if self._loop and self._stop and self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10.0)
        self.store.close()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="stash")
        self._loop.set_default_executor(pool)
        app = WebApp(self.backend, self.sessions, self.faults, self.log, self.clock).application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self._wanted_port)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()


@contextmanager
def running_stash(**options: Any) -> Iterator[EmbeddedStash]:
    """A started server, closed at the end; options as for `EmbeddedStash`."""
    with EmbeddedStash(**options) as stash:
        yield stash
