"""The whole way in a browser: the plugin's own process tags a scene, the page shows it, a review changes Stash."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.chromium import Browser, Page
from demo.footage import TAGS, cached_clip, random_plan, truth_of
from demo.stash import EmbeddedStash
from demo.vision_server import VisionServer
from tests.browser.site import PLUGIN, ROOT

PATIENCE_S = 120.0
PARTS = ("haven_vlm", "page")


@pytest.fixture
def stash(tmp_path: Path) -> Iterator[EmbeddedStash]:
    """An embedded Stash with the plugin as it is, a generated clip tagged VLM_TagMe, and a model server."""
    folder = tmp_path / "plugins" / PLUGIN
    folder.mkdir(parents=True)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*ROOT.glob("haven_*.py"), ROOT / f"{PLUGIN}.yml", ROOT / "requirements.txt"]:
        shutil.copy(file, folder)
    plan = random_plan(20, tags=TAGS[:8], spans=4, longest_s=6, seed=5)
    clip = cached_clip(tmp_path / "clips", plan)
    with (
        VisionServer(see=truth_of, slots=4, latency_s=0.01).in_thread() as model,
        EmbeddedStash(
            plugins_path=tmp_path / "plugins", config_dir=tmp_path / "config", python_path=sys.executable
        ) as running,
    ):
        running.add_scene(str(clip), duration=plan.duration_ms / 1000, title="Match", tags=["VLM_TagMe"])
        running.settings.configure_plugin(PLUGIN, {"endpoints": model.base_url, "tag_list": ", ".join(TAGS[:8])})
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.page()
    try:
        yield page
        assert not page.troubles
    finally:
        page.close()


def test_tag_watch_and_reject(stash: EmbeddedStash, page: Page) -> None:
    page.go(f"{stash.url}/plugins/{PLUGIN}")
    page.click('[data-task="tag_videos"]')
    page.wait("document.querySelector('[data-phase]')?.dataset.phase === 'finished'", PATIENCE_S)
    assert "1 of 1" in page.text(".haven-figures")
    before = stash.markers(1)
    assert before
    page.click_text("Past runs", "[role=tab]")
    page.wait_text("1 tagged", "#haven-view")
    page.go(f"{stash.url}/plugins/{PLUGIN}?view=review&scene=1")
    page.wait("document.querySelectorAll('.haven-thumb img').length > 2", PATIENCE_S)
    page.click(".haven-bar-ours")
    page.click_text("Reject")
    page.click("[data-save]")
    page.wait_text("1 decision saved.", patience_s=PATIENCE_S)
    assert len(stash.markers(1)) == len(before) - 1
    page.wait_for(".haven-bar-rejected")
