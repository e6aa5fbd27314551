"""What people ask about executions: one of them, a list of them, their journal and their result."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.errors import ExecutionNotFound
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus, NodeStatus, SupersededFor, WaitStatus, WaitType

EXECUTION_COLUMNS = """
    e.id::text, e.workflow_id, e.workflow_version, e.trigger_id::text, e.trigger_node_id, e.status, e.seq,
    e.nodes_executed, e.error, e.error_details, e.idempotency_key, e.created_at, e.started_at, e.completed_at,
    e.duration_ms
"""

GET = "SELECT" + EXECUTION_COLUMNS + "FROM {s}.executions e WHERE e.id = %(id)s"

LIST = (
    "SELECT"
    + EXECUTION_COLUMNS
    + """
FROM {s}.executions e
WHERE (%(workflow_id)s::text IS NULL OR e.workflow_id = %(workflow_id)s)
    AND (%(statuses)s::text[] IS NULL OR e.status = ANY(%(statuses)s::text[]))
    AND (%(before)s::uuid IS NULL OR e.id < %(before)s::uuid)
ORDER BY e.id DESC LIMIT %(limit)s
"""
)

COUNT = """
SELECT status, count(*) FROM {s}.executions
WHERE (%(workflow_id)s::text IS NULL OR workflow_id = %(workflow_id)s)
GROUP BY status
"""

JOURNAL = """
SELECT n.seq, n.node_id, n.label, n.type, n.sub_type, n.visit, n.attempt, n.status, n.handles, n.variables,
    n.superseded_by, n.input_data, n.output_data, n.error, n.error_details, n.worker, n.started_at,
    n.completed_at, n.duration_ms, n.superseded_for, (n.retry_details->>'waitMs')::bigint,
    w.wait_type, w.status, w.resume_at, w.expires_at, w.correlation_id, w.details->'events',
    ARRAY(SELECT jsonb_object_keys(w.received_events))
FROM {s}.node_executions n
LEFT JOIN {s}.execution_wait_states w ON w.execution_id = n.execution_id AND w.seq = n.seq
WHERE n.execution_id = %(id)s ORDER BY n.seq
"""

OUTPUTS = """
SELECT DISTINCT ON (node_id) node_id, output_data FROM {s}.node_executions
WHERE execution_id = %(id)s AND node_id = ANY(%(nodes)s) AND superseded_by IS NULL AND output_data IS NOT NULL
ORDER BY node_id, seq DESC
"""


@dataclass(frozen=True)
class Execution:
    """An execution as it was when it was asked for. Times are of the database's clock."""

    id: str
    workflow_id: str
    version: int
    trigger_id: str
    trigger_node_id: str
    status: ExecutionStatus
    seq: int
    nodes_executed: int
    error: str | None
    error_details: dict[str, Any] | None
    idempotency_key: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    result: Any = None
    """With one end node, its output; with several, those that ran by node id. Not filled in lists."""

    @property
    def is_finished(self) -> bool:
        return self.status.is_finished


@dataclass(frozen=True)
class NodeWait:
    """The wait state that a row of the journal opened."""

    type: WaitType
    status: WaitStatus
    resume_at: datetime | None
    expires_at: datetime | None
    correlation_id: str | None
    events: tuple[str, ...]
    """The names of those it waits for."""
    received: tuple[str, ...]
    """The names of those that have arrived."""


@dataclass(frozen=True)
class NodeExecution:
    """A row of the journal."""

    seq: int
    node_id: str
    label: str | None
    type: str
    sub_type: str
    visit: int
    attempt: int
    status: NodeStatus
    handles: tuple[str, ...]
    variables: dict[str, Any] | None
    superseded_by: int | None
    input_data: Any
    output_data: Any
    error: str | None
    error_details: dict[str, Any] | None
    worker: str | None
    started_at: datetime
    completed_at: datetime | None
    duration_ms: int | None
    superseded_for: SupersededFor | None = None
    retry_in_ms: int | None = None
    """Of an attempt that is followed by another: how long that waits."""
    wait: NodeWait | None = None


class ExecutionQueries:
    """Reads executions; changes nothing. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema

    def get(self, execution_id: str) -> Execution:
        """Raises `ExecutionNotFound`."""
        rows = self._rows(GET, id=checked_id(execution_id))
        if not rows:
            raise ExecutionNotFound(execution_id)
        return _execution(rows[0])

    def list(
        self,
        workflow_id: str | None = None,
        statuses: Sequence[ExecutionStatus] = (),
        *,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Execution]:
        """The newest executions first; `before` is the id of the last one of the page before."""
        rows = self._rows(
            LIST,
            workflow_id=workflow_id,
            statuses=[status.value for status in statuses] or None,
            before=checked_id(before) if before else None,
            limit=limit,
        )
        return [_execution(row) for row in rows]

    def count(self, workflow_id: str | None = None) -> dict[ExecutionStatus, int]:
        """How many executions have each status; statuses that none has are left out."""
        return {ExecutionStatus(status): n for status, n in self._rows(COUNT, workflow_id=workflow_id)}

    def journal(self, execution_id: str) -> Sequence[NodeExecution]:
        """The journal's rows in the order they were committed, superseded ones included."""
        return [_node_execution(row) for row in self._rows(JOURNAL, id=checked_id(execution_id))]

    def outputs(self, execution_id: str, nodes: Sequence[str]) -> dict[str, Any]:
        """The outputs of those of the nodes that have one."""
        return dict(self._rows(OUTPUTS, id=checked_id(execution_id), nodes=list(nodes)))

    def _rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        with autocommit(self._engine) as connection:
            return connection.exec_driver_sql(statement.format(s=self._schema), parameters).all()


def checked_id(execution_id: str) -> str:
    """Raises `ExecutionNotFound` for what cannot be the id of an execution."""
    try:
        return str(uuid.UUID(execution_id))
    except (ValueError, AttributeError, TypeError):
        raise ExecutionNotFound(str(execution_id)) from None


def _execution(row: Any) -> Execution:
    columns = list(row)
    columns[5] = ExecutionStatus(columns[5])
    return Execution(*columns)


def _node_execution(row: Any) -> NodeExecution:
    columns, wait = list(row[:21]), row[21:]
    columns[7], columns[8] = NodeStatus(columns[7]), tuple(columns[8])
    columns[19] = SupersededFor(columns[19]) if columns[19] else None
    columns.append(_wait(*wait))
    return NodeExecution(*columns)


def _wait(type: str | None, status: str, *times: Any) -> NodeWait | None:
    if type is None:
        return None
    resume_at, expires_at, correlation_id, events, received = times
    names = tuple(events or ()), tuple(received)
    return NodeWait(WaitType(type), WaitStatus(status), resume_at, expires_at, correlation_id, *names)
