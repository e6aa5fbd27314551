"""Wait states: which of them are over, and who is to be woken.

A wait is over when its time has come or its events have arrived. It is then claimed, `RESUMING`, and its
node is enqueued; only the commit of the resumed node closes it. A claim is a lease: when nothing comes of
it, because the claimer died or the message was lost, it is claimed again, later each time. Waits of paused
executions are claimed too, to be out of the way of others, but wake nobody before the execution is resumed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.execution_records import DueWait, WokenWait
from workflow_engine.settings import Settings
from workflow_engine.states import WaitType

CLAIM_DUE = """
WITH over AS (
    SELECT w.id, e.status = 'PAUSED' AS is_paused
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'WAITING' AND LEAST(w.resume_at, w.expires_at) <= now()
    ORDER BY LEAST(w.resume_at, w.expires_at)
    LIMIT %(limit)s
    -- Both, and without waiting for either: a commit takes the execution first and its waits after it.
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), abandoned AS (
    SELECT w.id, e.status = 'PAUSED' AS is_paused
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'RESUMING' AND w.claimed_until <= now()
    ORDER BY w.claimed_until
    LIMIT %(limit)s - (SELECT count(*) FROM over)
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), due AS (
    SELECT id, CASE WHEN is_paused THEN 'timesSetAside' ELSE 'claims' END AS counter, is_paused
    FROM (SELECT * FROM over UNION ALL SELECT * FROM abandoned) AS both_kinds
), claimed AS (
    UPDATE {s}.execution_wait_states w SET
        status = 'RESUMING',
        claimed_until = now() + %(lease)s * interval '1 second'
            * power(2, least(coalesce((w.details->>due.counter)::int, 0), 10)),
        details = w.details || jsonb_build_object(
            due.counter, coalesce((w.details->>due.counter)::int, 0) + 1,
            'timedOut', coalesce(
                (w.details->>'timedOut')::boolean, w.wait_type = 'EVENTS' AND w.status = 'WAITING'))
    FROM due WHERE w.id = due.id
    RETURNING w.execution_id, w.node_id, due.is_paused
), asked AS (
    UPDATE {s}.executions e SET attention = true
    FROM (SELECT DISTINCT execution_id FROM claimed WHERE NOT is_paused) c WHERE e.id = c.execution_id
    RETURNING e.id, e.workflow_id, e.workflow_version, e.seq, e.priority
)
SELECT c.execution_id::text, a.workflow_id, a.workflow_version, c.node_id, a.seq, a.priority, now()
FROM claimed c JOIN asked a ON a.id = c.execution_id
"""

NEXT_DUE = """
SELECT least(
    (SELECT LEAST(resume_at, expires_at) FROM {s}.execution_wait_states w
        WHERE status = 'WAITING' AND LEAST(resume_at, expires_at) IS NOT NULL
        ORDER BY LEAST(resume_at, expires_at) LIMIT 1),
    (SELECT claimed_until FROM {s}.execution_wait_states w
        WHERE status = 'RESUMING' AND claimed_until IS NOT NULL
        ORDER BY claimed_until LIMIT 1))
"""

WOKEN = """
SELECT w.wait_type, coalesce((w.details->>'timedOut')::boolean, false), w.received_events,
    extract(epoch FROM now() - (
        SELECT min(first.created_at) FROM {s}.execution_wait_states first
        WHERE first.execution_id = w.execution_id AND first.node_id = w.node_id AND first.visit = w.visit
            -- A retry begins anew: it does not inherit the time that the attempts before it have waited.
            AND first.details->'attempt' IS NOT DISTINCT FROM w.details->'attempt'))::float
FROM {s}.execution_wait_states w
WHERE w.execution_id = %(execution_id)s AND w.node_id = %(node_id)s AND w.status = 'RESUMING'
"""

TAKE_ATTENTION = "UPDATE {s}.executions SET attention = false WHERE id = %(execution_id)s AND attention"

WOKEN_NODES = """
SELECT node_id FROM {s}.execution_wait_states
WHERE execution_id = %(execution_id)s AND status = 'RESUMING'
ORDER BY seq
"""


class Waits:
    """Wait states in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema
        self._lease = settings.claim_lease

    def claim_due(self, limit: int = 200) -> list[DueWait]:
        """Claim waits that are over, and ask for attention to them; those of paused executions are left out.

        Several claimers at once get different ones.
        """
        rows = self._rows(CLAIM_DUE, limit=limit, lease=self._lease)
        return [DueWait(*row) for row in rows]

    def woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        """What a waiting node is to be told, or None if its wait is not over."""
        rows = self._rows(WOKEN, execution_id=execution_id, node_id=node_id)
        if not rows:
            return None
        wait_type, timed_out, received, waited = rows[0]
        if wait_type != WaitType.EVENTS:
            return WokenWait(WaitType(wait_type), "time", {}, waited)
        return WokenWait(WaitType.EVENTS, "timeout" if timed_out else "events", received, waited)

    def take_attention(self, execution_id: str) -> list[str]:
        """The nodes of this execution that were woken; whoever asked for attention has it with this."""
        # Two statements, in this order: one that has to wait for a claimer would not see what it claims.
        self._rows(TAKE_ATTENTION, execution_id=execution_id)
        return [row[0] for row in self._rows(WOKEN_NODES, execution_id=execution_id)]

    def _rows(self, statement: str, **parameters: Any) -> Any:
        with autocommit(self._engine) as connection:
            result = connection.exec_driver_sql(statement.format(s=self._schema), parameters)
            return result.all() if result.returns_rows else []
