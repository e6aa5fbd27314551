"""Down the tree: children of executions that have ended are cancelled, those of a retried one are restarted.

None of this is in one transaction with the move of the parent. The process that moved the parent does it in
batches. If that process dies, the timekeepers go on: Postgres keeps which waits still have something due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from workflow_engine.engine.publisher import Publisher
from workflow_engine.errors import BackingServiceUnavailable, WorkflowEngineError
from workflow_engine.postgres.executions.children import Children
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Descendants:
    """Cancels and restarts the children of executions. Methods may raise `DatabaseUnavailable`."""

    def __init__(
        self,
        children: Children,
        publisher: Publisher,
        announce_cancelled: Callable[[str], None],
        restart: Callable[[str], bool],
    ) -> None:
        self._children = children
        self._publisher = publisher
        self._announce_cancelled = announce_cancelled
        self._restart = restart

    def see_to(self, executions: Sequence[str]) -> None:
        """Cancel or restart the children of these executions, with their own children, to the end."""
        for execution_id, seq in self._children.due_of(executions):
            while not self.tend(execution_id, seq):
                pass

    def see_to_due(self) -> int:
        """Do a batch for each wait that has something due, and return their number."""
        due = self._children.due()
        for execution_id, seq in due:
            try:
                self.tend(execution_id, seq)
            except BackingServiceUnavailable:
                raise
            except (WorkflowEngineError, ValueError) as error:
                # One that cannot be read, or only by a newer worker, must not hold up all others.
                log.warning(
                    "Cannot see to the children of execution %s; leaving them to another worker: %s",
                    execution_id,
                    error,
                    extra=log_fields(LogEvent.EXECUTION_LEFT, execution_id=execution_id, error=error),
                )
        return len(due)

    def tend(self, execution_id: str, seq: int) -> bool:
        """Do one batch for the children of a wait; return False if there is more to do at once."""
        tended = self._children.tend(execution_id, seq)
        self._publisher.follow_up(tended.follow_ups)
        for child_id in tended.cancelled:
            self._announce_cancelled(child_id)
        restarted = [child_id for child_id in tended.restarts if self._restart(child_id)]
        self.see_to([*tended.cancelled, *restarted])
        # With the last one that has failed, others may start.
        return tended.is_done and not restarted
