"""A worker that is connected but consumes nothing ends itself, so that its supervisor starts it anew.

Such workers are seen after outages of a broker, and nothing in them knows what is wrong. So this looks at
what must hold whatever the reason: where messages wait, a worker with a free process receives one. Whether it
does is seen from Celery's signals, whether messages wait is asked on a connection of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery import bootsteps, signals
from celery.platforms import EX_FAILURE
from celery.worker import state
from kombu.transport import virtual

from workflow_engine.settings import get_settings

log = logging.getLogger(__name__)

LOOKS = 12
"""So many looks in a row have to find the same; a machine that slept sees but one of them."""

GRACE = 5.0
"""Seconds within which the event loop takes notice that the worker is to end."""

BROKER_TIMEOUT = 5.0
"""Seconds the broker has to say how many messages wait."""


class ConsumptionWatch(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts and stops the watching thread with the worker."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._received = 0
        self._is_ending = threading.Event()

    def include_if(self, worker: Any) -> bool:
        return get_settings().consumption_patience > 0

    def start(self, worker: Any) -> None:
        # Whatever becomes of a message, one of them is sent.
        for signal in (
            signals.task_received,
            signals.task_revoked,
            signals.task_rejected,
            signals.task_unknown,
        ):
            signal.connect(self._count)
        threading.Thread(target=self._watch, args=(worker,), name="consumption", daemon=True).start()

    def stop(self, worker: Any) -> None:
        self._is_ending.set()

    terminate = stop

    def _count(self, **_: Any) -> None:
        self._received += 1

    def _watch(self, worker: Any) -> None:
        patience = get_settings().consumption_patience
        waiting = WaitingMessages(worker.app)
        suspicions, received = 0, self._received
        while not self._is_ending.wait(patience / LOOKS):
            if received == self._received and has_free_process(worker):
                queues = waiting.among(consumed_queues(worker))
            else:
                queues = []
            is_suspect = bool(queues) and received == self._received and has_free_process(worker)
            suspicions, received = suspicions + 1 if is_suspect else 0, self._received
            if suspicions >= LOOKS:
                self._end(worker, patience, queues)
                return

    def _end(self, worker: Any, patience: float, queues: Sequence[str]) -> None:
        log.critical(
            "This worker consumes nothing: it is connected and has free processes, messages wait in %s, and "
            "it has received none for %g s. It ends once its running nodes have, for its supervisor to start "
            "it anew.",
            ", ".join(queues),
            patience,
        )
        state.should_stop = EX_FAILURE
        if not self._is_ending.wait(GRACE):
            log.critical("Its event loop does not turn: it is ended here and now.")
            logging.shutdown()
            os._exit(EX_FAILURE)


class WaitingMessages:
    """Asks the broker for the lengths of queues."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None

    def among(self, queues: Sequence[str]) -> list[str]:
        """Those of the queues in which messages wait; none if the broker does not say."""
        try:
            channel = self._open().default_channel
            return [queue for queue in queues if _length(channel, queue)]
        except Exception:
            log.debug("The broker does not say how many messages wait", exc_info=True)
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
        # A passive declaration asks whether the key exists, and kombu forgets the prefix there.
        return int(channel._size(queue))
    return int(channel.queue_declare(queue, passive=True).message_count)


def has_free_process(worker: Any) -> bool:
    """Whether the worker, as it stands, has to take the next message."""
    consumer = worker.consumer
    if consumer.connection is None or state.should_stop or state.should_terminate:
        return False
    prefetch = consumer.qos.value if consumer.qos is not None else 0
    capacity = worker.pool.num_processes
    return bool(len(state.reserved_requests) < (min(prefetch, capacity) if prefetch else capacity))


def consumed_queues(worker: Any) -> list[str]:
    """The queues of which the worker means to consume; an operator may have taken some from it."""
    consumer = worker.consumer.task_consumer
    if consumer is None:
        return []
    return [queue.name for queue in list(consumer.queues) if consumer.consuming_from(queue)]
