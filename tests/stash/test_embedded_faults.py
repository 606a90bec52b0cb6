"""Scripted trouble and the request log, of the embedded Stash only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from demo.stash import EmbeddedStash, RequestRecord, running_stash

BULK = """mutation BulkSceneUpdate($i: BulkSceneUpdateInput!) { bulkSceneUpdate(input: $i) { id } }"""
NAMES = "query Names { findTags { tags { name } } }"


@pytest.fixture
def stash() -> Iterator[EmbeddedStash]:
    with running_stash() as running:
        running.add_scene("/media/game.mp4")
        running.add_tag("Court")
        yield running


def post(stash: EmbeddedStash, query: str, timeout: float = 10.0, **variables: Any) -> requests.Response:
    body = {"query": query, "variables": variables}
    headers = {"Accept": "application/json", "Connection": "close"}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(stash.graphql_url, json=body, headers=headers, timeout=timeout)


def add_tag(stash: EmbeddedStash, timeout: float = 10.0) -> requests.Response:
    return post(stash, BULK, timeout, i={"ids": [1], "tag_ids": {"ids": [1], "mode": "ADD"}})


def test_a_locked_database_is_200_with_its_words_and_changes_nothing(stash: EmbeddedStash) -> None:
    fault = stash.faults.add("BulkSceneUpdate", "locked", times=2)
    for _ in range(2):
        answer = add_tag(stash)
        assert answer.status_code == 200
        assert answer.json()["errors"][0]["message"] == "database is locked"
        assert answer.json()["data"] == {"bulkSceneUpdate": None}
    assert (fault.hits, stash.scene_tags(1)) == (2, [])
    assert add_tag(stash).json()["data"] == {"bulkSceneUpdate": [{"id": "1"}]}
    assert stash.scene_tags(1) == ["Court"]


def test_a_locked_database_takes_all_data_of_a_query(stash: EmbeddedStash) -> None:
    stash.faults.add("Names", "locked")
    assert post(stash, NAMES).json()["data"] is None


@pytest.mark.parametrize(
    ("match", "struck"),
    [
        ("BulkSceneUpdate", True),
        ("bulkSceneUpdate", True),
        ("/graphql", True),
        ("findTags", False),
        (lambda record: record.variables["i"]["tag_ids"]["mode"] == "ADD", True),
        (lambda record: record.variables["i"]["tag_ids"]["mode"] == "REMOVE", False),
    ],
)
def test_what_a_fault_matches(stash: EmbeddedStash, match: Any, struck: bool) -> None:
    stash.faults.add(match, "503")
    assert add_tag(stash).status_code == (503 if struck else 200)


def test_after_lets_some_pass_and_times_ends_it(stash: EmbeddedStash) -> None:
    fault = stash.faults.add("Names", "500", after=1, times=2)
    assert [post(stash, NAMES).status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    assert (fault.seen, fault.hits) == (5, 2)


def test_for_ever_until_removed(stash: EmbeddedStash) -> None:
    fault = stash.faults.add("Names", "401", times=None)
    answers = [post(stash, NAMES) for _ in range(3)]
    assert [(a.status_code, a.content, a.headers["WWW-Authenticate"]) for a in answers] == [(401, b"", "FormBased")] * 3
    stash.faults.remove(fault)
    assert post(stash, NAMES).status_code == 200


@pytest.mark.parametrize(("kind", "carried_out"), [("drop", []), ("drop_after", ["Court"])])
def test_a_dropped_connection_before_or_after_the_change(
    stash: EmbeddedStash, kind: str, carried_out: list[str]
) -> None:
    stash.faults.add("BulkSceneUpdate", kind)
    with pytest.raises(requests.ConnectionError):
        add_tag(stash)
    assert stash.scene_tags(1) == carried_out
    assert stash.requests[-1].status is None


def test_a_truncated_reply_was_carried_out(stash: EmbeddedStash) -> None:
    stash.faults.add("BulkSceneUpdate", "truncated")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        add_tag(stash)
    assert stash.scene_tags(1) == ["Court"]


def test_an_error_status_after_the_change(stash: EmbeddedStash) -> None:
    stash.faults.add("BulkSceneUpdate", "status_after", status=502)
    assert add_tag(stash).status_code == 502
    assert stash.scene_tags(1) == ["Court"]


def test_junk_is_200_and_no_json(stash: EmbeddedStash) -> None:
    stash.faults.add("Names", "junk")
    answer = post(stash, NAMES)
    assert (answer.status_code, answer.text[:6]) == (200, "<html>")


def test_hooks_delay_the_reply_but_not_the_change(stash: EmbeddedStash) -> None:
    """The client gives up waiting, and the change is there all the same."""
    held = stash.faults.add("BulkSceneUpdate", "hook_delay")
    with pytest.raises(requests.Timeout):
        add_tag(stash, timeout=0.2)
    assert stash.scene_tags(1) == ["Court"]
    held.release()


def test_a_slow_request_waits_before_the_change_and_others_pass_it(stash: EmbeddedStash) -> None:
    held = stash.faults.add("BulkSceneUpdate", "slow")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(add_tag, stash)
        assert post(stash, NAMES).status_code == 200
        assert stash.scene_tags(1) == []
        held.release()
        assert waiting.result(10).status_code == 200
    assert stash.scene_tags(1) == ["Court"]


def test_clearing_the_script_releases_who_waits(stash: EmbeddedStash) -> None:
    stash.faults.add("Names", "slow")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, stash, NAMES)
        while not stash.count("Names"):
            threading.Event().wait(0.005)
        stash.faults.clear()
        assert waiting.result(10).status_code == 200


def test_an_unknown_kind_is_refused_at_once(stash: EmbeddedStash) -> None:
    with pytest.raises(ValueError, match="'explode' is none of"):
        stash.faults.add("Names", "explode")


def test_media_can_fail_too(stash: EmbeddedStash) -> None:
    stash.faults.add("/scene/1/stream", "500")
    with requests.Session() as session:
        assert session.get(f"{stash.url}/scene/1/stream", timeout=60).status_code == 500


def test_a_callback_may_change_the_library_before_a_request_is_carried_out(stash: EmbeddedStash) -> None:
    """A user takes the trigger tag off while the plugin is at work."""
    stash.tag_scene(1, "Trigger")

    def interfere(record: RequestRecord) -> None:
        stash.untag_scene(1, "Trigger")
        stash.add_tag(f"Seen {record.operation}")

    stash.on_request(interfere, match="BulkSceneUpdate")
    post(stash, NAMES)
    assert stash.scene_tags(1) == ["Trigger"]
    add_tag(stash)
    assert stash.scene_tags(1) == ["Court"]
    assert "Seen BulkSceneUpdate" in stash.tag_names()


def test_a_callback_may_delete_the_scene_a_request_is_about(stash: EmbeddedStash) -> None:
    stash.on_request(lambda _record: stash.delete("scenes", 1), match="BulkSceneUpdate")
    answer = add_tag(stash).json()
    assert "FOREIGN KEY constraint failed" in answer["errors"][0]["message"]


def test_a_callback_after_the_change_sees_it(stash: EmbeddedStash) -> None:
    seen: list[list[str]] = []
    stash.log.on_reply(lambda _record: seen.append(stash.scene_tags(1)), match="bulkSceneUpdate")
    add_tag(stash)
    assert seen == [["Court"]]


def test_the_request_log(stash: EmbeddedStash) -> None:
    add_tag(stash)
    post(stash, NAMES)
    first, second = stash.requests
    assert (first.method, first.path, first.operation, first.fields) == (
        "POST",
        "/graphql",
        "BulkSceneUpdate",
        ("bulkSceneUpdate",),
    )
    assert first.variables == {"i": {"ids": [1], "tag_ids": {"ids": [1], "mode": "ADD"}}}
    assert first.reply == {"data": {"bulkSceneUpdate": [{"id": "1"}]}}
    assert (first.status, first.executed, second.operation) == (200, True, "Names")
    assert first.at <= second.at
    assert stash.count("findTags") == 1
    stash.log.clear()
    assert stash.requests == []


def test_requests_may_come_at_once(stash: EmbeddedStash) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _number: add_tag(stash).status_code, range(64)))
    assert answers == [200] * 64
    assert stash.count("BulkSceneUpdate") == 64
