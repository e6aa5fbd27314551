"""Nodes that no worker has begun within their `queueTimeout`: the rounds in which the timekeepers fail them.

The worker that takes such a node's message fails it as well; the lock of the execution decides between them.
"""

from __future__ import annotations

import logging

from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.resumption import may_move, replayed
from workflow_engine.errors import Requeue, WorkflowNotFound
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.messages import HopMessage
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

BATCH = 50
"""Nodes to claim at once: so few that a process fails all of them before another one looks again."""


class QueueRounds:
    """Fails nodes that stand in their queues for too long. Methods may raise as its stores do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fail_late(self) -> None:
        """Fail the nodes whose time is over, one batch of them."""
        for execution_id, node_id in self._engine.queue_deadlines.claim(BATCH):
            try:
                self._fail(execution_id, node_id)
            except (Requeue, WorkflowNotFound, ValueError) as error:  # another worker may read the definition
                log.warning(
                    "Cannot fail node %s of execution %s, which has stood in its queue for too long; a "
                    "timekeeper will: %s",
                    node_id,
                    execution_id,
                    error,
                    extra=log_fields(LogEvent.EXECUTION_LEFT, execution_id=execution_id, error=error),
                )

    def _fail(self, execution_id: str, node_id: str) -> None:
        snapshot = self._engine.state.load_snapshot(checked_id(execution_id), with_outputs=False)
        if snapshot is None:
            return
        workflow = self._engine.workflows.get(snapshot.workflow_id, snapshot.version)
        if not may_move(snapshot) and not snapshot.status.is_finished:
            return
        if snapshot.status.is_finished or node_id not in replayed(workflow, snapshot).due:
            self._engine.queue_deadlines.forget(execution_id, node_id)
            return
        message = HopMessage(execution_id, snapshot.workflow_id, snapshot.version, node_id, snapshot.seq)
        self._engine.executor.expire_node(message)
