"""Running a GraphQL document the way Stash's server does: what is wrong with the document is 422, the rest is 200."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSyntaxError,
    GraphQLUnionType,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    build_schema,
    execute_sync,
    get_operation_ast,
    is_non_null_type,
    parse,
    validate,
)

from demo.stash import (
    resolvers_find,
    resolvers_markers,
    resolvers_media,
    resolvers_objects,
    resolvers_server,
    resolvers_studios,
    resolvers_tags,
    versions,
)
from demo.stash.backend import Call
from demo.stash.store import Row, StashError
from demo.stash.variables import VariableError, as_json, checked
from demo.stash.versions import Version, take_back

logger = logging.getLogger(__name__)

RESOLVERS = (
    resolvers_find,
    resolvers_objects,
    resolvers_media,
    resolvers_markers,
    resolvers_tags,
    resolvers_server,
    resolvers_studios,
)
EVERY_FIELD = [module.FIELDS for module in RESOLVERS]


NEWEST = (999, 0)


@lru_cache(maxsize=8)
def schema(version: Version = NEWEST) -> GraphQLSchema:
    """Our schema with its resolvers, without what a version of Stash does not have."""
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
    take_back(built, version)
    return built


class Document:
    """A parsed and checked query text."""

    def __init__(self, text: str, version: Version) -> None:
        self.errors: list[Row] = []
        self.parsed: DocumentNode | None = None
        try:
            parsed = parse(text)
        except GraphQLSyntaxError as exc:
            self.errors = [_refusal(exc, "GRAPHQL_PARSE_FAILED")]
            return
        self.errors = [_refusal(error, "GRAPHQL_VALIDATION_FAILED") for error in validate(schema(version), parsed)]
        self.parsed = parsed

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        return get_operation_ast(self.parsed, name or None) if self.parsed else None


@lru_cache(maxsize=512)
def document(text: str, version: Version = NEWEST) -> Document:
    """A query text's document, kept for the next request with the same text."""
    return Document(text, version)


def names(body: Row) -> tuple[str, tuple[str, ...]]:
    """Operation name and root fields of a request, as far as they can be told."""
    text = body.get("query")
    found = document(text) if isinstance(text, str) else None
    operation = found.operation(body.get("operationName")) if found else None
    if operation is None:
        return str(body.get("operationName") or ""), ()
    fields = tuple(node.name.value for node in operation.selection_set.selections if hasattr(node, "name"))
    return operation.name.value if operation.name else "", fields


def without_data(record_fields: tuple[str, ...], mutation: bool) -> Row | None:
    """`data` of a reply in which every root field failed: null for each, or as a whole when one may not be null."""
    root = schema().type_map["Mutation" if mutation else "Query"]
    assert isinstance(root, GraphQLObjectType)
    if any(name not in root.fields or is_non_null_type(root.fields[name].type) for name in record_fields):
        return None
    return dict.fromkeys(record_fields)


def is_mutation(body: Row) -> bool:
    """True when the request would change something."""
    text = body.get("query")
    operation = document(text).operation(body.get("operationName")) if isinstance(text, str) else None
    return operation is not None and operation.operation == OperationType.MUTATION


def run(body: Row, call: Call) -> tuple[int, Row]:
    """Execute a request body; returns HTTP status and reply.

    A query sees one state of the library. Mutations of one document run one after another, each in its own
    transaction: when one fails, the ones before it stay.
    """
    text = body.get("query")
    if not isinstance(text, str) or not text:
        return 422, _refused([_error("no operation provided")])
    version = versions.parsed(call.backend.settings.version)
    found = document(text, version)
    operation = found.operation(body.get("operationName"))
    if found.errors:
        return 422, _refused(found.errors)
    if operation is None or found.parsed is None:
        return 422, _refused([_error(f"operation {body.get('operationName') or ''} not found")])
    try:
        given = checked(schema(version), operation, body.get("variables") or {})
    except VariableError as exc:
        return 422, _refused([_error(str(exc)) | {"path": exc.path}])
    query = operation.operation == OperationType.QUERY
    if query:
        with call.store.lock:
            result = _execute(found.parsed, operation, given, call)
    else:
        result = _execute_each(found.parsed, operation, given, call)
    reply: Row = {}
    if result.errors:
        reply["errors"] = [_failure(error) for error in result.errors]
    reply["data"] = as_json(result.data)
    return 200, reply


def _execute(parsed: DocumentNode, operation: OperationDefinitionNode, given: Row, call: Call) -> ExecutionResult:
    name = operation.name.value if operation.name else None
    known = schema(versions.parsed(call.backend.settings.version))
    return execute_sync(known, parsed, context_value=call, variable_values=given, operation_name=name)


def _by_answer(operation: OperationDefinitionNode) -> list[tuple[SelectionNode, ...]]:
    """Root selections; those that answer under one name are one field, to be carried out once."""
    groups: dict[str, list[SelectionNode]] = {}
    for number, node in enumerate(operation.selection_set.selections):
        answer = (node.alias or node.name).value if isinstance(node, FieldNode) else f"...{number}"
        groups.setdefault(answer, []).append(node)
    return [tuple(group) for group in groups.values()]


def _execute_each(parsed: DocumentNode, operation: OperationDefinitionNode, given: Row, call: Call) -> ExecutionResult:
    """One mutation after another, to the end: a failure does not keep the later ones from being carried out.

    `data` is null as a whole when one that may not be null failed, although the others were carried out.
    """
    data: Row | None = {}
    errors: list[GraphQLError] = []
    others = tuple(node for node in parsed.definitions if not isinstance(node, OperationDefinitionNode))
    for selections in _by_answer(operation):
        alone = OperationDefinitionNode(
            operation=operation.operation,
            name=operation.name,
            variable_definitions=operation.variable_definitions,
            directives=operation.directives,
            selection_set=SelectionSetNode(selections=selections),
        )
        result = _execute(DocumentNode(definitions=(alone, *others)), alone, given, call)
        errors += result.errors or []
        data = None if data is None or result.data is None else data | result.data
    return ExecutionResult(data, errors or None)


def _refused(errors: list[Row]) -> Row:
    return {"errors": errors, "data": None}


def _error(message: str) -> Row:
    return {"message": message, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}


def _worded(message: str) -> str:
    """The message as Stash's GraphQL library words it, where clients may look for it."""
    if found := re.match(r'Expected value of type "(\w+)" not to include unknown field "(\w+)"', message):
        return f'Field "{found[2]}" is not defined by type "{found[1]}".'
    if found := re.match(r'Expected value of type "(\w+)" to include required field "(\w+)"', message):
        input_type = schema().type_map[found[1]]
        assert isinstance(input_type, GraphQLInputObjectType)
        wanted = input_type.fields[found[2]].type
        return f'Field "{found[1]}.{found[2]}" of required type "{wanted}" was not provided.'
    return message


def _refusal(error: GraphQLError, code: str) -> Row:
    places = [{"line": place.line, "column": place.column} for place in error.locations or []]
    message = _worded(re.sub(r"'([^']*)'", r'"\1"', error.message))
    if code == "GRAPHQL_PARSE_FAILED":
        message = message.removeprefix("Syntax Error: ").removesuffix(".")
    return {"message": message, "locations": places, "extensions": {"code": code}}


def _failure(error: GraphQLError) -> Row:
    """A resolver's error; what is not Stash's own refusal is a fault of ours and is logged."""
    cause = error.original_error
    message = error.message
    if cause is not None and not isinstance(cause, StashError):
        logger.error("resolver failed: %r", cause, exc_info=cause)
        message = f"Internal system error. Error <{cause}>"
    return {"message": message, "path": error.path}
