"""The colours of statuses on a terminal."""

from __future__ import annotations

from workflow_engine.execution.states import ExecutionStatus, NodeStatus

STATUS_STYLES: dict[str, str] = {
    ExecutionStatus.PENDING: "blue",
    ExecutionStatus.RUNNING: "cyan",
    ExecutionStatus.WAITING: "yellow",
    ExecutionStatus.PAUSED: "magenta",
    ExecutionStatus.COMPLETED: "green",
    ExecutionStatus.FAILED: "bold red",
    ExecutionStatus.CANCELLED: "dim",
    NodeStatus.SKIPPED: "dim",
    NodeStatus.RETRYING: "yellow",
}
"""rich's styles of the statuses of executions and nodes."""
