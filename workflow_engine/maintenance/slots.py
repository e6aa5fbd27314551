"""Slots of limits that no process grants: the rounds in which the timekeepers find and grant them.

The process that frees a slot grants it. A timekeeper finds what is left: the slots of processes that died, of
owners that were resumed, and those that a rate allows by now. One worker of the fleet looks at a time.
"""

from __future__ import annotations

import math
import time

from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.records import FollowUps
from workflow_engine.postgres.due_times import NextDue

LONGEST_PAUSE = 1.0
"""Seconds between two looks while anyone waits for a slot."""

SHORTEST_PAUSE = 0.05

TURN = "limits"
"""The lease of a look."""


class SlotRounds:
    """Grants slots that are free although no commit has freed them. Methods may raise as its stores do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_look = 0.0
        self._interval = LONGEST_PAUSE

    def serve(self, due: NextDue) -> float:
        """Look if it is time to, and grant what is free. Return the seconds until the next look."""
        if due.slot > 0 and not due.has_lines:
            return math.inf
        if due.slot > 0 and not self._is_our_turn():
            return max(self._next_look - time.monotonic(), SHORTEST_PAUSE)
        open_keys, next_in = self._engine.limits.look()
        if open_keys:
            self._engine.publisher.follow_up(FollowUps(freed=tuple(open_keys)))
        self._interval = min(max(next_in or LONGEST_PAUSE, SHORTEST_PAUSE), LONGEST_PAUSE)
        self._next_look = time.monotonic() + self._interval
        return self._interval

    def _is_our_turn(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        # A little shorter, so that a single worker does not miss every other turn of its own.
        if self._engine.leases.take(TURN, self._interval * 0.9):
            return True
        self._next_look = time.monotonic() + LONGEST_PAUSE
        return False
