"""Removal of executions that have outlived the `keep` of their workflow, in small batches."""

from __future__ import annotations

import logging
import time

from workflow_engine.engine.assembly import Engine
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

BATCH = 200
"""Executions that a round removes at most, so that it delays nothing that comes due meanwhile."""

INTERVAL = 60.0
"""Seconds between two looks of the fleet, while nothing is left to remove."""

TURN = "keep"
"""The lease of a look."""


class Keeping:
    """Removes what is kept no longer. Methods may raise as its stores do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_look = 0.0
        self._is_removing = False

    def serve(self) -> int:
        """Remove a batch if it is time to, and return its size. One worker of the fleet looks at a time."""
        if not self._is_removing and not self._is_our_turn():
            return 0
        removed = self._engine.retention.remove_outlived(batch=BATCH)
        self._is_removing = removed > 0
        if removed:
            log.info(
                "Removed %d executions that their workflows keep no longer.",
                removed,
                extra=log_fields(LogEvent.EXECUTIONS_REMOVED, executions=removed),
            )
        return removed

    def _is_our_turn(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + INTERVAL
        return self._engine.leases.take(TURN, INTERVAL * 0.9)
