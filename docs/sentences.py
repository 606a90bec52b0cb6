"""The sentences that the code can say to a user, read from the code itself. Pure but for reading files.

A sentence is a text of several words that is not a docstring, a description of a setting, a question to a model, SQL,
GraphQL or a pattern. What is filled in at run time is an ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_NOT_FOR_USERS = ("prompts", "stash_queries", "journal_corrections", "tuning_text")
"""Modules whose texts go to a model, to Stash, or into a table."""

_SILENT_KEYWORDS = frozenset({"description", "help", "epilog", "usage", "prog", "metavar"})
_SILENT_CALLS = frozenset({"compile", "execute", "Field", "Migration", "debug", "fullmatch", "search", "match", "sub"})
_TECHNICAL = re.compile(
    r"\\|\?:|\(\?|\$|[{}=|]|__"
    r"|\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|ALTER|DROP|ORDER BY|WHERE|FROM|REFERENCES)\b"
    r"|^[a-z_]+(?:, [a-z_]+){3,}$"
)
_PLACE = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[sdrfgi]|%%")
_WORDS = 3


def sentences(file: Path) -> list[str]:
    """The sentences of a file, in order, each once.

    Raises:
        OSError, SyntaxError: the file cannot be read.
    """
    if file.stem in _NOT_FOR_USERS:
        return []
    found = dict.fromkeys(_tidy(text) for text in _texts(ast.parse(file.read_text(encoding="utf-8"))))
    return [text for text in found if _is_sentence(text)]


def _texts(node: ast.AST) -> Iterator[str]:
    """Texts below a node, whole ones only: the parts of an f-string are not texts of their own."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else "…" for v in node.values)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from _texts(value.value)
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.keyword) and node.arg in _SILENT_KEYWORDS:
        return
    if isinstance(node, ast.Call) and _name(node.func) in _SILENT_CALLS:
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _tidy(text: str) -> str:
    text = _PLACE.sub(lambda m: "%" if m[0] == "%%" else "…", text)
    text = re.sub(r"…(?:[\s,]*…)+", "…", text)
    return " ".join(text.split()).strip(" ;:,–")


def _is_sentence(text: str) -> bool:
    words = re.findall(r"[A-Za-zÀ-ÿ’']{2,}", text)
    return len(words) >= _WORDS and len(text) >= 18 and " " in text and not _TECHNICAL.search(text)
