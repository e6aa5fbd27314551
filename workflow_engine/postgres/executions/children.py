"""Child executions: their results for the parent that waits, and what has to be done for them.

The functions in Postgres start and end a child in one transaction with the effect on its parent's wait. This
module does what comes later: it cancels the children of a wait that is over, names those that are to be
restarted, and starts those whose time has come. Each call does one batch, so that any number of children
holds up nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflow_engine.errors import InvalidValue
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.records import EndedChild, FollowUps
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.json_values import decode_jsonb
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions.follow_ups import follow_ups_of

BATCH = 500
"""Children that one statement cancels."""

DUE = """
SELECT execution_id::text, seq FROM {s}.execution_wait_states
WHERE children_due <= now() ORDER BY children_due LIMIT %(limit)s
"""

NEXT_DUE = """
SELECT children_due FROM {s}.execution_wait_states
WHERE children_due IS NOT NULL ORDER BY children_due LIMIT 1
"""

DUE_OF = """
SELECT execution_id::text, seq FROM {s}.execution_wait_states
WHERE execution_id = ANY(%(executions)s::uuid[]) AND children_due IS NOT NULL AND (
    status NOT IN ('WAITING', 'RESUMING') OR (details->>'restarts')::int > 0)
ORDER BY execution_id, seq
"""

TEND = "SELECT {s}.tend_children_v1(%(execution_id)s, %(seq)s, %(lease)s, %(batch)s)"

# Beyond the limit no output is sent, only how much all have come to.
ENDED = """
SELECT parent_index, id::text, status, error, error_details,
    CASE WHEN size <= %(output_limit)s THEN outputs END, size
FROM (
    SELECT c.*, e.outputs, coalesce(sum(octet_length(e.outputs)) OVER (ORDER BY c.parent_index), 0) AS size
    FROM {s}.executions c CROSS JOIN LATERAL (
        SELECT CASE WHEN c.status = 'COMPLETED' AND %(with_outputs)s THEN (
            SELECT jsonb_object_agg(n.node_id, n.output_data ORDER BY n.seq)::text
            FROM {s}.node_executions n
            WHERE n.execution_id = c.id AND n.node_id = ANY(%(ends)s) AND n.superseded_by IS NULL
                AND n.output_data IS NOT NULL) END AS outputs) e
    WHERE c.parent_execution_id = %(execution_id)s AND c.parent_seq = %(seq)s
        AND c.parent_index >= %(first)s AND c.completed_at IS NOT NULL
        AND (NOT %(only_failed)s OR c.status <> 'COMPLETED')
    ORDER BY c.parent_index LIMIT %(most)s
) ended
ORDER BY parent_index
"""

WITH_NODE_IDS = 2
"""How much larger results may be here than as one output, by the ids of the nodes that gave them."""

OF = """
SELECT e.id::text FROM {s}.executions e
WHERE e.parent_execution_id = %(execution_id)s AND e.status = ANY(%(statuses)s) AND e.id > %(after)s
ORDER BY e.id LIMIT %(limit)s
"""

CHILDREN_TOTAL = """CASE WHEN NOT w.children ? 'adapts'
        THEN (w.children->>'first')::int + (w.children->>'total')::int
        ELSE (w.details->>'completed')::int + (w.details->>'failed')::int + (w.details->>'running')::int
            + ceil(((w.children->>'total')::int - (w.details->>'next')::int)
            / coalesce((w.details->>'size')::float8, 1))::int END"""
"""How many children a wait has in all; about how many, if it adapts how many items each of them gets."""

BEFORE_ALL = "00000000-0000-0000-0000-000000000000"

PLACE = """
SELECT e.root_execution_id::text, e.parent_execution_id::text, p.status, coalesce(
    (SELECT w.status = 'WAITING' AND e.parent_index >= (w.children->>'first')::int
        OR w.status NOT IN ('WAITING', 'RESUMING') AND w.children ? 'outlives'
    FROM {s}.execution_wait_states w
    WHERE w.execution_id = e.parent_execution_id AND w.node_id = e.parent_node_id
        AND w.visit = e.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = e.parent_seq), false)
FROM {s}.executions e LEFT JOIN {s}.executions p ON p.id = e.parent_execution_id
WHERE e.id = %(execution_id)s AND e.parent_execution_id IS NOT NULL
"""


@dataclass(frozen=True)
class Tended:
    """What a call has done for the children of a wait."""

    follow_ups: FollowUps | None = None
    cancelled: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()
    """Failed children to restart now."""
    is_done: bool = True
    """False if a further call has more to do."""


@dataclass(frozen=True)
class ParentOf:
    """The place of a child in its tree."""

    root_id: str
    parent_id: str
    parent_status: ExecutionStatus | None
    """None if the parent has been removed."""
    is_awaited: bool
    """The child may be reopened: its parent still waits for it, or never depended on it."""


class Children:
    """The children of executions, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, claim_lease: float) -> None:
        self._database = database
        self._lease = claim_lease

    def due(self, limit: int = 100) -> list[tuple[str, int]]:
        """Return the waits for whose children something is due: execution and journal row."""
        return [(row[0], row[1]) for row in self._database.rows(DUE, limit=limit)]

    def due_of(self, executions: Sequence[str]) -> list[tuple[str, int]]:
        """Return the waits of these executions whose children are to be cancelled or restarted."""
        rows = self._database.rows(DUE_OF, executions=list(executions)) if executions else ()
        return [(row[0], row[1]) for row in rows]

    def tend(self, execution_id: str, seq: int, batch: int = BATCH) -> Tended:
        """Do one batch of what is due for the children of a wait.

        Several callers may do so at a time. Each of them gets children of its own.
        """
        ((returned,),) = self._database.rows(
            TEND, execution_id=execution_id, seq=seq, lease=self._lease, batch=batch
        )
        if returned is None:
            return Tended()
        cancelled, restarts = tuple(returned.get("cancelled", ())), tuple(returned.get("restarts", ()))
        has_more = bool(cancelled) and not returned["have_ended"]
        return Tended(follow_ups_of(returned), cancelled, restarts, is_done=not has_more)

    def ended(
        self,
        execution_id: str,
        seq: int,
        ends: Sequence[str],
        *,
        first: int = 0,
        with_outputs: bool = True,
        only_failed: bool = False,
        most: int | None = None,
        output_limit: int = 2**30,
    ) -> list[EndedChild]:
        """Return the children of a wait that have ended, in their order.

        `first` is the index of the first one wanted, and `ends` are the nodes whose outputs are read. Without
        outputs, or with only the failed ones, less is read. Raises `InvalidValue` if the outputs come to more
        than `output_limit` bytes.
        """
        rows = self._database.rows(
            ENDED,
            execution_id=execution_id,
            seq=seq,
            first=first,
            ends=list(ends),
            with_outputs=with_outputs,
            only_failed=only_failed,
            most=most,
            output_limit=WITH_NODE_IDS * output_limit,
        )
        if rows and (size := int(rows[-1][-1])) > WITH_NODE_IDS * output_limit:
            raise InvalidValue(
                "output",
                f"the results of {len(rows)} children come to {size} bytes; write `collect: none`, and read "
                "them by `client.children(…)`",
            )
        return [
            EndedChild(
                index,
                child_id,
                ExecutionStatus(status),
                decode_jsonb(outputs) if outputs is not None else {},
                error,
                details,
            )
            for index, child_id, status, error, details, outputs, _ in rows
        ]

    def of(
        self, execution_id: str, statuses: Sequence[ExecutionStatus], after: str | None, limit: int = BATCH
    ) -> list[str]:
        """Return ids of children in these statuses, the oldest first, that follow `after`."""
        rows = self._database.rows(
            OF,
            execution_id=checked_id(execution_id),
            statuses=[status.value for status in statuses],
            after=after or BEFORE_ALL,
            limit=limit,
        )
        return [row[0] for row in rows]

    def parent_of(self, execution_id: str) -> ParentOf | None:
        """Return the place of a child in its tree; None for an execution without a parent."""
        row = self._database.first(PLACE, execution_id=execution_id)
        if row is None:
            return None
        root_id, parent_id, status, is_awaited = row
        return ParentOf(root_id, parent_id, status and ExecutionStatus(status), is_awaited)
