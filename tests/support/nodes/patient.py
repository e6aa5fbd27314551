"""A node that waits for an hour, one before it, and what their execution shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflow_engine import (
    ExecutionContext,
    NodeExecutionResult,
    NodeStatus,
    WorkflowClient,
    success,
    waiting,
)
from workflow_engine.execution.context import Wake

HOUR = 3600.0

wakes: list[Wake | None] = []
"""The wake that each call of a node that waits got."""


def before() -> NodeExecutionResult:
    return success({"order": 42}, variables={"currency": "EUR"})


def cool_off(context: ExecutionContext) -> Any:
    wakes.append(context.wake)
    return waiting(seconds=HOUR) if context.wake is None else context.wake.reason


def statuses(client: WorkflowClient, execution: str) -> list[tuple[str, NodeStatus]]:
    return [(row.node_id, row.status) for row in client.journal(execution)][1:]


def waits(sql: Callable[..., Any]) -> list[tuple[str, str, str]]:
    return list(sql("SELECT node_id, wait_type, status FROM execution_wait_states ORDER BY seq, created_at"))
