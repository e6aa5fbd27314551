"""What Postgres shows about executions that do not move: their waits, pauses, children and kept events.

Each statement reads any number of executions by an index, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.execution.ids import HIGHEST_ID, LOWEST_ID
from workflow_engine.execution.states import ExecutionStatus, WaitStatus, WaitType
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions.children import CHILDREN_TOTAL

COLUMNS = """
    e.id::text, concat_ws('#', e.workflow_id, e.body) AS workflow_id, e.workflow_version, e.status, e.seq,
    e.nodes_executed, e.error, e.error_details, e.format, e.queue, e.priority,
    coalesce(e.due_queue, e.queue) AS due_queue, e.created_at,
    greatest(e.updated_at, e.recovered_at) AS moved_at,
    coalesce(e.recovered_at > e.updated_at, false) AS is_rescued,
    CASE WHEN e.recoveries_seq = e.seq THEN e.recoveries ELSE 0 END AS recoveries,
    e.completed_at, now()
"""

GET = "SELECT" + COLUMNS + "FROM {s}.executions e WHERE e.id = %(id)s"

# The oldest of each status, from the index of that order, and of these the oldest; only those rows are read.
# Rows are compared, because with `status = …` the planner would rather read all executions by id. A child is
# found through its root.
OLDEST = (
    """
SELECT {columns} FROM (
    SELECT each.id FROM unnest(%(statuses)s::text[]) AS wanted (status) CROSS JOIN LATERAL (
        SELECT id FROM {s}.executions
        WHERE (status, id) >= (wanted.status, '{lowest}'::uuid)
            AND (status, id) < (wanted.status, '{highest}'::uuid)
            AND parent_execution_id IS NULL
        ORDER BY status, id LIMIT %(limit)s
    ) AS each ORDER BY each.id LIMIT %(limit)s
) AS oldest JOIN {s}.executions e ON e.id = oldest.id
ORDER BY e.id
""".replace("{columns}", COLUMNS)
    .replace("{lowest}", LOWEST_ID)
    .replace("{highest}", HIGHEST_ID)
)

# Each execution by the index: the planner would rather start several processes that read all waits. Of the
# journal only what is shown is read: the failure before a retry, and who lacked the code of a node.
WAITS = """
SELECT w.execution_id::text, w.node_id, w.seq, w.wait_type, w.status, w.created_at, w.resume_at, w.expires_at,
    w.claimed_until, (w.details->>'wokenAt')::timestamptz, w.correlation_id, w.details->'events',
    w.details->'required', ARRAY(SELECT jsonb_object_keys(w.received_events)), w.needs, w.needed_until,
    w.details->'running', (w.children->>'first')::int + (w.details->>'completed')::int, w.details->'failed',
    {children_total}, n.worker,
    n.attempt, n.error, n.error_details
FROM unnest(%(ids)s::uuid[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT * FROM {s}.execution_wait_states w
    WHERE w.execution_id = asked.id AND w.status IN ('WAITING', 'RESUMING') OFFSET 0
) AS w
LEFT JOIN {s}.node_executions n ON n.execution_id = w.execution_id
    AND n.seq = CASE WHEN w.wait_type = 'RETRY' OR w.needs IS NOT NULL THEN w.seq END
ORDER BY w.execution_id, w.seq
""".replace("{children_total}", CHILDREN_TOTAL)

PAUSES = """
SELECT DISTINCT ON (execution_id) execution_id::text, created_at, actor, reason
FROM {s}.execution_events
WHERE execution_id = ANY(%(ids)s::uuid[]) AND type = 'PAUSED'
ORDER BY execution_id, created_at DESC
"""

# The first time since the last commit: a worker records each of its own.
REQUEUES = """
SELECT DISTINCT ON (h.execution_id) h.execution_id::text, h.created_at, h.actor, h.reason
FROM {s}.execution_events h JOIN {s}.executions e ON e.id = h.execution_id
WHERE h.execution_id = ANY(%(ids)s::uuid[]) AND h.type = 'REQUEUED' AND h.seq = e.seq
ORDER BY h.execution_id, h.created_at
"""

OPEN_CHILD = """
SELECT c.id::text, c.status FROM {s}.executions c
WHERE c.parent_execution_id = %(id)s AND c.parent_seq = %(seq)s AND c.completed_at IS NULL
ORDER BY c.parent_index LIMIT 1
"""

# Those of the same correlation id by an index; those of the same name among the latest that are kept.
KEPT_EVENTS = """
SELECT e.name, e.correlation_id, e.execution_id::text, e.created_at FROM (
    (SELECT * FROM {s}.execution_events
    WHERE correlation_id = %(correlation_id)s AND type = 'EVENT' AND consumed_at IS NULL
    ORDER BY name, created_at DESC LIMIT 100)
    UNION
    (SELECT * FROM (
        SELECT * FROM {s}.execution_events WHERE type = 'EVENT' AND consumed_at IS NULL
        ORDER BY GREATEST(created_at, released_at) DESC, id DESC LIMIT 1000
    ) AS latest WHERE name = ANY(%(names)s))
) AS e
WHERE NOT (e.name = ANY(%(names)s) AND e.correlation_id IS NOT DISTINCT FROM %(correlation_id)s)
ORDER BY e.created_at DESC LIMIT 50
"""

STATUSES, WAIT_TYPES, WAIT_STATUSES = (
    {each.value: each for each in ExecutionStatus},
    {each.value: each for each in WaitType},
    {each.value: each for each in WaitStatus},
)
"""By name: an overview of many executions looks up thousands of them, which their classes do slowly."""


@dataclass(frozen=True)
class ExecutionFacts:
    """An execution as it was when it was read. Times are of the database's clock."""

    id: str
    workflow_id: str
    version: int
    status: ExecutionStatus
    seq: int
    nodes_executed: int
    error: str | None
    error_details: Mapping[str, Any] | None
    format: int
    queue: str
    """The queue of its nodes that name none."""
    priority: int | None
    due_queue: str
    """The queue of the node that is due next."""
    created_at: datetime
    moved_at: datetime
    """When it was last committed or rescued."""
    is_rescued: bool
    """It was rescued, and has not moved since."""
    recoveries: int
    """How often it was rescued since its last commit."""
    completed_at: datetime | None
    read_at: datetime


@dataclass(frozen=True)
class WaitFacts:
    """An open wait of an execution, and the journal row that opened it."""

    execution_id: str
    node_id: str
    seq: int
    type: WaitType
    status: WaitStatus
    since: datetime
    resume_at: datetime | None
    expires_at: datetime | None
    claimed_until: datetime | None
    woken_at: datetime | None
    """When a timekeeper woke it last."""
    correlation_id: str | None
    events: Sequence[str]
    """The names of the events it waits for."""
    required: Any
    """`all`, `any`, or the names of those that are needed."""
    received: Sequence[str]
    needs: str | None
    """The node type or function that a worker lacked."""
    needed_until: datetime | None
    running: int
    completed: int
    failed: int
    total: int
    """Of its children."""
    worker: str | None
    """The worker whose commit opened it."""
    attempt: int
    error: str | None
    error_details: Mapping[str, Any] | None

    @property
    def is_over(self) -> bool:
        """A worker has been asked to run the node."""
        return self.status is WaitStatus.RESUMING

    @property
    def ends_at(self) -> datetime | None:
        """When it is over, whatever happens; None if it has no end."""
        return min((each for each in (self.resume_at, self.expires_at) if each is not None), default=None)

    @property
    def missing_events(self) -> list[str]:
        return [name for name in self.events if name not in self.received]


@dataclass(frozen=True)
class Pause:
    """Who paused an execution, when and why."""

    at: datetime
    actor: str | None
    reason: str | None


@dataclass(frozen=True)
class Requeued:
    """The first return of a message to its queue since the last commit."""

    at: datetime
    worker: str | None
    reason: str | None


@dataclass(frozen=True)
class KeptEvent:
    """An event that no wait has taken."""

    name: str
    correlation_id: str | None
    execution_id: str | None
    sent_at: datetime


class Diagnostics:
    """Reads why executions do not move; changes nothing. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def execution(self, execution_id: str) -> ExecutionFacts | None:
        """Return one execution; None if there is none of this id."""
        row = self._database.first(GET, id=execution_id)
        return None if row is None else _execution(row)

    def oldest(self, limit: int) -> list[ExecutionFacts]:
        """Return the oldest executions that have not ended, children left out."""
        statuses = [status.value for status in ExecutionStatus if not status.is_finished]
        return [_execution(row) for row in self._database.rows(OLDEST, statuses=statuses, limit=limit)]

    def waits(self, execution_ids: Sequence[str]) -> dict[str, list[WaitFacts]]:
        """Return the open waits of each of these executions that has any, in the order of their commits."""
        found: dict[str, list[WaitFacts]] = {}
        for row in self._database.rows(WAITS, ids=list(execution_ids)):
            wait = _wait(row)
            found.setdefault(wait.execution_id, []).append(wait)
        return found

    def pauses(self, execution_ids: Sequence[str]) -> dict[str, Pause]:
        """Return the last pause of each of these executions that was ever paused."""
        return {row[0]: Pause(*row[1:]) for row in self._database.rows(PAUSES, ids=list(execution_ids))}

    def requeues(self, execution_ids: Sequence[str]) -> dict[str, Requeued]:
        """Return the first requeue since the last commit, of each of these executions that has one."""
        return {row[0]: Requeued(*row[1:]) for row in self._database.rows(REQUEUES, ids=list(execution_ids))}

    def open_child(self, execution_id: str, seq: int) -> tuple[str, ExecutionStatus] | None:
        """Return the first child that the wait of this journal row is still for, and its status."""
        row = self._database.first(OPEN_CHILD, id=execution_id, seq=seq)
        return None if row is None else (row[0], ExecutionStatus(row[1]))

    def kept_events(self, names: Sequence[str], correlation_id: str | None) -> list[KeptEvent]:
        """Return kept events that share a name or the correlation id with a wait, but not both."""
        rows = self._database.rows(KEPT_EVENTS, names=list(names), correlation_id=correlation_id)
        return [KeptEvent(*row) for row in rows]


def _execution(row: Sequence[Any]) -> ExecutionFacts:
    columns = list(row)
    columns[3] = STATUSES[columns[3]]
    return ExecutionFacts(*columns)


def _wait(row: Sequence[Any]) -> WaitFacts:
    columns = list(row)
    columns[3], columns[4] = WAIT_TYPES[columns[3]], WAIT_STATUSES[columns[4]]
    columns[11] = tuple(columns[11] or ())
    columns[13] = tuple(columns[13])
    for position in (16, 17, 18, 19):
        columns[position] = int(columns[position] or 0)
    columns[21] = columns[21] or 1
    return WaitFacts(*columns)
