"""Recovery: executions that should be moving and are not go on from their journal.

Either a parent reports a process that died with a node, or an execution is found that has not moved for a
while. Both use the front door: what is due is published again and entered like any other node, so that two
rescuers, or a rescuer and the worker it believed dead, cannot both have their way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from workflow_engine.dispatch import Backlog, HopMessage
from workflow_engine.engine import Engine
from workflow_engine.enqueue import queues_of
from workflow_engine.errors import BackingServiceUnavailable, WorkflowEngineError
from workflow_engine.lock import Holder
from workflow_engine.node_run import TIMEOUT
from workflow_engine.node_types import NodeError
from workflow_engine.patience import repeated
from workflow_engine.stalled import StalledExecution
from workflow_engine.time_limits import GRACE, timed_out

log = logging.getLogger(__name__)

LOOKS_PER_STALL = 12
"""How often the fleet looks for executions that stand still, within the time that makes them suspicious."""

AGAIN = 1 / 6
"""The part of that time after which one that was brought back, and has not moved, is suspicious again."""

RENEWING = 2.0
"""Seconds that the renewal of a process's locks may take, beside the time between two of them."""

MOST_PATIENCE = 2**7
"""Where queues cannot be looked into, an execution is brought back after `stall_after`, then after twice that
and so on, up to so many times."""

OUT_OF_ORDER = timedelta(seconds=5)
"""By how much messages may have overtaken each other between their commits and the queue."""

Oldest = Callable[[str, int], datetime | Backlog]


@dataclass(frozen=True)
class LostNode:
    """A node whose process died while it ran."""

    message: HopMessage
    task_id: str
    reason: str
    """What the parent knows of the end of the process."""


class Recovery:
    """Brings executions back that lost their worker or their message."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_look = 0.0

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

    def look_for_stalled(self) -> int:
        """Bring back executions that stand still although nothing keeps them; how many.

        One worker of the fleet looks, in turn. An execution is left alone while a node of it is run, which
        its lock shows, and while its message may be waiting in a long queue, which the oldest message shows.
        """
        settings = self._engine.settings
        interval = settings.stall_after / LOOKS_PER_STALL
        if time.monotonic() < self._next_look:
            return 0
        self._next_look = time.monotonic() + interval
        # A little shorter, so that a worker which is alone does not miss every other turn of its own.
        if not self._engine.turns.take("recovery", interval * 0.9):
            return 0
        # Asked once, and before the executions: a message that is served meanwhile counts as waiting.
        oldest = cache(self._engine.dispatcher.oldest)
        brought_back = 0
        for execution in self._engine.stalled.find(self._suspicious_after(), settings.stall_after * AGAIN):
            try:
                brought_back += self._bring_back(execution, oldest)
            except BackingServiceUnavailable:
                raise
            except (WorkflowEngineError, ValueError) as error:
                log.warning("Execution %s stands still and is left to others: %s", execution.id, error)
        return brought_back

    def _suspicious_after(self) -> float:
        """Seconds without a move after which an execution may have come to a halt.

        When Redis has lost its memory, all messages in it are lost, too: what has not moved since waits for
        nothing, but whoever runs a node needs the time to take its lock again.
        """
        settings = self._engine.settings
        remembered = self._engine.turns.seconds_remembered()
        has_been_locked_again = remembered > settings.lock_expiry / 3 + RENEWING
        return min(remembered, settings.stall_after) if has_been_locked_again else settings.stall_after

    def _bring_back(self, execution: StalledExecution, oldest: Oldest) -> bool:
        if self._may_be_queued(execution, oldest) or self._engine.locks.is_locked(execution.id):
            return False
        if not self._engine.stalled.claim(execution):
            return False
        log.warning(
            "Execution %s has not moved for %.0f s, nobody runs a node of it and its message is not waiting: "
            "it is brought back.",
            execution.id,
            execution.seconds,
        )
        return self._engine.executor.resume_execution(execution.id)

    def _may_be_queued(self, execution: StalledExecution, oldest: Oldest) -> bool:
        """Whether its message may still be waiting: queues are served in order, so then no older one is."""
        workflow = self._engine.plans.get(execution.workflow_id, execution.version)
        for queue, priority in queues_of(workflow, execution.priority, self._engine.settings):
            first = oldest(queue, priority)
            if first is Backlog.UNKNOWN:
                patience = self._engine.settings.stall_after * min(2**execution.recoveries, MOST_PATIENCE)
                if execution.seconds < patience:
                    return True
            elif isinstance(first, datetime) and first <= execution.moved_at + OUT_OF_ORDER:
                return True
        return False

    def _recover(self, lost: LostNode) -> None:
        message = lost.message
        claim = self._claim_of(lost)
        if claim is not None and (timeout := self._outrun_timeout(message, claim[1])) is not None:
            self._engine.locks.free(message.execution_id, claim[0])
            self._engine.executor.fail_node(message, NodeError(TIMEOUT, timed_out(timeout)))
            return
        # Freed only after it was counted: if we are interrupted in between, the mark still tells. It is
        # counted only if the node has not been committed.
        place = f"on {claim[1].instance}:{claim[1].process} " if claim is not None else ""
        losses = self._engine.state.count_loss(
            message.execution_id, self._seq_lost(message, claim), f"{place}({lost.reason})"
        )
        if losses.count:
            log.warning(
                "The process of task %s was lost with a node of execution %s (loss %d of this node): %s",
                lost.task_id,
                message.execution_id,
                losses.count,
                lost.reason,
            )
        if claim is not None:
            self._engine.locks.free(message.execution_id, claim[0])
        self._engine.executor.resume_execution(message.execution_id)

    def _seq_lost(self, message: HopMessage, claim: tuple[bytes, Holder] | None) -> int | None:
        """The seq on top of which a node was being run; None for the present one.

        Whoever walks inline commits further than its message says, for as long as it holds its claim.
        """
        workflow = self._engine.plans.get(message.workflow, message.version)
        return None if workflow.is_inline and claim is not None else message.seq

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
