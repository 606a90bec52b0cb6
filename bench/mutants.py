"""Small changes to a module's source, each of which a test should notice: enumerated, described, applied by number.

One mutant is one change of one node: a comparison, an operator, a constant, a condition, a returned value, a statement
with an effect. Annotations, decorators, declarations of fields (`init=False`), docstrings, assertions (`strict=True` of
a `zip` is one) and what is only said to the user are left alone.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Change = tuple[ast.AST, str]
"""What a node becomes, and how that reads."""

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_DECLARED = {"annotation", "returns", "type_params", "decorator_list"}
"""Fields of nodes that say what something is, and not what it does."""

_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    module: str
    """Dotted name."""
    number: int
    """Place among all changes of its module."""
    function: str
    """Qualified name of the function it is in; empty outside of any, as in the body of a class."""
    line: int
    text: str
    """The source line, stripped."""
    change: str
    """`before → after`, as source."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it although lines move."""
        return self.module, self.text, self.change

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}: {self.change}   in: {self.text}"


def mutants_of(module: str, file: Path) -> list[Mutant]:
    """All mutants of a module, in the order of its source."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = []
    for number, (site, (_, change)) in enumerate(_changes(ast.parse(source))):
        line = site.node.lineno
        found.append(Mutant(module, number, site.function, line, lines[line - 1].strip(), change))
    return found


def mutated(file: Path, number: int) -> ast.Module:
    """The module with one change made.

    Raises:
        IndexError: there are fewer changes.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for n, (site, (after, _)) in enumerate(_changes(tree)):
        if n == number:
            site.replace(after)
            return ast.fix_missing_locations(tree)
    raise IndexError(number)


def marked(file: Path, marker: str) -> ast.Module:
    """The module, each of whose functions first calls the global `marker` with its qualified name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))

    def mark(parent: ast.AST, scope: tuple[str, ...]) -> None:
        for node in ast.iter_child_nodes(parent):
            inner = scope
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (*scope, node.name)
            mark(node, inner)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                call = ast.Call(ast.Name(marker, ast.Load()), [ast.Constant(".".join(inner))], [])
                node.body.insert(0, ast.copy_location(ast.Expr(call), node.body[0]))

    mark(tree, ())
    return ast.fix_missing_locations(tree)


@dataclass(frozen=True, slots=True)
class _Site:
    node: ast.expr | ast.stmt
    parent: ast.AST
    field: str
    index: int | None
    function: str

    def replace(self, after: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, after)
        else:
            getattr(self.parent, self.field)[self.index] = after


def _changes(tree: ast.Module) -> Iterator[tuple[_Site, Change]]:
    for site in _sites(tree, ()):
        for after, change in _alternatives(site):
            yield site, (ast.copy_location(after, site.node), change)


def _sites(parent: ast.AST, scope: tuple[str, ...], function: str = "") -> Iterator[_Site]:
    for field, value in ast.iter_fields(parent):
        if field in _DECLARED or (field == "keywords" and isinstance(parent, ast.ClassDef)):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, node in children:
            if not isinstance(node, ast.AST):
                continue
            if _left_alone(node):
                continue
            if isinstance(node, ast.expr | ast.stmt):
                yield _Site(node, parent, field, index, function)
            inner, within = scope, function
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (*scope, node.name)
                within = ".".join(inner) if not isinstance(node, ast.ClassDef) else ""
            yield from _sites(node, inner, within)


def _left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant()) | ast.keyword(arg="strict" | "init"):  # a docstring; of `zip`, of `field`
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log")))):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
    return False


def _alternatives(site: _Site) -> Iterator[Change]:
    for after in _other_nodes(site):
        before_text, after_text = ast.unparse(site.node), ast.unparse(after)
        if before_text != after_text:
            yield after, f"{_short(before_text)} → {_short(after_text)}"


def _other_nodes(site: _Site) -> Iterator[ast.AST]:
    match site.node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in _COMPARED[type(op)]:
                    changed = copy.deepcopy(site.node)
                    changed.ops[i] = other()
                    yield changed
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATED:
            yield ast.BinOp(left, _OPERATED[type(op)](), right)
        case ast.AugAssign(op=op, target=target, value=value) if type(op) in _OPERATED:
            yield ast.AugAssign(target, _OPERATED[type(op)](), value)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=value):
            yield from _other_constants(value, site.parent)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _CALLED:
            yield ast.Call(ast.Name(_CALLED[name], ast.Load()), args, keywords)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Delete():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if site.function:
            yield ast.Pass()
    # other conditions are turned around by another change anyway
    if isinstance(site.node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.NamedExpr):
        conditions = {"If": "test", "While": "test", "IfExp": "test", "comprehension": "ifs"}
        if conditions.get(type(site.parent).__name__) == site.field:
            yield ast.UnaryOp(ast.Not(), site.node)


def _other_constants(value: object, parent: ast.AST) -> Iterator[ast.AST]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int():
            yield ast.Constant(value + 1)
        case float():
            yield ast.Constant(value * 2 if value else 1.0)
        case str() if isinstance(parent, ast.Compare | ast.Set):
            yield ast.Constant(value + "~")


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else f"{text[:67]}…"
