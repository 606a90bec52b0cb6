"""The ledger: every answer paid for, every run, and everything that is ours in Stash. One SQLite file.

What is acknowledged survives a kill and a power cut. A second process may use the same file at the same time.
A damaged file is set aside under a new name and what is readable carried over; nothing is dropped in silence.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from haven_vlm.facts import Answer, Sample, Term
from haven_vlm.journal_answers import (
    AnswerWriter,
    Failure,
    Row,
    prune,
    read_failures,
    read_known,
    read_models,
    row_of,
    row_of_inherited,
)
from haven_vlm.journal_corrections import CorrectionStore
from haven_vlm.journal_ownership import OwnershipStore
from haven_vlm.journal_runs import Run, RunBook
from haven_vlm.journal_spending import SpendingStore
from haven_vlm.journal_thread import LedgerFile
from haven_vlm.ports import AnswerKey, PartlyKnown
from haven_vlm.run_lock import Claims

log = logging.getLogger(__name__)

_DAY_S = 86400
_FILES_PER_PRUNING = 100
"""Files forgotten in one transaction: others who write wait so long."""


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """What the ledger holds. Counting takes time in proportion to it: tenths of a second per million answers."""

    files: int
    answers: int
    inherited: int
    """Answers taken over from a neighbour; counted in `answers` too."""
    failures: int
    runs: int
    owned_tags: int
    owned_markers: int
    rejected_tags: int
    rejected_spans: int
    corrections: int
    open_plans: int
    size_bytes: int
    """Database and write-ahead log on disk."""


class Journal:
    """The open ledger: an async context manager, and an `AnswerStore`.

    All methods raise `LedgerError` when the ledger cannot be used; nothing acknowledged is lost then.

    Args:
        path: the database file; the folder is made, readable for this user only. Lock files lie beside it.
        report: gets a sentence for the user about damage and the like, from any thread. They are also kept in
            `notices`.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, *, report: Callable[[str], None] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._clock = clock
        self._tell = report
        self._notices: list[str] = []
        self._answers = AnswerWriter()
        self._file = LedgerFile(path, report=self._report, forget=self._answers.forget, restore=self._restore)
        self._runs = RunBook(self._file)
        self._used_today: set[str] = set()
        self.claims = Claims(path.parent / "claims")
        """Media this process works on; shared by everything that writes to them."""
        self.ownership = OwnershipStore(self._file)
        """What is ours in Stash."""
        self.corrections = CorrectionStore(self._file, clock)
        """What the user said about it."""
        self.spending = SpendingStore(self._file)
        """What endpoints used, day by day."""

    async def __aenter__(self) -> Journal:
        await self._file.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._file.aclose()
        finally:
            await asyncio.to_thread(self._runs.close)

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for the user: what was damaged, set aside, begun anew. Usually none."""
        return tuple(self._notices)

    # --- answers ----------------------------------------------------------------------------------------------

    async def known(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, Sample]:
        """See `AnswerStore.known`. Answers under several vocabularies count when together they cover the prompt."""
        return {at_ms: k.sample for at_ms, k in (await self.known_partly(key, models)).items() if not k.missing}

    async def known_partly(self, key: AnswerKey, models: Collection[str] | None) -> dict[int, PartlyKnown]:
        """See `TermwiseAnswers.known_partly`."""
        names = None if models is None else frozenset(models)
        found = await self._file.read(lambda db: read_known(db, key, names))
        if found and key.identity not in self._used_today:
            if len(self._used_today) >= 10_000:  # a bound; the next touch of the same day changes nothing
                self._used_today.clear()
            self._used_today.add(key.identity)
            today = self._today()
            await self._file.write(lambda db: self._answers.touch(db, key.identity, today))
        return found

    async def models_of(self, key: AnswerKey) -> list[str]:
        """Names of the models that answered under this key, for any of its terms; sorted."""
        return await self._file.read(lambda db: read_models(db, key))

    async def missing_terms(
        self, key: AnswerKey, models: Collection[str] | None, times_ms: Iterable[int]
    ) -> dict[tuple[Term, ...], tuple[int, ...]]:
        """See `TermwiseAnswers.missing_terms`."""
        known = await self.known_partly(key, models)
        groups: dict[tuple[Term, ...], list[int]] = {}
        for at_ms in sorted(set(times_ms)):
            missing = known[at_ms].missing if at_ms in known else key.prompt.terms
            if missing:
                groups.setdefault(missing, []).append(at_ms)
        return {terms: tuple(times) for terms, times in groups.items()}

    async def record(self, key: AnswerKey, *, at_ms: int, shown_ms: int, answer: Answer) -> None:
        """See `AnswerStore.record`. What is not an analysis is kept for reports and never counts as known.

        Raises:
            ValueError: the answer names a tag that the prompt does not have.
        """
        await self._store(key, answer.model, row_of(key, at_ms=at_ms, shown_ms=shown_ms, answer=answer))

    async def record_inherited(self, key: AnswerKey, *, sample: Sample) -> None:
        """See `AnswerStore.record_inherited`.

        Raises:
            ValueError: the sample is not an inherited, analysed one.
        """
        await self._store(key, sample.model, row_of_inherited(key, sample))

    async def failures(self, key: AnswerKey) -> list[Failure]:
        """Frames under exactly this key that could not be analysed, ascending by time."""
        return await self._file.read(lambda db: read_failures(db, key))

    async def prune(self, *, unused_days: int, until: float) -> int:
        """Forget the answers for files that were of no use for so many days, and give the space back to the disk.

        Never called by the ledger itself. Runs, ownership and corrections stay. Other processes wait for moments only.

        Args:
            unused_days: at least 1.
            until: seconds since 1970 up to which days are counted. The start of an earlier run: then neither a long
                break nor a clock that leapt makes everything look old at once.

        Returns:
            How many answers went.

        Raises:
            ValueError: fewer than one day.
        """
        if unused_days < 1:
            raise ValueError("at least one day: answers used today are never pruned")
        before = min(int(until // _DAY_S), self._today()) - unused_days
        gone = 0
        while True:

            def forget(db: sqlite3.Connection) -> tuple[int, bool]:
                self._answers.forget()
                return prune(db, before_day=before, limit=_FILES_PER_PRUNING)

            answers, more = await self._file.write(forget)
            gone += answers
            if not more:
                break
        if gone:
            await self._file.shrink()
        return gone

    async def _store(self, key: AnswerKey, model: str, row: Row) -> None:
        today = self._today()
        await self._file.write(lambda db: self._answers.store(db, key, model, row, today=today))

    # --- runs -------------------------------------------------------------------------------------------------

    async def start_run(self, mode: str) -> int:
        """Begin a run of this mode; returns its id. It counts as alive until `end_run`, or until we die."""
        return await self._runs.start(mode, self._clock())

    async def end_run(self, run_id: int, result: str) -> None:
        """End a run with what came of it, in words."""
        await self._runs.end(run_id, result, self._clock())

    async def runs(self, limit: int = 20) -> list[Run]:
        """The latest runs, newest first."""
        return await self._runs.latest(limit)

    async def other_runs_alive(self) -> list[Run]:
        """Runs of other processes that are at work now, oldest first."""
        return await self._runs.others_alive()

    # --- the whole --------------------------------------------------------------------------------------------

    async def statistics(self) -> JournalStatistics:
        """Count what is there."""
        size_bytes = await asyncio.to_thread(self._size_bytes)

        def count(db: sqlite3.Connection) -> JournalStatistics:
            def rows(table: str, what: str = "*") -> int:
                return int(db.execute(f"SELECT count({what}) FROM {table}").fetchone()[0])  # nosec B608 # names of our own; values are parameters

            return JournalStatistics(
                files=rows("files"),
                answers=rows("answers"),
                inherited=rows("answers", "inherited_from_ms"),
                failures=rows("failures"),
                runs=rows("runs"),
                owned_tags=rows("owned_tags"),
                owned_markers=rows("owned_markers"),
                rejected_tags=rows("rejected_tags"),
                rejected_spans=rows("rejected_spans"),
                corrections=rows("corrections"),
                open_plans=rows("plans"),
                size_bytes=size_bytes,
            )

        return await self._file.read(count)

    def _size_bytes(self) -> int:
        parts = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())

    def now(self) -> float:
        """Seconds since 1970, by the ledger's clock."""
        return self._clock()

    def _today(self) -> int:
        return int(self._clock() // _DAY_S)

    def _report(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self._notices.append(sentence)
        if self._tell is not None:
            self._tell(sentence)

    def _restore(self, db: sqlite3.Connection) -> None:
        self._runs.restore(db)
