"""A broker and workers played by the test: it decides which message is served when, by whom, and how often.

What the engine promises about messages that are lost, late, doubled or out of order can only be shown by
whoever holds the messages. Everything behind them is real: the executor, Postgres and Redis.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from workflow_engine import Workflow, WorkflowBuilder
from workflow_engine.builder import BuiltNode
from workflow_engine.dispatch import Backlog, Dispatch, HopMessage
from workflow_engine.engine import Engine
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.node_types import node


class Broker:
    """Takes the engine's messages in place of Celery and keeps them until a test hands them to a worker."""

    def __init__(self) -> None:
        self.queue: deque[Dispatch] = deque()
        self.is_away = False
        self.shows_its_queues = True

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        if self.is_away:
            raise BrokerUnavailable("the broker is away")
        self.queue.extend(dispatches)

    def queued(self, dispatch: Dispatch) -> None:
        """Its messages are not in Redis."""

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        """As if every queue and priority were this one queue."""
        if not self.shows_its_queues:
            return Backlog.UNKNOWN
        times = (dispatch.committed_at for dispatch in self.queue)
        found = next((time for time in times if time is not None), None)
        return found or (Backlog.UNKNOWN if self.queue else Backlog.NONE)

    def grow_old(self, seconds: float) -> None:
        """The messages wait for so long."""
        age = timedelta(seconds=seconds)
        self.queue = deque(
            replace(each, committed_at=each.committed_at and each.committed_at - age) for each in self.queue
        )

    def take(self) -> HopMessage:
        """The message that was published first."""
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
        """Serve the oldest message, and give it back for whatever the test does with it next."""
        message = self.broker.take()
        self._engines[self.hops % len(self._engines)].executor.continue_execution(message)
        self.hops += 1
        return message

    def drain(self) -> int:
        """Serve messages until there are none; how many there were."""
        before = self.hops
        while self.broker.queue:
            self.hop()
        return self.hops - before


def line(
    *steps: Callable[..., Any], id: str = "line", settings: Mapping[str, Any] | None = None, **options: Any
) -> Workflow:
    """A workflow of one trigger, `start`, and a node for each function in a row, named after the function.

    The functions are registered on the way; `options` are those of the nodes.
    """
    flow = WorkflowBuilder(id, settings=settings)
    last: BuiltNode = flow.trigger("start")
    for step in steps:
        last = last >> calling(flow, step, **options)
    return flow.build()


def calling(flow: WorkflowBuilder, function: Callable[..., Any], **options: Any) -> BuiltNode:
    """A node of this name that calls the function, which is registered on the way."""
    name = function.__name__
    node(f"test.{name}")(function)
    return flow.python(name, f"test.{name}", **options)
