"""Changes to `tag_settings` in the text of a YAML file that leave every other line as it is. Pure.

The text is changed by lines, because a file that is read and written anew would lose its comments. Whoever calls this
reads the result and compares: YAML can be written in more ways than lines can tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KEY = "tag_settings"

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[ -][A-Za-z0-9_]+)*")
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a key of a mapping in block style stands."""

    key: str
    line: int
    """Its line, from 0."""
    until_line: int
    """The line after its value's last."""
    indent: int
    """Its column."""
    entries: tuple[Entry, ...] = ()
    """The keys of its value, if that is a mapping in block style."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value to write, in YAML, and what is said about it behind it."""

    text: str
    comment: str = ""


Changes = Mapping[str, Mapping[str, Value]]
"""Tag → key → value."""


def with_tag_settings(text: str, outline: Sequence[Entry], present: object, changes: Changes) -> str:
    """The text with these tags' settings in it.

    Args:
        text: of the file.
        outline: of its keys.
        present: what `tag_settings` holds now, as YAML reads it; None: nothing.
        changes: what is to be set; other settings of these tags, and other tags, stay.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    held = present if isinstance(present, Mapping) else {}
    merged = {tag: _merged(held, tag, new) for tag, new in changes.items()}
    at = next((entry for entry in outline if entry.key == KEY), None)
    if at is None:
        block = [*([""] if lines else []), f"{KEY}:", *_tags(merged, 2)]
        return "".join(lines) + "".join(line + newline for line in block)
    edits: list[tuple[int, int, list[str]]] = []
    if at.entries:
        mine = {entry.key.casefold(): entry for entry in at.entries}
        indent = at.entries[0].indent
        for tag, values in merged.items():
            if entry := mine.get(tag.casefold()):
                edits.append((entry.line, entry.until_line, list(_tags({entry.key: values}, indent))))
            else:
                edits.append((at.until_line, at.until_line, list(_tags({tag: values}, indent))))
    else:  # nothing, or all on one line
        others = {t: {k: Value(json.dumps(v)) for k, v in s.items()} for t, s in held.items() if t not in merged}
        edits.append((at.line, at.until_line, [f"{KEY}:", *_tags({**others, **merged}, 2)]))
    for start, end, block in sorted(edits, key=lambda e: e[:2], reverse=True):
        lines[start:end] = [line + newline for line in block]
    return "".join(lines)


def block(changes: Changes) -> str:
    """`tag_settings` with these settings alone, as text for a YAML file."""
    return "\n".join([f"{KEY}:", *_tags(changes, 2)]) + "\n"


def expected(present: object, changes: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """What `tag_settings` holds after a change, as YAML reads it."""
    held = dict(present) if isinstance(present, Mapping) else {}
    names = {str(tag).casefold(): tag for tag in held}
    for tag, values in changes.items():
        name = names.get(tag.casefold(), tag)
        before = held.get(name)
        held[name] = {**(before if isinstance(before, Mapping) else {}), **values}
    return held


def _merged(held: Mapping[str, object], tag: str, new: Mapping[str, Value]) -> Mapping[str, Value]:
    before = next((s for name, s in held.items() if str(name).casefold() == tag.casefold()), None)
    kept = {str(k): Value(json.dumps(v)) for k, v in before.items()} if isinstance(before, Mapping) else {}
    return {**kept, **new}


def _tags(tags: Changes, indent: int) -> Iterable[str]:
    for tag, values in tags.items():
        yield f"{' ' * indent}{_key(tag)}:"
        for key, value in values.items():
            said = f"  # {value.comment}" if value.comment else ""
            yield f"{' ' * (indent + 2)}{key}: {value.text}{said}"


def _key(tag: str) -> str:
    if _PLAIN.fullmatch(tag) and tag.casefold() not in _RESERVED:
        return tag
    return json.dumps(tag, ensure_ascii=False)
