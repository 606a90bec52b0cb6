"""The folder the page reads while a run goes on: `status.json` about once a second, the runs, the last check, reports.

It lies in the plugin's assets, which Stash serves to people who are logged in. Where that folder cannot be written to,
it lies in the data folder, and only the operations of the page read it. Nothing here can end a run: what cannot be
written is said once in the log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from haven_vlm.files import write_atomically
from haven_vlm.live_files import folders, read_json
from haven_vlm.live_runs import entry_of_killed, others_of, seconds_of
from haven_vlm.page_data import (
    CHECK_FILE,
    MAX_RUNS,
    MAX_STATUS_BYTES,
    REPORTS_FOLDER,
    RUNS_FILE,
    SCHEMA,
    STATUS_FILE,
    CheckResult,
    EndpointState,
    RunEntry,
    RunState,
    Status,
    cut,
    plain,
    to_json,
)

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 20 * 1024
FRAME_SIDE_PX = 320
MAX_REPORTS_BYTES = 200 * 1024 * 1024
_STRAY_AGE_S = 60.0
"""Pictures of a run that was killed are deleted when they are older than that."""
_SAME_START_S = 10.0
_ASIDE = "status-"
_MAX_ASIDES = 16
_UNFINISHED = (RunState.PREPARING, RunState.RUNNING, RunState.WAITING)


class LiveFolder:
    """The open folder. Blocking; every method is quick, and none raises `OSError`."""

    def __init__(self, plugin_dir: Path, data_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._clock = clock
        self._told: set[str] = set()
        self._frames: list[Path] = []
        self._counter = 0
        served, spare = folders(plugin_dir, data_dir)
        self.path = served
        self.why_not_served = ""
        """Why Stash cannot serve the folder, in words; empty when it can."""
        try:
            _try_out(served)
        except OSError as exc:
            self.path = spare
            self.why_not_served = (
                f"The page in Stash cannot follow this run live: {served} cannot be written to "
                f"({exc.strerror or exc}). Give the user that runs Stash the right to write there."
            )
            log.warning("%s", self.why_not_served)
        self._sweep()

    # --- status -----------------------------------------------------------------------------------------------

    def write_status(self, status: Status) -> bool:
        """Replace the status, unless another run that is at work has it; returns whether it was this run's to write.

        A run beside that one leaves its status in a file of its own, from where the first one takes it along.
        """
        first = read_json(self.path / STATUS_FILE)
        aside = self.path / f"{_ASIDE}{status.token}.json"
        if first is not None and self._is_at_work(first) and first.get("token") != status.token:
            self._write(aside, fitted(status))
            return False
        beside = [s for file, s in self._asides() if file != aside and self._is_at_work(s)]
        written = self._write(self.path / STATUS_FILE, fitted(replace(status, others=others_of(beside))))
        self._remove(aside)
        return written

    def enter_killed(self, dead: Mapping[int, float]) -> None:
        """Enter runs that were killed among those that are over, as far as they left a status behind.

        Args:
            dead: runs whose processes are known to be gone: number → start in seconds since 1970. Others count as
                killed once they have said nothing for a while.
        """
        for file, status in [*self._asides(), (self.path / STATUS_FILE, read_json(self.path / STATUS_FILE) or {})]:
            is_over = status.get("state") not in _UNFINISHED
            if not is_over and self._is_at_work(status) and not _is_among(status, dead):
                continue
            if not is_over:
                self.add_run(entry_of_killed(status))
            if not is_over or file.name != STATUS_FILE:
                self._remove(file)

    def leave(self, token: str) -> None:
        """Delete what only belongs to a run that goes on: the copies of frames, and a status aside."""
        for file in [*self._frames, self.path / f"{_ASIDE}{token}.json"]:
            self._remove(file)
        self._frames = []

    def _asides(self) -> list[tuple[Path, dict[str, Any]]]:
        """Statuses of runs that are not the first, by token."""
        with contextlib.suppress(OSError):
            files = sorted(self.path.glob(f"{_ASIDE}*.json"))[:_MAX_ASIDES]
            return [(file, status) for file in files if (status := read_json(file)) is not None]
        return []

    def put_frame(self, token: str, jpeg: bytes) -> str | None:
        """Keep a small copy of a frame; returns its name, or None when it cannot be made. Older copies go."""
        small = small_jpeg(jpeg)
        if small is None:
            return None
        self._counter += 1
        file = self.path / f"frame-{token}-{self._counter}.jpg"
        try:
            file.write_bytes(small)  # a new name each time: nobody reads it before the status names it
        except OSError as exc:
            self._tell(file, exc)
            return None
        self._frames.append(file)
        for old in self._frames[:-2]:
            self._remove(old)
        self._frames = self._frames[-2:]
        return file.name

    def _is_at_work(self, status: Mapping[str, Any]) -> bool:
        try:
            age_s = self._clock() - float(status["updated"]) / 1000
            return status["state"] in _UNFINISHED and -60 < age_s < float(status["stale_after_s"])
        except (KeyError, TypeError, ValueError):
            return False

    # --- what is over -----------------------------------------------------------------------------------------

    def add_run(self, entry: RunEntry) -> None:
        """Enter a finished run; of old ones only `MAX_RUNS` stay."""
        known = read_json(self.path / RUNS_FILE) or {}
        runs = known.get("runs")
        kept = [r for r in runs if isinstance(r, dict)] if isinstance(runs, list) else []
        kept = [r for r in kept if (r.get("run_id"), r.get("started")) != (entry.run_id, entry.started)]
        for run in kept:
            if run.get("report") and not (self.path / str(run["report"])).is_file():
                run["report"] = None
        newest = [plain(entry), *kept][:MAX_RUNS]
        self._write(self.path / RUNS_FILE, to_json({"schema": SCHEMA, "runs": newest}))

    def write_check(self, result: CheckResult) -> None:
        """Replace the last check."""
        self._write(self.path / CHECK_FILE, to_json(result))

    def add_report(self, file: Path) -> str | None:
        """Let Stash serve a report; returns its path below the folder, or None. The oldest ones go."""
        folder = self.path / REPORTS_FOLDER
        target = folder / file.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(file, target)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(file, target)
        except OSError as exc:
            self._tell(target, exc)
            return None
        prune(folder, "*.html", count=MAX_RUNS, size_bytes=MAX_REPORTS_BYTES)
        return f"{REPORTS_FOLDER}/{file.name}"

    # --- files ------------------------------------------------------------------------------------------------

    def _write(self, file: Path, text: str) -> bool:
        try:
            write_atomically(file, text)
            file.chmod(0o644)  # Stash may run as another user than cron does
        except OSError as exc:  # on Windows also while somebody reads it: the next one will do
            self._tell(file, exc)
            return False
        return True

    def _tell(self, file: Path, exc: OSError) -> None:
        if file.parent.name not in self._told:
            self._told.add(file.parent.name)
            log.debug("the page's %s cannot be written: %s", file, exc)

    def _remove(self, file: Path) -> None:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete what killed runs left behind."""
        with contextlib.suppress(OSError):
            for pattern in ("frame-*.jpg", f".{STATUS_FILE}.*", f".{_ASIDE}*", f".{RUNS_FILE}.*", f".{CHECK_FILE}.*"):
                for file in self.path.glob(pattern):
                    with contextlib.suppress(OSError):
                        if self._clock() - file.stat().st_mtime > _STRAY_AGE_S:
                            self._remove(file)


def _try_out(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".writable", "")
    (folder / ".writable").unlink(missing_ok=True)


def prune(folder: Path, pattern: str, *, count: int, size_bytes: int) -> None:
    """Delete the oldest files of a pattern (by name, which starts with the date) beyond a number and a total size.

    The newest one always stays.
    """
    total = 0
    for place, file in enumerate(sorted(folder.glob(pattern), reverse=True)):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
            if place and (place >= count or total > size_bytes):
                file.unlink(missing_ok=True)


def _is_among(status: Mapping[str, Any], dead: Mapping[int, float]) -> bool:
    """Whether a status is of one of these runs; by number and start, because ledgers count for themselves."""
    started_s = dead.get(status.get("run_id", 0))
    return started_s is not None and abs(seconds_of(str(status.get("started"))) - started_s) < _SAME_START_S


def fitted(status: Status) -> str:
    """The status as JSON of at most `MAX_STATUS_BYTES`: texts are cut, then endpoints left out, until it fits."""
    for limit in (300, 120, 40):
        text = to_json(_with_texts(status, limit))
        if len(text) <= MAX_STATUS_BYTES:
            return text
    short = _with_texts(status, 40)
    while len(text) > MAX_STATUS_BYTES and short.endpoints:
        short = replace(short, endpoints=short.endpoints[: len(short.endpoints) // 2])
        text = to_json(short)
    return text


def _with_texts(status: Status, limit: int) -> Status:
    def endpoint(e: EndpointState) -> EndpointState:
        return replace(e, name=cut(e.name, limit), model=cut(e.model, limit), reason=cut(e.reason, limit))

    current = tuple(replace(c, title=cut(c.title, limit)) for c in status.media.current)
    look = status.looking_at
    return replace(
        status,
        message=cut(status.message, 2 * limit),
        media=replace(status.media, current=current),
        endpoints=tuple(map(endpoint, status.endpoints)),
        looking_at=look and replace(look, title=cut(look.title, limit)),
        causes=tuple(replace(c, reason=cut(c.reason, limit)) for c in status.causes),
    )


def small_jpeg(jpeg: bytes, *, side_px: int = FRAME_SIDE_PX, limit_bytes: int = MAX_FRAME_BYTES) -> bytes | None:
    """A JPEG made small in pixels and bytes; None when it cannot be read."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            image.draft("RGB", (side_px, side_px))
            image.thumbnail((side_px, side_px))
            plain_image = image.convert("RGB")
        for quality, share in ((70, 1.0), (50, 1.0), (40, 0.6), (30, 0.3)):
            out = io.BytesIO()
            plain_image.thumbnail((side_px * share, side_px * share))
            plain_image.save(out, "JPEG", quality=quality)
            if out.tell() <= limit_bytes:
                return out.getvalue()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return None
