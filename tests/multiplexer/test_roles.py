"""Endpoints that are kept for scenes, or for images."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from haven_vlm.errors import EndpointFault, LocalOutageError, OutageError
from haven_vlm.facts import Kind
from tests.multiplexer.fakes import FakeEndpoint, answers, ask_all, nothing_left, pool_of
from tests.virtual_time import run


def test_each_endpoint_gets_only_what_it_is_for_and_the_others_get_both() -> None:
    async def main() -> None:
        films, stills, both = FakeEndpoint("films"), FakeEndpoint("stills"), FakeEndpoint("both")
        each: dict[str, dict[str, Any]] = {"films": {"only_for": "scenes"}, "stills": {"only_for": "images"}}
        async with nothing_left(), pool_of(films, stills, both, each=each) as pool, asyncio.TaskGroup() as tasks:
            scenes = tasks.create_task(ask_all(pool, range(200), lane="scene 1"))
            images = tasks.create_task(ask_all(pool, range(1000, 1200), lane="images", kind=Kind.IMAGE))
        answers(scenes.result())
        answers(images.result())
        asked = {e.name: {int(a.question.jpegs[0][8:]) >= 1000 for a in e.attempts} for e in (films, stills, both)}
        assert asked["films"] == {False}
        assert asked["stills"] == {True}
        assert both.attempts
        assert {e.most_in_flight for e in (films, stills, both)} == {4}, "all are busy"

    run(main())


def test_an_endpoint_for_images_is_not_even_asked_what_it_can_do_in_a_run_of_scenes() -> None:
    async def main() -> None:
        films, stills = FakeEndpoint("films"), FakeEndpoint("stills")
        async with nothing_left(), pool_of(films, stills, each={"stills": {"only_for": "images"}}) as pool:
            answers(await ask_all(pool, range(30)))
            assert [e.state for e in pool.statistics().endpoints] == ["ready", "unused"]
        assert not stills.prepared_at

    run(main())


def test_galleries_count_as_images() -> None:
    async def main() -> None:
        stills, films = FakeEndpoint("stills"), FakeEndpoint("films")
        each = {"stills": {"only_for": "images"}, "films": {"only_for": "scenes"}}
        async with pool_of(stills, films, each=each) as pool:
            answers(await ask_all(pool, range(5), kind=Kind.GALLERY))
        assert len(stills.attempts) == 5

    run(main())


@pytest.mark.parametrize("kind", [Kind.SCENE, Kind.IMAGE])
def test_when_none_is_for_it_the_run_ends_at_once_and_names_the_setting(kind: Kind) -> None:
    async def main() -> None:
        other = FakeEndpoint("other")
        only_for = "images" if kind is Kind.SCENE else "scenes"
        async with nothing_left(), pool_of(other, each={"other": {"only_for": only_for}}) as pool:
            results = await ask_all(pool, range(3), kind=kind)
            assert asyncio.get_running_loop().time() == 0
        for result in results.values():
            assert isinstance(result, OutageError) and not isinstance(result, LocalOutageError)
            assert f"{kind}s" in str(result) and "only_for" in str(result)

    run(main())


def test_an_outage_of_the_one_kind_leaves_the_other_alone() -> None:
    async def main() -> None:
        films, stills = FakeEndpoint("films"), FakeEndpoint("stills")
        stills.not_ready = lambda _: stills.error(EndpointFault.CONNECT, fix="Start it.")
        each = {"stills": {"only_for": "images"}, "films": {"only_for": "scenes"}}
        async with (
            nothing_left(),
            pool_of(films, stills, each=each, outage_patience=30) as pool,
            asyncio.TaskGroup() as tasks,
        ):
            scenes = tasks.create_task(ask_all(pool, range(1200), lane="scene 1"))
            images = tasks.create_task(ask_all(pool, range(5), lane="images", kind=Kind.IMAGE))
        assert len(answers(scenes.result())) == 1200
        for result in images.result().values():
            assert isinstance(result, OutageError)
            assert "“stills”" in str(result) and "films" not in str(result)

    run(main())


def test_a_fallback_for_images_steps_in_when_their_endpoint_is_down_though_others_live() -> None:
    async def main() -> None:
        films, stills, spare = FakeEndpoint("films"), FakeEndpoint("stills"), FakeEndpoint("spare")
        stills.not_ready = lambda _: stills.error(EndpointFault.CONNECT)
        each: dict[str, dict[str, Any]] = {
            "films": {"only_for": "scenes"},
            "stills": {"only_for": "images"},
            "spare": {"is_fallback": True},
        }
        async with nothing_left(), pool_of(films, stills, spare, each=each) as pool, asyncio.TaskGroup() as tasks:
            tasks.create_task(ask_all(pool, range(400), lane="scene 1"))
            images = tasks.create_task(ask_all(pool, range(1000, 1040), lane="images", kind=Kind.IMAGE))
        assert len(answers(images.result())) == 40
        assert {int(a.question.jpegs[0][8:]) >= 1000 for a in spare.attempts} == {True}

    run(main())


def test_what_must_stay_local_and_is_an_image_needs_a_local_endpoint_for_images() -> None:
    async def main() -> None:
        films, away = FakeEndpoint("films"), FakeEndpoint("away", is_remote=True)
        each: dict[str, dict[str, Any]] = {"films": {"only_for": "scenes"}, "away": {"allow_remote": True}}
        async with nothing_left(), pool_of(films, away, each=each, outage_patience=5) as pool:
            assert len(answers(await ask_all(pool, range(10), kind=Kind.IMAGE))) == 10
            results = await ask_all(pool, range(10, 13), kind=Kind.IMAGE, local_only=True)
        assert all(isinstance(r, LocalOutageError) for r in results.values())
        assert len(away.attempts) == 10

    run(main())


def test_a_scout_looks_first_and_a_judge_looks_closely() -> None:
    async def main() -> None:
        scout, judge, both = FakeEndpoint("scout"), FakeEndpoint("judge"), FakeEndpoint("both")
        each = {"scout": {"only_for": "first_look"}, "judge": {"only_for": "close_look"}}
        async with nothing_left(), pool_of(scout, judge, both, each=each) as pool, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask_all(pool, range(200), lane="scene 1"))
            closely = tasks.create_task(ask_all(pool, range(1000, 1200), lane="scene 2", closely=True))
        answers(first.result())
        answers(closely.result())
        asked = {e.name: {int(a.question.jpegs[0][8:]) >= 1000 for a in e.attempts} for e in (scout, judge)}
        assert asked == {"scout": {False}, "judge": {True}}
        assert both.attempts

    run(main())


def test_images_go_to_neither() -> None:
    async def main() -> None:
        scout, both = FakeEndpoint("scout"), FakeEndpoint("both")
        async with nothing_left(), pool_of(scout, both, each={"scout": {"only_for": "first_look"}}) as pool:
            answers(await ask_all(pool, range(30), kind=Kind.IMAGE))
        assert not scout.attempts

    run(main())


def test_a_judge_that_is_missing_is_named_by_what_it_is_for() -> None:
    async def main() -> None:
        scout = FakeEndpoint("scout")
        async with nothing_left(), pool_of(scout, each={"scout": {"only_for": "first_look"}}) as pool:
            answers(await ask_all(pool, range(3)))
            results = await ask_all(pool, range(10, 12), closely=True)
        for result in results.values():
            assert "the close look at scenes" in str(result) and "only_for" in str(result)

    run(main())
