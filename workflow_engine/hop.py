"""A hop between entering and leaving a node: what was read, and what follows from a node's outcome.

Pure values and functions: they decide what is committed, the executor does it.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow_engine.context_cache import CachedContext
from workflow_engine.definition import Node
from workflow_engine.execution_records import NodeCommit
from workflow_engine.json_values import decode, encode
from workflow_engine.lock import Claim
from workflow_engine.node_run import Outcome, failed
from workflow_engine.node_types import NodeError
from workflow_engine.plan import WorkflowPlan
from workflow_engine.states import ExecutionStatus
from workflow_engine.walk import Walk


@dataclass(frozen=True)
class Hop:
    """A node that was entered: all that is known about it until it is left."""

    claim: Claim
    workflow: WorkflowPlan
    node: Node
    cached: CachedContext
    walk: Walk
    losses: int
    """How often a process was lost while it ran this node."""

    @property
    def execution_id(self) -> str:
        return self.claim.execution_id

    @property
    def attempt(self) -> int:
        return self.walk.attempt(self.node.id)

    @property
    def idempotency_key(self) -> str:
        """The same over retries and crashes of one visit."""
        return f"{self.execution_id}:{self.node.id}:{self.walk.visit(self.node.id)}"

    def failed(self, error: NodeError) -> Outcome:
        """The outcome if this node fails without having run to its end."""
        return failed(self.node, self.workflow.graph, error, self.attempt)

    def walk_after(self, outcome: Outcome) -> Walk:
        """Where the execution stands after the outcome; the hop's own walk stays as it is."""
        walk = Walk.from_json(self.cached.walk)
        if outcome.ends_execution:
            walk.end()
        else:
            walk.advance(self.workflow.graph, self.node.id, outcome.handles)
        return walk

    def variables_after(self, outcome: Outcome) -> Mapping[str, Any]:
        return {**decode(self.cached.variables), **outcome.variables}

    def commit_of(self, outcome: Outcome, walk: Walk) -> NodeCommit:
        """The journal row of the outcome, and the status of the execution after it."""
        node, error, status = self.node, outcome.error, _status_after(walk, outcome)
        return NodeCommit(
            execution_id=self.execution_id,
            fence=self.cached.fence,
            token=str(uuid.uuid4()),
            execution_status=status,
            node_id=node.id,
            type=node.type,
            sub_type=node.sub_type,
            label=node.label,
            visit=self.walk.visit(node.id),
            attempt=self.attempt,
            status=outcome.status,
            handles=outcome.handles,
            variables=encode(dict(outcome.variables)) if outcome.variables else None,
            input_data=outcome.input_data,
            output=outcome.output,
            error=error.message if error else None,
            error_details={"type": error.type, **error.details} if error else None,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            duration_ms=outcome.duration_ms,
            context=self._resting_context(outcome) if status is not ExecutionStatus.RUNNING else None,
        )

    def _resting_context(self, outcome: Outcome) -> Mapping[str, Any]:
        """The context to persist when the execution comes to rest; outputs and path are the journal."""
        identity = self.cached.identity
        return {
            "executionId": self.execution_id,
            "workflowId": identity["workflowId"],
            "triggerId": identity["triggerId"],
            "triggerNodeId": identity["triggerNodeId"],
            "currentNodeId": self.node.id,
            "variables": self.variables_after(outcome),
            "metadata": identity["metadata"],
        }


def _status_after(walk: Walk, outcome: Outcome) -> ExecutionStatus:
    if outcome.ends_execution:
        return ExecutionStatus.FAILED
    if walk.due:
        return ExecutionStatus.RUNNING
    return ExecutionStatus.COMPLETED if walk.is_finished else ExecutionStatus.WAITING
