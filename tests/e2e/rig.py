"""The whole way as Stash goes it: an embedded Stash, embedded model servers, and the plugin as a process of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from demo.footage import Plan, cached_clip, truth_of
from demo.stash import EmbeddedStash, JobResult, PluginProcess, Run, running_stash, start_task
from demo.stash.runner import merged_args, the_manifest
from demo.vision_server import VisionServer
from haven_vlm.facts import Span

ROOT = Path(__file__).resolve().parent.parent.parent
TAGS = ("Basketball point", "Foul", "Dunk")
PLAN = Plan(
    20_000,
    (Span("Basketball point", 2_000, 7_000, 1.0), Span("Foul", 5_000, 11_000, 1.0), Span("Dunk", 14_000, 18_000, 1.0)),
    TAGS,
    motion="busy",
)
"""Twenty seconds with three spans, two of them overlapping."""


def installed(folder: Path) -> Path:
    """A plugin folder of its own, so that what a run writes there stays apart; the code is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "ahavenvlmconnector.yml", folder / "ahavenvlmconnector.yml")
    code = f"import runpy, sys\nsys.path[0] = {str(ROOT)!r}\n"
    code += f"runpy.run_path({str(ROOT / 'haven_vlm_connector.py')!r}, run_name='__main__')\n"
    (folder / "haven_vlm_connector.py").write_text(code, encoding="utf-8")
    return folder


class Rig:
    """One embedded Stash with a library, and settings for the plugin."""

    def __init__(self, folder: Path, stash: EmbeddedStash, clips: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stash = stash
        self._clips = clips
        self._stack = stack
        self.plugin_dir = installed(folder / "plugin")
        self.servers: list[VisionServer] = []
        """All model servers made so far."""
        self.settings: dict[str, Any] = {"tag_list": ", ".join(TAGS), "sampling": "fixed", "video_frame_interval": "1"}

    def vision(self, **options: Any) -> VisionServer:
        """A model server that reads the truth from the pixels."""
        server = VisionServer(see=partial(truth_of, tags=TAGS), **options)
        self._stack.enter_context(server.in_thread())
        self.servers.append(server)
        return server

    def use(self, *endpoints: str | VisionServer) -> None:
        """Endpoints for the settings page, one line each."""
        self.settings["endpoints"] = "; ".join(e if isinstance(e, str) else e.base_url for e in endpoints)

    def clip(self, name: str, plan: Plan = PLAN) -> Path:
        """A clip of its own in the library's folder."""
        made = cached_clip(self._clips, plan, size=(320, 180), fps=10, gop=20)
        path = self.folder / "media" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(made, path)
        return path

    def scene(self, name: str = "match", *, plan: Plan = PLAN, tags: tuple[str, ...] = ("VLM_TagMe",)) -> int:
        """A scene with a clip of its own."""
        return self.stash.add_scene(
            str(self.clip(name, plan)),
            title=name,
            duration=plan.duration_ms / 1000,
            tags=tags,
            fingerprints={"oshash": f"{abs(hash(name)):016x}"[:16]},
        )

    def start(
        self, task: str | None, args: Mapping[str, Any] | None = None, *, run: Run | None = None
    ) -> PluginProcess:
        self.stash.settings.configure_plugin("ahavenvlmconnector", self.settings)
        return start_task(self.plugin_dir, task, dict(args or {}), connection=self.stash.connection(), run=run)

    def start_changed(
        self, script: str, *arguments: str, task: str | None = "Tag Videos", args: Mapping[str, Any] | None = None
    ) -> PluginProcess:
        """The same through a script beside this one, which changes something and then runs the connector."""
        self.stash.settings.configure_plugin("ahavenvlmconnector", self.settings)
        manifest = the_manifest(ROOT)
        return PluginProcess(
            replace(manifest, exec=("python", str(Path(__file__).with_name(script)), *arguments)),
            self.stash.connection(),
            args=merged_args(manifest.task(task) if task else None, dict(args or {})),
            python_path=sys.executable,
        )

    def run(self, task: str = "Tag Videos", args: Mapping[str, Any] | None = None) -> JobResult:
        """Press the button and wait."""
        result = self.start(task, args).wait(120)
        assert result.exit_code == (1 if result.error else 0)
        return result

    def page(self, op: str, **args: Any) -> Any:
        """What the page gets for an operation."""
        result = self.start(None, {"mode": "page", "op": op, **args}).wait(60)
        assert not result.error
        return result.output

    def spans(self, scene: int) -> list[tuple[str, float, float]]:
        """Markers of the vocabulary on a scene, in seconds."""
        return [
            (m["primary_tag"], m["seconds"], m["end_seconds"])
            for m in self.stash.markers(scene)
            if m["primary_tag"] in TAGS
        ]

    def assert_true(self, scene: int, *, tolerance_s: float = 1.0) -> None:
        """The scene has exactly the truth's tags and markers."""
        assert set(TAGS) <= set(self.stash.scene_tags(scene))
        found = self.spans(scene)
        assert sorted(t for t, _, _ in found) == sorted(TAGS)
        for tag, start, end in found:
            (span,) = PLAN.spans_of(tag)
            assert abs(start * 1000 - span.start_ms) <= tolerance_s * 1000
            assert abs(end * 1000 - span.end_ms) <= tolerance_s * 1000


@contextmanager
def rig(folder: Path, clips: Path, **stash_options: Any) -> Iterator[Rig]:
    """A rig whose Stash keeps everything below `folder`."""
    with ExitStack() as stack:
        config = folder / "config"
        config.mkdir(exist_ok=True)
        stash = stack.enter_context(running_stash(config_dir=config, **stash_options))
        yield Rig(folder, stash, clips, stack)


def wait_for_questions(server: VisionServer, count: int) -> None:
    """Wait until a model server has been asked so often."""
    give_up = time.monotonic() + 60
    while len(server.questions()) < count:
        assert time.monotonic() < give_up, f"only {len(server.questions())} questions arrived"
        time.sleep(0.01)


MakeRig = Callable[..., Rig]
