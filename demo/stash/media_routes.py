"""Media over HTTP: streams, covers, images (also out of a zip), plugin files. GET only, byte ranges honoured."""

from __future__ import annotations

import asyncio
import mimetypes
import posixpath
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from demo.stash.backend import Backend
from demo.stash.criteria import GALLERIES, IMAGES, SCENES
from demo.stash.manifest import Manifest
from demo.stash.resolvers_objects import files_of
from demo.stash.store import Row

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A grey pixel, JPEG: what stands in for a missing cover.
PLACEHOLDER = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300ffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffc0000b08"
    "0001000101011100ffc40014000100000000000000000000000000000003ffc40014100100000000000000000000000000000000"
    "ffda0008010100003f0037ffd9"
)


class Missing(Exception):
    """There is nothing to serve."""


def number(request: web.Request, name: str) -> int:
    try:
        return int(request.match_info[name])
    except ValueError:
        raise web.HTTPBadRequest(text="Bad Request\n") from None


def data(request: web.Request, body: bytes, content_type: str) -> web.Response:
    """Bytes, or the range of them that was asked for."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": content_type}
    try:
        wanted = request.http_range
    except ValueError:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    if wanted.start is None and wanted.stop is None:
        return web.Response(body=body, headers=headers)
    start, stop, _ = wanted.indices(len(body))
    if start >= stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return web.Response(status=206, body=body[start:stop], headers=headers)


def content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def asset_path(manifest: Manifest, wanted: str) -> Path | None:
    """The file or folder that a cleaned path stands for; None when there is none that may be served."""
    home = manifest.folder.resolve()
    for prefix, folder in sorted(manifest.ui.assets.items(), key=lambda item: -len(item[0])):
        base = prefix.rstrip("/")
        if wanted == base or wanted.startswith(f"{base}/"):
            target = (home / folder / wanted[len(base) :].lstrip("/")).resolve()
            return target if target.is_relative_to(home) and target.exists() else None
    return None


class MediaRoutes:
    """Handlers over one server's library and plugins."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, app: web.Application) -> None:
        routes: list[tuple[str, Handler]] = [
            ("/scene/{id}/stream", self.scene_stream),
            ("/scene/{id}/screenshot", self.scene_screenshot),
            ("/scene/{id}/preview", self.absent),
            ("/scene/{id}/webp", self.absent),
            ("/scene/{id}/scene_marker/{marker}/{part}", self.absent),
            ("/image/{id}/image", self.image),
            ("/image/{id}/thumbnail", self.thumbnail),
            ("/image/{id}/preview", self.absent),
            ("/gallery/{id}/cover", self.absent),
            ("/plugin/{id}/javascript", self.javascript),
            ("/plugin/{id}/css", self.css),
            ("/plugin/{id}/assets/{path:.*}", self.asset),
        ]
        for path, handler in routes:
            app.router.add_get(path, handler, allow_head=False)

    async def scene_stream(self, request: web.Request) -> web.StreamResponse:
        """The primary file; 404 without one, or when it is gone from the disk."""
        file = await self._primary(request, SCENES.table)
        if file is None or not await asyncio.to_thread(Path(file["path"]).is_file):
            raise web.HTTPNotFound(text="Not Found\n" if file is None else "404 page not found\n")
        return web.FileResponse(Path(file["path"]))

    async def scene_screenshot(self, request: web.Request) -> web.StreamResponse:
        scene_id = number(request, "id")
        row = await asyncio.to_thread(self._backend.store.one, "SELECT cover FROM scenes WHERE id = ?", scene_id)
        if row is None:
            raise web.HTTPNotFound(text="Not Found\n")
        return data(request, row["cover"] or PLACEHOLDER, "image/jpeg")

    async def image(self, request: web.Request) -> web.StreamResponse:
        """The primary file, taken out of its zip when it is in one; 500 with a message when it is missing."""
        if not request.match_info["id"].isdecimal():
            raise web.HTTPNotFound(text="Not Found\n")
        file = await self._primary(request, IMAGES.table)
        if file is None:
            raise web.HTTPNotFound(text="Not Found\n")
        if file["zip_file_id"] is None and await asyncio.to_thread(Path(file["path"]).is_file):
            return web.FileResponse(Path(file["path"]))
        try:
            body = await asyncio.to_thread(self._zip_entry, file)
        except Missing as exc:
            raise web.HTTPInternalServerError(text=f"{exc}\n") from exc
        return data(request, body, content_type(file["basename"]))

    async def thumbnail(self, request: web.Request) -> web.StreamResponse:
        return await self.image(request)

    async def absent(self, request: web.Request) -> web.StreamResponse:
        """What Generate would have made; nothing is ever generated here."""
        number(request, "id")
        raise web.HTTPNotFound(text="404 page not found\n")

    async def javascript(self, request: web.Request) -> web.StreamResponse:
        manifest = await self._plugin(request)
        return await self._concatenated(manifest, manifest.ui.javascript, "text/javascript")

    async def css(self, request: web.Request) -> web.StreamResponse:
        manifest = await self._plugin(request)
        return await self._concatenated(manifest, manifest.ui.css, "text/css")

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """A file by the manifest's `assets`: the longest prefix that fits; never outside the plugin's folder."""
        manifest = await self._plugin(request)
        wanted = posixpath.normpath("/" + request.match_info["path"].lstrip("/"))
        target = await asyncio.to_thread(asset_path, manifest, wanted)
        if target is None:
            raise web.HTTPNotFound(text="404 page not found\n")
        if await asyncio.to_thread(target.is_dir):
            return await self._listing(target)
        return web.FileResponse(target)

    async def _listing(self, folder: Path) -> web.Response:
        def names() -> list[str]:
            return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())

        links = "".join(f'<a href="{name}">{name}</a>\n' for name in await asyncio.to_thread(names))
        return web.Response(text=f"<pre>\n{links}</pre>\n", content_type="text/html")

    async def _concatenated(self, manifest: Manifest, names: tuple[str, ...], kind: str) -> web.Response:
        def read() -> str:
            here = [manifest.folder / name for name in names if not name.startswith(("http://", "https://"))]
            return "".join(path.read_text(encoding="utf-8") + "\n" for path in here)

        return web.Response(text=await asyncio.to_thread(read), content_type=kind)

    async def _primary(self, request: web.Request, table: str) -> Row | None:
        object_id = number(request, "id")
        media = next(kind for kind in (SCENES, IMAGES, GALLERIES) if kind.table == table)
        files = await asyncio.to_thread(files_of, self._backend.store, media, object_id)
        return files[0] if files else None

    def _zip_entry(self, file: Row) -> bytes:
        holder = self._backend.store.one("SELECT path FROM files WHERE id = ?", file["zip_file_id"])
        if holder is None:
            raise Missing(f"open {file['path']}: no such file or directory")
        try:
            with zipfile.ZipFile(holder["path"]) as archive:
                return archive.read(file["path"][len(holder["path"]) + 1 :])
        except (OSError, KeyError, zipfile.BadZipFile) as exc:
            raise Missing(f"opening {file['path']}: {exc}") from exc

    async def _plugin(self, request: web.Request) -> Manifest:
        manifest = self._backend.plugins.found.get(request.match_info["id"])
        if manifest is None:
            raise web.HTTPNotFound(text="Not Found\n")
        if not await asyncio.to_thread(self._backend.plugins.enabled, manifest.id):
            raise web.HTTPBadRequest(text="Bad Request\n")
        return manifest
