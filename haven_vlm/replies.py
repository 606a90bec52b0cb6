"""Answers in: a parser for what models write, which forgives much and never guesses. Pure."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from haven_vlm.facts import Outcome, Prompt, Term


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What a model's text says, read without guessing."""

    outcome: Outcome
    """`TAGS`, `NONE`, `REFUSED` or `UNPARSABLE`."""
    tags: tuple[str, ...] = ()
    """Names of the vocabulary, in its order, each once."""
    unknown_words: int = 0
    """Names in the answer that the vocabulary does not have."""
    detail: str = ""
    """Why it cannot be read, in words; empty otherwise."""


_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"^.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_THOUGHT_OPEN = re.compile(r"<(?:think|thinking|reasoning)>.*$", re.DOTALL | re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|[^|>]*\|>)*\s*(?:<\|message\|>)?", re.IGNORECASE)
_BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)", re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>")
_FENCE = re.compile(r"```[\w-]*")
_LABEL = re.compile(
    r"^\W*(?:the\s+)?(?:applicable\s+)?(?:tags?|labels?|answer)(?:\s+(?:is|are))?\s*:\s*", re.IGNORECASE
)
_NOTHING = frozenset(
    """none|nothing|no tags|no tag|no tag applies|no tags apply|none of the above|none apply|none applies|n/a|na|null
    |none of the tags apply|none of the tags applies|empty|no applicable tags|not applicable""".replace(
        "\n    ", ""
    ).split("|")
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m sorry|i am sorry|i apologi[sz]e|i can(?:'|’)?t|i can ?not|i(?:'|’)?m (?:not able|unable)|"
    r"i am (?:not able|unable)|i won(?:'|’)?t|i must decline|as an ai|against my guidelines|"
    r"(?:not|un)able to (?:assist|help|comply|provide|process))\b",
    re.IGNORECASE,
)
_KEYS = ("tags", "tag", "labels", "label", "answer")
_NEGATION = re.compile(r"\b(?:no|not|none|never|without|nor|cannot|\w+n['’]t)\b", re.IGNORECASE)
_TABLE = re.compile(r"[:|]")
"""What stands between a name and what is said of it."""
_CHECKBOX = re.compile(r"^\s*(?:[-*•]\s*)?\[([ xX✓✔]?)\]\s*(.+?)\s*$")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")
_REMARKS = frozenset(["reason", "reasoning", "description", "explanation", "evidence", "comment", "id"])
"""Keys of an item that say something about it without changing whether it applies."""
_MAX_CHARS = 20_000
"""Longest text that is mended; what is valid may be longer."""
_MAX_VALUES = 50
"""Brackets that are tried as the beginning of a value: bounds the work on hostile text."""
_CLOSERS = {"[": "]", "{": "}"}

_EMPTY = ParsedReply(Outcome.UNPARSABLE, detail="the answer is empty")
_THOUGHT_ONLY = ParsedReply(Outcome.UNPARSABLE, detail="only thinking, and no answer")
_PARROT = ParsedReply(Outcome.UNPARSABLE, detail="the answer repeats the question")
_UNREADABLE = ParsedReply(
    Outcome.UNPARSABLE, detail="the answer is neither the JSON asked for nor a plain list of tags"
)


def parse_reply(text: str, prompt: Prompt) -> ParsedReply:
    """Read a model's answer; never raises.

    Forgives thinking blocks, boxes, code fences, prose around JSON, missing closing brackets, Python quotes,
    "description | tag" style, plain lists, checkboxes, yes and no per name, letter case and aliases. What the
    vocabulary does not have is dropped and counted. What cannot be read for certain is `UNPARSABLE`: neither a tag
    that prose mentions, nor `NONE` for want of a readable answer.
    """
    words = _Words(prompt.terms)
    agreed = _agreed(text, words)
    if agreed is not None:
        return agreed
    body = _unwrap(text)
    if not body:
        return _THOUGHT_ONLY if text.strip() else _EMPTY
    if "If no tag applies" in body or '"first name"' in body:
        return _PARROT
    if flags := _checkboxes(body):
        return _flagged(flags, words)
    for value, whole in reversed(list(_json_values(body))):  # what a model says last is its answer
        reply = _from_json(value, words, whole=whole)
        if reply is not None:
            return reply
    if _REFUSAL.search(body):
        return ParsedReply(Outcome.REFUSED, detail="the model declined to look")
    return _plain(body, words)


def json_answers(text: str) -> Iterator[object]:
    """The JSON values in a model's answer, without what is wrapped around them; the last one first."""
    body = _unwrap(text)
    yield from (value for value, _ in reversed(list(_json_values(body))))


def parse_value(value: object, prompt: Prompt) -> ParsedReply:
    """Read a JSON value that stands for one answer, in any of the forms that `parse_reply` takes."""
    words = _Words(prompt.terms)
    if isinstance(value, str):
        return _from_content(value, words, alone=True) or _UNREADABLE
    reply = _from_json(value, words, whole=True)
    return _UNREADABLE if reply is None else reply


def _agreed(text: str, words: _Words) -> ParsedReply | None:
    """What an answer in exactly the agreed form says: nothing in it is wrapping then, whatever names look like."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = value.get("tags") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return None
    return _PARROT if names == ["first name", "second name"] else _reply(names, words)


class _Words:
    """Looks up names and aliases as a model may write them."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self.order: dict[str, int] = {}
        self._exact: dict[str, str] = {}
        self._loose: dict[str, str | None] = {}
        self._definitions: dict[str, str] = {}
        for position, term in enumerate(terms):
            self.order[term.name] = position
            self._definitions[term.name] = _loosen(term.definition)
            for word in (term.name, *term.aliases):
                self._exact.setdefault(word.strip().casefold(), term.name)
                loose = _loosen(word)
                # two terms that differ only in what loosening removes are told apart by the exact form alone
                clash = loose in self._loose and self._loose[loose] != term.name
                self._loose[loose] = None if clash else term.name

    def find(self, word: str) -> str | None:
        """The name behind a word, or None; a name may be followed by its own definition, as in the list."""
        if found := self._exact.get(word.strip().casefold()) or self._loose.get(_loosen(word)):
            return found
        name, colon, rest = word.partition(":")
        found = self.find(name) if colon else None
        return found if found and self._definitions[found] and _loosen(rest) == self._definitions[found] else None


def _loosen(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    return " ".join(re.sub(r"[_\-‐-―]+", " ", folded).strip(" \t\r\n\"'`“”‘’*#.,;:!?[](){}<>").split())


def _is_nothing(word: str) -> bool:
    return _loosen(word) in _NOTHING or word.strip().casefold() in _NOTHING


def _unwrap(text: str) -> str:
    """Take off what reasoning models and chat templates wrap around an answer; empty if that leaves nothing."""
    text = text.replace("\0", "").replace("\ufeff", "")
    if final := list(_FINAL_CHANNEL.finditer(text)):
        text = text[final[-1].end() :]
    elif "<|channel|>" in text:
        return ""  # it never came to the final channel
    text = _THINKING.sub(" ", text)
    text = _THOUGHT_END.sub("", text)  # the template opened the thought itself
    text = _THOUGHT_OPEN.sub("", text)  # a thought that never ended holds no answer
    if boxes := [b for b in _BOX.findall(text) if b.strip()]:
        text = boxes[-1]
    return _FENCE.sub("\n", _SPECIAL.sub(" ", text)).strip()


# --- JSON -----------------------------------------------------------------------------------------------------


def _json_values(body: str) -> Iterator[tuple[object, bool]]:
    """Outermost JSON (or Python) objects and arrays in a text, in order; and whether nothing follows or precedes."""
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_MAX_VALUES):
        starts = [i for i in (body.find("{", position), body.find("[", position)) if i >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, end = decoder.raw_decode(body, start)
        except (ValueError, RecursionError):
            relaxed = _relaxed(body[start:])
            if relaxed is None:
                position = start + 1
                continue
            value, end = relaxed[0], start + relaxed[1]
        yield value, not body[:start].strip() and not body[end:].strip()
        position = end


def _relaxed(text: str) -> tuple[object, int] | None:
    """Read what is JSON but for Python quotes, trailing commas or missing closing brackets.

    What was cut counts only right after a finished item: cut inside a word, after a comma or in an empty list, what
    was to follow would be a guess.
    """
    end, closers, quote, before = 0, [], "", ""
    for i, c in enumerate(text[:_MAX_CHARS]):
        if quote:
            if c == quote and text[i - 1] != "\\":
                quote = ""
        elif c == '"' or (c == "'" and before in ("[", "{", ",", ":")):
            quote = c
        elif c in _CLOSERS:
            closers.append(_CLOSERS[c])
        elif c in _CLOSERS.values():
            if not closers or closers.pop() != c:
                return None
            if not closers:
                end = i + 1
                break
        if not c.isspace():
            before = c
    if quote or (not end and (before not in ('"', "'", "]", "}") or len(text) > _MAX_CHARS)):
        return None
    candidate = text[:end] if end else text.rstrip() + "".join(reversed(closers))
    candidate = re.sub(r",(\s*[\]}])", r"\1", candidate)
    for read in (json.loads, ast.literal_eval):
        try:
            return read(candidate), end or len(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _from_json(value: object, words: _Words, *, whole: bool) -> ParsedReply | None:
    """What a JSON value says, or None when it has no form that says anything."""
    if isinstance(value, Mapping):
        keys = {k.strip().casefold(): k for k in value if isinstance(k, str)}
        for key in _KEYS:
            if key in keys:
                return _from_content(value[keys[key]], words, alone=keys.keys() <= {key, *_REMARKS})
        flags = {k: _flag(v) for k, v in value.items() if isinstance(k, str)}
        if flags and None not in flags.values() and all(words.find(k) for k in flags):
            return _flagged([(k, bool(on)) for k, on in flags.items()], words)
        return None
    if isinstance(value, list | tuple):
        names = _names_in_list(value)
        # a list without the agreed object around it is an answer only by itself, or of nothing but known names
        if names is not None and (whole or (names and all(words.find(n) for n in names))):
            return _reply(names, words)
    return None


def _from_content(content: object, words: _Words, *, alone: bool) -> ParsedReply | None:
    """What stands behind the key for tags. `alone`: nothing beside it says that something went wrong."""
    if isinstance(content, str):
        pieces = [p for p in re.split(r"[,;|\n]", content) if p.strip()]
        if all(words.find(p) or _is_nothing(p) for p in pieces) and (pieces or alone):
            return _reply(pieces, words)
        if _REFUSAL.search(content):
            return ParsedReply(Outcome.REFUSED, detail="the model declined to look")
        return _UNREADABLE
    names = [] if content is None else _names_in_list(content)
    if names is None or (not names and not alone):
        return _UNREADABLE
    return _reply(names, words)


def _names_in_list(content: object) -> list[str] | None:
    """Names that a list says apply; None when it holds something else."""
    if not isinstance(content, list | tuple):
        return None
    names = []
    for item in content:
        if isinstance(item, str):
            names.append(item)
            continue
        if not isinstance(item, Mapping):
            return None
        name = next((item[k] for k in ("name", "tag", "label") if isinstance(item.get(k), str)), None)
        rest = [v for k, v in item.items() if k not in ("name", "tag", "label", *_REMARKS)]
        flags = [_flag(v) for v in rest]
        if name is None or None in flags:
            return None
        if all(flags):
            names.append(name)
    return names


def _flag(value: object) -> bool | None:
    """Whether a value says yes or no; a number between 0 and 1 is a confidence."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value >= 0.5 if 0 <= value <= 1 else None
    if isinstance(value, str):
        return {"yes": True, "true": True, "present": True, "no": False, "false": False, "absent": False}.get(
            value.strip(" .").casefold()
        )
    return None


def _reply(names: Sequence[str], words: _Words) -> ParsedReply:
    found, unknown = set(), 0
    for name in names:
        if match := words.find(name):
            found.add(match)
        elif _loosen(name) and not _is_nothing(name):
            unknown += 1
    tags = tuple(sorted(found, key=words.order.__getitem__))
    return ParsedReply(Outcome.TAGS if tags else Outcome.NONE, tags, unknown)


def _flagged(flags: Sequence[tuple[str, bool]], words: _Words) -> ParsedReply:
    """What a yes or no per name says; every name must be known."""
    if not all(words.find(name) for name, _ in flags):
        return _UNREADABLE
    return _reply([name for name, on in flags if on], words)


# --- text -----------------------------------------------------------------------------------------------------


def _checkboxes(body: str) -> list[tuple[str, bool]]:
    """Lines such as `- [x] Foul`, if there is nothing else."""
    matches = [_CHECKBOX.match(line) for line in body.splitlines() if line.strip()]
    return [(m[2], bool(m[1].strip())) for m in matches if m] if all(matches) else []


def _plain(body: str, words: _Words) -> ParsedReply:
    """Read an answer without JSON: only whole items of a list count, never a name inside a sentence."""
    text = _LABEL.sub("", body).strip()
    if _is_nothing(text) and words.find(text) is None:
        return ParsedReply(Outcome.NONE)
    if "|" in text and "\n" not in text:
        return _piped([part.strip() for part in text.split("|")], words)
    items = [_BULLET.sub("", part).strip() for part in re.split(r"[,;\n]", text)]
    items = [item for item in items if item]
    answers = [(name, _flag(rest)) for name, colon, rest in (i.partition(":") for i in items) if colon]
    if len(answers) == len(items) and items and all(flag is not None for _, flag in answers):
        return _flagged([(name, bool(flag)) for name, flag in answers], words)
    known = [words.find(item) for item in items]
    strangers = [item for item, name in zip(items, known, strict=True) if name is None]
    if len(known) >= 4 and not strangers and set(known) == set(words.order):
        return _PARROT  # the whole list, plainly: said back rather than chosen from
    # prose has commas too: what is not known must be as short as a tag, and deny nothing
    if (
        len(strangers) * 2 <= len(items)
        and any(known)
        and all(len(s.split()) <= 3 and not _NEGATION.search(s) and not _TABLE.search(s) for s in strangers)
    ):
        return _reply(items, words)
    return _UNREADABLE


def _piped(parts: Sequence[str], words: _Words) -> ParsedReply:
    """`tag | tag`, or `description | tag, tag`: a description is no name, and does not contradict the rest."""
    *others, last = parts
    named = [p for p in last.split(",") if p.strip()]
    if all(words.find(p) for p in parts):
        return _reply(parts, words)
    if not named or any(words.find(p) for part in others for p in part.split(",")):
        return _UNREADABLE
    return _reply(named, words) if all(words.find(p) or _is_nothing(p) for p in named) else _UNREADABLE
