"""Criteria on studios: of media, where those below one may count, and of studios themselves."""

from __future__ import annotations

from demo.stash.criteria import Condition, Conditions, Handler, as_int, text_condition
from demo.stash.store import Row, Store, marks


def _below(store: Store, ids: list[str], depth: int | None) -> list[int]:
    """These studios, and those below them down to `depth` levels; -1 = all."""
    level = [as_int(value) for value in ids]
    found, steps = dict.fromkeys(level), 0
    while level and depth and (depth < 0 or steps < depth):
        children = store.column(f"SELECT id FROM studios WHERE parent_id IN {marks(level)}", *level)
        level = [child for child in children if child not in found]
        found |= dict.fromkeys(level)
        steps += 1
    return list(found)


def made_by(table: str) -> Handler:
    """The studio of a medium, which has one at most. EQUALS is INCLUDES_ALL and NOT_EQUALS is EXCLUDES, as in Stash."""
    column = f"{table}.studio_id"

    def handle(store: Store, given: Row) -> Conditions:
        modifier = {"EQUALS": "INCLUDES_ALL", "NOT_EQUALS": "EXCLUDES"}.get(given["modifier"], given["modifier"])
        if modifier in {"IS_NULL", "NOT_NULL"}:
            return [Condition(f"{column} IS {'NOT ' if modifier == 'NOT_NULL' else ''}NULL")]
        values, excludes = list(given.get("value") or []), list(given.get("excludes") or [])
        if modifier == "EXCLUDES":
            values, excludes = [], excludes + values
        done: Conditions = []
        if values and modifier == "INCLUDES_ALL" and len(values) > 1:
            done.append(Condition("0"))  # the studios of one medium are counted, and there is one
        elif values and modifier in {"INCLUDES", "INCLUDES_ALL"}:
            ids = _below(store, values, given.get("depth"))
            done.append(Condition(f"{column} IN {marks(ids)}", tuple(ids)))
        if excludes:
            ids = _below(store, excludes, given.get("depth"))
            done.append(Condition(f"{column} NOT IN {marks(ids)} OR {column} IS NULL", tuple(ids)))
        return done

    return handle


_ALIASES = ("studio_aliases", "LEFT JOIN studio_aliases ON studio_aliases.studio_id = studios.id")


def aliases(_store: Store, given: Row) -> Conditions:
    """Any alias of a studio; without one the joined row is NULL, which decides what the negated modifiers say."""
    if given["modifier"] == "EXCLUDES":
        rows = "SELECT studio_id FROM studio_aliases WHERE alias LIKE ?"
        return [Condition(f"studios.id NOT IN ({rows})", (f"%{given['value']}%",))]
    condition = text_condition("studio_aliases.alias", given)
    return [condition._replace(joins=(_ALIASES,))]
