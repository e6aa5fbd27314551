"""Child executions as the node that waits for them sees them: how many have ended, how, and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.execution.states import ExecutionStatus

SHOWN_FAILURES = 100
"""Failed children that an error or output lists, with the number of all."""


@dataclass(frozen=True)
class ChildResult:
    """How one child ended."""

    index: int
    execution_id: str
    status: ExecutionStatus
    output: Any = None
    """The result of a child that completed, if it was read."""
    error: str | None = None
    error_details: Mapping[str, Any] | None = None

    @property
    def failure(self) -> dict[str, Any]:
        """Return the execution, node, type and message of a failure."""
        details = self.error_details or {}
        is_cancelled = self.status is ExecutionStatus.CANCELLED
        return {
            "executionId": self.execution_id,
            "nodeId": details.get("nodeId"),
            "type": "CANCELLED" if is_cancelled else details.get("type", "FAILED"),
            "message": self.error or ("it was cancelled" if is_cancelled else "it failed"),
        }


@dataclass(frozen=True)
class EndedChildren:
    """The children of a wait that is over."""

    first: int
    """The index of the first one."""
    total: int
    """How many there were to start; after too many failures, some were not started."""
    completed: int
    failed: int
    tolerated: int
    """How many may fail."""
    load: Callable[[bool, bool], Sequence[ChildResult]]
    """Reads them, with outputs or without, all or only the failed ones, in their order."""

    def results(self) -> Sequence[ChildResult]:
        """Return all that have ended, with their outputs. Raises `InvalidValue` if these are too large."""
        return self.load(True, False)

    def failures(self) -> Sequence[ChildResult]:
        """Return the first failed ones, `SHOWN_FAILURES` at most."""
        return self.load(False, True)
