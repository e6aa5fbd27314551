"""Executions that take longer than their workflow's `timeout` allows: they are failed, wherever they stand.

The timekeepers look for them. Like an operator's cancel it is one guarded statement, which takes the fence:
a node that runs meanwhile is refused when it commits.
"""

from __future__ import annotations

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.settings import Settings

END_OVERDUE = """
WITH overdue AS (
    SELECT id FROM {s}.executions
    WHERE expires_at <= now() AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
), ended AS (
    UPDATE {s}.executions e SET
        status = 'FAILED', fence = gen_random_uuid(), attention = false, completed_at = now(),
        updated_at = now(),
        duration_ms = (extract(epoch FROM now() - coalesce(e.started_at, e.created_at)) * 1000)::bigint,
        error = 'the execution took longer than its timeout of '
            || (v.definition->'settings'->>'timeout') || ' s',
        error_details = '{{"type": "EXECUTION_TIMEOUT"}}'
    FROM overdue, {s}.workflow_versions v
    WHERE e.id = overdue.id AND v.workflow_id = e.workflow_id AND v.version = e.workflow_version
    RETURNING e.id, e.seq, e.error
), closed AS (
    UPDATE {s}.execution_wait_states w SET status = 'CANCELLED', resumed_at = now()
    FROM ended WHERE w.execution_id = ended.id AND w.status IN ('WAITING', 'RESUMING')
), told AS (
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason)
    SELECT id, 'TIMED_OUT', seq, 'timekeeper', error FROM ended
)
SELECT id::text FROM ended
"""


NEXT_DUE = """
SELECT expires_at FROM {s}.executions
WHERE expires_at IS NOT NULL AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
ORDER BY expires_at LIMIT 1
"""


class Overdue:
    """Ends executions past their timeout. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema

    def end(self, limit: int = 200) -> list[str]:
        """Fail executions past their timeout; the ids of those that this call has ended."""
        with autocommit(self._engine) as connection:
            rows = connection.exec_driver_sql(END_OVERDUE.format(s=self._schema), {"limit": limit}).all()
        return [row[0] for row in rows]
