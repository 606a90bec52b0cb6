"""Filter inputs to SQL conditions, with Stash's meanings: an empty tag criterion asks for nothing, `_` is a wildcard.

Conditions are correlated to the outer table by its name, so a filter inside a filter is a subquery of the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from demo.stash.store import Row, StashError, Store, marks


class Condition(NamedTuple):
    """SQL for WHERE and its parameters; what must be joined for it, and what must hold for each group of rows."""

    sql: str
    params: tuple[Any, ...] = ()
    joins: tuple[tuple[str, str], ...] = ()
    """Alias and SQL of each join; of two joins with one alias only the first is made, as in Stash."""
    having: str = ""


Conditions = list[Condition]
Handler = Callable[[Store, Any], Conditions]


@dataclass(frozen=True, slots=True)
class Media:
    """Names of the tables one kind of object lives in."""

    table: str
    key: str

    @property
    def tags(self) -> str:
        return f"{self.table}_tags"

    @property
    def files(self) -> str:
        return f"{self.table}_files"


SCENES = Media("scenes", "scene_id")
IMAGES = Media("images", "image_id")
GALLERIES = Media("galleries", "gallery_id")


def where(conditions: Iterable[Condition]) -> Condition:
    """All of them; true when there are none."""
    wanted = list(conditions)
    return Condition(
        " AND ".join(f"({c.sql})" for c in wanted) or "1",
        tuple(p for c in wanted for p in c.params),
        tuple(j for c in wanted for j in c.joins),
        " AND ".join(f"({c.having})" for c in wanted if c.having),
    )


def chosen(table: str, condition: Condition) -> str:
    """SELECT of the ids of a table's rows that meet a condition."""
    joins = " ".join(dict(reversed([*condition.joins])).values())
    grouped = f" GROUP BY {table}.id HAVING {condition.having}" if condition.having else ""
    return f"SELECT {table}.id FROM {table} {joins} WHERE {condition.sql}{grouped}"


def combined(store: Store, given: Row | None, handlers: dict[str, Handler]) -> Conditions:
    """Conditions of a filter input with its AND, OR and NOT.

    Raises:
        StashError: more than one of AND, OR and NOT at one level.
    """
    if not given:
        return []
    operators = [name for name in ("AND", "OR", "NOT") if given.get(name) is not None]
    if len(operators) > 1:
        raise StashError(f"cannot have {operators[0]} and {operators[1]} in the same filter")
    own = [
        condition
        for name, value in given.items()
        if name in handlers and value is not None
        for condition in handlers[name](store, value)
    ]
    inner = combined(store, given[operators[0]], handlers) if operators else []
    if not inner:
        return own
    outer, sub = where(own), where(inner)
    return [
        Condition(
            _joined_up(operators[0], outer.sql if own else "", sub.sql),
            outer.params + sub.params,
            outer.joins + sub.joins,
            _joined_up(operators[0], outer.having, sub.having),
        )
    ]


def _joined_up(operator: str, outer: str, inner: str) -> str:
    if not inner:
        return outer
    if not outer:
        return f"NOT ({inner})" if operator == "NOT" else inner
    word = {"AND": "AND", "OR": "OR", "NOT": "AND NOT"}[operator]
    return f"({outer}) {word} ({inner})"


# ---- plain values ----


def text(column: str) -> Handler:
    """String criterion: EQUALS is LIKE, so ASCII case and the wildcards `_` and `%` match."""

    def handle(_store: Store, given: Row) -> Conditions:
        return [text_condition(column, given)]

    return handle


def text_condition(column: str, given: Row) -> Condition:
    value, modifier = given["value"], given["modifier"]
    if modifier in {"INCLUDES", "EXCLUDES"}:
        negated = modifier == "EXCLUDES"
        words = _words(value)
        like = f"{column} NOT LIKE ?" if negated else f"{column} LIKE ?"
        return Condition((" AND " if negated else " OR ").join([like] * len(words)), tuple(f"%{w}%" for w in words))
    match modifier:
        case "EQUALS":
            return Condition(f"{column} LIKE ?", (value,))
        case "NOT_EQUALS":
            return Condition(f"{column} NOT LIKE ?", (value,))
        case "MATCHES_REGEX" | "NOT_MATCHES_REGEX" if not _compiles(value):
            raise StashError(f"error parsing regexp: `{value}`")
        case "MATCHES_REGEX":
            return Condition(f"{column} IS NOT NULL AND regexp(?, {column})", (value,))
        case "NOT_MATCHES_REGEX":
            return Condition(f"{column} IS NULL OR NOT regexp(?, {column})", (value,))
        case "IS_NULL":
            return Condition(f"{column} IS NULL OR TRIM({column}) = ''")
        case "NOT_NULL":
            return Condition(f"{column} IS NOT NULL AND TRIM({column}) != ''")
    raise StashError("Internal system error. Error <unsupported string filter modifier>")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _words(value: str) -> list[str]:
    """INCLUDES looks for any of the words; inside quotes, for the phrase."""
    stripped = value.strip()
    bare = stripped.strip('"')
    return stripped.split() or [""] if bare == stripped else [bare]


def number(column: str) -> Handler:
    def handle(_store: Store, given: Row) -> Conditions:
        return [number_condition(column, given)]

    return handle


def number_condition(column: str, given: Row, missing_upper: Any = 0) -> Condition:
    value, upper, modifier = given["value"], given.get("value2"), given["modifier"]
    upper = missing_upper if upper is None else upper
    match modifier:
        case "EQUALS":
            return Condition(f"{column} = ?", (value,))
        case "NOT_EQUALS":
            return Condition(f"{column} != ?", (value,))
        case "GREATER_THAN":
            return Condition(f"{column} > ?", (value,))
        case "LESS_THAN":
            return Condition(f"{column} < ?", (value,))
        case "BETWEEN":
            return Condition(f"{column} BETWEEN ? AND ?", (value, upper))
        case "NOT_BETWEEN":
            return Condition(f"{column} NOT BETWEEN ? AND ?", (value, upper))
        case "IS_NULL":
            return Condition(f"{column} IS NULL")
        case "NOT_NULL":
            return Condition(f"{column} IS NOT NULL")
    raise StashError(f"Internal system error. Error <unsupported numeric modifier type {modifier}>")


def moment(column: str) -> Handler:
    """Dates and times are compared as text."""

    def handle(store: Store, given: Row) -> Conditions:
        tomorrow = datetime.fromtimestamp(store.clock(), UTC) + timedelta(days=1)
        return [number_condition(column, given, missing_upper=tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ"))]

    return handle


def flag(column: str) -> Handler:
    def handle(_store: Store, given: bool) -> Conditions:
        return [Condition(f"{column} = ?", (int(given),))]

    return handle


def counted(table: str, foreign_key: str, outer: str) -> Handler:
    """Integer criterion on the number of rows that point here."""
    return number(f"(SELECT COUNT(*) FROM {table} n WHERE n.{foreign_key} = {outer}.id)")


def missing(table: str, special: dict[str, str]) -> Handler:
    """`is_missing`: the name of a column, or of one of the special cases."""

    def handle(store: Store, given: str) -> Conditions:
        if not given:
            return []
        if given in special:
            return [Condition(special[given])]
        if given not in {row["name"] for row in store.all(f"PRAGMA table_info({table})")}:
            raise StashError(f"no such column: {table}.{given}")
        return [Condition(f"{table}.{given} IS NULL OR TRIM({table}.{given}) = ''")]

    return handle


# ---- ids ----


def as_int(value: Any) -> int:
    """An id as Stash reads it.

    Raises:
        StashError: not a whole number.
    """
    try:
        return int(str(value))
    except ValueError:
        raise StashError(f'strconv.Atoi: parsing "{value}": invalid syntax') from None


def joined(join_table: str, join_key: str, foreign_key: str, outer: str) -> Handler:
    """Multi criterion over a join table (galleries of a scene, images of a gallery …)."""

    def handle(_store: Store, given: Row) -> Conditions:
        modifier = given["modifier"]
        values, excludes = list(given.get("value") or []), list(given.get("excludes") or [])
        rows = f"FROM {join_table} j WHERE j.{join_key} = {outer}"
        if modifier in {"IS_NULL", "NOT_NULL"}:
            return [Condition(("NOT " if modifier == "IS_NULL" else "") + f"EXISTS (SELECT 1 {rows})")]
        if modifier == "EXCLUDES":
            values, excludes = [], excludes + values
        done: Conditions = []
        if values:
            hits = f"(SELECT COUNT(DISTINCT j.{foreign_key}) {rows} AND j.{foreign_key} IN {marks(values)})"
            wanted = {"INCLUDES": "> 0", "INCLUDES_ALL": f"= {len(values)}", "EQUALS": f"= {len(values)}"}.get(modifier)
            if wanted is None:
                raise StashError("not equals modifier is not supported for multi criterion input")
            done.append(Condition(f"{hits} {wanted}", tuple(as_int(v) for v in values)))
            if modifier == "EQUALS":
                done.append(Condition(f"(SELECT COUNT(*) {rows}) = {len(values)}"))
        if excludes:
            unwanted = tuple(as_int(v) for v in excludes)
            done.append(Condition(f"NOT EXISTS (SELECT 1 {rows} AND j.{foreign_key} IN {marks(excludes)})", unwanted))
        return done

    return handle
