"""The rounds of a worker's timekeeper: it wakes what is due and recovers what was lost.

Every worker has one. The worker that claims a wait or a scheduled time serves it; the others find nothing. So
there is no leader and no extra process, and time is kept as long as one worker lives.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from workflow_engine.control.moving import Mover
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.given import Start
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    WorkflowEngineError,
    WorkflowNotFound,
)
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.records import FailureStart
from workflow_engine.execution.states import ExecutionStatus, HistoryLine
from workflow_engine.maintenance.keeping import Keeping
from workflow_engine.maintenance.queues import QueueRounds
from workflow_engine.maintenance.recovery import LostNode, Recovery
from workflow_engine.maintenance.schedules import Schedules
from workflow_engine.maintenance.slots import SlotRounds
from workflow_engine.outages import outages, retry_unavailable
from workflow_engine.postgres.due_times import NextDue
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

BATCH = 100
"""Waits to claim at once: so few that workers share many waits that are due together."""

LONGEST_PAUSE = 1.0
"""Seconds between two rounds at most: a wait opened in between may end sooner than those known."""

SHORTEST_PAUSE = 0.01

WORKER_ENDS = "the worker ends"


@dataclass(frozen=True)
class UnfinishedNode:
    """A node that a worker was running, or about to run, when it exited."""

    message: HopMessage
    worker: str
    has_begun: bool


class Timekeeping:
    """The rounds of one timekeeper."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._descendants = Mover.of(engine).descendants
        self._recovery = Recovery(engine)
        self._slots = SlotRounds(engine)
        self._queues = QueueRounds(engine)
        self._keeping = Keeping(engine)
        self._schedules = Schedules(engine.triggers, grace=engine.settings.schedule_grace)

    def round(self) -> float:
        """Serve everything that is due, and return the seconds until the next round.

        While a server is away the round is skipped; any other error is raised.
        """
        try:
            with outages.watch("wake waits and fire schedules"):
                return self._serve(self._engine.due_times.next(self._engine.code))
        except (BackingServiceUnavailable, DatabaseOutdated):
            return LONGEST_PAUSE

    def recover(self, lost: LostNode) -> None:
        """Recover an execution whose process was lost; log an error if that fails."""
        with lost.message.log_context():
            try:
                self._recovery.process_lost(lost)
            except WorkflowEngineError as error:
                log.error(
                    "Cannot recover execution %s now; it will be rescued as stalled: %s",
                    lost.message.execution_id,
                    error,
                    extra=log_fields(LogEvent.RECOVERY_FAILED, error=error),
                )

    def record(self, unfinished: UnfinishedNode) -> None:
        """Record in the history of its execution that a node was interrupted, or its message requeued."""
        message = unfinished.message
        kind = HistoryLine.INTERRUPTED if unfinished.has_begun else HistoryLine.REQUEUED
        try:
            workflow = self._engine.workflows.get(message.workflow, message.version)
            # The parent process does not know which node of an inline walk is running.
            node_id = None if unfinished.has_begun and workflow.is_inline else message.node_id
            self._engine.state.record(
                kind, message.execution_id, node_id, unfinished.worker, WORKER_ENDS, since=message.seq
            )
        except WorkflowEngineError as error:
            log.warning(
                "Cannot record %s in the history of execution %s: %s",
                kind,
                message.execution_id,
                error,
                extra=log_fields(
                    LogEvent.HISTORY_LINE_LOST,
                    execution_id=message.execution_id,
                    workflow=message.workflow,
                    node_id=message.node_id,
                    seq=message.seq,
                    line=kind.value,
                    error=error,
                ),
            )

    def _serve(self, due: NextDue) -> float:
        woken = self._wake_waits() if due.wait <= 0 else 0
        if due.schedule <= 0:
            self._schedules.fire_due(self._start)
        if due.timeout <= 0:
            self._end_timed_out()
        if due.children <= 0:
            self._descendants.see_to_due()
        if due.queue <= 0:
            self._queues.fail_late()
        next_slot = self._slots.serve(due)
        if self._recovery.rescue_stalled():
            return 0.0  # a wake that was lost can be claimed again at once
        if woken == BATCH:
            return 0.0
        if due.soonest > 0 and not self._recovery.is_looking:
            self._keeping.serve()
        pause = min(max(due.soonest, SHORTEST_PAUSE), next_slot, LONGEST_PAUSE)
        return min(pause, self._recovery.seconds_until_look)

    def _wake_waits(self) -> int:
        due = self._engine.waits.claim_due(BATCH, self._engine.code)
        try:
            queued = retry_unavailable(
                lambda: self._engine.publisher.wake_unless_queued(due),
                self._engine.settings.claim_lease,
                f"enqueue {len(due)} nodes whose waits are over",
            )
        except BrokerUnavailable:
            self._engine.waits.renew(due, lease=0)
            raise
        self._engine.waits.renew(queued)
        return len(due)

    def _start(
        self, workflow_id: str, trigger: str, data: Any, idempotency_key: str, queue: str, **notes: Any
    ) -> None:
        start = Start(data, trigger=trigger, idempotency_key=idempotency_key, queue=queue, **notes)
        self._engine.starts.start(workflow_id, start)

    def _end_timed_out(self) -> None:
        for ended in self._engine.timeouts.end(self._started_by_timeouts()):
            execution_id = ended.execution_id
            self._engine.publisher.follow_up(ended.follow_ups)
            log.info(
                "Execution %s exceeded its timeout and has failed.",
                execution_id,
                extra=log_fields(LogEvent.EXECUTION_TIMED_OUT, execution_id=execution_id),
            )
            with suppress(CacheUnavailable):
                self._engine.cache.remove_from_cache(execution_id)
                self._engine.cache.announce_finished(execution_id, ExecutionStatus.FAILED.value)
                for holder in self._engine.locks.holders(execution_id):
                    self._engine.running_nodes.interrupt(execution_id, holder)

    def _started_by_timeouts(self) -> dict[str, FailureStart]:
        """Return what is started by executions past their timeout that have an `onFailure`."""
        starts = {}
        for overdue in self._engine.timeouts.with_on_failure():
            with suppress(ValueError, WorkflowNotFound):  # only a newer worker reads the definition
                start = self._engine.failure_workflows.of_timeout(
                    overdue.execution_id, overdue.workflow_id, overdue.version
                )
                if start is not None:
                    starts[overdue.execution_id] = start
        return starts
