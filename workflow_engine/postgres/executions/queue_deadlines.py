"""Until when nodes with a `queueTimeout` have to begin.

The commit or start that sends such a node to its queue notes it, and the process that begins the node forgets
it. So a deadline that has passed belongs to a node that has stood too long, for any process that finds it.
"""

from __future__ import annotations

from collections.abc import Mapping

from workflow_engine.postgres.database import Database
from workflow_engine.postgres.values import to_jsonb

LEASE = 2.0
"""Seconds after which a node is looked at again, if the process that was to fail it has not done so."""

BEGIN = """
WITH begun AS (
    DELETE FROM {s}.queue_deadlines
    WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND (expires_at IS NULL OR expires_at > now())
    RETURNING 1)
SELECT EXISTS (
    SELECT FROM {s}.queue_deadlines WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND expires_at <= now())
"""

ADD = "SELECT {s}.begin_queue_time_v1(%(execution_id)s, %(timeouts)s::jsonb)"

CLAIM = """
UPDATE {s}.queue_deadlines d SET look_at = now() + %(lease)s * interval '1 second'
FROM (
    SELECT execution_id, node_id FROM {s}.queue_deadlines WHERE look_at <= now()
    ORDER BY look_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE d.execution_id = due.execution_id AND d.node_id = due.node_id
RETURNING d.execution_id::text, d.node_id
"""

FORGET = """
DELETE FROM {s}.queue_deadlines WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
RETURNING node_id
"""

NEXT_DUE = "SELECT look_at FROM {s}.queue_deadlines WHERE look_at IS NOT NULL ORDER BY look_at LIMIT 1"


class QueueDeadlines:
    """Until when nodes have to begin, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, execution_id: str, timeouts: Mapping[str, float]) -> None:
        """Note nodes that were sent to their queues, each with the seconds that it may stand there."""
        self._database.rows(ADD, execution_id=execution_id, timeouts=to_jsonb(dict(timeouts)))

    def begin(self, execution_id: str, node_id: str) -> bool:
        """Forget a node that begins. Return False if it has stood too long, and may not begin."""
        ((is_late,),) = self._database.rows(BEGIN, execution_id=execution_id, node_id=node_id)
        return not is_late

    def claim(self, limit: int) -> list[tuple[str, str]]:
        """Return nodes that have stood too long: execution and node. After `LEASE` another call may."""
        rows = self._database.rows(CLAIM, limit=limit, lease=LEASE)
        return [(execution_id, node_id) for execution_id, node_id in rows]

    def forget(self, execution_id: str, node_id: str) -> None:
        """Forget a node that will not begin."""
        self._database.rows(FORGET, execution_id=execution_id, node_id=node_id)
