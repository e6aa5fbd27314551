"""Lists of executions, the newest first: a page of those for which a filter holds.

By workflow, status and time an index has them in this order. Inverted indexes know no order: of a tag, a
note, a word or an event they tell which executions have it, but not which of these is the newest. So such a
list looks among few executions at a time, and no look reads more than a bounded number of rows:

1. among the newest, in their order, until the page is full: that answers for what many have;
2. in a sample of the table, always the same pages of it: that tells how many match, and when they started;
3. in the inverted indexes: for all of it, where there is little, or intersected with the indexes by workflow,
   status and time, in windows of time that hold about what is missing by the sample, the newest first.

What is read follows from what is there, not from what the planner expects of a value.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from workflow_engine.execution.ids import HIGHEST_ID, LOWEST_ID, checked_id
from workflow_engine.postgres.database import Database, Row
from workflow_engine.postgres.executions.filters import (
    IS_KNOWN,
    WAITING,
    WAITS_ITSELF,
    ExecutionFilter,
    without_values,
)

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
ROWS_OF_ALL = NEWEST_OF_ALL.replace("e.id FROM", "e.id AS newest_id, e.* FROM")

# OFFSET 0 lets each of them be read by its id, whatever the planner expects of the condition.
ROWS_OF_NEWEST = """
    SELECT n.id AS newest_id, e.* FROM (SELECT id FROM newest ORDER BY id DESC) AS n
    CROSS JOIN LATERAL (SELECT * FROM {s}.executions e WHERE e.id = n.id OFFSET 0) AS e
"""

# Rows are read until the page is full; the ids alone tell where the next look begins.
LOOK_AMONG_NEWEST = """
WITH newest AS MATERIALIZED ({newest})
SELECT (SELECT n.id::text FROM newest n ORDER BY n.id DESC OFFSET %(newest)s - 1 LIMIT 1), {columns}
FROM (VALUES (1)) AS look (one) LEFT JOIN (
    SELECT * FROM ({rows}) AS e WHERE e.status = ANY(%(statuses)s) AND {wanted}
    ORDER BY newest_id DESC LIMIT %(limit)s
) AS e ON true
ORDER BY e.id DESC
""".replace("{columns}", EXECUTION_COLUMNS)

# Always the same pages, so that they stay in memory.
SAMPLE = """
WITH parts AS (
    SELECT '{s}.executions'::regclass AS part UNION SELECT relid FROM pg_partition_tree('{s}.executions')
),
size AS MATERIALIZED (
    SELECT least(1, %(bytes)s / greatest(1, sum(pg_relation_size(part)))::float) AS share FROM parts
),
sampled AS MATERIALIZED (
    SELECT e.id, ({noted}) AS is_noted, ({named}) AS is_named, ({chosen}) AS is_chosen,
        (e.status = ANY(%(statuses)s) AND {plain}) AS is_plain
    FROM {s}.executions e TABLESAMPLE SYSTEM ((SELECT 100 * share FROM size)) REPEATABLE (1)
)
SELECT (SELECT share FROM size),
    coalesce((SELECT e.id::text FROM {s}.executions e ORDER BY e.id LIMIT 1), %(to_id)s),
    count(*) FILTER (WHERE is_noted), count(*) FILTER (WHERE is_named),
    count(*) FILTER (WHERE is_noted AND is_named), count(*) FILTER (WHERE is_chosen),
    count(*) FILTER (WHERE is_noted AND is_chosen),
    ARRAY(SELECT id::text FROM sampled WHERE is_noted AND is_named AND is_chosen AND is_plain
        ORDER BY id DESC LIMIT 1000)
FROM sampled
"""

# What is limited is planned as if all of it were wanted, and read only as far as it is.
LOOK_IN_INDEXES = """
WITH waiting AS MATERIALIZED ({waiting}), known AS MATERIALIZED (SELECT id FROM waiting LIMIT %(known)s + 1),
matching AS MATERIALIZED ({matching}),
few AS MATERIALIZED (SELECT * FROM matching LIMIT %(most)s + 1),
page AS MATERIALIZED (
    SELECT DISTINCT e.id FROM few e
    WHERE e.status = ANY(%(statuses)s) AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid AND {wanted}
    ORDER BY e.id DESC LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM few) > %(most)s OR (SELECT count(*) FROM known) > %(known)s, {columns}
FROM (VALUES (1)) AS look (one) LEFT JOIN (page JOIN {s}.executions e ON e.id = page.id) ON true
ORDER BY e.id DESC
""".replace("{columns}", EXECUTION_COLUMNS)

MATCHING = """
    SELECT e.id, e.workflow_id, e.status, e.parent_execution_id, e.created_at, e.completed_at, e.tags,
        e.user_metadata, e.error, e.idempotency_key
    FROM {s}.executions e WHERE {matching}
"""

KNOWN_IN_TIME = f"{WAITING} AND w.execution_id >= %(from_id)s::uuid AND w.execution_id < %(to_id)s::uuid"
NONE_KNOWN = "SELECT NULL::uuid AS id WHERE false"

# In these the planner does not see the values either, or it would rather read all rows that have a rare tag.
# Two bounds of one form it would take for a range, of so few that no other index need take part.
IN_TIME = "e.id >= (SELECT %(from_id)s::uuid) AND e.id < ANY(ARRAY[(SELECT %(to_id)s::uuid)])"
# Of statuses it sees how many there are, so that it prefers their index to that by id where they are few.
CHOSEN_ROOTS = f"e.parent_execution_id IS NULL AND e.status = ANY(ARRAY[{{statuses}}]) AND {IN_TIME}"
OF_ONE_WORKFLOW = "e.workflow_id = (SELECT %(workflow_id)s::text)"
AT_WORK = f"e.status IN ('PENDING', 'RUNNING') AND {IN_TIME}"

# Here it does, or it would prefer two indexes that leave more, those by id and of all children.
CHILDREN_AT_REST = """
    e.workflow_id = ANY(ARRAY(SELECT w.id FROM {s}.workflows w
        WHERE %(workflow_id)s::text IS NULL OR w.id = %(workflow_id)s))
    AND e.status = ANY(%(statuses)s) AND e.id >= %(from_id)s::uuid AND e.id < %(to_id)s::uuid
    AND e.parent_execution_id IS NOT NULL AND e.status NOT IN ('PENDING', 'RUNNING')
"""

FIRST, FIRST_OF_CHOSEN = 5_400, 1_800
"""The newest executions among which a list looks; and those of a status or workflow, each in another page."""

SAMPLED = 1_000 * 8_192
"""Bytes of the table that are read as a sample: whole pages, whose executions started one after another."""

MANY, MANY_KNOWN = 5_000, 10_000
"""Rows that a look in the indexes may read, and waits."""

ENOUGH = 2
"""How many times as many as are missing a window is to hold, by the sample."""

AROUND = 50
"""Of so many of a sample, from several of its pages, it tells how far they are apart."""

PARTS = 4
"""Into how many parts a window is divided that holds too much."""

OF_ROW, OF_ENTRY, OF_WAIT = 8.0, 0.1, 5.0
"""Microseconds to read a row that an index has found, an entry of an index, and a wait with its index."""


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


@dataclass(frozen=True)
class _Sample:
    """What a sample of the table tells of one list."""

    share: float
    """The part of the table that it is."""
    oldest: str
    """The id of the oldest execution of all."""
    noted: int
    """How many have the tags and the metadata, at any time."""
    named: int
    """How many the text is about, at any time."""
    rare: int
    """How many are both."""
    chosen: int
    """How many are of the wanted statuses, workflow and time."""
    noted_and_chosen: int
    """How many of these have the tags and the metadata."""
    wanted: Sequence[str]
    """The ids of those that the list would show, the newest first."""

    def window_before(self, begin: int, end: int, missing: int) -> int:
        """Return where a window begins that ends at `end` and holds some more than what is missing."""
        older = [number for number in map(_number, self.wanted) if number < end]
        number = ENOUGH * missing * self.share
        if len(older) <= max(1, number):
            return begin
        last = min(len(older) - 1, max(AROUND, math.ceil(number)))
        apart = (older[0] - older[last]) // last
        # Of a tag that none of the newest has, the window begins among those that have it.
        start = older[0] if end - older[0] > 2 * apart else end
        return max(begin, start - math.ceil(number * apart))

    def best_look(self, window: float, has_notes: bool, has_waits: bool) -> _Look:
        """Return the look that takes the least time, if the first window is this part of all time."""
        costs: dict[_Look, float] = {}
        for asks_each in (False, True) if has_notes and has_waits else (False,):
            waits = 0 if asks_each or not has_waits else self.named
            found, of_chosen = (
                (self.noted, self.noted_and_chosen) if asks_each else (self.rare, len(self.wanted))
            )
            if max(found / MANY, waits / MANY_KNOWN) <= self.share / 2:
                costs[_Look(True, asks_each)] = found * OF_ROW + waits * OF_WAIT
            costs[_Look(False, asks_each)] = window * (
                self.chosen * OF_ENTRY + of_chosen * OF_ROW + waits * OF_WAIT
            )
        return min(costs, key=costs.__getitem__)


class _Look(NamedTuple):
    """A way to look in the inverted indexes."""

    is_at_once: bool
    """It reads all that have what is rare, or else only those that are chosen besides, in windows of time."""
    asks_each: bool
    """It asks each that has the tags and metadata about the text, or else reads the text's indexes."""


class _Search:
    """Looks for the page of one list whose filter inverted indexes serve."""

    def __init__(
        self, database: Database, wanted: ExecutionFilter, children: bool, given: dict[str, Any]
    ) -> None:
        self._database = database
        self._wanted = wanted
        self._given = given
        self._limit: int = given["limit"]
        self._plain = wanted.plain_condition(children=children)
        self._is_of_all = children or not (wanted.statuses or wanted.workflow_id)
        self._chosen = _chosen(wanted, children)

    def page(self) -> list[Row]:
        """Return the page."""
        last, found = self._look_among_newest()
        if last is None or len(found) >= self._limit:
            return found
        end = _number(last)
        sample = self._sample(end)
        begin = max(_number(self._given["from_id"]), _number(sample.oldest))
        return [*found, *(self._look_back(sample, begin, end, len(found)) if begin < end else ())]

    def _look_among_newest(self) -> tuple[str | None, list[Row]]:
        """Return the last of the newest, None if there are not as many, and those of them that match."""
        newest = NEWEST_OF_ALL if self._is_of_all else _newest(self._wanted, "e.id", "true")
        each_itself = f"{self._wanted.rare_condition(WAITS_ITSELF)} AND {self._plain}"
        statement = LOOK_AMONG_NEWEST.replace("{rows}", ROWS_OF_ALL if self._is_of_all else ROWS_OF_NEWEST)
        statement = statement.replace("{newest}", newest).replace("{wanted}", each_itself)
        number = max(self._limit, FIRST if self._is_of_all else FIRST_OF_CHOSEN)
        rows = self._database.rows_in_order(statement, **self._given, newest=number)
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]

    def _sample(self, end: int) -> _Sample:
        statement = (
            SAMPLE.replace("{noted}", self._wanted.noted_condition() or "true")
            .replace("{named}", self._wanted.text_condition(WAITS_ITSELF) or "true")
            .replace("{chosen}", " OR ".join(f"({each})" for each in self._chosen))
            .replace("{plain}", self._plain)
        )
        given = {**self._given, "to_id": _id(end), "bytes": SAMPLED}
        return _Sample(*self._database.rows_uncompiled(statement, **given)[0])

    def _look_back(self, sample: _Sample, begin: int, end: int, found: int) -> Iterator[Row]:
        """Yield what is missing of the page, from what started before `end`."""
        first = sample.window_before(begin, end, self._limit - found)
        has_notes = self._wanted.noted_condition() is not None
        look = sample.best_look((end - first) / (end - begin), has_notes, self._wanted.finds_waits)
        statement = self._statement(look)
        windows = [(begin if look.is_at_once else first, end)]
        enlarged = 1
        while found < self._limit and windows:
            first, last = windows.pop()
            is_cut, rows = self._look_in(statement, first, last, self._limit - found)
            if is_cut and look.is_at_once:  # the sample has misled
                look = look._replace(is_at_once=False)
                statement = self._statement(look)
            part = -(-(last - first) // PARTS)
            if is_cut and part < last - first:
                windows += [(each, min(each + part, last)) for each in range(first, last, part)]
                continue
            found += len(rows)
            yield from rows
            if not windows and first > begin:
                enlarged *= 2
                windows = [(sample.window_before(begin, first, (self._limit - found) * enlarged), first)]

    def _statement(self, look: _Look) -> str:
        """Return the statement of a look; what is known to wait for the text is of its time already."""
        wanted = self._wanted
        noted = wanted.noted_condition() or "true"
        named = ["true"] if look.asks_each else wanted.indexed_text_conditions() or ["true"]
        chosen = ["true"] if look.is_at_once else self._chosen
        conditions = [f"{noted} AND {each} AND {part}" for each in named for part in chosen]
        is_by_known = wanted.finds_waits and not look.asks_each
        conditions += [f"{noted} AND {IS_KNOWN}"] if is_by_known else []
        matching = " UNION ALL ".join(
            MATCHING.replace("{matching}", without_values(each)) for each in conditions
        )
        asked = wanted.text_condition(WAITS_ITSELF) if look.asks_each else "true"
        return (
            LOOK_IN_INDEXES.replace("{waiting}", KNOWN_IN_TIME if is_by_known else NONE_KNOWN)
            .replace("{matching}", matching)
            .replace("{wanted}", f"{self._plain} AND {asked}")
        )

    def _look_in(self, statement: str, begin: int, end: int, limit: int) -> tuple[bool, list[Row]]:
        """Look in the inverted indexes; return whether there is too much in them, and those that match."""
        window = {"from_id": _id(begin), "to_id": _id(end), "most": MANY, "known": MANY_KNOWN, "limit": limit}
        rows = self._database.rows_by_bitmaps(statement, **{**self._given, **window})
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]


def _chosen(wanted: ExecutionFilter, children: bool) -> list[str]:
    """Return conditions for those of the wanted time, statuses and workflow, with an index for each."""
    if children and not (wanted.statuses or wanted.workflow_id):
        return [IN_TIME]
    statuses = ", ".join(f"(SELECT '{status}')" for status in wanted.wanted_statuses)
    roots = CHOSEN_ROOTS.replace("{statuses}", statuses)
    roots += f" AND {OF_ONE_WORKFLOW}" if wanted.workflow_id is not None else ""
    if not children:
        return [roots]
    at_work = [AT_WORK] if {"PENDING", "RUNNING"}.intersection(wanted.wanted_statuses) else []
    return [roots, CHILDREN_AT_REST, *at_work]


def _newest(wanted: ExecutionFilter, selected: str, plain: str) -> str:
    """Return the statement that selects columns of the newest executions without a parent."""
    chosen, first = (OF_STATUS, "e.status") if wanted.workflow_id is None else (OF_WORKFLOW, "e.workflow_id")
    newest = NEWEST.replace("{chosen}", chosen).replace("{first}", first)
    return newest.replace("{selected}", selected).replace("{plain}", plain)


def _number(execution_id: str) -> int:
    return uuid.UUID(execution_id).int


def _id(number: int) -> str:
    return str(uuid.UUID(int=number))
