"""The next due time of a timekeeper, until which it can sleep.

One statement reads those of waits, schedules, timeouts, children, slots and queues together. So a worker with
nothing due costs one round trip a second, however many executions wait: each is the first entry of an index.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from workflow_engine.postgres import limits, waits
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions import children, queue_deadlines, timeouts
from workflow_engine.postgres.workflows import triggers

LOOK = (
    """
SELECT
    coalesce(extract(epoch FROM ({wait}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({schedule}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({timeout}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({children}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({slot}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({queue}) - now()), 'infinity')::float,
    ({has_lines})
""".replace("{wait}", waits.NEXT_DUE)
    .replace("{schedule}", triggers.NEXT_DUE)
    .replace("{timeout}", timeouts.NEXT_DUE)
    .replace("{children}", children.NEXT_DUE)
    .replace("{slot}", limits.NEXT_DUE)
    .replace("{queue}", queue_deadlines.NEXT_DUE)
    .replace("{has_lines}", limits.HAS_LINES)
)


@dataclass(frozen=True)
class NextDue:
    """Seconds, by the database's clock, until something is due; zero or less if it is due now."""

    wait: float
    """Until the next wait to claim, for the first time or again; infinity if none has a time."""
    schedule: float
    """Until the next unclaimed schedule; infinity if there is none."""
    timeout: float
    """Until the next timeout of an execution; infinity if there is none."""
    children: float
    """Until children are to be started, restarted or cancelled; infinity if none are."""
    slot: float
    """Until the lease of a slot ends that no process renews; infinity if no attempt holds one."""
    queue: float
    """Until a node has stood in its queue for too long; infinity if no such time is noted."""
    has_lines: bool = False
    """Whether anyone waits for a slot of a limit."""

    @property
    def soonest(self) -> float:
        return min(self.wait, self.schedule, self.timeout, self.children, self.slot, self.queue)


class DueTimes:
    """Reads from Postgres when something is due next."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next(self, known: Collection[str] = ()) -> NextDue:
        """Return when something is due next, for a worker with these node types and functions.

        Raises `DatabaseUnavailable`.
        """
        (row,) = self._database.rows(LOOK, known=list(known))
        return NextDue(*row)
