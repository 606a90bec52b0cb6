"""The first view: tasks are started, the run is seen as it goes, past runs and the last check are told."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from tests.browser.conftest import Site
from tests.browser.site import EVIL, PLUGIN, endpoint, run_entry, status

PAGE = f"/plugins/{PLUGIN}"
LAG_MS = 2000


def test_without_any_run_it_says_how_to_begin(site: Site) -> None:
    page = site.go(PAGE)
    page.wait_text("No run yet")
    assert page.count("[data-task]") == 6


@pytest.mark.parametrize("mode", ["tag_videos", "tag_images", "preview", "update", "check_endpoints"])
def test_a_button_starts_its_task(site: Site, mode: str) -> None:
    page = site.go(PAGE)
    page.click(f'[data-task="{mode}"]')
    page.wait_text("was put into Stash's queue")
    site.stash.wait_for_job(1)
    assert site.plugin.tasks() == [{"mode": mode}]


def test_undo_asks_first(site: Site) -> None:
    page = site.go(PAGE)
    page.click('[data-task="undo"]')
    page.wait_text("Undo the last run?", "dialog")
    page.click_text("Cancel", "dialog button")
    page.wait("!document.querySelector('dialog')")
    assert not site.stash.jobs.queue()
    assert site.plugin.tasks() == []
    page.click('[data-task="undo"]')
    page.wait_for("dialog")
    page.press("Escape")
    page.wait("!document.querySelector('dialog')")
    page.wait("document.activeElement.dataset.task === 'undo'")
    page.click('[data-task="undo"]')
    page.click_text("Undo Last Run", "dialog button")
    page.wait_text("was put into Stash's queue")
    site.stash.wait_for_job(1)
    assert site.plugin.tasks() == [{"mode": "undo"}]


def test_a_run_is_shown_with_its_endpoints(site: Site) -> None:
    site.plugin.status()
    page = site.go(PAGE)
    page.wait_text("42 %")
    text = page.text("section")
    for part in ("Running", "run 7", "5 of 12", "583 of 1,400", "187", "about 5 min 12 s", "nothing", "no picture",
                 "Looking at Final, first half at 12:34", "1 time: the file is damaged"):  # fmt: skip
        assert part in text, part
    rows = page.text("[data-endpoints] tbody")
    for part in (
        "Desktop",
        "ready",
        "4 / 4",
        "71 %",
        "0.8 / 1.5 s",
        "cooling down",
        "again in 12 s",
        "HTTP 500, twice.",
    ):
        assert part in rows, part
    assert page.run("document.querySelector('[role=progressbar]').getAttribute('aria-valuenow')") == "42"


def test_a_change_is_seen_at_the_next_look(site: Site) -> None:
    site.plugin.status()
    page = site.go(PAGE)
    page.wait_text("42 %")
    for number in range(3):
        site.plugin.status(progress=0.5 + number / 100, message=f"change {number}")
        page.wait_text(f"change {number}")
        assert f"{50 + number} %" in page.text("section")


def test_an_hour_of_watching_looks_every_second_and_does_not_grow(site: Site) -> None:
    """In the browser's virtual time; what changes with every look is what could pile up."""
    site.plugin.status()
    page = site.go(PAGE)
    page.wait_text("42 %")
    page.run(
        """(() => {
          const fetched = window.fetch;
          window.looks = [];
          window.fetch = async (address, options) => {
            if (!String(address).endsWith("status.json")) return fetched(address, options);
            window.looks.push(Date.now());
            const status = JSON.parse(window.first);
            const n = window.looks.length;
            Object.assign(status, {updated: Date.now(), message: "look " + n, progress: n % 100 / 100});
            status.looking_at = {kind: "scene", id: String(n), title: "Scene " + n, time_s: n, image: null};
            status.media.current = [{kind: "scene", id: String(n), title: "Scene " + n, done: n, planned: 4000}];
            const headers = {Date: new Date().toUTCString()};
            return new Response(JSON.stringify(status), {headers});
          };
        })()"""
    )
    page.run(f"void (window.first = {json.dumps(json.dumps(status()))})")
    page.virtual_time(60_000)
    before = page.memory()
    page.virtual_time(3_600_000)
    looks = page.run("window.looks")
    gaps = [later - sooner for sooner, later in itertools.pairwise(looks[-3000:])]  # within the hour
    assert len(looks) > 3000
    assert max(gaps) <= LAG_MS
    assert "look 3" in page.text("section")
    after = page.memory()
    assert after["nodes"] <= before["nodes"] + 50
    assert after["listeners"] <= before["listeners"] + 50
    assert after["heap"] <= before["heap"] + 1_000_000


def test_nothing_is_asked_while_nobody_looks(site: Site) -> None:
    site.plugin.status()
    page = site.go(PAGE)
    page.wait_text("42 %")
    page.run(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait("new Promise(done => setTimeout(() => done(true), 100))")  # what was under way has come back
    before = len(page.requests)
    page.virtual_time(30_000)
    assert len(page.requests) == before
    site.plugin.status(message="somebody looks again")
    page.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_text("somebody looks again")


def test_a_run_that_says_nothing_any_more_was_stopped(site: Site) -> None:
    site.plugin.status(updated=int((time.time() - 40) * 1000))
    page = site.go(PAGE)
    page.wait_text("stopped or killed")
    assert "starting Tag Videos again goes on from there" in page.text("section")
    assert page.run("document.querySelector('[data-phase]').dataset.phase") == "stopped"


def test_a_run_beside_the_one_shown_is_told_of(site: Site) -> None:
    other = {
        "run_id": 8,
        "mode": "tag_images",
        "state": "running",
        "message": EVIL,
        "progress": 0.25,
        "done": 2,
        "total": 8,
    }
    site.plugin.status(others=[other])
    page = site.go(PAGE)
    page.wait_text("Also under way")
    assert f"Tag Images · run 8: 25 % · 2 of 8 media · {EVIL}" in page.text("[data-others]")


def test_a_killed_run_is_listed_as_stopped(site: Site) -> None:
    killed = run_entry(stopped=True, ok=False, counts={}, markers=0, ended_because="Stopped or killed.", report=None)
    site.plugin.write("runs.json", {"schema": 1, "runs": [killed]})
    page = site.go(PAGE)
    page.click_text("Past runs", "[role=tab]")
    page.wait_text("Stopped or killed.", "#haven-view")
    text = page.text("#haven-view")
    assert "no media" not in text and "5,200 questions asked" in text


def test_a_finished_run_is_not_called_stopped(site: Site) -> None:
    site.plugin.status(state="finished", progress=1.0, updated=int((time.time() - 4000) * 1000))
    page = site.go(PAGE)
    page.wait_text("Finished")
    assert "killed" not in page.text("section")


def test_stop_ends_the_job(site: Site) -> None:
    site.plugin.answer(hold=["tag_videos"])
    page = site.go(PAGE)
    page.click('[data-task="tag_videos"]')
    page.click("[data-stop]")
    job, _ = site.stash.wait_for_job(1)
    assert job.status == "CANCELLED"
    page.wait("!document.querySelector('[data-stop]')")


def test_a_task_of_the_same_name_is_not_ours_to_stop(site: Site) -> None:
    """Another plugin may call its task Preview, too; without a live run of ours its job is left alone."""
    site.plugin.answer(hold=["preview"])
    site.plugin.status(state="finished")
    site.stash.run_plugin_task(PLUGIN, "Preview")
    page = site.go(PAGE)
    page.wait_text("Finished")
    assert page.count("[data-stop]") == 0
    site.plugin.status(mode="preview")
    page.wait_for("[data-stop]")


def test_the_picture_looked_at_is_shown_and_a_missing_one_is_not_broken(site: Site) -> None:
    looking = status()["looking_at"]
    site.plugin.status(looking_at=looking | {"image": "frame-1.jpg"})
    page = site.go(PAGE)
    page.wait_text("no picture", ".haven-looking")  # the file is not there
    (site.plugin.live / "frame-2.jpg").write_bytes(bytes.fromhex("89504e470d0a1a0a"))
    site.plugin.status(looking_at=looking | {"image": "../../secret.png"})
    page.wait("performance.getEntriesByType('resource').some(e => e.name.endsWith('/assets/live/secret.png'))")


def test_of_an_image_stashs_own_thumbnail_is_shown(site: Site) -> None:
    site.plugin.status(looking_at={"kind": "image", "id": "1", "title": "Court", "time_s": 0, "image": None})
    page = site.go(PAGE)
    page.wait_for(".haven-looking")
    page.wait("performance.getEntriesByType('resource').some(e => e.name.endsWith('/image/1/thumbnail'))")
    assert page.text("figcaption") == "Looking at Court"


def test_past_runs_with_causes_and_report(site: Site) -> None:
    site.plugin.write(
        "runs.json", {"schema": 1, "runs": [run_entry(), run_entry(run_id=5, ended_because="no endpoint")]}
    )
    page = site.go(f"{PAGE}?view=runs")
    page.wait_text("Past runs")
    page.wait("document.querySelectorAll('.haven-run').length === 2")
    text = page.text(".haven-runs")
    for part in (
        "11 tagged",
        "84 markers",
        "5,200 questions",
        "the file is damaged",
        "Ended early: no endpoint",
        "12 min",
    ):
        assert part in text, part
    address = page.run("document.querySelector('.haven-run a').href")
    assert address == f"{site.stash.url}/plugin/{PLUGIN}/assets/live/reports/2026-11-22-run6.html"


def test_the_last_check_as_a_table(site: Site) -> None:
    items = [
        {"name": "reachable", "verdict": "ok", "text": "in 3 ms", "fix": ""},
        {"name": "sees pictures", "verdict": "problem", "text": "a text model", "fix": "Load a vision model."},
    ]
    sections = [{"kind": "endpoint", "title": "Desktop", "address": "http://gpu:1234/v1", "items": items}]
    site.plugin.write(
        "check.json", {"schema": 1, "run_id": 3, "at": "2026-11-23T10:00:00Z", "ok": False, "sections": sections}
    )
    page = site.go(f"{PAGE}?view=check")
    page.wait_for("table")
    assert page.count("tbody tr") == 2
    assert "Load a vision model." in page.text("table")
    page.click_text("Check Endpoints")
    site.until(lambda: site.plugin.tasks() == [{"mode": "check_endpoints"}])


def test_what_is_seen_survives_a_reload(site: Site) -> None:
    page = site.go(PAGE)
    page.click_text("Past runs", "[role=tab]")
    page.wait("location.search === '?view=runs'")
    page.call("Page.reload")
    page.wait_text("No run yet.", "#haven-view")
    assert page.run("document.querySelector('[role=tab][aria-selected=true]').innerText") == "Past runs"


def test_files_that_cannot_be_written_are_replaced_by_operations(site: Site) -> None:
    site.plugin.answer(
        status=status(message="from the data folder"), runs={"runs": [run_entry()]}, check={"sections": None}
    )
    page = site.go(PAGE)
    page.wait_text("from the data folder")


def test_an_expired_login_is_said(site: Site) -> None:
    page = site.go(PAGE)
    page.wait_text("No run yet")
    page.run("window.fetch = async () => new Response('', {status: 401})")
    page.wait_text("log in again")


def test_odd_data_neither_breaks_nor_runs(site: Site) -> None:
    """Values of the wrong kind, and a name that is markup."""
    site.plugin.status(
        message=EVIL,
        endpoints=[endpoint(name=EVIL, failures={EVIL: 2}, reason={"a": 1}, limit="many"), None, "text"],
        causes=[{"reason": EVIL, "count": None}, {}],
        questions=None,
        media={"total": "x", "current": [{"title": EVIL, "planned": 0}]},
        looking_at={"title": 'He said "no"\nand <b>left</b>', "image": 7},
        eta_seconds="soon",
    )
    page = site.go(PAGE)
    page.wait_text(EVIL)
    assert page.count("section img, section b") == 0
    assert 'He said "no"' in page.run("document.querySelector('figcaption').textContent")
    odd: list[object] = [[], "text", {"state": ["running"]}, {"state": "<b>", "mode": "__proto__"}]
    for junk in odd:
        site.plugin.write("status.json", junk)
        page.virtual_time(3_000)
    assert page.run("Array.from(document.querySelectorAll('.haven-notice-problem'), e => e.innerText)") == []
