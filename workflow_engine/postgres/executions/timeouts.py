"""Fails executions that take longer than their workflow's `timeout` allows, in any active status.

The timekeepers call it. Like an operator's cancel it takes the fence: a running node is refused when it
commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from workflow_engine.execution.records import FailureStart, FollowUps
from workflow_engine.execution.states import ExecutionStatus, legal_sources
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions.creation import failure_document
from workflow_engine.postgres.executions.follow_ups import follow_ups_of

FAIL_TIMED_OUT = """
WITH timed_out AS (
    {chosen}
    LIMIT %(limit)s
    FOR NO KEY UPDATE OF {locked} SKIP LOCKED
), explained AS (
    SELECT e.id, 'the execution took longer than its timeout' || coalesce(' of ' || coalesce(
        w.children->'start'->>'timeout', v.definition->'settings'->>'timeout') || ' s', '') AS error
    FROM timed_out JOIN {s}.executions e ON e.id = timed_out.id
    JOIN {s}.workflow_versions v ON v.workflow_id = e.workflow_id AND v.version = e.workflow_version
    LEFT JOIN {s}.execution_wait_states w ON w.execution_id = e.parent_execution_id
        AND w.node_id = e.parent_node_id AND w.visit = e.parent_visit AND w.wait_type = 'CHILDREN'
        AND w.seq = e.parent_seq
    WHERE %(starts)s::jsonb ? e.id::text OR NOT ({starts_another})
)
SELECT id::text, ended.follow_ups FROM explained CROSS JOIN LATERAL {s}.end_execution_v1(jsonb_build_object(
    'execution_id', id, 'execution_status', 'FAILED',
    'error', error, 'execution_error', '{"type": "EXECUTION_TIMEOUT"}'::jsonb,
    'event', 'TIMED_OUT', 'actor', 'timekeeper', 'reason', error)
    || CASE WHEN %(starts)s::jsonb ? id::text
        THEN jsonb_build_object('on_failure', %(starts)s::jsonb->id::text) ELSE '{}' END) AS ended
WHERE ended.ended_seq IS NOT NULL
"""

ROOTS = """SELECT e.id FROM {s}.executions e
    WHERE e.expires_at <= now() AND e.status = ANY(%(sources)s) AND e.parent_execution_id IS NULL"""

# The end of a child takes the lock of its parent. With both taken here, and without waiting for either, two
# of these statements cannot wait for each other.
CHILDREN = """SELECT e.id FROM {s}.executions e JOIN {s}.executions p ON p.id = e.parent_execution_id
    WHERE e.expires_at <= now() AND e.status = ANY(%(sources)s)"""

# What an `onFailure` has started starts no other.
STARTS_ANOTHER = """v.definition ? 'onFailure' AND e.body IS NULL AND NOT e.metadata ? 'failureOf'"""

FAIL = FAIL_TIMED_OUT.replace("{starts_another}", STARTS_ANOTHER)
FAIL_ROOTS = FAIL.replace("{chosen}", ROOTS).replace("{locked}", "e")
FAIL_CHILDREN = FAIL.replace("{chosen}", CHILDREN).replace("{locked}", "e, p")

WITH_ON_FAILURE = """
SELECT e.id::text, e.workflow_id, e.workflow_version FROM {s}.executions e
JOIN {s}.workflow_versions v ON v.workflow_id = e.workflow_id AND v.version = e.workflow_version
WHERE e.expires_at <= now() AND e.status = ANY(%(sources)s) AND {starts_another}
ORDER BY e.expires_at LIMIT %(limit)s
""".replace("{starts_another}", STARTS_ANOTHER)

NEXT_DUE = "SELECT expires_at FROM {s}.executions WHERE expires_at IS NOT NULL ORDER BY expires_at LIMIT 1"


SOURCES = sorted(legal_sources(ExecutionStatus.FAILED))


@dataclass(frozen=True)
class Overdue:
    """An execution past its timeout."""

    execution_id: str
    workflow_id: str
    version: int


@dataclass(frozen=True)
class TimedOut:
    """An execution that has failed because it took too long."""

    execution_id: str
    follow_ups: FollowUps | None = None


class ExecutionTimeouts:
    """Ends executions past their timeout. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def with_on_failure(self, limit: int = 200) -> list[Overdue]:
        """Return executions past their timeout whose end as FAILED starts another."""
        rows = self._database.rows(WITH_ON_FAILURE, limit=limit, sources=SOURCES)
        return [Overdue(*row) for row in rows]

    def end(self, starts: Mapping[str, FailureStart] | None = None, limit: int = 200) -> list[TimedOut]:
        """Fail executions past their timeout; return those that this call has ended.

        `starts` says what is started by the end of those that start another, which stay without it.
        """
        documents = {execution_id: failure_document(start) for execution_id, start in (starts or {}).items()}
        encoded = orjson.dumps(documents).decode()
        rows = [
            row
            for statement in (FAIL_ROOTS, FAIL_CHILDREN)
            for row in self._database.rows(statement, limit=limit, sources=SOURCES, starts=encoded)
        ]
        return [TimedOut(execution_id, follow_ups_of(returned)) for execution_id, returned in rows]
