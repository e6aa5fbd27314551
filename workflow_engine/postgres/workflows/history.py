"""The history of workflows: what operators did to them and to their triggers, and why triggers failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.postgres.database import Database, Statements
from workflow_engine.postgres.values import to_jsonb

# By the clock, since a transaction may have waited: the history then has the order of the moves.
RECORD = """
INSERT INTO {s}.workflow_events (workflow_id, node_id, type, actor, reason, payload, created_at)
VALUES (%(workflow_id)s, %(node_id)s, %(type)s, %(actor)s, %(reason)s, %(payload)s::jsonb, clock_timestamp())
"""

EVENTS = """
SELECT type, node_id, actor, reason, payload, created_at FROM {s}.workflow_events
WHERE workflow_id = %(workflow_id)s ORDER BY created_at, id
"""


@dataclass(frozen=True)
class WorkflowEvent:
    """A row of `workflow_events`."""

    type: str
    node_id: str | None
    """The trigger, if it is about one."""
    actor: str | None
    reason: str | None
    payload: Any
    created_at: datetime


def record(
    statements: Statements,
    workflow_id: str,
    node_id: str | None,
    type: str,
    actor: str | None,
    reason: str | None,
    payload: Mapping[str, Any] | None = None,
) -> None:
    """Write a line of the history, as part of the transaction that does what it says."""
    statements.rows(
        RECORD,
        workflow_id=workflow_id,
        node_id=node_id,
        type=type,
        actor=actor,
        reason=reason,
        payload=to_jsonb(payload and dict(payload)),
    )


def events_of(database: Database, workflow_id: str) -> list[WorkflowEvent]:
    """Return the history of a workflow, oldest first."""
    return [WorkflowEvent(*row) for row in database.rows(EVENTS, workflow_id=workflow_id)]
