"""The free-text search box: words ANDed, "phrases", -negation, OR between words."""

from __future__ import annotations

from dataclasses import dataclass, field

OR_WORDS = {"or", "|"}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a search text asks for."""

    all_of: list[str] = field(default_factory=list)
    any_of: list[list[str]] = field(default_factory=list)
    none_of: list[str] = field(default_factory=list)


def parse(text: str) -> Terms:
    """Split a search text into its terms."""
    words = _phrases(text.strip().split(" ")) if text.strip() else []
    words, any_of = _alternatives(words)
    all_of, none_of = [], []
    for word in words:
        if len(word) > 1 and word[0] == "-":
            none_of.append(_bare(word[1:]))
        else:
            all_of.append(_bare(word))
    return Terms([w for w in all_of if w], any_of, [w for w in none_of if w])


def clause(text: str, columns: list[str]) -> tuple[str, list[str]]:
    """An SQL condition over some columns, and its parameters."""
    terms = parse(text)
    parts: list[str] = []
    params: list[str] = []
    for wanted in [[word] for word in terms.all_of] + terms.any_of:
        likes = [f"{column} LIKE ?" for column in columns for _ in wanted]
        params += [f"%{word}%" for _ in columns for word in wanted]
        parts.append("(" + (" OR ".join(likes) or "0") + ")")
    for word in terms.none_of:
        parts += [f"COALESCE({column}, '') NOT LIKE ?" for column in columns]
        params += [f"%{word}%" for _ in columns]
    return " AND ".join(parts) or "1", params


def _bare(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word


def _phrases(words: list[str]) -> list[str]:
    """Join the words between an opening and a closing quote; an unclosed quote is left as it stands."""
    done: list[str] = []
    start: int | None = None
    for index, word in enumerate(words):
        if start is None:
            body = word.removeprefix("-")
            if body.startswith('"') and (len(body) < 2 or not body.endswith('"')):
                start = index
            else:
                done.append(word)
        elif word.endswith('"'):
            done.append(" ".join(words[start : index + 1]))
            start = None
    return done if start is None else done + words[start:]


def _alternatives(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """Take out the words joined by OR; an OR at either end is an ordinary word."""
    any_of: list[list[str]] = []
    while True:
        at = next((i for i in range(1, len(words) - 1) if words[i].lower() in OR_WORDS), None)
        if at is None:
            return words, any_of
        last = at + 1
        while last + 2 < len(words) and words[last + 1].lower() == "or":
            last += 2
        if last + 1 == len(words) - 1 and words[last + 1].lower() == "or":
            last += 1
        any_of.append([_bare(word) for word in words[at - 1 : last + 1 : 2] if _bare(word)])
        words = words[: at - 1] + words[last + 1 :]
