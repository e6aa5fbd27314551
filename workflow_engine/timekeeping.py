"""What the timekeeper of a worker does, one round at a time: wake what is due, recover what was lost.

Every worker does it. Whoever claims a wait or a schedule's time serves it; the others find nothing. So there
is no leader and no extra process, and it goes on as long as one worker lives.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from workflow_engine.client import WorkflowClient
from workflow_engine.engine import Engine
from workflow_engine.errors import CacheUnavailable, WorkflowEngineError
from workflow_engine.patience import repeated
from workflow_engine.recovery import LostNode, Recovery
from workflow_engine.states import ExecutionStatus

log = logging.getLogger(__name__)

BATCH = 200
LONGEST_PAUSE = 1.0
"""Seconds between two rounds at most: a wait may be opened meanwhile that is over sooner than those known."""

SHORTEST_PAUSE = 0.01


class Timekeeping:
    """Rounds of one timekeeper. Nothing that goes wrong in one ends it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = WorkflowClient(engine=engine)
        self._recovery = Recovery(engine)
        self._is_away = False

    def round(self) -> float:
        """Serve everything whose time has come; the seconds after which to look again."""
        try:
            woken = self._wake_waits()
            self._engine.schedules.fire_due(self._start)
            self._end_overdue()
            pause = 0.0 if woken == BATCH else self._pause()
        except WorkflowEngineError as error:
            if not self._is_away:
                log.warning("The timekeeper cannot do its work, trying again: %s", error)
            self._is_away = True
            return LONGEST_PAUSE
        self._is_away = False
        return pause

    def recover(self, lost: LostNode) -> None:
        """Bring an execution back whose process was lost."""
        try:
            self._recovery.process_lost(lost)
        except WorkflowEngineError as error:
            log.error("Execution %s could not be recovered: %s", lost.message.execution_id, error)

    def _wake_waits(self) -> int:
        due = self._engine.waits.claim_due(BATCH)
        # Here and now: with every claim that comes to nothing, the next one would be later.
        repeated(
            lambda: self._engine.executor.wake(due),
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

    def _pause(self) -> float:
        seconds = [LONGEST_PAUSE]
        if (next_wait := self._engine.waits.seconds_to_next()) is not None:
            seconds.append(next_wait)
        if (next_start := self._engine.schedules.next_wake()) is not None:
            # By our own clock, which may be off: it only decides when we look, within a second.
            seconds.append((next_start - datetime.now(UTC)).total_seconds())
        return max(min(seconds), SHORTEST_PAUSE)
