"""Criteria on tags: which tags an object has, and how tags stand to each other."""

from __future__ import annotations

from demo.stash.criteria import Condition, Conditions, Handler, as_int, text_condition
from demo.stash.store import Row, StashError, Store, marks


def descendants(store: Store, ids: list[str], depth: int | None) -> list[tuple[int, int]]:
    """Pairs of (asked-for tag, tag that counts as it): itself, and its children down to `depth` levels; -1 = all."""
    roots = [as_int(value) for value in ids]
    if not depth:
        return [(root, root) for root in roots]
    pairs: list[tuple[int, int]] = []
    for root in dict.fromkeys(roots):
        level, seen, steps = [root], {root}, 0
        while level and (depth < 0 or steps < depth):
            found = store.column(f"SELECT child_id FROM tags_relations WHERE parent_id IN {marks(level)}", *level)
            level = [child for child in dict.fromkeys(found) if child not in seen]
            seen.update(level)
            steps += 1
        pairs += [(root, item) for item in seen]
    return pairs


def _parted(given: Row) -> tuple[list[str], list[str]]:
    values, excludes = list(given.get("value") or []), list(given.get("excludes") or [])
    return ([], excludes + values) if given["modifier"] == "EXCLUDES" else (values, excludes)


def tagged(join_table: str, join_key: str, outer: str) -> Handler:
    """Hierarchical tag criterion over a join table; `outer` is the SQL expression it is joined to.

    Built of joins, as in Stash, because that shows: a second such criterion in an inner AND, OR or NOT finds its join
    already made with the tags of the first.
    """
    alias = f"tag_of_{join_table}"

    def join(name: str, pairs: list[tuple[int, int]]) -> tuple[str, str]:
        values = ", ".join(f"({root}, {item})" for root, item in pairs) or "(NULL, NULL)"
        rows = f"SELECT j.*, d.column1 AS root_id FROM {join_table} j JOIN (VALUES {values}) d ON j.tag_id = d.column2"
        return name, f"LEFT JOIN ({rows}) AS {name} ON {name}.{join_key} = {outer}"

    def handle(store: Store, given: Row) -> Conditions:
        modifier, depth = given["modifier"], given.get("depth")
        if modifier in {"IS_NULL", "NOT_NULL"}:
            plain = (alias, f"LEFT JOIN {join_table} AS {alias} ON {alias}.{join_key} = {outer}")
            return [Condition(f"{alias}.tag_id IS {'NOT ' if modifier == 'NOT_NULL' else ''}NULL", joins=(plain,))]
        if modifier == "EQUALS" and depth:
            raise StashError("depth is not supported for equals modifier in hierarchical multi criterion input")
        values, excludes = _parted(given)
        done: Conditions = []
        if values and modifier == "NOT_EQUALS":
            raise StashError("not equals modifier is not supported for hierarchical multi criterion input")
        if values:
            joins = (join(alias, descendants(store, values, depth)),)
            every = f"COUNT(DISTINCT {alias}.root_id) = {len(values)}"
            total = f"(SELECT COUNT(*) FROM {join_table} s WHERE s.{join_key} = {outer}) = {len(values)}"
            sql = f"{alias}.root_id IS NOT NULL"
            match modifier:
                case "INCLUDES":
                    done.append(Condition(sql, joins=joins))
                case "INCLUDES_ALL":
                    done.append(Condition(sql, joins=joins, having=every))
                case "EQUALS":
                    done.append(Condition(f"{sql} AND {total}", joins=joins, having=every))
        if excludes:
            unwanted = (join(f"{alias}2", descendants(store, excludes, depth)),)
            done.append(Condition(f"{alias}2.root_id IS NULL", joins=unwanted))
        return done

    return handle


def marker_tagged(store: Store, given: Row) -> Conditions:
    """Tags of a marker, primary or secondary. EXCLUDES with only `value` does nothing, as in Stash."""
    modifier, depth = given["modifier"], given.get("depth")
    values, excludes = list(given.get("value") or []), list(given.get("excludes") or [])
    secondary = "SELECT tag_id FROM scene_markers_tags t WHERE t.scene_marker_id = scene_markers.id"
    if modifier in {"IS_NULL", "NOT_NULL"}:
        return [Condition(("NOT " if modifier == "IS_NULL" else "") + f"EXISTS ({secondary})")]
    if modifier == "EQUALS" and depth:
        raise StashError("depth is not supported for equals modifier for marker tag filtering")
    if modifier == "EXCLUDES":
        values = []
    done: Conditions = []
    if values:
        rows = ", ".join(f"({root}, {item})" for root, item in descendants(store, values, depth))
        every = f"(SELECT scene_markers.primary_tag_id AS tag_id UNION {secondary})"
        hits = f"(SELECT COUNT(DISTINCT d.column1) FROM {every} j JOIN (VALUES {rows}) d ON j.tag_id = d.column2)"
        match modifier:
            case "INCLUDES":
                done.append(Condition(f"{hits} > 0"))
            case "INCLUDES_ALL":
                done.append(Condition(f"{hits} = {len(values)}"))
            case "EQUALS":
                done.append(
                    Condition(f"{hits} = {len(values)} AND (SELECT COUNT(*) FROM ({secondary})) = {len(values) - 1}")
                )
            case "NOT_EQUALS":
                raise StashError("not equals modifier is not supported for scene marker tags")
    if excludes:
        unwanted = ", ".join(str(item) for _, item in descendants(store, excludes, depth))
        done.append(Condition(f"scene_markers.primary_tag_id NOT IN ({unwanted})"))
        done.append(Condition(f"NOT EXISTS ({secondary} AND t.tag_id IN ({unwanted}))"))
    return done


def aliases(_store: Store, given: Row) -> Conditions:
    rows = "SELECT 1 FROM tag_aliases a WHERE a.tag_id = tags.id"
    if given["modifier"] == "EXCLUDES":
        return [Condition(f"NOT EXISTS ({rows} AND a.alias LIKE ?)", (f"%{given['value']}%",))]
    if given["modifier"] == "IS_NULL":
        return [Condition(f"NOT EXISTS ({rows})")]
    condition = text_condition("a.alias", given)
    return [Condition(f"EXISTS ({rows} AND ({condition.sql}))", condition.params)]


def relatives(own: str, other: str) -> Handler:
    """Parents or children of a tag; a depth reaches further relatives."""

    def handle(store: Store, given: Row) -> Conditions:
        modifier = given["modifier"]
        rows = f"SELECT 1 FROM tags_relations r WHERE r.{own} = tags.id"
        if modifier in {"IS_NULL", "NOT_NULL"}:
            return [Condition(("NOT " if modifier == "IS_NULL" else "") + f"EXISTS ({rows})")]
        values, excludes = list(given.get("value") or []), list(given.get("excludes") or [])
        if modifier == "EXCLUDES":
            values, excludes = [], excludes + values
        depth = given.get("depth") or 0
        reach = {value: _reach(store, as_int(value), own, other, depth) for value in values + excludes}
        done: Conditions = []
        if values and modifier == "INCLUDES":
            done.append(_among(set().union(*(reach[v] for v in values))))
        elif values:
            done += [_among(reach[v]) for v in values]
        done += [Condition("NOT (" + _among(reach[v]).sql + ")") for v in excludes]
        return done

    return handle


def _among(ids: set[int]) -> Condition:
    return Condition("tags.id IN (" + ", ".join(map(str, sorted(ids))) + ")")


def _reach(store: Store, tag_id: int, own: str, other: str, depth: int) -> set[int]:
    """Tags whose relative `tag_id` is, `depth` further levels deep; -1 = all."""
    level, seen, steps = {tag_id}, set[int](), 0
    while level and (depth < 0 or steps <= depth):
        found = store.column(f"SELECT {own} FROM tags_relations WHERE {other} IN {marks(level)}", *level)
        level = set(found) - seen
        seen |= level
        steps += 1
    return seen
