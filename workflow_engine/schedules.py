"""Scheduled triggers: which are due, and starting an execution exactly once for each due time.

Any number of workers may look at once. Claiming a trigger is a lease that only saves them work; what makes a
due time start one execution is the idempotency key, `trigger id:due time`. The trigger moves on to its next
time after the start was written: whoever dies in between leaves it due, and the next one finds the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.errors import (
    BackingServiceUnavailable,
    IdempotencyConflict,
    InvalidValue,
    TriggerDataInvalid,
    WorkflowNotFound,
)
from workflow_engine.nodes.scheduler import SCHEDULED_FOR, SchedulerConfig
from workflow_engine.settings import Settings

log = logging.getLogger(__name__)

LEASE = 30
"""Seconds a claimed trigger is left to who claimed it."""

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
RETURNING t.id::text, t.workflow_id, t.node_id, t.config, t.next_due, now()
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

Start = Callable[[str, str, dict[str, Any], str], object]
"""Starts an execution: `(workflow_id, trigger_node_id, data, idempotency_key)`."""


@dataclass(frozen=True)
class DueStart:
    """A trigger that is due; `next_due` and `now` are times of the database."""

    trigger_id: str
    workflow_id: str
    node_id: str
    config: dict[str, Any]
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


def next_due(config: SchedulerConfig, after: datetime) -> datetime | None:
    """The first due time later than `after`, in UTC; None once the schedule has ended."""
    return config.schedule.next_after(after)


def time_to_fire(
    config: SchedulerConfig, first: datetime, now: datetime, grace: timedelta
) -> datetime | None:
    """Of the due times from `first` on, the one to fire next; it lies after `now` if none is to be fired yet.

    A time is missed once it is over by more than `grace`. With catchUp `skip` missed times are passed over,
    with `latest` all but the last time that has come, with `all` none. None if the schedule has ended.
    """
    match config.catch_up:
        case "all":
            return first
        case "latest":
            return config.schedule.last_until(now, first=first)
        case "skip":
            return first if now - first <= grace else next_due(config, now - grace)


class Schedules:
    """Scheduled triggers in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema
        self._grace = timedelta(seconds=settings.schedule_grace)

    def claim_due(self, limit: int = 100) -> list[DueStart]:
        """Lease up to `limit` triggers that are due, the longest overdue first."""
        parameters = {"limit": limit, "lease": LEASE}
        with autocommit(self._engine) as connection:
            rows = connection.exec_driver_sql(CLAIM.format(s=self._schema), parameters).all()
        return sorted((DueStart(*row) for row in rows), key=lambda due: due.next_due)

    def fire_due(self, start: Start, *, limit: int = 100) -> int:
        """Start an execution for every due time that has come; how many were started, about `limit` at most.

        An execution that was started for this time before counts as started. A time whose start is refused
        for good is logged and passed; any other trouble with one trigger leaves it due and the others
        unharmed. Raises `BackingServiceUnavailable`, after which everything is still due.
        """
        fired = 0
        while fired < limit and (claimed := self.claim_due(limit - fired)):
            for due in claimed:
                try:
                    fired += self._fire(due, start)
                except BackingServiceUnavailable:
                    raise
                except Exception:
                    log.exception("Trigger %s of %s could not be fired", due.node_id, due.workflow_id)
        return fired

    def list(self) -> list[ScheduledTrigger]:
        """The scheduled triggers of the current versions, by workflow and node."""
        with autocommit(self._engine) as connection:
            rows = connection.exec_driver_sql(LIST.format(s=self._schema)).all()
        return [ScheduledTrigger(*row) for row in rows]

    def _fire(self, due: DueStart, start: Start) -> bool:
        config = SchedulerConfig.model_validate(due.config)
        time = time_to_fire(config, due.next_due, due.now, self._grace)
        if time != due.next_due:
            log.warning(
                "Trigger %s of %s missed its times from %s on; catchUp is %s, so %s is next",
                due.node_id,
                due.workflow_id,
                due.next_due,
                config.catch_up,
                time or "none",
            )
        if time is None or time > due.now:
            self._move_on(due, time)
            return False
        started = _start(due, time, config, start)
        self._move_on(due, next_due(config, time))
        return started

    def _move_on(self, due: DueStart, time: datetime | None) -> None:
        """Only from the time that was claimed: a deployment or somebody faster may have moved it already."""
        parameters = {"id": due.trigger_id, "due": due.next_due, "next_due": time}
        with autocommit(self._engine) as connection:
            connection.exec_driver_sql(MOVE_ON.format(s=self._schema), parameters)


def _start(due: DueStart, time: datetime, config: SchedulerConfig, start: Start) -> bool:
    scheduled_for = time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    try:
        start(
            due.workflow_id,
            due.node_id,
            {SCHEDULED_FOR: scheduled_for, **config.data},
            f"{due.trigger_id}:{scheduled_for}",
        )
    except IdempotencyConflict:
        pass  # it was started with the data of the version before
    except (InvalidValue, TriggerDataInvalid, WorkflowNotFound) as refusal:
        log.error("Trigger %s of %s started nothing for %s: %s", due.node_id, due.workflow_id, time, refusal)
        return False
    return True
