"""A broker and workers that the test plays: it decides which worker serves which message, when and how often.

Only a test that holds the messages can show what the engine promises about those that are lost, late, doubled
or out of order. Everything behind them is real: the executor, Postgres and Redis.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from workflow_engine.broker.dispatcher import Backlog
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution.messages import Dispatch, HopMessage


class Broker:
    """Takes the engine's messages in place of Celery, and keeps them until a test gives them to a worker."""

    def __init__(self) -> None:
        self.queue: deque[Dispatch] = deque()
        self.is_away = False
        self.shows_its_queues = True
        self.lists_at_most = 1_000_000
        self.held_by_workers: frozenset[str] | None = frozenset()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        if self.is_away:
            raise BrokerUnavailable("the broker is away")
        self.queue.extend(dispatches)

    def queued(self, dispatch: Dispatch) -> None:
        """Return None: the messages are not in Redis."""

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        """Return the time of the oldest message of a queue and priority; all are in publication order."""
        if not self.shows_its_queues:
            return Backlog.UNKNOWN
        waiting = [each for each in self.queue if (each.queue, each.priority) == (queue, priority)]
        found = next((each.committed_at for each in waiting if each.committed_at is not None), None)
        return found or (Backlog.UNKNOWN if waiting else Backlog.NONE)

    def executions_in(self, queue: str, priority: int) -> frozenset[str] | None:
        """Return the executions that have a message in a queue and priority."""
        waiting = [each for each in self.queue if (each.queue, each.priority) == (queue, priority)]
        if not self.shows_its_queues or len(waiting) > self.lists_at_most:
            return None
        return frozenset(each.message.execution_id for each in waiting)

    def taken(self) -> frozenset[str] | None:
        """Return the executions whose messages workers hold; these here do so only if a test says it."""
        return self.held_by_workers

    def grow_old(self, seconds: float) -> None:
        """Make the messages older by some seconds."""
        age = timedelta(seconds=seconds)
        self.queue = deque(
            replace(each, committed_at=each.committed_at and each.committed_at - age) for each in self.queue
        )

    def take(self) -> HopMessage:
        """Remove and return the message that was published first."""
        return self.queue.popleft().message

    @property
    def messages(self) -> list[HopMessage]:
        return [dispatch.message for dispatch in self.queue]


class Workers:
    """One or several workers, which serve a broker's messages in turn."""

    def __init__(self, broker: Broker, *engines: Engine) -> None:
        self.broker = broker
        self._engines = engines
        self.hops = 0

    def hop(self) -> HopMessage:
        """Serve the oldest message, and return it for the test's next step."""
        dispatch = self.broker.queue.popleft()
        engine = self._engines[self.hops % len(self._engines)]
        engine.executor.continue_execution(dispatch.message, traceparent=dispatch.traceparent)
        self.hops += 1
        return dispatch.message

    def drain(self) -> int:
        """Serve messages until there are none, and return their number."""
        before = self.hops
        while self.broker.queue:
            self.hop()
        return self.hops - before
