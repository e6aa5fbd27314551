"""Takeover: the executions of processes that died with their whole worker continue within seconds.

A parent notices its dead children at once. If it dies with them, their connections to Redis are closed. Then
the locks that they hold are freed, and their executions resumed, long before the locks would expire. A
process that is frozen keeps its connections and its locks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.executions.stalled import ActiveExecution
from workflow_engine.redis.lock import Holder
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Takeover:
    """Finds the executions that dead processes hold."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def freed(self) -> Iterator[ActiveExecution | None]:
        """Free the locks of dead processes, and yield each execution that has to be resumed.

        Yields None after every page of executions that were examined. Nothing is read from Postgres unless a
        process has vanished. A caller that stops in between frees the rest with the next call.
        """
        over = self._engine.presence.look()
        if not over:
            return
        for page in self._engine.stalled.active_pages():
            held = self._engine.locks.held_values([execution.id for execution in page])
            for execution, values in zip(page, held, strict=True):
                if sum(self._free(execution, value, over) for value in values):
                    yield execution
            yield None
        self._engine.presence.bury(over)

    def held_by_living(
        self, executions: Sequence[ActiveExecution], held: Sequence[Sequence[bytes]]
    ) -> list[Sequence[bytes]]:
        """Return the values of the locks of executions without those of dead holders, whose locks are freed.

        An execution that was paused while its process died was none of those that were examined then.
        """
        holders = [Holder.from_value(value) for values in held for value in values]
        over = self._engine.presence.buried({holder.life for holder in holders if holder is not None})
        if not over:
            return list(held)
        return [
            [value for value in values if not self._free(execution, value, over)]
            for execution, values in zip(executions, held, strict=True)
        ]

    def _free(self, execution: ActiveExecution, value: bytes, over: frozenset[str]) -> bool:
        holder = Holder.from_value(value)
        if holder is None or holder.life not in over or not self._engine.locks.free(execution.id, value):
            return False
        log.warning(
            "Process %s:%d has died with node %s of execution %s: its connections to Redis are closed; the "
            "execution is resumed",
            holder.instance,
            holder.process,
            holder.node_id,
            execution.id,
            extra=log_fields(
                LogEvent.EXECUTION_TAKEN_OVER,
                execution_id=execution.id,
                node_id=holder.node_id or None,
                dead_process=f"{holder.instance}:{holder.process}",
            ),
        )
        return True
