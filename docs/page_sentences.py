"""The sentences that the page inside Stash can say, read from its JavaScript. Pure but for reading files.

As in `docs.sentences`, what decides is where a text goes: what is thrown is said, however short; what is a class, a
selector or a question to Stash's API is not; of all other texts, those of three words and more are sentences. Texts
that are put together with `+` are one, with an ellipsis for what is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.sentences import tidy, words

_TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)
    | (?P<pattern>(?<=[(,=:!&|?])\s*/(?:\\.|\[(?:\\.|[^\]\n])*\]|[^/\n\\\[])+/[a-z]*)
    | (?P<name>[A-Za-z_$][\w$]*|\d[\w.]*)
    | (?P<sign>[^\s])
    """,
    re.VERBOSE | re.DOTALL,
)
_SILENT = frozenset({"className", "key", "role", "type", "style", "d", "viewBox"})
_SELECTING = frozenset({"querySelector", "querySelectorAll", "closest", "matches"})
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_ENDS = frozenset(",;?:")
_GRAPHQL = re.compile(r"^\s*(?:query|mutation)?\s*\w*\s*(?:\([^)]*\))?\s*\{")
_WORDS = 3


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    value: str


def page_sentences(file: Path) -> list[str]:
    """The sentences of a file of JavaScript, in order, each once.

    Raises:
        OSError: the file cannot be read.
    """
    code = file.read_text(encoding="utf-8")
    tokens = [_Token(m.lastgroup or "", m[0]) for m in _TOKEN.finditer(code) if m.lastgroup != "comment"]
    found: dict[str, None] = {}
    at = 0
    while at < len(tokens):
        if tokens[at].kind != "text":
            at += 1
            continue
        before = tokens[max(0, at - 4) : at]
        text, at = _whole(tokens, at)
        if before and before[-1].value == "+":
            text = "…" + text
        if _is_silent(before) or _GRAPHQL.match(text):
            continue
        said = tidy(text).removeprefix(". ")
        # what ends in a colon leads in a reason: “Not saved: …”
        least = 2 if _is_thrown(before) or text.endswith(": ") else _WORDS
        if " " in said and len(words(said)) >= least:
            found[said] = None
    return list(found)


def _whole(tokens: Sequence[_Token], at: int) -> tuple[str, int]:
    """The text that begins here, joined to all that is added to it; and where to go on."""
    text = _plain(tokens[at].value)
    at += 1
    while at < len(tokens) and tokens[at].value == "+":
        at += 1
        if at < len(tokens) and tokens[at].kind == "text":
            text += _plain(tokens[at].value)
            at += 1
        else:
            text += "…"
            at = _after_operand(tokens, at)
    return text, at


def _after_operand(tokens: Sequence[_Token], at: int) -> int:
    depth = 0
    while at < len(tokens):
        value = tokens[at].value
        if tokens[at].kind == "sign":
            if depth == 0 and (value in _CLOSING or value in _ENDS or value == "+"):
                return at
            depth += (value in _OPENING) - (value in _CLOSING)
        at += 1
    return at


def _plain(literal: str) -> str:
    text = re.sub(r"\$\{[^}]*\}", "…", literal[1:-1]) if literal[0] == "`" else literal[1:-1]
    return re.sub(r"\\(.)", lambda m: " " if m[1] == "n" else m[1], text)


def _is_silent(before: Sequence[_Token]) -> bool:
    if len(before) < 2:
        return False
    name, sign = before[-2].value.strip("\"'"), before[-1].value
    return (sign == ":" and name in _SILENT) or (sign == "(" and name in _SELECTING)


def _is_thrown(before: Sequence[_Token]) -> bool:
    return [token.value for token in before[-3:]] == ["new", "Error", "("]
