"""The page in the Stash that STASH_BIN names, with its real interface and its real React."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.chromium import Browser, Page
from tests.browser.site import EVIL, MATCH, PLUGIN, Plugin, lane, picture, scene, span
from tests.stash import servers

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not servers.STASH_BIN, reason="STASH_BIN does not name a Stash executable"),
]


class RealSite:
    def __init__(self, server: servers.Server, plugin: Plugin, page: Page) -> None:
        self.server = server
        self.plugin = plugin
        self.page = page

    def go(self, path: str) -> Page:
        self.page.go(self.server.url + path)
        return self.page


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Server, Plugin]]:
    media = servers.write_media(tmp_path_factory.mktemp("media"))
    with servers.real(tmp_path_factory.mktemp("stash"), media) as server:
        server.scan(media)
        plugin = Plugin(server.plugins)
        server.data("mutation { reloadPlugins }")
        server.data('mutation { configureUISetting(key: "lastNoteSeen", value: 99991231) }')
        yield server, plugin


@pytest.fixture
def real(started: tuple[servers.Server, Plugin], browser: Browser) -> Iterator[RealSite]:
    server, plugin = started
    plugin.reset()
    plugin.answer(
        scene=scene(1, *MATCH, lane(EVIL, span(1, 2))),
        thumbnails={"image": picture()},
        review={"done": 1, "messages": []},
    )
    page = browser.page()
    try:
        yield RealSite(server, plugin, page)
        assert not page.dialogs
        assert not [
            trouble for trouble in page.troubles if "Haven" in trouble or "haven" in trouble or "Warning" in trouble
        ]
    finally:
        page.close()


def test_our_page(real: RealSite) -> None:
    real.plugin.status(message=EVIL)
    page = real.go(f"/plugins/{PLUGIN}")
    page.wait_text(EVIL)
    page.click('[data-task="preview"]')
    page.wait_text("was put into Stash's queue")
    page.click('[data-task="undo"]')
    page.click_text("Cancel", "dialog button")
    for view, sign in (("Past runs", "No run yet"), ("Check", "Nothing was checked"), ("Now", "42 %")):
        page.click_text(view, "[role=tab]")
        page.wait_text(sign, "#haven-view")


def test_tab_of_a_scene(real: RealSite) -> None:
    page = real.go("/scenes/1")
    page.wait_for("#VideoJsPlayer")
    page.wait_for('[data-rb-event-key="haven-vlm-panel"]')
    page.run("document.querySelector('[data-rb-event-key=\"haven-vlm-panel\"]').click()")
    page.click('[data-key="0.0"]')
    page.wait_for('[data-edge="end"]')
    page.run("document.querySelector('[data-edge=\"end\"]').focus()")
    page.press("ArrowRight", shift=True)
    page.wait_text("moved", ".haven-inspector")
    page.click_text("Reject")
    page.click("[data-save]")
    page.wait_text("saved.")
    [call] = real.plugin.operations("review")
    assert [d["action"] for d in call["decisions"]] == ["reject"]


def test_selections_and_tools(real: RealSite) -> None:
    page = real.go("/scenes")
    page.wait_for(".scene-card .card-check")
    page.run("document.querySelector('.scene-card .card-check').click()")
    page.wait_for(".scene-list-operations .dropdown-toggle")
    page.run("document.querySelector('.scene-list-operations .dropdown-toggle').click()")
    page.click_text("Tag with VLM now", ".dropdown-item")
    page.wait_text("1 scene put into Stash's queue")
    real.go("/settings?tab=tools")
    page.wait_for("[data-haven-tools]")
    assert page.count("[data-haven-tools]") == 1


def test_stop_ends_the_job(real: RealSite) -> None:
    real.plugin.answer(hold=["update"])
    page = real.go(f"/plugins/{PLUGIN}")
    page.click('[data-task="update"]')
    page.click("[data-stop]")
    page.wait("!document.querySelector('[data-stop]')")
    assert not real.server.data("{ jobQueue { id } }")["jobQueue"]
