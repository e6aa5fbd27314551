"""Messages in reserve, one for each process: who has run a node gets the next one without asking anybody.

Celery's prefetching does that too, but what it holds waits behind a long node while other workers are idle.
So a message is reserved only out of a backlog, where nobody waits for it, and only while the processes of
this worker run short nodes one after another. It is written to a process at once, behind the node that this
one runs; where that takes its time after all, a copy goes back to where the message came from. Whichever of
the two comes late is dropped, like any message for a node that is running or has run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from celery import bootsteps, uuid
from celery.signals import worker_shutting_down
from celery.worker import state

from workers.handover import Handover, Pipes, Waiting
from workflow_engine.dispatch import TASK_NAME
from workflow_engine.redis_transport import Channel

LOOK = 0.1
"""Seconds between two looks at what the processes have begun; a message is held for two of them at most."""

FAST = 5
"""Nodes that each process begins between two looks, at least, where there is a reserve: with longer ones
little is to be won, and messages would come and go unserved."""


class Reserve(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer; not without our transport and prefork, nor where a team has Celery prefetch."""

    requires = {"celery.worker.consumer.tasks:Tasks", Handover}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._begun = 0
        self._waited: list[Any] = []

    def include_if(self, consumer: Any) -> bool:
        return consumer.app.conf.worker_prefetch_multiplier == 1 and bool(consumer.pool.uses_semaphore)

    def create(self, consumer: Any) -> None:
        # Whichever of these comes first; from there on the loop would hand over what it hears no more of.
        worker_shutting_down.connect(self._end)
        controller, blueprint = consumer.controller, consumer.controller.blueprint
        controller.wait_for_soft_shutdown = partial(self._end, then=controller.wait_for_soft_shutdown)
        blueprint.on_close = partial(self._end, then=blueprint.on_close)
        # Or the pool would hold back what is to be written behind a running node.
        controller.semaphore.grow(controller.semaphore.initial_value)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        channel = consumer.task_consumer.channel
        if isinstance(channel, Channel) and not channel.ack_emulation:
            hub.call_repeatedly(LOOK, self._look, channel)

    def _look(self, channel: Channel) -> None:
        pipes: Pipes | None = self._consumer.pipes
        if pipes is None:
            return
        before, self._begun = self._begun, state.all_total_count[0]
        processes = self._consumer.pool.num_processes
        pipes.writes_ahead = self._begun - before >= FAST * processes
        channel.reserve = processes if pipes.writes_ahead else 0
        waiting, waited = pipes.waiting(), self._waited
        self._waited = [one.request for one in waiting]
        self._give_back(channel, pipes, [one for one in waiting if one.request in waited])

    def _end(self, then: Callable[[], None] = lambda: None, **_: Any) -> None:
        consumer = self._consumer
        channel = consumer.task_consumer and consumer.task_consumer.channel
        pipes: Pipes | None = consumer.pipes
        if isinstance(channel, Channel) and pipes is not None:
            channel.reserve = 0
            # What cannot be given back now, kombu gives back when it closes the channel.
            with suppress(*channel.connection_errors):
                self._give_back(channel, pipes, pipes.waiting())
        then()

    def _give_back(self, channel: Channel, pipes: Pipes, late: Sequence[Waiting]) -> None:
        """The latest have to come first, so that they come to stand in the queue as they did.

        What has been written may yet run here, and goes back under another id: a message that comes twice
        under the same is one that may have lost its process.
        """
        for request, is_written in late:
            if request.acknowledged or (is_written and request.type != TASK_NAME):
                continue
            try:
                channel.give_back(request.message, uuid() if is_written else request.id)
            except channel.ResponseError:  # of a broker that is full, or read-only
                return
            if not is_written:
                pipes.withdraw(request)
            request.acknowledged = True
            state.task_ready(request)
            request.send_event("task-rejected", requeue=True)
