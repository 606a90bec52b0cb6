"""Tag Images over a large library: truth, questions, requests, the endpoint's busy share, memory, rate.

    python -m bench.images [--images 20000] [--slots 16] [--latency-ms 250]

The library is generated: courts that carry their truth, one in twenty much like its neighbour, one in 500 odd or broken
(CMYK, rotated, moving, cut off, empty, missing, a bomb …), a tenth inside zips of 250. The plugin runs as a process
of its own against an embedded Stash and an embedded model server, both in this process. Memory is what Linux counts as
resident. Prints a table, then one line of JSON; the exit code is 1 when an image did not get what it should.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from demo.court import Canvas
from demo.footage import TAGS, truth_of
from demo.stash import EmbeddedStash, running_stash, start_task
from demo.vision_server import VisionServer

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = TAGS[:6]
ALIKE_EVERY, ODD_EVERY, PER_ZIP = 20, 500, 250
SIZE = (256, 144)


@dataclass
class Made:
    """A library, and what is to be expected of it."""

    truth: dict[int, frozenset[str]] = field(default_factory=dict)
    """Image → tags it shows; those that cannot be read are not here."""
    broken: dict[int, str] = field(default_factory=dict)
    """Image → a word of the reason it must be given."""
    alike: int = 0
    """Images that take over their neighbour's answer."""
    extra_questions: int = 0
    """Questions beyond one for each image: frames of animations."""
    zipped: int = 0


def court(dice: random.Random, present: frozenset[str]) -> Image.Image:
    """A court unlike any other: blocks of light and dark stand in for what happens there."""
    image = Canvas(*SIZE).backdrop(dice.randrange(1000), present, VOCABULARY)
    blocks = Image.frombytes("L", (16, 6), bytes(dice.randrange(30, 230) for _ in range(96)))
    width, height = SIZE
    image.paste(blocks.resize((width, height // 2), Image.Resampling.NEAREST), (0, 0))
    return image


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def odd(dice: random.Random, number: int) -> tuple[str, bytes | None, frozenset[str] | str, int]:
    """An odd file: its suffix, its bytes (None: it is missing), its truth or the word of its reason, its frames."""
    present = frozenset(t for t in VOCABULARY if dice.random() < 0.3)
    image = court(dice, present)
    match number % 8:
        case 0:
            return "jpg", encoded(image.convert("CMYK")), present, 1
        case 1:
            exif = Image.Exif()
            exif[0x0112] = 6
            return "jpg", encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif), present, 1
        case 2:
            other = frozenset(t for t in VOCABULARY if dice.random() < 0.3)
            moving = encoded(image, "GIF", save_all=True, append_images=[court(dice, other)], duration=300)
            return "gif", moving, present | other, 2
        case 3:
            return "webp", encoded(image, "WEBP"), present, 1
        case 4:
            whole = encoded(image)
            return "jpg", whole[: len(whole) // 2], "cut off", 0
        case 5:
            return "jpg", b"", "empty", 0
        case 6:
            return "jpg", None, "cannot be read", 0
        case _:
            return (
                "png",
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\x5f\x90\0\1\x5f\x90\x08\2\0\0\0" + b"\0" * 64,
                "damaged",
                0,
            )


def build(folder: Path, stash: EmbeddedStash, images: int, odd_every: int) -> Made:
    """Make the files, and tell Stash of them."""
    dice, made = random.Random(7), Made()
    zip_from = images - images // 10
    archive: zipfile.ZipFile | None = None
    last: tuple[Image.Image, frozenset[str]] | None = None
    tags = [stash.add_tag("VLM_TagMe")]
    with stash.seeding():
        for number in range(images):
            if number % 1000 == 0:
                (folder / f"{number // 1000:03}").mkdir()
            place = folder / f"{number // 1000:03}"
            if number % odd_every == odd_every - 1:
                suffix, content, truth, frames = odd(dice, number // odd_every)
                path = place / f"{number}.{suffix}"
                if content is not None:
                    path.write_bytes(content)
                image_id = stash.add_image(path, tags=tags, size=len(content or b""), format=suffix)
                if isinstance(truth, str):
                    made.broken[image_id] = truth
                else:
                    made.truth[image_id] = truth
                    made.extra_questions += frames - 1
                last = None
                continue
            if last is not None and number % ALIKE_EVERY == 0:
                image, present = last
                content = encoded(image, quality=70)
                made.alike += 1
            else:
                present = frozenset(t for t in VOCABULARY if dice.random() < 0.3)
                image = court(dice, present)
                content = encoded(image, quality=85)
            last = (image, present)
            if number < zip_from:
                path = place / f"{number}.jpg"
                path.write_bytes(content)
                made.truth[stash.add_image(path, tags=tags, size=len(content), width=256, height=144)] = present
                continue
            if archive is None or made.zipped % PER_ZIP == 0:
                if archive is not None:
                    archive.close()
                archive = zipfile.ZipFile(folder / f"{number}.zip", "w")
            archive.writestr(f"Spiel ü/{number}.jpg", content)
            zip_path = Path(str(archive.filename))
            image_id = stash.add_zip_image(
                zip_path, f"Spiel ü/{number}.jpg", tags=tags, size=len(content), width=256, height=144
            )
            made.truth[image_id] = present
            made.zipped += 1
    if archive is not None:
        archive.close()
    return made


class Watch(threading.Thread):
    """Samples a process's resident memory and processor time until it is gone."""

    def __init__(self, pid: int, done: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._folder = Path(f"/proc/{pid}")
        self._done = done
        self.cpu_s = 0.0
        self.samples: list[tuple[int, float]] = []
        """Questions answered so far, megabytes."""
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            try:
                lines = (self._folder / "status").read_text().splitlines()
                spent = (self._folder / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
            except OSError:
                return
            self.cpu_s = sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")
            mb = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)
            self.samples.append((self._done(), mb))

    def at(self, share: float) -> float:
        """Memory when this share of the questions had been answered."""
        if not self.samples:
            return 0.0
        wanted = share * self.samples[-1][0]
        return next(mb for done, mb in self.samples if done >= wanted)


def measure(
    images: int, slots: int, latency_s: float, folder: Path, *, odd_every: int = ODD_EVERY
) -> tuple[dict[str, Any], list[str]]:
    """Run Tag Images once; returns the figures, and what is wrong with the result."""
    with (
        running_stash(config_dir=folder) as stash,
        VisionServer(partial(truth_of, tags=VOCABULARY), slots=slots, latency_s=latency_s).in_thread() as server,
    ):
        began = time.monotonic()
        made = build(folder, stash, images, odd_every)
        print(f"{images:,} images made in {time.monotonic() - began:.0f} s", flush=True)
        settings = {"endpoints": f"{server.base_url} max={slots}", "tag_list": ", ".join(VOCABULARY)}
        stash.settings.configure_plugin("ahavenvlmconnector", settings)
        began = time.monotonic()
        process = start_task(ROOT, "Tag Images", connection=stash.connection())
        watch = Watch(process.pid, lambda: len(server.entries))
        watch.start()
        result = process.wait(7200)
        seconds = time.monotonic() - began
        watch.over.set()
        questions = server.questions()
        span_s = max(q.at_s for q in questions) - min(q.at_s for q in questions) + latency_s
        kinds = Counter(_kind(r) for r in stash.requests)
        wrong = judge(stash, made, result.output or "", reports(folder))
        asked = len(questions)
        expected = len(made.truth) - made.alike + made.extra_questions
        if asked != expected:
            wrong.append(f"{asked} questions instead of {expected}")
        figures = {
            "images": images,
            "seconds": round(seconds, 1),
            "images_per_s": round(images / seconds, 1),
            "questions": asked,
            "asked_twice": len(server.asked_twice()),
            "busy_share": round(server.statistics().busy_s / (span_s * slots), 4),
            "cpu_ms_per_image": round(1000 * watch.cpu_s / images, 2),
            "writes_per_image": round(kinds["write"] / images, 4),
            "reads_per_image": round(kinds["read"] / images, 4),
            "mb_at_20_percent": round(watch.at(0.2), 1),
            "mb_at_60_percent": round(watch.at(0.6), 1),
            "mb_at_95_percent": round(watch.at(0.95), 1),
            "mb_peak": round(max(mb for _, mb in watch.samples), 1),
            "broken": len(made.broken),
            "in_zips": made.zipped,
            "alike": made.alike,
            "wrong": len(wrong),
        }
        return figures, wrong


def _kind(record: Any) -> str:
    text = str(getattr(record, "query", "") or "")
    return "write" if text.lstrip().startswith("mutation") else "read" if text else "file"


def reports(folder: Path) -> dict[int, dict[str, Any]]:
    """What the run's report says of each image."""
    newest = max((folder / "haven_vlm" / "reports").glob("*.json"), key=lambda p: p.stat().st_mtime)
    return {int(m["id"]): m for m in json.loads(newest.read_text(encoding="utf-8"))["media"]}


def judge(stash: EmbeddedStash, made: Made, output: str, said: dict[int, dict[str, Any]]) -> list[str]:
    """Images that did not get what they should."""
    wrong = []
    for image, present in made.truth.items():
        tags = set(stash.image_tags(image))
        if tags != {*present, "VLM_Tagged"}:
            wrong.append(
                f"image {image}: {sorted(tags)} instead of {sorted(present)}: {said.get(image, {}).get('reason')}"
            )
    for image, word in made.broken.items():
        if word not in said.get(image, {}).get("reason", "") or "VLM_TagMe" not in stash.image_tags(image):
            wrong.append(f"image {image}: {said.get(image)} instead of “{word}”")
    if f"Tagged {len(made.truth):,} of {len(made.truth) + len(made.broken):,} images" not in output:
        wrong.append(f"the summary: {output[:300]}")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.images", description="Tag Images over a large library.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--latency-ms", type=float, default=250.0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-images-") as name:
        figures, wrong = measure(options.images, options.slots, options.latency_ms / 1000, Path(name))
    for key, value in figures.items():
        print(f"{key:20} {value:>12,}")
    for line in wrong[:20]:
        print("WRONG:", line)
    print(json.dumps(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
