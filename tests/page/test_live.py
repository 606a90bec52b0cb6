"""What is written for the page while a run goes on: bounded, atomic, cheap, and never in a run's way."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from haven_vlm.files import write_atomically
from haven_vlm.live import LiveFolder, fitted, prune, small_jpeg
from haven_vlm.live_files import read_newest
from haven_vlm.live_runs import entry_of
from haven_vlm.live_status import LiveStatus, Rates
from haven_vlm.page_data import (
    MAX_RUNS,
    MAX_STATUS_BYTES,
    Cause,
    CurrentMedium,
    EndpointState,
    MediaCount,
    QuestionCount,
    RunState,
    Status,
    cut,
    to_json,
)
from haven_vlm.pool_ports import EndpointStatistics, PoolStatistics
from haven_vlm.ports import Settled
from haven_vlm.progress import Progress

EVIL = "<img src=x onerror=alert(1)>"


def jpeg(side: int = 640) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((side, side), 80).convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


def endpoint(number: int = 0, text: str = "") -> EndpointState:
    return EndpointState(
        f"e{number}{text}", "m" + text, "parked", None, text, 0, 1, 2, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, {}, False
    )


def statistics(tokens: int = 0, *, waiting_for: str = "") -> PoolStatistics:
    one = EndpointStatistics(
        name="Desktop", base_url="http://127.0.0.1:1/v1", model="tiny", state="ready", reason="", until_s=None,
        weight=5, is_fallback=False, limit=4, in_flight=2, answered=10, failures=Counter({"connect": 1}), p50_s=0.5,
        p95_s=1.5, tokens_in=tokens, tokens_cached=tokens // 2, tokens_out=tokens // 10, left_network=0,
    )  # fmt: skip
    return PoolStatistics((one,), 0, 10, 10, 0, waiting_for)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.each: Callable[[], bool] = lambda: False
        """Called in a thread, as it reads files, after each wait; tells whether the test has seen enough."""
        self.over = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if await asyncio.to_thread(self.each):
            self.over.set()
        await asyncio.sleep(0)


async def live(tmp_path: Path, clock: Clock, progress: Progress, **more: Any) -> LiveStatus:
    folder = await asyncio.to_thread(LiveFolder, tmp_path / "plugin", tmp_path / "data", clock=clock)
    return LiveStatus(
        folder, mode=more.pop("mode", "tag_videos"), run_id=7, started="2026-01-01T00:00:00+00:00", progress=progress,
        statistics=more.pop("statistics", statistics), endpoints=(), clock=clock, now=clock, sleep=clock.sleep,
    )  # fmt: skip


def read(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "plugin/live/status.json").read_text(encoding="utf-8"))
    return found


async def test_an_hour_of_a_run_leaves_files_of_the_size_of_a_minute(tmp_path: Path) -> None:
    clock, progress = Clock(), Progress(lambda _: None)
    progress.media(10_000)
    picture, sizes = jpeg(64), []

    def work() -> bool:
        scene = f"scene {int(clock.now) // 20}"
        progress.begin(scene, f"{EVIL} {scene}")
        progress.plan(scene, 100)
        progress.done(scene, 5)
        progress.look(scene, 1500, picture)
        progress.trouble(f"cause number {clock.now}")
        if int(clock.now) % 20 == 0:
            progress.close(scene)
        if int(clock.now) % 60 == 0:
            sizes.append(sum(f.stat().st_size for f in (tmp_path / "plugin/live").rglob("*") if f.is_file()))
        return clock.now >= 1000 + 3600

    clock.each = work
    async with await live(tmp_path, clock, progress) as status:
        await clock.over.wait()
        assert len(list((tmp_path / "plugin/live").iterdir())) <= 4
        assert read(tmp_path)["state"] == "running"
        looking = read(tmp_path)["looking_at"]
        assert (
            looking["title"].startswith(EVIL) and (tmp_path / "plugin/live" / looking["image"]).stat().st_size < 20480
        )
        status.ended(ok=True, message="All done.")
    assert max(sizes) < 64 * 1024 + 2 * 20 * 1024
    assert [f.name for f in (tmp_path / "plugin/live").iterdir()] == ["status.json"]
    assert read(tmp_path)["state"] == "finished"


async def test_the_state_lags_two_seconds_at_most(tmp_path: Path) -> None:
    clock, progress, lags = Clock(), Progress(lambda _: None), []

    def look() -> bool:
        lags.append(clock.now - read(tmp_path)["updated"] / 1000)
        return len(lags) == 30

    clock.each = look
    async with await live(tmp_path, clock, progress):
        await clock.over.wait()
    assert max(lags) <= 2.0


async def test_states_of_a_run(tmp_path: Path) -> None:
    clock, progress = Clock(), Progress(lambda _: None)
    pool = statistics()
    status = await live(tmp_path, clock, progress, statistics=lambda: pool)
    assert status.snapshot().state is RunState.PREPARING
    progress.begin("scene 4", "Final")
    progress.done("scene 4", 3, how=Settled.KNOWN)
    progress.done("scene 4", 2, how=Settled.INHERITED)
    progress.done("scene 4", 1, how=Settled.FAILED)
    found = status.snapshot()
    assert found.state is RunState.RUNNING
    assert (found.questions.known, found.questions.inherited, found.questions.failed) == (3, 2, 1)
    assert found.media.current == (CurrentMedium("scene", "4", "Final", 6, 6),)
    pool = statistics(waiting_for="Desktop is down")
    assert (status.snapshot().state, status.snapshot().message) == (RunState.WAITING, "Desktop is down")
    undo = await live(tmp_path, clock, progress, mode="undo")
    assert undo.snapshot().state is RunState.RUNNING


async def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        async with await live(tmp_path, Clock(), Progress(lambda _: None)):
            raise ValueError("broken <b>thing</b>")
    assert (read(tmp_path)["state"], read(tmp_path)["message"]) == ("failed", "broken <b>thing</b>")


def test_tokens_a_second_come_from_the_recent_past() -> None:
    rates = Rates()
    for second in range(100):
        rates.add(float(second), statistics(tokens=0 if second < 50 else (second - 50) * 100))
    assert rates.of("Desktop") == pytest.approx((100.0, 10.0))
    assert rates.of("Other") == (0.0, 0.0)


def test_a_second_run_does_not_take_the_page_from_the_first_unless_that_was_killed(tmp_path: Path) -> None:
    clock = Clock()
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data", clock=clock)
    mine = Status(1, "tag_videos", "aaaa", "", round(clock.now * 1000), RunState.RUNNING)
    other = replace(mine, token="bbbb", run_id=2)
    assert folder.write_status(mine) and not folder.write_status(other)
    clock.now += mine.stale_after_s
    assert folder.write_status(other)
    assert folder.write_status(replace(other, state=RunState.FINISHED)) and folder.write_status(mine)


def test_a_run_beside_another_is_seen_in_its_status(tmp_path: Path) -> None:
    clock = Clock()
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data", clock=clock)
    first = Status(1, "tag_videos", "aaaa", "", round(clock.now * 1000), RunState.RUNNING)
    second = replace(
        first, token="bbbb", run_id=2, mode="tag_images", message=EVIL, progress=0.25, media=MediaCount(8, 2)
    )
    assert folder.write_status(first) and not folder.write_status(second) and folder.write_status(first)
    assert read(tmp_path)["run_id"] == 1
    assert read(tmp_path)["others"] == [
        {
            "run_id": 2,
            "mode": "tag_images",
            "state": "running",
            "message": EVIL,
            "progress": 0.25,
            "done": 2,
            "total": 8,
        }
    ]
    assert folder.write_status(replace(first, state=RunState.FINISHED)) and folder.write_status(second)
    assert (read(tmp_path)["run_id"], read(tmp_path)["others"]) == (2, [])
    assert [f.name for f in folder.path.iterdir()] == ["status.json"]
    folder.write_status(first)
    folder.leave("aaaa")
    assert [f.name for f in folder.path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("aside", [False, True])
def test_a_killed_run_is_listed_as_stopped_with_what_is_known_of_it(tmp_path: Path, *, aside: bool) -> None:
    clock = Clock()
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data", clock=clock)
    if aside:
        folder.write_status(Status(2, "update", "bbbb", "", round(clock.now * 1000), RunState.RUNNING))
    started = datetime.fromtimestamp(clock.now - 90, UTC).isoformat()
    killed = Status(
        1, "tag_videos", "aaaa", started, round(clock.now * 1000), RunState.RUNNING, left_network=3,
        media=MediaCount(10, 4), questions=QuestionCount(asked=50, known=6), causes=(Cause(EVIL, 2),),
    )  # fmt: skip
    folder.write_status(killed)
    folder.enter_killed({1: clock.now + 500})  # another ledger's run of that number
    assert not (folder.path / "runs.json").exists()
    folder.enter_killed({1: clock.now - 90})
    folder.enter_killed({1: clock.now - 90})
    (run,) = json.loads((folder.path / "runs.json").read_text(encoding="utf-8"))["runs"]
    assert (run["stopped"], run["ok"], run["seconds"], run["asked"], run["known"]) == (True, False, 90.0, 50, 6)
    assert "after 4 of 10 media" in run["summary"] and run["causes"] == [{"reason": EVIL, "count": 2}]
    assert run["left_network"] == 3 and (folder.path / "status.json").exists() is aside


def test_a_run_that_says_nothing_any_more_counts_as_killed(tmp_path: Path) -> None:
    clock = Clock()
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data", clock=clock)
    folder.write_status(Status(1, "tag_videos", "aaaa", "", round(clock.now * 1000), RunState.RUNNING))
    clock.now += 60
    (folder.path / "status-junk.json").write_text('{"state": "running", "media": 7, "causes": [1]}', encoding="utf-8")
    folder.enter_killed({})
    runs = json.loads((folder.path / "runs.json").read_text(encoding="utf-8"))["runs"]
    assert [run["stopped"] for run in runs] == [True, True] and not list(folder.path.glob("status*"))


def test_a_status_never_exceeds_its_size() -> None:
    long = "é" * 1000
    status = Status(
        1, "tag_videos", "t", "", 0, RunState.RUNNING, message=long,
        media=MediaCount(1, 0, tuple(CurrentMedium("scene", str(n), long, 0, 1) for n in range(16))),
        endpoints=tuple(endpoint(n, long) for n in range(64)), causes=tuple(Cause(long, 1) for _ in range(20)),
    )  # fmt: skip
    text = fitted(status)
    assert len(text) <= MAX_STATUS_BYTES and len(json.loads(text)["endpoints"]) >= 32
    assert len(fitted(replace(status, endpoints=tuple(endpoint(n, "\U0001f3c0" * 99) for n in range(600))))) <= (
        MAX_STATUS_BYTES
    )


def test_a_status_is_one_small_file_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    status = Status(1, "undo", "t", "", 0, RunState.FINISHED, endpoints=tuple(endpoint(n) for n in range(4)))
    written: list[tuple[Path, int]] = []

    def count(file: Path, text: str) -> None:
        written.append((file, len(text)))
        write_atomically(file, text)

    monkeypatch.setattr("haven_vlm.live.write_atomically", count)
    for _ in range(100):
        folder.write_status(status)
    assert len(written) == 100 and {file.name for file, _ in written} == {"status.json"}
    assert max(size for _, size in written) < 4096
    assert [f.name for f in folder.path.iterdir()] == ["status.json"]


def test_texts_are_text() -> None:
    text = to_json({"title": f"{EVIL}\n\u2028", "nan": float("nan")})
    assert "<" not in text and text.isascii()
    assert json.loads(text) == {"title": f"{EVIL}\n\u2028", "nan": None}
    assert cut("a\nb\x00\x1b[31m\u202ec", 100) == "a b [31m c"


def test_only_so_many_runs_are_listed_and_lost_reports_are_not_promised(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    report = tmp_path / "2026-run1.html"
    report.write_text("<p>report", encoding="utf-8")
    for number in range(MAX_RUNS + 5):
        served = folder.add_report(report) if number == MAX_RUNS else None
        folder.add_run(
            entry_of(run_id=number, mode="undo", started="s", seconds=1.0, ok=True, text="Done.", served=served)
        )
    (tmp_path / "plugin/live/reports/2026-run1.html").unlink()
    folder.add_run(entry_of(run_id=99, mode="undo", started="s", seconds=1.0, ok=False, text=f"No. {EVIL}"))
    runs = json.loads((tmp_path / "plugin/live/runs.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) == MAX_RUNS and runs[0]["ended_because"] == f"No. {EVIL}"
    assert not any(run["report"] for run in runs)


def test_reports_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.html").write_bytes(bytes(100))
    prune(tmp_path, "*.html", count=8, size_bytes=350)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["7.html", "8.html", "9.html"]
    prune(tmp_path, "*.html", count=8, size_bytes=1)
    assert [f.name for f in tmp_path.iterdir()] == ["9.html"]


def test_what_a_killed_run_left_is_swept_and_what_is_damaged_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "plugin/live"
    left.mkdir(parents=True)
    (left / "frame-abcd-1.jpg").write_bytes(b"x")
    (left / "runs.json").write_text("[1, {", encoding="utf-8")
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data", clock=lambda: time.time() + 3600)
    assert not (left / "frame-abcd-1.jpg").exists()
    folder.add_run(entry_of(run_id=1, mode="undo", started="s", seconds=1.0, ok=True, text="Done."))
    found = read_newest(tmp_path / "plugin", tmp_path / "data", "runs.json")
    assert found is not None and len(found["runs"]) == 1


def test_a_picture_that_is_none_is_left_out(tmp_path: Path) -> None:
    assert small_jpeg(b"<html>") is None
    for side in (320, 640, 1200):
        small = small_jpeg(jpeg(side))
        assert small is not None and len(small) <= 20 * 1024
    assert small_jpeg(jpeg(64), limit_bytes=100) is None, "rather none than one that is too large"
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    assert folder.put_frame("abcd", b"<html>") is None


def some_status() -> Status:
    return Status(1, "tag_videos", "abcd", "", 0, RunState.RUNNING)


def test_a_folder_that_is_taken_away_costs_the_page_and_never_the_run(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    report = tmp_path / "2026-run1.html"
    report.write_text("<p>report", encoding="utf-8")
    frame = folder.put_frame("abcd", jpeg(64))
    assert frame is not None and folder.write_status(some_status())
    shutil.rmtree(folder.path)
    folder.path.write_text("a file where the folder was", encoding="utf-8")
    assert folder.write_status(some_status()) is False
    assert folder.put_frame("abcd", jpeg(64)) is None
    assert folder.add_report(report) is None
    folder.add_run(entry_of(run_id=1, mode="undo", started="s", seconds=1.0, ok=True, text="Done."))
    folder.enter_killed({})
    folder.leave("abcd")
    folder.path.unlink()
    assert folder.write_status(some_status()), "back again when the folder is"


def test_a_drive_that_fails_costs_the_page_and_never_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    with monkeypatch.context() as drive:
        drive.setattr(Path, "glob", broken)
        drive.setattr(Path, "unlink", broken)
        assert folder.write_status(some_status())
        folder.enter_killed({})
        folder.leave("abcd")
        LiveFolder(tmp_path / "plugin", tmp_path / "data2")


def test_a_report_comes_along_also_where_files_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("haven_vlm.live.os.link", refused)
    report = tmp_path / "2026-run1.html"
    report.write_text("<p>report", encoding="utf-8")
    folder = LiveFolder(tmp_path / "plugin", tmp_path / "data")
    for text in ("<p>report", "<p>the same run again"):
        report.write_text(text, encoding="utf-8")
        assert folder.add_report(report) == "reports/2026-run1.html"
        assert (folder.path / "reports/2026-run1.html").read_text(encoding="utf-8") == text
