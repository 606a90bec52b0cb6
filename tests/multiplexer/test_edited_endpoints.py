"""Endpoints that are edited while a run goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from haven_vlm.endpoint_watch import EVERY_S, EndpointWatch
from haven_vlm.errors import ConfigError, StashUnavailable
from haven_vlm.settings import EndpointSettings
from tests.multiplexer.fakes import FakeEndpoint, answers, ask_all, nothing_left, pool_of
from tests.virtual_time import run


def named(name: str, **more: object) -> EndpointSettings:
    return EndpointSettings.model_validate({"name": name, "base_url": f"http://{name}/v1", "max_concurrent": 4, **more})


def present(pool: object, *names: str) -> dict[str, EndpointSettings]:
    """The settings the members have now."""
    return {m.name: m.settings for m in pool._members if m.name in names}  # type: ignore[attr-defined]


def test_one_that_is_taken_out_gets_nothing_more_and_nothing_is_lost() -> None:
    async def main() -> None:
        stays, goes = FakeEndpoint("stays"), FakeEndpoint("goes")
        async with nothing_left(), pool_of(stays, goes) as pool, asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask_all(pool, range(100)))
            await asyncio.sleep(0.5)
            assert goes.attempts
            told = pool.revise([present(pool, "stays")["stays"]])
            asked = len(goes.attempts)
            answers(await asking)
            assert len(goes.attempts) == asked
            assert len(stays.attempts) + asked == 100
            assert told == ["“goes” gets no more questions: it was taken out of the settings."]
            assert pool.revise([present(pool, "stays")["stays"]]) == [], "said once"

    run(main())


def test_one_that_comes_back_takes_part_again() -> None:
    async def main() -> None:
        stays, goes = FakeEndpoint("stays"), FakeEndpoint("goes")
        async with nothing_left(), pool_of(stays, goes) as pool:
            both = list(present(pool, "stays", "goes").values())
            pool.revise(both[:1])
            answers(await ask_all(pool, range(20)))
            assert not goes.attempts
            assert pool.revise(both) == ["“goes” takes part again."]
            answers(await ask_all(pool, range(100, 140)))
            assert goes.attempts

    run(main())


def test_places_and_weight_hold_at_once() -> None:
    async def main() -> None:
        one = FakeEndpoint("one")
        async with nothing_left(), pool_of(one) as pool:
            answers(await ask_all(pool, range(20)))
            assert one.most_in_flight == 4
            wider = present(pool, "one")["one"].model_copy(update={"max_concurrent": 7, "weight": 3.0})
            assert pool.revise([wider]) == ["“one” has weight 3 and max_concurrent 7 now."]
            answers(await ask_all(pool, range(100, 140)))
            assert one.most_in_flight == 7

    run(main())


def test_what_needs_a_new_connection_waits_for_the_next_run() -> None:
    async def main() -> None:
        one = FakeEndpoint("one")
        async with nothing_left(), pool_of(one) as pool:
            now = present(pool, "one")["one"]
            moved = now.model_copy(update={"base_url": "http://elsewhere:1/v1"})
            (told,) = pool.revise([moved])
            assert "the other changes with the next run" in told
            assert pool.revise([moved, named("two")]) == ["“two” is new and takes part in the next run."]
            assert pool.revise([named("three")]) == [
                "The endpoints in the settings are all new: they take part in the next run."
            ]
            answers(await ask_all(pool, range(10)))
            assert len(one.attempts) == 10

    run(main())


class Pool:
    def __init__(self) -> None:
        self.revised: list[list[str]] = []

    def revise(self, endpoints: Sequence[EndpointSettings]) -> list[str]:
        self.revised.append([e.name for e in endpoints])
        return [f"now {len(endpoints)}"]


def test_settings_are_looked_at_from_time_to_time(caplog: pytest.LogCaptureFixture) -> None:
    one, two = named("one"), named("two")
    mistake = ConfigError("One setting is wrong: endpoints")
    looks: list[list[EndpointSettings] | Exception] = [
        [one], [one, two], [one, two], mistake, mistake, StashUnavailable("busy"), [one, two], [two],
    ]  # fmt: skip

    async def main() -> None:
        pool, seen = Pool(), 0

        async def read() -> list[EndpointSettings]:
            nonlocal seen
            found = looks[seen]
            seen += 1
            if isinstance(found, Exception):
                raise found
            return found

        async with EndpointWatch(read, pool, [one]):
            await asyncio.sleep(EVERY_S * len(looks) + 1)
        assert seen == len(looks)
        assert pool.revised == [["one", "two"], ["two"]]

    with caplog.at_level(logging.INFO):
        run(main())
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "going on with those before" in warnings[0]
