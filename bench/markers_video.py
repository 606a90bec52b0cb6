"""The same measure over real files: clips that carry their truth, read by the connector's own reader."""

from __future__ import annotations

import tempfile
from bisect import insort
from collections.abc import Sequence
from pathlib import Path

from bench.scoring import Line, Score, like, line, sample_of, score, settings
from bench.truth import Clip, edited, loose
from demo.footage import Plan, truth_of, write_clip
from haven_vlm.facts import Outcome, Sample
from haven_vlm.likeness import is_blank
from haven_vlm.location import Location
from haven_vlm.picture import Preparation
from haven_vlm.ports import FrameSource
from haven_vlm.reading import open_video
from haven_vlm.sampling import make_sampler
from haven_vlm.settings import Settings

MINUTES = 2
FPS = 25
SIZE = (640, 360)


def videos() -> list[Line]:
    """Rows for clips of two minutes with cuts and long takes, busy and still."""
    clips = {
        "cuts every 10 s, busy": edited(MINUTES, 6, 1, shot_s=10, longest_s=30, motion="busy"),
        "cuts every 10 s, calm": edited(MINUTES, 6, 2, shot_s=10, longest_s=30, motion="calm"),
        "cuts every 10 s, static": edited(MINUTES, 6, 3, shot_s=10, longest_s=30, motion="still"),
        "takes of 40 s, static, loose ends": loose(MINUTES, 6, 4, longest_s=30, shot_s=40, motion="still"),
    }
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, clip in clips.items():
            path = Path(folder) / f"{len(lines)}.mp4"
            plan = Plan(clip.duration_ms, clip.spans, clip.tags, clip.cuts_ms, clip.motion)
            write_clip(path, plan, fps=FPS, size=SIZE, gop=10 * FPS, keys_at_cuts=True)
            for policy in ("fixed", "refine", "adaptive"):
                wanted = settings(sampling=policy)
                scored = _read(path, clip, wanted, skip_similar=policy != "fixed")
                lines.append(line(f"{policy} 2 s · {name}", [clip], [scored]))
    return lines


def _read(path: Path, clip: Clip, wanted: Settings, *, skip_similar: bool) -> Score:
    """Sample a file to the end; the model reads the truth from the pictures it gets."""
    seen: dict[int, Sample] = {}
    asked: dict[int, bytes] = {}
    order: list[int] = []
    calls = 0
    with open_video([Location(str(path))], Preparation()) as source:
        survey = tuple(source.survey()) if wanted.sampling == "adaptive" else None
        sampler = make_sampler(wanted, clip.duration_ms, survey)
        while now := sampler.wish(seen).now:
            calls += _pass(source, now, clip, seen, asked, order, skip_similar=skip_similar)
    return score(clip, seen, calls, wanted)


def _pass(
    source: FrameSource,
    now: Sequence[int],
    clip: Clip,
    seen: dict[int, Sample],
    asked: dict[int, bytes],
    order: list[int],
    *,
    skip_similar: bool,
) -> int:
    calls = 0
    for frame in source.frames(now):
        at = frame.at_ms
        leader = like(asked, order, at, frame.luma) if skip_similar else None
        if skip_similar and is_blank(frame.luma):
            seen[at] = Sample(at, at, Outcome.NONE, inherited_from_ms=at)
        elif leader is not None:
            seen[at] = Sample(at, at, seen[leader].outcome, seen[leader].tags, inherited_from_ms=leader)
        else:
            asked[at] = frame.luma
            insort(order, at)
            seen[at] = sample_of(at, truth_of(frame.jpeg, clip.tags))
            calls += 1
    for at in now:
        seen.setdefault(at, Sample(at, at, Outcome.UNDECODABLE))
    return calls
