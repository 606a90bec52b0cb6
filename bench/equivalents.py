"""Mutants that no test can notice, each with the reason: `bench.mutation` leaves them out of its count."""

from __future__ import annotations

_TIE = "two courses are never exactly as likely: the chances are sums of logarithms of different numbers"
_ANY_NUMBER = "tickets are only compared: any other number tells two states apart as well"
_SET_BEFORE = "read in one state only, and set on the way there"
_VOTES = "return Anchor(at_ms, instead, tuple(v for v in votes_ms if 0 <= v <= last_ms))"
_FIRST = "the first moment is always an anchor, and a vote at an anchor is passed over"
_KNOWN = "the answers next to what is chased are known, and say that the tag is not there"
_SIDES = "sides = [c + d for c in cuts[first:after] for d in (-margin, margin) if low < c + d < high]"
_NEARER = "where one side of a cut is an end of the stretch, its other side is nearer to the middle, or all is settled"
_NO_ANCHOR = "no vote is at an anchor, nor at the moment that it is about"
_NARROWED = "if narrowed[0] < vote < narrowed[1]:"
_TWICE = "a vote that two anchors share says the same twice"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("haven_vlm.spans", "break", "break → continue"): "courses that agree with their errors come out the same again",
    (
        "haven_vlm.spans",
        "steps.append((left > stayed_away, stayed >= came))",
        "left > stayed_away → left >= stayed_away",
    ): _TIE,
    ("haven_vlm.spans", "steps.append((left > stayed_away, stayed >= came))", "stayed >= came → stayed > came"): _TIE,
    ("haven_vlm.spans", "state = there > away", "there > away → there >= away"): _TIE,
    (
        "haven_vlm.spans",
        "if not whole and gain < proof(length_ms):",
        "gain < proof(length_ms) → gain <= proof(length_ms)",
    ): "no stretch is exactly as much likelier as is asked of it",
    ("haven_vlm.sampling", _VOTES, "0 <= v <= last_ms → 0 < v <= last_ms"): _FIRST,
    ("haven_vlm.sampling", _VOTES, "0 → 1"): _FIRST,
    ("haven_vlm.refinement", _SIDES, "low < c + d < high → low <= c + d < high"): _NEARER,
    ("haven_vlm.refinement", _SIDES, "low < c + d < high → low < c + d <= high"): _NEARER,
    ("haven_vlm.refinement", "if not low < vote < high:", "low < vote < high → low <= vote < high"): _NO_ANCHOR,
    ("haven_vlm.refinement", "if not low < vote < high:", "low < vote < high → low < vote <= high"): _NO_ANCHOR,
    ("haven_vlm.refinement", _NARROWED, "narrowed[0] < vote < narrowed[1] → narrowed[0] <= vote < narrowed[1]"): _TWICE,
    ("haven_vlm.refinement", _NARROWED, "narrowed[0] < vote < narrowed[1] → narrowed[0] < vote <= narrowed[1]"): _TWICE,
    ("haven_vlm.refinement", "if vote > first:", "vote > first → vote >= first"): _NO_ANCHOR,
    (
        "haven_vlm.refinement",
        "if left is right or high - low <= self._tolerance or not (differing := left ^ right):",
        "high - low <= self._tolerance → high - low < self._tolerance",
    ): "a stretch as narrow as the tolerance is not halved either way",
    ("haven_vlm.refinement", "if not before < vote < after:", "before < vote < after → before <= vote < after"): _KNOWN,
    ("haven_vlm.refinement", "if not before < vote < after:", "before < vote < after → before < vote <= after"): _KNOWN,
    (
        "haven_vlm.shots",
        "return distances[len(distances) * 19 // 20] if distances else 0",
        "0 → 1",
    ): "without distances between keyframes nothing is compared with the usual one",
    ("haven_vlm.resilience", "_generation: int = field(default=0, init=False)", "0 → 1"): _ANY_NUMBER,
    ("haven_vlm.resilience", "self._generation += 1", "self._generation += 1 → self._generation -= 1"): _ANY_NUMBER,
    ("haven_vlm.resilience", "self._generation += 1", "1 → 2"): _ANY_NUMBER,
    ("haven_vlm.resilience", "_probing: bool = field(default=False, init=False)", "False → True"): _SET_BEFORE,
    ("haven_vlm.resilience", "_open_until: float = field(default=0.0, init=False)", "0.0 → 1.0"): _SET_BEFORE,
    ("haven_vlm.resilience", "_mean: float = field(default=0.0, init=False)", "0.0 → 1.0"): "the first answer sets it",
    ("haven_vlm.resilience", "_MOST_DOUBLINGS = 60", "60 → 61"): "either is beyond every limit",
    (
        "haven_vlm.resilience",
        "return max(self._position.get(name, 0.0), self._front - self.bound / weight)",
        "0.0 → 1.0",
    ): "all places move by as much",
    (
        "haven_vlm.endpoint_faults",
        'text = body[:200_000].decode("utf-8", "replace")',
        "200000 → 200001",
    ): "only the beginning of an error is looked at; this bounds the work on the rest",
    ("haven_vlm.concurrency", "_epoch: int = field(default=0, init=False)", "0 → 1"): _ANY_NUMBER,
    ("haven_vlm.concurrency", "self._epoch += 1", "self._epoch += 1 → self._epoch -= 1"): _ANY_NUMBER,
    ("haven_vlm.concurrency", "self._epoch += 1", "1 → 2"): _ANY_NUMBER,
}
"""(module, source line, change) → why it changes nothing that anybody could see."""
