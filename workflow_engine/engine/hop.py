"""A hop between entering and leaving a node: what was read, and what follows from the node's outcome.

Pure values and functions: they decide what is committed, and the executor commits it.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from workflow_engine.definition.body import TRIGGER_ID
from workflow_engine.definition.workflow import Node
from workflow_engine.engine.hop_report import HopReport
from workflow_engine.engine.publisher import Envelope
from workflow_engine.execution.context import Wake
from workflow_engine.execution.ids import random_uuid
from workflow_engine.execution.records import (
    CommitResult,
    Crashes,
    Iteration,
    JournalRow,
    NewWait,
    NodeCommit,
    PureRow,
    WokenWait,
)
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, WaitType
from workflow_engine.execution.walk import Step, Walk
from workflow_engine.json_values import decode, encode
from workflow_engine.nodes.results import NodeError
from workflow_engine.postgres.waits import FIRST_TRY
from workflow_engine.redis.cached_context import (
    CachedContext,
    content_fields,
    encoded_crashes,
    progress_fields,
)
from workflow_engine.redis.lock import Claim
from workflow_engine.redis.results import LeaveResult
from workflow_engine.runner.compiled import CompiledWorkflow
from workflow_engine.runner.node_run import Outcome, attempt_failure_outcome, failure_outcome
from workflow_engine.telemetry.log_events import log_context
from workflow_engine.telemetry.tracing import TRACEPARENT

NO_CRASHES = Crashes()

After = tuple[Walk, Step]
"""The walk after an outcome, and its step."""


@dataclass(frozen=True)
class Hop:
    """A node that was entered, and everything known about it until it is left."""

    claim: Claim
    workflow: CompiledWorkflow
    node: Node
    cached: CachedContext
    walk: Walk
    woken: WokenWait | None = None
    """The wait that is over, if the node resumes from one."""
    missed: tuple[JournalRow, ...] = ()
    """The rows that siblings have committed since it was entered; the walk has seen them."""
    cause: str | None = None
    """The trace context of what led to it, if its execution is traced."""
    span: str | None = None
    """The trace context of its own span, if it has one."""
    lacks_slot: bool = False
    """The workflow has limits, and the execution holds no slot of them yet."""
    uncommitted: tuple[PureRow, ...] = ()
    """The rows of pure nodes or siblings before it, which are committed together with its own."""
    token: str = field(default_factory=random_uuid)
    """The fence after its commit."""
    began: float = field(default_factory=time.monotonic)
    """By `time.monotonic()`."""

    @property
    def is_shared(self) -> bool:
        """True if other nodes of the execution may run at the same time."""
        return self.claim.places > 1

    @property
    def walked_to(self) -> str:
        """The id of its node, if the worker has walked on to it under the same claim; else ""."""
        return self.node.id if self.cached.unstored else ""

    @property
    def is_due(self) -> bool:
        """False once a sibling's commit has ended the node for good."""
        return self.node.id in self.walk.due or self.node.id in self.walk.waiting

    @property
    def execution_id(self) -> str:
        return self.claim.execution_id

    @property
    def committed_seq(self) -> int:
        """The last `seq` that Postgres has."""
        return self.cached.seq - len(self.uncommitted)

    @property
    def crashes(self) -> Crashes:
        """Runs of this node that have ended without a commit."""
        return self.cached.crashes.get(self.node.id, NO_CRASHES)

    @property
    def attempt(self) -> int:
        return self.walk.attempt(self.node.id)

    @property
    def failures(self) -> tuple[int, ...]:
        """The failed attempts of this visit by each rule of `retry`, if it has several."""
        return tuple(self.walk.failures.get(self.node.id, ()))

    @property
    def idempotency_key(self) -> str:
        """The same over retries and crashes of one visit."""
        return f"{self.execution_id}:{self.node.id}:{self.walk.visit(self.node.id)}"

    @property
    def traceparent(self) -> str | None:
        """The trace context of what follows from it: that of its span, or else of its execution's start."""
        return self.span or self.cached.identity["metadata"].get(TRACEPARENT)

    def log_context(self) -> AbstractContextManager[None]:
        """Add the fields of this node and execution to the log lines of a block."""
        return log_context(self.execution_id, self.workflow.workflow.id, self.node.id, self.cached.seq)

    def attempt_failure_outcome(self, error: NodeError) -> Outcome:
        """Return the outcome of an attempt that failed without a result; `retry` may allow another."""
        return attempt_failure_outcome(self.node, self.workflow.graph, error, self.attempt, self.failures)

    def failure_outcome(self, error: NodeError) -> Outcome:
        """Return the outcome of a node that fails without having run to its end."""
        return failure_outcome(self.node, self.workflow.graph, error, self.attempt)

    @property
    def wake(self) -> Wake | None:
        """What the node learns of its wait; None for one that begins only now, such as a retry."""
        if self.woken is None or self.woken.type in (WaitType.RETRY, WaitType.CODE, WaitType.LIMIT):
            return None
        return Wake(self.woken.reason, self.woken.received_events, self.woken.waited)

    @property
    def begins_visit(self) -> bool:
        """True for the visit's first journal row."""
        return self.woken is None and self.attempt == 1

    def walk_after(self, outcome: Outcome) -> After:
        """Return the walk after the outcome, and its step; the hop's own walk stays unchanged."""
        walk, node_id = self.walk.copy(), self.node.id
        if outcome.status is NodeStatus.COMPLETED:
            return walk, walk.advance(self.workflow.graph, node_id, outcome.handles)
        if outcome.status is NodeStatus.WAITING:
            return walk, Step() if self.goes_on(outcome) else walk.wait(node_id)
        if outcome.status is NodeStatus.RETRYING and outcome.is_waiting:
            return walk, walk.wait(node_id, self.attempt + 1, outcome.retry_rule)
        if outcome.status is NodeStatus.RETRYING:
            return walk, walk.retry(self.workflow.graph, node_id, self.attempt + 1, outcome.retry_rule)
        if outcome.ends_execution:
            return walk, walk.end(node_id)
        return walk, walk.advance(self.workflow.graph, node_id, outcome.handles)

    def iteration_after(self, outcome: Outcome) -> Iteration | None:
        """Return the child that the outcome comes after; None unless the node has waited for just one."""
        if self.woken is None or self.woken.type is not WaitType.CHILDREN or self.woken.children["hasItems"]:
            return None
        index: int = self.woken.children["first"]
        following = outcome.children
        goes_on = following is not None and not following.has_items and following.first > index
        return Iteration(self.woken.seq, index, goes_on)

    def goes_on(self, outcome: Outcome) -> bool:
        """Return whether the node's wait goes on with another child: there is no row then."""
        iteration = self.iteration_after(outcome)
        return iteration is not None and iteration.goes_on

    def variables_after(self, outcome: Outcome) -> Mapping[str, Any]:
        """Return the execution's variables after the outcome."""
        return {**decode(self.cached.variables), **outcome.variables}

    def changed_fields(self, outcome: Outcome, walk: Walk, result: CommitResult) -> dict[bytes, Any]:
        """Return the fields of the context in Redis that an accepted commit changes."""
        progress = progress_fields(result.fence, walk.to_json(), self.node.id)
        return {**progress, **self._unstored_after(outcome, walk, result.seq)}

    def _unstored_after(self, outcome: Outcome, walk: Walk, seq: int) -> dict[bytes, Any]:
        """Return those that an inline walk has to keep, as later commits do not replace them."""
        # Those of siblings come with the latest commit.
        variables = encode(self.variables_after(outcome)) if outcome.variables or self.missed else None
        changed = content_fields(seq, self.node.id, outcome.output, variables, begins_visit=self.begins_visit)
        if self.node.id in self.cached.crashes:
            changed[b"crashes"] = encoded_crashes(self._crashes_after(outcome, walk))
        return {**self.cached.unstored, **changed}

    def _crashes_after(self, outcome: Outcome, walk: Walk) -> Mapping[str, Crashes]:
        """Return the crashes of other nodes, which the commit of this one keeps."""
        if not self.cached.crashes:
            return {}
        kept = {node_id: each for node_id, each in self.cached.crashes.items() if node_id != self.node.id}
        if (blamed := self._passes_crash_to(outcome, walk)) is not None:
            kept[blamed] = replace(self.crashes, begun=kept.get(blamed, NO_CRASHES).begun)
        return kept

    def _passes_crash_to(self, outcome: Outcome, walk: Walk) -> str | None:
        """Return the node that a crash is counted for once this one, which has run well, is committed.

        The first crash of a walk is counted for its first pure node, but a node behind it may have caused it:
        there was no row yet that would show how far the walk had come. After a crash each row is committed
        alone, so the next one is counted for the right node.
        """
        is_doubtful = self.crashes.count == 1 and self.workflow.is_pure_inline
        if not is_doubtful or outcome.status is not NodeStatus.COMPLETED or not walk.due:
            return None
        return walk.due[0] if self.workflow.node(self.node.id).is_pure else None

    def caught_up(self, missed: Sequence[JournalRow], fence: str, walk: Walk | None = None) -> Hop:
        """Return this hop as if it had been entered after these rows, the last of which left this fence.

        `walk` is the walk after them, if it is known. Raises ValueError for rows that do not fit the walk.
        """
        if walk is None:
            walk = self.walk.copy()
            for row in missed:
                walk.apply(self.workflow.graph, row.entry)
        cached = replace(self.cached, seq=missed[-1].entry.seq, fence=fence)
        set_by_them: dict[str, Any] = {}
        for row in missed:
            set_by_them.update(row.variables or {})
        if set_by_them:
            variables = encode({**decode(self.cached.variables), **set_by_them})
            cached = replace(cached, variables=variables)
        return replace(self, cached=cached, walk=walk, missed=(*self.missed, *missed))

    def following(
        self,
        node: Node,
        outcome: Outcome,
        walk: Walk,
        result: CommitResult,
        uncommitted: tuple[PureRow, ...] = (),
    ) -> Hop:
        """Return the hop into the next node under the same claim; this hop's changes are not yet in Redis."""
        entered, unstored = self.cached, self._unstored_after(outcome, walk, result.seq)
        cached = CachedContext(
            execution_id=entered.execution_id,
            seq=result.seq,
            fence=result.fence,
            walk=entered.walk,
            stored_seq=entered.stored_seq,
            variables=unstored.get(b"variables", entered.variables),
            identity=entered.identity,
            # Decoded again, so that a node's changes to its inputs are not kept. What a body gets from around
            # it is copied where it is used.
            outputs={TRIGGER_ID: entered.outputs[TRIGGER_ID]} if TRIGGER_ID in entered.outputs else {},
            encoded=entered.encoded,
            crashes=self._crashes_after(outcome, walk),
            unstored=unstored,
        )
        return Hop(self.claim, self.workflow, node, cached, walk, cause=self.span, uncommitted=uncommitted)

    def pure_row_of(self, outcome: Outcome, walk: Walk, step: Step) -> PureRow:
        """Return the journal row of the outcome, to be committed together with a later one."""
        return PureRow(ended=time.monotonic(), **self._row_of(outcome, walk, step))

    def _row_of(self, outcome: Outcome, walk: Walk, step: Step) -> dict[str, Any]:
        """Return the parts of the outcome's journal row, as `NewRow` has them."""
        node = self.node
        return {
            "execution_id": self.claim.execution_id,
            "fence": self.cached.fence,
            "token": self.token,
            "node_id": node.id,
            "type": node.type,
            "sub_type": node.sub_type,
            "label": node.label,
            "visit": self.walk.visit(node.id),
            "attempt": self.attempt,
            "status": outcome.status,
            "handles": outcome.handles,
            "variables": encode(dict(outcome.variables)) if outcome.variables else None,
            "input_data": outcome.input_data,
            "output": outcome.output,
            "logs": outcome.logs,
            "duration_ms": outcome.duration_ms,
            "newly_due": self._newly_due(walk, step),
        }

    def commit_of(self, outcome: Outcome, walk: Walk, step: Step, timeout: float) -> NodeCommit:
        """Return the journal row of the outcome, the waits it opens and closes, and the status after it.

        `timeout` is the number of seconds that a node waits for a worker that has its code.
        """
        node, error, status = self.node, outcome.error, _status_after(walk, outcome)
        iteration = self.iteration_after(outcome)
        is_over = self.woken is not None and not (iteration is not None and iteration.goes_on)
        due = self.workflow.route(walk.due[0]) if walk.due else None
        return NodeCommit(
            **self._row_of(outcome, walk, step),
            execution_status=status,
            error=error.message if error else None,
            error_details=error.as_stored() if error else None,
            worker=worker_name(),
            context=self._resting_context(outcome) if status is not ExecutionStatus.RUNNING else None,
            due_queue=due.queue if due else None,
            due_priority=due.priority if due else None,
            retry_details=self._retry_details(outcome),
            opens=self._wait_of(outcome, timeout) if outcome.is_waiting else None,
            closes=(*step.cancelled, *((node.id,) if is_over else ())),
            woken_status=self.woken.status_when_resumed if self.woken and is_over else None,
            iteration=iteration,
            is_limited=self.workflow.is_limited,
            before=self.uncommitted,
            passes_crash_to=self._passes_crash_to(outcome, walk),
            queue_timeouts=self.queue_timeouts_after(walk),
            has_queue_timeout=node.queue_timeout is not None,
            removes_parts=outcome.is_divided and outcome.status is NodeStatus.COMPLETED,
            **(self._beside_siblings() if self.is_shared else {}),
        )

    def _beside_siblings(self) -> dict[str, Any]:
        """Return the parts of a commit that say how it may be appended behind those of siblings."""
        graph = self.workflow.graph
        return {
            "shared_since": self.cached.seq,
            "ordered": graph.any_merges,
            "joins": graph.joins_after(self.node.id),
        }

    def _newly_due(self, walk: Walk, step: Step) -> tuple[str, ...]:
        """Return the nodes that the commit makes due, those of its earlier rows included."""
        if not self.uncommitted:
            return step.due
        earlier = self.uncommitted[-1].newly_due
        return (*(node_id for node_id in earlier if node_id in walk.due), *step.due)

    def queue_timeouts_after(self, walk: Walk) -> Mapping[str, float]:
        """Return the seconds that nodes may stand in their queues which a commit sends there."""
        if not self.workflow.queue_timeouts:
            return {}
        graph = self.workflow.graph
        sent_before = {self.node.id, *self.walk.in_hand(graph)}
        return self.workflow.queue_timeouts_of(
            node_id for node_id in walk.in_hand(graph) if node_id not in sent_before
        )

    def _wait_of(self, outcome: Outcome, timeout: float) -> NewWait | None:
        """Return the wait that an outcome opens, with what is kept for the run that follows it."""
        details: dict[str, Any] = {"attempt": self.attempt}
        if self.span is not None:
            details[TRACEPARENT] = self.span
        return _new_wait(outcome, details, timeout, self._seconds_left)

    @property
    def _seconds_left(self) -> float | None:
        """The seconds that the node may still wait for its children; None without a `timeout`."""
        if (timeout := self.node.timeout) is None:
            return None
        waited = self.woken.waited if self.woken and self.woken.type is WaitType.CHILDREN else 0.0
        return max(0.0, timeout - waited)

    def _retry_details(self, outcome: Outcome) -> Mapping[str, Any] | None:
        if outcome.status is not NodeStatus.RETRYING:
            return None
        rule = {} if outcome.retry_rule is None else {"rule": outcome.retry_rule}
        return {"nextAttempt": self.attempt + 1, "waitMs": outcome.retry_in_ms, **rule}

    def _resting_context(self, outcome: Outcome) -> Mapping[str, Any]:
        """Return the context to persist when the execution comes to rest, without outputs and path."""
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


@dataclass(frozen=True)
class Committed:
    """A hop whose outcome was offered to Postgres, and the result."""

    hop: Hop
    outcome: Outcome
    walk: Walk
    """The walk if the outcome was accepted."""
    result: CommitResult
    cancelled: tuple[str, ...] = ()
    """Nodes that were due or waiting, and will not go on after it."""
    followed_by: Hop | None = None
    """The hop that comes before the commit, if that is put off; `result` is then what it will be."""
    is_awaited: bool = False
    """The commit was sent, and its result is read later; `result` is what is expected."""
    is_left: bool = False
    """Its node was left together with siblings, and what follows was sent."""

    def is_as(self, expected: Committed) -> bool:
        """Return whether the next node runs as it would after the result that was expected."""
        result, wanted = self.result, expected.result
        is_same = (result.seq, result.fence, result.status) == (wanted.seq, wanted.fence, wanted.status)
        return self.outcome is expected.outcome and result.accepted and is_same and not result.wake_requested

    @property
    def goes_on(self) -> bool:
        """True if the node still waits, for another child, and nothing else has moved."""
        return self.hop.woken is not None and self.hop.goes_on(self.outcome)

    def has_to_wake(self, left: LeaveResult) -> bool:
        """Return whether woken nodes have to be enqueued: their messages may have met the lock.

        Siblings take places of their own. So only this node can have met it, if it has begun to wait.
        """
        is_met = self.result.wake_requested or left.was_contended
        return is_met and (not self.hop.is_shared or self.hop.node.id in self.walk.waiting)

    @property
    def is_left_by_one_call(self) -> bool:
        """True if one call leaves the node, and its reply can wait until the next message is served."""
        result = self.result
        return (
            result.accepted
            and (result.status is ExecutionStatus.RUNNING or result.status.is_finished)
            and not self.hop.is_shared
            and not result.wake_requested
            and result.follow_ups is None
            and not self.goes_on
        )

    @property
    def to_send(self) -> list[str]:
        """The due nodes for which messages follow from this commit.

        Of nodes that may run at the same time, these are the ones that were not in hand before.
        """
        graph = self.hop.workflow.graph
        in_hand = self.walk.in_hand(graph)
        if not self.hop.is_shared:
            return in_hand
        siblings = set(self.hop.walk.in_hand(graph)) - {self.hop.node.id}
        return [node_id for node_id in in_hand if node_id not in siblings]

    @property
    def envelope(self) -> Envelope:
        """What the messages for the nodes that are due now have in common."""
        hop, result = self.hop, self.result
        identity = hop.cached.identity
        return Envelope(
            hop.execution_id,
            hop.workflow,
            result.seq,
            identity["queue"],
            identity["priority"],
            result.committed_at,
            hop.traceparent,
        )

    @property
    def report(self) -> HopReport:
        return HopReport.of(self.hop.node.id, self.outcome, is_accepted=self.result.accepted)


def worker_name() -> str:
    """Return the name of this process in the journal."""
    return f"{_host_name()}:{os.getpid()}"


_host_name = functools.cache(socket.gethostname)


def _new_wait(
    outcome: Outcome, details: dict[str, Any], timeout: float, seconds_left: float | None
) -> NewWait | None:
    if outcome.needs is not None:
        details = {**details, "tries": 1}
        return NewWait(
            WaitType.CODE, needs=outcome.needs, needed_for=timeout, again_in=FIRST_TRY, details=details
        )
    if outcome.limits or outcome.retry_in_ms:
        wait_type = WaitType.LIMIT if outcome.limits else WaitType.RETRY
        resume_in = outcome.retry_in_ms / 1000 if outcome.retry_in_ms else None
        return NewWait(wait_type, resume_in=resume_in, details=details, limits=outcome.limits)
    if (wait := outcome.wait) is None:
        return None
    if (children := outcome.children) is not None:
        counts = {"next": 0, "running": 0, "completed": 0, "failed": 0}
        details |= {**counts, **({"expiresIn": seconds_left} if seconds_left is not None else {})}
        return NewWait(WaitType.CHILDREN, expires_in=seconds_left, details=details, children=children)
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
