"""A browser for all tests, a Stash with the plugin for each module."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.chromium import WAIT_S, Browser, Page, find_chromium
from demo.stash import EmbeddedStash
from tests.browser.site import Plugin


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium: install one (apt-get install chromium), or name one in HAVEN_CHROMIUM")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as running:
        yield running


class Site:
    """A Stash, its plugin, and a page on it."""

    def __init__(self, stash: EmbeddedStash, plugin: Plugin, page: Page) -> None:
        self.stash = stash
        self.plugin = plugin
        self.page = page

    def go(self, path: str) -> Page:
        self.page.go(self.stash.url + path)
        return self.page

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something outside the page, such as a task that was asked for in it."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.fixture
def plugin(plugins: Path) -> Plugin:
    return Plugin(plugins)


@pytest.fixture
def site(browser: Browser, plugin: Plugin, plugins: Path) -> Iterator[Site]:
    """The embedded Stash with scene 1 and image 1; the test fails if anything in the page did."""
    with EmbeddedStash(plugins_path=plugins) as stash:
        stash.add_scene(title="Match", duration=120.0)
        stash.add_image("/media/court.jpg", title="Court")
        page = browser.page()
        try:
            yield Site(stash, plugin, page)
            assert not page.troubles
            assert not page.dialogs
        finally:
            page.close()
