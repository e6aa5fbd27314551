"""The rows of the tables in memory, and what can be told from one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from workflow_engine.execution.records import (
    FIRST_SEQ,
    Crashes,
    DueWait,
    JournalRow,
    NewChildren,
    NewExecution,
    NewRow,
    StartedChild,
)
from workflow_engine.execution.states import ACTIVE, ExecutionStatus, WaitStatus, WaitType

OPEN = (WaitStatus.WAITING, WaitStatus.RESUMING)


@dataclass
class WaitRow:
    node_id: str
    seq: int
    visit: int
    type: WaitType
    resume_at: datetime | None
    attempt: int
    created_at: datetime
    status: WaitStatus = WaitStatus.WAITING
    claimed_until: datetime | None = None
    claims: int = 0
    children: ChildrenRow | None = None


@dataclass
class ChildrenRow:
    """The plan and the counters of a wait for children."""

    plan: NewChildren
    items: list[Any] = field(default_factory=list)
    next: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    due: datetime | None = None
    token: str | None = None
    """Of the commit by which the wait went on with its present child."""


@dataclass(frozen=True)
class Place:
    """The wait that a child was started for, and its number."""

    parent_id: str
    seq: int
    index: int


@dataclass
class ExecutionRow:
    new: NewExecution
    fence: str
    metadata: dict[str, Any]
    updated_at: datetime
    seq: int = FIRST_SEQ
    status: ExecutionStatus = ExecutionStatus.PENDING
    wake_requested: bool = False
    visits: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    expires_at: datetime | None = None
    timeout_left: timedelta | None = None
    history: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Type, actor and reason of what operators and timeouts did."""
    crashes: dict[str, Crashes] = field(default_factory=dict)
    """By node id."""
    context: dict[str, Any] = field(default_factory=dict)
    journal: list[JournalRow] = field(default_factory=list)
    tokens: dict[int, str] = field(default_factory=dict)
    """The token of each row of the journal, by its seq."""
    epoch_fence: str | None = None
    """The fence that the last retry or rerun gave."""
    accepted: list[NewRow] = field(default_factory=list)
    """The rows of the accepted commits, for the final check; the trigger's is not among them."""
    waits: list[WaitRow] = field(default_factory=list)
    place: Place | None = None
    """Of a child."""
    breakpoints: set[str] = field(default_factory=set)


def first_of(row: ExecutionRow) -> StartedChild:
    new = row.new
    workflow_id = "#".join(filter(None, (new.workflow_id, new.body)))
    return StartedChild(
        new.execution_id,
        workflow_id,
        new.version,
        new.trigger_node_id,
        new.queue,
        new.priority,
        row.updated_at,
    )


def is_active(row: ExecutionRow) -> bool:
    """Return whether recovery would find this execution, once it has stalled."""
    return row.status in ACTIVE


def open_waits(row: ExecutionRow) -> list[WaitRow]:
    """Return the waits of an execution that are not over."""
    return [wait for wait in row.waits if wait.status in OPEN]


def context_at_rest(row: ExecutionRow) -> dict[str, Any]:
    """Return an execution's context as its journal has it, but for what is the journal."""
    variables: dict[str, Any] = {}
    for each in row.journal:
        variables |= each.variables or {}
    return {
        "executionId": row.new.execution_id,
        "workflowId": row.new.workflow_id,
        "triggerId": row.new.trigger_id,
        "triggerNodeId": row.new.trigger_node_id,
        "currentNodeId": row.journal[-1].entry.node_id,
        "variables": variables,
        "metadata": dict(row.metadata),
    }


def put_aside_or_on(row: ExecutionRow, status: ExecutionStatus, now: datetime) -> None:
    """Give an execution a status that is not an end; its timeout is suspended while it is paused."""
    row.status, row.updated_at = status, now
    row.completed_at = row.duration_ms = row.error = None
    if status is ExecutionStatus.RUNNING:
        row.started_at = row.started_at or now
    if status is ExecutionStatus.PAUSED:
        row.timeout_left = None if row.expires_at is None else row.expires_at - now
        row.expires_at = None
    elif row.timeout_left is not None:
        row.expires_at, row.timeout_left = now + row.timeout_left, None
    row.context = context_at_rest(row)


def due_wait(execution_id: str, row: ExecutionRow, wait: WaitRow, now: datetime) -> DueWait:
    new = row.new
    workflow_id = "#".join(filter(None, (new.workflow_id, new.body)))
    node = (workflow_id, new.version, wait.node_id)
    return DueWait(execution_id, *node, row.seq, new.priority, now, new.queue)
