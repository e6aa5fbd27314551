"""The engine's Celery task: every node execution is one. It only calls the engine."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery import Task, shared_task
from celery.signals import celeryd_init

import workflow_engine.worker.log_format  # connects itself to Celery's signals
import workflow_engine.worker.report  # noqa: F401 - registers the command
from workflow_engine.broker.wire_format import FORMAT_HEADER, TASK_NAME
from workflow_engine.control.moving import Mover
from workflow_engine.engine.assembly import Engine, worker_engine
from workflow_engine.engine.hop_report import HopEnd, HopReport, dropped
from workflow_engine.errors import (
    BackingServiceUnavailable,
    DatabaseOutdated,
    DatabaseUnavailable,
    InvalidMessage,
    LeftToOthers,
    Requeue,
    WorkflowEngineError,
)
from workflow_engine.execution.messages import HopMessage, execution_id_of
from workflow_engine.execution.records import FORMAT
from workflow_engine.execution.states import HistoryLine
from workflow_engine.outages import BackOff, outage_behind, outages
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.log_events import LogEvent, log_context, log_fields
from workflow_engine.telemetry.tracing import TRACEPARENT
from workflow_engine.worker.celery_internals import lookahead
from workflow_engine.worker.celery_internals.pool_writes import DirectPoolWrites
from workflow_engine.worker.celery_internals.prefetch import BacklogPrefetch
from workflow_engine.worker.log_filters import NodeRequeued, silence_repeats
from workflow_engine.worker.steps.consumption_watch import ConsumptionWatch
from workflow_engine.worker.steps.fleet_heartbeat import FleetHeartbeat
from workflow_engine.worker.steps.liveness import Liveness
from workflow_engine.worker.steps.message_guard import MessageGuard
from workflow_engine.worker.steps.metrics import Metrics
from workflow_engine.worker.steps.preparation import FailedProcesses, Preparation
from workflow_engine.worker.steps.reconnection import ReconnectionPause
from workflow_engine.worker.steps.shutdown import ShutdownRecord
from workflow_engine.worker.steps.timekeeper import Timekeeper
from workflow_engine.worker.task_outcome import task_outcome

log = logging.getLogger(__name__)

OUTAGE_TIMEOUT = 20.0
"""Seconds that a process keeps a message and waits for an unavailable server: another message would meet the
same, and the unavailable server may be the broker. No longer, because a worker that ends waits for its
processes."""


# The node of a failed task has failed for good, or waits for its next attempt in Postgres. So a team's
# settings for its own failed tasks must neither repeat this one nor keep it as a result.
@shared_task(
    name=TASK_NAME,
    bind=True,
    ignore_result=True,
    store_errors_even_if_ignored=False,
    acks_late=True,
    acks_on_failure=True,
    acks_on_timeout=True,
    reject_on_worker_lost=False,
    retry_on_worker_lost=False,
    autoretry_for=(),
)
def run_node(self: Task, **message: Any) -> str:
    """Run one node of an execution; return how it ended. Raises the exception of a failed node."""
    try:
        engine, request = worker_engine(self.app), self.request
        traceparent = getattr(request, TRACEPARENT, None) if engine.settings.tracing else None
        if not isinstance(traceparent, str):
            traceparent = None
        report = _continue_execution(engine, message, request.get(FORMAT_HEADER), request.id, traceparent)
    except InvalidMessage as refusal:
        log.warning(
            "Refused a message that the engine did not write: %s",
            refusal,
            extra=log_fields(LogEvent.MESSAGE_REFUSED, error=refusal),
        )
        return str(dropped(refusal))
    except Requeue as reason:
        _record_return(engine, message, request.hostname, reason)
        raise NodeRequeued(str(reason), requeue=True) from None
    _restart_children(engine, report)
    outcome = task_outcome(report, message.get("node_id", ""))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _restart_children(engine: Engine, report: HopReport) -> None:
    """Restart failed children of a retried parent in place of one that has just ended.

    If that fails, a timekeeper does so within a second.
    """
    if report.restarting:
        with suppress(WorkflowEngineError):
            Mover.of(engine).descendants.see_to(report.restarting)


def _continue_execution(
    engine: Engine, body: Mapping[str, Any], form: object, task_id: str, traceparent: str | None
) -> HopReport:
    """Serve a message; drop one that only newer workers can serve, and leave its execution to them.

    Wait up to `OUTAGE_TIMEOUT` for an unavailable server, then raise `Requeue`. Raises `InvalidMessage`.
    Errors of the engine itself are raised, too: the executor has counted them, and Celery logs them.
    """
    execution_id = execution_id_of(body)
    began = time.monotonic()
    back_off = BackOff(first=0.5, longest=5.0)
    while True:
        try:
            with log_context(execution_id), outages.watch("run nodes"):
                return _serve(engine, body, form, task_id, traceparent)
        except InvalidMessage:
            raise
        except Requeue:
            pause = back_off.pause()
            if time.monotonic() + pause > began + OUTAGE_TIMEOUT:
                raise
        except Exception as error:
            error.add_note(f"in the hop of node {body.get('node_id')} of execution {execution_id}")
            raise
        time.sleep(pause)


def _record_return(engine: Engine, body: Mapping[str, Any], worker: str, reason: Requeue) -> None:
    """Count a requeue, and record it in its execution's history unless Postgres itself is unavailable."""
    _count(body, HopEnd.REQUEUED)
    if isinstance(outage_behind(reason), DatabaseUnavailable | DatabaseOutdated):
        return
    with suppress(WorkflowEngineError):
        hop = HopMessage.of(body)
        engine.state.record(
            HistoryLine.REQUEUED, hop.execution_id, hop.node_id, worker, str(reason), since=hop.seq
        )


def _serve(
    engine: Engine, body: Mapping[str, Any], form: object, task_id: str, traceparent: str | None
) -> HopReport:
    """Run the node of a message. Raises `Requeue` while a server is unavailable, and `InvalidMessage`."""
    try:
        if isinstance(form, int) and form > FORMAT:
            raise LeftToOthers("the message was written by a newer release")
        return engine.executor.continue_execution(
            HopMessage.of(body), task_id, traceparent, lookahead.sight()
        )
    except LeftToOthers as reason:
        try:
            engine.stalled.leave(execution_id_of(body))
        except BackingServiceUnavailable as error:
            raise Requeue(str(error)) from error
        _warn_once(str(reason))
        _count(body, HopEnd.DROPPED)
        return dropped(reason)


def _count(body: Mapping[str, Any], end: HopEnd) -> None:
    """Count a message whose node has not run, unless a newer release has written it."""
    if counting.active is not None:
        with suppress(InvalidMessage):
            message = HopMessage.of(body)
            counting.active.hop(message.workflow, message.node_id, end)


@functools.lru_cache(maxsize=1000)
def _warn_once(reason: str) -> None:
    log.warning(
        "Dropped a message and left its execution to other workers: %s",
        reason,
        extra=log_fields(LogEvent.EXECUTION_LEFT),
    )


@celeryd_init.connect(weak=False)
def _prepare_worker(instance: Any, **_: Any) -> None:
    # By signal, so that a team's own app only has to `include` this module.
    instance.app.steps["worker"].update(
        (Preparation, Metrics, ShutdownRecord, Timekeeper, Liveness, FleetHeartbeat, ConsumptionWatch)
    )
    instance.app.steps["consumer"].update(
        (FailedProcesses, MessageGuard, ReconnectionPause, DirectPoolWrites, BacklogPrefetch)
    )
    silence_repeats()
