"""Media and plugin files over HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stash.servers import Server

MANIFEST = """
name: Court vision
ui:
  javascript: [a.js, sub/b.js]
  css: [a.css, "https://example.org/c.css"]
  assets: {/: public, /other: elsewhere, /up: ../}
"""


@pytest.fixture
def plugin(own_server: Server) -> Server:
    """A server with a plugin `court` that serves files."""
    folder = own_server.plugins / "court"
    for name, text in {
        "court.yml": MANIFEST,
        "a.js": "var a = 1;",
        "sub/b.js": "var b = 2;",
        "a.css": "a {}",
        "public/report.html": "<p>report</p>",
        "public/deep/b.txt": "B",
        "elsewhere/c.txt": "C",
        "private.txt": "P",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    own_server.data("mutation { reloadPlugins }")
    return own_server


def test_a_stream_is_the_file_and_honours_ranges(server: Server, media: Path) -> None:
    scene = server.ids("scenes")[0]
    body = (media / "game1.mp4").read_bytes()
    whole = server.get(f"/scene/{scene}/stream")
    assert (whole.status_code, whole.content) == (200, body)
    assert (whole.headers["Content-Type"], whole.headers["Accept-Ranges"]) == ("video/mp4", "bytes")
    for asked, start, stop in (("0-9", 0, 10), ("100-", 100, len(body)), ("-10", len(body) - 10, len(body))):
        part = server.get(f"/scene/{scene}/stream", Range=f"bytes={asked}")
        assert (part.status_code, part.content) == (206, body[start:stop])
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(body)}"
    assert server.get(f"/scene/{scene}/stream", Range="bytes=99999999-").status_code == 416


def test_what_is_not_there(server: Server) -> None:
    assert server.get("/scene/999999/stream").status_code == 404
    assert server.get("/scene/x/stream").status_code == 400
    assert server.get("/scene/999999/screenshot").status_code == 404
    assert server.get("/scene/1/preview").status_code == 404
    assert server.get("/plugin/none/javascript").status_code == 404
    assert server.get("/plugin/none/assets/a.txt").status_code == 404


def test_only_get(server: Server) -> None:
    scene = server.ids("scenes")[0]
    assert server.http.head(f"{server.url}/scene/{scene}/stream", timeout=30).status_code == 405


def test_a_stream_whose_file_is_gone_is_404(own_server: Server, media: Path) -> None:
    file = media / "moved" / "game.mp4"
    file.parent.mkdir()
    file.write_bytes((media / "game1.mp4").read_bytes())
    own_server.scan(file.parent)
    shutil.rmtree(file.parent)
    [scene] = own_server.ids("scenes")
    assert own_server.get(f"/scene/{scene}/stream").status_code == 404


def test_files_of_a_plugin(plugin: Server) -> None:
    assert plugin.get("/plugin/court/javascript").text == "var a = 1;\nvar b = 2;\n"
    assert plugin.get("/plugin/court/css").text == "a {}\n"
    assert plugin.get("/plugin/court/assets/report.html").text == "<p>report</p>"
    assert plugin.get("/plugin/court/assets/deep/b.txt").text == "B"
    assert plugin.get("/plugin/court/assets/other/c.txt").text == "C"
    assert plugin.get("/plugin/court/assets/deep/b.txt", Range="bytes=0-0").status_code == 206
    assert "b.txt" in plugin.get("/plugin/court/assets/deep/").text


@pytest.mark.parametrize("path", ["..%2fprivate.txt", "private.txt", "up/none.yml", "other/..%2f..%2fcourt.yml"])
def test_assets_stay_inside_their_folders(plugin: Server, path: str) -> None:
    assert plugin.get(f"/plugin/court/assets/{path}").status_code == 404


def test_a_new_asset_is_served_at_once(plugin: Server) -> None:
    assert plugin.get("/plugin/court/assets/run.json").status_code == 404
    (plugin.plugins / "court" / "public" / "run.json").write_text("{}", encoding="utf-8")
    assert plugin.get("/plugin/court/assets/run.json").json() == {}


def test_paths_of_a_plugin(plugin: Server) -> None:
    shown = plugin.data("{ plugins { id name paths { javascript css } } }")["plugins"]
    base = f"{plugin.url}/plugin/court"
    paths = {"javascript": [f"{base}/javascript"], "css": ["https://example.org/c.css", f"{base}/css"]}
    assert shown == [{"id": "court", "name": "Court vision", "paths": paths}]


def test_a_disabled_plugin_serves_nothing(plugin: Server) -> None:
    plugin.data("mutation { setPluginsEnabled(enabledMap: {court: false}) }")
    assert plugin.get("/plugin/court/javascript").status_code == 400
