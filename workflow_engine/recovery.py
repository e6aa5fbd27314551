"""Recovery: executions that should be moving and are not go on from their journal.

It uses the front door: what is due is published again and entered like any other node, so that two
rescuers, or a rescuer and the worker it believed dead, cannot both have their way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from workflow_engine.dispatch import HopMessage
from workflow_engine.engine import Engine
from workflow_engine.lock import Holder
from workflow_engine.node_run import TIMEOUT
from workflow_engine.node_types import NodeError
from workflow_engine.patience import repeated
from workflow_engine.time_limits import GRACE, timed_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostNode:
    """A node whose process died while it ran."""

    message: HopMessage
    task_id: str


class Recovery:
    """Brings executions back that lost their worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def process_lost(self, lost: LostNode) -> None:
        """Free the lock the dead process held, and let its execution go on.

        A node that outran its timeout is failed. Otherwise the loss is counted and what is due is sent; a
        node that keeps killing its process is failed with `WORKER_LOST` by the worker that enters it after
        `max_recoveries` such losses.
        """
        repeated(
            lambda: self._recover(lost),
            self._engine.settings.commit_patience,
            f"recover execution {lost.message.execution_id}",
        )

    def _recover(self, lost: LostNode) -> None:
        message = lost.message
        claim = self._claim_of(lost)
        if claim is not None and (timeout := self._outrun_timeout(message, claim[1])) is not None:
            self._engine.locks.free(message.execution_id, claim[0])
            self._engine.executor.fail_node(message, NodeError(TIMEOUT, timed_out(timeout)))
            return
        # Freed only after it was counted: if we are interrupted in between, the mark still tells. It is
        # counted only if the node has not been committed.
        losses = self._engine.state.count_loss(message.execution_id, message.seq)
        if losses:
            log.warning(
                "The process of task %s was lost with a node of execution %s (loss %d of this node).",
                lost.task_id,
                message.execution_id,
                losses,
            )
        if claim is not None:
            self._engine.locks.free(message.execution_id, claim[0])
        self._engine.executor.resume_execution(message.execution_id)

    def _claim_of(self, lost: LostNode) -> tuple[bytes, Holder] | None:
        """The claim under which the dead process ran the node, if Redis still knows it.

        The lock may have expired, if the node kept even the renewal from running; the mark has not.
        """
        execution_id = lost.message.execution_id
        for value in (self._engine.locks.value_of(execution_id), self._engine.cache.mark_of(execution_id)):
            holder = Holder.from_value(value) if value is not None else None
            if value is not None and holder is not None and holder.task_id == lost.task_id:
                return value, holder
        return None

    def _outrun_timeout(self, message: HopMessage, holder: Holder) -> float | None:
        """The node's timeout, if its process lived so long that the timeout's watchdog ended it."""
        workflow = self._engine.plans.get(message.workflow, message.version)
        timeout = workflow.graph.nodes[message.node_id].timeout
        if timeout is None:
            return None
        lived = (datetime.now(UTC) - datetime.fromisoformat(holder.since)).total_seconds()
        return timeout if lived >= timeout + GRACE else None
