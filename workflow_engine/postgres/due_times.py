"""The next due time of a timekeeper, until which it can sleep.

One statement reads those of waits, schedules, timeouts and children together. So a worker with nothing due
costs one round trip a second, however many executions wait: each time is the first entry of an index.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from workflow_engine.postgres import waits
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions import children, timeouts
from workflow_engine.postgres.workflows import triggers

LOOK = (
    """
SELECT
    coalesce(extract(epoch FROM ({wait}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({schedule}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({timeout}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({children}) - now()), 'infinity')::float
""".replace("{wait}", waits.NEXT_DUE)
    .replace("{schedule}", triggers.NEXT_DUE)
    .replace("{timeout}", timeouts.NEXT_DUE)
    .replace("{children}", children.NEXT_DUE)
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

    @property
    def soonest(self) -> float:
        return min(self.wait, self.schedule, self.timeout, self.children)


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
