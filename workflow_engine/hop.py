"""A hop between entering and leaving a node: what was read, and what follows from a node's outcome.

Pure values and functions: they decide what is committed, the executor does it.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from workflow_engine.cached_context import CachedContext, step_fields
from workflow_engine.context import Wake
from workflow_engine.definition import Node
from workflow_engine.execution_records import CommitAnswer, Losses, NewWait, NodeCommit, WokenWait
from workflow_engine.json_values import decode, encode
from workflow_engine.lock import Claim
from workflow_engine.node_run import Outcome, failed, failed_attempt
from workflow_engine.node_types import NodeError
from workflow_engine.plan import WorkflowPlan
from workflow_engine.states import ExecutionStatus, NodeStatus, WaitType
from workflow_engine.walk import Step, Walk


@dataclass(frozen=True)
class Hop:
    """A node that was entered: all that is known about it until it is left."""

    claim: Claim
    workflow: WorkflowPlan
    node: Node
    cached: CachedContext
    walk: Walk
    losses: Losses
    """Processes that were lost while they ran this node."""
    woken: WokenWait | None = None
    """The wait that is over, if the node goes on after one."""

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

    def failed_attempt(self, error: NodeError) -> Outcome:
        """The outcome if this attempt fails without an answer; its `retry` may have another one."""
        return failed_attempt(self.node, self.workflow.graph, error, self.attempt)

    def failed(self, error: NodeError) -> Outcome:
        """The outcome if this node fails without having run to its end."""
        return failed(self.node, self.workflow.graph, error, self.attempt)

    @property
    def wake(self) -> Wake | None:
        """What the node is told of its wait; a retry is a new beginning and is told nothing."""
        if self.woken is None or self.woken.type is WaitType.RETRY:
            return None
        return Wake(self.woken.reason, self.woken.received_events, self.woken.waited)

    @property
    def begins_visit(self) -> bool:
        """Whether this is the first that the journal hears of the present visit of the node."""
        return self.woken is None and self.attempt == 1

    def walk_after(self, outcome: Outcome) -> tuple[Walk, Step]:
        """Where the execution stands after the outcome; the hop's own walk stays as it is."""
        walk, node_id = Walk.from_json(self.cached.walk), self.node.id
        if outcome.status is NodeStatus.WAITING:
            return walk, walk.hold(node_id)
        if outcome.status is NodeStatus.RETRYING and outcome.is_held:
            return walk, walk.hold(node_id, self.attempt + 1)
        if outcome.status is NodeStatus.RETRYING:
            return walk, walk.retry(node_id, self.attempt + 1)
        if outcome.ends_execution:
            return walk, walk.end(node_id)
        return walk, walk.advance(self.workflow.graph, node_id, outcome.handles)

    def variables_after(self, outcome: Outcome) -> Mapping[str, Any]:
        return {**decode(self.cached.variables), **outcome.variables}

    def changed_fields(self, outcome: Outcome, walk: Walk, answer: CommitAnswer) -> dict[bytes, Any]:
        """What an accepted commit changes in the context as it stands in Redis."""
        variables = encode(self.variables_after(outcome)) if outcome.variables else None
        changed = step_fields(
            answer.seq,
            self.node.id,
            answer.fence,
            walk.to_json(),
            outcome.output,
            variables,
            begins_visit=self.begins_visit,
        )
        return {**self.cached.unstored, **changed}

    def following(self, node: Node, outcome: Outcome, walk: Walk, answer: CommitAnswer) -> Hop:
        """The hop into the next node under the same claim; what this one has changed is not in Redis."""
        unstored = self.changed_fields(outcome, walk, answer)
        cached = replace(
            self.cached,
            seq=answer.seq,
            fence=answer.fence,
            walk=unstored[b"walk"],
            variables=unstored.get(b"variables", self.cached.variables),
            # Read anew, so that what a node does to what it was given is not kept.
            outputs={},
            absent=frozenset(),
            mark=None,
            unstored=unstored,
        )
        return Hop(self.claim, self.workflow, node, cached, walk, Losses())

    def commit_of(self, outcome: Outcome, walk: Walk, step: Step) -> NodeCommit:
        """The journal row of the outcome, the waits it opens and closes, and the status after it."""
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
            worker=worker_name(),
            duration_ms=outcome.duration_ms,
            context=self._resting_context(outcome) if status is not ExecutionStatus.RUNNING else None,
            retry_details=self._retry_details(outcome),
            opens=_new_wait(outcome, self.attempt),
            closes=(*step.cancelled, *((node.id,) if self.woken else ())),
            woken_status=self.woken.status_when_resumed if self.woken else None,
        )

    def _retry_details(self, outcome: Outcome) -> Mapping[str, Any] | None:
        if outcome.status is not NodeStatus.RETRYING:
            return None
        return {"nextAttempt": self.attempt + 1, "waitMs": outcome.retry_in_ms}

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


def worker_name() -> str:
    """How the journal calls this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _new_wait(outcome: Outcome, attempt: int) -> NewWait | None:
    details = {"attempt": attempt}
    if outcome.retry_in_ms:
        return NewWait(WaitType.RETRY, resume_in=outcome.retry_in_ms / 1000, details=details)
    if (wait := outcome.wait) is None:
        return None
    if not wait.events:
        return NewWait(WaitType.DELAY, resume_at=wait.until, resume_in=wait.seconds, details=details)
    return NewWait(
        WaitType.EVENTS,
        expires_in=wait.timeout,
        correlation_id=wait.correlation_id,
        details={**details, "events": wait.events, "required": wait.required},
    )


def _status_after(walk: Walk, outcome: Outcome) -> ExecutionStatus:
    if outcome.ends_execution:
        return ExecutionStatus.FAILED
    if walk.due:
        return ExecutionStatus.RUNNING
    return ExecutionStatus.COMPLETED if walk.is_finished else ExecutionStatus.WAITING
