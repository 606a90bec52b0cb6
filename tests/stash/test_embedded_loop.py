"""The embedded server's own loop is never blocked: a slow query of one client does not hold up another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from blockbuster import blockbuster_ctx

from demo.stash import EmbeddedStash
from tests.stash.test_embedded_routes import MANIFEST

PATHS = [
    "/scene/1/stream",
    "/scene/1/screenshot",
    "/scene/9/stream",
    "/image/1/image",
    "/image/2/image",
    "/plugin/court/javascript",
    "/plugin/court/css",
    "/plugin/court/assets/report.html",
    "/plugin/court/assets/",
    "/login",
    "/healthz",
    "/graphql?query={stats{scene_count}}",
]


@pytest.fixture
def stash(tmp_path: Path, media: Path) -> Iterator[EmbeddedStash]:
    folder = tmp_path / "plugins" / "court"
    for name, text in {
        "court.yml": MANIFEST,
        "a.js": "",
        "sub/b.js": "",
        "a.css": "",
        "public/report.html": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    made = EmbeddedStash(config_dir=tmp_path, credentials=("user", "secret"), api_key="key")
    made.add_scene(media / "game1.mp4")
    made.add_image(media / "still1.jpg")
    made.add_zip_image(media / "album.zip", "top.jpg")
    with made as running:
        yield running


def test_no_route_blocks_the_loop(stash: EmbeddedStash) -> None:
    cookie = {"Cookie": f"session={stash.cookie()}"}
    with blockbuster_ctx():
        for path in PATHS:
            for headers in (cookie, {"ApiKey": "key"}, {}):
                answer = requests.get(stash.url + path, headers=headers, allow_redirects=False, timeout=60)
                assert answer.status_code != 500, (path, headers)
        body = {"query": 'mutation { tagCreate(input: {name: "Court"}) { id } }'}
        assert requests.post(stash.graphql_url, json=body, headers=cookie, timeout=60).status_code == 200
        form = {"username": "user", "password": "secret"}
        assert requests.post(f"{stash.url}/login", data=form, timeout=60).status_code == 200
