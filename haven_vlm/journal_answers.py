"""Answers in the ledger: written under small integers, read back for whatever vocabulary is asked about now.

What counts as known is decided term by term. An answer covers the terms (name and definition) of the vocabulary it
was given for; a moment is known for a prompt when answers under the same wording cover all of its terms, be it from
one vocabulary or several. So a tag added to the list asks only about that tag, and a tag removed asks nothing.
Where two answers cover the same term, the one given for exactly this prompt wins, else the later series.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from haven_vlm.facts import Answer, Outcome, Prompt, Sample, Term
from haven_vlm.ports import AnswerKey, PartlyKnown
from haven_vlm.prompts import EXAMPLES_MARK

K = TypeVar("K")
V = TypeVar("V")

RAW_CHARS = 400
"""What is kept of a model's text, and only where it says more than the tags do."""

_REMEMBERED = 4096
"""Ids held in memory per kind; more than the media worked on at once ever need."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer as it is stored: an analysed one, or a failure with its outcome and detail."""

    at_ms: int
    lag_ms: int
    inherited_from_ms: int | None
    endpoint: str
    tags: tuple[tuple[str, float], ...]
    raw: str
    outcome: Outcome
    detail: str = ""


def row_of(key: AnswerKey, *, at_ms: int, shown_ms: int, answer: Answer) -> Row:
    """What is stored of an answer.

    Raises:
        ValueError: it names a tag that the prompt does not have.
    """
    plain = answer.outcome.analysed and not answer.unknown_words
    raw = "" if plain else answer.raw[:RAW_CHARS]
    tags = _checked(key.prompt, answer.tags)
    return Row(at_ms, at_ms - shown_ms, None, answer.endpoint, tags, raw, answer.outcome, answer.detail[:RAW_CHARS])


def row_of_inherited(key: AnswerKey, sample: Sample) -> Row:
    """What is stored of a sample that took over its neighbour's answer.

    Raises:
        ValueError: it is not an inherited, analysed sample, or names a tag that the prompt does not have.
    """
    if sample.inherited_from_ms is None or not sample.outcome.analysed:
        raise ValueError("only an analysed answer can be taken over, and it says from when")
    tags = _checked(key.prompt, sample.tags)
    lag_ms = sample.at_ms - sample.shown_ms
    return Row(sample.at_ms, lag_ms, sample.inherited_from_ms, "", tags, "", sample.outcome)


def _checked(prompt: Prompt, tags: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    if unknown := set(tags) - {term.name for term in prompt.terms}:
        raise ValueError(f"not in the vocabulary: {', '.join(sorted(unknown))}")
    return tuple(tags.items())


def _definition(term: Term) -> str:
    return " ".join(term.definition.split())


# --- writing --------------------------------------------------------------------------------------------------


class AnswerWriter:
    """Stores answers; used in the writing thread only. Remembers ids, until told to `forget`."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._vocabularies: dict[str, tuple[int, dict[str, int]]] = {}
        self._series: dict[tuple[str, str, str, str], int] = {}
        self._failed: set[int] | None = None

    def forget(self) -> None:
        """Drop all remembered ids: they may have been rolled back."""
        self._names.clear()
        self._vocabularies.clear()
        self._series.clear()
        self._failed = None

    def store(self, db: sqlite3.Connection, key: AnswerKey, model: str, row: Row, *, today: int) -> None:
        """Insert or replace one answer. An inherited answer never replaces one that was really given."""
        series = self._series_id(db, key, model, today)
        endpoint = self._name_id(db, row.endpoint)
        if not row.outcome.analysed:
            db.execute(
                "INSERT OR REPLACE INTO failures (series, at_ms, outcome, endpoint, detail, raw)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (series, row.at_ms, row.outcome.value, endpoint, row.detail, row.raw),
            )
            self._series_with_failures(db).add(series)
            return
        terms = self._vocabularies[key.prompt.key][1]
        # 1.0 is by far the most frequent confidence; any other is kept exactly, so that re-tuning decides as the
        # first run did
        tags = " ".join(str(terms[n]) if c == 1.0 else f"{terms[n]}:{float(c)!r}" for n, c in row.tags)
        db.execute(
            "INSERT INTO answers (series, at_ms, lag_ms, inherited_from_ms, endpoint, tags, raw)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (series, at_ms) DO UPDATE SET lag_ms = excluded.lag_ms,"
            " inherited_from_ms = excluded.inherited_from_ms, endpoint = excluded.endpoint, tags = excluded.tags,"
            " raw = excluded.raw WHERE excluded.inherited_from_ms IS NULL OR answers.inherited_from_ms IS NOT NULL",
            (series, row.at_ms, row.lag_ms, row.inherited_from_ms, endpoint, tags or None, row.raw or None),
        )
        if series in self._series_with_failures(db):
            db.execute("DELETE FROM failures WHERE series = ? AND at_ms = ?", (series, row.at_ms))

    def touch(self, db: sqlite3.Connection, identity: str, today: int) -> None:
        """Note that a file's answers were of use today."""
        db.execute("UPDATE files SET used_on = ? WHERE identity = ? AND used_on < ?", (today, identity, today))

    def _series_with_failures(self, db: sqlite3.Connection) -> set[int]:
        if self._failed is None:
            self._failed = {row[0] for row in db.execute("SELECT DISTINCT series FROM failures")}
        return self._failed

    def _series_id(self, db: sqlite3.Connection, key: AnswerKey, model: str, today: int) -> int:
        prompt = key.prompt
        short = (key.identity, key.picture, prompt.key, model)
        known = self._series.get(short)
        if known is not None and prompt.key in self._vocabularies:
            return known
        db.execute(
            "INSERT INTO files (identity, used_on) VALUES (?, ?) ON CONFLICT (identity)"
            " DO UPDATE SET used_on = max(used_on, excluded.used_on)",
            (key.identity, today),
        )
        (file,) = db.execute("SELECT id FROM files WHERE identity = ?", (key.identity,)).fetchone()
        found = (file, self._name_id(db, key.picture), self._vocabulary_id(db, prompt), self._name_id(db, model))
        db.execute("INSERT OR IGNORE INTO series (file, picture, vocabulary, model) VALUES (?, ?, ?, ?)", found)
        (series,) = db.execute(
            "SELECT id FROM series WHERE file = ? AND picture = ? AND vocabulary = ? AND model = ?", found
        ).fetchone()
        _remember(self._series, short, int(series))
        return int(series)

    def _vocabulary_id(self, db: sqlite3.Connection, prompt: Prompt) -> int:
        if prompt.key in self._vocabularies:
            return self._vocabularies[prompt.key][0]
        wording = self._name_id(db, prompt.wording)
        db.execute("INSERT OR IGNORE INTO vocabularies (prompt, wording) VALUES (?, ?)", (prompt.key, wording))
        (vocabulary,) = db.execute("SELECT id FROM vocabularies WHERE prompt = ?", (prompt.key,)).fetchone()
        terms: dict[str, int] = {}
        for term in prompt.terms:
            pair = (term.name, _definition(term))
            db.execute("INSERT OR IGNORE INTO terms (name, definition) VALUES (?, ?)", pair)
            (terms[term.name],) = db.execute("SELECT id FROM terms WHERE name = ? AND definition = ?", pair).fetchone()
        db.executemany(
            "INSERT OR IGNORE INTO vocabulary_terms (vocabulary, term) VALUES (?, ?)",
            [(vocabulary, term) for term in terms.values()],
        )
        _remember(self._vocabularies, prompt.key, (int(vocabulary), terms))
        return int(vocabulary)

    def _name_id(self, db: sqlite3.Connection, name: str) -> int:
        known = self._names.get(name)
        if known is not None:
            return known
        db.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
        (number,) = db.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        _remember(self._names, name, int(number))
        return int(number)


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = value


# --- reading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Series:
    id: int
    model: str
    exact: bool
    """Given for exactly this prompt."""
    rank: int
    """0: asked in the same words; 1: with other examples, or with or without any; 2: in company."""
    terms: frozenset[int]
    """Those of its terms that the prompt asks about."""


def read_known(db: sqlite3.Connection, key: AnswerKey, models: Collection[str] | None) -> dict[int, PartlyKnown]:
    """Time → what is known then about at least one term of the prompt, ascending by time."""
    terms = _term_ids(db, key.prompt)
    series = _relevant(db, key, models, terms)
    asked = frozenset(terms.values())
    found: dict[int, PartlyKnown] = {}
    if len(series) == 1 and len(terms) == len(key.prompt.terms) and series[0].terms == asked:
        reader = _Reader(db, terms)
        for sample in reader.samples(series[0]):
            found[sample.at_ms] = PartlyKnown(sample, ())
        return found
    merging: dict[int, _Merge] = {}
    reader = _Reader(db, terms)
    for one in series:  # best first
        names = {name for name, number in terms.items() if number in one.terms}
        for sample in reader.samples(one):
            merge = merging.get(sample.at_ms)
            if merge is None:
                merging[sample.at_ms] = _Merge(sample, {n: c for n, c in sample.tags.items() if n in names}, set(names))
            else:
                fresh = names - merge.covered
                merge.tags.update({n: c for n, c in sample.tags.items() if n in fresh})
                merge.covered |= fresh
    shared: dict[frozenset[str], tuple[Term, ...]] = {}
    for at_ms in sorted(merging):
        merge = merging[at_ms]
        covered = frozenset(merge.covered)
        if covered not in shared:
            shared[covered] = tuple(term for term in key.prompt.terms if term.name not in covered)
        found[at_ms] = PartlyKnown(merge.sample(key.prompt), shared[covered])
    return found


def read_models(db: sqlite3.Connection, key: AnswerKey) -> list[str]:
    """Names of the models that were asked about any term of the prompt, sorted."""
    return sorted({one.model for one in _relevant(db, key, None, _term_ids(db, key.prompt)) if one.model})


@dataclass(slots=True)
class _Merge:
    best: Sample
    tags: dict[str, float]
    covered: set[str]

    def sample(self, prompt: Prompt) -> Sample:
        tags = {term.name: self.tags[term.name] for term in prompt.terms if term.name in self.tags}
        best = self.best
        outcome = Outcome.TAGS if tags else Outcome.NONE
        return Sample(best.at_ms, best.shown_ms, outcome, tags, best.model, best.inherited_from_ms)


class _Reader:
    """Turns rows into samples; frames with the same tags share one mapping, which nobody changes."""

    def __init__(self, db: sqlite3.Connection, terms: Mapping[str, int]) -> None:
        self._db = db
        self._names = {number: name for name, number in terms.items()}
        self._shared: dict[str, Mapping[str, float]] = {}
        self._nothing: Mapping[str, float] = {}

    def samples(self, series: _Series) -> Iterable[Sample]:
        for at_ms, lag_ms, inherited, tags in self._db.execute(
            "SELECT at_ms, lag_ms, inherited_from_ms, tags FROM answers WHERE series = ? ORDER BY at_ms", (series.id,)
        ):
            named = self._tags(tags) if tags else self._nothing
            outcome = Outcome.TAGS if named else Outcome.NONE
            yield Sample(at_ms, at_ms - lag_ms, outcome, named, series.model, inherited)

    def _tags(self, text: str) -> Mapping[str, float]:
        known = self._shared.get(text)
        if known is None:
            tags: dict[str, float] = {}
            for item in text.split(" "):
                number, _, confidence = item.partition(":")
                name = self._names.get(int(number))
                if name is not None:
                    tags[name] = float(confidence) if confidence else 1.0
            known = self._shared[text] = tags
        return known


def _term_ids(db: sqlite3.Connection, prompt: Prompt) -> dict[str, int]:
    """Name → id, for the terms that any vocabulary ever held with this definition."""
    found: dict[str, int] = {}
    for term in prompt.terms:
        row = db.execute(
            "SELECT id FROM terms WHERE name = ? AND definition = ?", (term.name, _definition(term))
        ).fetchone()
        if row is not None:
            found[term.name] = int(row[0])
    return found


def _relevant(
    db: sqlite3.Connection, key: AnswerKey, models: Collection[str] | None, terms: Mapping[str, int]
) -> list[_Series]:
    """Series of this file and picture that say something about the prompt, best first.

    What was taken over without any model (a black frame) holds for every model.
    """
    asked = frozenset(terms.values())
    found: list[_Series] = []
    wording = key.prompt.wording
    plain = wording.partition(EXAMPLES_MARK)[0]
    in_company = key.prompt.company_wording if key.also_in_company else plain
    for number, vocabulary, prompt, model, spoken in db.execute(
        "SELECT series.id, series.vocabulary, vocabularies.prompt, models.name, wordings.name FROM files"
        " JOIN series ON series.file = files.id"
        " JOIN names AS pictures ON pictures.id = series.picture"
        " JOIN names AS models ON models.id = series.model"
        " JOIN vocabularies ON vocabularies.id = series.vocabulary"
        " JOIN names AS wordings ON wordings.id = vocabularies.wording"
        " WHERE files.identity = ? AND pictures.name = ? AND (wordings.name IN (?, ?)"
        " OR substr(wordings.name, 1, ?) = ?)",
        (key.identity, key.picture, plain, in_company, len(plain) + 1, plain + EXAMPLES_MARK),
    ).fetchall():
        if model and models is not None and model not in models:
            continue
        if key.with_examples not in (None, EXAMPLES_MARK in spoken):
            continue
        held = frozenset(
            row[0] for row in db.execute("SELECT term FROM vocabulary_terms WHERE vocabulary = ?", (vocabulary,))
        )
        if held & asked:
            rank = 0 if spoken == wording else 2 if spoken == key.prompt.company_wording else 1
            found.append(_Series(int(number), model, prompt == key.prompt.key, rank, held & asked))
    return sorted(found, key=lambda one: (not one.exact, one.rank, -one.id))


@dataclass(frozen=True, slots=True)
class Failure:
    """A frame that was not analysed, as the ledger remembers it."""

    at_ms: int
    outcome: Outcome
    model: str
    endpoint: str
    detail: str
    raw: str


def read_failures(db: sqlite3.Connection, key: AnswerKey) -> list[Failure]:
    """Failures under exactly this key, ascending by time, that no later answer made up for."""
    rows = db.execute(
        "SELECT failures.at_ms, failures.outcome, models.name, endpoints.name, failures.detail, failures.raw"
        " FROM files JOIN series ON series.file = files.id"
        " JOIN failures ON failures.series = series.id"
        " JOIN names AS pictures ON pictures.id = series.picture"
        " JOIN names AS models ON models.id = series.model"
        " JOIN names AS endpoints ON endpoints.id = failures.endpoint"
        " JOIN vocabularies ON vocabularies.id = series.vocabulary"
        " WHERE files.identity = ? AND pictures.name = ? AND vocabularies.prompt = ?"
        " AND NOT EXISTS (SELECT 1 FROM answers WHERE answers.series = failures.series"
        " AND answers.at_ms = failures.at_ms) ORDER BY failures.at_ms",
        (key.identity, key.picture, key.prompt.key),
    )
    return [Failure(at, Outcome(outcome), model, place, detail, raw) for at, outcome, model, place, detail, raw in rows]


def prune(db: sqlite3.Connection, *, before_day: int, limit: int) -> tuple[int, bool]:
    """Delete answers and failures of at most so many files not used since that day.

    Returns:
        How many answers went, and whether there may be more to delete.
    """
    files = db.execute("SELECT id FROM files WHERE used_on < ? LIMIT ?", (before_day, limit)).fetchall()
    gone = 0
    for file in files:
        series = "SELECT id FROM series WHERE file = ?"
        gone += db.execute(f"DELETE FROM answers WHERE series IN ({series})", file).rowcount  # nosec B608 # names of our own; values are parameters
        db.execute(f"DELETE FROM failures WHERE series IN ({series})", file)  # nosec B608 # names of our own; values are parameters
        db.execute("DELETE FROM series WHERE file = ?", file)
        db.execute("DELETE FROM files WHERE id = ?", file)
    return gone, len(files) == limit
