"""Preparation: a worker that cannot run nodes refuses to start, before it has forked or taken anything.

Celery logs an exception of a signal handler and goes on; a bootstep can refuse. Where Celery starts a process
of the pool as a program of its own, and it cannot be prepared, the whole worker ends.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from billiard import current_process
from celery import bootsteps, current_app
from celery.platforms import EX_FAILURE
from celery.signals import worker_process_init
from celery.worker import state

from workflow_engine.engine.assembly import worker_engine
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.nodes.module_imports import import_failure, search_current_directory
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Preparation(bootsteps.Step):  # type: ignore[misc]  # celery has no type information
    """Loads node types and assembles the engine, which the processes of the pool inherit."""

    def create(self, worker: Any) -> None:
        try:
            _prepare(worker.app)
        except Exception as error:
            raise refusal("This worker does not start: %s", error, EX_FAILURE) from error
        _share_with_children()


class FailedProcesses(bootsteps.StartStopStep):  # type: ignore[misc]
    """Part of the consumer, since the pool gets its handlers again with every new connection."""

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        pool: Any = getattr(consumer.pool, "_pool", None)
        if callable(then := getattr(pool, "on_process_down", None)):
            pool.on_process_down = partial(_look_at, then)


def _look_at(then: Callable[[Any], None], process: Any) -> None:
    then(process)
    if process.exitcode == os.EX_CONFIG:
        end_worker("a process of its pool cannot be prepared to run nodes")


@worker_process_init.connect(weak=False)
def _prepare_process(**_: Any) -> None:
    # A forked process has inherited the engine; the pool `solo` sends this signal for the main process.
    if current_process().name == "MainProcess":
        return
    try:
        _prepare(current_app._get_current_object())
    except Exception as error:
        raise refusal("This process cannot run nodes: %s", error, os.EX_CONFIG) from error


def _prepare(app: Any) -> None:
    search_current_directory()
    worker_engine(app)


def _share_with_children() -> None:
    """Keep the processes of the pool from copying what is loaded by now, as long as they only read it.

    A collection of garbage writes to each object that it looks at, and so makes a forked process copy the
    page. It looks at these no more. They are never garbage: modules, node types, the engine.
    """
    gc.collect()
    gc.freeze()


def refusal(line: str, error: Exception, status: int) -> SystemExit:
    """Log why the worker does not start, and return the exception that ends it with this status."""
    reason = error if isinstance(error, WorkflowEngineError) else import_failure(error)
    log.critical(line, reason, extra=log_fields(LogEvent.START_REFUSED, error=error))
    log.debug("Full reason of the refusal", exc_info=error)
    return SystemExit(status)


def end_worker(reason: str) -> None:
    """End the worker with a status other than 0, once its running nodes have ended."""
    log.critical("This worker ends: %s", reason, extra=log_fields(LogEvent.WORKER_ENDED))
    if state.should_stop is None:
        state.should_stop = EX_FAILURE


def start_vital_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that the worker depends on: if it fails, the worker ends."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            log.exception(
                "Thread %r of this worker failed",
                name,
                extra=log_fields(LogEvent.THREAD_FAILED, failed_thread=name, error=error),
            )
            end_worker(f"its thread {name!r} failed: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
