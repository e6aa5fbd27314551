"""Metrics: the worker counts what it does, and its main process serves the sums to Prometheus.

The processes of the pool count into files of a folder that is made before they are forked, and is removed
with the worker. A port that is taken costs the metrics, not the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.platforms import EX_FAILURE
from celery.signals import worker_process_init, worker_shutdown

from workflow_engine.errors import ExtraMissing
from workflow_engine.settings import get_settings
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.counting import CountsOfWorker
from workflow_engine.telemetry.exposition import WorkerCollector, require_prometheus_client, serve
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.worker.report import release
from workflow_engine.worker.steps.preparation import Preparation, refusal

log = logging.getLogger(__name__)


class Metrics(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Begins to count before the pool is forked, and serves the counts once it is."""

    requires = {"celery.worker.components:Pool", Preparation}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._counts: CountsOfWorker | None = None
        self._stop_serving: Callable[[], None] | None = None

    def include_if(self, worker: Any) -> bool:
        return get_settings().metrics_port is not None

    def create(self, worker: Any) -> Any:
        try:
            require_prometheus_client()
        except ExtraMissing as error:
            raise refusal("This worker does not start: %s", error, EX_FAILURE) from error
        try:
            self._counts = counting.begin()
        except OSError as error:
            _report(error)
        return super().create(worker)

    def start(self, worker: Any) -> None:
        settings = get_settings()
        if self._counts is None or counting.active is None or settings.metrics_port is None:
            return
        for event in LogEvent:  # a count that begins with its first event shows no increase
            counting.active.event(event.value, 0)
        # Not in `stop`, which comes before the running nodes have ended.
        worker_shutdown.connect(self._finish)
        try:
            collector = WorkerCollector(self._counts, release())
            self._stop_serving = serve(settings.metrics_port, settings.metrics_address, collector)
        except OSError as error:
            _report(error)

    def terminate(self, worker: Any) -> None:
        self._finish()

    def _finish(self, **_: Any) -> None:
        if self._stop_serving is not None:
            self._stop_serving()
            self._stop_serving = None
        counting.stop()
        if self._counts is not None:
            self._counts.remove()


@worker_process_init.connect(weak=False)
def _count_too(**_: Any) -> None:
    # A forked process counts anyway; one that was started as a program of its own has to be told.
    counting.join()


def _report(error: OSError) -> None:
    log.error(
        "The metrics of this worker are not served: %s",
        error,
        extra=log_fields(LogEvent.METRICS_NOT_SERVED, error=error),
    )
