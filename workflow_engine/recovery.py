"""Recovery: executions that should be moving and are not go on from their journal.

It uses the front door: what is due is published again and entered like any other node, so that two
rescuers, or a rescuer and the worker it believed dead, cannot both have their way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from workflow_engine.engine import Engine
from workflow_engine.patience import repeated

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostNode:
    """A node whose process died while it ran."""

    execution_id: str
    seq: int
    """Of the message that the process was serving."""
    task_id: str


class Recovery:
    """Brings executions back that lost their worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def process_lost(self, lost: LostNode) -> None:
        """Count the loss, free the lock the dead process held, and send what is due.

        A node that keeps killing its process is failed with `WORKER_LOST` by the worker that enters it
        after `max_recoveries` such losses.
        """
        repeated(
            lambda: self._recover(lost),
            self._engine.settings.commit_patience,
            f"recover execution {lost.execution_id}",
        )

    def _recover(self, lost: LostNode) -> None:
        held = self._engine.locks.held_by(lost.execution_id)
        if held is not None and held[1].task_id == lost.task_id:
            # Freed only after it was counted: if we are interrupted in between, the mark still tells.
            losses = self._engine.state.count_loss(lost.execution_id, lost.seq)
            log.warning(
                "The process of task %s was lost with a node of execution %s (loss %d of this node).",
                lost.task_id,
                lost.execution_id,
                losses,
            )
            self._engine.locks.free(lost.execution_id, held[0])
        self._engine.executor.resume_execution(lost.execution_id)
