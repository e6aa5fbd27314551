"""The one statement by which operators move executions, and what it is worked out from.

The statement is guarded by the status the execution was seen in and, where the journal was consulted, by
its fence. It moves the execution, supersedes journal rows, closes and reopens waits, releases the events
that superseded waits consumed and leaves a row in `execution_events`, or does none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from workflow_engine.database import autocommit, to_jsonb
from workflow_engine.errors import ExecutionNotFound
from workflow_engine.execution_queries import checked_id
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus, NodeStatus, SupersededFor
from workflow_engine.superseding import visits_after
from workflow_engine.walk import JournalEntry

READ = """
SELECT e.status, e.fence::text, e.workflow_id, e.workflow_version, e.trigger_node_id,
    n.seq, n.node_id, n.visit, n.attempt, n.status, n.handles,
    coalesce((n.retry_details->>'waitMs')::bigint > 0, false), n.superseded_for
FROM {s}.executions e
LEFT JOIN {s}.node_executions n ON n.execution_id = e.id AND %(with_journal)s
WHERE e.id = %(execution_id)s
ORDER BY n.seq
"""

# A retry or rerun takes a number of the journal for itself: the one by which rows are superseded. A wait
# that was woken keeps `claimed_until` when it is closed, so that it is known for woken when reopened.
MOVE = """
WITH moved AS (
    UPDATE {s}.executions SET
        status = CASE WHEN %(status)s = 'RUNNING' AND started_at IS NULL THEN 'PENDING' ELSE %(status)s END,
        workflow_version = %(version)s,
        fence = CASE WHEN %(takes_fence)s THEN gen_random_uuid() ELSE fence END,
        seq = seq + %(takes_seq)s::int,
        completed_at = CASE WHEN %(is_finished)s THEN now() END,
        duration_ms = CASE WHEN %(is_finished)s THEN
            (extract(epoch FROM now() - coalesce(started_at, now())) * 1000)::bigint END,
        error = NULL,
        error_details = NULL,
        -- What goes on by a retry or rerun has the whole of its timeout again.
        expires_at = CASE WHEN %(takes_seq)s THEN now() + interval '1 second' * (
                SELECT (v.definition->'settings'->>'timeout')::float FROM {s}.workflow_versions v
                WHERE v.workflow_id = executions.workflow_id AND v.version = %(version)s)
            ELSE expires_at END,
        updated_at = now()
    WHERE id = %(execution_id)s AND status = %(before)s AND fence = coalesce(%(fence)s::uuid, fence)
    RETURNING id, seq, status
), superseded AS (
    UPDATE {s}.node_executions n SET superseded_by = moved.seq, superseded_for = %(superseded_for)s
    FROM moved WHERE n.execution_id = moved.id AND n.seq = ANY(%(superseded)s::int[])
), closed AS (
    UPDATE {s}.execution_wait_states w SET status = 'CANCELLED', resumed_at = now(), resumed_by = %(actor)s
    FROM moved
    WHERE w.execution_id = moved.id AND w.status IN ('WAITING', 'RESUMING')
        AND (%(is_finished)s OR w.seq = ANY(%(superseded)s::int[]))
), reopened AS (
    UPDATE {s}.execution_wait_states w SET
        status = CASE WHEN w.status = 'RESUMING' OR w.claimed_until IS NOT NULL THEN 'RESUMING'
            ELSE 'WAITING' END,
        claimed_until = CASE WHEN w.status = 'RESUMING' OR w.claimed_until IS NOT NULL THEN now() END,
        resumed_at = NULL,
        resumed_by = NULL
    FROM moved
    WHERE w.execution_id = moved.id AND w.status IN ('CANCELLED', 'RESUMING')
        AND w.seq = ANY(%(waiting)s::int[])
), released AS (
    -- What a superseded wait consumed is kept for the wait that takes its place.
    UPDATE {s}.execution_events e SET consumed_at = NULL, seq = NULL
    FROM moved
    WHERE e.execution_id = moved.id AND e.type = 'EVENT' AND e.seq = ANY(%(superseded)s::int[])
), told AS (
    -- The time at which the row was had: moves that wait for each other are then told in their order.
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
    SELECT id, %(event)s, seq, %(actor)s, %(reason)s, %(details)s::jsonb, clock_timestamp() FROM moved
)
SELECT seq, status FROM moved
"""

EVENTS = """
SELECT id::text, type, name, correlation_id, payload, seq, actor, reason, created_at
FROM {s}.execution_events WHERE execution_id = %(execution_id)s ORDER BY created_at, seq
"""

SELECT = """
SELECT e.id::text FROM {s}.executions e
WHERE status = ANY(%(statuses)s)
    AND (%(workflow_id)s::text IS NULL OR workflow_id = %(workflow_id)s)
    AND (%(older_than)s::float IS NULL OR created_at < now() - %(older_than)s * interval '1 second')
ORDER BY e.id
"""


@dataclass(frozen=True)
class ExecutionEvent:
    """A row of `execution_events`: what an operator did, or an event that was sent to the execution."""

    id: str
    type: str
    name: str | None
    correlation_id: str | None
    payload: Any
    seq: int | None
    actor: str | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True)
class Standing:
    """An execution as it was read. Without its journal, `journal` and `visits` are empty."""

    execution_id: str
    status: ExecutionStatus
    fence: str
    workflow_id: str
    version: int
    trigger_node_id: str
    journal: list[JournalEntry]
    visits: dict[str, int]


@dataclass(frozen=True)
class Change:
    """What a move writes."""

    status: ExecutionStatus
    event: str
    """The type of its row in `execution_events`."""
    takes_fence: bool = False
    """A node that is being run is refused when it commits."""
    fence: str | None = None
    """The fence that must still hold, where the change was worked out from the journal."""
    version: int | None = None
    superseded: Sequence[JournalEntry] = ()
    superseded_for: SupersededFor | None = None
    waiting: Sequence[int] = ()
    """Journal rows whose waits are open from now on."""
    details: dict[str, Any] = field(default_factory=dict)


class OperatorMoves:
    """Reads and moves executions in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema

    def read(self, execution_id: str, *, with_journal: bool) -> Standing:
        """Where an execution stands. Raises `ExecutionNotFound`."""
        rows = self._rows(READ, execution_id=checked_id(execution_id), with_journal=with_journal)
        if not rows:
            raise ExecutionNotFound(execution_id)
        status, fence, workflow_id, version, trigger_node_id = rows[0][:5]
        entries = [(_entry(row[5:12]), row[12]) for row in rows if row[5] is not None]
        rerun = [entry for entry, reason in entries if reason == SupersededFor.RERUN]
        return Standing(
            execution_id=checked_id(execution_id),
            status=ExecutionStatus(status),
            fence=fence,
            workflow_id=workflow_id,
            version=version,
            trigger_node_id=trigger_node_id,
            journal=[entry for entry, reason in entries if reason is None],
            visits=visits_after({}, rerun),
        )

    def write(
        self, standing: Standing, change: Change, *, actor: str | None, reason: str | None
    ) -> tuple[int, ExecutionStatus] | None:
        """The `seq` and status after the move; None if the execution has moved since it was read."""
        rows = self._rows(
            MOVE,
            execution_id=standing.execution_id,
            before=standing.status.value,
            fence=change.fence,
            status=change.status.value,
            is_finished=change.status.is_finished,
            takes_fence=change.takes_fence,
            takes_seq=change.superseded_for is not None,
            version=change.version or standing.version,
            superseded=[row.seq for row in change.superseded],
            superseded_for=change.superseded_for.value if change.superseded_for else None,
            waiting=list(change.waiting),
            event=change.event,
            details=to_jsonb(change.details or None),
            actor=actor,
            reason=reason,
        )
        return (rows[0][0], ExecutionStatus(rows[0][1])) if rows else None

    def events(self, execution_id: str) -> list[ExecutionEvent]:
        """The events of an execution, oldest first; none for one that does not exist."""
        return [ExecutionEvent(*row) for row in self._rows(EVENTS, execution_id=checked_id(execution_id))]

    def select(
        self, statuses: Sequence[ExecutionStatus], workflow_id: str | None, older_than: float | None
    ) -> list[str]:
        """Ids of the executions in one of these statuses, the oldest first."""
        wanted = [status.value for status in statuses]
        rows = self._rows(SELECT, statuses=wanted, workflow_id=workflow_id, older_than=older_than)
        return [row[0] for row in rows]

    def _rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        with autocommit(self._engine) as connection:
            return connection.exec_driver_sql(statement.format(s=self._schema), parameters).all()


def _entry(columns: Sequence[Any]) -> JournalEntry:
    seq, node_id, visit, attempt, status, handles, waits = columns
    return JournalEntry(seq, node_id, visit, attempt, NodeStatus(status), tuple(handles), waits)
