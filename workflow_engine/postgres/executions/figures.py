"""Figures about all executions together: how many there are, what is due, and for how long.

Each is read from the beginning of an index and counts no further than `MOST`. So it takes the same time
however much has piled up.
"""

from __future__ import annotations

from dataclasses import dataclass

from workflow_engine.execution.ids import HIGHEST_ID, LOWEST_ID
from workflow_engine.execution.records import FORMAT
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.postgres.database import Database

MOST = 50_000
"""Rows of one kind that are counted."""

# Rows are compared, so that the index of that order serves, whatever the planner expects of a status.
STATUSES = """
SELECT wanted.status, (SELECT count(*) FROM (
    SELECT FROM {s}.executions e
    WHERE (e.status, e.id) >= (wanted.status, '{lowest}'::uuid)
        AND (e.status, e.id) <= (wanted.status, '{highest}'::uuid) AND e.parent_execution_id IS NULL
    ORDER BY e.status, e.id LIMIT %(most)s) AS counted)
FROM unnest(%(statuses)s::text[]) AS wanted (status)
""".replace("{lowest}", LOWEST_ID).replace("{highest}", HIGHEST_ID)

WAITS = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(due)), 0)::float
FROM (
    SELECT LEAST(resume_at, expires_at) AS due FROM {s}.execution_wait_states
    WHERE status = 'WAITING' AND LEAST(resume_at, expires_at) <= now()
    ORDER BY LEAST(resume_at, expires_at) LIMIT %(most)s) AS over
"""

SCHEDULES = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(next_due)), 0)::float
FROM (
    SELECT next_due FROM {s}.triggers
    WHERE active AND next_due IS NOT NULL AND next_due <= now() ORDER BY next_due LIMIT %(most)s) AS behind
"""

LIMITED = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(arrived_at)), 0)::float
FROM (SELECT arrived_at FROM {s}.limit_slots WHERE is_in_line LIMIT %(most)s) AS lines
"""

QUEUES = """
SELECT queue, array_agg(DISTINCT priority), count(*), extract(epoch FROM now() - min(moved_at))::float
FROM (
    SELECT coalesce(due_queue, queue) AS queue,
        coalesce(due_priority, priority, %(node_priority)s) AS priority,
        greatest(updated_at, recovered_at) AS moved_at
    FROM {s}.executions
    WHERE status IN ('PENDING', 'RUNNING') AND format <= %(format)s ORDER BY id LIMIT %(most)s) AS active
GROUP BY queue ORDER BY queue
"""


@dataclass(frozen=True)
class Late:
    """What is due and has not been served yet."""

    count: int
    seconds: float
    """Since the first of them became due; 0 if there are none."""


@dataclass(frozen=True)
class ActiveQueue:
    """A queue with executions of which a node is due or running."""

    name: str
    priorities: tuple[int, ...]
    """Those of their messages."""
    executions: int
    still_for: float
    """Seconds since the one that has not moved for longest did."""


@dataclass(frozen=True)
class Figures:
    """All figures, read one after the other."""

    statuses: dict[ExecutionStatus, int]
    """Executions that have not ended, by status, children left out."""
    waits: Late
    """Waits that are over, and that no timekeeper has claimed."""
    schedules: Late
    limited: Late
    """Executions and nodes that stand in line for a slot of a limit, and for how long the first does."""
    queues: tuple[ActiveQueue, ...]


class ExecutionFigures:
    """Reads the figures; changes nothing."""

    def __init__(self, database: Database, *, node_priority: int) -> None:
        self._database = database
        self._node_priority = node_priority

    def read(self) -> Figures:
        """Return the figures of this moment. Raises `DatabaseUnavailable`."""
        statuses = self._database.rows(
            STATUSES, statuses=[each.value for each in ExecutionStatus if not each.is_finished], most=MOST
        )
        (waits,) = self._database.rows(WAITS, most=MOST)
        (schedules,) = self._database.rows(SCHEDULES, most=MOST)
        (limited,) = self._database.rows(LIMITED, most=MOST)
        queues = self._database.rows(QUEUES, node_priority=self._node_priority, format=FORMAT, most=MOST)
        return Figures(
            {ExecutionStatus(status): count for status, count in statuses},
            Late(*waits),
            Late(*schedules),
            Late(*limited),
            tuple(
                ActiveQueue(name, tuple(priorities), count, seconds)
                for name, priorities, count, seconds in queues
            ),
        )
