"""Ends a worker that is connected but consumes nothing, so that its supervisor starts it again.

Such workers are seen after outages of a broker, and report no error. So this checks what must hold in any
case: where messages wait, a worker with a free process receives one. Celery's signals show whether it does; a
separate connection reads whether messages wait.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from celery import bootsteps, signals
from celery.platforms import EX_FAILURE
from celery.worker import state
from kombu.transport import virtual

from workflow_engine.settings import get_settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.worker.steps.preparation import Preparation, start_vital_thread

log = logging.getLogger(__name__)

CHECKS = 12
"""Consecutive checks that must agree; a machine that slept fails only one of them."""

GRACE = 5.0
"""Seconds within which the event loop must notice that the worker is to end."""

BROKER_TIMEOUT = 5.0
"""Seconds the broker has to report how many messages wait."""


class ConsumptionWatch(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts and stops the watching thread with the worker."""

    requires = {"celery.worker.components:Pool", Preparation}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._received = 0
        self._is_ending = threading.Event()

    def include_if(self, worker: Any) -> bool:
        return get_settings().consumer_stall_timeout > 0

    def start(self, worker: Any) -> None:
        # Celery sends one of them for every message that it receives.
        for signal in (
            signals.task_received,
            signals.task_revoked,
            signals.task_rejected,
            signals.task_unknown,
        ):
            signal.connect(self._count)
        start_vital_thread("consumption", partial(self._watch, worker))

    def stop(self, worker: Any) -> None:
        self._is_ending.set()

    terminate = stop

    def _count(self, **_: Any) -> None:
        self._received += 1

    def _watch(self, worker: Any) -> None:
        timeout = get_settings().consumer_stall_timeout
        waiting = WaitingMessages(worker.app)
        suspicions, received = 0, self._received
        while not self._is_ending.wait(timeout / CHECKS):
            if received == self._received and has_free_process(worker):
                queues = waiting.among(consumed_queues(worker))
            else:
                queues = []
            is_suspect = bool(queues) and received == self._received and has_free_process(worker)
            suspicions, received = suspicions + 1 if is_suspect else 0, self._received
            if suspicions >= CHECKS:
                self._end(worker, timeout, queues)
                return

    def _end(self, worker: Any, timeout: float, queues: Sequence[str]) -> None:
        log.critical(
            "This worker consumes nothing: it is connected and has free processes, messages wait in %s, and "
            "it has received none for %g s. It ends after its running nodes, so that its "
            "supervisor restarts it.",
            ", ".join(queues),
            timeout,
            extra=log_fields(LogEvent.CONSUMPTION_STALLED, queues=", ".join(queues), seconds=timeout),
        )
        state.should_stop = EX_FAILURE
        if not self._is_ending.wait(GRACE):
            log.critical(
                "Event loop is blocked; exiting immediately.",
                extra=log_fields(LogEvent.EVENT_LOOP_BLOCKED),
            )
            logging.shutdown()
            os._exit(EX_FAILURE)


class WaitingMessages:
    """Reads the lengths of queues from the broker."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None

    def among(self, queues: Sequence[str]) -> list[str]:
        """Return those of the queues in which messages wait; none if the broker reports no lengths."""
        try:
            channel = self._open().default_channel
            return [queue for queue in queues if _length(channel, queue)]
        except Exception:
            log.debug("The broker did not report how many messages wait", exc_info=True)
            self._close()
            return []

    def _open(self) -> Any:
        if self._connection is None:
            timeouts = {"socket_timeout": BROKER_TIMEOUT, "socket_connect_timeout": BROKER_TIMEOUT}
            is_redis = self._app.connection_for_read().transport.driver_type == "redis"
            self._connection = self._app.connection_for_read(
                connect_timeout=BROKER_TIMEOUT, transport_options=timeouts if is_redis else {}
            )
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        with suppress(Exception):
            connection.close()


def _length(channel: Any, queue: str) -> int:
    if isinstance(channel, virtual.Channel):
        # A passive declaration checks whether the key exists, where kombu leaves out the prefix.
        return int(channel._size(queue))
    return int(channel.queue_declare(queue, passive=True).message_count)


def has_free_process(worker: Any) -> bool:
    """Return whether the worker has to take the next message in its present state."""
    consumer = worker.consumer
    if consumer.connection is None or state.should_stop or state.should_terminate:
        return False
    prefetch = consumer.qos.value if consumer.qos is not None else 0
    capacity = worker.pool.num_processes
    return bool(len(state.reserved_requests) < (min(prefetch, capacity) if prefetch else capacity))


def consumed_queues(worker: Any) -> list[str]:
    """Return the queues that the worker is to consume, without those that an operator has cancelled."""
    consumer = worker.consumer.task_consumer
    if consumer is None:
        return []
    return [queue.name for queue in list(consumer.queues) if consumer.consuming_from(queue)]
