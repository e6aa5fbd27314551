"""After how long a node that is due, and that no process runs, counts as having lost its message.

The broker shows what is queued. What is not queued and not run is on its way for an instant only, between its
commit and the queue, or between the queue and a process. A message that is sent again for nothing is dropped.
"""

from __future__ import annotations

from workflow_engine.execution.records import OUT_OF_ORDER

LOST_AFTER = 3.0
"""Seconds after a commit; less than `stall_after`, which counts where the broker does not show its queues."""

LOST_AGAIN_AFTER = 0.5
"""Seconds after it was sent again, since that message may be lost, too: few enough for the next look to find
it. A look comes each second and takes a quarter of one. A message that still waits is seen in its queue."""

QUICK_TRIES = 3
"""How often a message is sent again at that pace before the seconds double: where many are lost, one that is
lost four times in a row is still a matter of seconds, and one that no worker can serve soon costs little."""


def lost_after(stall_after: float) -> float:
    """Return the seconds after which a message that is not queued is lost."""
    return min(LOST_AFTER, stall_after)


def lost_again_after(stall_after: float, times: int = 1) -> float:
    """Return the seconds after which a message that was sent again so often is lost once more."""
    doubled: float = min(LOST_AGAIN_AFTER, stall_after / 2) * 2 ** max(0, min(times, 10) - QUICK_TRIES)
    return min(stall_after, doubled)


def lost_beside_siblings_after(stall_after: float) -> float:
    """Return the seconds after which a node of which siblings are committed has lost its message.

    Its place in the queue is known by the time of sending, and messages overtake each other.
    """
    return min(LOST_AFTER + OUT_OF_ORDER.total_seconds(), stall_after)
