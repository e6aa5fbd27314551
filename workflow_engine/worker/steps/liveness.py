"""Liveness: a thread that writes the worker's heartbeat for as long as its main process works.

The process works while its event loop runs, while it connects to an unavailable broker, and while a worker
that is to end waits for its running nodes. `workflow-engine health --live` reads the heartbeat.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from functools import partial
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.worker import state

from workflow_engine.health.heartbeat import INTERVAL, TIMEOUT, HeartbeatFile, remove_leftovers
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.worker.steps.preparation import Preparation, start_vital_thread

log = logging.getLogger(__name__)

TURN = 1.0
"""Seconds between two marks by which the event loop shows that it runs."""


class Liveness(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts the thread with the worker; it ends with the process."""

    requires = {"celery.worker.components:Pool", Preparation}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._turned = time.monotonic()
        self._is_ending = False
        self._has_ended = threading.Event()

    def start(self, worker: Any) -> None:
        start_vital_thread("heartbeat", partial(self._beat, worker))
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
        _tidy_up()
        failure = ""
        while not self._has_ended.is_set():
            if self._is_well(worker):
                failure = _beat_once(file, failure)
            self._has_ended.wait(INTERVAL)
        with contextlib.suppress(OSError):
            file.remove()

    def _is_well(self, worker: Any) -> bool:
        stands_still = time.monotonic() - self._turned > TIMEOUT
        return self._is_ending or not stands_still or not _is_looping(worker)

    def _remove(self, **_: Any) -> None:
        self._has_ended.set()


def _tidy_up() -> None:
    try:
        remove_leftovers()
    except OSError as error:
        log.warning(
            "Could not remove heartbeats of killed workers: %s",
            error,
            extra=log_fields(LogEvent.HEARTBEATS_LEFT_OVER, error=error),
        )


def _beat_once(file: HeartbeatFile, failure: str) -> str:
    """Write a heartbeat. Return the error if that failed, else ""; `failure` is the previous heartbeat's.

    A full or emptied disk may recover later. Each change is logged once.
    """
    try:
        file.beat()
    except OSError as error:
        if not failure:
            log.warning(
                "No heartbeat for `workflow-engine health --live`, trying again every %g s: %s",
                INTERVAL,
                error,
                extra=log_fields(LogEvent.HEARTBEAT_FAILED, error=error),
            )
        return str(error)
    if failure:
        log.warning(
            "`workflow-engine health --live` has a heartbeat again.",
            extra=log_fields(LogEvent.HEARTBEAT_RECOVERED),
        )
    return ""


def _is_looping(worker: Any) -> bool:
    """Return whether the event loop should be running: not without one, while connecting, or inside a node.

    A node runs inside the loop in the pool `solo` only.
    """
    is_solo = worker.pool.__module__.endswith(".solo") and bool(state.active_requests)
    return bool(worker.use_eventloop) and worker.consumer.connection is not None and not is_solo
