"""Status codes, error shapes and variables, the same from both servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stash.servers import STASH_BIN, Server

FIND_TAGS = "query($f: FindFilterType) { findTags(filter: $f) { count } }"
FIND_BY_ID = "query($i: [ID!]) { findTags(ids: $i) { count } }"


@pytest.mark.real
@pytest.mark.skipif(not STASH_BIN, reason="STASH_BIN is not set: only the embedded Stash is put to these tests")
def test_the_real_stash_is_there() -> None:
    assert Path(STASH_BIN).is_file()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("{ nope }", 'Cannot query field "nope" on type "Query".'),
        ("{", "Expected Name, found <EOF>"),
        ("", "no operation provided"),
        ("{ ...A }", 'Unknown fragment "A".'),
        ("query($a: String) { version { hash } }", 'Variable "$a" is never used.'),
        ("query { findTags(filter: $f) { count } }", 'Variable "$f" is not defined.'),
        (
            'mutation { tagCreate(input: {name: "a", zz: 1}) { id } }',
            'Field "zz" is not defined by type "TagCreateInput".',
        ),
    ],
)
def test_a_wrong_document_is_422_with_a_code(server: Server, query: str, message: str) -> None:
    reply = server.gql(query)
    assert (reply.status, reply.messages[0], reply.body["data"]) == (422, message, None)
    code = "GRAPHQL_PARSE_FAILED" if query == "{" else "GRAPHQL_VALIDATION_FAILED"
    assert reply.body["errors"][0]["extensions"]["code"] == code


@pytest.mark.parametrize("accept", ["*/*", "application/graphql-response+json"])
def test_a_client_that_does_not_ask_for_plain_json_gets_400_instead_of_422(server: Server, accept: str) -> None:
    reply = server.gql("{ nope }", headers={"Accept": accept})
    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/graphql-response+json"


@pytest.mark.parametrize(
    ("query", "variables", "message", "path"),
    [
        (FIND_TAGS, {"f": {"per_page": 5.0}}, "cannot use string as Int", ["per_page"]),
        (FIND_TAGS, {"f": {"per_page": True}}, "cannot use bool as Int", ["per_page"]),
        (FIND_TAGS, {"f": {"q": ["a"]}}, "cannot use slice as String", ["q"]),
        (FIND_TAGS, {"f": {"nope": 1}}, "unknown field", ["nope"]),
        (FIND_TAGS, {"f": {"direction": "UP"}}, "UP is not a valid SortDirectionEnum", ["direction"]),
        (FIND_TAGS, {"f": 5}, "must be a FindFilterType, not a string", []),
        (FIND_TAGS, {"f": [{"q": "x"}]}, "must be a FindFilterType, not a slice", []),
    ],
)
def test_a_variable_that_does_not_fit_is_422_and_says_where(
    server: Server, query: str, variables: dict[str, Any], message: str, path: list[str]
) -> None:
    reply = server.gql(query, **variables)
    assert (reply.status, reply.messages) == (422, [message])
    assert reply.body["errors"][0]["path"] == ["variable", "f", *path]


def test_missing_and_null_variables_differ(server: Server) -> None:
    query = "query($i: ID!) { findTag(id: $i) { id } }"
    assert server.gql(query).messages == ["must be defined"]
    assert server.gql(query, i=None).messages == ["cannot be null"]


@pytest.mark.parametrize(("wanted", "count"), [({"per_page": "1"}, 2), ({"q": 5}, 0)])
def test_numbers_and_texts_stand_in_for_each_other(server: Server, wanted: dict[str, Any], count: int) -> None:
    server.tag("Court")
    server.tag("Ball")
    assert server.data(FIND_TAGS, f=wanted) == {"findTags": {"count": count}}


def test_ids_are_texts_and_may_be_sent_as_numbers_or_alone(server: Server) -> None:
    tag = server.tag("Court")
    assert isinstance(tag, str)
    assert server.data(FIND_BY_ID, i=[int(tag)]) == {"findTags": {"count": 1}}
    assert server.data(FIND_BY_ID, i=tag) == {"findTags": {"count": 1}}
    assert server.data(FIND_BY_ID, i=tag, undeclared=3) == {"findTags": {"count": 1}}


def test_a_refusal_is_200_with_null_where_the_field_may_be_null(server: Server) -> None:
    server.tag("Court")
    reply = server.gql('mutation { tagCreate(input: {name: "court"}) { id } }')
    assert reply.status == 200
    assert reply.body == {
        "errors": [{"message": "tag with name 'court' already exists", "path": ["tagCreate"]}],
        "data": {"tagCreate": None},
    }


def test_a_refusal_of_a_field_that_may_not_be_null_takes_all_data_with_it(server: Server) -> None:
    reply = server.gql('{ findTags(filter: {sort: "nope"}) { count } version { hash } }')
    assert reply.status == 200
    assert reply.body["data"] is None
    assert reply.messages == ["invalid sort: nope"]


def test_aliased_mutations_run_one_by_one_each_for_itself(server: Server) -> None:
    reply = server.gql(
        'mutation { a: tagCreate(input: {name: "A"}) { name } b: tagCreate(input: {name: "A"}) { name }'
        ' c: tagCreate(input: {name: "C"}) { name } }'
    )
    assert reply.body["data"] == {"a": {"name": "A"}, "b": None, "c": {"name": "C"}}
    assert reply.body["errors"][0]["path"] == ["b"]


def test_mutations_behind_a_failed_one_are_carried_out_even_when_data_is_null(server: Server) -> None:
    reply = server.gql(
        'mutation { a: tagCreate(input: {name: "A"}) { name } b: tagDestroy(input: {id: 999999})'
        ' c: tagCreate(input: {name: "C"}) { name } }'
    )
    assert reply.body["data"] is None
    assert [tag["name"] for tag in server.data("{ findTags { tags { name } } }")["findTags"]["tags"]] == ["A", "C"]


def test_the_same_mutation_twice_under_one_name_is_carried_out_once(server: Server) -> None:
    query = 'mutation { tagCreate(input: {name: "A"}) { name } tagCreate(input: {name: "A"}) { aliases } }'
    assert server.data(query) == {"tagCreate": {"name": "A", "aliases": []}}


def test_whole_floats_have_no_decimal_point(server: Server) -> None:
    response = server.http.post(
        f"{server.url}/graphql",
        json={"query": '{ findScenes(filter: {sort: "id", per_page: 1}) { scenes { files { duration } } } }'},
        headers={"Accept": "application/json"},
        timeout=30,
    )
    assert '"duration":2}' in response.text


def test_reply_keys_come_in_the_order_asked_for(server: Server) -> None:
    server.tag("Court")
    tag = server.data("{ findTags { tags { name aliases id } } }")["findTags"]["tags"][0]
    assert list(tag) == ["name", "aliases", "id"]


def test_bodies_that_are_no_graphql_request(server: Server) -> None:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    post = server.http.post
    assert post(f"{server.url}/graphql", data="{bad", headers=headers, timeout=30).status_code == 400
    assert post(f"{server.url}/graphql", data="[]", headers=headers, timeout=30).status_code == 400
    assert post(f"{server.url}/graphql", data="{}", headers=headers, timeout=30).status_code == 422
    listed = '{"query": "{version{hash}}", "variables": []}'
    assert post(f"{server.url}/graphql", data=listed, headers=headers, timeout=30).status_code == 400
    plain = headers | {"Content-Type": "text/plain"}
    assert post(f"{server.url}/graphql", data="{}", headers=plain, timeout=30).status_code == 400


def test_a_get_request_may_ask_but_not_change(server: Server) -> None:
    asked = server.get("/graphql?query={version{version}}", Accept="application/json")
    assert asked.json()["data"]["version"]["version"].startswith("v0.")
    assert server.get("/graphql?query=mutation{stopAllJobs}", Accept="application/json").status_code == 406
