"""The timekeeper: a thread in every worker's main process for the work that belongs to no node.

Each round wakes waits that are over, fires schedules and fails timed-out executions. In between the thread
recovers executions whose process this worker has lost, without waiting for their locks to expire.
"""

from __future__ import annotations

import logging
import queue
import time
from functools import partial
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps
from celery.signals import task_failure, worker_shutdown

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.maintenance.recovery import LostNode
from workflow_engine.maintenance.timekeeper import Timekeeping, UnfinishedNode
from workflow_engine.outages import BackOff
from workflow_engine.runner.time_limit import weakness_of_pool
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.worker.report import pool_name
from workflow_engine.worker.steps.preparation import Preparation, start_vital_thread
from workflow_engine.worker.steps.shutdown import ShutdownRecord, unfinished_nodes

log = logging.getLogger(__name__)

REAPING_INTERVAL = 0.5
"""Seconds between two checks for dead pool processes; Celery itself checks every 5."""

_lost: queue.SimpleQueue[LostNode | UnfinishedNode | None] = queue.SimpleQueue()

_last_limit = ("", 0.0)
"""The last task to exceed Celery's hard time limit, and when Celery reported it."""


class Timekeeper(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts and stops the thread with the worker.

    It uses connections of its own and starts after the first processes were forked. Those forked later
    inherit none of its resources.
    """

    requires = {  # noqa: RUF012 - celery's way to order steps
        "celery.worker.components:Pool",
        Preparation,
        ShutdownRecord,
    }

    def start(self, worker: Any) -> None:
        self._worker_name = worker.hostname
        pool = pool_name(worker.pool_cls)
        if (weakness := weakness_of_pool(pool)) is not None:
            log.warning(
                "The timeout of a node under %s: %s.",
                pool,
                weakness,
                extra=log_fields(LogEvent.TIMEOUTS_WEAKENED, pool=pool),
            )
        timekeeping = Timekeeping(Engine.assemble(app=worker.app))
        self._thread = start_vital_thread("timekeeper", partial(_serve, timekeeping))
        # Not in `stop`, which comes before the running nodes have ended: their processes may still be lost.
        worker_shutdown.connect(self._finish)

    def terminate(self, worker: Any) -> None:
        self._finish()

    def _finish(self, **_: Any) -> None:
        for unfinished in unfinished_nodes(self._worker_name):
            _lost.put(unfinished)
        _lost.put(None)
        self._thread.join(5)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        hub.call_repeatedly(REAPING_INTERVAL, worker.pool.maintain_pool)


def _serve(timekeeping: Timekeeping) -> None:
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
            if isinstance(lost, UnfinishedNode):
                timekeeping.record(lost)
            else:
                timekeeping.recover(lost)
        except Exception as error:
            log.exception(
                "Timekeeper round failed; continuing",
                extra=log_fields(LogEvent.TIMEKEEPING_FAILED, error=error),
            )
            pause = back_off.pause()


@task_failure.connect(weak=False)
def _notice_lost_process(
    sender: Any = None, task_id: str = "", exception: Any = None, kwargs: Any = None, **_: Any
) -> None:
    # The parent sends this in place of the process that died.
    if getattr(sender, "name", None) != TASK_NAME:
        return
    if isinstance(exception, TimeLimitExceeded):
        limit = float(exception.args[0])
        if not _is_repeated(task_id, limit):
            what = f"Celery's hard time limit of {limit:g} s (`task_time_limit`) ended it"
            advice = "give the node a shorter `timeout`, or the app a longer limit"
            _lost.put(LostNode(HopMessage(**kwargs), task_id, what, advice))
    elif isinstance(exception, WorkerLostError):
        _lost.put(LostNode(HopMessage(**kwargs), task_id, str(exception)))


def _is_repeated(task_id: str, limit: float) -> bool:
    """Return whether Celery has reported this kill before: it reports each twice in a row.

    The same task can exceed its limit again, but no sooner than `limit` seconds later.
    """
    global _last_limit  # noqa: PLW0603 - the signal has no other place to keep it
    last_task, reported_at = _last_limit
    _last_limit = (task_id, time.monotonic())
    return last_task == task_id and _last_limit[1] < reported_at + limit
