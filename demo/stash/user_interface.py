"""Pages for a browser: the same few addresses as Stash's own, and what it offers plugins there (`page/`)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

HERE = Path(__file__).resolve().parent / "page"
FILES = ("react.js", "api.js", "stash.css")
PAGES = ("/", "/scenes", "/scenes/{id}", "/images", "/images/{id}", "/settings", "/plugins/{id}")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src data: 'self' 'unsafe-inline'",
        "connect-src data: 'self' ws: wss:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src data: *",
        "media-src blob: 'self'",
        "worker-src blob:",
        "child-src 'none'",
        "object-src 'none'",
        "form-action 'self'",
    )
)
"""As Stash sends it with its page when no plugin asks for more."""


def add_to(app: web.Application) -> None:
    """Serve the pages and what they are made of."""
    for path in PAGES:
        app.router.add_get(path, _page, allow_head=False)
    for name in FILES:
        app.router.add_get(f"/assets/{name}", _file, allow_head=False)


async def _page(_request: web.Request) -> web.Response:
    text = await asyncio.to_thread((HERE / "index.html").read_text, encoding="utf-8")
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(text=text, content_type="text/html", headers=headers)


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(HERE / request.path.rpartition("/")[2])
