"""The sentences that the code can say to a user, read from the code itself. Pure but for reading files.

What decides is where a text goes. What is raised or logged is said to somebody, however short it is and whatever
characters are in it. What goes to a model, to SQLite, to Stash's API, into the help of the command line (which stands
there) or into the documentation of a setting is not. Of all other texts, those of three words and more are sentences:
they come together elsewhere, in a report or as the reason of something. What is filled in at run time is an ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_NOT_FOR_USERS = ("prompts", "stash_queries", "journal_corrections", "tuning_text")
"""Modules whose texts go to a model, to Stash, or into a table."""

_SAID_BY = frozenset({"info", "warning", "error", "exception", "critical", "log"})
_SILENT_CALLS = frozenset(
    {"compile", "execute", "executemany", "Field", "Migration", "debug", "fullmatch", "search", "match", "sub", "cast"}
)
_SILENT_KEYWORDS = frozenset({"description", "help", "epilog", "usage", "prog", "metavar", "default"})
_SILENT_NAMES = re.compile(r"_(?:SYSTEM|USER|USER_\w+|STYLE|SELECT|INSERT|COLUMNS|EXAMPLES|NOTHING)")
"""Constants that go to a model, a browser, SQLite or the command line's help, or that answers are compared with."""
_OF_PROGRAMMERS = frozenset({"AssertionError", "AttributeError", "KeyError", "NotImplementedError", "TypeError"})
"""What is raised so is said to whoever calls a function wrongly."""

_CODE = re.compile(
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|ALTER|DROP|ORDER BY|WHERE|FROM|REFERENCES)\b"
    r"|^[a-z_]+(?:, [a-z_]+){3,}$|^[a-z_]+ = \S+$|^import [a-z]"  # columns; values of SQLite's; a program
)
_GRAPHQL = re.compile(r"^(?:query|mutation)\b.*\{", re.DOTALL)
_MARKUP = re.compile(r"<!?/?[a-z][^<>]*>")
_PLACE = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d*(?:\.\d+)?[sdrfgi]|%%|\{\w*(?:[:!][^{}]*)?\}")
_WORDS = 3


def sentences(file: Path) -> list[str]:
    """The sentences of a file of Python, in order, each once.

    Raises:
        OSError, SyntaxError: the file cannot be read.
    """
    if file.stem in _NOT_FOR_USERS:
        return []
    found: dict[str, None] = {}
    for text, is_said in _texts(ast.parse(file.read_text(encoding="utf-8")), is_said=False):
        if is_said:
            pieces = [text] if len(words(tidy(text))) > 1 else []
        elif _CODE.search(text) or _GRAPHQL.search(text.strip()):
            continue
        else:
            pieces = [piece for piece in _MARKUP.split(text) if len(words(tidy(piece))) >= _WORDS]
        found |= dict.fromkeys(tidy(piece) for piece in pieces)
    return [text for text in found if " " in text]


def tidy(text: str) -> str:
    """On one line, with an ellipsis for what is filled in, and without what only joins it to its neighbours."""
    text = _PLACE.sub(lambda m: "%" if m[0] == "%%" else "…", text)
    text = re.sub(r"…(?:[\s,]*…)+", "…", text)
    return " ".join(text.split()).strip(" ;:,–")


def words(text: str) -> list[str]:
    """Words of two letters and more."""
    return re.findall(r"[A-Za-zÀ-ÿ’']{2,}", text)


def _texts(node: ast.AST, *, is_said: bool) -> Iterator[tuple[str, bool]]:
    """Texts below a node and whether they are said as they are; the parts of an f-string are no texts of their own."""
    if isinstance(node, ast.JoinedStr):
        whole = "".join(
            v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else "…" for v in node.values
        )
        yield whole, is_said
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from _texts(value.value, is_said=False)
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value, is_said
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if _is_silent(node):
        return
    if isinstance(node, ast.Raise) and node.exc is not None:
        is_said = not (isinstance(node.exc, ast.Call) and _name(node.exc.func) in _OF_PROGRAMMERS)
        yield from _texts(node.exc, is_said=is_said)
        return
    if isinstance(node, ast.Call):
        # what other calls make of a text is said, not the text itself
        said_here = _name(node.func) in _SAID_BY or (is_said and _name(node.func)[:1].isupper())
        for child in ast.iter_child_nodes(node):
            yield from _texts(child, is_said=said_here)
        return
    passes_on = isinstance(node, ast.IfExp | ast.BinOp)
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, is_said=is_said and passes_on)


def _is_silent(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return True
    if isinstance(node, ast.keyword):
        return node.arg in _SILENT_KEYWORDS
    if isinstance(node, ast.Call):
        return _name(node.func) in _SILENT_CALLS
    if isinstance(node, ast.FunctionDef):
        return node.name == "__repr__"
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and _SILENT_NAMES.fullmatch(t.id) for t in node.targets)
    return False


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
