"""Scheduled triggers in Postgres: which are due, who serves each of them, and when it is due next.

Any number of workers may look at once. A claim is a lease that saves the others the work; no promise depends
on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.postgres.database import Database

LEASE = 30
"""Seconds for which other workers leave a claimed trigger alone."""

CLAIM = """
WITH due AS (
    SELECT id FROM {s}.triggers
    WHERE active AND next_due <= now() AND (claimed_until IS NULL OR claimed_until <= now())
    ORDER BY next_due LIMIT %(limit)s
    -- NO KEY: a start refers to its trigger, and must not wait for us.
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {s}.triggers t SET claimed_until = now() + make_interval(secs => %(lease)s)
FROM due WHERE t.id = due.id
RETURNING t.id::text, t.workflow_id, t.node_id, t.config, t.queue, t.next_due, now()
"""

MOVE_ON = """
UPDATE {s}.triggers SET next_due = %(next_due)s, claimed_until = NULL
WHERE id = %(id)s AND active AND next_due = %(due)s
"""

NEXT_DUE = """
SELECT next_due FROM {s}.triggers
-- What is claimed is left out: should its claimer die, the look after the lease finds it.
WHERE active AND next_due IS NOT NULL AND (claimed_until IS NULL OR claimed_until <= now())
ORDER BY next_due LIMIT 1
"""

LIST = """
SELECT workflow_id, node_id, config->>'cron', coalesce(config->>'timezone', 'UTC'),
    coalesce(config->>'catchUp', 'skip'), next_due
FROM {s}.triggers WHERE active AND sub_type = 'scheduler' ORDER BY workflow_id, node_id
"""


@dataclass(frozen=True)
class DueStart:
    """A trigger that is due; `next_due` and `now` are times of the database."""

    trigger_id: str
    workflow_id: str
    node_id: str
    config: dict[str, Any]
    queue: str
    """That of the workflow's deployment: the timekeeper that starts it may have another."""
    next_due: datetime
    now: datetime


@dataclass(frozen=True)
class ScheduledTrigger:
    """A scheduled trigger in a list; `next_due` is None once its schedule has ended."""

    workflow_id: str
    node_id: str
    cron: str
    timezone: str
    catch_up: str
    next_due: datetime | None


class Triggers:
    """Scheduled triggers. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_due(self, limit: int = 100) -> list[DueStart]:
        """Lease up to `limit` triggers that are due, the longest overdue first."""
        rows = self._database.rows(CLAIM, limit=limit, lease=LEASE)
        return sorted((DueStart(*row) for row in rows), key=lambda due: due.next_due)

    def move_on(self, due: DueStart, time: datetime | None) -> None:
        """Set when a claimed trigger is due next; None if never again.

        Do nothing if a deployment or another worker has moved it since it was claimed.
        """
        self._database.rows(MOVE_ON, id=due.trigger_id, due=due.next_due, next_due=time)

    def list(self) -> list[ScheduledTrigger]:
        """Return the scheduled triggers of the current versions, by workflow and node."""
        return [ScheduledTrigger(*row) for row in self._database.rows(LIST)]
