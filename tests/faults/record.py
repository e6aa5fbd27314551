"""What happened on a stage: the effects that nodes wrote down, and the journal and executions in Postgres.

Both carry times of the same machine, in seconds since the epoch. Every figure of the table is computed from
here, and none from what the suite meant to cause.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import psycopg2
import psycopg2.extras

from faults.effects import Effect, EffectKind, effects_in
from faults.workload import BRIEF, LAST, PARCELS, SOURCES, nodes_of, parcels_of, undisturbed_result

EXECUTIONS = """
SELECT id::text, workflow_id, status, seq, trigger_data, error_details ->> 'type' AS error_type, error,
    extract(epoch FROM created_at)::float AS created_at, extract(epoch FROM completed_at)::float AS ended_at
FROM executions ORDER BY id
"""
JOURNAL = """
SELECT execution_id::text, seq, node_id, attempt, status, output_data AS output, worker,
    -- A node that waits or will be retried is not complete; its commit is a move all the same.
    extract(epoch FROM coalesce(completed_at, started_at + duration_ms * interval '1 millisecond'))::float
        AS committed_at
FROM node_executions ORDER BY execution_id, seq
"""


@dataclass(frozen=True)
class ExecutionRow:
    id: str
    workflow_id: str
    status: str
    seq: int
    trigger_data: Mapping[str, Any]
    error_type: str | None
    created_at: float
    ended_at: float | None
    error: str | None = None

    @property
    def number(self) -> int:
        return int(self.trigger_data["number"])


@dataclass(frozen=True)
class JournalRow:
    execution_id: str
    seq: int
    node_id: str
    attempt: int
    status: str
    output: Any
    worker: str | None
    committed_at: float | None

    @property
    def process(self) -> int:
        """The pool process that committed it; 0 for the trigger's row, which `start` writes."""
        return int((self.worker or "").rpartition(":")[2] or 0)

    def __str__(self) -> str:
        return f"{self.seq} {self.node_id} attempt {self.attempt} {self.status} by {self.worker}"


def query(database_url: str, statement: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Return the rows of a statement, executed on a connection of its own. Raises psycopg2.Error."""
    url = database_url.replace("+psycopg2", "")
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection:
        connection.autocommit = True
        with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(statement, parameters)
            return [dict(row) for row in cursor] if cursor.description else []


class Record:
    """The effects, the journal and the executions, read at one time."""

    def __init__(
        self, executions: Iterable[ExecutionRow], journal: Iterable[JournalRow], effects: Sequence[Effect]
    ) -> None:
        self.executions = {row.id: row for row in executions}
        self.journal: dict[str, list[JournalRow]] = defaultdict(list)
        for row in journal:
            self.journal[row.execution_id].append(row)
        self.effects = effects

    @classmethod
    def read(cls, database_url: str, folder: Path) -> Self:
        """Read everything written so far. Raises psycopg2.Error."""
        executions = [ExecutionRow(**row) for row in query(database_url, EXECUTIONS)]
        journal = [JournalRow(**row) for row in query(database_url, JOURNAL)]
        return cls(executions, journal, effects_in(folder))

    # -- the two promises ------------------------------------------------------------------------------------

    def not_completed(self, started: Iterable[str]) -> list[str]:
        """Return executions that exist, or that a `start` returned, and that did not complete."""
        wanted = {*started, *(row.id for row in self.executions.values() if row.workflow_id in LAST)}
        completed = {row.id for row in self.executions.values() if row.status == "COMPLETED"}
        return sorted(wanted - completed)

    @property
    def committed_twice(self) -> list[JournalRow]:
        """Rows of the journal that repeat an earlier row, for any reason."""
        seen: set[tuple[str, str, int, str]] = set()
        again = []
        for row in self._rows():
            what = (row.execution_id, row.node_id, row.attempt, row.status)
            if what in seen:
                again.append(row)
            seen.add(what)
        return again

    @property
    def wrong_results(self) -> list[str]:
        """Executions that completed with another result, or by other nodes, than an undisturbed run."""
        return [
            row.id
            for row in self.executions.values()
            if row.status == "COMPLETED" and row.workflow_id in LAST and not self._is_undisturbed(row)
        ]

    def _is_undisturbed(self, row: ExecutionRow) -> bool:
        ran = {entry.node_id: entry.output for entry in self.journal[row.id] if entry.status == "COMPLETED"}
        parcels = [undisturbed_result(BRIEF, number) for number in parcels_of(row.number)]
        return (
            ran.keys() & SOURCES.keys() == nodes_of(row.workflow_id, row.number)
            and ran.get(LAST[row.workflow_id]) == undisturbed_result(row.workflow_id, row.number)
            and ran.get(PARCELS, parcels) == parcels
        )

    # -- what was done more than once ------------------------------------------------------------------------

    @property
    def repeated_effects(self) -> int:
        """Side effects beyond the first of each node."""
        done = Counter(effect.key for effect in self.effects if effect.kind is EffectKind.DONE)
        return sum(count - 1 for count in done.values())

    @property
    def interrupted(self) -> int:
        """Runs of nodes that began and did not end."""
        kinds = Counter(effect.kind for effect in self.effects)
        return kinds[EffectKind.ENTERED] - kinds[EffectKind.DONE] - kinds[EffectKind.FAILED]

    @property
    def entered_after_commit(self) -> list[Effect]:
        """Runs that began when the journal had the result of that node already."""
        committed = {
            (row.execution_id, row.node_id): row.committed_at
            for row in self._rows()
            if row.status in ("COMPLETED", "FAILED") and row.committed_at is not None
        }
        return [
            effect
            for effect in self.entered
            if effect.at > committed.get((effect.execution_id, effect.node_id), float("inf"))
        ]

    # -- how long things stood still -------------------------------------------------------------------------

    @cached_property
    def entered(self) -> list[Effect]:
        return [effect for effect in self.effects if effect.kind is EffectKind.ENTERED]

    @cached_property
    def _entered_by_execution(self) -> Mapping[str, Sequence[float]]:
        times: dict[str, list[float]] = defaultdict(list)
        for effect in self.entered:
            times[effect.execution_id].append(effect.at)
        return times

    def moved_again(self, execution_id: str, after: float) -> float | None:
        """Return when an execution next entered a node or committed one, a wait for instance, or ended.

        None if it never did.
        """
        row = self.executions.get(execution_id)
        times = [
            *self._entered_by_execution.get(execution_id, ()),
            *(row.committed_at for row in self.journal[execution_id]),
            row.ended_at if row else None,
        ]
        return min((at for at in times if at is not None and at > after), default=None)

    def delays_of(self, pairs: Iterable[tuple[str, float]]) -> list[float]:
        """Return the seconds until executions moved again; each is paired with when a fault hit it.

        An execution that is hit again before it moves counts once, from the first hit.
        """
        longest: dict[tuple[str, float], float] = {}
        for execution_id, at in pairs:
            if (moved := self.moved_again(execution_id, at)) is not None:
                place = execution_id, moved
                longest[place] = max(longest.get(place, 0.0), moved - at)
        return sorted(longest.values())

    def under_way(self, at: float) -> list[str]:
        """Return the executions that had begun and not ended at a time."""
        return [
            row.id
            for row in self.executions.values()
            if row.created_at < at and (row.ended_at is None or row.ended_at > at)
        ]

    def _rows(self) -> Iterator[JournalRow]:
        for rows in self.journal.values():
            yield from rows
