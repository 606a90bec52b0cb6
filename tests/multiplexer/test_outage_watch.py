"""An outage by the clock: when it begins, when it is told, when patience ends, and what is said."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from haven_vlm.errors import LocalOutageError, OutageError
from haven_vlm.outage import OutageWatch
from haven_vlm.pool_member import Member
from haven_vlm.scheduling import Scheduler
from haven_vlm.settings import EndpointSettings
from haven_vlm.stations import Job, Needs, Pass, Work
from tests.multiplexer.fakes import FakeEndpoint, question
from tests.virtual_time import run

ANY = Needs()
LOCAL = Needs(local_only=True)
SCENES = Needs(kind=Work.SCENES)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Pool:
    """Endpoints that are set to a state by hand, and a watch over them by a clock that is moved by hand."""

    def __init__(self, patience_s: float = 60.0, **endpoints: dict[str, Any]) -> None:
        self.now = 1024.0
        self.alarms: list[float] = []
        self.members = {name: self._member(name, **more) for name, more in endpoints.items()}
        members = list(self.members.values())
        self.scheduler = Scheduler(members, held=self.alarms.append)
        self.watch = OutageWatch(members, self.scheduler, patience_s, lambda: self.now, self.alarms.append)

    def _member(self, name: str, is_remote: bool | None = False, **more: Any) -> Member:
        endpoint = FakeEndpoint(name, is_remote=is_remote)
        settings = EndpointSettings.model_validate({"name": name, "base_url": endpoint.base_url, **more})

        async def sleep(_seconds: float) -> None:
            raise AssertionError("nothing sleeps here")

        member = Member(
            endpoint,
            settings,
            memory=None,
            now=lambda: NOON,
            clock=lambda: self.now,
            sleep=sleep,
            random=Random(0),
            changed=lambda: None,
            wake_in=lambda _seconds: None,
        )
        member.state = "ready"
        return member

    def down(self, name: str, reason: str = "it is switched off") -> None:
        member = self.members[name]
        member.state, member.proven, member.reason = "cooling down", False, reason

    def up(self, name: str, *, proven: bool = True) -> None:
        self.members[name].state, self.members[name].proven = "ready", proven

    def lease(self, name: str) -> None:
        self.members[name].lease(Job((0, 0), question(), ANY))

    def error_at(self, after_s: float, needs: Needs = ANY) -> str | None:
        """What is said `after_s` seconds after the beginning."""
        self.now = 1024.0 + after_s
        error = self.watch.verdict(needs)
        return None if error is None else str(error)


OFF = "No endpoint can take questions. “a”: it is switched off. (next try in 0 s)"


def test_patience_ends_at_its_moment_and_what_goes_on_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = Pool(60, a={})
    pool.down("a")
    assert pool.error_at(0) is None
    assert pool.alarms == [5.01]
    assert pool.error_at(4.99) is None
    assert "Waiting" not in caplog.text
    assert pool.error_at(5) is None
    assert caplog.text.count(f"{OFF} Waiting for up to 60 s.") == 1
    assert pool.alarms == [5.01, pytest.approx(55.01)]
    assert pool.error_at(59.9) is None
    assert pool.error_at(60) == f"{OFF} Waited for 60 s."
    assert caplog.text.count("Waiting") == 1
    assert len(pool.alarms) == 2


@pytest.mark.parametrize(
    ("patience_s", "waited"), [(0, ""), (0.75, ""), (1, " Waited for 1 s."), (3, " Waited for 3 s.")]
)
def test_a_short_patience(patience_s: float, waited: str, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(patience_s, a={})
    pool.down("a")
    if patience_s:
        assert pool.error_at(0) is None
        assert pool.alarms == [pytest.approx(patience_s + 0.01)]
    assert pool.error_at(patience_s) == OFF + waited
    assert "Waiting" not in caplog.text


def test_an_outage_that_is_noticed_late_is_told_with_no_alarm_in_the_past() -> None:
    pool = Pool(60, a={})
    pool.down("a")
    pool.error_at(0)
    pool.error_at(500)
    assert pool.alarms == [5.01, 0.01]


def test_later_work_is_not_made_to_wait_anew_until_an_endpoint_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = Pool(60, a={})
    pool.down("a")
    pool.error_at(0)
    pool.error_at(5)
    assert pool.error_at(60)
    pool.watch.look()  # nobody waits any more
    assert pool.error_at(70) == OFF, "at once"
    pool.up("a")
    assert pool.error_at(100) is None
    pool.down("a")
    assert pool.error_at(101) is None
    assert pool.error_at(160.9) is None
    assert pool.error_at(161) == f"{OFF} Waited for 60 s."


def test_the_end_of_an_outage_is_told_if_its_beginning_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = Pool(60, a={})
    for begin, length in ((0, 3), (100, 20)):
        pool.down("a")
        pool.error_at(begin)
        pool.error_at(begin + length - 1)
        pool.up("a")
        pool.error_at(begin + length)
        pool.error_at(begin + length + 1)
    assert [r.getMessage() for r in caplog.records if "again" in r.getMessage()] == [
        "endpoints answer again after 20 s"
    ]


def test_an_endpoint_that_flaps_does_not_prolong_the_patience() -> None:
    pool = Pool(60, a={})
    pool.down("a")
    assert pool.error_at(0) is None
    pool.up("a", proven=False)
    assert pool.error_at(30) is None
    pool.down("a")
    assert pool.error_at(60) == f"{OFF} Waited for 60 s."


def test_an_answer_that_is_on_its_way_is_waited_for() -> None:
    pool = Pool(60, a={}, b={})
    pool.down("b")
    pool.up("a", proven=False)
    pool.lease("a")
    assert pool.error_at(0) is None
    assert pool.error_at(100) is None
    pool.down("a")
    said = pool.error_at(101)
    assert said is not None, "where it was under way, nothing answers any more"
    assert said.endswith("Waited for 2 min.")


def test_one_that_is_ready_but_has_nothing_under_way_is_no_reason_to_wait() -> None:
    pool = Pool(60, a={})
    pool.up("a", proven=False)
    assert pool.error_at(0) is None
    assert pool.error_at(60) == "No endpoint can take questions. “a”: It does not answer well. Waited for 60 s."


def test_a_rest_longer_than_the_patience_is_not_waited_for() -> None:
    pool = Pool(60, a={})
    pool.members["a"].rest.extend(60)
    assert pool.error_at(0) is None
    assert pool.error_at(10) is None
    pool.members["a"].rest.extend(50.5)
    assert pool.error_at(10) == (
        "No endpoint can take questions. “a”: It does not answer well. (next try in 50 s) Waited for 10 s."
    )


def test_as_long_as_one_may_be_back_in_time_that_is_waited_for() -> None:
    pool = Pool(60, a={}, b={})
    pool.members["a"].rest.extend(3600)
    pool.down("b")
    assert pool.error_at(0) is None


def test_one_that_works_is_enough() -> None:
    pool = Pool(60, a={}, b={})
    pool.down("a")
    assert pool.error_at(0) is None
    assert pool.alarms == []
    assert pool.error_at(1000) is None


def test_where_there_is_no_hope_nobody_waits() -> None:
    pool = Pool(60, a={}, b={})
    for member in pool.members.values():
        member.state, member.reason, member.fix = "parked", "it wants a key", "Set api_key"
    assert pool.error_at(0) == (
        "No endpoint can take questions. “a”: it wants a key. Set api_key. “b”: it wants a key. Set api_key."
    )
    pool.down("b")
    assert pool.error_at(0) is None


def test_one_that_gets_ready_is_named_as_such() -> None:
    pool = Pool(0, a={})
    pool.members["a"].state = "preparing"
    assert pool.error_at(0) == "No endpoint can take questions. “a”: It is still getting ready."


def test_fallbacks_that_are_never_used_are_not_spoken_of() -> None:
    pool = Pool(0, a={}, spare={"is_fallback": True, "fallback_policy": "never"})
    pool.down("a")
    assert pool.error_at(0) == OFF


# --- classes of questions -------------------------------------------------------------------------------------


def test_what_must_stay_local_has_nowhere_to_go_when_all_are_remote() -> None:
    pool = Pool(60, cloud={"is_remote": True})
    assert pool.error_at(0) is None
    error = pool.watch.verdict(LOCAL)
    assert isinstance(error, LocalOutageError)
    assert str(error) == "No endpoint on the local network can take what must stay local: all are remote."


def test_where_an_endpoint_is_may_turn_out_and_is_waited_for() -> None:
    pool = Pool(60, somewhere={"is_remote": None})
    assert pool.error_at(0, LOCAL) is None
    assert pool.error_at(0) is None
    said = "No endpoint on the local network can take questions. “somewhere”: It does not answer well."
    assert pool.error_at(60, LOCAL) == f"{said} Waited for 60 s."
    assert pool.error_at(60) is None


def test_when_everything_is_out_it_is_no_matter_of_place() -> None:
    pool = Pool(0, a={}, cloud={"is_remote": True})
    pool.down("a")
    pool.down("cloud")
    error = pool.watch.verdict(LOCAL)
    assert type(error) is OutageError
    pool.up("cloud")
    error = pool.watch.verdict(LOCAL)
    assert type(error) is LocalOutageError
    assert str(error) == OFF.replace("No endpoint", "No endpoint on the local network")


def test_work_that_no_endpoint_is_for_is_told_so() -> None:
    pool = Pool(60, a={"only_for": "images"})
    assert pool.error_at(0, SCENES) == ("No endpoint is there for scenes: all are reserved for others (`only_for`).")
    assert pool.error_at(0, Needs(kind=Work.IMAGES)) is None
    assert Pool(60).error_at(0) == "No endpoint is there for questions: all are reserved for others (`only_for`)."


def test_a_fallback_that_is_never_used_serves_nobody() -> None:
    pool = Pool(60, a={"only_for": "images"}, spare={"is_fallback": True, "fallback_policy": "never"})
    assert "reserved for others" in (pool.error_at(0, SCENES) or "")


def test_scenes_do_not_wait_for_an_endpoint_of_images() -> None:
    pool = Pool(60, a={}, b={"only_for": "images"})
    pool.down("a")
    assert pool.error_at(0, SCENES) is None
    assert pool.error_at(60, SCENES) == f"{OFF} Waited for 60 s."
    assert pool.error_at(60, Needs(kind=Work.IMAGES)) is None


# --- who waits ------------------------------------------------------------------------------------------------


def test_patience_is_for_those_who_wait() -> None:
    pool = Pool(60, a={})
    pool.down("a")
    with pool.watch.demand(ANY):
        assert pool.watch.wanted() == [ANY]
        pool.watch.look()
        assert pool.watch.waiting_for() == OFF
        pool.now += 50
        pool.watch.look()
    assert pool.watch.wanted() == []
    assert pool.watch.waiting_for() == ""
    pool.watch.look()
    with pool.watch.demand(ANY):
        assert pool.watch.waiting_for() == "", "not yet looked at"
        assert pool.error_at(100) is None
        assert pool.error_at(159) is None
        assert pool.error_at(160) is not None


def test_the_last_of_several_counts() -> None:
    pool = Pool(60, a={})
    pool.down("a")
    with pool.watch.demand(LOCAL):
        with pool.watch.demand(ANY), pool.watch.demand(LOCAL):
            assert pool.watch.wanted() == [ANY, LOCAL]
        assert pool.watch.wanted() == [ANY, LOCAL]
    assert pool.watch.wanted() == []
    with pytest.raises(KeyError), pool.watch.demand(ANY):
        raise KeyError
    assert pool.watch.wanted() == []


def test_nothing_is_waited_for_while_an_endpoint_works() -> None:
    pool = Pool(60, a={})
    with pool.watch.demand(ANY):
        pool.watch.look()
        assert pool.watch.waiting_for() == ""


def test_what_was_told_belongs_to_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(60, a={})
    pool.down("a")
    for _ in range(2):
        with pool.watch.demand(ANY):
            pool.watch.look()
            pool.now += 10
            pool.watch.look()
        pool.watch.look()
    assert caplog.text.count("Waiting for up to") == 2


def test_every_wait_of_a_class_ends_with_the_reason_and_the_others_go_on() -> None:
    async def main() -> None:
        pool = Pool(60, a={}, cloud={"is_remote": True, "max_concurrent": 1})
        pool.down("a")
        for needs in (LOCAL, LOCAL, ANY):  # as many as may be decoded already
            await pool.scheduler.ticket("scene 1", needs)
        waits = [asyncio.create_task(pool.scheduler.ticket("scene 1", needs)) for needs in (LOCAL, LOCAL, ANY)]
        await asyncio.sleep(0)
        pool.watch.verdict(LOCAL)
        assert pool.watch.wanted() == [ANY, LOCAL]
        pool.now += 59
        pool.watch.look()
        assert not any(wait.done() for wait in await looked_at(waits))
        pool.now += 1
        pool.watch.look()
        *local, other = await looked_at(waits)
        errors = [wait.exception() for wait in local]
        assert all(isinstance(e, LocalOutageError) and "Waited for 60 s." in str(e) for e in errors)
        assert errors[0] is not errors[1]
        assert not other.done()
        assert pool.watch.wanted() == [ANY]
        other.cancel()

    async def looked_at(waits: list[asyncio.Task[Pass]]) -> list[asyncio.Task[Pass]]:
        for _ in range(3):
            await asyncio.sleep(0)
        return waits

    run(main())
