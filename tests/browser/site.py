"""The page as its user meets it: a Stash with the plugin's own manifest and files, data made up, a browser on it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

PLUGIN = "ahavenvlmconnector"
ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent

EVIL = "<img src=x onerror=alert(1)>"
"""A name that is an attack wherever text is taken for markup."""


def picture(colour: str = "orange") -> str:
    """A small JPEG as a data URL."""
    buffer = io.BytesIO()
    Image.new("RGB", (121, 68), colour).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Plugin:
    """The plugin's folder in a Stash: the real manifest and page, and a process that says what a test wants it to."""

    def __init__(self, plugins: Path) -> None:
        self.folder = plugins / PLUGIN
        self.folder.mkdir(parents=True)
        self.live = self.folder / "live"
        self.live.mkdir()
        shutil.copytree(ROOT / "page", self.folder / "page")
        shutil.copy(HERE / "answering.py", self.folder / "answering.py")
        manifest = yaml.safe_load((ROOT / f"{PLUGIN}.yml").read_text(encoding="utf-8"))
        manifest["exec"] = [sys.executable, "{pluginDir}/answering.py"]
        (self.folder / f"{PLUGIN}.yml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        self.answers: dict[str, Any] = {}
        self.answer()

    def answer(self, **answers: Any) -> None:
        """What operations reply from now on, by `op`; `hold` = modes of tasks that do not end."""
        self.answers.update(answers)
        self._replace(self.folder / "answers.json", self.answers)

    def write(self, name: str, data: object) -> None:
        """A file of a run, replaced whole."""
        self._replace(self.live / name, data)

    def status(self, **changes: Any) -> None:
        """`live/status.json` of a run under way, with changes."""
        self.write("status.json", status(**changes))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Arguments of all calls so far."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def tasks(self) -> list[dict[str, Any]]:
        return [call for call in self.calls if call.get("mode") != "page"]

    def operations(self, op: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call.get("op") == op]

    def reset(self) -> None:
        """As new."""
        for file in [*self.live.iterdir(), self.folder / "calls.jsonl"]:
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)
        self.answers = {}
        self.answer()

    @staticmethod
    def _replace(path: Path, data: object) -> None:
        spare = path.with_suffix(".new")
        spare.write_text(json.dumps(data), encoding="utf-8")
        spare.replace(path)


def status(**changes: Any) -> dict[str, Any]:
    """A run in the middle of its work."""
    return {
        "schema": 1,
        "run_id": 7,
        "token": "t7",
        "mode": "tag_videos",
        "started": "2026-11-23T14:00:00+00:00",
        "updated": int(time.time() * 1000),
        "stale_after_s": 15,
        "state": "running",
        "message": "Looking at 2 scenes",
        "progress": 0.42,
        "media": {
            "total": 12,
            "done": 5,
            "current": [{"kind": "scene", "id": "6", "title": "Final, first half", "done": 120, "planned": 300}],
        },
        "questions": {"asked": 420, "planned": 1400, "known": 100, "inherited": 60, "failed": 3},
        "rate_per_minute": 187.4,
        "eta_seconds": 312.0,
        "endpoints": [endpoint(), endpoint(name="Laptop", state="cooling down", until=12.0, reason="HTTP 500, twice.")],
        "left_network": 0,
        "looking_at": {"kind": "scene", "id": "6", "title": "Final, first half", "time_s": 754.0, "image": None},
        "causes": [{"reason": "the file is damaged", "count": 1}],
    } | changes


def endpoint(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Desktop",
        "model": "qwen-vl",
        "state": "ready",
        "until": None,
        "reason": "",
        "in_flight": 4,
        "limit": 4,
        "done": 300,
        "share": 0.71,
        "weight_share": 0.714,
        "p50_ms": 820.0,
        "p95_ms": 1500.0,
        "tokens_in_per_s": 900.0,
        "tokens_out_per_s": 40.0,
        "cached_share": 0.6,
        "failures": {},
        "remote": False,
    } | changes


def run_entry(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": 6,
        "mode": "tag_videos",
        "started": "2026-11-22T20:00:00+00:00",
        "seconds": 754.0,
        "written": True,
        "ok": True,
        "counts": {"tagged": 11, "errored": 1},
        "asked": 5200,
        "known": 300,
        "inherited": 900,
        "markers": 84,
        "left_network": 0,
        "ended_because": "",
        "summary": "11 scenes tagged\n1 unreadable",
        "causes": [{"reason": "the file is damaged", "count": 1}],
        "report": "reports/2026-11-22-run6.html",
        "report_file": "",
    } | changes


def span(start: float, end: float, state: str = "ours", **changes: Any) -> dict[str, Any]:
    marker = None if state in ("found", "rejected") else f"{round(start * 10) + 1}"
    return {"start": start, "end": end, "confidence": 0.83, "marker_id": marker, "state": state} | changes


def lane(tag: str, *spans: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"tag": tag, "stash_name": tag, "spans": list(spans), "on_scene": True} | changes


def scene(scene_id: int | str, *lanes: dict[str, Any], duration: float = 120.0, **changes: Any) -> dict[str, Any]:
    """Reply of op 'scene'."""
    samples = [{"t": float(t), "state": "asked", "reason": "", "tags": {}} for t in range(0, int(duration), 2)]
    samples[3] = {"t": 6.0, "state": "failed", "reason": "HTTP 500", "tags": {}}
    samples[4]["state"] = "inherited"
    return {
        "schema": 1,
        "scene": {"id": str(scene_id), "title": "Match", "duration": duration, "paths": None},
        "lanes": list(lanes),
        "samples": samples,
    } | changes


MATCH = (
    lane("Basketball point", span(4, 8), span(20, 26, "user"), span(50, 57, "confirmed")),
    lane("Foul", span(30, 34, "found"), span(70, 80, "rejected")),
    lane("Break-away", span(90, 100)),
)
"""Lanes of a short match."""
