"""WorkflowExecutor: one hop of an execution, from a message to the next message.

A hop is five steps: enter (lock and read), run, commit, leave (write and unlock), enqueue. Postgres
decides in the third; the others can fail or be repeated at any point without losing or doubling a result.

Of a workflow with `hops: inline` the worker runs and commits further nodes before it leaves, for a slice of
time. Each has its own journal row and its own check of the fence; what the slice saves is everything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from workflow_engine.callers_transaction import CallersTransaction
from workflow_engine.context import ExecutionContext, LazyMapping
from workflow_engine.context_cache import ExecutionContextCache, Left
from workflow_engine.definition import Node
from workflow_engine.dispatch import HopMessage
from workflow_engine.enqueue import BROKER_PATIENCE, Enqueuer, Standing
from workflow_engine.entrance import Entrance, NotEntered
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    ExecutionNotFound,
    GivenBack,
    InvalidValue,
    UnknownNodeType,
)
from workflow_engine.execution_records import CommitAnswer, NewExecution, StartedExecution
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.hop import Hop, worker_name
from workflow_engine.interruption import NodeInterrupted
from workflow_engine.json_values import decode
from workflow_engine.lock import DistributedLockService
from workflow_engine.node_run import Outcome, run_node
from workflow_engine.node_types import NodeError
from workflow_engine.patience import repeated
from workflow_engine.plan import Plans
from workflow_engine.queued_message import QueuedMessage
from workflow_engine.running_nodes import RunningNode, RunningNodes
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.walk import Walk

log = logging.getLogger(__name__)

TIME_SLICE = 0.5
"""Seconds after which a worker that walks inline lets another one go on; a running node is not cut short."""


@dataclass(frozen=True)
class Committed:
    """A hop whose outcome was offered to Postgres, and what came of it."""

    hop: Hop
    outcome: Outcome
    walk: Walk
    """Where the execution stands if the outcome was accepted."""
    answer: CommitAnswer

    @property
    def standing(self) -> Standing:
        hop, answer = self.hop, self.answer
        priority = hop.cached.identity["priority"]
        return Standing(hop.execution_id, hop.workflow, answer.seq, priority, answer.committed_at)


class WorkflowExecutor:
    """Runs executions node by node. One instance serves a process and holds no state of an execution."""

    def __init__(
        self,
        state: ExecutionStateService,
        cache: ExecutionContextCache,
        locks: DistributedLockService,
        plans: Plans,
        entrance: Entrance,
        running_nodes: RunningNodes,
        enqueuer: Enqueuer,
        settings: Settings,
    ) -> None:
        self._state = state
        self._cache = cache
        self._locks = locks
        self._plans = plans
        self._entrance = entrance
        self._running_nodes = running_nodes
        self._enqueuer = enqueuer
        self._settings = settings

    def execute_workflow(
        self, new: NewExecution, transaction: CallersTransaction | None = None
    ) -> StartedExecution:
        """Create an execution and send its first node to the workers.

        In a transaction of the caller's, the message waits for its commit. If the broker takes no message
        the execution exists all the same, and is found by recovery.
        """
        if transaction is not None:
            return self._execute_in(transaction, new)
        started = self._state.create_execution(new)
        if started.is_new:
            self._enqueuer.begin(new, started)
        else:
            # The start that used this key before may have ended between its commit and its message.
            self._begin_if_pending(new, started)
        return started

    def _execute_in(self, transaction: CallersTransaction, new: NewExecution) -> StartedExecution:
        started = self._state.create_execution(new, transaction.connection)
        if started.is_new:
            transaction.after_commit(partial(self._enqueuer.begin, new, started))
        return replace(started, _publish=partial(self._begin_if_pending, new, started))

    def _begin_if_pending(self, new: NewExecution, started: StartedExecution) -> None:
        if self._state.status_of(started.id) is not ExecutionStatus.PENDING:
            return
        if started.is_new:
            self._enqueuer.begin(new, started)
        else:
            self.resume_execution(started.id)  # with what it was started with, which may be another version

    def continue_execution(self, message: HopMessage, task_id: str = "") -> None:
        """Run one node of an execution and enqueue the next.

        A message for a node that is not due is dropped. Raises `GivenBack` when the message has to come
        again later: a server cannot be reached, migrations have to be applied first, or the node needs a
        newer worker.
        """
        self._hop(message, task_id, self._run)

    def fail_node(self, message: HopMessage, error: NodeError) -> None:
        """Fail the present attempt of a node whose process could not do so itself.

        It goes through the same steps as running the node, and raises the same.
        """
        self._hop(message, "", lambda hop: hop.failed_attempt(error))

    def _hop(self, message: HopMessage, task_id: str, run: Callable[[Hop], Outcome]) -> None:
        slice_ends = time.monotonic() + TIME_SLICE
        try:
            hop = self._entrance.enter(message, task_id)
            with self._entrance.given_up_on_error(hop.claim):
                done = self._run_and_commit(hop, run)
            while done is not None and (following := self._next_inline(done, slice_ends)) is not None:
                done = self._walk_on(done, following)
            if done is not None:
                self._leave_and_enqueue(done)
        except (NotEntered, ExecutionNotFound) as reason:
            _log_dropped(message, reason)
        except (BackingServiceUnavailable, DatabaseOutdated) as error:
            raise GivenBack(str(error)) from error

    def _run_and_commit(self, hop: Hop, run: Callable[[Hop], Outcome]) -> Committed | None:
        """None if the node was interrupted, and its execution left."""
        try:
            outcome = run(hop)
        except NodeInterrupted:
            self._abandon(hop)
            return None
        return Committed(hop, *self._commit(hop, outcome))

    def _leave_and_enqueue(self, done: Committed) -> None:
        left = self._leave(done)
        self._enqueue(done, left)

    # Between two nodes of a walk inline, in place of leaving, enqueueing and entering

    def _next_inline(self, done: Committed, slice_ends: float) -> Hop | None:
        """The hop into the node that this worker goes on with by itself, if it may."""
        workflow, answer = done.hop.workflow, done.answer
        if not workflow.is_inline or not answer.accepted or not done.walk.due:
            return None
        # What was woken, or an operator has asked for, is enqueued by whoever leaves.
        if answer.status is not ExecutionStatus.RUNNING or answer.attention:
            return None
        if time.monotonic() >= slice_ends or not self._locks.still_holds(done.hop.claim):
            return None
        node = workflow.graph.nodes[done.walk.due[0]]
        if node.timeout is not None or _has_queue_of_its_own(node) or _has_queue_of_its_own(done.hop.node):
            return None
        try:
            workflow.node(node.id)
        except UnknownNodeType:
            return None
        return done.hop.following(node, done.outcome, done.walk, answer)

    def _walk_on(self, done: Committed, following: Hop) -> Committed | None:
        """Run and commit the next node; what keeps it from that ends the slice where it stands."""
        try:
            return self._run_and_commit(following, self._run)
        except BaseException as error:
            # Its message comes anew, and the one that began the slice is served: it must not come again.
            with suppress(CacheUnavailable):
                self._leave_and_enqueue(done)
            if not isinstance(error, GivenBack | BackingServiceUnavailable | DatabaseOutdated):
                raise
            log.warning("Execution %s goes on later: %s", following.execution_id, error)
            return None

    def resume_execution(self, execution_id: str) -> bool:
        """Send what is due of an execution that may have come to a halt, as the journal has it.

        The same front door as any hop: doing it twice, or to an execution that is moving, is harmless.
        False if there was nothing to do: the lock is held, or the execution does not exist, is paused or
        has ended.
        """
        return self._entrance.resume(execution_id)

    # 2 run: resolve expressions, call the node executor

    def _run(self, hop: Hop) -> Outcome:
        if hop.losses.count > self._settings.max_recoveries:
            message = (
                f"the worker process that ran this node was lost {hop.losses.count} times, the last "
                f"{hop.losses.last}; look for a crash or the kernel's out-of-memory killer in the worker's "
                "log"
            )
            return hop.failed(NodeError("WORKER_LOST", message))
        try:
            plan, graph = hop.workflow.node(hop.node.id), hop.workflow.graph
            with self._running_nodes.running(hop.claim) as running:
                context = self._context(hop, running)
                return run_node(plan, graph, context, self._settings.output_limit, hop.claim.token)
        except UnknownNodeType as error:
            if self._state.seconds_since_move(hop.execution_id) < self._settings.unknown_type_patience:
                raise GivenBack(f"node {hop.node.id!r} waits for a newer worker: {error}") from error
            return hop.failed(NodeError("UNKNOWN_NODE_TYPE", str(error)))

    def _context(self, hop: Hop, running: RunningNode) -> ExecutionContext:
        cached, identity = hop.cached, hop.cached.identity
        return ExecutionContext(
            execution_id=hop.execution_id,
            workflow_id=identity["workflowId"],
            trigger_id=identity["triggerId"],
            trigger_node_id=identity["triggerNodeId"],
            current_node_id=hop.node.id,
            node_outputs=LazyMapping(dict(cached.outputs), self._cache.output_loader(cached)),
            variables=decode(cached.variables),
            metadata=LazyMapping(
                dict(identity["metadata"]), self._cache.metadata_loader(cached), announced=("executionPath",)
            ),
            idempotency_key=hop.idempotency_key,
            attempt=hop.attempt,
            wake=hop.wake,
            arrivals=hop.walk.arrivals(hop.workflow.graph, hop.node.id),
            run=running,
        )

    def _abandon(self, hop: Hop) -> None:
        """Leave a node that was interrupted; if its execution still wants it, it runs again, uncounted."""
        self._locks.forget(hop.claim)
        self._cache.discard(hop.claim)
        self._state.record_interruption(hop.execution_id, hop.node.id, worker_name())
        log.warning("Node %s of execution %s was interrupted.", hop.node.id, hop.execution_id)
        self.resume_execution(hop.execution_id)

    # 3 commit: the journal decides

    def _commit(self, hop: Hop, outcome: Outcome) -> tuple[Outcome, Walk, CommitAnswer]:
        """Offer the outcome to Postgres, for as long as it is away; content it refuses fails the node."""
        try:
            return self._offer(hop, outcome)
        except InvalidValue as refusal:
            return self._offer(hop, hop.failed(NodeError(type(refusal).__name__, str(refusal))))

    def _offer(self, hop: Hop, outcome: Outcome) -> tuple[Outcome, Walk, CommitAnswer]:
        walk, step = hop.walk_after(outcome)
        commit = hop.commit_of(outcome, walk, step)
        answer = repeated(
            lambda: self._state.update_execution(commit),
            self._settings.commit_patience,
            f"commit node {hop.node.id} of execution {hop.execution_id}",
        )
        return outcome, walk, answer

    # 4 leave: write and unlock, and send what is due where one call can do both

    def _leave(self, done: Committed) -> Left:
        hop = done.hop
        self._locks.forget(hop.claim)
        try:
            # Until the lock has expired by itself: a message that meets it held would be dropped.
            return repeated(
                lambda: self._leave_cache(done),
                self._settings.lock_expiry,
                f"unlock execution {hop.execution_id}",
            )
        except CacheUnavailable as error:
            log.warning("Execution %s was committed but not cached: %s", hop.execution_id, error)
            return Left(was_updated=False, is_awaited=True)

    def _leave_cache(self, done: Committed) -> Left:
        hop, answer = done.hop, done.answer
        if answer.accepted and answer.status.is_finished:
            self._cache.finish(hop.claim, answer.status.value)
            return Left(was_updated=False, is_awaited=False)
        if answer.accepted and answer.status is not ExecutionStatus.PAUSED:
            changed = hop.changed_fields(done.outcome, done.walk, answer)
            return self._cache.update_context(
                hop.claim, hop.cached.stored_seq, answer.seq, changed, self._message_sent_on_leaving(done)
            )
        self._cache.discard(hop.claim)
        return Left(was_updated=False, is_awaited=self._cache.take_knock(hop.execution_id))

    def _message_sent_on_leaving(self, done: Committed) -> QueuedMessage | None:
        return self._enqueuer.queued(done.standing, done.walk.due[0]) if done.walk.due else None

    # 5 enqueue: what is due next and was not sent on leaving

    def _enqueue(self, done: Committed, left: Left) -> None:
        hop, answer = done.hop, done.answer
        execution_id = hop.execution_id
        if not answer.accepted:
            log.warning(
                "The result of node %s of execution %s was refused: the execution has moved on without it.",
                hop.node.id,
                execution_id,
            )
            self.resume_execution(execution_id)
        elif answer.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING):
            due = [] if left.has_sent else done.walk.due[:1]
            woken = self._enqueuer.woken(execution_id) if answer.attention or left.is_awaited else []
            self._enqueuer.publish(done.standing, [*due, *woken], BROKER_PATIENCE)
        elif answer.status is ExecutionStatus.PAUSED and left.is_awaited:
            self.resume_execution(execution_id)  # it may have been resumed while we held the lock


def _has_queue_of_its_own(node: Node) -> bool:
    return node.queue is not None or node.priority is not None


def _log_dropped(message: HopMessage, reason: Exception) -> None:
    log.info(
        "Dropped the message for node %s of execution %s: %s.",
        message.node_id,
        message.execution_id,
        reason,
        extra={"execution_id": message.execution_id, "node_id": message.node_id, "seq": message.seq},
    )
