"""Records the nodes that an ending worker interrupts or requeues, in the history of their executions.

A message that no process has begun is requeued; in a cold shutdown so is one whose node runs. Celery reports
neither. So the messages present when the shutdown begins are examined again when the worker has stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.errors import InvalidMessage
from workflow_engine.execution.messages import HopMessage
from workflow_engine.maintenance.timekeeper import UnfinishedNode

_held: set[Any] = set()
"""Celery's requests for nodes that were in this worker at some time since it began to end."""


class ShutdownRecord(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Keeps the requests that Celery will cancel, once running nodes have had their time to end."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - celery's way to order steps

    def start(self, worker: Any) -> None:
        wait = worker.wait_for_soft_shutdown

        def wait_and_hold() -> None:
            _hold()
            wait()
            _hold()

        worker.wait_for_soft_shutdown = wait_and_hold


# At import, and so ahead of the prefetch, which requeues its messages at this signal.
@worker_shutting_down.connect(weak=False)
def _hold(**_: Any) -> None:
    _held.update(request for request in list(state.reserved_requests) if request.type == TASK_NAME)


def unfinished_nodes(worker_name: str) -> Iterator[UnfinishedNode]:
    """Yield the nodes whose messages this worker has not finished; call it only once it has stopped."""
    for request in _held:
        has_begun = request.time_start is not None
        is_served = request.id in state.revoked or (has_begun and request.acknowledged)
        if is_served or not isinstance(request.kwargs, dict):
            continue
        with suppress(InvalidMessage):  # it names no execution
            yield UnfinishedNode(HopMessage.of(request.kwargs), worker_name, has_begun)
    _held.clear()
