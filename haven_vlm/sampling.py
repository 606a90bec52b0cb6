"""Where to look next: the sampling policies behind the `Sampler` port. Pure: the same answers give the same wish.

* `fixed`: every interval, and shortly before the end.
* `refine`: the same moments, then the ends of what was found, searched for by `refinement`.
* `adaptive`: one look at each shot and few within long ones, then the ends; still stretches at every interval, since
  frames that look alike cost no question.

With an upper bound of questions the coarse moments are thinned evenly to fit, and the finer ones are asked step by
step, those that settle most first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haven_vlm.facts import Glimpse, Outcome, Sample, Wish
from haven_vlm.ports import Sampler
from haven_vlm.probing import Anchor, Rules, cut_margin
from haven_vlm.refinement import VOTE_MS, Search
from haven_vlm.settings import Settings
from haven_vlm.shots import Shot, find_shots

END_MS = 100
"""Distance of the last moment from the end of the medium: there is a frame there, whatever the container counts."""

MOST_ANCHORS = 50_000
"""Bound of the fixed moments of one medium: more than a day at two seconds. Beyond, the interval is stretched."""

SCAN_SHARE = 0.75
"""Share of a bounded number of questions that goes to the coarse moments, if the ends are to be searched as well."""

LONG_SHOT = 8
"""Intervals between two looks within one shot, for `adaptive`; and at most `LONG_SHOT_MS`."""
LONG_SHOT_MS = 16_000

FLASH_MS = 1000
"""A shot gets no look of its own if less than this, and than half the interval, lies behind the margin of its cut."""

EVEN_STEPS = (32, 8, 2)
"""With a limit of time, every so many fixed moments are looked at first, then so many, and so on."""

EXPECTED_EXTRA = 0.25
"""Questions that searching for ends takes for each stretch between two moments, before anything is known."""


class PolicySampler:
    """A `Sampler` over a search, within a bound of questions.

    `evenly`: the fixed moments are wanted a few at a time, each time spread over the whole medium, so that what is
    known when the time is up says something about all of it.
    """

    def __init__(self, search: Search, *, max_questions: int | None, evenly: bool) -> None:
        self._search = search
        self._max_questions = max_questions
        self._turns: dict[int, int] = {}
        """Fixed moment → when its turn is; empty: all at once."""
        if evenly:
            self._turns = {a.at_ms: sum(i % step > 0 for step in EVEN_STEPS) for i, a in enumerate(search.anchors)}

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        """See `Sampler.wish`."""
        probes = list(self._search.progress(seen).wanted.values())
        if self._turns and (waiting := [p for p in probes if p.step == 0]):
            turn = min(self._turns[p.at_ms] for p in waiting)
            probes = [p for p in waiting if self._turns[p.at_ms] == turn]
        if self._max_questions is not None and probes:
            # one step after the other: what is let through never depends on which answer came first
            step = min(p.step for p in probes)
            probes = sorted((p for p in probes if p.step == step), key=lambda p: (-p.gain, p.at_ms))
            probes = probes[: self._left(seen)]
        now = sorted(p.at_ms for p in probes)
        maybe = {m for p in probes for m in p.maybe if m not in seen}
        coarse = frozenset(p.at_ms for p in probes if p.step == 0)
        return Wish(tuple(now), coarse, tuple(sorted(maybe.difference(now))))

    def planned(self, seen: Mapping[int, Sample]) -> int:
        """See `Sampler.planned`."""
        progress = self._search.progress(seen)
        if not progress.wanted:
            return len(seen)
        more = len(progress.wanted) + progress.ahead
        if self._search.beyond_anchors:
            unsettled = len(self._search.anchors) - 1 - progress.settled
            rate = (progress.extra + EXPECTED_EXTRA * 20) / (progress.settled + 20)
            more += round(rate * unsettled)
        if self._max_questions is not None:
            more = min(more, self._left(seen))
        return len(seen) + more

    def _left(self, seen: Mapping[int, Sample]) -> int:
        assert self._max_questions is not None
        return max(0, self._max_questions - sum(_was_asked(s) for s in seen.values()))


def _was_asked(sample: Sample) -> bool:
    return sample.inherited_from_ms is None and sample.outcome is not Outcome.UNDECODABLE


def make_sampler(settings: Settings, duration_ms: int, survey: tuple[Glimpse, ...] | None = None) -> Sampler:
    """The policy that the settings name, for one medium.

    Args:
        duration_ms: length of the medium in milliseconds; 0 if unknown: then only its first frame is looked at.
        survey: its keyframes, for `adaptive`; without them `adaptive` looks as `refine` does.
    """
    interval = max(1, settings.video_frame_interval.ms(duration_ms))
    tolerance = settings.boundary_tolerance.ms(duration_ms)
    most, refined = settings.max_questions_per_scene, settings.sampling != "fixed"
    cuts: tuple[int, ...] = ()
    if settings.sampling == "adaptive" and survey:
        shots = find_shots(survey, duration_ms)
        anchors = _shot_anchors(shots, duration_ms, interval, tolerance, still_is_free=settings.skip_similar_frames)
        cuts = tuple(s.start_ms for s in shots[1:] if s.exact)
    else:
        anchors = _regular_anchors(duration_ms, interval, tolerance)
    bound = min(MOST_ANCHORS, most or MOST_ANCHORS)
    if most is not None and refined:
        bound = max(min(2, most), round(most * SCAN_SHARE))
    search = Search(
        _thinned(anchors, bound), _rules(settings, duration_ms, tolerance), cuts_ms=cuts, beyond_anchors=refined
    )
    return PolicySampler(search, max_questions=most, evenly=settings.max_time_per_scene is not None)


def _rules(settings: Settings, duration_ms: int, tolerance_ms: int) -> Rules:
    return Rules(
        tolerance_ms=tolerance_ms,
        thresholds={t.name: settings.threshold if t.threshold is None else t.threshold for t in settings.tuned_tags},
        gaps_ms={
            t.name: (settings.max_gap if t.max_gap is None else t.max_gap).ms(duration_ms) for t in settings.tuned_tags
        },
    )


def _last_ms(duration_ms: int) -> int:
    return max(0, duration_ms - END_MS)


def _anchor(at_ms: int, last_ms: int, interval_ms: int, votes_ms: tuple[int, ...]) -> Anchor:
    aside = max(1, min(VOTE_MS, interval_ms // 4))
    instead = at_ms + aside if at_ms + aside <= last_ms else max(0, at_ms - aside)
    return Anchor(at_ms, instead, tuple(v for v in votes_ms if 0 <= v <= last_ms))


def _regular_anchors(duration_ms: int, interval_ms: int, tolerance_ms: int) -> list[Anchor]:
    last, reach = _last_ms(duration_ms), min(VOTE_MS, tolerance_ms)
    interval_ms = max(interval_ms, last // MOST_ANCHORS)
    times = [*range(0, last, interval_ms), last]
    if len(times) > 2 and times[-1] - times[-2] < interval_ms // 4:
        del times[-2]  # the end is so near that one look does for both
    return [_anchor(t, last, interval_ms, (t + reach, t - reach)) for t in times]


def _shot_anchors(
    shots: Sequence[Shot], duration_ms: int, interval_ms: int, tolerance_ms: int, *, still_is_free: bool
) -> list[Anchor]:
    """Just behind each cut, evenly within long shots, and shortly before the end."""
    last, margin, reach = _last_ms(duration_ms), cut_margin(tolerance_ms), min(VOTE_MS, tolerance_ms)
    coarse = max(interval_ms, min(LONG_SHOT * interval_ms, LONG_SHOT_MS))
    anchors: list[Anchor] = []
    for shot in shots:
        start = 0 if not shot.start_ms else shot.start_ms + margin
        if anchors and shot.end_ms - start < min(interval_ms // 2, FLASH_MS):
            continue
        distance = interval_ms if shot.still and still_is_free else coarse
        looks = max(1, -(-(shot.end_ms - start) // distance))
        times = [start + (shot.end_ms - start) * i // looks for i in range(looks)]
        for i, at in enumerate(times):
            before_cut = shot.end_ms - margin
            votes = (before_cut, at + reach) if len(times) == 1 else (at + reach, at - reach if i else at + 2 * reach)
            anchors.append(_anchor(at, last, interval_ms, votes))
    if last - anchors[-1].at_ms >= interval_ms // 4:
        anchors.append(_anchor(last, last, interval_ms, (last - reach,)))
    return [a for a in anchors if a.at_ms <= last]


def _thinned(anchors: Sequence[Anchor], most: int) -> list[Anchor]:
    """Evenly chosen anchors, first and last among them, at most so many."""
    count = min(most, len(anchors))
    return [anchors[i * (len(anchors) - 1) // max(1, count - 1)] for i in range(count)]
