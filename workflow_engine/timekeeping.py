"""What the timekeeper of a worker does, one round at a time: wake what is due, recover what was lost.

Every worker does it. Whoever claims a wait or a schedule's time serves it; the others find nothing. So there
is no leader and no extra process, and it goes on as long as one worker lives.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from workflow_engine.agenda import Agenda, NextDue
from workflow_engine.client import WorkflowClient
from workflow_engine.engine import Engine
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    WorkflowEngineError,
)
from workflow_engine.outages import outages
from workflow_engine.patience import repeated
from workflow_engine.recovery import LostNode, Recovery
from workflow_engine.states import ExecutionStatus

log = logging.getLogger(__name__)

BATCH = 100
"""Waits to claim at once: so few that workers share many which are due together."""

LONGEST_PAUSE = 1.0
"""Seconds between two rounds at most: a wait may be opened meanwhile that is over sooner than those known."""

SHORTEST_PAUSE = 0.01


class Timekeeping:
    """Rounds of one timekeeper."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = WorkflowClient(engine=engine)
        self._recovery = Recovery(engine)
        self._agenda = Agenda(engine.state.engine, engine.settings)

    def round(self) -> float:
        """Serve everything whose time has come; the seconds after which to look again.

        Servers that are away are waited for; any other error is the caller's.
        """
        try:
            with outages.told("keep time"):
                return self._serve(self._agenda.look())
        except (BackingServiceUnavailable, DatabaseOutdated):
            return LONGEST_PAUSE

    def recover(self, lost: LostNode) -> None:
        """Bring an execution back whose process was lost."""
        try:
            self._recovery.process_lost(lost)
        except WorkflowEngineError as error:
            log.error("Execution %s could not be recovered: %s", lost.message.execution_id, error)

    def _serve(self, due: NextDue) -> float:
        woken = self._wake_waits() if due.wait <= 0 else 0
        if due.schedule <= 0:
            self._engine.schedules.fire_due(self._start)
        if due.timeout <= 0:
            self._end_overdue()
        self._recovery.look_for_stalled()
        if woken == BATCH:
            return 0.0
        return min(max(due.soonest, SHORTEST_PAUSE), LONGEST_PAUSE)

    def _wake_waits(self) -> int:
        due = self._engine.waits.claim_due(BATCH)
        # Here and now: with every claim that comes to nothing, the next one would be later.
        repeated(
            lambda: self._engine.enqueuer.wake(due),
            self._engine.settings.claim_lease,
            f"enqueue {len(due)} nodes whose waits are over",
        )
        return len(due)

    def _start(self, workflow_id: str, trigger: str, data: Any, idempotency_key: str) -> None:
        self._client.start(workflow_id, data, trigger=trigger, idempotency_key=idempotency_key)

    def _end_overdue(self) -> None:
        for execution_id in self._engine.overdue.end():
            log.info("Execution %s took longer than its timeout and has failed.", execution_id)
            with suppress(CacheUnavailable):
                self._engine.cache.remove_from_cache(execution_id)
                self._engine.cache.announce_finished(execution_id, ExecutionStatus.FAILED.value)
                if (held := self._engine.locks.held_by(execution_id)) is not None:
                    self._engine.running_nodes.interrupt(execution_id, held[1].token)
