"""How sure a model was of each tag it named, from the probabilities of its tokens. Pure.

The confidence of a tag is the probability that the model names it where it does, read off the answer
`{"tags":["Dunk","Foul"]}` token by token:

    Π over the tokens between the name and what stands before it:  p / (p + p(the list ends here))
  × Π over the tokens of the name and its closing quote:           p + p(another way to the same answer)

The first product is the decision to name one more tag instead of closing the list; how the model spaces its
JSON does not matter to it. The second is the choice of this name. "Another way to the same answer" is the
mass of alternatives that spell the same name in other tokens, or begin a tag that the answer names later: which
of two tags that both apply comes first says nothing against either. By the chain rule the product is a
probability; alternatives the server does not list count as doubt, so it errs on the low side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WITHOUT_PROBABILITIES = 0.8
"""Confidence of a tag when the server gives no probabilities: above the usual threshold of 0.5, since the model
did name the tag, and below what a sure answer with probabilities gets."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    text: bytes
    probability: float
    others: Iterable[tuple[bytes, float]] = ()
    """Other tokens that could have stood here, with their probabilities; looked at where a tag stands only."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name stands in the answer, in bytes."""

    before: int
    """End of what stands before: the opening bracket of the list, or the tag before this one."""
    start: int
    end: int
    """Includes the closing quote."""


def confidences(tokens: Sequence[Token], names: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Confidence of each named tag, 0 to 1.

    Args:
        tokens: the whole answer; empty when the server gives no probabilities.
        names: tag → the words it may stand under in the answer (its name and aliases).
    """
    answer = b"".join(t.text for t in tokens)
    lowered = answer.lower()  # bytes: only ASCII letters change, so positions stay
    places = {tag: _locate(lowered, words) for tag, words in names.items()}
    starts = []
    position = 0
    for token in tokens:
        starts.append(position)
        position += len(token.text)
    result = {}
    for tag, place in places.items():
        if place is None:
            result[tag] = WITHOUT_PROBABILITIES
            continue
        later = [lowered[p.start : p.end] for p in places.values() if p is not None and p.start > place.start]
        own = lowered[place.start : place.end]
        result[tag] = round(_probability(tokens, starts, place, [own, *later]), 4)
    return result


def _locate(answer: bytes, words: Sequence[str]) -> _Place | None:
    """The last place where one of the words stands as a whole: what comes last is the answer, not a thought."""
    best: _Place | None = None
    for word in words:
        for quoted in {json.dumps(word), json.dumps(word, ensure_ascii=False), f"'{word}'"}:
            at = answer.rfind(_lower(quoted))
            if at >= 0 and (best is None or at + 1 > best.start):
                before = max(answer.rfind(mark, 0, at) for mark in (b'"', b"'", b"[")) + 1
                best = _Place(before, at + 1, at + len(_lower(quoted)))
    if best is not None:
        return best
    for word in words:
        for match in re.finditer(rb"(?<!\w)" + re.escape(_lower(word)) + rb"(?!\w)", answer):
            if best is None or match.start() > best.start:
                best = _Place(match.start(), match.start(), match.end())
    return best


def _lower(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass").lower()


def _probability(tokens: Sequence[Token], starts: Sequence[int], place: _Place, names: Sequence[bytes]) -> float:
    """`names`: the one at this place, then those that stand later in the answer."""
    product = 1.0
    for token, start in zip(tokens, starts, strict=True):
        end = start + len(token.text)
        p = min(1.0, max(0.0, token.probability))
        if end <= place.before or start >= place.end or start == end:
            continue
        if end <= place.start:
            product *= _goes_on(token, p, skip=max(0, place.before - start))
        else:
            product *= _same_answer(token, p, start=start, place=place, names=names)
    return min(1.0, max(0.0, product))


def _goes_on(token: Token, p: float, *, skip: int) -> float:
    """Probability that the list goes on, of the two: it goes on as it did, or it ends here."""
    ends = 0.0
    for text, other in token.others:
        rest = text[skip:]
        if text == token.text or text[:skip] != token.text[:skip]:
            continue
        bracket, quote = rest.find(b"]"), rest.find(b'"')
        if bracket >= 0 and not 0 <= quote < bracket:
            ends += other
    return p / (p + ends) if p + ends > 0 else 0.0


def _same_answer(token: Token, p: float, *, start: int, place: _Place, names: Sequence[bytes]) -> float:
    lead = max(0, place.start - start)  # bytes of the token before the name
    done = max(0, start - place.start)  # bytes of the name before the token
    for text, other in token.others:
        part = text[lead:].lower()
        if text == token.text or text[:lead] != token.text[:lead] or not part:
            continue
        if any(name[:done] == names[0][:done] and _fits(part, name[done:]) for name in names):
            p += other
    return min(1.0, p)


def _fits(part: bytes, rest: bytes) -> bool:
    length = min(len(part), len(rest))
    return length > 0 and part[:length] == rest[:length]
