"""Reads executions for clients and operators: one, a list of them, their journal and their result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workflow_engine.errors import ExecutionNotFound
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, SupersededFor, WaitStatus, WaitType
from workflow_engine.postgres.database import Database, Row
from workflow_engine.postgres.executions.children import CHILDREN_TOTAL
from workflow_engine.postgres.executions.filters import ExecutionFilter, statuses_named
from workflow_engine.postgres.executions.lists import EXECUTION_COLUMNS, ExecutionLists

GET = "SELECT" + EXECUTION_COLUMNS + "FROM {s}.executions e WHERE e.id = %(id)s"

COUNT = """
SELECT e.status, count(*) FROM {s}.executions e WHERE {plain} GROUP BY e.status
"""

CHILDREN = """
SELECT {columns} FROM {s}.executions e
LEFT JOIN {s}.executions last ON last.id = %(after)s::uuid
WHERE e.parent_execution_id = %(id)s AND e.status = ANY(%(statuses)s)
    AND (%(node)s::text IS NULL OR e.parent_node_id = %(node)s)
    AND (%(after)s::uuid IS NULL OR (e.parent_seq, e.parent_index) > (last.parent_seq, last.parent_index))
ORDER BY e.parent_seq, e.parent_index LIMIT %(limit)s
""".replace("{columns}", EXECUTION_COLUMNS)

CHILD_COUNTS = """
SELECT c.parent_seq, c.status, count(*) FROM {s}.executions c
WHERE c.parent_execution_id = %(id)s
GROUP BY c.parent_seq, c.status
"""

JOURNAL = """
SELECT n.seq, n.node_id, n.label, n.type, n.sub_type, n.visit, n.attempt, n.status, n.handles,
    CASE WHEN %(with_values)s THEN n.variables END, n.superseded_by,
    CASE WHEN %(with_values)s THEN n.input_data END, CASE WHEN %(with_values)s THEN n.output_data END,
    n.error, n.error_details, n.worker, n.started_at,
    n.completed_at, n.duration_ms, n.superseded_for, (n.retry_details->>'waitMs')::bigint,
    (n.retry_details->>'rule')::int, w.wait_type, w.status, w.resume_at, w.expires_at, w.correlation_id,
    w.details->'events', ARRAY(SELECT jsonb_object_keys(w.received_events)), w.needs, w.needed_until,
    {children_total}
FROM {s}.node_executions n
LEFT JOIN {s}.execution_wait_states w ON w.execution_id = n.execution_id AND w.seq = n.seq
WHERE n.execution_id = %(id)s ORDER BY n.seq
""".replace("{children_total}", CHILDREN_TOTAL)

LOGS = """
SELECT seq, node_id, visit, attempt, status, logs FROM {s}.node_executions
WHERE execution_id = %(id)s AND logs IS NOT NULL AND (%(node)s::text IS NULL OR node_id = %(node)s)
    AND (%(seq)s::int IS NULL OR seq = %(seq)s)
ORDER BY seq
"""

OUTPUTS = """
SELECT DISTINCT ON (node_id) node_id, output_data FROM {s}.node_executions
WHERE execution_id = %(id)s AND node_id = ANY(%(nodes)s) AND superseded_by IS NULL AND output_data IS NOT NULL
ORDER BY node_id, seq DESC
"""

GET_WITH_OUTPUTS = """
SELECT {columns}, CASE WHEN e.status = 'COMPLETED' THEN (
    SELECT jsonb_object_agg(o.node_id, o.output_data) FROM ({outputs}) o) END
FROM {s}.executions e WHERE e.id = %(id)s
""".replace("{columns}", EXECUTION_COLUMNS).replace("{outputs}", OUTPUTS)


@dataclass(frozen=True)
class Execution:
    """An execution as it was when it was read. Times are of the database's clock."""

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
    parent_id: str | None = None
    """The execution that started it, if it is a child."""
    parent_node_id: str | None = None
    """The node of its parent that waits for it."""
    parent_index: int | None = None
    """Its number among the children of that node, from 0."""
    root_id: str | None = None
    """The execution at the top of its tree, if it is a child."""
    depth: int = 0
    """Levels below its root."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its start noted about it."""
    tags: tuple[str, ...] = ()
    breakpoints: tuple[str, ...] = ()
    """The nodes before which it is paused when they become due."""
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
    """The names of the events it waits for."""
    received: tuple[str, ...]
    """The names of the events that have arrived."""
    needs: str | None = None
    """The node type or function that a worker lacked; the wait is for a worker that knows it."""
    needed_until: datetime | None = None
    """When the node fails unless a worker that knows it has run it by then."""
    children: int | None = None
    """How many children it is for."""


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
    """The delay before the next attempt, if there is one."""
    retry_rule: int | None = None
    """The position of the rule that allows it, if the node's `retry` is a list of rules."""
    wait: NodeWait | None = None


@dataclass(frozen=True)
class LogLine:
    """A line that a node has logged."""

    time: str
    """ISO 8601 in UTC, by the clock of its worker."""
    level: str
    logger: str
    message: str
    exception: str | None = None
    """The exception that was logged with it, with its traceback."""


@dataclass(frozen=True)
class NodeLog:
    """What one attempt of a node has logged: the last lines of it."""

    seq: int
    """The row of the journal that the attempt has committed."""
    node_id: str
    visit: int
    attempt: int
    status: NodeStatus
    lines: tuple[LogLine, ...]
    dropped: int
    """The number of lines before these, which were too many to keep."""


class ExecutionQueries:
    """Reads executions; changes nothing. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists = ExecutionLists(database)

    def get(self, execution_id: str) -> Execution:
        """Return an execution. Raises `ExecutionNotFound`."""
        if (row := self._database.first(GET, id=checked_id(execution_id))) is None:
            raise ExecutionNotFound(execution_id)
        return _execution(row)

    def get_with_outputs(self, execution_id: str, nodes: Sequence[str]) -> tuple[Execution, dict[str, Any]]:
        """Return an execution, and if it has completed the outputs of those of these nodes that have one.

        Raises `ExecutionNotFound`.
        """
        row = self._database.first(GET_WITH_OUTPUTS, id=checked_id(execution_id), nodes=list(nodes))
        if row is None:
            raise ExecutionNotFound(execution_id)
        return _execution(row[:-1]), row[-1] or {}

    def list(
        self, wanted: ExecutionFilter, *, children: bool = False, limit: int = 50, before: str | None = None
    ) -> Sequence[Execution]:
        """Return executions, the newest first; `before` is the last id of the previous page.

        Those that other executions have started are left out, unless `children` is true.
        """
        return [_execution(row) for row in self._lists.page(wanted, children, limit, before)]

    def children(
        self,
        execution_id: str,
        node: str | None,
        statuses: Sequence[ExecutionStatus | str] = (),
        *,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Execution]:
        """Return the children of an execution, in the order of their starts."""
        rows = self._database.rows(
            CHILDREN,
            id=checked_id(execution_id),
            node=node,
            statuses=[status.value for status in statuses_named(statuses) or ExecutionStatus],
            after=checked_id(after) if after else None,
            limit=limit,
        )
        return [_execution(row) for row in rows]

    def child_counts(self, execution_id: str) -> dict[int, dict[ExecutionStatus, int]]:
        """Count the children of an execution by status, by the journal row whose wait they belong to."""
        counts: dict[int, dict[ExecutionStatus, int]] = {}
        for seq, status, count in self._database.rows(CHILD_COUNTS, id=checked_id(execution_id)):
            counts.setdefault(seq, {})[ExecutionStatus(status)] = count
        return counts

    def count(self, workflow_id: str | None = None, *, archived: bool = False) -> dict[ExecutionStatus, int]:
        """Count the executions by status, without statuses that none has."""
        wanted = ExecutionFilter(workflow_id, archived=archived)
        statement = COUNT.replace("{plain}", wanted.plain_condition())
        rows = self._database.rows(statement, **wanted.parameters())
        return {ExecutionStatus(status): number for status, number in rows}

    def journal(self, execution_id: str, *, with_values: bool = True) -> Sequence[NodeExecution]:
        """Return the journal's rows in the order of their commits, superseded ones included.

        Without inputs, outputs and variables it still shows what happened, however large they are.
        """
        rows = self._database.rows(JOURNAL, id=checked_id(execution_id), with_values=with_values)
        return [_node_execution(row) for row in rows]

    def logs(
        self, execution_id: str, node: str | None = None, *, seq: int | None = None
    ) -> Sequence[NodeLog]:
        """Return what the attempts of an execution have logged, as far as it was kept, in commit order.

        `node` and `seq` select those of one node, or that of one row.
        """
        return [
            NodeLog(
                seq,
                node_id,
                visit,
                attempt,
                NodeStatus(status),
                tuple(LogLine(**line) for line in logs["lines"]),
                logs["dropped"],
            )
            for seq, node_id, visit, attempt, status, logs in self._database.rows(
                LOGS, id=checked_id(execution_id), node=node, seq=seq
            )
        ]

    def outputs(self, execution_id: str, nodes: Sequence[str]) -> dict[str, Any]:
        """Return the outputs by node id, of those nodes that have one."""
        return dict(self._database.rows(OUTPUTS, id=checked_id(execution_id), nodes=list(nodes)))


def _execution(row: Row) -> Execution:
    columns = list(row)
    columns[5] = ExecutionStatus(columns[5])
    columns[20:23] = columns[20] or {}, tuple(columns[21] or ()), tuple(columns[22] or ())
    return Execution(*columns)


def _node_execution(row: Row) -> NodeExecution:
    columns, wait = list(row[:22]), row[22:]
    columns[7], columns[8] = NodeStatus(columns[7]), tuple(columns[8])
    columns[19] = SupersededFor(columns[19]) if columns[19] else None
    columns.append(_wait(*wait))
    return NodeExecution(*columns)


def _wait(type: str | None, status: str, *times: Any) -> NodeWait | None:
    if type is None:
        return None
    resume_at, expires_at, correlation_id, events, received, needs, needed_until, children = times
    names = tuple(events or ()), tuple(received)
    type_and_status = WaitType(type), WaitStatus(status)
    return NodeWait(
        *type_and_status, resume_at, expires_at, correlation_id, *names, needs, needed_until, children
    )
