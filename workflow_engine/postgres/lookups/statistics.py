"""Figures about many executions: how nodes fare, and which queues have something due.

The ids of executions tell when they were started, so the journal of a day is one stretch of its primary key:
no index serves only these figures. Of very many rows the newest are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from workflow_engine.execution.ids import id_of
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.postgres.database import Database

MOST_ROWS = 100_000
"""Journal rows that one question reads."""

COUNTED = 10_000
"""Executions of one status that are counted; a page says that there are more."""

MOST_DUE = 10_000
"""Executions that are looked at for the queues."""

NODES = """
WITH sample AS MATERIALIZED (
    SELECT n.execution_id, n.node_id, n.status, n.duration_ms, n.completed_at FROM {s}.node_executions n
    WHERE n.execution_id >= %(since)s::uuid ORDER BY n.execution_id DESC, n.seq DESC LIMIT %(most)s
)
SELECT concat_ws('#', e.workflow_id, e.body), s.node_id,
    count(*) FILTER (WHERE s.status = 'COMPLETED'), count(*) FILTER (WHERE s.status = 'FAILED'),
    count(*) FILTER (WHERE s.status = 'RETRYING'),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY s.duration_ms),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY s.duration_ms), max(s.duration_ms),
    sum(count(*)) OVER (), min(min(e.created_at)) OVER ()
FROM sample s JOIN {s}.executions e ON e.id = s.execution_id
WHERE %(workflow_id)s::text IS NULL OR e.workflow_id = %(workflow_id)s
GROUP BY 1, 2 ORDER BY 1, min(s.completed_at) NULLS LAST
"""

COUNTS = """
SELECT wanted.status, count(*) FROM unnest(%(statuses)s::text[]) AS wanted (status) CROSS JOIN LATERAL (
    SELECT FROM {s}.executions
    WHERE status = wanted.status AND parent_execution_id IS NULL
        AND (%(workflow_id)s::text IS NULL OR workflow_id = %(workflow_id)s)
    LIMIT %(limit)s
) AS e
GROUP BY wanted.status
"""

DUE = """
SELECT coalesce(d.due_queue, d.queue), count(*), min(d.updated_at)
FROM (SELECT due_queue, queue, updated_at FROM {s}.executions
    WHERE status IN ('PENDING', 'RUNNING') ORDER BY id LIMIT %(most)s) d
GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class NodeFigures:
    """What the attempts of one node have come to. Times are in milliseconds."""

    workflow_id: str
    node_id: str
    completed: int
    failed: int
    retried: int
    median_ms: float | None
    p95_ms: float | None
    longest_ms: float | None

    @property
    def failure_rate(self) -> float:
        """The share of attempts that failed."""
        attempts = self.completed + self.failed + self.retried
        return (self.failed + self.retried) / attempts if attempts else 0.0


@dataclass(frozen=True)
class NodeStatistics:
    """The figures of all nodes, by workflow and in the order in which they first ended."""

    nodes: list[NodeFigures]
    rows: int
    since: datetime | None
    """The start of the oldest execution that was read."""

    @property
    def is_sample(self) -> bool:
        return self.rows >= MOST_ROWS


@dataclass(frozen=True)
class DueInQueue:
    """The executions whose next node belongs into a queue; those that run a node are counted too."""

    queue: str
    executions: int
    oldest: datetime
    """When the one that has not moved for the longest time moved last."""


class Statistics:
    """Reads figures. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def executions(self, workflow_id: str | None = None) -> dict[ExecutionStatus, int]:
        """Count the executions by status, children left out, each up to one more than `COUNTED`."""
        statuses = [status.value for status in ExecutionStatus]
        rows = self._database.rows(COUNTS, workflow_id=workflow_id, statuses=statuses, limit=COUNTED + 1)
        return {ExecutionStatus(status): number for status, number in rows}

    def nodes(self, since: datetime, workflow_id: str | None = None) -> NodeStatistics:
        """Return the figures of the nodes of executions started since a time."""
        rows = self._database.rows(NODES, since=id_of(since), most=MOST_ROWS, workflow_id=workflow_id)
        found = [NodeFigures(*row[:8]) for row in rows]
        return NodeStatistics(found, int(rows[0][8]) if rows else 0, rows[0][9] if rows else None)

    def due_by_queue(self) -> list[DueInQueue]:
        """Return the queues into which something belongs, by name, from the oldest executions."""
        return [DueInQueue(*row) for row in self._database.rows(DUE, most=MOST_DUE)]
