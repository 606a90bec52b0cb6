"""Review on the timeline: seeing, seeking, confirming, rejecting, moving, adding, saving; by mouse and by keyboard."""

from __future__ import annotations

import pytest

from demo.chromium import Page
from tests.browser.conftest import Site
from tests.browser.site import EVIL, MATCH, PLUGIN, lane, picture, scene, span

REVIEW = f"/plugins/{PLUGIN}?view=review&scene=1"
POINT = '[data-key="0.0"]'


@pytest.fixture
def match(site: Site) -> Site:
    """Scene 1 with a known timeline, opened on our page."""
    site.plugin.answer(scene=scene(1, *MATCH), thumbnails={"image": picture()}, review={"done": 1, "messages": []})
    site.go(REVIEW)
    site.page.wait_for(POINT)
    return site


def saved(site: Site) -> list[dict[str, object]]:
    """Decisions that reached the plugin, once a save is through."""
    site.page.click("[data-save]")
    site.page.wait_text("saved.")
    decisions: list[dict[str, object]] = site.plugin.operations("review")[-1]["decisions"]
    return decisions


def chosen(page: Page) -> str:
    return str(page.run("document.querySelector('[data-inspector]').dataset.inspector"))


def focused(page: Page) -> str:
    return str(page.run("document.activeElement.dataset.key || document.activeElement.dataset.edge || ''"))


def test_lanes_spans_and_samples_are_shown(match: Site) -> None:
    page = match.page
    assert page.count("[role=listitem]") == 3
    label = page.run(f"document.querySelector('{POINT}').getAttribute('aria-label')")
    assert label == "Basketball point, 0:04.0 to 0:08.0, confidence 83 %, marker of ours"
    assert page.count(".haven-tick") > 20
    assert page.count(".haven-tick.haven-sample-failed") == 1
    page.wait("document.querySelectorAll('.haven-strip img').length > 3")
    assert len(match.plugin.operations("thumbnails")) == 1


def test_hovering_the_samples_shows_the_frame(match: Site) -> None:
    match.page.hover(".haven-ticks", 6 / 120)
    match.page.wait_text("0:06.0, failed: HTTP 500", ".haven-preview")
    match.page.wait_for(".haven-preview img")


def test_choosing_a_span_goes_there(match: Site) -> None:
    match.page.run("document.querySelector('video').addEventListener('x', () => 0)")
    match.page.click('[data-key="0.1"]')
    match.page.wait("document.querySelector('[data-inspector]').dataset.inspector === '0.1'")
    assert match.page.text(".haven-inspector").count("your marker") == 1
    assert match.page.run("document.querySelector('video').currentTime") in (20, 0)  # 0: nothing to play here


def test_confirm_reject_and_save(match: Site) -> None:
    page = match.page
    page.click(POINT)
    page.click_text("Confirm")
    page.wait_text("to be confirmed", ".haven-inspector")
    page.click('[data-key="2.0"]')
    page.click_text("Reject")
    page.wait_text("Save 2 decisions")
    assert saved(match) == [
        {"action": "confirm", "tag": "Basketball point", "start": 4, "end": 8, "marker_id": "41"},
        {"action": "reject", "tag": "Break-away", "start": 90, "end": 100, "marker_id": "901"},
    ]
    page.wait("document.querySelector('[data-save]').disabled")


def test_dragging_an_end_moves_it(match: Site) -> None:
    page = match.page
    page.click('[data-key="2.0"]')
    page.wait_for('[data-edge="end"]')
    second = page.box(".haven-track")["width"] / 120
    page.drag('[data-edge="end"]', by_px=second * 10)
    page.wait_text("moved", ".haven-inspector")
    [decision] = saved(match)
    assert (decision["action"], decision["start"], decision["end"], decision["new_start"]) == ("move", 90, 100, 90)
    assert decision["new_end"] == pytest.approx(110, abs=0.6)


def test_an_end_never_passes_the_other_nor_leaves_the_scene(match: Site) -> None:
    page = match.page
    page.click('[data-key="2.0"]')
    page.wait_for('[data-edge="end"]')
    page.drag('[data-edge="end"]', by_px=5000)
    page.wait("document.querySelector('[data-edge=end]').getAttribute('aria-valuenow') === '120'")
    page.run("document.querySelector('[data-edge=end]').focus()")
    page.press("Home")
    page.wait("document.querySelector('[data-edge=end]').getAttribute('aria-valuenow') === '90.1'")


def test_keyboard_alone(match: Site) -> None:
    """Tab to the spans, go to one, move its start, confirm another, reject a third, take one back."""
    page = match.page
    page.run(f"document.querySelector('{POINT}').focus()")
    page.press("ArrowRight")
    page.wait("document.activeElement.dataset.key === '0.1'")
    page.press("ArrowDown")
    page.wait("document.activeElement.dataset.key === '1.0'")
    page.press("End")
    page.wait("document.activeElement.dataset.key === '1.1'")
    page.press("Home")
    page.press("c")
    page.press("ArrowUp")
    page.wait("document.activeElement.dataset.key === '0.1'")
    page.press("Delete")
    page.press("Home")
    page.press("Enter")
    page.wait("document.querySelector('[data-inspector]').dataset.inspector === '0.0'")
    page.press("Tab")
    assert focused(page) == "start"
    page.press("ArrowRight")
    page.press("ArrowRight", shift=True)
    page.wait("document.activeElement.getAttribute('aria-valuenow') === '5.1'")
    assert page.run("document.activeElement.getAttribute('role')") == "slider"
    page.press("Tab")
    assert focused(page) == "end"
    page.press("PageUp")
    page.wait("document.activeElement.getAttribute('aria-valuenow') === '18'")
    page.press("Escape")
    page.wait("document.activeElement.getAttribute('aria-valuenow') === '8'")
    page.press("ArrowLeft")
    page.wait_text("Save 3 decisions")
    decisions = saved(match)
    assert [(d["action"], d["tag"]) for d in decisions] == [
        ("move", "Basketball point"), ("reject", "Basketball point"), ("confirm", "Foul"),
    ]  # fmt: skip
    assert (decisions[0]["new_start"], decisions[0]["new_end"]) == (4, 7.9)
    assert "marker_id" not in decisions[2]


def test_typing_an_end(match: Site) -> None:
    page = match.page
    page.click(POINT)
    page.wait_for(".haven-moment input")
    page.run("document.querySelector('.haven-moment input').select()")
    page.write("x")
    page.press("Enter")
    page.wait_text("Write 75.5 or 1:15.5")
    page.run("document.querySelector('.haven-moment input').select()")
    page.write("0:02.5")
    page.press("Enter")
    [decision] = saved(match)
    assert (decision["new_start"], decision["new_end"]) == (2.5, 8)


def test_adding_a_span_of_a_tag_with_or_without_a_lane(match: Site) -> None:
    page = match.page
    for tag in ("Foul", "Time-out"):
        page.run("document.querySelector('.haven-add input').focus()")
        page.write(tag)
        page.press("Enter")
        page.wait_text(tag, ".haven-inspector")
    assert page.count("[role=listitem]") == 4
    page.run("document.querySelector('[data-edge=end]').focus()")
    page.press("ArrowRight", shift=True)
    assert saved(match) == [
        {"action": "add", "tag": "Foul", "start": 0, "end": 2},
        {"action": "add", "tag": "Time-out", "start": 0, "end": 3},
    ]


def test_undo_take_back_and_discard(match: Site) -> None:
    page = match.page
    page.click(POINT)
    page.click_text("Reject")
    page.wait_text("Save 1 decision")
    page.click_text("Undo")
    page.wait("document.querySelector('[data-save]').disabled")
    page.click_text("Confirm")
    page.wait_text("Save 1 decision")
    page.click_text("Take back")
    page.wait("document.querySelector('[data-save]').disabled")
    page.click_text("Confirm")
    page.click_text("Discard all")
    page.wait("document.querySelector('[data-save]').disabled")
    assert match.plugin.operations("review") == []


def test_unsaved_decisions_outlive_another_view_and_a_failed_save(match: Site) -> None:
    page = match.page
    match.plugin.answer(review={"error": "The ledger is locked."})
    page.click(POINT)
    page.click_text("Reject")
    page.click("[data-save]")
    page.wait_text("Not saved: The ledger is locked.")
    page.click_text("Now", "[role=tab]")
    page.wait_text("No run yet")
    page.run("history.back()")
    page.wait_text("Save 1 decision")
    match.plugin.answer(review={"done": 1, "messages": []})
    assert [d["action"] for d in saved(match)] == ["reject"]


def test_what_the_plugin_says_to_a_review_is_shown(match: Site) -> None:
    match.plugin.answer(review={"done": 0, "messages": [f"The marker {EVIL} is gone."]})
    match.page.click(POINT)
    match.page.click_text("Reject")
    match.page.click("[data-save]")
    match.page.wait_text(f"The marker {EVIL} is gone.")


def test_tagging_this_scene_now_and_its_results(match: Site) -> None:
    page = match.page
    match.plugin.answer(scene=scene(1, *MATCH, lane("Rebound", span(1, 2))))
    page.click("[data-tag-now]")
    page.wait_text("Rebound")
    assert match.plugin.tasks() == [{"mode": "tag_videos", "ids": ["1"]}]


def test_zoom_keeps_the_chosen_span_in_sight(match: Site) -> None:
    page = match.page
    page.click('[data-key="2.0"]')
    for _ in range(3):
        page.run("document.querySelector('[aria-label=\"Zoom in\"]').click()")
    page.wait("document.querySelector('[data-view]').innerText === '1:28 – 1:43'")
    page.run("document.querySelector('[data-key=\"2.0\"]').focus()")
    page.press("ArrowUp")  # the lanes above have nothing in this view
    assert focused(page) == "2.0"
    page.click_text("All")
    page.wait("document.querySelector('[data-view]').innerText === '0:00 – 2:00'")


def test_arrows_reach_spans_beyond_the_view(match: Site) -> None:
    page = match.page
    page.click(POINT)
    for _ in range(3):
        page.run("document.querySelector('[aria-label=\"Zoom in\"]').click()")
    page.run(f"document.querySelector('{POINT}').focus()")
    page.press("ArrowRight")
    page.wait("document.activeElement.dataset.key === '0.1'")


def test_a_scene_that_was_never_looked_at(site: Site) -> None:
    site.plugin.answer(scene=scene(1, samples=[]))
    page = site.go(REVIEW)
    page.wait_text("Nothing is known about this scene yet.")
    assert page.count("[data-tag-now]") == 1


def test_an_operation_that_fails_can_be_tried_again(site: Site) -> None:
    site.plugin.answer(scene={"error": f"No such scene {EVIL}"})
    page = site.go(REVIEW)
    page.wait_text(f"No such scene {EVIL}")
    site.plugin.answer(scene=scene(1, *MATCH))
    page.click_text("Try again")
    page.wait_for(POINT)


def test_choosing_a_scene_by_its_title(site: Site) -> None:
    site.stash.add_scene(title="Final <b>second</b>")
    site.plugin.answer(scene=scene(2, *MATCH))
    page = site.go(f"/plugins/{PLUGIN}?view=review")
    page.wait("document.querySelectorAll('.haven-scenes li').length === 2")
    page.run("document.querySelector('.haven-chooser input').focus()")
    page.write("Final")
    page.wait("document.querySelectorAll('.haven-scenes li').length === 1")
    page.click_text("Final <b>second</b>")
    page.wait_for(POINT)
    assert page.run("location.search") == "?view=review&scene=2"


def test_names_that_are_markup_are_text(site: Site) -> None:
    evil = lane(EVIL, span(1, 5), stash_name=EVIL)
    reply = scene(1, evil)
    reply["samples"][0] |= {"state": "failed", "reason": EVIL, "tags": {EVIL: 0.5}}
    site.plugin.answer(scene=reply, thumbnails={"image": 'x" onerror="alert(1)'})
    page = site.go(REVIEW)
    page.wait_text(EVIL)
    page.click(POINT)
    page.wait_text(EVIL, ".haven-inspector")
    page.hover(".haven-ticks", 0.001)
    page.wait_text(EVIL, ".haven-preview")
    assert page.count("img[src*=onerror], img[src=x]") == 0
