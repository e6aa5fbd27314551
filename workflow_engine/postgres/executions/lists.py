"""Lists of executions, the newest first: a page of those for which a filter holds.

By workflow, status and time an index has them in this order. Inverted indexes know no order: of a tag, a
note, a word or an event they tell which executions have it, but not which of these is the newest. So such a
list looks among few executions at a time, and no look reads more than a bounded number of rows:

1. among the newest, in their order, as long as each look fills a good part of the page: that answers for
   what many have;
2. in a sample of the table, always the same pages of it: that tells how many match each condition, and when
   they started;
3. in those indexes, intersected, that by the sample take the least time; each row that they leave is asked
   about the other conditions. Where they leave little they are read for all time, or else in windows of time
   that hold about what is missing, or as much as one look may read, the newest first.

What is read follows from what is there, not from what the planner expects of a value.
"""

from __future__ import annotations

import functools
import itertools
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    SELECT n.id AS newest_id, e.* FROM ({newest}) AS n
    CROSS JOIN LATERAL (SELECT * FROM {s}.executions e WHERE e.id = n.id OFFSET 0) AS e
"""

# Rows are read until the page is full; the ids alone tell where the next look begins.
LOOK_AMONG_NEWEST = """
SELECT (SELECT n.id::text FROM ({newest}) AS n ORDER BY n.id DESC OFFSET %(newest)s - 1 LIMIT 1), {columns}
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
    SELECT e.id, {conditions}
    FROM {s}.executions e TABLESAMPLE SYSTEM ((SELECT 100 * share FROM size)) REPEATABLE (1)
)
SELECT (SELECT share FROM size),
    coalesce((SELECT e.id::text FROM {s}.executions e ORDER BY e.id LIMIT 1), %(to_id)s),
    number, ids, {names}
FROM (VALUES (1)) AS sample (one) LEFT JOIN (
    SELECT count(*) AS number, array_agg(id::text) FILTER (WHERE "time" AND ({rare})) AS ids, {names}
    FROM sampled GROUP BY {names}
) AS groups ON true
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

GOOD_PART, GOOD_PART_OF_CHOSEN = 1 / 4, 1 / 2
"""The parts of a page for which such a look is followed by another."""

SAMPLED = 500 * 8_192
"""Bytes of the table that are read as a sample: whole pages, whose executions started one after another."""

MANY, MANY_KNOWN = 5_000, 10_000
"""Rows that a look in the indexes may read, and waits."""

ENOUGH = 2
"""How many times as many as are missing a window is to hold, by the sample."""

AROUND = 50
"""Of so many of a sample, from several of its pages, it tells how far they are apart."""

PARTS = 4
"""Into how many parts a window is divided that holds too much."""

METADATA, TAGS, TEXT = "metadata", "tags", "text"
"""Conditions with inverted indexes, which are read for all time."""

CHOSEN, TIME, SHOWN, OPEN = "chosen", "time", "shown", "open"
"""Conditions for time with statuses and workflow, for time alone, for the rest, and for what may wait."""

BY_TIME = (CHOSEN, TIME)
"""Conditions whose indexes are read for a window of time."""

OF_ENTRY = {METADATA: 0.1, TAGS: 0.1, TEXT: 0.1, CHOSEN: 0.1, TIME: 0.07}
"""Microseconds to read an entry of the index for a condition."""

OF_ROW, OF_WAIT = 8.0, 5.0
"""Microseconds to read a row that indexes have found, and a wait with its index."""

_Look = frozenset[str]
"""The conditions whose indexes a look reads and intersects; it asks each row about the others."""


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
    shown: _Look
    """The conditions that hold for what the list would show."""
    numbers: Mapping[_Look, int]
    """How many there are for which exactly these conditions hold."""
    ids: Mapping[_Look, Sequence[str]]
    """The ids of those of the wanted time for which one with an inverted index holds."""

    def window_before(self, begin: int, end: int, missing: int) -> _Window:
        """Return a window until `end`, not before `begin`, that holds some more than what is missing."""
        end_id = _id(end)
        older = [each for each in self._wanted if each < end_id]
        number = ENOUGH * missing * self.share
        if len(older) <= max(1, number):
            return _Window(begin, 1.0, end, begin)
        last = min(len(older) - 1, max(AROUND, math.ceil(number)))
        newest, around = _number(older[0]), _number(older[last])
        apart = (newest - around) // last
        # Of a tag that none of the newest has, the window begins among those that have it.
        start = newest if end - newest > 2 * apart else end
        first = max(begin, start - math.ceil(number * apart))
        return _Window(first, (end - first) / (end - begin), start, around)

    @functools.cached_property
    def _wanted(self) -> list[str]:
        """The ids of those that the list would show, the newest first."""
        found = (each for held, ids in self.ids.items() if held >= self.shown for each in ids)
        return sorted(found, reverse=True)

    def best_look(self, rare: Iterable[str], window: _Window) -> _Look:
        """Return the look that takes the least time for this window."""
        by: list[_Look] = [frozenset()]
        for each in rare:
            by += [others | {each} for others in by]
        looks = [each.union(when) for each in by[1:] for when in ((), (CHOSEN,), (TIME,))]
        return min(looks, key=lambda look: self._cost(look, window))

    def times(self, look: _Look, window: _Window) -> int:
        """Return into how many parts a window is to be divided, so that no look reads too much."""
        rows, waits = self._read(look, window)
        return max(1, math.ceil(2 * max(rows / MANY, waits / MANY_KNOWN) / self.share))

    def _cost(self, look: _Look, window: _Window) -> float:
        """Return the microseconds that a look takes for a window, times the share of the sample."""
        rows, waits = self._read(look, window)
        times = self.times(look, window)
        if times > 1 and look.isdisjoint(BY_TIME):
            return math.inf
        entries = sum(
            self._number(frozenset({each})) * OF_ENTRY[each] * (window.part if each in BY_TIME else times)
            for each in look
        )
        return entries + rows * OF_ROW + waits * OF_WAIT

    def _read(self, look: _Look, window: _Window) -> tuple[float, float]:
        """Return how many rows and waits a look reads, in a window unless it is for all time."""
        waits = self._number(frozenset({TEXT, OPEN})) if TEXT in look else 0
        if look.isdisjoint(BY_TIME):
            return self._number(look), waits
        ids = [each for held, ids in self.ids.items() if look <= held for each in ids]
        start, around = _id(window.start), _id(window.around)
        before = sum(around <= each < start for each in ids)
        begun = (window.start - window.begin) / (window.start - window.around)
        return sum(each >= start for each in ids) + begun * before, window.part * waits

    def _number(self, look: _Look) -> int:
        """Return how many there are for which these conditions hold, and maybe others."""
        return sum(number for held, number in self.numbers.items() if look <= held)


class _Window(NamedTuple):
    """A window of time that by a sample has enough of what is wanted."""

    begin: int
    part: float
    """Its part of all time that the list is about."""
    start: int
    """Between here and the end of the window the sample has nothing that is wanted."""
    around: int
    """Between here and `start` it has so much that it tells how far that is apart."""


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
        self._rare = wanted.rare_conditions(WAITS_ITSELF)
        self._is_of_all = children or not (wanted.statuses or wanted.workflow_id)
        self._chosen = _chosen(wanted, children)

    def page(self) -> list[Row]:
        """Return the page."""
        found: list[Row] = []
        before: str = self._given["to_id"]
        good_part = self._limit * (GOOD_PART if self._is_of_all else GOOD_PART_OF_CHOSEN)
        while True:
            last, rows = self._look_among_newest(before, self._limit - len(found))
            found += rows
            if last is None or len(found) >= self._limit:
                return found
            before = last
            if len(rows) < good_part:
                break
        sample = self._sample(before)
        begin, end = max(_number(self._given["from_id"]), _number(sample.oldest)), _number(before)
        return [*found, *(self._look_back(sample, begin, end, len(found)) if begin < end else ())]

    def _look_among_newest(self, before: str, limit: int) -> tuple[str | None, list[Row]]:
        """Return the last of the newest, None if there are not as many, and those of them that match."""
        newest = NEWEST_OF_ALL if self._is_of_all else _newest(self._wanted, "e.id", "true")
        each_itself = f"{_all(self._rare.values())} AND {self._plain}"
        statement = LOOK_AMONG_NEWEST.replace("{rows}", ROWS_OF_ALL if self._is_of_all else ROWS_OF_NEWEST)
        statement = statement.replace("{newest}", newest).replace("{wanted}", each_itself)
        number = max(self._limit, FIRST if self._is_of_all else FIRST_OF_CHOSEN)
        given = {**self._given, "to_id": before, "limit": limit, "newest": number}
        rows = self._database.rows_in_order(statement, **given)
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]

    def _sample(self, before: str) -> _Sample:
        shown = {
            **self._rare,
            CHOSEN: self._chosen,
            TIME: IN_TIME,
            SHOWN: f"e.status = ANY(%(statuses)s) AND {self._plain}",
        }
        conditions = {**shown, OPEN: "e.completed_at IS NULL"} if self._wanted.finds_waits else shown
        named = ", ".join(f'({each}) IS TRUE AS "{name}"' for name, each in conditions.items())
        statement = (
            SAMPLE.replace("{conditions}", named)
            .replace("{names}", ", ".join(f'"{name}"' for name in conditions))
            .replace("{rare}", " OR ".join(f'"{name}"' for name in self._rare))
        )
        rows = self._database.rows_uncompiled(statement, **{**self._given, "to_id": before, "bytes": SAMPLED})
        groups = [(frozenset(itertools.compress(conditions, row[4:])), row[2], row[3]) for row in rows]
        share, oldest = rows[0][:2]
        return _Sample(
            share,
            oldest,
            frozenset(shown),
            {held: number or 0 for held, number, _ in groups},
            {held: ids or () for held, _, ids in groups},
        )

    def _look_back(self, sample: _Sample, begin: int, end: int, found: int) -> Iterator[Row]:
        """Yield what is missing of the page, from what started before `end`."""
        window = sample.window_before(begin, end, self._limit - found)
        look = sample.best_look(self._rare, window)
        statement = self._statement(look)
        is_at_once = look.isdisjoint(BY_TIME)
        longest = -(-(end - window.begin) // sample.times(look, window))
        windows = [(begin if is_at_once else max(window.begin, end - longest), end)]
        enlarged = 1
        while found < self._limit and windows:
            first, last = windows.pop()
            is_cut, rows = self._look_in(statement, first, last, self._limit - found)
            if is_cut and is_at_once:  # the sample has misled
                is_at_once = False
                statement = self._statement(look | {CHOSEN})
            part = -(-(last - first) // PARTS)
            if is_cut and part < last - first:
                windows += [(each, min(each + part, last)) for each in range(first, last, part)]
                continue
            found += len(rows)
            yield from rows
            if not windows and first > begin:
                enlarged *= 2
                missing = (self._limit - found) * enlarged
                window = sample.window_before(begin, first, missing)
                windows = [(max(window.begin, first - longest), first)]

    def _statement(self, look: _Look) -> str:
        """Return the statement of a look; what is known to wait for the text is of its time already."""
        wanted = self._wanted
        noted = _all(each for name, each in self._rare.items() if name in look and name != TEXT)
        named = wanted.indexed_text_conditions() if TEXT in look else ["true"]
        when = self._chosen if CHOSEN in look else IN_TIME if TIME in look else "true"
        conditions = [f"{noted} AND {each} AND {when}" for each in named]
        is_by_known = wanted.finds_waits and TEXT in look
        conditions += [f"{noted} AND {IS_KNOWN}"] if is_by_known else []
        matching = " UNION ALL ".join(
            MATCHING.replace("{matching}", without_values(each)) for each in conditions
        )
        asked = _all(each for name, each in self._rare.items() if name not in look)
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


def _chosen(wanted: ExecutionFilter, children: bool) -> str:
    """Return the condition for those of the wanted time, statuses and workflow; each part has an index."""
    statuses = ", ".join(f"(SELECT '{status}')" for status in wanted.wanted_statuses)
    roots = CHOSEN_ROOTS.replace("{statuses}", statuses)
    roots += f" AND {OF_ONE_WORKFLOW}" if wanted.workflow_id is not None else ""
    if not children:
        return roots
    at_work = [AT_WORK] if {"PENDING", "RUNNING"}.intersection(wanted.wanted_statuses) else []
    parts = " OR ".join(f"({each})" for each in [roots, CHILDREN_AT_REST, *at_work])
    return f"({parts})"


def _all(conditions: Iterable[str]) -> str:
    """Return the condition that all of these hold."""
    return " AND ".join(conditions) or "true"


def _newest(wanted: ExecutionFilter, selected: str, plain: str) -> str:
    """Return the statement that selects columns of the newest executions without a parent."""
    chosen, first = (OF_STATUS, "e.status") if wanted.workflow_id is None else (OF_WORKFLOW, "e.workflow_id")
    newest = NEWEST.replace("{chosen}", chosen).replace("{first}", first)
    return newest.replace("{selected}", selected).replace("{plain}", plain)


def _number(execution_id: str) -> int:
    return uuid.UUID(execution_id).int


def _id(number: int) -> str:
    return str(uuid.UUID(int=number))
