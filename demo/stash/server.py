"""The HTTP server around the library, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from aiohttp import web

from demo.stash import execution
from demo.stash.backend import Backend, Call
from demo.stash.faults import Fault, Faults, RequestLog, RequestRecord
from demo.stash.jobs import Job, JobQueue
from demo.stash.media_routes import MediaRoutes
from demo.stash.plugins import Plugins
from demo.stash.runner import Connection, JobResult
from demo.stash.seeding import Library
from demo.stash.sessions import Session, Sessions, Unauthorized
from demo.stash.settings import ServerSettings
from demo.stash.store import Row, Store
from demo.stash.variables import load

FREE_PATHS = ("/healthz", "/login", "/logout", "/css", "/assets")
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Login</title></head><body><form method='post'></form></body></html>"
SESSION = web.RequestKey("session", Session)
JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
WORKERS = 32


class Dropped(Exception):
    """The connection is to be closed without a word."""


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
        app = web.Application(middlewares=[self._recorded, self._authenticated], client_max_size=64 * 1024 * 1024)
        app.router.add_post("/graphql", self._graphql)
        app.router.add_get("/graphql", self._graphql, allow_head=False)
        app.router.add_get("/healthz", self._health, allow_head=False)
        app.router.add_get("/login", self._login_page, allow_head=False)
        app.router.add_post("/login", self._login)
        MediaRoutes(self.backend).add_to(app)
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

    # ---- requests ----

    @web.middleware
    async def _recorded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Log, faults and callbacks around everything."""
        body = await request.read() if request.method == "POST" else b""
        record = await asyncio.to_thread(self._record, request, body)
        await asyncio.to_thread(self.log.begin, record)
        faults = self.faults.striking(record)
        try:
            response = await self._before(faults) or await self._handled(request, handler, record)
            await asyncio.to_thread(self.log.end, record)
            response = await self._behind(faults, response)
        except Dropped:
            if request.transport:
                request.transport.abort()
            return web.Response(status=500)
        record.status = response.status
        return response

    async def _handled(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        record: RequestRecord,
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as exc:
            response = web.Response(status=exc.status, headers=exc.headers, body=exc.body)
        record.executed = True
        if request.path == "/graphql" and isinstance(response, web.Response) and isinstance(response.body, bytes):
            record.reply = json.loads(response.body or b"null")
        return response

    def _record(self, request: web.Request, body: bytes) -> RequestRecord:
        asked: Any = None
        if request.path == "/graphql":
            try:
                asked = json.loads(body) if request.method == "POST" else dict(request.query)
            except ValueError:
                asked = None
        asked = asked if isinstance(asked, dict) else {}
        operation, fields = execution.names(asked) if asked else ("", ())
        variables = asked.get("variables")
        return RequestRecord(
            method=request.method,
            path=request.path,
            operation=operation,
            fields=fields,
            variables=variables if isinstance(variables, dict) else {},
            query=str(asked.get("query") or ""),
            headers=dict(request.headers),
            at=self.clock(),
        )

    async def _before(self, faults: Sequence[Fault]) -> web.StreamResponse | None:
        """Faults that keep the request from being carried out, after those that only delay it."""
        for fault in faults:
            if fault.kind == "slow":
                await asyncio.to_thread(fault.wait)
        for fault in faults:
            match fault.kind:
                case "drop":
                    raise Dropped
                case "status":
                    return _plain(fault.status)
                case "junk":
                    return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")
                case "locked":
                    error = {"message": "database is locked", "path": []}
                    return _json({"errors": [error], "data": None})
        return None

    async def _behind(self, faults: Sequence[Fault], response: web.StreamResponse) -> web.StreamResponse:
        """Faults that strike once the request was carried out."""
        for fault in faults:
            match fault.kind:
                case "hook_delay":
                    await asyncio.to_thread(fault.wait)
                case "drop_after":
                    raise Dropped
                case "status_after":
                    return _plain(fault.status)
                case "truncated" if isinstance(response, web.Response) and isinstance(response.body, bytes):
                    return _Truncated(response)
        return response

    @web.middleware
    async def _authenticated(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        key = request.headers.get("ApiKey") or request.query.get("apikey") or ""
        cookies = "; ".join(request.headers.getall("Cookie", []))
        try:
            session, refresh = await asyncio.to_thread(self.sessions.authenticate, key, cookies)
        except Unauthorized:
            return web.Response(status=401, headers={"WWW-Authenticate": "FormBased"})
        free = request.path.startswith(FREE_PATHS)
        if self.settings.has_credentials and not session.user and not free:
            name = request.path.rpartition("/")[2]
            extension = name.rpartition(".")[2] if "." in name else ""
            if request.path == "/graphql" or extension not in {"", "html"}:
                return web.Response(status=401, headers={"WWW-Authenticate": "FormBased"})
            target = "/login?" + urlencode({"returnURL": request.path_qs})
            return web.Response(status=302, headers={"Location": target})
        request[SESSION] = session
        try:
            response = await handler(request)
        except web.HTTPException as exc:
            response = web.Response(status=exc.status, headers=exc.headers, body=exc.body)
        if refresh:
            response.headers.add("Set-Cookie", self.sessions.set_cookie(session))
        return response

    async def _graphql(self, request: web.Request) -> web.Response:
        kind = answer_type(request.headers.get("Accept", ""))
        text = await request.text()
        if request.method == "POST" and request.content_type != "application/json":
            return _graphql_error("transport not supported", 400, kind)
        try:
            body = load(text) if request.method == "POST" else from_query(request)
        except ValueError as exc:
            return _graphql_error(f"json request body could not be decoded: {exc} body:{text}", 400, kind)
        if not isinstance(body, dict):
            message = "json: cannot unmarshal into Go value of type graphql.RawParams"
            return _graphql_error(f"json request body could not be decoded: {message} body:{text}", 400, kind)
        if request.method == "GET" and execution.is_mutation(body):
            return _graphql_error("GET requests only allow query operations", 406, kind)
        session = request[SESSION]
        base = f"{request.scheme}://{request.host}"
        call = Call(self.backend, base, session.user, session.visited_hooks)
        status, reply = await asyncio.to_thread(execution.run, body, call)
        if status == 422 and kind != JSON:
            status = 400
        return _json(reply, status, kind)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text=".")

    async def _login_page(self, _request: web.Request) -> web.Response:
        if not self.settings.has_credentials:
            return web.Response(status=302, headers={"Location": "/"})
        return web.Response(text=LOGIN_PAGE, content_type="text/html")

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        if (form.get("username"), form.get("password")) != (self.settings.username, self.settings.password):
            return web.Response(status=401, text="Username or password is invalid\n")
        cookie = await asyncio.to_thread(self.sessions.set_cookie, Session(self.settings.username))
        return web.Response(headers={"Set-Cookie": cookie})


def answer_type(accept: str) -> str:
    """Content type of a GraphQL reply; with the newer one a refused document is 400 instead of 422."""
    if not accept.strip():
        return JSON
    for part in accept.split(","):
        name = part.partition(";")[0].strip()
        if name == JSON:
            return JSON
        if name in {"*/*", "application/*", GRAPHQL_JSON}:
            return GRAPHQL_JSON
    return GRAPHQL_JSON


def from_query(request: web.Request) -> Row:
    """A GraphQL request in the query string."""
    body: Row = dict(request.query)
    if "variables" in body:
        body["variables"] = load(body["variables"])
    return body


def _graphql_error(message: str, status: int, content_type: str) -> web.Response:
    body = {"errors": [{"message": message}], "data": None}
    return _json(body, status, content_type)


def _json(body: Row, status: int = 200, content_type: str = JSON) -> web.Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": content_type})


def _plain(status: int) -> web.Response:
    if status == 401:
        return web.Response(status=401, headers={"WWW-Authenticate": "FormBased"})
    return web.Response(status=status, text=f"scripted status {status}\n")


class _Truncated(web.StreamResponse):
    """Announces a whole body, sends half of it and hangs up."""

    def __init__(self, whole: web.Response) -> None:
        super().__init__(status=whole.status, headers={"Content-Type": "application/json"})
        self._whole = whole.body if isinstance(whole.body, bytes) else b""
        self.content_length = len(self._whole)

    async def prepare(self, request: web.BaseRequest) -> Any:
        writer = await super().prepare(request)
        await self.write(self._whole[: len(self._whole) // 2])
        if request.transport:
            request.transport.close()
        return writer


@contextmanager
def running_stash(**options: Any) -> Iterator[EmbeddedStash]:
    """A started server, closed at the end; options as for `EmbeddedStash`."""
    with EmbeddedStash(**options) as stash:
        yield stash
