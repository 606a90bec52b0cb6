"""How fast frames come out of a file: our reader against other ways, on clips of several codecs.

    python -m bench.frames --clips build/bench-clips
    python -m bench.frames --clips build/bench-clips --also /path/to/python-with-decord-and-opencv --runs 5

Every way gives the same: the frame on screen at each wanted time, 640 px wide, as a JPEG of quality 85. Each run is
a process of its own, so that CPU time and peak memory (`resource.getrusage`) are its own; shown is the median of
the runs. The last line is JSON with the same figures. CPU per frame is the figure that travels between machines.
"""

from __future__ import annotations

import argparse
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
LIMIT_S = 900.0
"""A run that takes longer is ended and left out."""


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
    chosen = f"select='isnan(prev_selected_t)+gte(t-prev_selected_t,{step - 0.001})',scale={SIDE}:-2:flags=area"
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


WAYS: dict[str, Callable[[str, list[float]], int]] = {
    "ours": ours,
    "PyAV, sequential": pyav_sequential,
    "PyAV, seek per sample": pyav_seek,
    "ffmpeg, select": ffmpeg_select,
    "ffmpeg, -ss per sample": ffmpeg_ss,
    "decord": with_decord,
    "OpenCV": with_opencv,
}
MODULES = {
    "ours": ("haven_vlm.reading",),
    "PyAV, sequential": ("av", "PIL.Image"),
    "PyAV, seek per sample": ("av", "PIL.Image"),
    "ffmpeg, select": (),
    "ffmpeg, -ss per sample": (),
    "decord": ("decord", "PIL.Image"),
    "OpenCV": ("cv2",),
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


def work(way: str, path: str, seconds: float, interval: float) -> None:
    """One run, in a process of its own; prints one line of JSON."""
    import resource  # not on Windows, where this benchmark has nothing to measure memory with

    for module in MODULES[way]:
        importlib.import_module(module)  # a process that reads many files does this once
    times = [n * interval for n in range(int((seconds - 0.05) / interval) + 1)]
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    given = WAYS[way](path, times)
    wall = time.perf_counter() - began
    own, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime - before.ru_utime - before.ru_stime + theirs.ru_utime + theirs.ru_stime
    scale = 1 if sys.platform == "darwin" else 1024
    peak = max(theirs.ru_maxrss if "ffmpeg" in way else own.ru_maxrss, 0) * scale / 2**20
    print(json.dumps({"wanted": len(times), "given": given, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak}))


def measure(way: str, python: str, path: Path, interval: float, runs: int, seconds: float) -> dict[str, float] | None:
    """The median of some runs; None if the way cannot do it."""
    answers = []
    for _ in range(runs):
        command = [python, "-m", "bench.frames", "--work", way, str(path), str(seconds), str(interval)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode or not done.stdout.strip():
            return None
        answer = json.loads(done.stdout.splitlines()[-1])
        if answer["given"] < answer["wanted"] - 1:
            return None
        answers.append(answer)
    given = answers[0]["given"]
    return {
        "frames": given,
        "cpu_ms": statistics.median(a["cpu_s"] for a in answers) / given * 1000,
        "per_s": given / statistics.median(a["wall_s"] for a in answers),
        "peak_mb": statistics.median(a["peak_mb"] for a in answers),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.frames", description="Compare ways of reading frames.")
    parser.add_argument("--clips", type=Path, default=Path("build/bench-clips"), help="folder for the clips")
    parser.add_argument("--also", default=sys.executable, help="interpreter that has decord and opencv")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="look at so much of each clip only")
    parser.add_argument("--only", default="", help="clips whose label holds this text")
    parser.add_argument("--work", nargs=4, metavar=("WAY", "PATH", "SECONDS", "INTERVAL"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.work:
        way, path, seconds, interval = chosen.work
        work(way, path, float(seconds), float(interval))
        return 0
    figures: dict[str, dict[str, dict[str, dict[str, float] | None]]] = {}
    ratios: list[float] = []
    speeds: list[float] = []
    for clip in CLIPS:
        if chosen.only not in clip.label:
            continue
        path, seconds = make(clip, chosen.clips), min(clip.seconds, chosen.seconds or clip.seconds)
        for interval_s in INTERVALS_S:
            name = f"{clip.label}, every {interval_s} s"
            print(f"\n{name}\n  {'way':24}{'frames/s':>10}{'CPU ms':>10}{'peak MB':>10}")
            rows: dict[str, dict[str, float] | None] = {}
            for way in WAYS:
                python = chosen.also if way in ELSEWHERE else sys.executable
                rows[way] = row = measure(way, python, path, interval_s, chosen.runs, seconds)
                text = (
                    f"{row['per_s']:>10.1f}{row['cpu_ms']:>10.1f}{row['peak_mb']:>10.0f}" if row else f"{'cannot':>10}"
                )
                print(f"  {way:24}{text}", flush=True)
            figures.setdefault(clip.label, {})[str(interval_s)] = rows
            others = [row["cpu_ms"] for way, row in rows.items() if row and way != "ours"]
            mine = rows["ours"]
            if mine and others:
                ratio = min(others) / mine["cpu_ms"]
                faster = mine["per_s"] / max(r["per_s"] for w, r in rows.items() if r and w != "ours")
                ratios.append(ratio)
                speeds.append(faster)
                print(f"  against the best other: CPU × {ratio:.2f}, frames/s × {faster:.2f}", flush=True)
    if ratios:
        medians = statistics.median(ratios), statistics.median(speeds)
        print(f"\nmedian against the best other of each table: CPU × {medians[0]:.2f}, frames/s × {medians[1]:.2f}")
    print(json.dumps({"clips": figures, "cpu_ratios": ratios, "speed_ratios": speeds}))
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
