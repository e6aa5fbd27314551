"""What the queues hold while a look for lost messages lasts; each queue is read at most once.

Queues are served in order, so the oldest message of one mostly decides: what should stand before it is lost.
That fails for a while after Redis has lost its data. Commits are then sent from before, during and after the
loss, and the lost ones again, ahead of the rest. So then the messages themselves are listed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import datetime, timedelta

from workflow_engine.broker.dispatcher import Backlog, Dispatcher
from workflow_engine.engine.publisher import may_be_behind
from workflow_engine.execution.records import OUT_OF_ORDER, DueWait
from workflow_engine.postgres.executions.stalled import Front, StalledExecution

NOTICED = 1.0
"""Seconds within which the fleet notices that Redis has lost its data; the data's age counts from then on."""

LISTED_FOR = 30.0
"""Seconds after such a loss for which messages are listed."""


class QueuedMessages:
    """The queues at one look. Methods may raise `BrokerUnavailable`."""

    def __init__(self, dispatcher: Dispatcher, data_age: float) -> None:
        self._dispatcher, self._data_age = dispatcher, data_age
        self._oldest = functools.cache(dispatcher.oldest)
        self._executions_in = functools.cache(dispatcher.executions_in)
        self._lists = data_age < LISTED_FOR
        self.kept = data_age + NOTICED
        """The seconds since when the queues have lost nothing, as far as is certain."""
        self._listed: set[str] = set()

    def read_again(self) -> QueuedMessages:
        """Return the queues as they are now: a message that a worker took may have been put back."""
        return QueuedMessages(self._dispatcher, self._data_age)

    def front(self, queue: str, priority: int) -> Front:
        """Return the front of a queue; if its messages are listed, none, and `holds` knows them."""
        if self._list(queue, priority):
            return Front(None)
        oldest = self._oldest(queue, priority)
        if isinstance(oldest, Backlog):
            return Front(None, is_hidden=oldest is Backlog.UNKNOWN)
        return Front(oldest)

    def holds(self, execution_id: str) -> bool:
        """Return whether a queue that was listed has a message of this execution."""
        return execution_id in self._listed

    def may_hold_that_of(self, execution: StalledExecution) -> bool:
        """Return whether the message of an execution that has moved since the last loss may be queued."""
        fronts = [self.front(execution.queue, priority).oldest for priority in execution.priorities]
        latest = execution.moved_at + OUT_OF_ORDER
        return any(oldest is not None and oldest <= latest for oldest in fronts) or self.holds(execution.id)

    def may_hold(self, wait: DueWait, places: Iterable[tuple[str, int]]) -> bool:
        """Return whether the message that woke a node may be in one of these queues, at that priority."""
        return any(self._may_hold(wait, queue, priority) for queue, priority in places)

    def _may_hold(self, wait: DueWait, queue: str, priority: int) -> bool:
        if self._list(queue, priority):
            return self.holds(wait.execution_id)
        oldest = self._oldest(queue, priority)
        if not isinstance(oldest, datetime):
            return oldest is Backlog.UNKNOWN
        lost_at = self._lost_at(wait)
        return may_be_behind(oldest, wait) and (lost_at is None or oldest < lost_at)

    def is_from_before_a_loss(self, wait: DueWait) -> bool:
        """Return whether a node was woken before the queues lost everything."""
        return self._lost_at(wait) is not None

    def _lost_at(self, wait: DueWait) -> datetime | None:
        """Return when the queues lost everything, if a node was woken before."""
        if wait.woken_at is None or wait.woken_before is None:
            return None
        lost_at = wait.woken_at - timedelta(seconds=self.kept)
        return lost_at if wait.woken_before < lost_at else None

    def _list(self, queue: str, priority: int) -> bool:
        """Note the executions in a queue; return False if they are not to be listed, or too many."""
        executions = self._executions_in(queue, priority) if self._lists else None
        self._listed.update(executions or ())
        return executions is not None
