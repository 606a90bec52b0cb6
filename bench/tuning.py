"""Find Marker Settings: are the settings that made the markers found again, and how long does it take?

    python -m bench.tuning [--scenes 100] [--minutes 16.7]

No video, no model, no Stash: clips are plans, answers come from an oracle that errs, with confidences (high where it is
right, lower where it is wrong), and the user's markers are what hidden settings make of the answers, as they are or
with every end moved by up to a second, and a tenth of the markers missing. `today` and `found` are mean IoU on scenes
that nobody tuned; `held out` is what the task itself says. The last line is JSON with all figures.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from bench.corrections import findings_by_tag, scenes_by
from bench.scoring import settings
from bench.truth import Unsure
from haven_vlm.agreement import Tally, compare
from haven_vlm.reviewed import Reviewed, TagTruth
from haven_vlm.settings import Settings
from haven_vlm.timeline import conclude
from haven_vlm.tuning import Proposal, propose

HIDDEN: dict[str, dict[str, dict[str, float]]] = {
    "thresholds of two tags": {"Foul": {"threshold": 0.7}, "Dunk": {"threshold": 0.35}},
    "gap of one tag": {"Foul": {"max_gap": 45.0}},
    "shortest marker of one tag": {"Timeout": {"min_marker_duration": 12.0}},
    "all of four tags": {
        "Foul": {"threshold": 0.65, "max_gap": 10.0},
        "Dunk": {"threshold": 0.3, "min_marker_duration": 5.0},
        "Timeout": {"max_gap": 20.0, "min_marker_duration": 10.0},
        "Turnover": {"threshold": 0.75},
    },
    "none (today's are right)": {},
}


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    what: str
    scenes: int
    today: float
    found: float
    held_out_before: float
    held_out_after: float
    changed: int
    wanted: int
    """Tags that get other settings, and that should."""
    seconds: float
    """Of processor time."""


def careless(scenes: Sequence[Reviewed], seed: int) -> list[Reviewed]:
    """The same scenes, gone through with a less careful hand."""
    dice = random.Random(f"careless {seed}")

    def moved(truth: TagTruth) -> TagTruth:
        spans = []
        for start, end in truth.spans:
            if dice.random() >= 0.1:
                start, end = start + dice.randint(-1000, 1000), end + dice.randint(-1000, 1000)
                spans.append((start, max(end, start + 500)))
        return replace(truth, spans=tuple(spans))

    return [replace(s, truth={tag: moved(t) for tag, t in s.truth.items()}) for s in scenes]


def applied(today: Settings, proposal: Proposal) -> Settings:
    """Today's settings with a proposal in effect."""
    changes = {t.tag: {key: after for key, (_, after) in t.changes.items()} for t in proposal.changed}
    return Settings.model_validate({**today.model_dump(), "tag_settings": changes})


def quality(scenes: Sequence[Reviewed], wanted: Settings) -> float:
    """Mean IoU over all spans of all tags."""
    verdicts = []
    for scene in scenes:
        found = findings_by_tag(conclude(scene.samples, scene.duration_ms, wanted), wanted)
        for tag, truth in scene.truth.items():
            verdicts += compare(truth.spans, found[tag])
    return Tally.of(verdicts).quality


def measure(what: str, hidden: dict[str, dict[str, float]], count: int, minutes: float, *, careful: bool) -> Line:
    """Find settings on some scenes, and try them on others."""
    today, wanted = settings(), settings(tag_settings=hidden)
    scenes = scenes_by(wanted, count, minutes=minutes, seed=1, model=Unsure(0.03, 1), per_minute=4)
    unseen = scenes_by(wanted, 10, minutes=minutes, seed=2, model=Unsure(0.03, 2), per_minute=4)
    if not careful:
        scenes = careless(scenes, 1)
    began = time.process_time()
    proposal = propose(scenes, today)
    seconds = time.process_time() - began
    spans = [sum(t.held_out[i].spans for t in proposal.tags) for i in (0, 1)]
    after = [t.held_out[0] if t.refused else t.held_out[1] for t in proposal.tags]
    return Line(
        what=what,
        scenes=count,
        today=quality(unseen, today),
        found=quality(unseen, applied(today, proposal)),
        held_out_before=sum(t.held_out[0].iou for t in proposal.tags) / max(1, spans[0]),
        held_out_after=sum(t.iou for t in after) / max(1, sum(t.spans for t in after)),
        changed=len(proposal.changed),
        wanted=len(hidden),
        seconds=seconds,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.tuning", description=__doc__)
    parser.add_argument("--scenes", type=int, default=100, help="of the last row; the others have 12")
    parser.add_argument("--minutes", type=float, default=16.7, help="length of each scene of the last row")
    options = parser.parse_args()
    lines = []
    print(f"{'':44}{'scenes':>7}{'today':>7}{'found':>7}{'held out':>15}{'changed':>9}{'CPU s':>7}")
    for careful in (True, False):
        for what, hidden in HIDDEN.items():
            name = what if careful else f"{what}, careless"
            lines.append(measure(name, hidden, 12, 6, careful=careful))
            show(lines[-1])
    name = f"{options.minutes * 30:.0f} frames each, 8 tags, careless"
    lines.append(measure(name, HIDDEN["all of four tags"], options.scenes, options.minutes, careful=False))
    show(lines[-1])
    print(json.dumps([asdict(line) for line in lines]))


def show(line: Line) -> None:
    """Print one row."""
    print(
        f"{line.what:44}{line.scenes:7}{line.today:7.3f}{line.found:7.3f}{line.held_out_before:7.3f} →"
        f"{line.held_out_after:6.3f}{line.changed:5} of{line.wanted:2}{line.seconds:7.1f}"
    )


if __name__ == "__main__":
    main()
