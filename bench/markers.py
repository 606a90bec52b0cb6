"""How right are the markers, and what do they cost? Policies × models × clips, scored against the truth.

    python -m bench.markers            # all tables, a few minutes
    python -m bench.markers --quick    # fewer clips
    python -m bench.markers --video    # also over generated clips, read and compared by the connector's own parts

A clip is a plan of what is to be seen when, and a model is an oracle over it: perfect, noisy (each tag of each frame
is missed or falsely named with the given chance, independently), or blind to what is small in a small picture. No
video is decoded for that; `adaptive` sees made-up keyframes and frames. The last line is JSON with all figures.

`calls` are questions asked, `ratio` is their number by that of a scan every two seconds; `IoU` is time in common by
time in either, mean over the tags of a clip; `long` is the mean IoU of the single spans longer than the interval;
`error` is the distance of a found end from the true one; `missed` are true spans that no found span of the tag
touches (and the longest of all of them), `invented` found spans that touch no true one (and the most in any clip).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from bench.scoring import Line, bound, measure, run, settings, show
from bench.truth import Clip, Model, Muddled, Perfect, SamePicture, ShortSighted, Unsure, edited, loose

UPSTREAM = (
    ("10 min, interval 80 s (its default)", 88, "0.19"),
    ("10 min, interval 2 s", 3117, "0.59"),
    ("60 min, interval 2 s", 13854, "0.54"),
    ("30 s, interval 2 s", 76, "0.34"),
    ("60 min, interval 80 s, disjoint tags", 226, "0.39–0.65 by tag"),
    ("60 min, interval 2 s, disjoint tags", 7751, "0.45–0.97 by tag"),
    ("60 min, interval 80 s, overlapping tags", 273, "0.00–0.75 by tag"),
    ("60 min, interval 2 s, overlapping tags", 9860, "0.00–0.85 by tag"),
)
"""The plugin to beat with a model that is always right: clip, calls (the fewest seen), IoU."""

INTERVALS_S = (2, 4, 8, 20, 80)

Makers = dict[str, Callable[..., Clip]]

EDITED: Makers = {
    "cuts every 10 s, busy": partial(edited, 10, 20, shot_s=10, motion="busy"),
    "cuts every 10 s, calm": partial(edited, 10, 20, shot_s=10, motion="calm"),
    "cuts every 10 s, static": partial(edited, 10, 20, shot_s=10, motion="still"),
    "takes of 40 s, static": partial(edited, 10, 20, shot_s=40, motion="still"),
    "takes of 40 s, static, loose ends": partial(loose, 10, 20, shot_s=40, motion="still"),
    "60 min, cuts every 10 s, busy": partial(edited, 60, 60, shot_s=10, motion="busy"),
}
"""Clips that `adaptive` is for: what is to be seen changes with the picture."""

HARD: Makers = {
    "60 spans, cuts every 10 s, busy": partial(edited, 10, 60, shot_s=10, motion="busy"),
    "cuts every 6 s, busy": partial(edited, 10, 20, shot_s=6, motion="busy"),
    "cuts every 10 s, busy, keyless": partial(edited, 10, 20, shot_s=10, motion="busy", gop_s=2, keys_at_cuts=False),
    "takes of 40 s, busy, loose ends": partial(loose, 10, 20, shot_s=40, motion="busy"),
}
"""Clips that are hard for it: many boundaries, very short shots, no keyframes at cuts, changes without a cut."""


def perfect(_: int) -> Model:
    """A model without faults for any clip."""
    return Perfect()


def noisy(rate: float) -> Callable[[int], Model]:
    """A model for each clip's number that errs with this chance."""
    return partial(Unsure, rate)


class Tables:
    """All tables over clips that are only plans."""

    def __init__(self, clips: int, only: str) -> None:
        self._clips = clips
        self._only = only
        self.found: dict[str, list[Line]] = {}
        self.over_bound: dict[str, int] = {}
        """Interval and length → the most calls above the bound in any clip; negative: all stayed below."""
        self._ten = [loose(10, 20, n) for n in range(clips)]
        self._hour = [loose(60, 60, n) for n in range(max(3, clips // 4))]

    def make(self) -> None:
        """Measure and print."""
        for name, table in (
            ("fixed", self._fixed),
            ("noise 10 min", partial(self._noise, self._ten)),
            ("noise 10 min 60 spans", lambda: self._noise([loose(10, 60, n) for n in range(self._clips)])),
            ("noise 60 min", partial(self._noise, self._hour)),
            ("curve 10 min", partial(self._curve, "10 min", self._ten)),
            ("curve 60 min", partial(self._curve, "60 min", self._hour)),
            ("spans longer than the interval", self._long),
            ("noisy curve 10 min", partial(self._noisy_curve, self._ten)),
            ("adaptive", partial(self._adaptive, EDITED)),
            ("adaptive, hard", partial(self._adaptive, HARD)),
            ("static noise", self._static_noise),
            ("several frames in one question", self._several),
            ("budget", self._budget),
            ("small pictures", self._small),
        ):
            if self._only in name:
                self.found[name] = table()
                show(name, self.found[name])

    def _fixed(self) -> list[Line]:
        clips = [loose(10, 20, n, shortest_s=3) for n in range(self._clips)]
        return [measure("fixed 2 s, 20 spans of 3–60 s", clips, perfect, settings(sampling="fixed"))]

    def _noise(self, clips: list[Clip]) -> list[Line]:
        models = [("perfect", perfect), *((f"noise {rate:.0%}", noisy(rate)) for rate in (0.02, 0.05, 0.1))]
        return [
            measure(f"{policy} 2 s, {called}", clips, model, settings(sampling=policy))
            for policy in ("fixed", "refine")
            for called, model in models
        ]

    def _curve(self, name: str, clips: list[Clip]) -> list[Line]:
        lines = []
        for interval in INTERVALS_S:
            for policy in ("fixed", "refine"):
                wanted = settings(sampling=policy, video_frame_interval=interval)
                lines.append(measure(f"{policy} {interval} s", clips, perfect, wanted))
            over = max(run(clip, Perfect(), wanted)[1] - bound(clip, wanted) for clip in clips)
            self.over_bound[f"{name}, {interval} s"] = over
        return lines

    def _long(self) -> list[Line]:
        clips = [loose(60, 24, n, shortest_s=85, longest_s=240) for n in range(max(3, self._clips // 4))]
        lines = []
        for interval in (20, 80):
            wanted = settings(video_frame_interval=interval)
            lines.append(measure(f"refine {interval} s, spans of 85–240 s", clips, perfect, wanted))
            over = max(run(clip, Perfect(), wanted)[1] - bound(clip, wanted) for clip in clips)
            self.over_bound[f"long spans, {interval} s"] = over
        return lines

    def _noisy_curve(self, clips: list[Clip]) -> list[Line]:
        return [
            measure(f"refine {i} s, noise 5%", clips, noisy(0.05), settings(video_frame_interval=i))
            for i in INTERVALS_S
        ]

    def _adaptive(self, makers: Makers) -> list[Line]:
        lines = []
        for name, maker in makers.items():
            clips = [maker(n) for n in range(self._clips if "60 min" not in name else max(2, self._clips // 6))]
            lines += [
                measure(f"fixed 2 s · {name}", clips, perfect, settings(sampling="fixed")),
                measure("  adaptive", clips, perfect, settings(sampling="adaptive"), look=True),
                measure("  adaptive, noise 5%", clips, noisy(0.05), settings(sampling="adaptive"), look=True),
            ]
        return lines

    def _static_noise(self) -> list[Line]:
        clips = [edited(10, 20, n, shot_s=10, motion="still") for n in range(self._clips)]
        same = partial(SamePicture, 0.05)
        return [
            measure("fixed 2 s, same picture same error 5%", clips, same, settings(sampling="fixed")),
            measure("  adaptive, same model", clips, same, settings(sampling="adaptive"), look=True),
            measure("  refine, near-duplicates inherit", clips, perfect, settings(), look=True),
        ]

    def _several(self) -> list[Line]:
        """Only the coarse look is shared: what it gets wrong, the search for the ends sees by single frames."""
        lines = []
        for frames in (1, 2, 4, 8):
            for rate in (0.0, 0.05, 0.2) if frames > 1 else (0.0,):
                said = f"{rate:.0%} muddled" if rate else "perfect"
                wanted = settings(frames_per_question=frames)
                name = f"refine 2 s, {frames} a question, {said}"
                lines.append(measure(name, self._ten, partial(Muddled, rate), wanted))
        return lines

    def _budget(self) -> list[Line]:
        return [
            measure(f"refine 2 s, at most {most} questions", self._ten, perfect, settings(max_questions_per_scene=most))
            for most in (40, 80, 160, 320, 640)
        ]

    def _small(self) -> list[Line]:
        return [
            measure(f"refine 2 s, pictures of {side} px", self._ten, partial(ShortSighted, side), settings())
            for side in (320, 448, 640, 896)
        ]

    def promises(self) -> dict[str, bool]:
        """What is promised, with the figures measured here."""
        kept: dict[str, bool] = {}

        def say(promise: str, figures: str, holds: bool) -> None:
            kept[promise] = holds
            print(f"{'holds' if holds else 'FAILS':6} {promise}: {figures}")

        rows = {(table, r.what.strip()): r for table, lines in self.found.items() for r in lines}
        print()
        if "fixed" in self.found:
            r = self.found["fixed"][0]
            say(
                "fixed 2 s finds every span ≥ 4 s, IoU ≥ 0.85",
                f"longest missed {r.longest_missed_s:.1f} s, IoU {r.iou:.3f}",
                r.longest_missed_s < 4 and r.iou >= 0.85,
            )
        if "noise 10 min" in self.found:
            right, wrong = rows["noise 10 min", "refine 2 s, perfect"], rows["noise 10 min", "refine 2 s, noise 5%"]
            say(
                "refine 2 s: IoU ≥ 0.97, median error ≤ 0.3 s, at most 30 % more calls",
                f"{right.iou:.3f}, {right.error_s:.2f} s, {right.ratio - 1:.0%} more",
                right.iou >= 0.97 and right.error_s <= 0.3 and right.ratio <= 1.3,
            )
            say(
                "refine with 5 % noise: at most 1 invented in 10 min, IoU within 0.05",
                f"{wrong.invented:.2f} (most {wrong.invented_most}), {right.iou - wrong.iou:.3f}",
                wrong.invented <= 1 and right.iou - wrong.iou <= 0.05,
            )
        for name, over in self.over_bound.items():
            clips, interval = name.split(", ")
            if clips == "long spans":
                r = rows["spans longer than the interval", f"refine {interval}, spans of 85–240 s"]
            else:
                r = rows[f"curve {clips}", f"refine {interval}"]
            say(
                f"refine, {name}: within scan + bisection, IoU ≥ 0.97 for longer spans",
                f"{over:+} calls, {r.iou_long:.3f}" + ("" if r.iou_long == r.iou_long else " (there are none)"),
                over <= 0 and not r.iou_long < 0.97,
            )
        if "adaptive" in self.found:
            lines = self.found["adaptive"]
            for scan, ours in zip(lines[::3], lines[1::3], strict=True):
                most = 0.25 if "static" in scan.what else 0.4
                clip = scan.what.split(" · ")[1]
                say(
                    f"adaptive, {clip}: ≤ {most:.0%} of the calls, IoU within 0.02, none ≥ 3 s missed",
                    f"{ours.ratio:.0%}, {ours.iou - scan.iou:+.3f}, longest missed {ours.longest_missed_s:.1f} s",
                    ours.ratio <= most and scan.iou - ours.iou <= 0.02 and ours.longest_missed_s < 3,
                )
        return kept


def _plain(row: Line) -> dict[str, object]:
    """A row for JSON, which knows no NaN."""
    return {k: None if v != v else v for k, v in asdict(row).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all tables and what is kept of the promises, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 clips for each row instead of --clips")
    parser.add_argument("--clips", type=int, default=20, help="clips for each row (60-minute rows have fewer)")
    parser.add_argument("--only", default="", help="only tables whose name holds this text")
    parser.add_argument("--video", action="store_true", help="also read generated clips")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    tables = Tables(4 if options.quick else options.clips, options.only)
    tables.make()
    if options.video:
        from bench.markers_video import videos

        tables.found["video"] = videos()
        show(
            "generated clips of 2 min, 640 × 360, read and compared for real; ratio to a scan at 2 s",
            tables.found["video"],
        )
    print("\nThe plugin to beat, model always right, one tag a frame" + " " * 3 + "calls  IoU")
    for what, calls, iou in UPSTREAM:
        print(f"{what:56}{calls:7}  {iou}")
    kept = tables.promises()
    print(f"{time.monotonic() - started:.0f} s")
    figures = {name: [_plain(r) for r in rows] for name, rows in tables.found.items()}
    print(json.dumps({"tables": figures, "over_bound": tables.over_bound, "kept": kept}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
