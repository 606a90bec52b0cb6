"""How fast frames come out of a file: our reader against other ways, on clips of several codecs.

    python -m bench.frames --clips build/bench-clips
    python -m bench.frames --also /path/to/python-with-decord-and-opencv --engine /path/to/python-with-vlm-engine

Every way gives the same: the frame on screen at each wanted time, 640 px wide, as a JPEG of quality 85 (`vlm-engine`
gives what its extractor gives, made as small). Each run is a process of its own, so that CPU time and peak memory
(`resource.getrusage`) are its own. All ways have one turn; then ours and the two best others take turns until `--runs`
is reached or the cell's share of `--minutes` is spent; shown are medians. When all minutes are, the rest is left out.
A way that takes much longer than ours is ended and shown as slower than that. `decoding alone` is the CPU time of
decoding just the pictures that exact frames need.
The last line is JSON with the same figures. CPU per frame is the figure that travels between machines.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDE, QUALITY = 640, 85
INTERVALS_S = (2, 10, 60)
SAMPLES = {2: 15, 10: 10, 60: 4}
"""Interval in seconds → frames wanted of a clip."""
LARGE_SAMPLES = {2: 8, 10: 6, 60: 3}
"""The same for 4K."""
ENGINE_SAMPLES = 3
"""Frames wanted of `vlm-engine`, which opens the file anew for each: more tell nothing else."""
FIRST_S = 0.77
"""The first time wanted: times on a grid would all fall on keyframes in clips whose GOP fits the grid."""
PATIENCE = 2.5
"""A way that takes so many times as long as ours is ended."""
LEAST_LIMIT_S = 4.0
ENGINE_LIMIT_S = 60.0
LARGE_PX = 2600 * 1500


@dataclass(frozen=True)
class Clip:
    """One file to read."""

    label: str
    seconds: int
    suffix: str
    codec: str
    size: tuple[int, int]
    gop: int
    options: tuple[tuple[str, str], ...] = ()


X264 = (("preset", "veryfast"), ("crf", "22"), ("tune", "film"))
CLIPS = (
    Clip("H.264 1080p GOP 250", 240, ".mp4", "libx264", (1920, 1080), 250, X264),
    Clip("H.264 1080p GOP 60", 240, ".mp4", "libx264", (1920, 1080), 60, X264),
    Clip("H.264 1080p GOP 60 MKV", 240, ".mkv", "libx264", (1920, 1080), 60, X264),
    Clip("H.264 4K", 125, ".mp4", "libx264", (3840, 2160), 250, X264),
    Clip(
        "HEVC 4K",
        125,
        ".mp4",
        "libx265",
        (3840, 2160),
        250,
        (("preset", "superfast"), ("x265-params", "log-level=none:bframes=3:b-adapt=0")),
    ),
    Clip("AV1 1080p", 240, ".mp4", "libsvtav1", (1920, 1080), 250, (("preset", "11"),)),
    Clip("VP9 1080p", 240, ".webm", "libvpx-vp9", (1920, 1080), 150),
)


# --- the ways; each returns how many frames it gave -------------------------------------------------------------


def ours(path: str, times: list[float]) -> int:
    from haven_vlm.location import Location
    from haven_vlm.picture import Preparation
    from haven_vlm.reading import open_video

    with open_video([Location(path)], Preparation(max_side_px=SIDE, jpeg_quality=QUALITY)) as source:
        return sum(1 for _ in source.frames([round(t * 1000) for t in times]))


def pyav_sequential(path: str, times: list[float]) -> int:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        given, before = 0, None
        for frame in container.decode(stream):
            while given < len(times) and before is not None and (frame.time or 0) > times[given]:
                _small(before)
                given += 1
            if given == len(times):
                return given
            before = frame
        return given + _rest(before, given, times)


def pyav_seek(path: str, times: list[float]) -> int:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        given = 0
        for at in times:
            assert stream.time_base
            container.seek(int(at / stream.time_base), stream=stream)
            shown = None
            for frame in container.decode(stream):
                if shown is not None and (frame.time or 0) > at:
                    break
                shown = frame
            if shown is not None:
                _small(shown)
                given += 1
        return given


def ffmpeg_select(path: str, times: list[float]) -> int:
    step = times[1] - times[0]
    first = f"isnan(prev_selected_t)*gte(t,{times[0] - 0.001})"
    chosen = f"select='{first}+gte(t-prev_selected_t,{step - 0.001})',scale={SIDE}:-2:flags=area"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-an", "-t", f"{times[-1] + 0.5}", "-vf", chosen]
    command += ["-vsync", "0"]
    out = subprocess.run(
        [*command, "-q:v", "3", "-f", "image2pipe", "-c:v", "mjpeg", "-"], capture_output=True, check=True
    )
    return out.stdout.count(b"\xff\xd8\xff")


def ffmpeg_ss(path: str, times: list[float]) -> int:
    given = 0
    for at in times:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-ss", f"{at:.3f}", "-i", path, "-an", "-frames:v", "1"]
        scale = ["-vf", f"scale={SIDE}:-2:flags=area", "-q:v", "3", "-f", "image2pipe", "-c:v", "mjpeg", "-"]
        given += bool(subprocess.run([*command, *scale], capture_output=True, check=True).stdout)
    return given


def with_decord(path: str, times: list[float]) -> int:
    import decord  # type: ignore[import-not-found]
    from PIL import Image

    reader = decord.VideoReader(path, ctx=decord.cpu(0))
    rate, given = reader.get_avg_fps(), 0
    for at in times:
        image = Image.fromarray(reader[min(len(reader) - 1, int(at * rate + 0.001))].asnumpy())
        _jpeg(image.resize((SIDE, round(SIDE * image.height / image.width)), Image.Resampling.BOX))
        given += 1
    return given


def with_opencv(path: str, times: list[float]) -> int:
    import cv2  # type: ignore[import-not-found]

    video = cv2.VideoCapture(path)
    rate, number, given = video.get(cv2.CAP_PROP_FPS), 0, 0
    while given < len(times) and video.grab():
        if number == int(times[given] * rate + 0.001):
            good, picture = video.retrieve()
            if good:
                height = round(SIDE * picture.shape[0] / picture.shape[1])
                small = cv2.resize(picture, (SIDE, height), interpolation=cv2.INTER_AREA)
                cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                given += 1
        number += 1
    return given


def with_vlm_engine(path: str, times: list[float]) -> int:
    import decord
    from PIL import Image
    from vlm_engine.video_frame_extractor import VideoFrameExtractor

    extractor = VideoFrameExtractor(device_str="cpu")
    rate, given = decord.VideoReader(path, ctx=decord.cpu(0)).get_avg_fps(), 0
    for at in times:
        tensor = extractor.extract_frame(path, int(at * rate + 0.001))
        if tensor is not None:
            scale = 1 if tensor.max() > 1 else 255
            image = Image.fromarray((tensor.float() * scale).byte().numpy())
            _jpeg(image.resize((SIDE, round(SIDE * image.height / image.width)), Image.Resampling.BOX))
            given += 1
    return given


def decoding_alone(path: str, times: list[float]) -> tuple[int, float]:
    """CPU seconds in one decoding thread, of only those packets that exact frames at these times need."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base
        packets = [p for p in container.demux(stream) if p.size]
        start = min(p.pts for p in packets if p.pts is not None)
        shown = sorted(p.pts for p in packets if p.pts is not None)
        limits = [start + round(t / stream.time_base) for t in times]
        wanted = {max(t for t in shown if t <= limit) for limit in limits}
        stream.codec_context.thread_count = 1
        gops: list[list[Any]] = []
        for packet in packets:
            if packet.is_keyframe or not gops:
                gops.append([])
            gops[-1].append(packet)
        spent = 0.0
        for gop in gops:
            last = max((n for n, p in enumerate(gop) if p.pts in wanted), default=-1)
            for packet in gop[: last + 1]:
                whole = packet.pts in wanted or stream.codec_context.name == "libdav1d"  # which cannot skip on the way
                stream.codec_context.skip_frame = "DEFAULT" if whole else "NONREF"
                began = time.thread_time()
                stream.codec_context.decode(packet)
                spent += time.thread_time() - began
            if last >= 0:
                stream.codec_context.flush_buffers()
    return len(times), spent


WAYS: dict[str, Callable[[str, list[float]], int]] = {
    "ours": ours,
    "PyAV, sequential": pyav_sequential,
    "PyAV, seek per sample": pyav_seek,
    "ffmpeg, select": ffmpeg_select,
    "ffmpeg, -ss per sample": ffmpeg_ss,
    "decord": with_decord,
    "OpenCV": with_opencv,
    "vlm-engine": with_vlm_engine,
}
BOUND = "decoding alone"
AT = {
    "PyAV, sequential": (2, 10),
    "ffmpeg, select": (2, 10),
    "ffmpeg, -ss per sample": (60,),
    "OpenCV": (2, 10),
}
"""Intervals at which a way could be the best; the others at all. What decodes everything cannot win at 60 s."""
MODULES = {
    "ours": ("haven_vlm.reading",),
    "PyAV, sequential": ("av", "PIL.Image"),
    "PyAV, seek per sample": ("av", "PIL.Image"),
    "ffmpeg, select": (),
    "ffmpeg, -ss per sample": (),
    "decord": ("decord", "PIL.Image"),
    "OpenCV": ("cv2",),
    "vlm-engine": ("decord", "vlm_engine.video_frame_extractor"),
    BOUND: ("av",),
}
ELSEWHERE = {"decord", "OpenCV"}
"""Ways that may need another interpreter."""


def _small(frame: Any) -> None:
    height = round(SIDE * frame.height / frame.width)
    small = frame.reformat(width=SIDE, height=height, format="rgb24", interpolation="AREA")
    _jpeg(small.to_image())


def _jpeg(image: Any) -> None:
    import io

    image.save(io.BytesIO(), "JPEG", quality=QUALITY)


def _rest(last: Any, given: int, times: list[float]) -> int:
    if last is not None and given < len(times):
        _small(last)
        return 1
    return 0


# --- running them ----------------------------------------------------------------------------------------------


def work(way: str, path: str, times: list[float]) -> None:
    """One run, in a process of its own; prints one line of JSON."""
    import resource  # not on Windows, where this benchmark has nothing to measure memory with

    for module in MODULES[way]:
        importlib.import_module(module)  # a process that reads many files does this once
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    if way == BOUND:
        given, cpu = decoding_alone(path, times)
    else:
        given = WAYS[way](path, times)
    wall = time.perf_counter() - began
    own, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    if way != BOUND:
        cpu = own.ru_utime + own.ru_stime - before.ru_utime - before.ru_stime + theirs.ru_utime + theirs.ru_stime
    scale = 1 if sys.platform == "darwin" else 1024
    peak = max(theirs.ru_maxrss if "ffmpeg" in way else own.ru_maxrss, 0) * scale / 2**20
    print(json.dumps({"wanted": len(times), "given": given, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak}))


@dataclass(frozen=True)
class Run:
    """One run of one way."""

    cpu_ms: float
    per_s: float
    peak_mb: float


def one_run(way: str, python: str, path: Path, times: list[float], limit_s: float) -> Run | str:
    """Run a way once in a process of its own; else why there are no figures."""
    command = [python, "-m", "bench.frames", "--work", way, str(path), json.dumps(times)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"over {limit_s:.0f} s"
    if done.returncode or not done.stdout.strip():
        return "cannot"
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["given"] < answer["wanted"] - 1:
        return f"gave {answer['given']} of {answer['wanted']}"
    given = answer["given"]
    return Run(answer["cpu_s"] / given * 1000, given / answer["wall_s"], answer["peak_mb"])


class Cell:
    """One clip at one interval: all ways, in turns."""

    def __init__(self, path: Path, large: bool, interval_s: int, seconds: float, pythons: dict[str, str]) -> None:
        wanted = (LARGE_SAMPLES if large else SAMPLES)[interval_s]
        self._times = [FIRST_S + n * interval_s for n in range(wanted) if FIRST_S + n * interval_s < seconds - 0.05]
        self._path, self._interval, self._pythons = path, interval_s, pythons
        self.runs: dict[str, list[Run]] = {}
        self.failures: dict[str, str] = {}
        self.bound_ms: float | None = None

    def measure(self, runs: int, ends_at: float) -> None:
        """Every way once, then ours and the two best others in turns."""
        self._turn("ours", 300.0)
        mine_s = len(self._times) / self.runs["ours"][0].per_s if "ours" in self.runs else 10.0
        limit_s = 1.0 + max(LEAST_LIMIT_S, PATIENCE * mine_s)
        bound = one_run(BOUND, sys.executable, self._path, self._times, max(60.0, 20 * limit_s))
        self.bound_ms = bound.cpu_ms if isinstance(bound, Run) else None
        for way in WAYS:
            if way not in ("ours", "vlm-engine") and self._interval in AT.get(way, INTERVALS_S):
                self._turn(way, limit_s)
        self._turn("vlm-engine", ENGINE_LIMIT_S)
        best = sorted(self.others(), key=lambda way: self.median(way).cpu_ms)[:1]
        best += [w for w in sorted(self.others(), key=lambda way: -self.median(way).per_s) if w not in best][:1]
        for turn in range(1, runs):
            for way in ("ours", *best) if turn % 2 else (*reversed(best), "ours"):
                if time.monotonic() < ends_at:
                    self._turn(way, 4 * limit_s)

    def _turn(self, way: str, limit_s: float) -> None:
        times = self._times
        if way == "vlm-engine":  # spread, as frames cost more the further they are from their keyframe
            times = times[:: max(1, len(times) // ENGINE_SAMPLES)][:ENGINE_SAMPLES]
        run = one_run(way, self._pythons.get(way, sys.executable), self._path, times, limit_s)
        if isinstance(run, Run):
            self.runs.setdefault(way, []).append(run)
        else:
            self.failures.setdefault(way, run)

    def others(self) -> list[str]:
        """Ways that gave figures, without ours and the one to be far better than."""
        return [way for way in self.runs if way not in ("ours", "vlm-engine")]

    def median(self, way: str) -> Run:
        """The median of a way's runs."""
        runs = self.runs[way]
        return Run(
            statistics.median(r.cpu_ms for r in runs),
            statistics.median(r.per_s for r in runs),
            statistics.median(r.peak_mb for r in runs),
        )

    def show(self) -> None:
        """Print the table."""
        print(f"  {'way':24}{'runs':>6}{'frames/s':>10}{'CPU ms':>10}{'peak MB':>10}")
        for way in WAYS:
            if way in self.runs:
                r = self.median(way)
                print(f"  {way:24}{len(self.runs[way]):>6}{r.per_s:>10.1f}{r.cpu_ms:>10.1f}{r.peak_mb:>10.0f}")
            elif way in self.failures:
                print(f"  {way:24}{self.failures[way]:>26}")
        if self.bound_ms:
            print(f"  {BOUND:24}{'':16}{self.bound_ms:>10.1f}")

    def figures(self) -> dict[str, Any]:
        """What goes into the JSON line."""
        found: dict[str, Any] = {
            "ways": {way: vars(self.median(way)) | {"runs": len(self.runs[way])} for way in self.runs},
            "failures": self.failures,
            "bound_ms": self.bound_ms,
        }
        if "ours" not in self.runs:
            return found
        mine, others = self.median("ours"), [self.median(way) for way in self.others()]
        if others:
            found["cpu_ratio"] = min(r.cpu_ms for r in others) / mine.cpu_ms
            found["speed_ratio"] = mine.per_s / max(r.per_s for r in others)
        if "vlm-engine" in self.runs:
            theirs = self.median("vlm-engine")
            found["engine_cpu_ratio"] = theirs.cpu_ms / mine.cpu_ms
            found["engine_speed_ratio"] = mine.per_s / theirs.per_s
        return found


async def loop_lag(paths: list[Path], seconds: float = 8.0) -> dict[str, float]:
    """How late a 5 ms ticker is while so many files decode, in milliseconds."""
    from haven_vlm.location import Location
    from haven_vlm.picture import Preparation
    from haven_vlm.reading import VideoReader

    lags: list[float] = []

    async def read(path: Path) -> None:
        async with VideoReader([Location(str(path))], Preparation(max_side_px=SIDE, jpeg_quality=QUALITY)) as reader:
            async for _ in reader.frames([n * 500 for n in range(2000)]):
                pass

    tasks = [asyncio.create_task(read(path)) for path in paths]
    ends_at = time.perf_counter() + seconds
    while (now := time.perf_counter()) < ends_at:
        await asyncio.sleep(0.005)
        lags.append((time.perf_counter() - now - 0.005) * 1000)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    lags.sort()
    return {"p50": statistics.median(lags), "p99": lags[len(lags) * 99 // 100], "max": lags[-1]}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.frames", description="Compare ways of reading frames.")
    parser.add_argument("--clips", type=Path, default=Path("build/bench-clips"), help="folder for the clips")
    parser.add_argument("--also", default=sys.executable, help="interpreter that has decord and opencv")
    parser.add_argument("--engine", default=sys.executable, help="interpreter that has vlm-engine")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=11.0, help="nothing new begins after that")
    parser.add_argument("--only", default="", help="clips whose label holds this text")
    parser.add_argument("--interval", type=int, choices=INTERVALS_S, help="only this one")
    parser.add_argument("--work", nargs=3, metavar=("WAY", "PATH", "TIMES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.work:
        way, path_text, times = chosen.work
        work(way, path_text, json.loads(times))
        return 0
    pythons = {way: chosen.also for way in ELSEWHERE} | {"vlm-engine": chosen.engine}
    clips = [(clip, make(clip, chosen.clips)) for clip in CLIPS if chosen.only in clip.label]
    cells = [(clip, path, i) for i in INTERVALS_S if chosen.interval in (None, i) for clip, path in clips]
    figures: dict[str, Any] = {}
    ends_at = time.monotonic() + 60 * chosen.minutes
    for number, (clip, path, interval_s) in enumerate(cells):
        name = f"{clip.label}, every {interval_s} s"
        if time.monotonic() > ends_at:
            print(f"\n{name}: left out, the time is up", flush=True)
            continue
        print(f"\n{name}", flush=True)
        cell = Cell(path, clip.size[0] * clip.size[1] > LARGE_PX, interval_s, clip.seconds, pythons)
        share_s = (ends_at - time.monotonic()) / (len(cells) - number)
        cell.measure(chosen.runs, time.monotonic() + share_s)
        cell.show()
        figures[name] = found = cell.figures()
        told = [f"{key.replace('_', ' ')} × {found[key]:.2f}" for key in found if key.endswith("ratio")]
        print(f"  {', '.join(told)}", flush=True)
    lag = asyncio.run(loop_lag([path for _, path in clips][-1:] + [path for _, path in clips][:1]))
    print(f"\nloop lag while two files decode: p50 {lag['p50']:.1f}, p99 {lag['p99']:.1f}, max {lag['max']:.1f} ms")
    medians = {}
    for key in ("cpu_ratio", "speed_ratio", "engine_cpu_ratio", "engine_speed_ratio"):
        ratios = [found[key] for found in figures.values() if key in found]
        if ratios:
            medians[key] = statistics.median(ratios)
            print(f"{key.replace('_', ' ')}: median × {medians[key]:.2f}, least × {min(ratios):.2f}", flush=True)
    print(json.dumps({"cells": figures, "medians": medians, "loop_lag_ms": lag}))
    return 0


def make(clip: Clip, folder: Path) -> Path:
    """The file of a clip, made if it is not there yet."""
    from demo.footage import cached_clip, random_plan

    plan = random_plan(clip.seconds, spans=clip.seconds // 10, seed=7)
    print(f"clip: {clip.label} …", file=sys.stderr, flush=True)
    return cached_clip(
        folder, plan, suffix=clip.suffix, codec=clip.codec, size=clip.size, gop=clip.gop, options=dict(clip.options)
    )


if __name__ == "__main__":
    sys.exit(main())
