"""Where the connector shows inside Stash's own pages, on the page that stands in for them."""

from __future__ import annotations

from tests.browser.conftest import Site
from tests.browser.site import MATCH, PLUGIN, picture, scene


def test_links_in_the_navigation_and_once_among_the_tools(site: Site) -> None:
    page = site.go("/settings")
    page.wait_for("[data-haven-tools]")
    assert page.count("[data-haven-tools]") == 1  # the section is there twice, as in Stash since 0.29
    page.click("[data-haven-tools] a")
    page.wait_text("No run yet")
    assert page.run("location.pathname") == f"/plugins/{PLUGIN}"
    site.go("/scenes")
    page.click('nav [aria-label="A Haven VLM Connector"]')
    page.wait_text("No run yet")


def test_the_tab_on_a_scenes_page_seeks_its_player(site: Site) -> None:
    site.plugin.answer(scene=scene(1, *MATCH), thumbnails={"image": picture()})
    page = site.go("/scenes/1")
    page.wait_for('[data-rb-event-key="haven-vlm-panel"]')
    assert page.count(".haven-review") == 0
    assert site.plugin.operations("scene") == []  # nothing is asked before the tab is opened
    page.click('[data-rb-event-key="haven-vlm-panel"]')
    page.click('[data-key="0.1"]')
    page.wait("document.querySelector('video').dataset.asked === '20'")
    page.click('[data-rb-event-key="scene-details-panel"]')
    page.click('[data-rb-event-key="haven-vlm-panel"]')
    page.wait_for('[data-inspector="0.1"]')
    assert len(site.plugin.operations("scene")) == 1


def test_stashs_own_keys_stay_out_of_the_timeline(site: Site) -> None:
    """Stash listens to letters on the document; what means something here must not reach it."""
    site.plugin.answer(scene=scene(1, *MATCH))
    page = site.go("/scenes/1")
    page.click('[data-rb-event-key="haven-vlm-panel"]')
    page.wait_for('[data-key="0.0"]')
    page.run("window.heard = []; document.addEventListener('keydown', event => window.heard.push(event.key))")
    page.run("document.querySelector('[data-key=\"0.0\"]').focus()")
    page.press("c")
    page.press("q")
    page.press("ArrowRight")
    page.run("document.querySelector('.haven-add input').focus()")
    page.press("e")
    assert page.run("window.heard") == ["q"]


def test_a_part_that_breaks_does_not_take_the_page_along(site: Site) -> None:
    site.plugin.answer(scene=scene(1, *MATCH))
    page = site.go("/scenes/1")
    page.wait_for('[data-rb-event-key="haven-vlm-panel"]')
    page.run("void (window.HavenVlm.model.withEdits = () => { throw new Error('broken on purpose'); })")
    page.click('[data-rb-event-key="haven-vlm-panel"]')
    page.wait_text("This part of the page failed")
    assert page.count("video") == 1


def test_selected_scenes_are_tagged(site: Site) -> None:
    for title in ("Second", "Third"):
        site.stash.add_scene(title=title)
    page = site.go("/scenes")
    page.wait("document.querySelectorAll('.scene-card').length === 3")
    assert page.count(".operations button") == 0
    for scene_id in (1, 3, 2, 1):
        page.click(f'[data-scene="{scene_id}"] input')
    page.click_text("Tag with VLM now", ".operations button")
    page.wait_text("2 scenes put into Stash's queue", ".toast")
    site.until(lambda: len(site.plugin.tasks()) == 1)
    [task] = site.plugin.tasks()
    assert (task["mode"], sorted(task["ids"])) == ("tag_videos", ["2", "3"])


def test_selected_images_and_a_single_one(site: Site) -> None:
    page = site.go("/images")
    page.click(".image-card input")
    page.click_text("Tag with VLM now", ".operations button")
    page.wait_text("1 image put into Stash's queue", ".toast")
    site.go("/images/1")
    page.click("[data-tag-now]")
    page.wait_text("Put into Stash's queue.")
    site.until(lambda: len(site.plugin.tasks()) == 2)
    assert site.plugin.tasks() == [{"mode": "tag_images", "ids": ["1"]}] * 2
