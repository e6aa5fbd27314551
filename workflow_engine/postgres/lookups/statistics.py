"""Figures about many executions: how nodes fare, and which queues have something due.

The ids of executions tell when they were started, so the journal of a day is one stretch of its primary key,
and no index serves only these figures. Of very many rows the newest are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from workflow_engine.execution.ids import id_of
from workflow_engine.execution.states import FINISHED, ExecutionStatus
from workflow_engine.postgres.database import Database

MOST_ROWS = 5_000
"""Journal rows that one question reads: as many as take a few hundredths of a second."""

MOST_EXECUTIONS = 500
"""Executions of one workflow whose journals one question reads."""

COUNTED = 10_000
"""Executions of one status that are counted; a page says that there are more."""

MOST_DUE = 10_000
"""Executions that are looked at for the queues."""

NODES = """
WITH sample AS MATERIALIZED ({sample}),
owners AS MATERIALIZED (
    SELECT e.id, concat_ws('#', e.workflow_id, e.body) AS workflow_id, e.created_at
    FROM (SELECT DISTINCT execution_id FROM sample) AS found
    JOIN {s}.executions e ON e.id = found.execution_id
)
SELECT o.workflow_id, s.node_id,
    count(*) FILTER (WHERE s.status = 'COMPLETED'), count(*) FILTER (WHERE s.status = 'FAILED'),
    count(*) FILTER (WHERE s.status = 'RETRYING'),
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY s.duration_ms), max(s.duration_ms),
    sum(count(*)) OVER (), (SELECT count(*) FROM owners), (SELECT min(created_at) FROM owners)
FROM sample s JOIN owners o ON o.id = s.execution_id
GROUP BY 1, 2 ORDER BY 1, min(s.completed_at) NULLS LAST
"""

SAMPLE = """
    SELECT execution_id, node_id, status, duration_ms, completed_at FROM {s}.node_executions
    WHERE execution_id >= %(since)s::uuid ORDER BY execution_id DESC, seq DESC LIMIT %(rows)s
"""

NEWEST_OF_WORKFLOW = """
    (SELECT id FROM {s}.executions
    WHERE workflow_id = ANY(ARRAY[%(workflow_id)s::text]) AND status = wanted.status
        AND id >= %(since)s::uuid AND {family}
    ORDER BY workflow_id DESC, id DESC LIMIT %(executions)s)
"""

ROOTS = "parent_execution_id IS NULL"
CHILDREN_AT_REST = "parent_execution_id IS NOT NULL AND status NOT IN ('PENDING', 'RUNNING')"

# Of one workflow, children included: the newest of each status, from the indexes of that order.
SAMPLE_OF_WORKFLOW = """
    SELECT n.* FROM (
        SELECT e.id FROM unnest(%(statuses)s::text[]) AS wanted (status)
        CROSS JOIN LATERAL ({roots} UNION ALL {children}) AS e
        ORDER BY e.id DESC LIMIT %(executions)s
    ) AS e
    CROSS JOIN LATERAL (
        SELECT execution_id, node_id, status, duration_ms, completed_at FROM {s}.node_executions
        WHERE execution_id = e.id
    ) AS n
    LIMIT %(rows)s
""".replace("{roots}", NEWEST_OF_WORKFLOW.replace("{family}", ROOTS)).replace(
    "{children}", NEWEST_OF_WORKFLOW.replace("{family}", CHILDREN_AT_REST)
)

# With an order, and `= ANY` of one that keeps it, so that only the index of that order serves.
COUNTS = """
SELECT wanted.status, (SELECT count(*) FROM (
    SELECT FROM {s}.executions WHERE {chosen} AND parent_execution_id IS NULL
    ORDER BY {first}, id LIMIT %(limit)s) AS counted)
FROM unnest(%(statuses)s::text[]) AS wanted (status)
"""
OF_STATUS = "status = ANY(ARRAY[wanted.status])"
OF_WORKFLOW = "workflow_id = ANY(ARRAY[%(workflow_id)s::text]) AND status = wanted.status"

# Those among them that lists do not show.
HIDDEN = """
SELECT wanted.status, (SELECT count(*) FROM {s}.workflows w CROSS JOIN LATERAL (
    SELECT FROM {s}.executions
    WHERE workflow_id = ANY(ARRAY[w.id]) AND status = wanted.status AND parent_execution_id IS NULL
    ORDER BY workflow_id, id LIMIT %(limit)s) AS counted
    WHERE w.state = 'ARCHIVED')
FROM unnest(%(statuses)s::text[]) AS wanted (status)
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
    is_sample: bool
    """There are more than were read."""


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
        self, workflow_id: str | None = None, *, archived: bool = True, most: int = COUNTED
    ) -> dict[ExecutionStatus, int]:
        """Count the executions by status, children left out, each up to one more than `most`.

        Unless `archived` is true, or a workflow is named, finished executions of archived workflows do not
        count where there are no more than that.
        """
        chosen, first = (OF_STATUS, "status") if workflow_id is None else (OF_WORKFLOW, "workflow_id")
        statement = COUNTS.replace("{chosen}", chosen).replace("{first}", first)
        given = {"workflow_id": workflow_id, "limit": most + 1}
        rows = self._database.rows(statement, statuses=list(map(str, ExecutionStatus)), **given)
        counts = {ExecutionStatus(status): int(number) for status, number in rows}
        if workflow_id is None and not archived:
            finished = [status.value for status in FINISHED if counts[status] <= most]
            for status, number in self._database.rows(HIDDEN, statuses=finished, **given):
                counts[ExecutionStatus(status)] -= number
        return {status: number for status, number in counts.items() if number}

    def nodes(self, since: datetime, workflow_id: str | None = None) -> NodeStatistics:
        """Return the figures of the nodes of executions started since a time."""
        sample = SAMPLE if workflow_id is None else SAMPLE_OF_WORKFLOW
        rows = self._database.rows_uncompiled(
            NODES.replace("{sample}", sample),
            since=id_of(since),
            rows=MOST_ROWS,
            executions=MOST_EXECUTIONS,
            statuses=[status.value for status in ExecutionStatus],
            workflow_id=workflow_id,
        )
        if not rows:
            return NodeStatistics([], 0, None, False)
        found = [NodeFigures(*[*row[:5], *(row[5] or (None, None)), row[6]]) for row in rows]
        read, executions, oldest = rows[0][7:]
        is_sample = read >= MOST_ROWS or (workflow_id is not None and executions >= MOST_EXECUTIONS)
        return NodeStatistics(found, int(read), oldest, is_sample)

    def due_by_queue(self) -> list[DueInQueue]:
        """Return the queues into which something belongs, by name, from the oldest executions."""
        return [DueInQueue(*row) for row in self._database.rows(DUE, most=MOST_DUE)]


def counted(number: int, most: int = COUNTED) -> str:
    """Return a count of executions for a reader; it may have stopped at `most`."""
    return f"{most:,}+" if number > most else f"{number:,}"
