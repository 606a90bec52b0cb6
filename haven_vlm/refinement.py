"""The search for the ends of spans: which moments are still worth a question, given the answers so far. Pure.

What is wanted follows from the answers alone, step by step: fixed moments (anchors) first; where a tag is seen in one
anchor only, votes beside it; where believed anchors differ, halving of the stretch between them. Each step looks only
at answers that the steps before it asked for, so the moments asked in the end do not depend on the order in which
answers arrive, and a run can be replayed from the ledger.

Cost: a boundary between two anchors takes at most log2(distance / tolerance) questions, rounded up; tags that change
together share them. A vote takes the place of one halving: the stretch left over then may be up to twice the tolerance
wide, and its middle is still no further from the truth than the tolerance.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from haven_vlm.facts import Sample
from haven_vlm.probing import (
    FAILED,
    NOTHING,
    Anchor,
    AnswerReader,
    Ends,
    Look,
    Probe,
    Progress,
    Rules,
    Tags,
    cut_margin,
)

VOTE_MS = 400
"""Distance of a vote from the flip it is about: two of three frames within 0.8 s decide."""

WINDOW_MS = 4000
"""Stretches up to this length are worth decoding in one go, all steps of the search at once."""

SPARE_STEP, VOTE_STEP, HALVING_STEP, CHASE_STEP = 1, 2, 4, 200
"""Steps of the search: anchors (0), moments instead of failed ones, votes, halvings, and what was found on the way.
What follows from an answer has a higher step than that answer, so the steps can be asked one after the other."""


class Search:
    """A search over fixed anchors: the same answers always leave the same to be asked."""

    def __init__(
        self, anchors: Sequence[Anchor], rules: Rules, *, cuts_ms: Sequence[int] = (), beyond_anchors: bool = True
    ) -> None:
        """Prepare.

        Args:
            anchors: ascending by time.
            cuts_ms: moments, ascending, at which tags are likely to change; tried before halving.
            beyond_anchors: False: look at the anchors only.
        """
        self.anchors = tuple(anchors)
        self.rules = rules
        self.cuts_ms = tuple(cuts_ms)
        self.beyond_anchors = beyond_anchors
        self.reader = AnswerReader(rules)
        self._last: tuple[list[tuple[int, Sample]], Progress] | None = None

    def progress(self, seen: Mapping[int, Sample]) -> Progress:
        """What the answers so far leave to be asked. Not to be changed: the next call with the same answers gets it."""
        answers = list(seen.items())
        if self._last is None or self._last[0] != answers:
            self._last = answers, _Derivation(self, seen).run()
        return self._last[1]


class _Derivation:
    """One walk through the answers."""

    def __init__(self, search: Search, seen: Mapping[int, Sample]) -> None:
        self._search = search
        self._rules = search.rules
        self._tolerance = search.rules.tolerance_ms
        self._seen = seen
        self._out = Progress()
        self._live: list[Anchor] = []
        self._at: list[int] = []
        self._there: list[Tags | None] = []
        """Tags at each live anchor; None: not known yet."""
        self._derived: set[int] = set()
        self._votes: dict[tuple[int, str], list[int]] = {}
        """Index of a live anchor and tag → moments of the votes about its flip."""

    def run(self) -> Progress:
        self._anchors()
        if self._search.beyond_anchors:
            believed = [self._believed(i) for i in range(len(self._live))]
            for i in range(len(self._live) - 1):
                self._stretch(i, believed)
        self._out.extra = len(self._derived)
        return self._out

    # --- anchors ---

    def _anchors(self) -> None:
        anchors = self._search.anchors
        looks = [self._answer(a.at_ms) for a in anchors]
        before: Tags | None = NOTHING
        for i, (anchor, look) in enumerate(zip(anchors, looks, strict=True)):
            at_ms = anchor.at_ms
            if look is None:
                self._out.want(Probe(at_ms, 0, 0))
            elif look is FAILED:
                sides = [looks[j] for j in (i - 1, i + 1) if 0 <= j < len(anchors)]
                at_ms = anchor.instead_ms
                if any(s is not None and s is not FAILED for s in sides) and at_ms != anchor.at_ms:
                    look = self._ask(at_ms, step=SPARE_STEP, gain=0)
                elif any(s is None for s in sides):
                    look = None
                if look is FAILED:
                    continue
            there = look.there if look is not None else None
            if look is not None and look.unclear:
                there = look.there | (look.unclear & before) if before is not None else None
            self._live.append(anchor)
            self._at.append(at_ms)
            self._there.append(there)
            before = there

    def _believed(self, i: int) -> Tags | None:
        """The tags at an anchor, lone flips only with the votes of their neighbourhood; None: not known yet."""
        last = len(self._live) - 1
        here = self._there[i]
        left = self._there[i - 1] if i else NOTHING
        right = self._there[i + 1] if i < last else NOTHING
        if here is None or left is None or right is None:
            return None
        if here is left or here is right or not (flips := (here ^ left) & (here ^ right)):
            return here
        before = self._at[i] - self._at[i - 1] if i else 0
        after = self._at[i + 1] - self._at[i] if i < last else 0
        pending = False
        for tag in sorted(flips):
            there = tag in here
            if not there and before + after <= self._rules.gaps_ms[tag]:
                here |= {tag}  # a pause that short is none
            elif max(before, after) > self._tolerance:
                verdict = self._vote(i, tag, there, before + after)
                if verdict is None:
                    pending = True
                elif not verdict:
                    here ^= {tag}
        return None if pending else here

    def _vote(self, i: int, tag: str, there: bool, doubt: int) -> bool | None:
        """Whether a lone flip is confirmed by one of its votes; None: not known yet."""
        low = self._at[i - 1] if i else -math.inf
        high = self._at[i + 1] if i + 1 < len(self._at) else math.inf
        asked = self._votes.setdefault((i, tag), [])
        places = [v for v in self._live[i].votes_ms if low < v < high and v != self._at[i]]
        for turn, at_ms in enumerate(places):
            asked.append(at_ms)
            look = self._ask(at_ms, step=VOTE_STEP + turn, gain=doubt, maybe=tuple(places[turn + 1 :]))
            if look is None:
                return None
            if look is not FAILED and (tag in look.there) == there:
                return True
        return not places

    # --- stretches between anchors ---

    def _stretch(self, i: int, believed: Sequence[Tags | None]) -> None:
        left, right = believed[i], believed[i + 1]
        if left is None or right is None:
            return
        self._out.settled += 1
        low, high = self._at[i], self._at[i + 1]
        if left is right or high - low <= self._tolerance or not (differing := left ^ right):
            return
        asked: list[int] = []
        settled = True
        for tag in sorted(differing):
            joined = self._joined(i, tag, believed)
            if joined is None:
                settled = False
            elif not joined:
                settled &= self._boundary(i, tag, tag in left, asked)
        if settled and asked and high - low > 4 * self._tolerance:
            self._chase(low, high, left, differing, asked)

    def _joined(self, i: int, tag: str, believed: Sequence[Tags | None]) -> bool | None:
        """Whether the tag is there again so soon that this boundary vanishes anyway; None: not known yet."""
        gap = self._rules.gaps_ms[tag]
        here = believed[i]
        assert here is not None
        others: Iterable[int] = range(i + 2, len(believed)) if tag in here else range(i - 1, -1, -1)
        edge = self._at[i] if tag in here else self._at[i + 1]
        for j in others:
            if abs(self._at[j] - edge) > gap:
                return False
            there = believed[j]
            if there is None:
                return None
            if tag in there:
                return True
        return False

    def _boundary(self, i: int, tag: str, there: bool, asked: list[int]) -> bool:
        """Search the boundary of a tag between two anchors; True: found as exactly as it is wanted."""
        low, high = self._at[i], self._at[i + 1]
        steps = self._steps(high - low)
        narrowed = (low, high)
        for vote in sorted(self._own_votes(i, tag) + self._own_votes(i + 1, tag)):
            if not low < vote < high:
                continue
            steps -= 1
            look = self._answer(vote)
            if look is None or look is FAILED:
                continue
            asked.append(vote)
            if narrowed[0] < vote < narrowed[1]:
                narrowed = (vote, narrowed[1]) if (tag in look.there) == there else (narrowed[0], vote)
        steps += self._spared(i + 1, tag)
        return self._halve(tag, there, *narrowed, steps=steps, step=HALVING_STEP, asked=asked)

    def _own_votes(self, i: int, tag: str) -> list[int]:
        return self._votes.get((i, tag), [])

    def _spared(self, i: int, tag: str) -> int:
        """Steps that the stretch behind a lone anchor needs no more, since its first vote ended the tag right there."""
        votes = self._own_votes(i, tag)
        if len(votes) < 2 or i + 1 == len(self._at) or not 0 < votes[0] - self._at[i] <= self._tolerance:
            return 0
        return max(0, self._steps(self._at[i + 1] - self._at[i]) - 1)

    def _steps(self, width_ms: int) -> int:
        """Halvings that make a stretch (wider than 0) as narrow as it is wanted; none or less than none if it is."""
        return math.ceil(math.log2(width_ms / self._tolerance))

    def _halve(self, tag: str, there: bool, low: int, high: int, *, steps: int, step: int, asked: list[int]) -> bool:
        """Narrow a stretch at whose lower end the tag's presence is `there`, and at whose upper end it is not.

        A single wrong answer sends the search to one of its ends for good. So when all of the last answers point to
        an end that one answer set, the last halving goes beyond that end instead; if that answer was wrong, the search
        goes back to where it was before it.
        """
        ends = Ends(low, high)
        doubted = False
        while ends.high - ends.low > self._tolerance:
            at_ms, certain = self._split(ends.low, ends.high)
            if not certain:
                if steps <= 0:
                    break
                steps -= 1
            may_doubt = not (steps or doubted or certain) and ends.high - ends.low <= 2 * self._tolerance
            beyond = ends.beyond_worn(min(VOTE_MS, self._tolerance)) if may_doubt else None
            if beyond is not None:
                at_ms, doubted = beyond, True
            maybe = self._within(ends.low, ends.high, at_ms)
            look = self._ask(at_ms, step=step, gain=ends.high - ends.low, maybe=maybe)
            if look is FAILED and beyond is None:  # one more try close by, then the stretch stays as wide as it is
                at_ms += max(1, (ends.high - at_ms) // 3)
                step += 1
                look = self._ask(at_ms, step=step, gain=ends.high - ends.low)
            if look is None:
                self._out.ahead += max(0, steps)
                return False
            if look is FAILED:
                break
            asked.append(at_ms)
            same = tag in look.unclear or (tag in look.there) == there
            if beyond is None:
                ends.move(at_ms, is_low=same)
            elif ends.reopen(at_ms, same):
                steps = self._steps(ends.high - ends.low)
            step += 1
        return True

    def _split(self, low: int, high: int) -> tuple[int, bool]:
        """Where to look in a stretch, and whether that is at a cut: its side nearest the middle, else halfway."""
        cuts = self._search.cuts_ms
        middle = (low + high) // 2
        if not cuts:
            return middle, False
        margin = cut_margin(self._tolerance)
        first, after = bisect_left(cuts, low), bisect_left(cuts, high)
        sides = [c + d for c in cuts[first:after] for d in (-margin, margin) if low < c + d < high]
        if not sides:
            return middle, False
        return min(sides, key=lambda s: abs(s - middle)), True

    def _within(self, low: int, high: int, but: int) -> tuple[int, ...]:
        """All moments that halving a short stretch can lead to."""
        if high - low > WINDOW_MS:
            return ()
        found: list[int] = []
        stretches = [(low, high)]
        while stretches and len(found) < 16:
            a, b = stretches.pop()
            if b - a > self._tolerance:
                middle, _ = self._split(a, b)
                if middle != but:
                    found.append(middle)
                stretches += [(a, middle), (middle, b)]
        return tuple(sorted(found))

    # --- what was found on the way ---

    def _chase(self, low: int, high: int, ends: Tags, differing: Tags, asked: Sequence[int]) -> None:
        """Search the ends of short spans that lie between two anchors and showed up while another end was sought.

        One generation only: what shows up during this is left to the timeline.
        """
        moments = sorted({*asked})
        looks = [self._answer(m) for m in moments]
        known = [(m, look) for m, look in zip(moments, looks, strict=True) if look is not None and look is not FAILED]
        changing = {tag for _, look in known for tag in (look.there ^ ends) - differing - look.unclear}
        for tag in sorted(changing):
            states = [(low, tag in ends), *((m, tag in look.there) for m, look in known), (high, tag in ends)]
            for first, last in _runs(states, tag not in ends):
                self._chased(tag, tag not in ends, [m for m, _ in states[first - 1 : last + 2]])

    def _chased(self, tag: str, there: bool, moments: Sequence[int]) -> None:
        """Vote on and search the ends of a run of moments that differ from the one before and the one after them."""
        before, first, last, after = moments[0], moments[1], moments[-2], moments[-1]
        if max(first - before, after - last) <= 2 * self._tolerance:
            return
        if not there and after - before <= self._rules.gaps_ms[tag]:
            return
        if first == last:
            reach = min(VOTE_MS, self._tolerance)
            for turn, vote in enumerate((first + reach, first - reach)):
                if not before < vote < after:
                    continue
                look = self._ask(vote, step=CHASE_STEP + turn, gain=after - before)
                if look is None:
                    return
                agrees = look is not FAILED and (tag in look.there) == there
                if vote > first:
                    after, last = (after, vote) if agrees else (vote, last)
                else:
                    before, first = (before, vote) if agrees else (vote, first)
                if agrees:
                    break
            else:
                return
        for a, b, state in ((before, first, not there), (last, after, there)):
            self._halve(tag, state, a, b, steps=self._steps(b - a), step=CHASE_STEP + 2, asked=[])

    # --- answers ---

    def _answer(self, at_ms: int) -> Look | None:
        sample = self._seen.get(at_ms)
        return None if sample is None else self._search.reader.look(sample)

    def _ask(self, at_ms: int, *, step: int, gain: int, maybe: tuple[int, ...] = ()) -> Look | None:
        """The answer at a moment; if there is none yet, it is wanted."""
        look = self._answer(at_ms)
        self._derived.add(at_ms)
        if look is None:
            self._out.want(Probe(at_ms, step, gain, maybe))
        return look


def _runs(states: Sequence[tuple[int, bool]], wanted: bool) -> Iterator[tuple[int, int]]:
    """First and last index of each run of a state that does not touch the ends."""
    first = None
    for i, (_, state) in enumerate(states):
        if state == wanted and first is None:
            first = i
        elif state != wanted and first is not None:
            yield first, i - 1
            first = None
