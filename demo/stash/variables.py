"""Variables of a request, checked the way Stash's GraphQL library checks them, with its words.

Numbers are kept as they were written: `5` does for a String or an ID and "5" for an Int, but `5.0` is no Int.
"""

from __future__ import annotations

import json
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    OperationDefinitionNode,
    value_from_ast_untyped,
)
from graphql.utilities import type_from_ast

Path = tuple[str | int, ...]


class Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


class VariableError(Exception):
    """A variable does not fit its type."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = list(path)


def load(text: bytes | str) -> Any:
    """JSON with its numbers kept as text.

    Raises:
        ValueError: not JSON.
    """
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


def plain(value: Any) -> Any:
    """A JSON value with its numbers as Python's."""
    if isinstance(value, Number):
        return float(value) if set(value) & set(".eE") else int(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def checked(schema: GraphQLSchema, operation: OperationDefinitionNode, given: dict[str, Any]) -> dict[str, Any]:
    """The variables an operation declares, ready for execution; further ones are passed over.

    Raises:
        VariableError: one is missing or does not fit.
    """
    done: dict[str, Any] = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        wanted: Any = type_from_ast(schema, definition.type)
        if name not in given:
            if definition.default_value is not None:
                done[name] = value_from_ast_untyped(definition.default_value)
            elif isinstance(wanted, GraphQLNonNull):
                raise VariableError("must be defined", ("variable", name))
            continue
        done[name] = _value(wanted, given[name], ("variable", name))
    return done


def _value(wanted: GraphQLInputType, value: Any, path: Path) -> Any:
    if isinstance(wanted, GraphQLNonNull):
        if value is None:
            raise VariableError("cannot be null", path)
        return _value(wanted.of_type, value, path)
    if value is None:
        return None
    if isinstance(wanted, GraphQLList):
        if not isinstance(value, list):
            return [_value(wanted.of_type, value, path)]
        return [_value(wanted.of_type, item, (*path, index)) for index, item in enumerate(value)]
    if isinstance(wanted, GraphQLEnumType):
        if not isinstance(value, str):
            raise VariableError("enums must be ints or strings", path)
        if value not in wanted.values:
            raise VariableError(f"{value} is not a valid {wanted.name}", path)
        return str(value)
    if isinstance(wanted, GraphQLInputObjectType):
        return _object(wanted, value, path)
    return _scalar(wanted.name, value, path)


def _object(wanted: GraphQLInputObjectType, value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise VariableError(f"must be a {wanted.name}, not a {_kind(value)}", path)
    for name in value:
        if name not in wanted.fields:
            raise VariableError("unknown field", (*path, name))
    for name, field in wanted.fields.items():
        if name not in value and isinstance(field.type, GraphQLNonNull):
            raise VariableError("must be defined", (*path, name))
    return {name: _value(wanted.fields[name].type, item, (*path, name)) for name, item in value.items()}


def _scalar(name: str, value: Any, path: Path) -> Any:
    fits = True
    match name:
        case "String" | "ID":
            fits = isinstance(value, str)
            found: Any = str(value)
        case "Boolean":
            fits = isinstance(value, bool)
            found = value
        case "Int" | "Float":
            number = {"Int": int, "Float": float}[name]
            found = None
            try:
                found = number(value) if isinstance(value, str) else None
            except ValueError:
                fits = False
            fits = fits and found is not None
        case _:
            return plain(value)
    if not fits:
        raise VariableError(f"cannot use {_kind(value)} as {name}", path)
    return found


def _kind(value: Any) -> str:
    return {bool: "bool", list: "slice", dict: "map"}.get(type(value), "string")


def as_json(value: Any) -> Any:
    """Floats in Go's shortest form: a whole one has no decimal point and arrives as an integer."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1_000_000:
        return int(value)
    return value
