"""Figures about many executions: how nodes fare, and which queues have something due.

The ids of executions tell when they were started, so the journal of a day is one stretch of its primary key:
no index serves only these figures. Of very many rows the newest are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from workflow_engine.execution.ids import HIGHEST_ID, LOWEST_ID, id_of
from workflow_engine.execution.states import FINISHED, ExecutionStatus
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

# Rows are compared, so that only the index of that order serves: whatever the planner expects of a status.
COUNTS = """
SELECT wanted.status, (SELECT count(*) FROM (
    SELECT FROM {s}.executions
    WHERE ({order}) >= ({wanted}, {lowest}) AND ({order}) <= ({wanted}, {highest})
        AND parent_execution_id IS NULL
    ORDER BY {order} LIMIT %(limit)s) AS counted)
FROM unnest(%(statuses)s::text[]) AS wanted (status)
""".replace("{lowest}", f"'{LOWEST_ID}'::uuid").replace("{highest}", f"'{HIGHEST_ID}'::uuid")

# Those among them that lists do not show.
HIDDEN = """
SELECT wanted.status, (SELECT count(*) FROM {s}.workflows w CROSS JOIN LATERAL (
    SELECT FROM {s}.executions
    WHERE (workflow_id, status, id) >= (w.id, wanted.status, {lowest})
        AND (workflow_id, status, id) <= (w.id, wanted.status, {highest}) AND parent_execution_id IS NULL
    ORDER BY workflow_id, status, id LIMIT %(limit)s) AS counted
    WHERE w.state = 'ARCHIVED')
FROM unnest(%(statuses)s::text[]) AS wanted (status)
""".replace("{lowest}", f"'{LOWEST_ID}'::uuid").replace("{highest}", f"'{HIGHEST_ID}'::uuid")

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

    def executions(
        self, workflow_id: str | None = None, *, archived: bool = True
    ) -> dict[ExecutionStatus, int]:
        """Count the executions by status, children left out, each up to one more than `COUNTED`.

        Unless `archived` is true, or a workflow is named, finished executions of archived workflows do not
        count where there are no more than `COUNTED`.
        """
        order, values = "status, id", "wanted.status"
        if workflow_id is not None:
            order, values = f"workflow_id, {order}", f"%(workflow_id)s::text, {values}"
        statement = COUNTS.replace("{order}", order).replace("{wanted}", values)
        given = {"workflow_id": workflow_id, "limit": COUNTED + 1}
        rows = self._database.rows(statement, statuses=list(map(str, ExecutionStatus)), **given)
        counts = {ExecutionStatus(status): int(number) for status, number in rows}
        if workflow_id is None and not archived:
            finished = [status.value for status in FINISHED if counts[status] <= COUNTED]
            for status, number in self._database.rows(HIDDEN, statuses=finished, **given):
                counts[ExecutionStatus(status)] -= number
        return {status: number for status, number in counts.items() if number}

    def nodes(self, since: datetime, workflow_id: str | None = None) -> NodeStatistics:
        """Return the figures of the nodes of executions started since a time."""
        rows = self._database.rows(NODES, since=id_of(since), most=MOST_ROWS, workflow_id=workflow_id)
        found = [NodeFigures(*row[:8]) for row in rows]
        return NodeStatistics(found, int(rows[0][8]) if rows else 0, rows[0][9] if rows else None)

    def due_by_queue(self) -> list[DueInQueue]:
        """Return the queues into which something belongs, by name, from the oldest executions."""
        return [DueInQueue(*row) for row in self._database.rows(DUE, most=MOST_DUE)]


def counted(number: int) -> str:
    """Return a count of executions for a reader; it may have stopped at `COUNTED`."""
    return f"{COUNTED:,}+" if number > COUNTED else f"{number:,}"
