"""Triggers in Postgres: which may start something, which schedules are due, and when they are due next.

Any number of workers may look at once. A claim is a lease that saves the others the work; no promise depends
on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from workflow_engine.errors import TriggerNotFound
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.execution.states import TriggerState, WorkflowState
from workflow_engine.json_values import storable_text
from workflow_engine.nodes.trigger.scheduler import NODE_TYPE as SCHEDULER
from workflow_engine.nodes.trigger.scheduler import SchedulerConfig
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.workflows.history import record

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
UPDATE {s}.triggers SET next_due = %(next_due)s, claimed_until = NULL,
    state = CASE WHEN state = 'ERROR' AND %(fired)s THEN 'ACTIVE' ELSE state END
WHERE id = %(id)s AND active AND next_due = %(due)s
"""

# Repeated failures are one line of the history.
FAIL = """
WITH failed AS (
    UPDATE {s}.triggers t SET state = 'ERROR', state_by = 'timekeeper', state_reason = %(reason)s,
        state_since = CASE WHEN t.state = 'ERROR' THEN t.state_since ELSE now() END
    FROM (SELECT id, state FROM {s}.triggers WHERE id = %(id)s FOR NO KEY UPDATE) before
    WHERE t.id = before.id AND t.state <> 'PAUSED'
    RETURNING t.workflow_id, t.node_id, before.state
)
INSERT INTO {s}.workflow_events (workflow_id, node_id, type, actor, reason)
SELECT workflow_id, node_id, 'TRIGGER_FAILED', 'timekeeper', %(reason)s FROM failed WHERE state <> 'ERROR'
"""

TRIGGER = """
SELECT t.state, t.sub_type, t.config, w.state, clock_timestamp()
FROM {s}.workflows w JOIN {s}.triggers t ON t.workflow_id = w.id AND t.node_id = %(node_id)s AND t.active
WHERE w.id = %(id)s
FOR NO KEY UPDATE
"""

SET_STATE = """
UPDATE {s}.triggers SET state = %(state)s, state_since = now(), state_by = %(actor)s,
    state_reason = %(reason)s, next_due = %(next_due)s, claimed_until = NULL
WHERE workflow_id = %(id)s AND node_id = %(node_id)s
"""

SET_DUE = """
UPDATE {s}.triggers SET next_due = %(next_due)s WHERE workflow_id = %(id)s AND node_id = %(node_id)s
"""

NODES = "SELECT node_id FROM {s}.triggers WHERE workflow_id = %(id)s AND active"

NEXT_DUE = """
SELECT next_due FROM {s}.triggers
-- What is claimed is left out: should its claimer die, the look after the lease finds it.
WHERE active AND next_due IS NOT NULL AND (claimed_until IS NULL OR claimed_until <= now())
ORDER BY next_due LIMIT 1
"""

ALL = """
SELECT t.workflow_id, t.node_id, t.sub_type, t.state, t.state_since, t.state_by, t.state_reason, t.next_due,
    w.state, t.config
FROM {s}.triggers t JOIN {s}.workflows w ON w.id = t.workflow_id
WHERE t.active AND CASE WHEN %(workflow_id)s::text IS NULL THEN w.state <> 'ARCHIVED'
    ELSE w.id = %(workflow_id)s END
ORDER BY t.workflow_id, t.node_id
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
    cron: str | None
    """None for a schedule of a single time."""
    timezone: str
    catch_up: str
    next_due: datetime | None
    state: TriggerState = TriggerState.ACTIVE
    state_reason: str | None = None
    workflow_state: WorkflowState = WorkflowState.ACTIVE
    at: str | None = None
    """The single time at which it fires."""


@dataclass(frozen=True)
class DeployedTrigger:
    """A trigger of the current version of a workflow."""

    workflow_id: str
    node_id: str
    sub_type: str
    state: TriggerState
    state_since: datetime | None
    state_by: str | None
    state_reason: str | None
    next_due: datetime | None
    """Of a schedule that may start something and has not ended."""
    workflow_state: WorkflowState
    config: dict[str, Any]


@dataclass(frozen=True)
class TriggerMove:
    """The result of an operation on a trigger."""

    workflow_id: str
    node_id: str
    state_before: TriggerState
    state: TriggerState


def first_due(config: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return when the schedule of this config is due next; None if never again."""
    return SchedulerConfig.model_validate(config).schedule.next_after(now)


class Triggers:
    """Triggers and their schedules. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_due(self, limit: int = 100) -> list[DueStart]:
        """Lease up to `limit` triggers that are due, the longest overdue first."""
        rows = self._database.rows(CLAIM, limit=limit, lease=LEASE)
        return sorted((DueStart(*row) for row in rows), key=lambda due: due.next_due)

    def move_on(self, due: DueStart, time: datetime | None, *, fired: bool = False) -> None:
        """Set when a claimed trigger is due next; None if never again.

        One that has `fired` is not in error any more. Do nothing if a deployment, an operator or another
        worker has moved it since it was claimed.
        """
        self._database.rows(MOVE_ON, id=due.trigger_id, due=due.next_due, next_due=time, fired=fired)

    def fail(self, due: DueStart, reason: str) -> None:
        """Put a trigger in ERROR with the reason; it stays due at its times."""
        self._database.rows(FAIL, id=due.trigger_id, reason=shorten(storable_text(reason)))

    def set_state(
        self,
        workflow_id: str,
        node_id: str,
        state: Literal[TriggerState.ACTIVE, TriggerState.PAUSED],
        *,
        actor: str | None,
        reason: str | None,
    ) -> TriggerMove:
        """Pause or resume a trigger; one that is so already stays as it is.

        A paused schedule has no due time; once resumed it is due next in the future, so that what came
        between is not made up. Raises `TriggerNotFound`.
        """
        key = {"id": workflow_id, "node_id": node_id}
        with self._database.transaction() as transaction:
            if (row := transaction.first(TRIGGER, **key)) is None:
                known = [found for (found,) in transaction.rows(NODES, id=workflow_id)]
                raise TriggerNotFound(workflow_id, node_id, known)
            before, sub_type, config, workflow_state, now = row
            if before != state:
                may_be_due = (state, workflow_state) == (TriggerState.ACTIVE, WorkflowState.ACTIVE)
                is_schedule = sub_type == SCHEDULER.sub_type
                next_due = first_due(config, now) if may_be_due and is_schedule else None
                note = {"actor": actor, "reason": reason}
                transaction.rows(SET_STATE, state=state.value, next_due=next_due, **key, **note)
                type = "TRIGGER_PAUSED" if state is TriggerState.PAUSED else "TRIGGER_RESUMED"
                record(transaction, workflow_id, node_id, type, actor, reason)
        return TriggerMove(workflow_id, node_id, TriggerState(before), state)

    def all(self, workflow_id: str | None = None) -> list[DeployedTrigger]:
        """Return the triggers of the current versions, by workflow and node.

        Without `workflow_id`, those of archived workflows are left out.
        """
        return [_deployed(*row) for row in self._database.rows(ALL, workflow_id=workflow_id)]

    def list(self) -> list[ScheduledTrigger]:
        """Return the scheduled triggers of the current versions, by workflow and node."""
        return [
            ScheduledTrigger(
                each.workflow_id,
                each.node_id,
                each.config.get("cron"),
                each.config.get("timezone", "UTC"),
                SchedulerConfig.model_validate(each.config).missed,
                each.next_due,
                each.state,
                each.state_reason,
                each.workflow_state,
                each.config.get("at"),
            )
            for each in self.all()
            if each.sub_type == SCHEDULER.sub_type
        ]


def _deployed(
    workflow_id: str,
    node_id: str,
    sub_type: str,
    state: str,
    since: datetime | None,
    by: str | None,
    reason: str | None,
    next_due: datetime | None,
    workflow_state: str,
    config: dict[str, Any],
) -> DeployedTrigger:
    states = TriggerState(state), WorkflowState(workflow_state)
    return DeployedTrigger(
        workflow_id, node_id, sub_type, states[0], since, by, reason, next_due, states[1], config
    )
