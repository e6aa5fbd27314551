"""Retention: what has ended long ago is removed, in batches that nobody has to wait for.

Each batch is one statement and a transaction of its own, so that an interrupted purge has done part of its
work and a repeated one goes on. Rows that an operator is just bringing back to life are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.settings import Settings

BATCH = 500
"""Executions or events that one statement removes; journals make an execution some dozens of rows."""

# A parent that goes on may still ask for its children. Most have none, and are not to be looked up in a join.
ENDED = """
    e.status IN ('COMPLETED', 'FAILED', 'CANCELLED')
    AND e.completed_at < now() - %(older_than)s * interval '1 second'
    AND (e.parent_execution_id IS NULL OR NOT EXISTS (
        SELECT FROM {s}.executions p WHERE p.id = e.parent_execution_id
        AND p.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')))
"""

UNMATCHED = """
    type = 'EVENT' AND consumed_at IS NULL
    AND created_at < now() - %(event_retention)s * interval '1 second'
"""

# Ids sort by time, so every batch goes on where the one before ended instead of searching from the start.
REMOVE_EXECUTIONS = """
WITH chosen AS (
    SELECT e.id, e.workflow_id, e.idempotency_key FROM {s}.executions e
    WHERE {ended} AND e.id > %(after)s::uuid ORDER BY e.id LIMIT %(batch)s FOR UPDATE OF e SKIP LOCKED
), keys AS (
    DELETE FROM {s}.idempotency_keys k USING chosen
    WHERE k.workflow_id = chosen.workflow_id AND k.key = chosen.idempotency_key
        AND k.execution_id = chosen.id
), removed AS (
    DELETE FROM {s}.executions e USING chosen WHERE e.id = chosen.id RETURNING e.id
)
SELECT count(*), (SELECT id::text FROM chosen ORDER BY id DESC LIMIT 1) FROM removed
"""

REMOVE_EVENTS = """
WITH removed AS (
    DELETE FROM {s}.execution_events WHERE id IN (
        SELECT id FROM {s}.execution_events WHERE {unmatched} LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
    RETURNING id
)
SELECT count(*), NULL FROM removed
"""

COUNT = """
SELECT (SELECT count(*) FROM {s}.executions e WHERE {ended}),
    (SELECT count(*) FROM {s}.execution_events WHERE {unmatched})
"""

BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Purged:
    """How much was removed, or would be."""

    executions: int
    events: int


class Retention:
    """Removes what has ended. Methods may raise `DatabaseUnavailable`; what was removed by then stays so."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema
        self._event_retention = settings.event_retention

    def count(self, older_than: float) -> Purged:
        """What `purge` would remove."""
        return Purged(*self._first(COUNT, older_than=older_than))

    def purge(
        self,
        older_than: float,
        *,
        batch: int = BATCH,
        progress: Callable[[Purged], None] = lambda purged: None,
    ) -> Purged:
        """Remove executions that ended more than `older_than` seconds ago, with all that hangs on them.

        With them go their idempotency keys, which may then start anew; and the events that nothing has
        waited for in `event_retention`. After each batch `progress` is told the sums so far.
        """
        executions = events = 0
        after: str | None = BEFORE_ALL
        while after is not None:
            removed, after = self._first(REMOVE_EXECUTIONS, older_than=older_than, batch=batch, after=after)
            executions += removed
            progress(Purged(executions, events))
        while removed := self._first(REMOVE_EVENTS, batch=batch)[0]:
            events += removed
            progress(Purged(executions, events))
        return Purged(executions, events)

    def _first(self, statement: str, **parameters: Any) -> Any:
        text = statement.replace("{ended}", ENDED).replace("{unmatched}", UNMATCHED)
        given = {"event_retention": self._event_retention, **parameters}
        with autocommit(self._engine) as connection:
            return connection.exec_driver_sql(text.replace("{s}", self._schema), given).one()
