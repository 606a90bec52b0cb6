"""`python -m docs.screenshots` makes the pictures of docs/pictures/ anew: a real run of the plugin, seen by a browser.

The plugin runs as it is, on generated clips, against the embedded model servers, in the Stash that STASH_BIN names, or
else in the embedded one with the page that stands in for Stash's. Needs a Chromium; HAVEN_CHROMIUM may name it.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from demo.chromium import Browser, Page, find_chromium
from demo.court import seen_in
from demo.footage import TAGS, cached_clip, random_plan
from demo.vision_server import VisionServer
from tests.stash import servers

log = logging.getLogger("docs.screenshots")

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
PAGE = "/plugins/ahavenvlmconnector"
MAX_BYTES = 200_000
COLOURS = 192
PATIENCE_S = 180.0
TITLES = ("Cup match, first half", "Training, free throws")


def main() -> int:
    """Make all pictures; returns an exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    executable = find_chromium()
    if executable is None:
        log.error("No Chromium here: install one, or name one in HAVEN_CHROMIUM.")
        return 2
    PICTURES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-", ignore_cleanup_errors=True)))
        media = folder / "media"
        media.mkdir()
        for seed, title in enumerate(TITLES, start=3):
            plan = random_plan(60, tags=TAGS[:8], spans=12, longest_s=12, seed=seed)
            shutil.copy(cached_clip(ROOT / "demo-results" / "clips", plan), media / f"{title}.mp4")
        server = stack.enter_context(_stash(folder / "stash", media))
        endpoints = stack.enter_context(_vision_servers())
        _prepare(server, media, endpoints)
        browser = stack.enter_context(Browser(executable, folder / "profile"))
        _take(server, browser)
    return 0


@contextmanager
def _stash(folder: Path, media: Path) -> Iterator[servers.Server]:
    with (servers.real if servers.STASH_BIN else servers.embedded)(folder, media) as server:
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            if not name.startswith(("tests/", "bench/", "docs/", ".")):
                target = server.plugins / "ahavenvlmconnector" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        server.data("mutation { reloadPlugins }")
        yield server


@contextmanager
def _vision_servers() -> Iterator[str]:
    """Setting `endpoints` for two servers that take their time, so that there is something to see."""
    with (
        VisionServer(see=seen_in, slots=2, latency_s=0.8).in_thread() as fast,
        VisionServer(see=seen_in, slots=1, latency_s=1.5).in_thread() as slow,
    ):
        yield f"{fast.base_url} name=Desktop weight=5; {slow.base_url} name=Laptop weight=2"


def _prepare(server: servers.Server, media: Path, endpoints: str) -> None:
    server.scan(media)
    if server.kind == "real":
        server.data('mutation { configureUISetting(key: "lastNoteSeen", value: 99991231) }')
    settings = {"endpoints": endpoints, "tag_list": ", ".join(TAGS[:8]), "video_frame_interval": "1"}
    server.data('mutation($i: Map!) { configurePlugin(plugin_id: "ahavenvlmconnector", input: $i) }', i=settings)
    mark = server.tag("VLM_TagMe")
    for scene_id, title in zip(server.ids("scenes"), TITLES, strict=True):
        wanted = {"id": scene_id, "title": title, "tag_ids": [mark]}
        server.data("mutation($i: SceneUpdateInput!) { sceneUpdate(input: $i) { id } }", i=wanted)


def _take(server: servers.Server, browser: Browser) -> None:
    phase = "document.querySelector('[data-phase]')?.dataset.phase"
    page = browser.page(1200, 720)
    page.go(server.url + PAGE)
    page.click('[data-task="tag_videos"]')
    page.wait(f"{phase} === 'running' && !!document.querySelector('.haven-looking img')", PATIENCE_S)
    page.wait("Number(document.querySelector('[role=progressbar]').getAttribute('aria-valuenow')) > 30", PATIENCE_S)
    _keep(page, "run")
    page.wait(f"{phase} === 'finished'", PATIENCE_S)
    page.go(f"{server.url}/scenes/1")
    page.wait("!!document.querySelector('#VideoJsPlayer video')")
    page.wait_for('[data-rb-event-key="haven-vlm-panel"]')
    page.run("document.querySelector('[data-rb-event-key=\"haven-vlm-panel\"]').click()")
    page.click(".haven-bar")
    page.click_text("Confirm")
    page.run("document.querySelector('.haven-review-bar').scrollIntoView()")
    page.wait("document.querySelectorAll('.haven-thumb img').length > 2", PATIENCE_S)
    _keep(page, "review")
    page.click_text("Take back")
    page.go(server.url + PAGE)
    page.click_text("Check", "[role=tab]")
    page.wait_text("Nothing was checked yet", "#haven-view")
    page.click_text("Check Endpoints", "#haven-view button")
    page.wait_text("frames a minute", "#haven-view", PATIENCE_S)
    _keep(page, "check")


def _keep(page: Page, name: str) -> None:
    """What is seen as a PNG of few colours, so that it stays small."""
    page.mouse("mouseMoved", 5, 400)
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(Path(folder) / "seen.png")
        seen = Image.open(Path(folder) / "seen.png").convert("RGB")
    buffer = io.BytesIO()
    seen.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) > MAX_BYTES:
        raise SystemExit(f"{name}.png would have {len(buffer.getvalue()):,} bytes; {MAX_BYTES:,} are allowed")
    (PICTURES / f"{name}.png").write_bytes(buffer.getvalue())
    log.info("%s.png: %d KB", name, len(buffer.getvalue()) // 1024)


if __name__ == "__main__":
    sys.exit(main())
