"""Find Marker Settings: which settings of each tag would have given the markers that a person has set. Pure.

Scenes are dealt into folds. The search fits each tag to all scenes, and for each fold to all the others; what the
latter gives on the fold itself is how well fitted settings do on scenes they have never seen. A tag gets a proposal
only if there is enough to go by, if it fits better, if held-out scenes get clearly better in this tag, and not worse
in all tags together. All figures come from reading whole scenes with the proposed settings, as an update will. With
fewer than five scenes, stretches of scenes take their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from haven_vlm.agreement import Stretch, Tally, Verdict, compare
from haven_vlm.marker_search import AS_GOOD, Choice, Part, Prepared, Search
from haven_vlm.reviewed import Reviewed
from haven_vlm.settings import Settings
from haven_vlm.timeline import judged
from haven_vlm_utility import Length, count_text

FOLDS = 5
LEAST_SPANS, LEAST_PARTS = 5, 3
"""A tag needs so many spans (true ones, and found ones that are not), in so many scenes or stretches of scenes."""

LEAST_GAIN = 0.01
"""Mean IoU by which all scenes together must fit better, and what was held out, too."""

CLEAR = 2.0
"""Standard errors by which held-out scenes must gain: a hand that errs at random is fitted by chance, too."""

REQUIRED_S = (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 45, 60, 90, 120)
LEAST_MISTAKEN = 2
"""Scenes that must have, or lack, a tag wrongly before `required_duration` is fitted."""


@dataclass(frozen=True, slots=True)
class TagResult:
    """What was found out about one tag."""

    tag: str
    scenes: int
    """Scenes that tell something about it."""
    today: Choice
    best: Choice
    """What fits all scenes best; today's settings when there is too little to go by."""
    fitted: tuple[Tally, Tally]
    """All scenes, with today's settings and with the best."""
    held_out: tuple[Tally, Tally]
    """The same, but each scene with what fits the others best."""
    refused: str = ""
    """Why the best is not proposed, in words; empty when it is."""
    required: tuple[Length, Length] | None = None
    """`required_duration` today and as proposed, if another is."""
    mistaken: tuple[int, int] = (0, 0)
    """Scenes that have or lack the tag wrongly, with the required duration of today and the one proposed."""

    @property
    def changes(self) -> dict[str, tuple[float | Length, float | Length]]:
        """Key of `tag_settings` → value today and value proposed."""
        changed: dict[str, tuple[float | Length, float | Length]] = {}
        if not self.refused:
            for key in Choice._fields:
                before, after = getattr(self.today, key), getattr(self.best, key)
                if before != after:
                    changed[key] = (before, after)
        if self.required:
            changed["required_duration"] = self.required
        return changed


@dataclass(frozen=True, slots=True)
class Proposal:
    """What Find Marker Settings found."""

    tags: tuple[TagResult, ...]
    """In the order of the vocabulary; those no scene tells anything about are left out."""
    scenes: int
    stretches: bool
    """Stretches of scenes were held out, because there are too few scenes."""

    @property
    def changed(self) -> tuple[TagResult, ...]:
        """Tags that get other settings."""
        return tuple(t for t in self.tags if t.changes)


def propose(scenes: Sequence[Reviewed], settings: Settings, *, step: Callable[[float], None] | None = None) -> Proposal:
    """Find settings for all tags that these scenes tell something about.

    Args:
        scenes: gone through by the user.
        settings: of today.
        step: told the share that is done, 0 to 1.
    """
    return _Tuning(scenes, settings, step or (lambda _: None)).propose()


NO_SPANS = Tally()

Chosen = Mapping[str, Choice]
"""Tag → settings instead of today's."""


@dataclass(slots=True)
class _Candidate:
    """A tag under consideration."""

    tag: str
    scenes: int
    today: Choice
    folds: Mapping[Part, int]
    best: Choice
    by_fold: tuple[Choice, ...] = ()
    refused: str = ""
    fitted: Tally = NO_SPANS
    held_out: Tally = NO_SPANS

    def refuse(self, reason: str, fitted: Tally, held_out: Tally) -> None:
        self.refused, self.fitted, self.held_out = reason, fitted, held_out


class _Tuning:
    def __init__(self, scenes: Sequence[Reviewed], settings: Settings, step: Callable[[float], None]) -> None:
        self._settings = settings
        self._scenes = [Prepared(scene, settings) for scene in scenes]
        self._parts = _parts([scene.duration_ms for scene in scenes])
        self._step = step
        self._verdicts: dict[tuple[int, frozenset[tuple[str, Choice]]], dict[str, list[Verdict]]] = {}
        """Scene and choices → what became of its spans; today's and the last ones are asked for again and again."""

    def propose(self) -> Proposal:
        names = [t.name for t in self._settings.tuned_tags]
        names = [n for n in names if any(n in s.scene.truth for s in self._scenes)]
        nothing: Chosen = {}
        before = self._tallies(names, lambda _: nothing)
        candidates: list[_Candidate] = []
        for number, name in enumerate(names):
            candidates.append(self._candidate(name, before[name]))
            self._step(0.7 * (number + 1) / len(names))
        fitted, held_out = self._prove(candidates, before)
        self._step(0.95)
        results = []
        for c in candidates:
            now = (c.fitted, c.held_out) if c.refused else (fitted[c.tag], held_out[c.tag])
            result = TagResult(
                c.tag, c.scenes, c.today, c.best, (before[c.tag], now[0]), (before[c.tag], now[1]), c.refused
            )
            results.append(self._with_required(result))
        self._step(1.0)
        return Proposal(tuple(results), len(self._scenes), len(self._parts) > len(self._scenes))

    def _candidate(self, tag: str, today: Tally) -> _Candidate:
        telling = [p for p in self._parts if tag in self._scenes[p.scene].scene.truth]
        folds = self._dealt(tag, telling)
        scenes = len({p.scene for p in telling})
        now = Choice.of(self._settings, tag)
        candidate = _Candidate(tag, scenes, now, folds, now)
        in_parts = self._parts_with_spans(tag, telling)
        if today.spans < LEAST_SPANS or in_parts < LEAST_PARTS:
            unit = "stretch" if len(self._parts) > len(self._scenes) else "scene"
            candidate.refuse(
                f"too little to go by: {count_text(today.spans, 'span')} in {count_text(in_parts, unit)}, "
                f"at least {LEAST_SPANS} in {LEAST_PARTS} are needed",
                today,
                today,
            )
            return candidate
        if today.quality >= 1 - AS_GOOD:
            candidate.refuse("today's settings fit", today, today)
            return candidate
        search = Search(tag, now, self._scenes, folds)
        candidate.best = search.best()
        candidate.by_fold = tuple(search.best(without=fold) for fold in range(max(folds.values()) + 1))
        if candidate.best == now:
            candidate.refuse("today's settings fit best", today, today)
        return candidate

    def _parts_with_spans(self, tag: str, parts: Iterable[Part]) -> int:
        count = 0
        for part in parts:
            verdicts = self._read(part.scene, {})[tag]
            count += any(part.from_ms <= v.at_ms < part.until_ms for v in verdicts)
        return count

    def _dealt(self, tag: str, parts: Sequence[Part]) -> dict[Part, int]:
        """The parts in folds, those with many spans first, so that each fold gets its share."""

        def weight(part: Part) -> int:
            true = self._scenes[part.scene].scene.truth[tag].spans
            return sum(part.from_ms <= (a + b) // 2 < part.until_ms for a, b in true)

        ordered = sorted(parts, key=lambda p: (-weight(p), p.scene, p.from_ms))
        return {part: place % FOLDS for place, part in enumerate(ordered)}

    def _prove(self, candidates: Sequence[_Candidate], before: Mapping[str, Tally]) -> tuple[_Tallies, _Tallies]:
        """Read whole scenes with all that is proposed together, and refuse what makes anything worse."""
        names = list(before)
        while True:
            standing = [c for c in candidates if not c.refused]
            chosen = {c.tag: c.best for c in standing}
            fitted = self._tallies(names, lambda _, chosen=chosen: chosen)  # type: ignore[misc]
            held_out = self._tallies(
                names,
                lambda part, standing=standing: {  # type: ignore[misc]
                    c.tag: c.by_fold[c.folds[part]] if part in c.folds else c.best for c in standing
                },
            )
            if not standing or not self._refuse_one(standing, before, fitted, held_out):
                return fitted, held_out

    def _refuse_one(
        self, standing: Sequence[_Candidate], before: _Tallies, fitted: _Tallies, held_out: _Tallies
    ) -> bool:
        def gain(c: _Candidate) -> float:
            return fitted[c.tag].quality - before[c.tag].quality

        refused = False
        for c in standing:
            was, would = before[c.tag].quality, held_out[c.tag].quality
            if would < was:
                c.refuse(
                    f"on what was held out it is worse: mean IoU {was:.2f} → {would:.2f}",
                    fitted[c.tag], held_out[c.tag],
                )  # fmt: skip
                refused = True
            elif gain(c) < LEAST_GAIN:
                c.refuse(f"hardly better: mean IoU +{max(0.0, gain(c)):.3f}", fitted[c.tag], held_out[c.tag])
                refused = True
            elif would - was < max(LEAST_GAIN, CLEAR * self._standard_error(c, standing)):
                c.refuse(
                    f"on what was held out it is not clearly better: mean IoU {was:.2f} → {would:.2f}, which may be "
                    "chance",
                    fitted[c.tag], held_out[c.tag],
                )  # fmt: skip
                refused = True
        if refused:
            return True
        # tags share what is learned about the model's errors, and exclude or imply each other
        if min(_together(held_out), _together(fitted)) < _together(before) - 1e-9:
            least = min(standing, key=gain)
            least.refuse("it would make other tags worse", fitted[least.tag], held_out[least.tag])
            return True
        return False

    def _standard_error(self, candidate: _Candidate, standing: Sequence[_Candidate]) -> float:
        """Of the gain on held-out parts: the jackknife's, which leaves out one part after the other."""
        tag = candidate.tag
        pairs: list[tuple[Tally, Tally]] = []
        for part in candidate.folds:
            chosen = {c.tag: c.by_fold[c.folds[part]] if part in c.folds else c.best for c in standing}
            before, after = self._read(part.scene, {})[tag], self._read(part.scene, chosen)[tag]
            inside = [Tally.of(v for v in some if part.from_ms <= v.at_ms < part.until_ms) for some in (before, after)]
            pairs.append((inside[0], inside[1]))
        (iou_a, n_a), (iou_b, n_b) = ((sum(p[i].iou for p in pairs), sum(p[i].spans for p in pairs)) for i in (0, 1))
        gains = [(iou_b - b.iou) / max(1, n_b - b.spans) - (iou_a - a.iou) / max(1, n_a - a.spans) for a, b in pairs]
        mean = sum(gains) / len(gains)
        return math.sqrt((len(gains) - 1) / len(gains) * sum((g - mean) ** 2 for g in gains))

    # --- reading scenes ---------------------------------------------------------------------------------------

    def _tallies(self, names: Sequence[str], choices: Callable[[Part], Chosen]) -> dict[str, Tally]:
        found: dict[str, list[Verdict]] = {name: [] for name in names}
        for part in self._parts:
            for tag, verdicts in self._read(part.scene, choices(part)).items():
                found[tag] += [v for v in verdicts if part.from_ms <= v.at_ms < part.until_ms]
        return {tag: Tally.of(verdicts) for tag, verdicts in found.items()}

    def _read(self, number: int, chosen: Chosen) -> dict[str, list[Verdict]]:
        changed = {tag: c for tag, c in chosen.items() if c != Choice.of(self._settings, tag)}
        key = (number, frozenset(changed.items()))
        if key not in self._verdicts:
            scene = self._scenes[number].scene
            kept = self._kept(number, changed)
            self._verdicts[key] = {
                tag: compare(true.spans, kept.get(tag, []), true.points_ms) for tag, true in scene.truth.items()
            }
        return self._verdicts[key]

    def _kept(self, number: int, chosen: Chosen) -> dict[str, list[Stretch]]:
        kept: dict[str, list[Stretch]] = {}
        prepared = self._scenes[number]
        scene, rules = prepared.scene, prepared.rules
        own = {tag: choice.rule(rules.tags[tag], scene.duration_ms) for tag, choice in chosen.items()}
        rules = replace(rules, tags={**rules.tags, **own})
        for span in judged(prepared.reading.spans(rules), rules).spans:
            kept.setdefault(span.tag, []).append((span.start_ms, span.end_ms))
        return kept

    # --- required_duration ------------------------------------------------------------------------------------

    def _with_required(self, result: TagResult) -> TagResult:
        """Fit the total time from which a scene gets the tag, if enough scenes have or lack it wrongly."""
        telling = [
            (n, truth.carried)
            for n, s in enumerate(self._scenes)
            if (truth := s.scene.truth.get(result.tag)) is not None and truth.carried is not None
        ]
        own = next(t for t in self._settings.tuned_tags if t.name == result.tag).required_duration
        today = self._settings.required_duration if own is None else own
        if len({carried for _, carried in telling}) < 2:
            return result
        lengths = [today, *(Length(float(s)) for s in REQUIRED_S if Length(float(s)) != today)]
        chosen = {} if result.refused else {result.tag: result.best}
        totals = [self._total(n, result.tag, chosen) for n, _ in telling]
        wrong = [
            [
                (total > 0 and total >= min(length.ms(self._duration(n)), self._duration(n))) != carried
                for (n, carried), total in zip(telling, totals, strict=True)
            ]
            for length in lengths
        ]
        mistaken = sum(wrong[0])
        if mistaken < LEAST_MISTAKEN:
            return result

        def best(without: int | None) -> int:
            # of equals the first: today's, then the shortest
            return min(range(len(lengths)), key=lambda k: (sum(w for i, w in enumerate(wrong[k]) if i != without), k))

        held_out = sum(wrong[best(i)][i] for i in range(len(telling)))
        fit = best(None)
        if fit == 0 or held_out >= mistaken:
            return result
        return replace(result, required=(today, lengths[fit]), mistaken=(mistaken, sum(wrong[fit])))

    def _total(self, number: int, tag: str, chosen: Chosen) -> int:
        prepared = self._scenes[number]
        scene, rules = prepared.scene, prepared.rules
        own = {name: choice.rule(rules.tags[name], scene.duration_ms) for name, choice in chosen.items()}
        found = prepared.reading.spans(replace(rules, tags={**rules.tags, **own}))
        return sum(s.end_ms - s.start_ms for s in found if s.tag == tag)

    def _duration(self, number: int) -> int:
        return self._scenes[number].scene.duration_ms


_Tallies = Mapping[str, Tally]


def _together(tallies: _Tallies) -> float:
    """Quality over the spans of all tags."""
    spans = sum(t.spans for t in tallies.values())
    return sum(t.iou for t in tallies.values()) / spans if spans else 1.0


def _parts(durations_ms: Sequence[int]) -> list[Part]:
    """Whole scenes; of fewer than five, stretches."""
    each = -(-FOLDS // len(durations_ms)) if len(durations_ms) < FOLDS else 1
    parts = []
    for number, duration in enumerate(durations_ms):
        edges = [duration * i // each for i in range(each)]
        for i, edge in enumerate(edges):
            # verdicts may lie before the first frame or behind the last: markers of hands do
            parts.append(Part(number, -(2**62) if i == 0 else edge, edges[i + 1] if i + 1 < each else 2**62))
    return parts
