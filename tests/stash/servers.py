"""One face for the embedded Stash and for a real one: both are only spoken to over HTTP."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import requests
from PIL import Image, ImageDraw

from demo.stash import EmbeddedStash

STASH_BIN = os.environ.get("STASH_BIN", "")
STARTUP_S = 60.0
CLIPS = 4
STILLS = 3
ZIPPED = 4


# ---- media ----


def drawing(number: int, size: tuple[int, int]) -> Image.Image:
    """A ball on a plain ground; another number, another picture."""
    picture = Image.new("RGB", size, ((number * 53) % 255, (number * 101) % 255, (number * 29) % 255))
    left = (number * 3) % (size[0] // 2)
    ImageDraw.Draw(picture).ellipse((left, 5, left + size[1] // 2, 5 + size[1] // 2), fill=(255, 128, number % 255))
    return picture


def write_clip(path: Path, number: int, *, seconds: int = 2, rate: int = 5) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(seconds * rate):
            frame = av.VideoFrame.from_image(drawing(number * 17 + index, (160, 120)))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    drawing(number, (64, 48)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_media(folder: Path) -> Path:
    """Four clips, three stills and a zip with four more."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, CLIPS + 1):
        write_clip(folder / f"game{number}.mp4", number)
    for number in range(1, STILLS + 1):
        (folder / f"still{number}.jpg").write_bytes(jpeg(number))
    with zipfile.ZipFile(folder / "album.zip", "w") as archive:
        for number in range(10, 9 + ZIPPED):
            archive.writestr(f"court/p{number}.jpg", jpeg(number))
        archive.writestr("top.jpg", jpeg(20))
    return folder


# ---- servers ----


@dataclass(frozen=True, slots=True)
class Reply:
    """HTTP status and body of a GraphQL request."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Any:
        assert self.status == 200, self.body
        assert not self.body.get("errors"), self.body
        return self.body["data"]

    @property
    def messages(self) -> list[str]:
        return [error["message"] for error in self.body.get("errors") or []]


class Server:
    """A running Stash of either kind."""

    def __init__(self, kind: str, url: str, plugins: Path, pass_time: Callable[[float], None]) -> None:
        self.kind = kind
        self.url = url
        self.plugins = plugins
        self.pass_time = pass_time
        """Lets so many seconds pass for the server."""
        self.http = requests.Session()
        self.http.trust_env = False
        self.headers: dict[str, str] = {"Accept": "application/json"}

    def gql(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> Reply:
        """Send a request without keeping cookies."""
        self.http.cookies.clear()
        response = self.http.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": variables},
            headers=self.headers | (headers or {}),
            timeout=30,
        )
        try:
            body = response.json()
        except ValueError:
            body = response.text
        return Reply(response.status_code, body, response.headers)

    def data(self, query: str, **variables: Any) -> Any:
        return self.gql(query, **variables).data

    def refusal(self, query: str, **variables: Any) -> str:
        """The one error of a request that is refused with HTTP 200."""
        reply = self.gql(query, **variables)
        assert reply.status == 200, reply.body
        assert len(reply.messages) == 1, reply.body
        return reply.messages[0]

    def get(self, path: str, **headers: str) -> requests.Response:
        self.http.cookies.clear()
        return self.http.get(
            self.url + path, headers={"Accept-Encoding": "identity"} | headers, allow_redirects=False, timeout=30
        )

    def wait_for_job(self, job_id: str, timeout: float = STARTUP_S) -> Any:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            job = self.data(
                "query($i: ID!) { findJob(input: {id: $i}) { id status progress error description } }", i=job_id
            )["findJob"]
            if job is None or job["status"] in {"FINISHED", "FAILED", "CANCELLED"}:
                return job
            time.sleep(0.02)
        raise TimeoutError(f"job {job_id}")

    def scan(self, folder: Path) -> None:
        job_id = self.data("mutation($p: [String!]) { metadataScan(input: {paths: $p}) }", p=[str(folder)])
        assert self.wait_for_job(job_id["metadataScan"])["status"] == "FINISHED"

    def tag(self, name: str, **given: Any) -> str:
        """Create a tag; returns its id."""
        created: str = self.data(
            "mutation($i: TagCreateInput!) { tagCreate(input: $i) { id } }", i={"name": name} | given
        )["tagCreate"]["id"]
        return created

    def marker(self, scene_id: str, seconds: float, primary: str, **given: Any) -> str:
        wanted = {"title": "", "scene_id": scene_id, "seconds": seconds, "primary_tag_id": primary} | given
        created: str = self.data(
            "mutation($i: SceneMarkerCreateInput!) { sceneMarkerCreate(input: $i) { id } }", i=wanted
        )["sceneMarkerCreate"]["id"]
        return created

    def set_tags(self, scene_id: str, *tags: str) -> None:
        self.data(
            "mutation($i: SceneUpdateInput!) { sceneUpdate(input: $i) { id } }", i={"id": scene_id, "tag_ids": tags}
        )

    def tags_of(self, scene_id: str) -> list[str]:
        scene = self.data("query($i: ID) { findScene(id: $i) { tags { name } } }", i=scene_id)["findScene"]
        return sorted(tag["name"] for tag in scene["tags"])

    def ids(self, kind: str) -> list[str]:
        """Ids of all `scenes`, `images`, `galleries` or `tags`, ordered."""
        query = f'{{ find{kind.capitalize()}(filter: {{per_page: -1, sort: "id"}}) {{ {kind} {{ id }} }} }}'
        return [item["id"] for item in self.data(query)[f"find{kind.capitalize()}"][kind]]

    def reset(self) -> None:
        """Back to the library as it was scanned: no tags, no markers, no titles."""
        markers = self.data("{ findSceneMarkers(filter: {per_page: -1}) { scene_markers { id } } }")
        found = [marker["id"] for marker in markers["findSceneMarkers"]["scene_markers"]]
        if found:
            self.data("mutation($i: [ID!]!) { sceneMarkersDestroy(ids: $i) }", i=found)
        if tags := self.ids("tags"):
            self.data("mutation($i: [ID!]!) { tagsDestroy(ids: $i) }", i=tags)
        for scene_id in self.ids("scenes"):
            wanted = {"id": scene_id, "title": "", "details": "", "organized": False, "rating100": None, "urls": []}
            self.data("mutation($i: SceneUpdateInput!) { sceneUpdate(input: $i) { id } }", i=wanted)

    def close(self) -> None:
        self.http.close()


@contextmanager
def embedded(folder: Path, media: Path, *, max_session_age_s: int = 3600) -> Iterator[Server]:
    plugins = folder / "plugins"
    plugins.mkdir(parents=True)
    options: dict[str, Any] = {"config_dir": folder, "max_session_age_s": max_session_age_s}
    options["general"] = {"stashes": [{"path": str(media), "excludeVideo": False, "excludeImage": False}]}
    with EmbeddedStash(python_path=sys.executable, **options) as stash:
        server = Server("embedded", stash.url, plugins, stash.advance)
        try:
            yield server
        finally:
            server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def real(folder: Path, media: Path, *, max_session_age_s: int = 3600) -> Iterator[Server]:
    """The executable named by STASH_BIN, on loopback, with everything below `folder`."""
    for name in ("generated", "cache", "blobs", "plugins", "scrapers", "home"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    config = {
        "database": folder / "stash.sqlite",
        "generated": folder / "generated",
        "cache": folder / "cache",
        "blobs_path": folder / "blobs",
        "blobs_storage": "FILESYSTEM",
        "plugins_path": folder / "plugins",
        "scrapers_path": folder / "scrapers",
        "python_path": sys.executable,
        "host": "127.0.0.1",
        "port": port,
        "nobrowser": "true",
        "notifications_enabled": "false",
        "max_session_age": max_session_age_s,
        "logfile": folder / "stash.log",
        "loglevel": "Debug",
    }
    lines = [f"stash: [{{path: {media}, excludevideo: false, excludeimage: false}}]"]
    lines += [f"{key}: {value}" for key, value in config.items()]
    (folder / "config.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STASH_")}
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(
            [STASH_BIN, "--config", str(folder / "config.yml"), "--nobrowser"],
            cwd=folder,
            env=environment | {"HOME": str(folder / "home")},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Server("real", f"http://127.0.0.1:{port}", folder / "plugins", time.sleep)
    try:
        _until_ready(server, process)
        yield server
    finally:
        server.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "Stash ended at once"
        try:
            if server.gql("{ systemStatus { status } }").status == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise TimeoutError("Stash does not answer")
