"""Liveness: a thread that writes the worker's heartbeat for as long as its main process does its work.

That is so while the event loop turns, while it is connecting to a broker that is away, and while a worker
that was told to end waits for its running nodes. `workflow-engine health --live` reads what is written here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.worker import state

from workflow_engine.heartbeat import INTERVAL, PATIENCE, HeartbeatFile

log = logging.getLogger(__name__)

TURN = 1.0
"""Seconds between two looks at whether the event loop turns."""


class Liveness(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts the thread with the worker; it ends with the process."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._turned = time.monotonic()
        self._is_ending = False
        self._has_ended = threading.Event()

    def start(self, worker: Any) -> None:
        threading.Thread(target=self._beat, args=(worker,), name="heartbeat", daemon=True).start()
        worker_shutdown.connect(self._remove)

    def stop(self, worker: Any) -> None:
        self._is_ending = True

    terminate = stop

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        self._turn()
        hub.call_repeatedly(TURN, self._turn)

    def _turn(self) -> None:
        self._turned = time.monotonic()

    def _beat(self, worker: Any) -> None:
        file = HeartbeatFile(worker.hostname)
        try:
            file.open()
            while not self._has_ended.is_set():
                if self._is_well(worker):
                    file.beat()
                self._has_ended.wait(INTERVAL)
            file.remove()
        except OSError as error:
            log.warning("This worker has no heartbeat for `workflow-engine health --live`: %s", error)

    def _is_well(self, worker: Any) -> bool:
        stands_still = time.monotonic() - self._turned > PATIENCE
        return self._is_ending or not stands_still or not _is_looping(worker)

    def _remove(self, **_: Any) -> None:
        self._has_ended.set()


def _is_looping(worker: Any) -> bool:
    """Whether the event loop has to turn: not without one, not while connecting, not inside a node.

    A node runs inside the loop in the pool `solo` only.
    """
    is_solo = worker.pool.__module__.endswith(".solo") and bool(state.active_requests)
    return bool(worker.use_eventloop) and worker.consumer.connection is not None and not is_solo
