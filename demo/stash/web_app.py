"""Every HTTP request's way: into the log, past the faults, through authentication, to its handler and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from demo.stash import execution, user_interface
from demo.stash.backend import Backend, Call
from demo.stash.faults import Fault, Faults, RequestLog, RequestRecord
from demo.stash.media_routes import MediaRoutes
from demo.stash.sessions import Session, Sessions, Unauthorized
from demo.stash.store import Row
from demo.stash.variables import load

FREE_PATHS = ("/healthz", "/login", "/logout", "/css", "/assets")
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Login</title></head><body><form method='post'></form></body></html>"
SESSION = web.RequestKey("session", Session)
JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
MAX_BODY_BYTES = 64 * 1024 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dropped(Exception):
    """The connection is to be closed without a word."""


class WebApp:
    """The handlers of one server."""

    def __init__(
        self, backend: Backend, sessions: Sessions, faults: Faults, log: RequestLog, clock: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._settings = backend.settings
        self._sessions = sessions
        self._faults = faults
        self._log = log
        self._clock = clock

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._recorded, self._authenticated], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/graphql", self._graphql)
        app.router.add_get("/graphql", self._graphql, allow_head=False)
        app.router.add_get("/healthz", self._health, allow_head=False)
        app.router.add_get("/login", self._login_page, allow_head=False)
        app.router.add_post("/login", self._login)
        MediaRoutes(self._backend).add_to(app)
        user_interface.add_to(app)
        return app

    @web.middleware
    async def _recorded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log, faults and callbacks around everything."""
        body = await request.read() if request.method == "POST" else b""
        record = await asyncio.to_thread(self._record, request, body)
        await asyncio.to_thread(self._log.begin, record)
        faults = self._faults.striking(record)
        try:
            response = await self._before(faults, record) or await self._handled(request, handler, record)
            await asyncio.to_thread(self._log.end, record)
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
        handler: Handler,
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
            at=self._clock(),
        )

    async def _before(self, faults: Sequence[Fault], record: RequestRecord) -> web.StreamResponse | None:
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
                    mutation = record.query.lstrip().startswith("mutation")
                    errors = [{"message": "database is locked", "path": [name]} for name in record.fields]
                    data = execution.without_data(record.fields, mutation)
                    return _json({"errors": errors or [{"message": "database is locked"}], "data": data})
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
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        key = request.headers.get("ApiKey") or request.query.get("apikey") or ""
        cookies = "; ".join(request.headers.getall("Cookie", []))
        try:
            session, refresh = await asyncio.to_thread(self._sessions.authenticate, key, cookies)
        except Unauthorized:
            return web.Response(status=401, headers={"WWW-Authenticate": "FormBased"})
        free = request.path.startswith(FREE_PATHS)
        if self._settings.has_credentials and not session.user and not free:
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
            response.headers.add("Set-Cookie", await asyncio.to_thread(self._sessions.set_cookie, session))
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
        if not isinstance(body, dict) or not isinstance(body.get("variables"), dict | None):
            message = "json: cannot unmarshal into Go value of type graphql.RawParams"
            return _graphql_error(f"json request body could not be decoded: {message} body:{text}", 400, kind)
        if request.method == "GET" and execution.is_mutation(body):
            return _graphql_error("GET requests only allow query operations", 406, kind)
        session = request[SESSION]
        base = f"{request.scheme}://{request.host}"
        call = Call(self._backend, base, session.user, session.visited_hooks)
        status, reply = await asyncio.to_thread(execution.run, body, call)
        if status == 422 and kind != JSON:
            status = 400
        return _json(reply, status, kind)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text=".")

    async def _login_page(self, _request: web.Request) -> web.Response:
        if not self._settings.has_credentials:
            return web.Response(status=302, headers={"Location": "/"})
        return web.Response(text=LOGIN_PAGE, content_type="text/html")

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        if (form.get("username"), form.get("password")) != (
            self._settings.username,
            self._settings.password,
        ):
            return web.Response(status=401, text="Username or password is invalid\n")
        cookie = await asyncio.to_thread(self._sessions.set_cookie, Session(self._settings.username))
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
