"""Executions that should be moving and have not moved for a while, and who brings each of them back.

Finding them changes nothing. Bringing one back begins with a claim on it, so that of several rescuers one
publishes; a claim also says that there is a message now, which has to be given time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from workflow_engine.database import autocommit
from workflow_engine.settings import Settings

PAGE = 1_000

# What was brought back is soon looked at again: its message, too, may have met a worker that died.
FIND = """
SELECT id::text, workflow_id, workflow_version, priority, recovered_at,
    greatest(updated_at, recovered_at),
    extract(epoch FROM now() - greatest(updated_at, recovered_at))::float,
    CASE WHEN recoveries_seq = seq THEN recoveries ELSE 0 END
FROM {s}.executions
WHERE status IN ('PENDING', 'RUNNING')
    AND greatest(updated_at, recovered_at) < now() - interval '1 second' * CASE
        WHEN recovered_at > updated_at
            THEN least(%(seconds)s, %(again)s * power(2, least(recoveries, 10) - 1))
        ELSE %(seconds)s END
    AND id > %(after)s
ORDER BY executions.id LIMIT %(page)s
"""

CLAIM = """
UPDATE {s}.executions SET
    recovered_at = now(),
    recoveries = CASE WHEN recoveries_seq = seq THEN recoveries + 1 ELSE 1 END,
    recoveries_seq = seq
WHERE id = %(id)s AND status IN ('PENDING', 'RUNNING')
    AND greatest(updated_at, recovered_at) = %(moved_at)s
RETURNING id
"""

BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class StalledExecution:
    """An execution that has not moved for a while. Perhaps a long node runs, or its queue is long."""

    id: str
    workflow_id: str
    version: int
    priority: int | None
    recovered_at: datetime | None
    moved_at: datetime
    """When it was last committed or brought back, by the database's clock."""
    seconds: float
    """Since then."""
    recoveries: int
    """How often it was brought back since its last commit."""


class Stalled:
    """Executions that stand still, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema

    def find(self, seconds: float, again: float) -> Iterator[StalledExecution]:
        """Executions that ought to move and have not done so for so many seconds, the oldest first.

        Those that were brought back and have not moved since are found `again` seconds after it, then twice
        as many and so on, up to `seconds`.
        """
        after = BEFORE_ALL
        while True:
            with autocommit(self._engine) as connection:
                rows = connection.exec_driver_sql(
                    FIND.format(s=self._schema),
                    {"seconds": seconds, "again": again, "after": after, "page": PAGE},
                ).all()
            for row in rows:
                yield StalledExecution(*row)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def claim(self, execution: StalledExecution) -> bool:
        """Take it upon oneself to bring an execution back; False if it has moved, or somebody else does."""
        with autocommit(self._engine) as connection:
            row = connection.exec_driver_sql(
                CLAIM.format(s=self._schema), {"id": execution.id, "moved_at": execution.moved_at}
            ).first()
        return row is not None
