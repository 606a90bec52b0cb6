"""Evaluate: how right a model is, frame by frame and span by span, measured on markers a person has gone through. Pure.

A frame counts as having a tag when it lies inside a true span; frames nearer to an end than ends are searched for are
left out, because nobody sets markers that exactly. Frames that took their answer over from a neighbour are left out,
too: the model was not asked. Spans are what the timeline makes of this model's answers alone with today's settings,
in scenes of which it answered nearly all.

Calibration compares how sure the model was with how often it was right, over the frames in which it named a tag: in
ten bins, and as expected calibration error, the mean distance of the two weighted by the bins' sizes (Guo et al. 2017,
“On Calibration of Modern Neural Networks”). No calibrated confidence is written back: the timeline compares
confidences of one tag with one threshold, so a threshold fitted to the same scenes says as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from haven_vlm.agreement import Stretch, Tally, Verdict, compare
from haven_vlm.reviewed import Reviewed
from haven_vlm.settings import Settings
from haven_vlm.timeline import conclude
from haven_vlm_utility import count_text

BINS = 10
ENOUGH = 20
"""Frames with a tag (named, or true) from which its figures say something."""


@dataclass(slots=True)
class Counts:
    """Frames, by what the model said and what is true."""

    right: int = 0
    """Named, and there."""
    invented: int = 0
    """Named, and not there."""
    missed: int = 0
    """There, and not named."""
    absent: int = 0
    """Neither."""

    @property
    def precision(self) -> float | None:
        """Share of the frames named that are right; None if none was."""
        return _share(self.right, self.right + self.invented)

    @property
    def recall(self) -> float | None:
        """Share of the frames with the tag that were named; None if there is none."""
        return _share(self.right, self.right + self.missed)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; None if the tag is nowhere and was never named."""
        return _share(2 * self.right, 2 * self.right + self.invented + self.missed)

    @property
    def enough(self) -> bool:
        """Whether there are frames enough for the figures to mean something."""
        return self.right + self.invented + self.missed >= ENOUGH

    def add(self, other: Counts) -> None:
        """Add the frames of another."""
        self.right += other.right
        self.invented += other.invented
        self.missed += other.missed
        self.absent += other.absent


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(slots=True)
class Calibration:
    """How sure the model was, and how often it was right then, by tenths of confidence."""

    frames: list[int] = field(default_factory=lambda: [0] * BINS)
    sure: list[float] = field(default_factory=lambda: [0.0] * BINS)
    """Sum of the confidences."""
    right: list[int] = field(default_factory=lambda: [0] * BINS)

    def note(self, confidence: float, *, right: bool) -> None:
        """Count one frame in which a tag was named."""
        at = min(BINS - 1, int(confidence * BINS))
        self.frames[at] += 1
        self.sure[at] += confidence
        self.right[at] += right

    def add(self, other: Calibration) -> None:
        """Add the frames of another."""
        for at in range(BINS):
            self.frames[at] += other.frames[at]
            self.sure[at] += other.sure[at]
            self.right[at] += other.right[at]

    @property
    def error(self) -> float | None:
        """Expected calibration error, 0 to 1; None without frames."""
        total = sum(self.frames)
        if not total:
            return None
        return sum(abs(s - r) for s, r in zip(self.sure, self.right, strict=True)) / total

    def bins(self) -> list[tuple[int, float, float]]:
        """Frames, mean confidence and share that was right, of each bin that has frames."""
        found = zip(self.frames, self.sure, self.right, strict=True)
        return [(n, sure / n, right / n) for n, sure, right in found if n]


@dataclass(frozen=True, slots=True)
class TagScore:
    """One model on one tag."""

    tag: str
    scenes: int
    counts: Counts
    spans: Tally | None
    """None: in no scene do the model's answers reach over the whole."""
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model on all tags."""

    model: str
    tags: tuple[TagScore, ...]
    """In the order of the vocabulary; those no scene tells anything about are left out."""

    @property
    def counts(self) -> Counts:
        """All tags together."""
        total = Counts()
        for tag in self.tags:
            total.add(tag.counts)
        return total

    @property
    def calibration(self) -> Calibration:
        """All tags together."""
        total = Calibration()
        for tag in self.tags:
            total.add(tag.calibration)
        return total


def evaluate(
    by_model: Mapping[str, Sequence[Reviewed]], settings: Settings, *, covers: Callable[[Reviewed], bool]
) -> tuple[ModelScore, ...]:
    """Measure each model on the scenes it has answers for.

    Args:
        by_model: name → scenes with its own answers only.
        settings: of today; thresholds decide what counts as named.
        covers: whether the answers say enough about a scene for spans to be made of them.
    """
    return tuple(ModelScore(model, _tags(scenes, settings, covers)) for model, scenes in by_model.items())


def _tags(scenes: Sequence[Reviewed], settings: Settings, covers: Callable[[Reviewed], bool]) -> tuple[TagScore, ...]:
    margin_ms = settings.boundary_tolerance.ms(0)
    verdicts: dict[str, list[Verdict]] = {}
    for scene in scenes:
        if covers(scene):
            found = conclude(scene.samples, scene.duration_ms, settings).spans
            for tag, truth in scene.truth.items():
                ours = [(s.start_ms, s.end_ms) for s in found if s.tag == tag]
                verdicts.setdefault(tag, []).extend(compare(truth.spans, ours, truth.points_ms))
    scores = []
    for own in settings.tuned_tags:
        telling = [s for s in scenes if own.name in s.truth]
        if not telling:
            continue
        threshold = settings.threshold if own.threshold is None else own.threshold
        counts, calibration = Counts(), Calibration()
        for scene in telling:
            _count(scene, own.name, threshold, margin_ms, counts, calibration)
        spans = Tally.of(verdicts[own.name]) if own.name in verdicts else None
        scores.append(TagScore(own.name, len(telling), counts, spans, calibration))
    return tuple(scores)


def _count(
    scene: Reviewed, tag: str, threshold: float, margin_ms: int, counts: Counts, calibration: Calibration
) -> None:
    truth = scene.truth[tag]
    if truth.points_ms:
        return  # how long they last nobody knows
    for sample in scene.samples.values():
        if not sample.outcome.analysed or sample.inherited_from_ms is not None:
            continue
        there = _there(sample.at_ms, truth.spans, margin_ms)
        if there is None:
            continue
        confidence = sample.tags.get(tag, 0.0)
        named = confidence > 0 and confidence >= threshold
        counts.add(Counts(named and there, named and not there, there and not named, not named and not there))
        if confidence > 0:
            calibration.note(confidence, right=there)


def _there(at_ms: int, spans: Iterable[Stretch], margin_ms: int) -> bool | None:
    """Whether a moment lies in one of the spans; None near an end of one."""
    there = False
    for start, end in spans:
        if min(abs(at_ms - start), abs(at_ms - end)) < margin_ms:
            return None
        there = there or start <= at_ms < end
    return there


# --- words and figures ----------------------------------------------------------------------------------------


def table(scores: Sequence[ModelScore]) -> str:
    """One line for each tag and model, models of a tag below each other."""
    lines = [
        f"{'tag':<24} {'model':<28} {'frames':>7} {'precision':>9} {'recall':>7} {'F1':>6} {'span IoU':>9} "
        f"{'ends off: median':>16} {'95 %':>7}"
    ]
    names = list(dict.fromkeys(t.tag for s in scores for t in s.tags))
    few = False
    for name in names:
        for score in scores:
            for tag in score.tags:
                if tag.tag == name:
                    lines.append(_row(name[:24], score.model, tag.counts, tag.spans))
                    few = few or not tag.counts.enough
    for score in scores:
        lines.append(_row("all tags", score.model, score.counts, None))
    if few:
        lines.append(f"* fewer than {ENOUGH} frames with the tag: these figures say little yet.")
    lines += [_calibration_line(score) for score in scores]
    return "\n".join(lines)


def _row(tag: str, model: str, counts: Counts, spans: Tally | None) -> str:
    frames = counts.right + counts.invented + counts.missed + counts.absent
    quality = "–" if spans is None else f"{spans.quality:.2f}"
    ends = [None if spans is None else spans.error_ms(share) for share in (0.5, 0.95)]
    median, most = ("–" if ms is None else f"{ms / 1000:.1f} s" for ms in ends)
    mark = " " if counts.enough else "*"
    return (
        f"{tag:<24} {model[-28:]:<28} {frames:>7}{mark}{_percent(counts.precision):>9} {_percent(counts.recall):>7} "
        f"{_percent(counts.f1):>6} {quality:>9} {median:>16} {most:>7}"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _calibration_line(score: ModelScore) -> str:
    calibration = score.calibration
    if calibration.error is None:
        return f"{score.model}: named nothing."
    bins = "; ".join(f"{sure:.2f} → {right:.0%} of {n}" for n, sure, right in calibration.bins())
    if len(calibration.bins()) == 1:
        return f"{score.model}: always equally sure ({bins} right), so no threshold can tell its errors apart."
    return f"{score.model}: sure by → right: {bins}. Expected calibration error {calibration.error:.2f}."


def enough_to_say(scores: Sequence[ModelScore]) -> str:
    """A sentence when there is too little evidence for any figure; else empty."""
    if any(score.counts.enough for score in scores):
        return ""
    most = max((s.counts.right + s.counts.invented + s.counts.missed for s in scores), default=0)
    return (
        f"There is not enough to go by yet: {count_text(most, 'frame')} with a tag in the scenes you went through; "
        f"at least {ENOUGH} are needed. Set, move or delete some markers in more scenes."
    )


def as_json(scores: Sequence[ModelScore]) -> list[dict[str, Any]]:
    """The figures, for the report."""
    return [
        {
            "model": score.model,
            **_figures(score.counts, score.calibration),
            "tags": [
                {
                    "tag": t.tag,
                    "scenes": t.scenes,
                    **_figures(t.counts, t.calibration),
                    "spans": None if t.spans is None else t.spans.as_json(),
                }
                for t in score.tags
            ],
        }
        for score in scores
    ]


def _figures(counts: Counts, calibration: Calibration) -> dict[str, Any]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "frames": {
            "right": counts.right,
            "invented": counts.invented,
            "missed": counts.missed,
            "absent": counts.absent,
        },
        "enough": counts.enough,
        "precision": rounded(counts.precision),
        "recall": rounded(counts.recall),
        "f1": rounded(counts.f1),
        "calibration": {
            "expected_error": rounded(calibration.error),
            "bins": [
                {"frames": n, "confidence": round(sure, 4), "right": round(right, 4)}
                for n, sure, right in calibration.bins()
            ],
        },
    }
