"""One run of a policy over a clip, scored against the truth; rows and tables of such scores."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.truth import Clip, Model, Muddled, Perfect
from demo.footage import TAGS
from haven_vlm.facts import Glimpse, Outcome, Sample, Span
from haven_vlm.likeness import is_blank, same_picture
from haven_vlm.sampling import make_sampler
from haven_vlm.settings import Settings
from haven_vlm.spans import merge
from haven_vlm.timeline import conclude


def settings(**changes: object) -> Settings:
    """Defaults, with the clips' tags."""
    return Settings.model_validate(
        {"endpoints": [{"base_url": "http://localhost:1234/v1"}], "tag_list": list(TAGS), **changes}
    )


@dataclass(frozen=True, slots=True)
class Score:
    """How one run did."""

    calls: int
    iou: float
    """Mean over the tags that are there or were found."""
    ious_long: tuple[float, ...]
    """Of each true span longer than the interval, with the found span that fits it best."""
    errors_s: tuple[float, ...]
    """Distances of the ends of found spans from the true ones."""
    missed_s: tuple[float, ...]
    """Lengths of the true spans that no found span of the tag touches."""
    invented: int
    """Found spans that touch no true one."""


def run(clip: Clip, model: Model, wanted: Settings, *, look: bool = False) -> tuple[dict[int, Sample], int]:
    """Sample a clip to the end, as the engine does: passes in order of time; returns the samples and the calls.

    `look`: the policy may see the pictures: keyframes, and frames that look like their asked neighbour.
    With `frames_per_question` the coarse moments share questions.
    """
    survey: tuple[Glimpse, ...] | None = clip.survey() if look and wanted.sampling == "adaptive" else None
    sampler = make_sampler(wanted, clip.duration_ms, survey)
    compare = look and wanted.skip_similar_frames
    seen: dict[int, Sample] = {}
    asked: dict[int, bytes] = {}
    order: list[int] = []
    calls = 0
    while (wish := sampler.wish(seen)).now:
        together: list[int] = []
        for at in wish.now:
            if compare:
                luma = clip.luma(at)
                if is_blank(luma):
                    seen[at] = Sample(at, at, Outcome.NONE, inherited_from_ms=at)
                    continue
                leader = like(asked, order, at, luma)
                if leader is not None:
                    source = seen[leader]
                    seen[at] = Sample(at, at, source.outcome, source.tags, inherited_from_ms=leader)
                    continue
                asked[at] = luma
                insort(order, at)
            if at not in wish.coarse or compare:
                calls += _ask(clip, model, [at], seen)
                continue
            together.append(at)
            if len(together) == wanted.frames_per_question:
                calls += _ask(clip, model, together, seen)
                together = []
        calls += _ask(clip, model, together, seen)
    return seen, calls


def _ask(clip: Clip, model: Model, together: Sequence[int], seen: dict[int, Sample]) -> int:
    """One question about these moments; returns how many it took, one or none."""
    if not together:
        return 0
    taken = model.in_company(together) if isinstance(model, Muddled) else together
    seen.update((at, sample_of(at, model.answer(clip, other))) for at, other in zip(together, taken, strict=True))
    return 1


def sample_of(at_ms: int, tags: Iterable[str]) -> Sample:
    """An analysed moment."""
    named = dict.fromkeys(tags, 0.99)
    return Sample(at_ms, at_ms, Outcome.TAGS if named else Outcome.NONE, named)


def like(asked: Mapping[int, bytes], order: Sequence[int], at_ms: int, luma: bytes) -> int | None:
    """The nearest asked moment on either side that looks the same."""
    place = bisect_left(order, at_ms)
    for leader in sorted(order[max(0, place - 1) : place + 1], key=lambda t: abs(t - at_ms)):
        if same_picture(asked[leader], luma):
            return leader
    return None


def score(clip: Clip, samples: Mapping[int, Sample], calls: int, wanted: Settings) -> Score:
    """Compare what the timeline makes of the samples with the truth, joined across gaps as the settings say."""
    gap, interval = wanted.max_gap.ms(clip.duration_ms), wanted.video_frame_interval.ms(clip.duration_ms)
    found = conclude(samples, clip.duration_ms, wanted).spans
    ious: list[float] = []
    long: list[float] = []
    errors: list[float] = []
    missed: list[float] = []
    invented = 0
    for tag in clip.tags:
        true = merge((s for s in clip.spans if s.tag == tag), gap)
        ours = [s for s in found if s.tag == tag]
        if true or ours:
            ious.append(overlap(true, ours))
        for span in true:
            length = span.end_ms - span.start_ms
            best = max(ours, key=lambda o: overlap([span], [o]), default=None)
            fit = overlap([span], [best]) if best else 0.0
            if length > interval:
                long.append(fit)
            if best and fit:
                errors += [abs(span.start_ms - best.start_ms) / 1000, abs(span.end_ms - best.end_ms) / 1000]
            else:
                missed.append(length / 1000)
        invented += sum(not overlap(true, [o]) for o in ours)
    mean = statistics.fmean(ious) if ious else 1.0
    return Score(calls, mean, tuple(long), tuple(errors), tuple(missed), invented)


def overlap(true: Sequence[Span], ours: Sequence[Span]) -> float:
    """Time in both by time in either, 0 to 1; 1 if there is none at all."""
    common = sum(max(0, min(t.end_ms, o.end_ms) - max(t.start_ms, o.start_ms)) for t in true for o in ours)
    total = sum(s.end_ms - s.start_ms for s in (*true, *ours)) - common
    return common / total if total else 1.0


def bound(clip: Clip, wanted: Settings) -> int:
    """The scan, and log2(interval / tolerance), rounded up, for each true boundary; those at the same time once."""
    interval, tolerance = wanted.video_frame_interval.seconds, wanted.boundary_tolerance.seconds
    scan = run(clip, Perfect(), wanted.model_copy(update={"sampling": "fixed"}))[1]
    edges = {e for s in clip.spans for e in (s.start_ms, s.end_ms)} - {0, clip.duration_ms}
    return scan + max(0, math.ceil(math.log2(interval / tolerance))) * len(edges)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table, over seeds."""

    what: str
    calls: float
    """Median."""
    ratio: float
    """Median of calls by those of a scan every two seconds."""
    iou: float
    """Median."""
    iou_long: float
    """Mean over all spans longer than the interval."""
    error_s: float
    """Median of all."""
    error_p95_s: float
    missed: float
    """Mean of each clip."""
    longest_missed_s: float
    """In any clip; 0 if none was missed."""
    invented: float
    """Mean of each clip."""
    invented_most: int


def line(what: str, clips: Sequence[Clip], scores: Sequence[Score]) -> Line:
    """Put the scores of several clips into one row."""
    errors = sorted(e for s in scores for e in s.errors_s) or [math.nan]
    long = [i for s in scores for i in s.ious_long]
    return Line(
        what=what,
        calls=statistics.median(s.calls for s in scores),
        ratio=statistics.median(s.calls / (c.duration_ms / 2000 + 1) for s, c in zip(scores, clips, strict=True)),
        iou=statistics.median(s.iou for s in scores),
        iou_long=statistics.fmean(long) if long else math.nan,
        error_s=statistics.median(errors),
        error_p95_s=errors[min(len(errors) - 1, len(errors) * 95 // 100)],
        missed=statistics.fmean(len(s.missed_s) for s in scores),
        longest_missed_s=max((m for s in scores for m in s.missed_s), default=0.0),
        invented=statistics.fmean(s.invented for s in scores),
        invented_most=max(s.invented for s in scores),
    )


def measure(
    what: str, clips: Sequence[Clip], model: Callable[[int], Model], wanted: Settings, *, look: bool = False
) -> Line:
    """One row: the same policy over clips, and a model for each clip's number."""
    scores = []
    for number, clip in enumerate(clips):
        samples, calls = run(clip, model(number), wanted, look=look)
        scores.append(score(clip, samples, calls, wanted))
    return line(what, clips, scores)


HEAD = (
    f"{'':44}{'calls':>7}{'ratio':>7}{'IoU':>7}{'long':>7}{'error s':>9}{'p95 s':>7}"
    f"{'missed':>8}{'longest s':>11}{'invented':>10}{'most':>6}"
)


def show(title: str, lines: Iterable[Line]) -> None:
    """Print one table."""
    print(f"\n{title}\n{HEAD}")
    for row in lines:
        print(
            f"{row.what:44}{row.calls:7.0f}{row.ratio:7.2f}{row.iou:7.3f}{row.iou_long:7.3f}{row.error_s:9.2f}"
            f"{row.error_p95_s:7.2f}{row.missed:8.2f}{row.longest_missed_s:11.1f}{row.invented:10.2f}"
            f"{row.invented_most:6}"
        )
