"""Lists of executions, the newest first: a page of those for which a filter holds.

By workflow, status and time an index has them in this order. Inverted indexes know no order: of a tag, a
note, a word or an event they tell which executions have it, but not which of these is the newest. So such a
list looks among few executions at a time, and no look reads more than a bounded number of rows:

1. among the newest, which answers for what many have;
2. in the inverted indexes, as far as they find little, which answers for what few have;
3. back in time, in windows that grow while they hold little and are divided where they hold too much.

What is read follows from what is there, not from what the planner expects of a value.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from workflow_engine.execution.ids import HIGHEST_ID, LOWEST_ID, checked_id
from workflow_engine.postgres.database import Database, Row
from workflow_engine.postgres.executions.filters import WAITING, WAITS_ITSELF, ExecutionFilter

EXECUTION_COLUMNS = """
    e.id::text, concat_ws('#', e.workflow_id, e.body), e.workflow_version, e.trigger_id::text,
    e.trigger_node_id, e.status, e.seq, e.nodes_executed, e.error, e.error_details, e.idempotency_key,
    e.created_at, e.started_at, e.completed_at, e.duration_ms, e.parent_execution_id::text,
    e.parent_node_id, e.parent_index, e.root_execution_id::text, coalesce(e.depth, 0),
    e.user_metadata, e.tags, e.breakpoints
"""

# The newest of each status, from the index of that order: no row is read only to be dropped. `= ANY` of one
# keeps that order; with `=` the planner would rather read all executions by id, and skip the others.
NEWEST = """
    SELECT e.* FROM unnest(%(statuses)s::text[]) AS wanted (status) CROSS JOIN LATERAL (
        SELECT {selected} FROM {s}.executions e
        WHERE {chosen} AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
            AND e.parent_execution_id IS NULL AND {plain}
        ORDER BY {first} DESC, e.id DESC LIMIT %(newest)s
    ) AS e ORDER BY e.id DESC LIMIT %(newest)s
"""
OF_STATUS = "e.status = ANY(ARRAY[wanted.status])"
OF_WORKFLOW = "e.workflow_id = ANY(ARRAY[%(workflow_id)s::text]) AND e.status = wanted.status"

# Those at work, from the index of what is at work, and the newest of each status and workflow that rest.
NEWEST_CHILDREN = """
    (SELECT {selected} FROM {s}.executions e
    WHERE e.status IN ('PENDING', 'RUNNING') AND e.status = ANY(%(statuses)s)
        AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
        AND (%(workflow_id)s::text IS NULL OR e.workflow_id = %(workflow_id)s)
        AND e.parent_execution_id IS NOT NULL AND {plain}
    ORDER BY e.id DESC LIMIT %(newest)s)
    UNION ALL
    (SELECT e.* FROM {s}.workflows w CROSS JOIN unnest(%(statuses)s::text[]) AS wanted (status)
    CROSS JOIN LATERAL (
        SELECT {selected} FROM {s}.executions e
        WHERE e.workflow_id = ANY(ARRAY[w.id]) AND e.status = wanted.status
            AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
            AND e.parent_execution_id IS NOT NULL AND e.status NOT IN ('PENDING', 'RUNNING') AND {plain}
        ORDER BY e.workflow_id DESC, e.id DESC LIMIT %(newest)s
    ) AS e
    WHERE %(workflow_id)s::text IS NULL OR w.id = %(workflow_id)s
    ORDER BY e.id DESC LIMIT %(newest)s)
"""

LIST = """
SELECT {columns} FROM ({newest}) AS e ORDER BY e.id DESC LIMIT %(limit)s
""".replace("{columns}", EXECUTION_COLUMNS)

# Of whatever status: a look among them drops those that are not wanted.
NEWEST_OF_ALL = """
    SELECT e.id FROM {s}.executions e WHERE e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
    ORDER BY e.id DESC LIMIT %(newest)s
"""

# OFFSET 0 lets each of them be read by its id, whatever the planner expects of the condition.
LOOK_AMONG_NEWEST = """
WITH newest AS MATERIALIZED ({newest}),
page AS MATERIALIZED (
    SELECT e.id FROM newest
    CROSS JOIN LATERAL (SELECT * FROM {s}.executions e WHERE e.id = newest.id OFFSET 0) AS e
    WHERE e.status = ANY(%(statuses)s) AND {wanted}
    ORDER BY e.id DESC LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM newest), (SELECT n.id::text FROM newest n ORDER BY n.id DESC LIMIT 1),
    (SELECT n.id::text FROM newest n ORDER BY n.id LIMIT 1), {columns}
FROM (VALUES (1)) AS look (one) LEFT JOIN (page JOIN {s}.executions e ON e.id = page.id) ON true
ORDER BY e.id DESC
""".replace("{columns}", EXECUTION_COLUMNS)

# What is limited is planned as if all of it were wanted, and read only as far as it is.
LOOK_IN_INDEXES = """
WITH waiting AS MATERIALIZED ({waiting}), known AS MATERIALIZED (SELECT id FROM waiting LIMIT %(most)s + 1),
matching AS MATERIALIZED ({matching}),
few AS MATERIALIZED (SELECT * FROM matching LIMIT %(most)s + 1),
page AS MATERIALIZED (
    SELECT DISTINCT e.id FROM few e WHERE e.status = ANY(%(statuses)s) AND {wanted}
    ORDER BY e.id DESC LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM few) > %(most)s OR (SELECT count(*) FROM known) > %(most)s, {columns}
FROM (VALUES (1)) AS look (one) LEFT JOIN (page JOIN {s}.executions e ON e.id = page.id) ON true
ORDER BY e.id DESC
""".replace("{columns}", EXECUTION_COLUMNS)

MATCHING = """
    SELECT e.id, e.workflow_id, e.status, e.parent_execution_id, e.created_at, e.completed_at, e.tags,
        e.user_metadata, e.error, e.idempotency_key
    FROM {s}.executions e WHERE {rare} AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
"""

KNOWN_IN_TIME = f"{WAITING} AND w.execution_id >= %(from_id)s::uuid AND w.execution_id < %(to_id)s::uuid"
NONE_KNOWN = "SELECT NULL::uuid AS id WHERE false"

OLDEST = "SELECT e.id::text FROM {s}.executions e ORDER BY e.id LIMIT 1"

FIRST, FURTHER = 1_800, (5_400,)
"""The newest executions, among which a list looks one by one; and those after them, of a status or workflow.

Of all executions a window of time has as few as are wanted; of a status or workflow it may have none.
"""

FEW, MANY = 1_000, 5_000
"""Matches that a list takes from inverted indexes at once: of all times, and of a window of time."""

GROWTH = 4
"""How many times as long as the window before it a window is; and into how many parts one is divided."""


class ExecutionLists:
    """Reads pages of lists. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: ExecutionFilter, children: bool, limit: int, before: str | None) -> Sequence[Row]:
        """Return the columns of the newest executions; `before` is the last id of the previous page."""
        given = wanted.parameters()
        upper = [checked_id(before)] if before else []
        upper += [given["until_id"]] if given["until_id"] else []
        given |= {
            "from_id": given["since_id"] or LOWEST_ID,
            "to_id": min(upper, default=HIGHEST_ID),
            "limit": limit,
        }
        if wanted.rare_condition() is not None:
            return _Search(self._database, wanted, children, given).page()
        # Of children the planner expects, for each workflow, as many as are wanted in all, or hardly any.
        read = self._database.rows_in_order if children else self._database.rows
        newest = _newest(wanted, "*", wanted.condition_of_row())
        if children:
            newest = f"({newest}) UNION ALL {NEWEST_CHILDREN}"
            newest = newest.replace("{selected}", "*").replace("{plain}", wanted.condition_of_row())
        return read(LIST.replace("{newest}", newest), **given, newest=limit)


class _Search:
    """Looks for the page of one list whose filter inverted indexes serve."""

    def __init__(
        self, database: Database, wanted: ExecutionFilter, children: bool, given: dict[str, Any]
    ) -> None:
        self._database = database
        self._given = given
        self._limit: int = given["limit"]
        self._is_narrow = not children and bool(wanted.statuses or wanted.workflow_id)
        plain, only = wanted.plain_condition(children=children), wanted.only_rare()
        newest = NEWEST_OF_ALL if children else _newest(wanted, "e.id", "true")
        each_itself = f"{wanted.rare_condition(WAITS_ITSELF)} AND {plain}"
        self._among_newest = LOOK_AMONG_NEWEST.replace("{newest}", newest).replace("{wanted}", each_itself)
        self._of_all_times = _in_indexes(wanted, wanted.rare_conditions(), plain)
        # What is intersected with a window is one condition, which the planner expects to leave much.
        of_one = only.rare_conditions(has_seen_values=False)
        self._of_a_window = _in_indexes(only, of_one, each_itself if _has_several(wanted) else plain)

    def page(self) -> list[Row]:
        """Return the page."""
        begin, end = _number(self._given["from_id"]), _number(self._given["to_id"])
        found: list[Row] = []
        span = 1
        for newest in (FIRST, *(FURTHER if self._is_narrow else ())):
            wanted = max(newest, self._limit)
            read, first, last, rows = self._look_among(end, wanted, self._limit - len(found))
            found += rows
            if read < wanted or len(found) >= self._limit:
                return found
            end, span = _number(last), span + _number(first) - _number(last)
            if newest == FIRST:
                is_cut, rows = self._look_in(self._of_all_times, begin, end, FEW, self._limit - len(found))
                if not is_cut:
                    return found + rows
        ((oldest,),) = self._database.rows(OLDEST) or [(LOWEST_ID,)]
        return [*found, *self._look_back(max(begin, _number(oldest)), end, span, len(found))]

    def _look_back(self, begin: int, end: int, span: int, found: int) -> Iterator[Row]:
        """Yield what is missing of the page, from windows before `end`, of which the one after was `span`."""
        windows: list[tuple[int, int]] = []
        longest = (end - begin) // GROWTH + 1
        while found < self._limit and (windows or end > begin):
            if not windows:
                span = min(span * GROWTH, longest)
                windows, end = [(max(begin, end - span), end)], max(begin, end - span)
            first, last = windows.pop()
            is_cut, rows = self._look_in(self._of_a_window, first, last, MANY, self._limit - found)
            part = -(-(last - first) // GROWTH)
            if is_cut and part < last - first:
                windows += [(each, min(each + part, last)) for each in range(first, last, part)]
            else:
                found += len(rows)
                yield from rows

    def _look_among(self, end: int, newest: int, limit: int) -> tuple[int, str, str, list[Row]]:
        """Look among the newest before `end`; return their number, their first and last, and what matches."""
        given = {**self._given, "to_id": _id(end), "newest": newest, "limit": limit}
        rows = self._database.rows_in_order(self._among_newest, **given)
        read, first, last = rows[0][:3]
        return read, first, last, [row[3:] for row in rows if row[3] is not None]

    def _look_in(self, statement: str, begin: int, end: int, most: int, limit: int) -> tuple[bool, list[Row]]:
        """Look in the inverted indexes; return whether there are more than `most`, and those that match."""
        window = {"from_id": _id(begin), "to_id": _id(end), "most": most, "limit": limit}
        rows = self._database.rows_by_bitmaps(statement, **{**self._given, **window})
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]


def _in_indexes(found: ExecutionFilter, conditions: Sequence[str], wanted: str) -> str:
    """Return the statement of a look among those that a filter finds by one of these conditions."""
    matching = " UNION ALL ".join(MATCHING.replace("{rare}", each) for each in conditions)
    statement = LOOK_IN_INDEXES.replace("{waiting}", KNOWN_IN_TIME if found.finds_waits else NONE_KNOWN)
    return statement.replace("{matching}", matching).replace("{wanted}", wanted)


def _has_several(wanted: ExecutionFilter) -> bool:
    return sum(map(bool, (wanted.tags, wanted.where, wanted.text))) > 1


def _newest(wanted: ExecutionFilter, selected: str, plain: str) -> str:
    """Return the statement that selects columns of the newest executions without a parent."""
    chosen, first = (OF_STATUS, "e.status") if wanted.workflow_id is None else (OF_WORKFLOW, "e.workflow_id")
    newest = NEWEST.replace("{chosen}", chosen).replace("{first}", first)
    return newest.replace("{selected}", selected).replace("{plain}", plain)


def _number(execution_id: str) -> int:
    return uuid.UUID(execution_id).int


def _id(number: int) -> str:
    return str(uuid.UUID(int=number))
