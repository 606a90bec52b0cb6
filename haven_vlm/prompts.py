"""Questions out, answers in: the wording of what is asked, and a parser that never guesses. Pure.

The constant text goes into the system message, before the picture: the only place that every server can
keep cached from frame to frame. The answer is one line of JSON, `{"tags":["Dunk","Foul"]}`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from haven_vlm.facts import Kind, Outcome, Prompt, Term

WORDING_VERSION = "1"
"""Goes into the key of every answer: raise it whenever the text below changes what a model may answer."""

MAX_ENUM = 300
"""Names up to which the schema lists them: larger enums slow down constrained sampling on real servers."""

_SUBJECT = {
    Kind.SCENE: "You are shown one frame of a video.",
    Kind.IMAGE: "You are shown one picture.",
    Kind.GALLERY: "You are shown one picture.",
}

_RULES = """\
Decide for each tag of the list below whether it applies to what can be seen in the picture itself.
Several tags can apply at once; often none does. Name a tag only if you clearly see it.
Use the names exactly as they are written in the list, and no others.
Answer with one line of JSON and nothing else: {"tags":["first name","second name"]}
If no tag applies, answer {"tags":[]}"""


def build_prompt(terms: Sequence[Term], *, kind: Kind = Kind.SCENE, instructions: str = "") -> Prompt:
    """Make the prompt that is asked of every picture of a run.

    Args:
        terms: the vocabulary, at least one term; the order is kept.
        kind: what the picture is taken from; a still gets wording without motion or time.
        instructions: sentences of the user's own, added after the rules.
    """
    subject = _SUBJECT[kind]
    extra = f"\n{instructions.strip()}" if instructions.strip() else ""
    lines = [f"- {t.name}: {_one_line(t.definition)}" if t.definition.strip() else f"- {t.name}" for t in terms]
    system = f"{subject}\n{_RULES}{extra}\n\nTags:\n" + "\n".join(lines)
    names = [t.name for t in terms]
    item: dict[str, object] = {"type": "string"}
    if len(names) <= MAX_ENUM:
        item["enum"] = names
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": item, "maxItems": min(len(names), 32)}},
        "required": ["tags"],
        "additionalProperties": False,
    }
    wording = _digest(WORDING_VERSION, subject, extra)
    key = _digest(wording, *(part for t in terms for part in (t.name, _one_line(t.definition))))
    return Prompt(
        system=system,
        user="Which tags of the list apply to this picture?",
        schema=schema,
        terms=tuple(terms),
        wording=wording,
        key=key,
        max_tokens=_budget(names),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _digest(*parts: str) -> str:
    # the length of each part goes in too, so that no two lists of parts can run together
    text = "".join(f"{len(p)}:{p}" for p in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _budget(names: Sequence[str]) -> int:
    """Tokens for the longest plausible answer: at least one per two characters, and white space between."""
    longest = sorted((len(n) for n in names), reverse=True)[:16]
    return max(96, min(1024, 32 + sum(n // 2 + 6 for n in longest)))


# --- answers --------------------------------------------------------------------------------------------------


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


def parse_reply(text: str, prompt: Prompt) -> ParsedReply:
    """Read a model's answer; never raises.

    Forgives thinking blocks, boxes, code fences, prose around JSON, missing closing brackets, Python quotes,
    "description | tag" style, bare lists, letter case and aliases. What the vocabulary does not have is
    dropped and counted. What cannot be read for certain is `UNPARSABLE`, never `NONE`.
    """
    words = _Words(prompt.terms)
    body = _unwrap(text)
    if not body:
        return ParsedReply(Outcome.UNPARSABLE, detail="the answer is empty" if not text.strip() else "only thinking")
    for value in reversed(list(_json_values(body))):  # what a model says last is its answer
        names = _names_in(value, words)
        if names is not None:
            return _reply(names, words)
    return _plain(body, words)


class _Words:
    """Looks up names and aliases as a model may write them."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self.order: dict[str, int] = {}
        self._exact: dict[str, str] = {}
        self._loose: dict[str, str | None] = {}
        for position, term in enumerate(terms):
            self.order[term.name] = position
            for word in (term.name, *term.aliases):
                self._exact.setdefault(word.strip().casefold(), term.name)
                loose = _loosen(word)
                # two terms that differ only in what loosening removes are told apart by the exact form alone
                clash = loose in self._loose and self._loose[loose] != term.name
                self._loose[loose] = None if clash else term.name

    def find(self, word: str) -> str | None:
        """The name behind a word, or None."""
        for candidate in (word, re.split(r"\s*(?::|\s-\s|\s–\s|\()", word, maxsplit=1)[0]):
            if found := self._exact.get(candidate.strip().casefold()) or self._loose.get(_loosen(candidate)):
                return found
        return None


def _loosen(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    return " ".join(re.sub(r"[_\-‐-―]+", " ", folded).strip(" \t\r\n\"'`“”‘’*#.,;:!?[](){}<>").split())


def _unwrap(text: str) -> str:
    """Take off what reasoning models and chat templates wrap around an answer."""
    text = text.replace("\0", "").replace("\ufeff", "")
    if final := list(_FINAL_CHANNEL.finditer(text)):
        text = text[final[-1].end() :]
    text = _THINKING.sub(" ", text)
    text = _THOUGHT_END.sub("", text)  # the template opened the thought itself
    text = _THOUGHT_OPEN.sub("", text)  # a thought that never ended holds no answer
    if boxes := [b for b in _BOX.findall(text) if b.strip()]:
        text = boxes[-1]
    return _FENCE.sub("\n", _SPECIAL.sub(" ", text)).strip()


def _json_values(body: str) -> Iterator[object]:
    """Outermost JSON (or Python) objects and arrays in a text, in order."""
    decoder = json.JSONDecoder()
    position, tries = 0, 0
    while tries < 50:  # bounds the work on hostile text
        starts = [i for i in (body.find("{", position), body.find("[", position)) if i >= 0]
        if not starts:
            return
        start, tries = min(starts), tries + 1
        try:
            value, end = decoder.raw_decode(body, start)
        except (ValueError, RecursionError):
            relaxed = _relaxed(body[start:])
            if relaxed is None:
                position = start + 1
                continue
            value, end = relaxed[0], start + relaxed[1]
        yield value
        position = end


def _relaxed(text: str) -> tuple[object, int] | None:
    """Read what is JSON but for Python quotes, trailing commas or missing closing brackets."""
    end, closers, quote, before = 0, [], "", ""
    for i, c in enumerate(text[:20_000]):
        if quote:
            if c == quote and text[i - 1] != "\\":
                quote = ""
        elif c == '"' or (c == "'" and before in ("[", "{", ",", ":")):
            quote = c
        elif c in "[{":
            closers.append("]" if c == "[" else "}")
        elif c in "]}":
            if not closers or closers.pop() != c:
                return None
            if not closers:
                end = i + 1
                break
        if not c.isspace():
            before = c
    if quote:
        return None  # cut inside a word: which word is a guess
    candidate = text[:end] if end else text.rstrip().rstrip(",") + "".join(reversed(closers))
    if len(candidate) > 20_000 or len(closers) > 8:
        return None
    candidate = re.sub(r",(\s*[\]}])", r"\1", candidate)
    for read in (json.loads, ast.literal_eval):
        try:
            return read(candidate), end or len(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _names_in(value: object, words: _Words) -> list[str] | None:
    """The names a JSON value lists, or None when it has no form that says so."""
    if isinstance(value, Mapping):
        for key in _KEYS:
            for own, content in value.items():
                if isinstance(own, str) and own.strip().casefold() == key:
                    return _names_in_list(content)
        flags = {k: _flag(v) for k, v in value.items() if isinstance(k, str)}
        if flags and None not in flags.values() and all(words.find(k) for k in flags):
            return [k for k, on in flags.items() if on]
        return None
    if isinstance(value, list | tuple):
        names = _names_in_list(value)
        # a bare list among prose is an answer only if it speaks of the vocabulary, or is empty
        return names if names is not None and (not names or any(words.find(n) for n in names)) else None
    return None


def _names_in_list(content: object) -> list[str] | None:
    if content is None:
        return []
    if isinstance(content, str):
        return [p for p in re.split(r"[,;|\n]", content) if p.strip()]
    if not isinstance(content, list | tuple):
        return None
    names = []
    for item in content:
        if isinstance(item, Mapping):
            item = next((item[k] for k in ("name", "tag", "label") if isinstance(item.get(k), str)), None)
        if not isinstance(item, str):
            return None
        names.append(item)
    return names


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        return {"yes": True, "true": True, "no": False, "false": False}.get(value.strip().casefold())
    return None


def _reply(names: Sequence[str], words: _Words) -> ParsedReply:
    found, unknown = set(), 0
    for name in names:
        if match := words.find(name):
            found.add(match)
        elif _loosen(name) and _loosen(name) not in _NOTHING and name.strip().casefold() not in _NOTHING:
            unknown += 1
    tags = tuple(sorted(found, key=words.order.__getitem__))
    return ParsedReply(Outcome.TAGS if tags else Outcome.NONE, tags, unknown)


def _plain(body: str, words: _Words) -> ParsedReply:
    """Read an answer without JSON: only whole items of a list count, never a name inside a sentence."""
    text = _LABEL.sub("", body).strip()
    if _loosen(text) in _NOTHING and words.find(text) is None:
        return ParsedReply(Outcome.NONE)
    if "|" in text and "\n" not in text:  # "description | tag": the description is no name
        names = [n for part in text.split("|") for n in part.split(",") if words.find(n)]
        last_is_nothing = _loosen(text.rsplit("|", 1)[1]) in _NOTHING
        if names or last_is_nothing:
            return _reply(names, words)
    items = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", part).strip() for part in re.split(r"[,;|\n]", text)]
    items = [item for item in items if item]
    # prose has commas too: every item must be short, and at least half of them known
    known = sum(words.find(item) is not None for item in items)
    if known and 2 * known >= len(items) and all(len(item.split()) <= 4 or words.find(item) for item in items):
        return _reply(items, words)
    if _REFUSAL.search(body):
        return ParsedReply(Outcome.REFUSED, detail="the model declined to look")
    return ParsedReply(Outcome.UNPARSABLE, detail="the answer is neither the JSON asked for nor a list of tags")
