"""WorkflowExecutor: one hop of an execution, from a message to the next message.

A hop is five steps: enter (lock and read), run, commit, leave (write and unlock), enqueue. Postgres
decides in the third; the others can fail or be repeated at any point without losing or doubling a result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from workflow_engine.context import ExecutionContext, LazyMapping
from workflow_engine.context_cache import (
    CachedContext,
    ExecutionContextCache,
    Held,
    Late,
    Missing,
    rebuilt_context,
    step_fields,
)
from workflow_engine.definition import Node
from workflow_engine.dispatch import Dispatch, Dispatcher, HopMessage
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    DatabaseUnavailable,
    ExecutionNotFound,
    GivenBack,
    InvalidValue,
    UnknownNodeType,
    WorkflowNotFound,
)
from workflow_engine.execution_queries import checked_id
from workflow_engine.execution_records import (
    FORMAT,
    CommitAnswer,
    DueWait,
    NewExecution,
    Snapshot,
    StartedExecution,
)
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.hop import Hop
from workflow_engine.json_values import decode, encode
from workflow_engine.lock import Claim, DistributedLockService, Holder
from workflow_engine.node_run import Outcome, run_node
from workflow_engine.node_types import NodeError
from workflow_engine.patience import repeated
from workflow_engine.plan import Plans, WorkflowPlan
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.waits import Waits
from workflow_engine.walk import Walk

log = logging.getLogger(__name__)

AHEAD_OF_THE_QUEUE = 0
"""Priority of messages for executions that came to a halt."""

BROKER_PATIENCE = 30.0
"""Seconds a worker tries to enqueue the next node, with the commit behind it and the lock released."""


LEAVING = 0.05
"""Seconds within which a worker that has committed a node has surely unlocked its execution."""

NOT_DUE = "the node is neither due nor woken"


class NotEntered(Exception):
    """A message does not lead into a node; somebody else is bound to publish what is due."""


class WorkflowExecutor:
    """Runs executions node by node. One instance serves a process and holds no state of an execution."""

    def __init__(
        self,
        state: ExecutionStateService,
        cache: ExecutionContextCache,
        locks: DistributedLockService,
        dispatcher: Dispatcher,
        plans: Plans,
        waits: Waits,
        settings: Settings,
    ) -> None:
        self._state = state
        self._cache = cache
        self._locks = locks
        self._dispatcher = dispatcher
        self._plans = plans
        self._waits = waits
        self._settings = settings

    def execute_workflow(self, new: NewExecution) -> StartedExecution:
        """Create an execution and send its first node to the workers.

        If the broker takes no message the execution exists all the same, and goes on when it is resumed.
        """
        started = self._state.create_execution(new)
        if started.is_new:
            workflow = self._plans.get(new.workflow_id, new.version)
            walk = Walk.start(workflow.graph, new.trigger_node_id)
            self._go_on(started.id, workflow, walk, 1, new.priority)
        elif self._state.status_of(started.id) is ExecutionStatus.PENDING:
            # The start that used this key before may have ended between its commit and its message.
            self.resume_execution(started.id)
        return started

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
        try:
            hop = self._enter(message, task_id)
            with self._released_on_error(hop.claim):
                outcome = run(hop)
                outcome, walk, answer = self._commit(hop, outcome)
            self._leave(hop, outcome, walk, answer)
            self._enqueue(hop, walk, answer)
        except (NotEntered, ExecutionNotFound) as reason:
            _log_dropped(message, reason)
        except (BackingServiceUnavailable, DatabaseOutdated) as error:
            raise GivenBack(str(error)) from error

    def resume_execution(self, execution_id: str) -> bool:
        """Send what is due of an execution that may have come to a halt, as the journal has it.

        The same front door as any hop: doing it twice, or to an execution that is moving, is harmless.
        False if there was nothing to do: the lock is held, or the execution does not exist, is paused or
        has ended.
        """
        claim = self._locks.acquire_lock(execution_id)
        if claim is None:
            return False
        with self._released(claim):
            snapshot = self._state.load_snapshot(execution_id)
            if snapshot is None or not _may_move(snapshot):
                return False
            workflow = self._plans.get(snapshot.workflow_id, snapshot.version)
            walk = _replayed(workflow, snapshot)
            self._cache.remove_from_cache(execution_id)
        # Only now, or the message could arrive while we still hold the lock.
        self._go_on(execution_id, workflow, walk, snapshot.seq, AHEAD_OF_THE_QUEUE)
        return True

    def wake(self, due: Sequence[DueWait]) -> None:
        """Enqueue nodes whose waits are over and were claimed. Raises `BrokerUnavailable`."""
        dispatches = []
        for wait in due:
            try:
                workflow = self._plans.get(wait.workflow_id, wait.version)
            except (WorkflowNotFound, ValueError) as error:
                # One definition that only a newer worker can read must not keep all others waiting.
                log.warning("Execution %s is left to another worker: %s", wait.execution_id, error)
                continue
            dispatches.append(
                self._dispatch(wait.execution_id, workflow, wait.node_id, wait.seq, wait.priority)
            )
        self._dispatcher.publish(dispatches)

    # 1 enter: lock and read

    def _enter(self, message: HopMessage, task_id: str) -> Hop:
        """Take the lock and read what the node needs. Raises `NotEntered`."""
        workflow, node = self._node_of(message)
        claim = self._locks.new_claim(message.execution_id, task_id)
        with self._released_on_error(claim):  # the script may have run though its answer was lost
            entered = self._cache.enter(claim, node.id, message.seq, workflow.needs(node.id))
            if isinstance(entered, Held):
                # The holder's commit enqueues a woken node for which this message would be dropped, unless it
                # has been made already: then the holder is about to unlock.
                self._waits.ask_attention(checked_id(message.execution_id), node.id)
                time.sleep(LEAVING)
                entered = self._cache.enter(claim, node.id, message.seq, workflow.needs(node.id))
        if isinstance(entered, Late):
            raise NotEntered(NOT_DUE)
        if isinstance(entered, Held):
            raise _locked_out(entered, task_id)
        self._locks.hold(claim)
        with self._released_on_error(claim):
            if isinstance(entered, Missing):
                cached, losses = self._rebuild(claim, message, workflow, node)
            else:
                cached, losses = entered, self._losses(entered)
            _check_version(message, cached.identity["workflowId"], cached.identity["version"])
            walk = Walk.from_json(cached.walk)
            woken = self._waits.woken(message.execution_id, node.id) if node.id in walk.waiting else None
            if woken is None and node.id not in walk.due:
                # The message for the node that is due may have met our lock, and been dropped.
                self._locks.release_lock(claim)
                self._go_on(message.execution_id, workflow, walk, cached.seq, cached.identity["priority"])
                raise NotEntered(NOT_DUE)
        return Hop(claim, workflow, node, cached, walk, losses, woken)

    def _node_of(self, message: HopMessage) -> tuple[WorkflowPlan, Node]:
        try:
            workflow = self._plans.get(message.workflow, message.version)
        except WorkflowNotFound as error:
            raise NotEntered(str(error)) from error
        if (node := workflow.graph.nodes.get(message.node_id)) is None:
            raise NotEntered("the workflow has no such node")
        return workflow, node

    def _rebuild(
        self, claim: Claim, message: HopMessage, workflow: WorkflowPlan, node: Node
    ) -> tuple[CachedContext, int]:
        """Read the context from Postgres and cache it; also how many processes this node has lost."""
        snapshot = self._state.load_snapshot(checked_id(message.execution_id))
        if snapshot is None:
            raise ExecutionNotFound(message.execution_id)
        if not _may_move(snapshot):
            raise NotEntered(f"the execution is {snapshot.status}")
        _check_version(message, snapshot.workflow_id, snapshot.version)
        walk = _replayed(workflow, snapshot)
        encoded = walk.to_json()
        self._cache.cache_context(claim, snapshot, encoded)
        if node.id not in walk.due and node.id not in walk.waiting:
            # The message for the node that is due may have met our lock, and been dropped.
            self._locks.release_lock(claim)
            self._go_on(message.execution_id, workflow, walk, snapshot.seq, AHEAD_OF_THE_QUEUE)
            raise NotEntered(NOT_DUE)
        return rebuilt_context(snapshot, encoded, workflow.needs(node.id)), snapshot.losses

    def _losses(self, cached: CachedContext) -> int:
        """A mark that somebody left and never removed is a process that was lost while it ran the node."""
        return self._state.count_loss(cached.execution_id, cached.seq) if cached.mark else 0

    # 2 run: resolve expressions, call the node executor

    def _run(self, hop: Hop) -> Outcome:
        if hop.losses > self._settings.max_recoveries:
            message = (
                f"the worker process that ran this node was lost {hop.losses} times; look for a crash or the "
                "kernel's out-of-memory killer in the worker's log"
            )
            return hop.failed(NodeError("WORKER_LOST", message))
        try:
            plan = hop.workflow.node(hop.node.id)
            return run_node(plan, hop.workflow.graph, self._context(hop), self._settings.output_limit)
        except UnknownNodeType as error:
            if self._state.seconds_since_move(hop.execution_id) < self._settings.unknown_type_patience:
                raise GivenBack(f"node {hop.node.id!r} waits for a newer worker: {error}") from error
            return hop.failed(NodeError("UNKNOWN_NODE_TYPE", str(error)))

    def _context(self, hop: Hop) -> ExecutionContext:
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
        )

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

    # 4 leave: write and unlock

    def _leave(self, hop: Hop, outcome: Outcome, walk: Walk, answer: CommitAnswer) -> None:
        self._locks.forget(hop.claim)
        try:
            # Until the lock has expired by itself: a message that meets it held would be dropped.
            repeated(
                lambda: self._leave_cache(hop, outcome, walk, answer),
                self._settings.lock_expiry,
                f"unlock execution {hop.execution_id}",
            )
        except CacheUnavailable as error:
            log.warning("Execution %s was committed but not cached: %s", hop.execution_id, error)

    def _leave_cache(self, hop: Hop, outcome: Outcome, walk: Walk, answer: CommitAnswer) -> None:
        if answer.accepted and answer.status.is_finished:
            self._cache.finish(hop.claim, answer.status.value)
        elif answer.accepted and answer.status is not ExecutionStatus.PAUSED:
            variables = encode(hop.variables_after(outcome)) if outcome.variables else None
            changed = step_fields(
                answer.seq,
                hop.node.id,
                answer.fence,
                walk.to_json(),
                outcome.output,
                variables,
                begins_visit=hop.begins_visit,
            )
            self._cache.update_context(hop.claim, hop.cached.seq, answer.seq, changed)
        else:
            self._cache.discard(hop.claim)

    # 5 enqueue: what is due next

    def _enqueue(self, hop: Hop, walk: Walk, answer: CommitAnswer) -> None:
        execution_id = hop.execution_id
        if not answer.accepted:
            log.warning(
                "The result of node %s of execution %s was refused: the execution has moved on without it.",
                hop.node.id,
                execution_id,
            )
            self.resume_execution(execution_id)
        elif answer.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING):
            woken = self._woken(execution_id) if answer.attention else []
            self._publish(
                execution_id,
                hop.workflow,
                [*walk.due[:1], *woken],
                answer.seq,
                hop.cached.identity["priority"],
                answer.committed_at,
            )

    def _go_on(
        self, execution_id: str, workflow: WorkflowPlan, walk: Walk, seq: int, priority: int | None
    ) -> None:
        """Publish the first node in line and those that were woken; without any left, it is completed."""
        if walk.is_finished:
            self._state.update_execution_status(execution_id, ExecutionStatus.COMPLETED)
            with suppress(CacheUnavailable):
                self._cache.announce_finished(execution_id, ExecutionStatus.COMPLETED.value)
            return
        woken = self._woken(execution_id) if walk.waiting else []
        self._publish(execution_id, workflow, [*walk.due[:1], *woken], seq, priority)

    def _woken(self, execution_id: str) -> list[str]:
        """The nodes that were woken; none if nobody can tell: they are claimed again, what is due is not."""
        try:
            return self._waits.take_attention(execution_id)
        except DatabaseUnavailable as error:
            log.warning("The woken nodes of execution %s have to wait: %s", execution_id, error)
            return []

    def _publish(
        self,
        execution_id: str,
        workflow: WorkflowPlan,
        node_ids: Sequence[str],
        seq: int,
        priority: int | None,
        committed_at: datetime | None = None,
    ) -> None:
        """Hand messages for these nodes to the broker; after a commit, for as long as it takes."""
        dispatches = [
            self._dispatch(execution_id, workflow, node_id, seq, priority, committed_at)
            for node_id in node_ids
        ]
        try:
            repeated(
                lambda: self._dispatcher.publish(dispatches),
                BROKER_PATIENCE if committed_at else 0,
                f"enqueue {', '.join(node_ids)} of execution {execution_id}",
            )
        except BrokerUnavailable as error:
            log.error("Execution %s stands still until it is resumed: %s", execution_id, error)

    def _dispatch(
        self,
        execution_id: str,
        workflow: WorkflowPlan,
        node_id: str,
        seq: int,
        priority: int | None,
        committed_at: datetime | None = None,
    ) -> Dispatch:
        node = workflow.graph.nodes[node_id]
        priorities = (node.priority, priority, self._settings.node_priority)
        return Dispatch(
            HopMessage(execution_id, workflow.workflow.id, workflow.version, node_id, seq),
            queue=node.queue or self._settings.queue,
            priority=next(number for number in priorities if number is not None),
            committed_at=committed_at,
        )

    # Locks are given up whatever happens

    @contextmanager
    def _released(self, claim: Claim) -> Iterator[None]:
        try:
            yield
        finally:
            with suppress(CacheUnavailable):  # the lock then expires by itself
                self._locks.release_lock(claim)

    @contextmanager
    def _released_on_error(self, claim: Claim) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(CacheUnavailable):
                self._locks.release_lock(claim)
            raise


def _locked_out(held: Held, task_id: str) -> Exception:
    holder = Holder.from_value(held.holder)
    if holder is not None and task_id and holder.task_id == task_id:
        return GivenBack("an earlier delivery of this message holds the lock, or left it behind")
    return NotEntered("the execution is locked by another worker, which goes on with it")


def _check_version(message: HopMessage, workflow_id: str, version: int) -> None:
    if (workflow_id, version) != (message.workflow, message.version):
        raise NotEntered(f"the execution runs version {version} of {workflow_id!r}")


def _may_move(snapshot: Snapshot) -> bool:
    if snapshot.format > FORMAT:
        raise GivenBack(f"execution {snapshot.execution_id} was written by a newer release")
    return not snapshot.status.is_finished and snapshot.status is not ExecutionStatus.PAUSED


def _replayed(workflow: WorkflowPlan, snapshot: Snapshot) -> Walk:
    return Walk.replay(
        workflow.graph, snapshot.trigger_node_id, [row.entry for row in snapshot.journal], snapshot.visits
    )


def _log_dropped(message: HopMessage, reason: Exception) -> None:
    log.info(
        "Dropped the message for node %s of execution %s: %s.",
        message.node_id,
        message.execution_id,
        reason,
        extra={"execution_id": message.execution_id, "node_id": message.node_id, "seq": message.seq},
    )
