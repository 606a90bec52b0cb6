"""Answers and runs in a real file: kept exactly, found under what shaped them, term by term."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haven_vlm.errors import LedgerError
from haven_vlm.facts import Answer, Example, Kind, Outcome, Sample, Term
from haven_vlm.journal import Journal
from haven_vlm.ownership import Findings
from haven_vlm.ports import TermwiseAnswers
from haven_vlm.prompts import build_prompt, build_several_prompt, with_examples
from tests.ledger.answers import BLOCK, DUNK, FOUL, MODELS, answer, key


async def test_an_answer_comes_back_as_it_was(journal: Journal) -> None:
    await journal.record(key(), at_ms=2000, shown_ms=1960, answer=answer("Dunk", Foul=0.30000000000000004))
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer())
    known = await journal.known(key(), MODELS)
    assert known == {
        0: Sample(0, 0, Outcome.NONE, {}, "seer-7b"),
        2000: Sample(2000, 1960, Outcome.TAGS, {"Dunk": 1.0, "Foul": 0.30000000000000004}, "seer-7b"),
    }
    assert list(known) == [0, 2000]


async def test_the_journal_is_a_termwise_answer_store(journal: Journal) -> None:
    store: TermwiseAnswers = journal
    assert await store.known(key(), MODELS) == {}


@pytest.mark.parametrize(
    "other",
    [
        key(identity="oshash:00fe:1000"),
        key(picture="320q85"),
        key(instructions="Look at the hands."),
        key(Term("Dunk", "Something else."), FOUL),
    ],
    ids=["another file", "another preparation", "another wording", "another definition"],
)
async def test_whatever_shapes_an_answer_is_part_of_its_key(journal: Journal, other: object) -> None:
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    assert await journal.known(other, MODELS) == {}  # type: ignore[arg-type]


async def test_answers_of_models_that_are_not_in_use_are_not_known(journal: Journal) -> None:
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk", model="other"))
    assert await journal.known(key(), MODELS) == {}
    assert list(await journal.known(key(), ["seer-7b", "other"])) == [0]


async def test_a_new_tag_asks_only_what_is_missing(journal: Journal) -> None:
    await journal.record(key(DUNK, FOUL), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal.record(key(DUNK, FOUL), at_ms=1000, shown_ms=1000, answer=answer())
    now = key(DUNK, FOUL, BLOCK)
    assert await journal.known(now, MODELS) == {}
    assert await journal.missing_terms(now, MODELS, [0, 1000, 2000]) == {
        (BLOCK,): (0, 1000),
        (DUNK, FOUL, BLOCK): (2000,),
    }
    await journal.record(key(BLOCK), at_ms=0, shown_ms=0, answer=answer("Block"))
    assert (await journal.known(now, MODELS))[0].tags == {"Dunk": 1.0, "Block": 1.0}
    assert await journal.missing_terms(now, MODELS, [0]) == {}


async def test_a_tag_less_asks_nothing_and_is_not_found_any_more(journal: Journal) -> None:
    await journal.record(key(DUNK, FOUL), at_ms=0, shown_ms=0, answer=answer("Dunk", Foul=0.9))
    assert (await journal.known(key(FOUL), MODELS))[0].tags == {"Foul": 0.9}
    await journal.record(key(DUNK, FOUL), at_ms=5, shown_ms=5, answer=answer("Dunk"))
    assert (await journal.known(key(FOUL), MODELS))[5].outcome is Outcome.NONE


async def test_an_answer_to_exactly_this_prompt_wins_over_a_later_one_to_another(journal: Journal) -> None:
    await journal.record(key(DUNK), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal.record(key(DUNK, FOUL), at_ms=0, shown_ms=0, answer=answer())
    assert (await journal.known(key(DUNK), MODELS))[0].tags == {"Dunk": 1.0}
    assert (await journal.known(key(DUNK, FOUL), MODELS))[0].tags == {}


async def test_the_order_of_the_terms_and_spaces_in_a_definition_do_not_matter(journal: Journal) -> None:
    await journal.record(key(DUNK, FOUL), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    spaced = Term("Dunk", "The ball  is pushed down\nthrough the hoop.")
    assert list(await journal.known(key(FOUL, spaced), MODELS)) == [0]


async def test_failures_are_reported_and_never_known(journal: Journal) -> None:
    failed = Answer(Outcome.REFUSED, endpoint="attic", model="seer-7b", raw="I cannot." * 500, detail="declined")
    await journal.record(key(), at_ms=0, shown_ms=0, answer=failed)
    await journal.record(key(), at_ms=1, shown_ms=0, answer=failed)
    assert await journal.known(key(), MODELS) == {}
    (first, _) = await journal.failures(key())
    assert (first.at_ms, first.outcome, first.endpoint, first.detail) == (0, Outcome.REFUSED, "attic", "declined")
    assert len(first.raw) < 500
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    assert [f.at_ms for f in await journal.failures(key())] == [1]
    assert list(await journal.known(key(), MODELS)) == [0]


async def test_inherited_answers_are_known_and_never_replace_a_real_one(journal: Journal) -> None:
    inherited = Sample(10, 10, Outcome.TAGS, {"Dunk": 0.7}, "seer-7b", inherited_from_ms=0)
    black = Sample(20, 20, Outcome.NONE, inherited_from_ms=20)
    await journal.record_inherited(key(), sample=inherited)
    await journal.record_inherited(key(), sample=black)
    assert await journal.known(key(), MODELS) == {10: inherited, 20: black}
    assert list(await journal.known(key(), ["another"])) == [20], "nobody was asked about a black frame"
    await journal.record(key(), at_ms=10, shown_ms=10, answer=answer())
    await journal.record_inherited(key(), sample=inherited)
    assert (await journal.known(key(), MODELS))[10] == Sample(10, 10, Outcome.NONE, {}, "seer-7b")


async def test_what_makes_no_sense_is_refused(journal: Journal) -> None:
    with pytest.raises(ValueError, match="Rebound"):
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Rebound"))
    with pytest.raises(ValueError, match="taken over"):
        await journal.record_inherited(key(), sample=Sample(0, 0, Outcome.NONE))
    with pytest.raises(ValueError, match="one day"):
        await journal.prune(unused_days=0, until=0.0)


async def test_many_answers_at_once_share_commits(journal: Journal) -> None:
    # the write-ahead log holds the pages of every commit: a commit each would be thousands of pages
    await asyncio.gather(
        *(journal.record(key(), at_ms=t, shown_ms=t, answer=answer("Dunk")) for t in range(0, 2_000_000, 1000))
    )
    assert len(await journal.known(key(), MODELS)) == 2000
    wal = journal.path.with_name(journal.path.name + "-wal")
    assert await asyncio.to_thread(lambda: wal.stat().st_size) < 400 * 4096


async def test_one_bad_job_does_not_cost_the_others_their_commit(journal: Journal) -> None:
    def bad(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO runs (token, mode, started_at) VALUES ('x', 'left behind', 0)")
        raise LookupError("a mistake of ours")

    results = await asyncio.gather(
        journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk")),
        journal._file.write(bad),
        journal.record(key(), at_ms=1, shown_ms=1, answer=answer("Dunk")),
        return_exceptions=True,
    )
    assert [type(r) for r in results] == [type(None), LookupError, type(None)]
    assert list(await journal.known(key(), MODELS)) == [0, 1]
    assert await journal.runs() == []


async def test_a_cancelled_recording_is_kept_or_not_and_harms_nobody(journal: Journal) -> None:
    task = asyncio.create_task(journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk")))
    await asyncio.sleep(0)
    task.cancel()
    await journal.record(key(), at_ms=1, shown_ms=1, answer=answer("Dunk"))
    assert 1 in await journal.known(key(), MODELS)


async def test_a_full_disk_is_said_and_survived(journal: Journal) -> None:
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal._file.write(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
    many = [journal.record(key(), at_ms=t, shown_ms=0, answer=answer("Dunk")) for t in range(1, 2000)]
    failed = [r for r in await asyncio.gather(*many, return_exceptions=True) if r is not None]
    assert failed
    assert all(isinstance(f, LedgerError) and "disk is full" in str(f) for f in failed)
    kept = len(await journal.known(key(), MODELS))
    assert kept == 2000 - len(failed), "what was acknowledged is there, and nothing else"
    await journal._file.write(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
    await journal.record(key(), at_ms=5000, shown_ms=0, answer=answer("Dunk"))
    assert len(await journal.known(key(), MODELS)) == kept + 1


async def test_a_closed_ledger_says_so(path: Path) -> None:
    async with Journal(path) as journal:
        pass
    with pytest.raises(LedgerError, match="closed"):
        await journal.record(key(), at_ms=0, shown_ms=0, answer=answer())


async def test_pruning_forgets_what_was_of_no_use_for_long(path: Path) -> None:
    day = 86400.0
    now = [1000 * day]
    old, used = key(identity="oshash:1:1"), key(identity="oshash:2:1")
    async with Journal(path, clock=lambda: now[0]) as journal:
        for one in (old, used):
            for t in range(3):
                await journal.record(one, at_ms=t, shown_ms=t, answer=answer("Dunk"))
            await journal.record(one, at_ms=9, shown_ms=9, answer=Answer(Outcome.REFUSED, model="seer-7b"))
        now[0] += 20 * day
        assert len(await journal.known(used, MODELS)) == 3
        now[0] += 20 * day
        assert await journal.prune(unused_days=60, until=now[0]) == 0
        assert await journal.prune(unused_days=30, until=now[0] - 20 * day) == 0, "counted up to the run before"
        assert await journal.prune(unused_days=30, until=now[0] + 900 * day) == 3, "and never beyond today"
        assert await journal.known(old, MODELS) == {}
        assert len(await journal.known(used, MODELS)) == 3
        statistics = await journal.statistics()
        assert (statistics.files, statistics.answers, statistics.failures) == (1, 3, 1)
        await journal.record(old, at_ms=0, shown_ms=0, answer=answer("Dunk"))
        assert list(await journal.known(old, MODELS)) == [0]


async def test_pruning_much_goes_step_by_step_and_gives_the_space_back(path: Path) -> None:
    day = 86400.0
    now = [1000 * day]

    async def size() -> int:
        return (await asyncio.to_thread(path.stat)).st_size

    async with Journal(path):
        pass
    empty = await size()
    async with Journal(path, clock=lambda: now[0]) as journal:
        many = [key(identity=f"oshash:{n}:1") for n in range(250)]
        one = answer("Dunk")
        await asyncio.gather(*(journal.record(k, at_ms=t, shown_ms=t, answer=one) for k in many for t in range(20)))
        await journal.ownership.note(Kind.SCENE, "7", Findings(rejected_tags=frozenset({"3"})), now[0])
    assert await size() > 1.3 * empty
    async with Journal(path, clock=lambda: now[0]) as journal:
        now[0] += 40 * day
        await journal.known(many[0], MODELS)
        assert await journal.prune(unused_days=30, until=now[0]) == 249 * 20
        statistics = await journal.statistics()
        assert (statistics.files, statistics.answers, statistics.rejected_tags) == (1, 20, 1)
    assert await size() == empty


async def test_statistics_count(journal: Journal) -> None:
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal.record_inherited(key(), sample=Sample(1, 1, Outcome.NONE, {}, "seer-7b", 0))
    await journal.start_run("tag_videos")
    statistics = await journal.statistics()
    assert (statistics.files, statistics.answers, statistics.inherited, statistics.runs) == (1, 2, 1, 1)
    assert statistics.size_bytes > 4096


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_only_this_user_can_read_the_ledger(journal: Journal) -> None:
    await journal.record(key(), at_ms=0, shown_ms=0, answer=answer("Dunk"))

    def modes() -> dict[str, int]:
        return {p.name: stat.S_IMODE(p.stat().st_mode) for p in journal.path.parent.iterdir() if p.is_file()}

    found = await asyncio.to_thread(modes)
    assert {"ledger.sqlite3", "ledger.sqlite3-wal"} <= found.keys()
    assert set(found.values()) == {0o600}


async def test_runs_begin_end_and_are_told_apart(journal: Journal) -> None:
    first = await journal.start_run("tag_videos")
    await journal.end_run(first, "3 scenes tagged")
    second = await journal.start_run("update")
    runs = await journal.runs()
    assert [(r.id, r.mode, r.alive, r.result) for r in runs] == [
        (second, "update", True, ""),
        (first, "tag_videos", False, "3 scenes tagged"),
    ]
    assert await journal.other_runs_alive() == []


async def test_a_second_ledger_sees_the_run_of_the_first_until_it_closes(path: Path) -> None:
    async with Journal(path) as second:
        async with Journal(path) as first:
            run = await first.start_run("tag_videos")
            (seen,) = await second.other_runs_alive()
            assert (seen.id, seen.alive) == (run, True)
        assert await second.other_runs_alive() == []
        (dead,) = await second.runs()
        assert (dead.alive, dead.ended_at) == (False, None)


times = st.integers(0, 10**8)
names = st.sampled_from(["Dunk", "Foul", "Block"])
confidences = st.floats(0, 1)
given_answers = st.dictionaries(times, st.dictionaries(names, confidences), max_size=8)


@settings(deadline=None, max_examples=30)
@given(given_answers, st.lists(given_answers, max_size=3))
def test_any_answers_survive_closing_and_opening(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[int, dict[str, float]],
    more: list[dict[int, dict[str, float]]],
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    asked = key(DUNK, FOUL, BLOCK)
    expected: dict[int, dict[str, float]] = {}

    async def main() -> None:
        for answers in [first, *more]:
            async with Journal(path) as journal:
                await asyncio.gather(
                    *(
                        journal.record(asked, at_ms=t, shown_ms=max(0, t - 7), answer=answer(tags=tags))
                        for t, tags in answers.items()
                    )
                )
            expected.update(answers)
        async with Journal(path) as journal:
            known = await journal.known(asked, MODELS)
        assert {t: dict(s.tags) for t, s in known.items()} == expected
        assert all(s.shown_ms == max(0, t - 7) for t, s in known.items())
        assert all((s.outcome is Outcome.TAGS) == bool(s.tags) for s in known.values())

    asyncio.run(main())


async def test_answers_given_in_company_count_where_wanted_and_where_there_is_no_other(
    journal: Journal,
) -> None:
    alone = key(DUNK, FOUL)
    either = replace(alone, also_in_company=True)
    company = replace(alone, prompt=build_several_prompt((DUNK, FOUL), 4))
    await journal.record(company, at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal.record(company, at_ms=1000, shown_ms=1000, answer=answer("Dunk"))
    await journal.record(alone, at_ms=1000, shown_ms=1000, answer=answer("Foul"))
    assert {t: set(s.tags) for t, s in (await journal.known(alone, MODELS)).items()} == {1000: {"Foul"}}
    known = await journal.known(either, MODELS)
    assert {t: set(s.tags) for t, s in known.items()} == {0: {"Dunk"}, 1000: {"Foul"}}
    larger = replace(key(DUNK, FOUL, BLOCK), also_in_company=True)
    assert {t: k.missing for t, k in (await journal.known_partly(larger, MODELS)).items()} == {
        0: (BLOCK,),
        1000: (BLOCK,),
    }
    await journal.record(key(BLOCK), at_ms=0, shown_ms=0, answer=answer("Block"))
    assert set((await journal.known(larger, MODELS))[0].tags) == {"Dunk", "Block"}


async def test_answers_by_examples_are_known_whatever_is_shown_today_and_can_be_told_apart(journal: Journal) -> None:
    plain = key(DUNK, FOUL)
    first, second = (Example("oshash:9:9", at_ms, ("Dunk",), b"") for at_ms in (1000, 2000))
    guided = replace(plain, prompt=with_examples(plain.prompt, [first]))
    later = replace(plain, prompt=with_examples(plain.prompt, [second]))
    await journal.record(guided, at_ms=0, shown_ms=0, answer=answer("Dunk"))
    await journal.record(plain, at_ms=1000, shown_ms=1000, answer=answer("Foul"))
    await journal.record(later, at_ms=2000, shown_ms=2000, answer=answer())
    for asked in (plain, guided, later, replace(plain, also_in_company=True)):
        found = {t: set(s.tags) for t, s in (await journal.known(asked, MODELS)).items()}
        assert found == {0: {"Dunk"}, 1000: {"Foul"}, 2000: set()}
    assert set(await journal.known(replace(plain, with_examples=True), MODELS)) == {0, 2000}
    assert set(await journal.known(replace(guided, with_examples=False), MODELS)) == {1000}
    # where there are several, the one asked for wins
    await journal.record(plain, at_ms=0, shown_ms=0, answer=answer("Foul"))
    assert [set((await journal.known(k, MODELS))[0].tags) for k in (plain, guided)] == [{"Foul"}, {"Dunk"}]
    # another wording is another question, with and without examples
    other = replace(plain, prompt=build_prompt((DUNK, FOUL), instructions="Ignore the crowd."))
    assert await journal.known(other, MODELS) == {}


def test_values_stand_for_question_marks_or_for_names() -> None:
    """A numbered mark (`?1`) with a sequence is refused from Python 3.14 on, and older ones say nothing until 3.12."""
    root = Path(__file__).resolve().parent.parent.parent
    files = [*root.glob("haven_vlm/journal*.py"), *root.glob("demo/stash/*.py")]
    assert len(files) > 10
    assert [f.name for f in files if re.search(r"\?[0-9]", f.read_text(encoding="utf-8"))] == []
