"""Questions out: the wording of what is asked. Pure; `replies` reads what comes back.

The constant text goes into the system message, before the picture: the only place that every server can
keep cached from frame to frame. The answer is one line of JSON, `{"tags":["Dunk","Foul"]}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from haven_vlm.facts import Example, Kind, Prompt, Term

WORDING_VERSION = "1"
"""Goes into the key of every answer: raise it whenever the text below, or the reading of answers, changes."""

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
        company_wording=_digest(WORDING_VERSION, _SEVERAL[kind], _RULES_FOR_SEVERAL, extra),
    )


_SEVERAL = {
    Kind.SCENE: "You are shown several frames of a video, each after its number.",
    Kind.IMAGE: "You are shown several pictures, each after its number.",
    Kind.GALLERY: "You are shown several pictures, each after its number.",
}

_RULES_FOR_SEVERAL = """\
Judge every picture by itself, whatever the others show.
Decide for each tag of the list below whether it applies to what can be seen in that picture.
Several tags can apply at once; often none does. Name a tag only if you clearly see it.
Use the names exactly as they are written in the list, and no others.
Answer with one line of JSON and nothing else, with the number of each picture and a list of names:
{"1":["first name","second name"],"2":[]}"""

MAX_TOKENS_OF_SEVERAL = 4096
"""Tokens an answer about several pictures may take at most."""


def build_several_prompt(
    terms: Sequence[Term], pictures: int, *, kind: Kind = Kind.SCENE, instructions: str = ""
) -> Prompt:
    """Make the prompt for one question with several numbered pictures; `replies.parse_several` reads its answer.

    The wording is another one than that for a single picture, because company shapes an answer; how much company it
    was makes no difference to the key, so that answers stay known when questions have to get smaller.

    Args:
        pictures: how many, at least two.
        terms, kind, instructions: as for `build_prompt`.
    """
    single = build_prompt(terms, kind=kind, instructions=instructions)
    subject = _SEVERAL[kind]
    extra = f"\n{instructions.strip()}" if instructions.strip() else ""
    lines = [f"- {t.name}: {_one_line(t.definition)}" if t.definition.strip() else f"- {t.name}" for t in terms]
    item = {"type": "string"} | ({"enum": [t.name for t in terms]} if len(terms) <= MAX_ENUM // pictures else {})
    numbers = [str(n) for n in range(1, pictures + 1)]
    schema: dict[str, object] = {
        "type": "object",
        "properties": {n: {"type": "array", "items": item, "maxItems": min(len(terms), 32)} for n in numbers},
        "required": numbers,
        "additionalProperties": False,
    }
    wording = single.company_wording
    key = _digest(wording, *(part for t in terms for part in (t.name, _one_line(t.definition))))
    return Prompt(
        system=f"{subject}\n{_RULES_FOR_SEVERAL}{extra}\n\nTags:\n" + "\n".join(lines),
        user="Which tags of the list apply to each of these pictures?",
        schema=schema,
        terms=tuple(terms),
        wording=wording,
        key=key,
        max_tokens=min(MAX_TOKENS_OF_SEVERAL, pictures * single.max_tokens),
        pictures=pictures,
    )


EXAMPLES_MARK = "+"
"""In the wording of a prompt with examples: stands between the wording without them and what tells them apart."""

_BEFORE_EXAMPLES = """\
First you are shown other pictures with their right answers, so that you see what is meant by the tags.
After them comes the picture in question. Answer about that one only."""
_QUESTION_AFTER_EXAMPLES = "The picture in question. Which tags of the list apply to it?"


def with_examples(prompt: Prompt, examples: Sequence[Example]) -> Prompt:
    """The same question with examples before the picture; the prompt itself where there are none.

    The examples stand directly after the system text, in the same order in every question: servers keep them cached.
    Their file, time and tags go into the key; of their tags, those that the prompt asks about.

    Args:
        prompt: for one picture, without examples.
        examples: of which all tags of the vocabulary are known.
    """
    if not examples:
        return prompt
    names = [t.name for t in prompt.terms]
    shown = tuple(replace(e, tags=tuple(n for n in names if n in e.tags)) for e in examples)
    identities = [part for e in shown for part in (e.identity, str(e.at_ms), str(len(e.tags)), *e.tags)]
    digest = _digest(WORDING_VERSION, _BEFORE_EXAMPLES, _QUESTION_AFTER_EXAMPLES, *identities)
    return replace(
        prompt,
        user=_BEFORE_EXAMPLES,
        wording=f"{prompt.wording}{EXAMPLES_MARK}{digest}",
        key=_digest(prompt.key, digest),
        examples=shown,
        plain=prompt,
    )


def captions(prompt: Prompt) -> tuple[str, ...]:
    """The text before each picture: the examples' and that in question, or numbers; none for a picture by itself."""
    if prompt.pictures > 1:
        return tuple(f"Picture {n}:" for n in range(1, prompt.pictures + 1))
    if not prompt.examples:
        return ()
    answers = [
        "Right answer: " + json.dumps({"tags": e.tags}, ensure_ascii=False, separators=(",", ":")) + "\n\n"
        for e in prompt.examples
    ]
    heads = [*(f"Example {n}:" for n in range(1, len(answers) + 1)), _QUESTION_AFTER_EXAMPLES]
    return tuple(answer + head for answer, head in zip(["", *answers], heads, strict=True))


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
