"""One video: every wanted moment is asked about once, whatever fails, and nothing is asked that is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

import pytest

from haven_vlm.errors import MediaUnreadable, OutageError
from haven_vlm.facts import Answer, Example, Frame, Glimpse, Kind, Outcome, Question, Sample, Term, VideoInfo, Wish
from haven_vlm.pool_ports import PoolStatistics
from haven_vlm.ports import AnswerKey, PartlyKnown, ProgressSink, Settled, VideoJob
from haven_vlm.progress import Pace, Progress
from haven_vlm.prompts import EXAMPLES_MARK, build_prompt, build_several_prompt, with_examples
from haven_vlm_engine import BuiltInEngine

TERMS = (Term("Foul"), Term("Dunk"))


def luma(value: int) -> bytes:
    """A picture of its own for every value: a gradient that is far from black and from its neighbours."""
    return bytes((value * 53 + i * 7) % 200 + 30 for i in range(1024))


class Pool:
    """Answers from a function; counts who holds a ticket."""

    def __init__(self, answer: Callable[[Question], Answer], *, slots: int = 2) -> None:
        self.answer = answer
        self.questions: list[Question] = []
        self.held = self.most_held = 0
        self.closely: list[bool] = []
        self.closed: list[str] = []
        self._slots = asyncio.Semaphore(slots)
        self.hold: asyncio.Event | None = None
        self.first_question = asyncio.Event()
        self.full = asyncio.Event()

    models: frozenset[str] | None = frozenset({"tiny"})

    @asynccontextmanager
    async def ticket(
        self, lane: str, *, local_only: bool = False, kind: Kind = Kind.SCENE, closely: bool = False
    ) -> AsyncIterator[Self]:
        async with self._slots:
            self.closely.append(closely)
            self.held += 1
            self.most_held = max(self.held, self.most_held)
            if self._slots.locked():
                self.full.set()
            try:
                yield self
            finally:
                self.held -= 1

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        self.first_question.set()
        await asyncio.sleep(0)
        if self.hold:
            await self.hold.wait()
        return self.answer(question)

    most_pictures = 1

    def pictures(self, *, local_only: bool = False, kind: Kind = Kind.SCENE) -> int:
        return self.most_pictures

    def expect(self, lane: str, count: int) -> None:
        assert count >= 0

    def close_lane(self, lane: str) -> None:
        self.closed.append(lane)

    def statistics(self) -> PoolStatistics:
        return PoolStatistics((), 0, 0, 0, 0)

    @property
    def times(self) -> list[int]:
        return sorted(int(q.jpegs[0]) for q in self.questions)


class Store:
    """Remembers like the ledger: per prompt, per time; prompts of one wording know from each other."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Sample] = {}
        self.terms: dict[tuple[str, int], tuple[Term, ...]] = {}
        self.wordings: dict[str, str] = {}

    async def known_partly(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, PartlyKnown]:
        merged: dict[int, tuple[dict[str, float], set[Term]]] = {}
        for (prompt_key, at_ms), sample in self.rows.items():
            wordings = {key.prompt.wording, key.prompt.company_wording if key.also_in_company else key.prompt.wording}
            spoken = self.wordings.get(prompt_key, key.prompt.wording).partition(EXAMPLES_MARK)[0]
            if sample.outcome.analysed and spoken in wordings:
                tags, terms = merged.setdefault(at_ms, ({}, set()))
                tags.update(sample.tags)
                terms.update(self.terms[prompt_key, at_ms])
        return {
            at_ms: PartlyKnown(
                Sample(at_ms, at_ms, Outcome.TAGS if tags else Outcome.NONE, tags),
                tuple(t for t in key.prompt.terms if t not in terms),
            )
            for at_ms, (tags, terms) in merged.items()
        }

    async def known(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, Sample]:
        return {t: k.sample for t, k in (await self.known_partly(key, models)).items() if not k.missing}

    async def missing_terms(
        self, key: AnswerKey, models: Collection[str] | None, times_ms: object
    ) -> dict[tuple[Term, ...], tuple[int, ...]]:
        raise NotImplementedError

    async def record(self, key: AnswerKey, *, at_ms: int, shown_ms: int, answer: Answer) -> None:
        await asyncio.sleep(0)
        self.wordings[key.prompt.key] = key.prompt.wording
        self.rows[key.prompt.key, at_ms] = Sample(at_ms, shown_ms, answer.outcome, answer.tags)
        self.terms[key.prompt.key, at_ms] = key.prompt.terms

    async def record_inherited(self, key: AnswerKey, *, sample: Sample) -> None:
        await asyncio.sleep(0)  # as the real one, which waits for its thread
        self.wordings[key.prompt.key] = key.prompt.wording
        self.rows[key.prompt.key, sample.at_ms] = sample
        self.terms[key.prompt.key, sample.at_ms] = key.prompt.terms


class Reader:
    """Frames whose JPEG is their time as text."""

    def __init__(
        self,
        *,
        duration_ms: int | None = 10_000,
        corrupt: Collection[int] = (),
        undecodable: Collection[int] = (),
        breaks_at: int | None = None,
        picture: Callable[[int], bytes] = luma,
    ) -> None:
        self.info = VideoInfo(duration_ms, 640, 360, 25.0, "h264")
        self.bad_frames = 0
        self.decoded: list[int] = []
        self.opened = self.closed = 0
        self._undecodable, self._breaks_at, self._picture = undecodable, breaks_at, picture
        self._corrupt = corrupt

    async def __aenter__(self) -> Self:
        self.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed += 1

    async def frames(self, wanted_ms: Sequence[int], *, snap_ms: int = 0) -> AsyncGenerator[Frame]:
        assert list(wanted_ms) == sorted(set(wanted_ms))
        for at_ms in wanted_ms:
            if self._breaks_at is not None and at_ms >= self._breaks_at:
                raise MediaUnreadable("the file is damaged")
            self.decoded.append(at_ms)
            if at_ms not in self._undecodable:
                picture = self._picture(at_ms // 500)
                yield Frame(at_ms, at_ms, str(at_ms).encode(), 640, 360, picture, at_ms in self._corrupt)

    async def survey(self) -> tuple[Glimpse, ...]:
        return tuple(Glimpse(t, luma(t)) for t in range(0, 6_000, 1000))

    async def measure(self) -> int:
        return 7_000


class Scan:
    """Every second, then half a second around every Foul."""

    def __init__(self, duration_ms: int) -> None:
        self.grid = range(0, duration_ms, 1000)

    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        fine = {t + 500 for t in self.grid if t in seen and "Foul" in seen[t].tags}
        now = tuple(sorted(t for t in {*self.grid, *fine} if t not in seen))
        return Wish(now=now, maybe=tuple(t + 500 for t in now if t % 1000 == 0))

    def planned(self, seen: Mapping[int, Sample]) -> int:
        return max(len(self.grid), len(seen))


class Sink:
    def __init__(self) -> None:
        self.settled = 0

    def plan(self, lane: str, planned: int) -> None: ...
    def close(self, lane: str) -> None: ...
    def look(self, lane: str, at_ms: int, jpeg: bytes | None) -> None: ...
    def done(self, lane: str, count: int = 1, *, how: Settled = Settled.ASKED) -> None:
        self.settled += count


def tags(*names: str) -> Answer:
    return Answer(Outcome.TAGS if names else Outcome.NONE, dict.fromkeys(names, 0.9), endpoint="e", model="tiny")


def foul_at(*times: int) -> Callable[[Question], Answer]:
    return lambda q: tags("Foul") if int(q.jpegs[0]) in times else tags()


def engine(
    pool: Pool,
    store: Store,
    sink: ProgressSink | None = None,
    *,
    terms: Sequence[Term] = TERMS,
    needs_survey: bool = False,
    terms_at_once: int = 300,
    examples: Sequence[Example] = (),
) -> BuiltInEngine:
    return BuiltInEngine(
        examples=examples,
        needs_survey=needs_survey,
        terms_at_once=terms_at_once,
        pool=pool,
        store=store,
        make_prompt=build_prompt,
        terms=terms,
        make_sampler=lambda duration_ms, _: Scan(duration_ms),
        progress=sink or Sink(),
    )


def job(reader: Reader, *, duration_ms: int | None = 10_000, known_times_only: bool = False) -> VideoJob:
    return VideoJob("scene 1", "scene 1", "oshash:1:1", duration_ms, "p", lambda: reader, False, known_times_only)


async def test_every_wanted_moment_is_asked_about_once() -> None:
    pool, reader, sink = Pool(foul_at(3000)), Reader(), Sink()
    analysis = await engine(pool, Store(), sink).analyse(job(reader))
    assert pool.times == sorted([*range(0, 10_000, 1000), 3500])
    assert (analysis.asked, analysis.coverage, sink.settled) == (11, 1.0, 11)
    assert analysis.samples[3000].tags == {"Foul": 0.9}
    assert (reader.opened, reader.closed, pool.held, pool.closed) == (1, 1, 0, ["scene 1"])


async def test_what_was_decoded_on_the_way_is_not_decoded_again() -> None:
    reader = Reader()
    await engine(Pool(foul_at(3000)), Store()).analyse(job(reader))
    assert reader.decoded.count(3500) == 1


async def test_a_second_look_asks_nothing_and_opens_nothing() -> None:
    store, reader = Store(), Reader()
    first = await engine(Pool(foul_at(3000)), store).analyse(job(Reader()))
    pool = Pool(foul_at())
    again = await engine(pool, store).analyse(job(reader))
    assert (pool.questions, reader.opened, again.reused, again.asked) == ([], 0, 11, 0)
    assert {t: s.tags for t, s in again.samples.items()} == {t: s.tags for t, s in first.samples.items()}


async def test_an_interrupted_look_asks_only_what_is_missing() -> None:
    store = Store()
    first = Pool(foul_at(3000))

    def dies(question: Question) -> Answer:
        if len(first.questions) > 6:
            raise OutageError("no endpoint answers")
        return foul_at(3000)(question)

    first.answer = dies
    with pytest.raises(OutageError):
        await engine(first, store).analyse(job(Reader()))
    assert first.held == 0
    known = {t for _, t in store.rows}
    second = Pool(foul_at(3000))
    await engine(second, store).analyse(job(Reader()))
    assert set(second.times) == {*range(0, 10_000, 1000), 3500} - known


async def test_the_bar_of_a_run_that_goes_on_begins_where_the_last_one_ended() -> None:
    store, shown = Store(), list[Pace]()
    await engine(Pool(foul_at(3000)), store).analyse(job(Reader()))
    store.rows = dict(list(store.rows.items())[:5])
    progress = Progress(shown.append)
    progress.media(1)
    await engine(Pool(foul_at(3000)), store, progress).analyse(job(Reader()))
    assert [pace.done for pace in shown[:2]] == [0, 5]
    assert shown[1].fraction < 1
    assert shown[-1].fraction == 1


async def test_new_terms_are_asked_about_at_known_moments_only() -> None:
    store = Store()
    await engine(Pool(foul_at(3000)), store, terms=TERMS[:1]).analyse(job(Reader()))
    pool = Pool(lambda q: tags("Dunk") if int(q.jpegs[0]) == 3000 else tags())
    analysis = await engine(pool, store).analyse(job(Reader(), known_times_only=True))
    assert all(q.prompt.terms == TERMS[1:] for q in pool.questions)
    assert pool.times == sorted([*range(0, 10_000, 1000), 3500])
    assert set(analysis.samples[3000].tags) == {"Foul", "Dunk"}


async def test_recalling_with_the_same_terms_asks_nothing() -> None:
    store = Store()
    await engine(Pool(foul_at(3000)), store).analyse(job(Reader()))
    pool, reader = Pool(foul_at()), Reader()
    await engine(pool, store).analyse(job(reader, duration_ms=None, known_times_only=True))
    assert (pool.questions, reader.opened) == ([], 0)


async def test_frames_that_look_the_same_are_asked_about_once() -> None:
    pool, store = Pool(foul_at(0)), Store()
    analysis = await engine(pool, store).analyse(job(Reader(picture=lambda half: luma(half // 10))))
    assert len([t for t in pool.times if t % 1000 == 0]) == 2
    assert analysis.samples[4000].tags == {"Foul": 0.9}
    assert analysis.samples[4000].inherited_from_ms == 0
    assert analysis.inherited == 8 + analysis.asked * 0 + len([t for t in analysis.samples if t % 1000])


async def test_black_frames_are_not_asked_about() -> None:
    pool = Pool(foul_at(0))
    analysis = await engine(pool, Store()).analyse(job(Reader(picture=lambda _: bytes(1024))))
    assert pool.questions == []
    assert {s.outcome for s in analysis.samples.values()} == {Outcome.NONE}


async def test_a_frame_whose_likeness_got_no_answer_is_asked_itself() -> None:
    failed: list[int] = []

    def answer(question: Question) -> Answer:
        if not failed:
            failed.append(int(question.jpegs[0]))
            return Answer(Outcome.UNPARSABLE, detail="gibberish")
        return tags()

    pool = Pool(answer)
    analysis = await engine(pool, Store()).analyse(job(Reader(picture=lambda _: luma(1))))
    assert len(pool.questions) > 1
    assert analysis.coverage == 0.9
    assert analysis.problems == {"gibberish": 1}


async def test_moments_without_a_picture_are_undecodable_and_never_none() -> None:
    analysis = await engine(Pool(foul_at()), Store()).analyse(job(Reader(undecodable=[4000, 5000])))
    assert analysis.samples[4000].outcome is Outcome.UNDECODABLE
    assert analysis.coverage == 0.8
    assert sum(analysis.problems.values()) == 2


async def test_a_file_that_breaks_off_keeps_what_was_seen() -> None:
    analysis = await engine(Pool(foul_at()), Store()).analyse(job(Reader(breaks_at=6000)))
    assert analysis.coverage == 0.6


async def test_a_file_without_a_single_picture_is_an_error() -> None:
    pool = Pool(foul_at())
    with pytest.raises(MediaUnreadable):
        await engine(pool, Store()).analyse(job(Reader(breaks_at=0)))
    assert pool.closed == ["scene 1"]


async def test_sound_that_lasts_longer_than_the_picture_is_nobodys_fault() -> None:
    pool = Pool(foul_at())
    analysis = await engine(pool, Store()).analyse(job(Reader(duration_ms=8000)))
    assert analysis.coverage == 1.0
    assert max(pool.times) < 8000


async def test_cancelling_leaves_nothing_behind() -> None:
    pool, reader = Pool(foul_at()), Reader()
    pool.hold = asyncio.Event()
    task = asyncio.create_task(engine(pool, Store()).analyse(job(reader)))
    await pool.first_question.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.held, reader.closed, pool.closed) == (0, 1, ["scene 1"])
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


async def test_decoding_waits_for_leave() -> None:
    pool, reader = Pool(foul_at(), slots=3), Reader()
    pool.hold = asyncio.Event()
    task = asyncio.create_task(engine(pool, Store()).analyse(job(reader)))
    await pool.full.wait()
    for _ in range(20):
        await asyncio.sleep(0)  # nothing holds the reader back now but the pool
    assert len(pool.questions) == 3
    assert len([t for t in reader.decoded if t % 1000 == 0]) == 4
    pool.hold.set()
    await task
    assert pool.most_held == 3


@pytest.mark.parametrize("needs_survey", [False, True])
async def test_the_shorter_length_holds_also_after_a_survey(needs_survey: bool) -> None:
    pool = Pool(foul_at())
    analysis = await engine(pool, Store(), needs_survey=needs_survey).analyse(job(Reader(duration_ms=5000)))
    assert (analysis.coverage, analysis.duration_ms, max(pool.times)) == (1.0, 5000, 4000)


async def test_a_length_that_nobody_knows_is_found_by_reading_to_the_end() -> None:
    pool = Pool(foul_at())
    await engine(pool, Store()).analyse(job(Reader(duration_ms=None), duration_ms=None))
    assert pool.times == [0, 1000, 2000, 3000, 4000, 5000, 6000]


async def test_damaged_pictures_are_neither_black_nor_alike() -> None:
    pool = Pool(foul_at())
    reader = Reader(picture=lambda half: bytes([128]) * 1024 if half == 8 else luma(1), corrupt=[4000, 5000])
    analysis = await engine(pool, Store()).analyse(job(reader))
    assert analysis.samples[4000].outcome is Outcome.UNDECODABLE
    assert 5000 in pool.times
    assert analysis.coverage == 0.9


async def test_followers_are_settled_once() -> None:
    sink = Sink()
    analysis = await engine(Pool(foul_at()), Store(), sink).analyse(job(Reader(picture=lambda _: luma(1))))
    assert (analysis.asked + analysis.inherited, sink.settled) == (len(analysis.samples), len(analysis.samples))


async def test_answers_of_a_server_that_is_not_up_yet_are_known() -> None:
    store = Store()
    await engine(Pool(foul_at()), store).analyse(job(Reader()))
    pool = Pool(foul_at())
    pool.models = None
    await engine(pool, store).analyse(job(Reader()))
    assert pool.questions == []


# --- several frames in one question ---------------------------------------------------------------------------


def several(
    pool: Pool, store: Store, *, frames: int = 4, terms: Sequence[Term] = TERMS, examples: Sequence[Example] = ()
) -> BuiltInEngine:
    return BuiltInEngine(
        examples=examples,
        pool=pool,
        store=store,
        make_prompt=build_prompt,
        terms=terms,
        make_sampler=lambda duration_ms, _: CoarseScan(duration_ms),
        progress=Sink(),
        make_several=build_several_prompt,
        frames_per_question=frames,
    )


class CoarseScan(Scan):
    def wish(self, seen: Mapping[int, Sample]) -> Wish:
        return replace(super().wish(seen), coarse=frozenset(self.grid))


def each_by_itself(answer: Callable[[int], Answer | None]) -> Callable[[Question], Answer]:
    """Time → answer, for any number of pictures; None: the answer leaves that one out, unless it is alone."""

    def respond(question: Question) -> Answer:
        times = [int(jpeg) for jpeg in question.jpegs]
        if len(times) == 1:
            return answer(times[0]) or tags()
        assert question.prompt.pictures == len(times)
        parts = tuple(answer(t) or Answer(Outcome.UNPARSABLE, endpoint="e", model="tiny") for t in times)
        return replace(parts[0], tags={}, each=parts)

    return respond


def asked_times(pool: Pool) -> list[list[int]]:
    return [[int(jpeg) for jpeg in q.jpegs] for q in pool.questions]


def foul_from_2_to_5(at_ms: int) -> Answer:
    return tags("Foul") if 2000 <= at_ms <= 5000 else tags()


async def test_coarse_frames_share_questions_and_fine_ones_do_not() -> None:
    pool, store = Pool(each_by_itself(foul_from_2_to_5)), Store()
    pool.most_pictures = 4
    analysis = await several(pool, store).analyse(job(Reader()))
    assert asked_times(pool)[:3] == [[0, 1000, 2000, 3000], [4000, 5000, 6000, 7000], [8000, 9000]]
    assert all(len(times) == 1 and times[0] % 1000 == 500 for times in asked_times(pool)[3:])
    assert analysis.asked == len(pool.questions) == 3 + 4
    assert {t for t, s in analysis.samples.items() if s.tags} == {*range(2000, 5001, 500)}
    again = await several(pool, store).analyse(job(Reader()))
    assert (again.asked, again.samples.keys()) == (0, analysis.samples.keys())


async def test_answers_in_company_do_not_count_for_who_wants_single_ones_but_for_an_update() -> None:
    pool, store = Pool(each_by_itself(foul_from_2_to_5)), Store()
    pool.most_pictures = 4
    first = await several(pool, store).analyse(job(Reader()))
    update = await several(Pool(foul_at()), store, frames=1).analyse(job(Reader(), known_times_only=True))
    assert (update.asked, update.samples.keys()) == (0, first.samples.keys())
    alone = Pool(each_by_itself(foul_from_2_to_5))
    await several(alone, store, frames=1).analyse(job(Reader()))
    assert alone.times == list(range(0, 10_000, 1000))
    asked = len(pool.questions)
    await several(pool, store).analyse(job(Reader()))
    assert len(pool.questions) == asked


async def test_a_partly_bad_answer_costs_its_frames_only() -> None:
    pool, store = Pool(each_by_itself(lambda t: None if t == 1000 else foul_from_2_to_5(t))), Store()
    pool.most_pictures = 4
    analysis = await several(pool, store).analyse(job(Reader()))
    assert analysis.coverage == 1.0 and analysis.problems == {}
    assert [1000] in asked_times(pool)
    assert sum(1000 in times for times in asked_times(pool)) == 2
    assert sum(0 in times for times in asked_times(pool)) == 1


async def test_a_wholly_bad_answer_is_asked_again_one_by_one() -> None:
    def answer(question: Question) -> Answer:
        return Answer(Outcome.REFUSED, endpoint="e", model="tiny") if len(question.jpegs) > 1 else tags()

    pool = Pool(answer)
    pool.most_pictures = 4
    analysis = await several(pool, Store()).analyse(job(Reader()))
    assert analysis.coverage == 1.0
    assert sorted(map(len, asked_times(pool))) == [1] * 10 + [2, 4, 4]


async def test_what_does_not_fit_is_asked_again_in_smaller_company() -> None:
    def answer(question: Question) -> Answer:
        if len(question.jpegs) > 2:
            pool.most_pictures = 2
            return Answer(Outcome.ENDPOINT_ERROR, endpoint="e", detail="so many pictures at once are not taken")
        return each_by_itself(foul_from_2_to_5)(question)

    pool = Pool(answer, slots=1)
    pool.most_pictures = 8
    analysis = await several(pool, Store(), frames=8).analyse(job(Reader()))
    assert analysis.coverage == 1.0 and analysis.problems == {}
    sizes = [len(times) for times in asked_times(pool) if len(times) > 1]
    assert sizes == [8, 2, 2, 2, 2, 2]


async def test_a_new_term_is_asked_about_alone_after_company() -> None:
    pool, store = Pool(each_by_itself(foul_from_2_to_5)), Store()
    pool.most_pictures = 4
    before = await several(pool, store).analyse(job(Reader()))
    pool.questions.clear()
    terms = (*TERMS, Term("Block"))
    after = await several(pool, store, terms=terms).analyse(job(Reader()))
    assert all([t.name for t in q.prompt.terms] == ["Block"] and len(q.jpegs) == 1 for q in pool.questions)
    assert after.asked == len(before.samples)
    pool.questions.clear()
    await several(pool, store, terms=terms).analyse(job(Reader()))
    assert pool.questions == []  # two wordings together know everything


async def test_a_frame_like_one_that_was_asked_in_company_inherits_under_that_wording() -> None:
    pool, store = Pool(each_by_itself(lambda _: tags("Dunk"))), Store()
    pool.most_pictures = 4
    # every second frame of the scan looks like the one before
    reader = Reader(duration_ms=8000, picture=lambda half: luma(half // 4))
    analysis = await several(pool, store).analyse(job(reader, duration_ms=8000))
    assert analysis.inherited == 4 and analysis.coverage == 1.0
    single = build_prompt(TERMS).key
    assert all(prompt_key != single for prompt_key, _ in store.rows)


async def test_an_outage_in_company_keeps_what_was_answered() -> None:
    def answer(question: Question) -> Answer:
        if len(pool.questions) > 1:
            raise OutageError("nobody is left")
        return each_by_itself(foul_from_2_to_5)(question)

    pool, store = Pool(answer, slots=1), Store()
    pool.most_pictures = 4
    with pytest.raises(OutageError):
        await several(pool, store).analyse(job(Reader()))
    assert sorted(at_ms for _, at_ms in store.rows) == [0, 1000, 2000, 3000]


# --- time budget ----------------------------------------------------------------------------------------------


async def test_a_scene_whose_time_is_up_keeps_what_it_has_and_the_next_run_goes_on() -> None:
    now = 0.0

    def answer(question: Question) -> Answer:
        nonlocal now
        now += 1.0
        return foul_at()(question)

    def limited(pool: Pool) -> BuiltInEngine:
        return BuiltInEngine(
            pool=pool,
            store=store,
            make_prompt=build_prompt,
            terms=TERMS,
            make_sampler=lambda duration_ms, _: Scan(duration_ms),
            progress=Sink(),
            time_limit_ms=lambda duration_ms: duration_ms // 2,
            clock=lambda: now,
        )

    store, pool, reader = Store(), Pool(answer, slots=1), Reader()
    first = await limited(pool).analyse(job(reader))
    assert first.is_unfinished and first.coverage == 1.0 and first.problems == {}
    assert 5 <= first.asked <= 7 and reader.closed == 1
    second = await limited(Pool(answer, slots=1)).analyse(job(Reader()))
    assert not second.is_unfinished
    assert second.reused == first.asked and len(second.samples) == 10
    third = await limited(pool).analyse(job(Reader()))
    assert (third.asked, third.is_unfinished) == (0, False)


async def test_a_scene_that_is_done_when_its_time_is_up_is_done() -> None:
    now = 0.0

    def answer(question: Question) -> Answer:
        nonlocal now
        now += 1.0
        return foul_at()(question)

    looking = BuiltInEngine(
        pool=Pool(answer, slots=1),
        store=Store(),
        make_prompt=build_prompt,
        terms=TERMS,
        make_sampler=lambda duration_ms, _: Scan(duration_ms),
        progress=Sink(),
        time_limit_ms=lambda _: 9_500,
        clock=lambda: now,
    )
    analysis = await looking.analyse(job(Reader()))
    assert (analysis.asked, analysis.is_unfinished) == (10, False)


async def test_a_long_vocabulary_is_asked_in_slices() -> None:
    terms = tuple(Term(f"Tag {n}") for n in range(7))
    found = {"Tag 1": 0.9, "Tag 6": 0.8}

    def answer(question: Question) -> Answer:
        tags = {t.name: found[t.name] for t in question.prompt.terms if t.name in found}
        return Answer(Outcome.TAGS if tags else Outcome.NONE, tags, endpoint="e", model="tiny")

    pool, store = Pool(answer), Store()
    sliced = engine(pool, store, terms=terms, terms_at_once=3)
    analysis = await sliced.analyse(job(Reader(duration_ms=4_000)))
    assert {tuple(s.tags.items()) for s in analysis.samples.values()} == {(("Tag 1", 0.9), ("Tag 6", 0.8))}
    assert analysis.asked == len(pool.questions) == 3 * len(analysis.samples)
    assert max(len(q.prompt.terms) for q in pool.questions) <= 3
    again = await sliced.analyse(job(Reader(duration_ms=4_000)))
    assert (again.asked, again.reused) == (0, len(analysis.samples))


async def test_a_slice_that_fails_fails_its_moment_and_the_others_are_not_asked_again() -> None:
    terms = tuple(Term(f"Tag {n}") for n in range(6))
    fails = True

    def answer(question: Question) -> Answer:
        if fails and question.prompt.terms[0].name == "Tag 3" and int(question.jpegs[0]) == 0:
            return Answer(Outcome.ENDPOINT_ERROR, endpoint="e", model="tiny", detail="no answer")
        return Answer(Outcome.TAGS, {question.prompt.terms[0].name: 1.0}, endpoint="e", model="tiny")

    pool, store = Pool(answer), Store()
    sliced = engine(pool, store, terms=terms, terms_at_once=3)
    analysis = await sliced.analyse(job(Reader(duration_ms=4_000)))
    assert [t for t, s in analysis.samples.items() if not s.outcome.analysed] == [0]
    asked, fails = len(pool.questions), False
    analysis = await sliced.analyse(job(Reader(duration_ms=4_000)))
    assert len(pool.questions) == asked + 1
    assert {tuple(s.tags) for s in analysis.samples.values()} == {("Tag 0", "Tag 3")}


async def test_the_first_look_and_the_close_look_are_told_apart() -> None:
    pool = Pool(foul_at(3000))
    looking = BuiltInEngine(
        pool=pool,
        store=Store(),
        make_prompt=build_prompt,
        terms=TERMS,
        make_sampler=lambda duration_ms, _: CoarseScan(duration_ms),
        progress=Sink(),
    )
    await looking.analyse(job(Reader()))
    asked = dict(zip((int(q.jpegs[0]) for q in pool.questions), pool.closely, strict=True))
    assert asked == {**dict.fromkeys(range(0, 10_000, 1000), False), 3500: True}


# --- examples -------------------------------------------------------------------------------------------------

EXAMPLES = (Example("oshash:2:2", 4_000, ("Dunk",), b"2"), Example("oshash:3:3", 1_000, (), b"3"))


def where_it_can(question: Question) -> Answer:
    """As a pool answers in which not every endpoint is shown examples: at whole seconds only."""
    shown = len(question.prompt.examples) if int(question.jpegs[0]) % 2000 == 0 else 0
    return replace(tags("Foul") if 2000 <= int(question.jpegs[0]) <= 3000 else tags(), examples=shown)


async def test_an_answer_is_kept_under_what_was_really_asked_and_nothing_is_asked_again() -> None:
    pool, store = Pool(where_it_can), Store()
    await engine(pool, store, examples=EXAMPLES).analyse(job(Reader()))
    plain = build_prompt(TERMS)
    guided = with_examples(plain, EXAMPLES)
    assert {q.prompt.key for q in pool.questions} == {guided.key}
    assert {q.prompt.plain.key for q in pool.questions if q.prompt.plain} == {plain.key}
    assert {t for key, t in store.rows if key == guided.key} == set(range(0, 10_000, 2000))
    assert {t for key, t in store.rows if key == plain.key} == {*range(1000, 10_000, 2000), 2500, 3500}
    for others in (EXAMPLES, EXAMPLES[:1], ()):  # whatever is shown later
        again = Pool(where_it_can)
        analysis = await engine(again, store, examples=others).analyse(job(Reader()))
        assert (again.questions, analysis.reused) == ([], 12)


async def test_a_video_is_shown_no_example_of_its_own() -> None:
    pool = Pool(where_it_can)
    own = Example("oshash:1:1", 5_000, ("Foul",), b"1")
    await engine(pool, Store(), examples=(own, *EXAMPLES)).analyse(job(Reader()))
    assert {q.prompt.examples for q in pool.questions} == {EXAMPLES}
    alone = Pool(where_it_can)
    await engine(alone, Store(), examples=(own,)).analyse(job(Reader()))
    assert {q.prompt.key for q in alone.questions} == {build_prompt(TERMS).key}


async def test_a_frame_like_one_that_was_asked_with_examples_inherits_under_the_same_key() -> None:
    pool, store = Pool(lambda q: replace(tags("Dunk"), examples=len(q.prompt.examples))), Store()
    reader = Reader(duration_ms=8000, picture=lambda half: luma(half // 4))
    analysis = await engine(pool, store, examples=EXAMPLES).analyse(job(reader, duration_ms=8000))
    assert analysis.inherited == 4
    assert {key for key, _ in store.rows} == {with_examples(build_prompt(TERMS), EXAMPLES).key}


async def test_with_examples_every_frame_has_a_question_of_its_own_and_answers_in_company_still_count() -> None:
    pool, store = Pool(each_by_itself(foul_from_2_to_5)), Store()
    pool.most_pictures = 4
    await several(pool, store, examples=EXAMPLES).analyse(job(Reader()))
    assert {len(q.jpegs) for q in pool.questions} == {1}
    shared = Store()
    first = await several(pool, shared).analyse(job(Reader()))
    again = await several(pool, shared, examples=EXAMPLES).analyse(job(Reader()))
    assert (again.asked, again.reused) == (0, len(first.samples))


async def test_a_slice_of_the_vocabulary_is_shown_what_examples_say_about_its_tags() -> None:
    terms = tuple(Term(f"Tag {n}") for n in range(4))
    shown = (Example("oshash:2:2", 4_000, ("Tag 0", "Tag 3"), b"2"),)
    pool = Pool(lambda q: replace(tags(), examples=1))
    await engine(pool, Store(), terms=terms, terms_at_once=2, examples=shown).analyse(job(Reader(duration_ms=2_000)))
    told = {(tuple(t.name for t in q.prompt.terms), q.prompt.examples[0].tags) for q in pool.questions}
    assert told == {(("Tag 0", "Tag 1"), ("Tag 0",)), (("Tag 2", "Tag 3"), ("Tag 3",))}
