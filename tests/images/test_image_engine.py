"""One image: asked once, known ever after, like its neighbour when it looks like it; and what its tags are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haven_vlm.errors import MediaUnreadable, OutageError
from haven_vlm.facts import Answer, Frame, Kind, Outcome, Question, Sample, Term
from haven_vlm.image_engine import NEIGHBOURS, ImageEngine, ImageJob, Moments, union
from haven_vlm.pool_ports import PoolStatistics
from haven_vlm.ports import AnswerKey, PartlyKnown
from haven_vlm.prompts import build_prompt
from haven_vlm.settings import Settings

TERMS = (Term("Foul"), Term("Dunk"))
Answering = Callable[[Question], Answer]


def luma(value: int) -> bytes:
    """A look of its own for every value."""
    return bytes((value * 53 + i * 7) % 200 + 30 for i in range(1024))


def frame(look: int, at_ms: int = 0, *, size: tuple[int, int] = (64, 36), grey: bytes | None = None) -> Frame:
    return Frame(at_ms, at_ms, b"%d" % look, *size, grey if grey is not None else luma(look))


def tagged(*names: str) -> Answering:
    return lambda _: Answer(Outcome.TAGS if names else Outcome.NONE, dict.fromkeys(names, 0.9), model="tiny")


class Pool:
    """Answers; counts who holds a ticket."""

    models = frozenset({"tiny"})

    def __init__(self, answer: Answering | None = None, *, slots: int = 2) -> None:
        self.answer = answer or tagged("Dunk")
        self.questions: list[Question] = []
        self.held = 0
        self.local: list[bool] = []
        self.expected: list[int] = []
        self.gate: asyncio.Event | None = None
        self._slots = asyncio.Semaphore(slots)

    @asynccontextmanager
    async def ticket(
        self, lane: str, *, local_only: bool = False, kind: Kind = Kind.SCENE, closely: bool = False
    ) -> AsyncIterator[Self]:
        async with self._slots:
            self.held += 1
            self.local.append(local_only)
            try:
                yield self
            finally:
                self.held -= 1

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        return self.answer(question)

    def pictures(self, *, local_only: bool = False, kind: Kind = Kind.SCENE) -> int:
        return 1

    def expect(self, lane: str, count: int) -> None:
        self.expected.append(count)

    def close_lane(self, lane: str) -> None: ...

    def statistics(self) -> PoolStatistics:
        return PoolStatistics((), 0, 0, 0, 0)


class Store:
    """Remembers like the ledger: per file, prompt and time."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, int], tuple[Sample, tuple[Term, ...]]] = {}

    async def known_partly(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, PartlyKnown]:
        found: dict[int, tuple[dict[str, float], set[Term]]] = {}
        for (identity, _, at_ms), (sample, terms) in self.rows.items():
            if identity == key.identity and sample.outcome.analysed:
                tags, covered = found.setdefault(at_ms, ({}, set()))
                tags.update(sample.tags)
                covered.update(terms)
        return {
            at_ms: PartlyKnown(
                Sample(at_ms, at_ms, Outcome.TAGS if tags else Outcome.NONE, tags),
                tuple(t for t in key.prompt.terms if t not in covered),
            )
            for at_ms, (tags, covered) in found.items()
        }

    async def record(self, key: AnswerKey, *, at_ms: int, shown_ms: int, answer: Answer) -> None:
        sample = Sample(at_ms, shown_ms, answer.outcome, answer.tags, answer.model)
        self.rows[key.identity, key.prompt.key, at_ms] = (sample, key.prompt.terms)

    async def record_inherited(self, key: AnswerKey, *, sample: Sample) -> None:
        assert sample.inherited_from_ms is not None and sample.outcome.analysed
        self.rows[key.identity, key.prompt.key, sample.at_ms] = (sample, key.prompt.terms)

    async def known(self, key: AnswerKey, models: object) -> dict[int, Sample]:
        raise NotImplementedError

    async def missing_terms(self, key: AnswerKey, models: object, times_ms: object) -> dict[Any, Any]:
        raise NotImplementedError


class Bench:
    """An engine with its surroundings."""

    def __init__(
        self,
        pool: Pool | None = None,
        store: Store | None = None,
        terms: Sequence[Term] = TERMS,
        skip: bool = True,
        terms_at_once: int = 300,
    ) -> None:
        self.pool = pool or Pool()
        self.store = store or Store()
        self.reads: list[str] = []
        self.engine = ImageEngine(
            pool=self.pool,
            store=self.store,
            make_prompt=lambda some: build_prompt(some, kind=Kind.IMAGE),
            terms=terms,
            skip_similar=skip,
            terms_at_once=terms_at_once,
        )

    def job(self, name: str, *frames: Frame, single: bool = True, local_only: bool = False) -> ImageJob:
        async def read() -> tuple[Frame, ...]:
            assert self.pool.held, "a picture is decoded only with a ticket"
            self.reads.append(name)
            await asyncio.sleep(0)
            return frames

        return ImageJob(name, name, "still", read, single, local_only)


async def test_an_image_is_asked_about_once_and_then_not_even_opened() -> None:
    bench = Bench()
    first = await bench.engine.look(bench.job("a", frame(1)))
    again = await bench.engine.look(bench.job("a", frame(1)))
    assert (first.asked, first.reused, again.asked, again.reused) == (1, 0, 0, 1)
    assert first.samples[0].tags == again.samples[0].tags == {"Dunk": 0.9}
    assert bench.reads == ["a"]


async def test_what_may_have_several_pictures_is_opened_and_asked_only_about_new_ones() -> None:
    bench = Bench()
    await bench.engine.look(bench.job("a", frame(1), frame(2, 100), single=False))
    again = await bench.engine.look(bench.job("a", frame(1), frame(2, 100), frame(3, 200), single=False))
    assert (again.asked, again.reused) == (1, 2)
    assert list(again.samples) == [0, 100, 200]


async def test_new_terms_are_asked_about_alone_and_join_what_is_known() -> None:
    store = Store()
    bench = Bench(store=store, terms=TERMS[:1], pool=Pool(tagged("Foul")))
    await bench.engine.look(bench.job("a", frame(1)))
    wider = Bench(store=store)
    analysis = await wider.engine.look(wider.job("a", frame(1)))
    assert [t.name for t in wider.pool.questions[0].prompt.terms] == ["Dunk"]
    assert analysis.samples[0].tags == {"Foul": 0.9, "Dunk": 0.9}


async def test_neighbours_that_look_the_same_share_one_answer_also_while_it_is_on_its_way() -> None:
    bench = Bench()
    bench.pool.gate = asyncio.Event()
    looks = [asyncio.ensure_future(bench.engine.look(bench.job(n, frame(1)))) for n in "abcd"]
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.pool.held == 1  # those who wait for their neighbour hold no ticket
    bench.pool.gate.set()
    analyses = await asyncio.gather(*looks)
    assert [(a.asked, a.inherited) for a in analyses] == [(1, 0), (0, 1), (0, 1), (0, 1)]
    assert all(a.samples[0].tags == {"Dunk": 0.9} for a in analyses)
    assert (await bench.engine.look(bench.job("c", frame(1)))).reused == 1


async def test_a_neighbour_without_an_answer_is_no_help() -> None:
    bench = Bench(Pool(lambda _: Answer(Outcome.REFUSED, detail="the model declined to look")))
    analyses = await asyncio.gather(*(bench.engine.look(bench.job(n, frame(1))) for n in "ab"))
    assert [a.asked for a in analyses] == [1, 1]
    assert analyses[1].problems == {"the model declined to look": 1}
    assert analyses[1].coverage == 0


async def test_a_neighbour_whose_run_ends_lets_the_others_go() -> None:
    def gone(_: Question) -> Answer:
        raise OutageError("no endpoint answers")

    bench = Bench(Pool(gone))
    results = await asyncio.gather(*(bench.engine.look(bench.job(n, frame(1))) for n in "ab"), return_exceptions=True)
    assert [type(r) for r in results] == [OutageError, OutageError]
    assert bench.pool.held == 0


@pytest.mark.parametrize("other", [frame(1, size=(36, 64)), frame(2)])
async def test_another_shape_or_another_look_is_another_picture(other: Frame) -> None:
    bench = Bench()
    await bench.engine.look(bench.job("a", frame(1)))
    assert (await bench.engine.look(bench.job("b", other))).asked == 1


async def test_only_near_neighbours_count() -> None:
    bench = Bench()
    await bench.engine.look(bench.job("first", frame(0)))
    for number in range(1, NEIGHBOURS + 1):
        shade = random.Random(number).randbytes(1024)
        await bench.engine.look(bench.job(f"{number}", frame(number, grey=shade)))
    assert (await bench.engine.look(bench.job("last", frame(0)))).asked == 1


async def test_blank_pictures_are_not_worth_a_question_unless_asked_for() -> None:
    blank = frame(1, grey=b"\x80" * 1024)
    bench = Bench()
    analysis = await bench.engine.look(bench.job("a", blank))
    assert (analysis.asked, analysis.inherited, analysis.coverage) == (0, 1, 1.0)
    bench = Bench(skip=False)
    assert (await bench.engine.look(bench.job("a", blank))).asked == 1


async def test_a_long_vocabulary_is_asked_in_parts_with_one_place_at_the_endpoints() -> None:
    """Each part waits for leave of its own, so that parts of one picture never wait for each other."""
    bench = Bench(Pool(lambda q: tagged(q.prompt.terms[0].name)(q), slots=1), terms_at_once=1)
    looks = [bench.engine.look(bench.job(name, frame(n))) for n, name in enumerate("ab")]
    for analysis in await asyncio.gather(*looks):
        assert analysis.samples[0].tags == {"Foul": 0.9, "Dunk": 0.9} and analysis.asked == 2
    assert (await bench.engine.look(bench.job("a", frame(0)))).reused == 1
    assert bench.pool.held == 0


async def test_a_part_that_got_no_answer_ends_the_picture_and_what_was_answered_is_kept() -> None:
    def half(question: Question) -> Answer:
        is_first = question.prompt.terms[0].name == "Foul"
        return tagged("Foul")(question) if is_first else Answer(Outcome.REFUSED, detail="the model declined to look")

    store = Store()
    bench = Bench(Pool(half), store, terms_at_once=1)
    analysis = await bench.engine.look(bench.job("a", frame(1)))
    assert analysis.coverage == 0 and analysis.problems == {"the model declined to look": 1}
    again = Bench(Pool(tagged("Dunk")), store, terms_at_once=1)
    analysis = await again.engine.look(again.job("a", frame(1)))
    assert [t.name for q in again.pool.questions for t in q.prompt.terms] == ["Dunk"]
    assert analysis.samples[0].tags == {"Foul": 0.9, "Dunk": 0.9}


async def test_an_outage_at_one_of_several_pictures_is_told_as_such() -> None:
    def gone(question: Question) -> Answer:
        if question.jpegs[0] == b"1":
            raise OutageError("no endpoint answers")
        return tagged("Dunk")(question)

    bench = Bench(Pool(gone, slots=3))
    with pytest.raises(OutageError, match="no endpoint answers"):
        await bench.engine.look(bench.job("a", *(frame(n, n * 100) for n in range(3)), single=False))
    assert bench.pool.held == 0


async def test_several_pictures_are_asked_about_at_once() -> None:
    bench = Bench(Pool(slots=3))
    bench.pool.gate = asyncio.Event()
    frames = [frame(n, n * 100) for n in range(3)]
    look = asyncio.ensure_future(bench.engine.look(bench.job("a", *frames, single=False, local_only=True)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(bench.pool.questions) == 3
    bench.pool.gate.set()
    assert (await look).asked == 3
    assert bench.pool.local == [True] * 3
    assert all(q.local_only for q in bench.pool.questions)


async def test_what_cannot_be_read_gives_its_ticket_back() -> None:
    bench = Bench()

    async def read() -> tuple[Frame, ...]:
        raise MediaUnreadable("it is cut off")

    with pytest.raises(MediaUnreadable):
        await bench.engine.look(ImageJob("a", "a", "still", read, single=True))
    assert bench.pool.held == 0


async def test_the_pool_knows_how_much_is_to_come() -> None:
    bench = Bench()
    bench.engine.expect(3)
    await bench.engine.look(bench.job("a", frame(1)))
    bench.engine.skip()
    await bench.engine.look(bench.job("b", frame(2)))
    assert bench.pool.expected == [3, 2, 1, 0]


# --- a few moments of a clip ----------------------------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(1, 50))
def test_moments_are_inside_the_clip_and_evenly_spread(duration_ms: int, count: int) -> None:
    moments = Moments(duration_ms, count)
    times = moments.wish({}).now
    assert list(times) == sorted(set(times)) and 1 <= len(times) <= count
    assert all(0 <= t < max(1, duration_ms) for t in times)
    seen = {t: Sample(t, t, Outcome.NONE) for t in times}
    assert not moments.wish(seen).now and moments.planned(seen) == len(times)


# --- what the tags are ----------------------------------------------------------------------------------------


def settings(**values: Any) -> Settings:
    tags = ["Dunk", "Score", {"name": "Foul", "threshold": 0.8}, "Replay", "Live"]
    return Settings.model_validate(
        {"endpoints": [{"base_url": "http://localhost:1/v1"}], "tag_list": tags, "threshold": 0.5, **values}
    )


def sample(outcome: Outcome = Outcome.TAGS, **tags: float) -> Sample:
    return Sample(0, 0, outcome, tags)


def test_the_surest_of_all_pictures_counts_and_each_tag_has_its_threshold() -> None:
    samples = [sample(Dunk=0.6, Foul=0.79), sample(Dunk=0.9, Live=0.49), sample(Foul=0.8)]
    assert union(samples, settings()) == {"Dunk": 0.9, "Foul": 0.8}


def test_what_was_not_analysed_and_what_is_not_asked_about_any_more_says_nothing() -> None:
    assert union([sample(Outcome.REFUSED, Dunk=1.0), sample(Gone=1.0)], settings()) == {}


def test_of_an_exclusive_group_only_the_surest_stays_in_each_picture() -> None:
    group = settings(exclusive_groups=[["Replay", "Live"]])
    assert union([sample(Replay=0.6, Live=0.7)], group) == {"Live": 0.7}
    assert union([sample(Replay=0.7, Live=0.7)], group) == {"Replay": 0.7}
    assert union([sample(Replay=0.9), sample(Live=0.6)], group) == {"Replay": 0.9, "Live": 0.6}


def test_what_a_tag_implies_holds_too_and_without_it_the_tag_goes() -> None:
    chain = settings(implications={"Dunk": ["Score"], "Score": ["Live"]}, exclusive_groups=[["Replay", "Live"]])
    assert union([sample(Dunk=0.8)], chain) == {"Dunk": 0.8, "Score": 0.8, "Live": 0.8}
    assert union([sample(Dunk=0.8, Replay=0.9)], chain) == {"Replay": 0.9}


@given(
    st.lists(st.dictionaries(st.sampled_from(["Dunk", "Score", "Foul", "Replay", "Live"]), st.floats(0, 1)), max_size=4)
)
def test_rules_hold_whatever_the_answers(answers: list[dict[str, float]]) -> None:
    rules = settings(
        implications={"Dunk": ["Score"], "Score": ["Live"], "Live": ["Dunk"]}, exclusive_groups=[["Foul", "Live"]]
    )
    for answer in answers:
        found = union([Sample(0, 0, Outcome.TAGS, answer)], rules)
        assert not {"Foul", "Live"} <= found.keys()
        assert len(found.keys() & {"Dunk", "Score", "Live"}) in (0, 3)
    each = [union([Sample(0, 0, Outcome.TAGS, a)], rules) for a in answers]
    whole = union([Sample(0, 0, Outcome.TAGS, a) for a in answers], rules)
    assert whole == {name: max(e.get(name, 0.0) for e in each) for e in each for name in e}
