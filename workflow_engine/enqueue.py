"""Enqueueing: which nodes of an execution are due, and the messages that ask workers to run them.

The last step of every hop, and of every recovery. A message may be lost afterwards without harm, and one that
cannot be sent only delays its execution: what is due is in the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.definition import Node
from workflow_engine.dispatch import Dispatch, Dispatcher, HopMessage
from workflow_engine.errors import BrokerUnavailable, CacheUnavailable, DatabaseUnavailable, WorkflowNotFound
from workflow_engine.execution_records import FIRST_SEQ, DueWait, NewExecution, StartedExecution
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.patience import repeated
from workflow_engine.plan import Plans, WorkflowPlan
from workflow_engine.queued_message import QueuedMessage
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.waits import Waits
from workflow_engine.walk import Walk

log = logging.getLogger(__name__)

AHEAD_OF_THE_QUEUE = 0
"""Priority of messages for executions that came to a halt."""

BROKER_PATIENCE = 30.0
"""Seconds a worker tries to enqueue the next node, with the commit behind it and the lock released."""


@dataclass(frozen=True)
class Standing:
    """Where an execution stands: what the messages for all its nodes that are due have in common."""

    execution_id: str
    workflow: WorkflowPlan
    seq: int
    priority: int | None
    committed_at: datetime | None
    """The database's time of the commit of `seq`, or of when its message was found to be lost."""


class Enqueuer:
    """Hands the nodes that are due to the broker. One instance serves a process."""

    def __init__(
        self,
        state: ExecutionStateService,
        cache: ExecutionContextCache,
        dispatcher: Dispatcher,
        plans: Plans,
        waits: Waits,
        settings: Settings,
    ) -> None:
        self._state = state
        self._cache = cache
        self._dispatcher = dispatcher
        self._plans = plans
        self._waits = waits
        self._settings = settings

    def begin(self, new: NewExecution, started: StartedExecution) -> None:
        """Publish the first node of an execution that was created and has committed."""
        workflow = self._plans.get(new.workflow_id, new.version)
        walk = Walk.start(workflow.graph, new.trigger_node_id)
        self.go_on(Standing(started.id, workflow, FIRST_SEQ, new.priority, started.created_at), walk)

    def go_on(self, standing: Standing, walk: Walk) -> None:
        """Publish the first node in line and those that were woken; without any left, it is completed."""
        execution_id = standing.execution_id
        if walk.is_finished:
            self._state.update_execution_status(execution_id, ExecutionStatus.COMPLETED)
            with suppress(CacheUnavailable):
                self._cache.announce_finished(execution_id, ExecutionStatus.COMPLETED.value)
            return
        woken = self.woken(execution_id) if walk.waiting else []
        self.publish(standing, [*walk.due[:1], *woken])

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
            standing = Standing(wait.execution_id, workflow, wait.seq, wait.priority, wait.woken_at)
            dispatches.append(self._dispatch(standing, wait.node_id))
        self._dispatcher.publish(dispatches)

    def woken(self, execution_id: str) -> list[str]:
        """The nodes that were woken; none if nobody can tell: they are claimed again, what is due is not."""
        try:
            return self._waits.take_attention(execution_id)
        except DatabaseUnavailable as error:
            log.warning("The woken nodes of execution %s have to wait: %s", execution_id, error)
            return []

    def publish(self, standing: Standing, node_ids: Sequence[str], patience: float = 0.0) -> None:
        """Hand messages for these nodes to the broker, and try to for `patience` seconds while it is away."""
        dispatches = [self._dispatch(standing, node_id) for node_id in node_ids]
        if not dispatches:
            return
        with suppress(BrokerUnavailable):  # told where it was met; recovery sends what is due
            repeated(
                lambda: self._dispatcher.publish(dispatches),
                patience,
                f"enqueue {', '.join(node_ids)} of execution {standing.execution_id}",
            )

    def queued(self, standing: Standing, node_id: str) -> QueuedMessage | None:
        """The message for a node, for whoever can send it on the way; None if it has to be published."""
        try:
            return self._dispatcher.queued(self._dispatch(standing, node_id))
        except BrokerUnavailable:
            return None

    def _dispatch(self, standing: Standing, node_id: str) -> Dispatch:
        workflow = standing.workflow
        queue, priority = _queue_of(workflow.graph.nodes[node_id], standing.priority, self._settings)
        return Dispatch(
            HopMessage(standing.execution_id, workflow.workflow.id, workflow.version, node_id, standing.seq),
            queue=queue,
            priority=priority,
            committed_at=standing.committed_at,
        )


def queues_of(workflow: WorkflowPlan, priority: int | None, settings: Settings) -> set[tuple[str, int]]:
    """The queues and priorities in which messages of an execution of this priority may be waiting."""
    nodes = workflow.graph.nodes.values()
    return {_queue_of(node, each, settings) for node in nodes for each in (priority, AHEAD_OF_THE_QUEUE)}


def _queue_of(node: Node, priority: int | None, settings: Settings) -> tuple[str, int]:
    priorities = (node.priority, priority, settings.node_priority)
    return node.queue or settings.queue, next(number for number in priorities if number is not None)
