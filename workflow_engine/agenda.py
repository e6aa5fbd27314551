"""When there is something to do next, for a timekeeper that would rather sleep.

One statement asks for waits, schedules and timeouts together. So a worker with nothing due costs a round trip
a second, whatever the number of executions that wait: each answer is the first entry of an index.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from workflow_engine import overdue, schedules, waits
from workflow_engine.database import autocommit
from workflow_engine.settings import Settings

LOOK = """
SELECT
    coalesce(extract(epoch FROM ({wait}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({schedule}) - now()), 'infinity')::float,
    coalesce(extract(epoch FROM ({timeout}) - now()), 'infinity')::float
"""


@dataclass(frozen=True)
class NextDue:
    """Seconds, by the database's clock, until there is something to do; zero or less if there is by now."""

    wait: float
    """To be claimed, for the first or another time; infinity if none has a time."""
    schedule: float
    """That nobody is at; infinity if there is none."""
    timeout: float
    """Of an execution; infinity if none has one."""

    @property
    def soonest(self) -> float:
        return min(self.wait, self.schedule, self.timeout)


class Agenda:
    """What the timekeepers have to do next, as Postgres knows it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        look = LOOK.format(wait=waits.NEXT_DUE, schedule=schedules.NEXT_DUE, timeout=overdue.NEXT_DUE)
        self._look = look.format(s=settings.database_schema)

    def look(self) -> NextDue:
        """Raises `DatabaseUnavailable`."""
        with autocommit(self._engine) as connection:
            return NextDue(*connection.exec_driver_sql(self._look).one())
