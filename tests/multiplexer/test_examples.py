"""Examples in a pool with endpoints inside and outside: they stay inside, whatever happens."""

from __future__ import annotations

import asyncio

from demo.vision_server import VisionServer
from haven_vlm.facts import Answer, Example, Outcome, Question
from haven_vlm.prompts import with_examples
from tests.multiplexer.test_real_sockets import PROMPT, Rig, picture

EXAMPLES = (Example("oshash:1:1", 1000, ("Dunk",), picture(190)), Example("oshash:2:1", 2000, (), picture(191)))
GUIDED = with_examples(PROMPT, EXAMPLES)


def see(jpeg: bytes) -> list[str]:
    assert jpeg not in {e.jpeg for e in EXAMPLES}
    return ["Free throw"]


async def put(rig: Rig, number: int) -> Answer:
    async with rig.pool.ticket("scene 1") as ticket:
        return await ticket.ask(Question(GUIDED, (picture(number),), False, str(number)))


async def test_examples_go_to_no_endpoint_outside_by_weight_as_a_retry_or_when_home_is_down() -> None:
    home, allowed = VisionServer(see, slots=2), VisionServer(see, slots=2)
    rig = Rig(home=home, allowed=allowed)
    rig.outside = {"allowed"}
    async with rig, asyncio.timeout(60):
        await rig.pool.prepared()
        answers = list(await asyncio.gather(*(put(rig, n) for n in range(40))))
        await home.stop()
        answers += await asyncio.gather(*(put(rig, n) for n in range(40, 60)))
        left = rig.pool.statistics().left_network
    assert {a.outcome for a in answers} == {Outcome.TAGS}
    assert {(a.endpoint, a.examples) for a in answers} == {("home", 2), ("allowed", 0)}
    assert {len(e.examples) for e in home.questions()} == {2}
    assert {(len(e.examples), e.pictures) for e in allowed.questions()} == {(0, 1)}
    assert left == len(allowed.questions())  # one picture each: that in question
    assert len({e.text for e in allowed.questions()}) == 1
