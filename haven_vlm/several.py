"""Answers about several numbered pictures, taken apart: each picture gets an answer of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from haven_vlm.confidence import Token
from haven_vlm.facts import Outcome, Prompt
from haven_vlm.replies import ParsedReply, json_answers, parse_value

_NUMBER = re.compile(r"(?:picture|image|frame)?[\s_#]*(\d{1,3})", re.IGNORECASE)
_NUMBER_KEYS = ("picture", "image", "frame", "number", "id", "index")
_LEFT_OUT = ParsedReply(Outcome.UNPARSABLE, detail="the answer leaves this picture out")
_NO_NUMBERS = ParsedReply(Outcome.UNPARSABLE, detail="the answer does not say which picture it is about")


def parse_several(text: str, prompt: Prompt) -> tuple[ParsedReply, ...]:
    """Read a model's answer about the numbered pictures of a prompt; never raises.

    A picture that the answer leaves out, or says something unreadable about, is `UNPARSABLE`; the others stand. An
    answer whose numbers do not fit the pictures is not guessed at: none of it counts.
    """
    for value in json_answers(text):
        found = _by_number(value)
        if found is None:
            continue
        if not found.keys() <= set(range(1, prompt.pictures + 1)):
            break
        return tuple(parse_value(found[n], prompt) if n in found else _LEFT_OUT for n in range(1, prompt.pictures + 1))
    return (_NO_NUMBERS,) * prompt.pictures


def _by_number(value: object) -> dict[int, object] | None:
    """What is said of each picture; None when the value is no answer about numbered pictures."""
    if isinstance(value, Mapping):
        numbered = {_number(key): said for key, said in value.items()}
        if None not in numbered and numbered and len(numbered) == len(value):
            return {n: said for n, said in numbered.items() if n is not None}
        if len(value) == 1:  # the list, or the object, in a wrapper
            return _by_number(next(iter(value.values())))
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        return None
    found: dict[int, object] = {}
    for item in value:
        names = [key for key in item if str(key).casefold() in _NUMBER_KEYS]
        number = _number(item[names[0]]) if len(names) == 1 else None
        if number is None or number in found:
            return None
        found[number] = {key: said for key, said in item.items() if key != names[0]}
    return found


def _number(value: object) -> int | None:
    match = _NUMBER.fullmatch(str(value).strip())
    return int(match[1]) if match else None


def tokens_of_each(tokens: Sequence[Token], pictures: int) -> list[Sequence[Token]]:
    """The tokens of an answer in the agreed form that speak of each picture; none where they cannot be told."""
    answer = b"".join(t.text for t in tokens)
    found = [re.findall(rb'"%d"\s*:\s*\[' % number, answer) for number in range(1, pictures + 1)]
    starts = [answer.find(each[0]) for each in found if len(each) == 1]
    if len(starts) < pictures or starts != sorted(starts):
        return [()] * pictures
    ends = [*starts[1:], len(answer)]
    parts: list[list[Token]] = [[] for _ in range(pictures)]
    position = 0
    for token in tokens:
        after = position + len(token.text)
        for part, start, end in zip(parts, starts, ends, strict=True):
            if position < end and after > start:
                part.append(token)
        position = after
    return list(parts)
