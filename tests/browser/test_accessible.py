"""Everybody can use it: contrast, names, keyboard, small screens, no motion for those who want none, no shifting."""

from __future__ import annotations

import pytest

from demo.chromium import Page
from tests.browser.conftest import Site
from tests.browser.site import EVIL, MATCH, PLUGIN, lane, picture, run_entry, scene, span

PAGE = f"/plugins/{PLUGIN}"
VIEWS = ("now", "runs", "check", "review&scene=1", "review")
MOST_NODES = 4000
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3

CONTRASTS = """(() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {r, g, b, a};
  };
  const over = (top, below) => {
    const mix = (name) => top[name] * top.a + below[name] * (1 - top.a);
    return {r: mix("r"), g: mix("g"), b: mix("b"), a: 1};
  };
  const ground = (element) => {
    if (!element) return {r: 255, g: 255, b: 255, a: 1};
    const own = parse(getComputedStyle(element).backgroundColor);
    return own.a === 1 ? own : over(own, ground(element.parentElement));
  };
  const light = ({r, g, b}) => {
    const [x, y, z] = [r, g, b].map((n) => n / 255).map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ours = document.querySelector(".haven-page");
  const result = [];
  for (const element of ours.querySelectorAll("*")) {
    const text = Array.from(element.childNodes).filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    const box = element.getBoundingClientRect();
    if (!text || !box.width || element.closest(":disabled, video, datalist")) continue;
    const below = ground(element);
    const [a, b] = [light(over(parse(getComputedStyle(element).color), below)), light(below)].sort((p, q) => q - p);
    result.push([text.slice(0, 40), element.className, (a + 0.05) / (b + 0.05)]);
  }
  return result;
})()"""


def fill(site: Site) -> None:
    """Something in every view."""
    long = "An endpoint of a very long name " * 3
    check = [
        {"name": "model", "verdict": verdict, "text": "found " + "x" * 90, "fix": "do this"}
        for verdict in ("ok", "note", "problem")
    ]
    site.plugin.status(message=long)
    site.plugin.write("runs.json", {"runs": [run_entry(), run_entry(run_id=5, ended_because=long, summary="y" * 400)]})
    section = {"kind": "endpoint", "title": long, "address": "http://gpu:1234/v1", "items": check}
    site.plugin.write("check.json", {"at": "2026-11-23T10:00:00Z", "sections": [section]})
    site.plugin.answer(scene=scene(1, *MATCH, lane(EVIL * 4, span(5, 9))), thumbnails={"image": picture()})


def opened(site: Site, view: str) -> Page:
    page = site.go(f"{PAGE}?view={view}")
    ready = {"now": ".haven-figures", "runs": ".haven-run", "check": "table", "review": ".haven-scenes li"}
    page.wait_for(ready.get(view, '[data-key="0.0"]'))
    if "scene" in view:
        page.click('[data-key="0.0"]')
        page.click_text("Reject")
        page.click('[data-key="2.0"]')
        page.wait_for(".haven-moment input")
    return page


@pytest.mark.parametrize("view", VIEWS)
def test_contrast(site: Site, view: str) -> None:
    fill(site)
    found = opened(site, view).run(CONTRASTS)
    assert len(found) > 5
    assert [one for one in found if one[2] < LEAST_CONTRAST] == []


@pytest.mark.parametrize("view", VIEWS)
def test_whatever_can_be_operated_has_a_name(site: Site, view: str) -> None:
    fill(site)
    tree = opened(site, view).call("Accessibility.getFullAXTree")["nodes"]
    operated = {
        "button",
        "link",
        "slider",
        "textbox",
        "searchbox",
        "combobox",
        "tab",
        "progressbar",
        "dialog",
        "region",
    }
    nodes = [node for node in tree if node.get("role", {}).get("value") in operated and not node["ignored"]]
    assert len(nodes) > 5
    assert [node["role"] for node in nodes if not node.get("name", {}).get("value", "").strip()] == []


@pytest.mark.parametrize("view", VIEWS)
def test_fits_a_screen_of_360_pixels(site: Site, view: str) -> None:
    fill(site)
    site.page.resize(360, 740)
    page = opened(site, view)
    assert page.run("document.documentElement.scrollWidth") <= 360


def test_tabs_by_keyboard(site: Site) -> None:
    page = site.go(PAGE)
    page.wait_text("No run yet")
    page.run("document.querySelector('[role=tab][aria-selected=true]').focus()")
    page.press("ArrowLeft")
    page.wait("location.search === '?view=check' && document.activeElement.id === 'haven-tab-check'")
    page.press("ArrowRight")
    page.wait("location.search === '?view=now' && document.activeElement.id === 'haven-tab-now'")


def test_one_tab_stop_leads_into_the_spans(site: Site) -> None:
    fill(site)
    page = site.go(f"{PAGE}?view=review&scene=1")
    page.wait_for('[data-key="0.0"]')
    assert page.run("document.querySelectorAll('.haven-bar[tabindex=\"0\"]').length") == 1


def test_no_motion_for_those_who_want_none(site: Site) -> None:
    fill(site)
    page = opened(site, "now")
    assert page.run("getComputedStyle(document.querySelector('.progress-bar')).transitionDuration") == "0.5s"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.run("getComputedStyle(document.querySelector('.progress-bar')).transitionDuration") == "0s"


@pytest.mark.parametrize(("lanes", "spans"), [(100, 100), (1, 10_000), (10_000, 1)])
def test_ten_thousand_spans_are_few_nodes_and_shift_nothing(site: Site, lanes: int, spans: int) -> None:
    step = 36_000 / spans
    many = [lane(f"Tag {i}", *(span(j * step, j * step + 0.7 * step) for j in range(spans))) for i in range(lanes)]
    samples = [{"t": float(t), "state": "asked", "reason": "", "tags": {}} for t in range(0, 36_000, 2)]
    site.plugin.answer(scene=scene(1, *many, duration=36_000.0, samples=samples), thumbnails={"image": picture()})
    page = site.go(f"{PAGE}?view=review&scene=1")
    page.wait_for('[data-key="0.0"]')
    # what moves because somebody pressed something is meant to; what moves by itself is not
    page.run(
        "window.shifts = []; new PerformanceObserver(list => window.shifts.push(...list.getEntries()"
        ".filter(e => !e.hadRecentInput).map(e => e.value))).observe({type: 'layout-shift'})"
    )
    assert page.count("*") < MOST_NODES
    page.wait("document.querySelectorAll('.haven-strip img').length > 3")
    for share in (0.3, 0.9, 0):
        page.run(f"(e => {{ e.scrollTop = e.scrollHeight * {share}; }})(document.querySelector('.haven-lanes'))")
        page.wait("document.querySelectorAll('.haven-bar').length > 0")
        assert page.count("*") < MOST_NODES
    for _ in range(4):
        page.click('[aria-label="Zoom in"]')
    assert page.count("*") < MOST_NODES
    assert page.run("window.shifts.reduce((sum, one) => sum + one, 0)") == 0
