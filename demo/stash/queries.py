"""A prepared query over one kind of object: conditions, order, page; rows and sums are fetched when asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from demo.stash import search
from demo.stash.criteria import Condition, Conditions, Handler, chosen, combined, where
from demo.stash.store import Row, StashError, Store

DEFAULT_PER_PAGE = 25
UNSORTED_SEED = 11
"""Without `sort` Stash promises no order; ours is a fixed jumble, so that nobody comes to rely on one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is needed to query one kind of object."""

    table: str
    noun: str
    """As error texts name it."""
    handlers: dict[str, Handler]
    searched: list[str]
    """Columns of `q`, after `search_joins`."""
    search_joins: str
    sorts: dict[str, str]
    """Sort name to SQL expression."""
    default_sort: str | None
    """None: without `sort` there is no order to rely on."""
    tie_break: str

    def conditions(self, store: Store, given: Row | None) -> Conditions:
        return combined(store, given, self.handlers)

    def query(self, store: Store, given: Row | None, find: Row | None) -> Query:
        """Prepare a query.

        Raises:
            StashError: an unknown sort, or a filter Stash refuses.
        """
        find = find or {}
        conditions = self.conditions(store, given)
        if find.get("q"):
            sql, params = search.clause(find["q"], self.searched)
            rows = f"SELECT {self.table}.id FROM {self.table} {self.search_joins} WHERE {sql}"
            conditions.append(Condition(f"{self.table}.id IN ({rows})", tuple(params)))
        return Query(store, self.table, where(conditions), self._order(find), _page(find))

    def _order(self, find: Row) -> str:
        sort = find.get("sort")
        if sort is None or (sort == "" and self.default_sort is None):
            sort = self.default_sort
        if sort is None:
            return f" ORDER BY shuffled({UNSORTED_SEED}, {self.table}.id)"
        direction = find.get("direction") or "ASC"
        seed: int | None = None
        if sort.startswith("random_"):
            if not sort[7:].isdecimal():
                raise StashError(f"invalid random seed: {sort[7:]}")
            seed = int(sort[7:]) % 100_000_000
        elif sort == "random":
            seed = random.randrange(100_000_000)
        elif sort not in self.sorts:
            raise StashError(f"invalid sort: {sort}")
        key = self.sorts[sort] if seed is None else f"shuffled({seed}, {self.table}.id)"
        return f" ORDER BY {key} {direction}, {self.tie_break}"


def _page(find: Row) -> str:
    per_page = find.get("per_page")
    per_page = DEFAULT_PER_PAGE if per_page is None else per_page
    page = find.get("page")
    page = 1 if page is None or page < 1 else page
    return "" if per_page < 0 else f" LIMIT {per_page} OFFSET {(page - 1) * per_page}"


@dataclass(frozen=True, slots=True)
class Query:
    """A prepared query; rows, count and sums are fetched when asked for."""

    store: Store
    table: str
    condition: Condition
    order: str
    page: str

    def rows(self) -> list[Row]:
        sql = f"SELECT {self.table}.* FROM {self.table} WHERE {self._meets}{self.order}{self.page}"
        return self.store.all(sql, *self.condition.params)

    @property
    def _meets(self) -> str:
        plain = not self.condition.joins and not self.condition.having
        return self.condition.sql if plain else f"{self.table}.id IN ({chosen(self.table, self.condition)})"

    def count(self) -> int:
        return int(self.total("COUNT(*)"))

    def total(self, expression: str) -> Any:
        sql = f"SELECT {expression} FROM {self.table} WHERE {self._meets}"
        return self.store.value(sql, *self.condition.params) or 0
