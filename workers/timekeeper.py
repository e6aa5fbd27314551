"""The timekeeper: a thread in every worker's main process that serves what no node execution can.

Round after round it wakes waits that are over, fires schedules and ends overdue executions. In between it
brings back executions whose process this worker has lost, without waiting for their locks to expire.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps
from celery.signals import task_failure, worker_shutdown

from workflow_engine.dispatch import TASK_NAME, HopMessage
from workflow_engine.engine import Engine
from workflow_engine.patience import BackOff
from workflow_engine.recovery import LostNode
from workflow_engine.timekeeping import Timekeeping

log = logging.getLogger(__name__)

REAPING_INTERVAL = 0.5
"""Seconds between two looks for dead pool processes; Celery by itself looks every 5."""

_lost: queue.SimpleQueue[LostNode | None] = queue.SimpleQueue()


class Timekeeper(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts and stops the thread with the worker.

    It uses connections of its own and starts after the first processes were forked; those forked later
    inherit nothing that it holds.
    """

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - celery's way to order steps

    def start(self, worker: Any) -> None:
        self._thread = threading.Thread(target=_serve, args=(worker.app,), name="timekeeper", daemon=True)
        self._thread.start()
        # Not in `stop`, which comes before the running nodes have ended: their processes may yet be lost.
        worker_shutdown.connect(self._finish)

    def terminate(self, worker: Any) -> None:
        self._finish()

    def _finish(self, **_: Any) -> None:
        _lost.put(None)
        self._thread.join(5)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        pool: Any = getattr(worker.pool, "_pool", None)
        if hasattr(pool, "maintain_pool"):
            hub.call_repeatedly(REAPING_INTERVAL, pool.maintain_pool)


def _serve(app: Any) -> None:
    timekeeping = Timekeeping(Engine.assemble(app=app))
    pause, back_off = 0.0, BackOff(first=1.0, longest=60.0)
    while True:
        try:
            try:
                lost = _lost.get(timeout=pause)
            except queue.Empty:
                pause = timekeeping.round()
                back_off.reset()
                continue
            if lost is None:
                return
            timekeeping.recover(lost)
        except Exception:
            log.exception("The timekeeper stumbled and goes on")
            pause = back_off.pause()


@task_failure.connect(weak=False)
def _notice_lost_process(
    sender: Any = None, task_id: str = "", exception: Any = None, kwargs: Any = None, **_: Any
) -> None:
    # The parent sends this in place of the process that died.
    if getattr(sender, "name", None) == TASK_NAME and isinstance(
        exception, (WorkerLostError, TimeLimitExceeded)
    ):
        _lost.put(LostNode(HopMessage(**kwargs), task_id, str(exception)))
