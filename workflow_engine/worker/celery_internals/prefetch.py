"""Prefetches out of a backlog: one message per process, so that a process that ends a node has the next.

Celery's own prefetching does that too, but its messages wait behind a long node while other workers are
idle. So a message is taken early only out of a backlog, where it would wait anyway, and only while the
processes of this worker run short nodes one after another. It is written to a process at once, behind the
node that the process runs. If that node turns out to be long, a copy goes back to the queue. The later of the
two is dropped, like any message for a node that is running or has run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from celery import bootsteps, uuid
from celery.signals import worker_shutting_down
from celery.worker import state

from workflow_engine.broker.backlogs import Backlog, backlog_of
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.worker.celery_internals.compatibility import changes_for_prefetch, is_wanted, warn
from workflow_engine.worker.celery_internals.pool_writes import DirectPoolWrites, Pipes, Waiting

LOOK = 0.1
"""Seconds between two checks of what the processes have begun; a message is held for two at most."""

FAST = 2
"""Nodes that each process must begin between two checks for messages to be prefetched. With longer ones there
is little to gain, and messages would come and go unserved."""


class BacklogPrefetch(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer; needs a backlog, direct writes to the pool, and no prefetching by Celery."""

    requires = {  # noqa: RUF012 - celery's way to order steps
        "celery.worker.consumer.tasks:Tasks",
        DirectPoolWrites,
    }

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._is_known = False
        self._has_room = False
        self._begun = 0
        self._waited: list[Any] = []
        self._backlog: Backlog | None = None

    def include_if(self, consumer: Any) -> bool:
        return is_wanted(consumer) and consumer.app.conf.worker_prefetch_multiplier == 1

    def create(self, consumer: Any) -> None:
        if changed := changes_for_prefetch(consumer):
            warn(consumer, changed, "No message is taken from a backlog early")
            return
        self._is_known = True
        # The first of these ends the prefetching: after it the loop no longer reads the processes' results.
        # Celery before 5.7 takes the methods of two consumers for one receiver, unless each has an id.
        worker_shutting_down.connect(self._end_by_signal, dispatch_uid=uuid())
        controller, blueprint = consumer.controller, consumer.controller.blueprint
        controller.wait_for_soft_shutdown = partial(self._end, then=controller.wait_for_soft_shutdown)
        blueprint.on_close = partial(self._end, then=blueprint.on_close)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        self._backlog = backlog_of(consumer) if self._is_known else None
        if self._backlog is not None:
            # The pipes come later: Celery calls this method of its steps in reverse order.
            hub.call_repeatedly(LOOK, self._look, self._backlog)

    def _make_room(self, semaphore: Any) -> None:
        """Let through the messages that are to be written behind a running node, from the first look on."""
        if not self._has_room:
            self._has_room = True
            semaphore.grow(semaphore.initial_value)

    def _look(self, backlog: Backlog) -> None:
        pipes: Pipes | None = self._consumer.pipes
        if pipes is None:
            return
        self._make_room(self._consumer.controller.semaphore)
        before, self._begun = self._begun, state.all_total_count[0]
        processes = self._consumer.pool.num_processes
        pipes.writes_ahead = self._begun - before >= FAST * processes
        backlog.take_ahead(processes if pipes.writes_ahead else 0)
        waiting, waited = pipes.waiting(), self._waited
        self._waited = [one.request for one in waiting]
        self._requeue(backlog, pipes, [one for one in waiting if one.request in waited])

    def _end_by_signal(self, **_: Any) -> None:
        # Between two frames on a connection that the loop has in use, others would be misread.
        if self._backlog is not None and self._backlog.is_apart:
            self._end()

    def _end(self, then: Callable[[], None] = lambda: None) -> None:
        consumer, backlog = self._consumer, self._backlog
        pipes: Pipes | None = consumer.pipes
        if backlog is not None and pipes is not None and consumer.task_consumer:
            # The broker puts back the rest when the channel closes.
            with suppress(*consumer.connection_errors):
                backlog.take_ahead(0)
                self._requeue(backlog, pipes, pipes.waiting())
        then()

    def _requeue(self, backlog: Backlog, pipes: Pipes, late: Sequence[Waiting]) -> None:
        """Put messages back, the latest first, so that they stand in the queue as they did.

        A message already written may still run here, so it goes back under another id: one that comes twice
        under the same id may have lost its process.
        """
        for request, is_written in late:
            if request.acknowledged or (is_written and request.type != TASK_NAME):
                continue
            try:
                backlog.put_back(request.message, uuid() if is_written else None)
            except backlog.refusals:
                return
            if not is_written:
                pipes.withdraw(request)
            request.acknowledged = True
            state.task_ready(request)
            request.send_event("task-rejected", requeue=True)
