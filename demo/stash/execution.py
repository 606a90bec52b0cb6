"""Running a GraphQL document the way Stash's server does: what is wrong with the document is 422, the rest is 200."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLSyntaxError,
    GraphQLUnionType,
    OperationDefinitionNode,
    OperationType,
    build_schema,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)
from graphql.execution.values import get_variable_values

from demo.stash import (
    resolvers_find,
    resolvers_markers,
    resolvers_media,
    resolvers_objects,
    resolvers_server,
    resolvers_tags,
)
from demo.stash.backend import Call
from demo.stash.store import Row, StashError

logger = logging.getLogger(__name__)

RESOLVERS = (
    resolvers_find,
    resolvers_objects,
    resolvers_media,
    resolvers_markers,
    resolvers_tags,
    resolvers_server,
)
EVERY_FIELD = [module.FIELDS for module in RESOLVERS]


def _map_only(value: Any) -> Any:
    if not isinstance(value, dict):
        raise GraphQLError(f"{value!r} is not a map")
    return value


@lru_cache(maxsize=1)
def schema() -> GraphQLSchema:
    """Our schema with its resolvers."""
    built = build_schema((Path(__file__).parent / "schema.graphql").read_text(encoding="utf-8"))
    for fields in EVERY_FIELD:
        for type_name, resolvers in fields.items():
            object_type = built.type_map[type_name]
            assert isinstance(object_type, GraphQLObjectType)
            for name, resolver in resolvers.items():
                object_type.fields[name].resolve = resolver
    visual_file = built.type_map["VisualFile"]
    assert isinstance(visual_file, GraphQLUnionType)
    visual_file.resolve_type = lambda value, _info, _type: "VideoFile" if value["kind"] == "video" else "ImageFile"
    for name in ("Map", "BoolMap", "PluginConfigMap"):
        scalar = built.type_map[name]
        assert isinstance(scalar, GraphQLScalarType)
        scalar.parse_value = _map_only  # type: ignore[method-assign]
    return built


class Document:
    """A parsed and checked query text."""

    def __init__(self, text: str) -> None:
        self.errors: list[Row] = []
        self.parsed: DocumentNode | None = None
        try:
            parsed = parse(text)
        except GraphQLSyntaxError as exc:
            self.errors = [_refusal(exc, "GRAPHQL_PARSE_FAILED")]
            return
        self.errors = [_refusal(error, "GRAPHQL_VALIDATION_FAILED") for error in validate(schema(), parsed)]
        self.parsed = parsed

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        return get_operation_ast(self.parsed, name or None) if self.parsed else None


@lru_cache(maxsize=512)
def document(text: str) -> Document:
    """A query text's document, kept for the next request with the same text."""
    return Document(text)


def names(body: Row) -> tuple[str, tuple[str, ...]]:
    """Operation name and root fields of a request, as far as they can be told."""
    text = body.get("query")
    found = document(text) if isinstance(text, str) else None
    operation = found.operation(body.get("operationName")) if found else None
    if operation is None:
        return str(body.get("operationName") or ""), ()
    fields = tuple(node.name.value for node in operation.selection_set.selections if hasattr(node, "name"))
    return operation.name.value if operation.name else "", fields


def run(body: Row, call: Call) -> tuple[int, Row]:
    """Execute a request body; returns HTTP status and reply.

    A query sees one state of the library. Mutations of one document run one after another, each in its own
    transaction: when one fails, the ones before it stay.
    """
    text = body.get("query")
    if not isinstance(text, str) or not text:
        return 422, _refused(
            [{"message": "no operation provided", "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}]
        )
    found = document(text)
    operation = found.operation(body.get("operationName"))
    if found.errors:
        return 422, _refused(found.errors)
    if operation is None or found.parsed is None:
        message = f"operation {body.get('operationName') or ''} not found"
        return 422, _refused([{"message": message, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}])
    given = body.get("variables") or {}
    variables = get_variable_values(schema(), operation.variable_definitions or (), given)
    if isinstance(variables, list):
        return 422, _refused([_refusal(error, "GRAPHQL_VALIDATION_FAILED") for error in variables])
    query = operation.operation == OperationType.QUERY
    if query:
        with call.store.lock:
            result = _execute(found.parsed, body, given, call)
    else:
        result = _execute(found.parsed, body, given, call)
    reply: Row = {}
    if result.errors:
        reply["errors"] = [_failure(error) for error in result.errors]
    reply["data"] = as_json(result.data)
    return 200, reply


def _execute(parsed: DocumentNode, body: Row, given: Row, call: Call) -> ExecutionResult:
    return execute_sync(
        schema(),
        parsed,
        context_value=call,
        variable_values=given,
        operation_name=body.get("operationName") or None,
    )


def _refused(errors: list[Row]) -> Row:
    return {"errors": errors, "data": None}


def _refusal(error: GraphQLError, code: str) -> Row:
    places = [{"line": place.line, "column": place.column} for place in error.locations or []]
    return {"message": error.message, "locations": places, "extensions": {"code": code}}


def _failure(error: GraphQLError) -> Row:
    """A resolver's error; what is not Stash's own refusal is a fault of ours and is logged."""
    cause = error.original_error
    message = error.message
    if cause is not None and not isinstance(cause, StashError):
        logger.error("resolver failed: %r", cause, exc_info=cause)
        message = "internal system error"
    return {"message": message, "path": error.path}


def as_json(value: Any) -> Any:
    """Floats in Go's shortest form: a whole one has no decimal point and arrives as an integer."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1_000_000:
        return int(value)
    return value
