"""The engine's Celery task: every node execution is one. All it does is hand over to the engine."""

from __future__ import annotations

import functools
import logging
import time
from contextlib import suppress
from typing import Any

from celery import Task, shared_task
from celery.signals import celeryd_init

from workers.consumption import ConsumptionWatch
from workers.handover import Handover
from workers.liveness import Liveness
from workers.log_filters import NodeGivenBack, quieten
from workers.reconnection import ReconnectionPause
from workers.reserve import Reserve
from workers.timekeeper import Timekeeper
from workflow_engine.dispatch import FORMAT_HEADER, TASK_NAME, HopMessage
from workflow_engine.engine import Engine, worker_engine
from workflow_engine.errors import GivenBack, WorkflowEngineError
from workflow_engine.execution_records import FORMAT
from workflow_engine.nodes import load_node_types
from workflow_engine.outages import outage_behind, outages
from workflow_engine.patience import BackOff
from workflow_engine.settings import get_settings

log = logging.getLogger(__name__)

REST = 1.0
"""Seconds a process rests before it gives a message back, so that one message does not spin."""

OUTAGE_PATIENCE = 20.0
"""Seconds a process waits, message in hand, for a server that is away: nobody could serve another, and the
broker may be what is away. No longer, because a worker that is to end waits for its processes."""


@shared_task(name=TASK_NAME, bind=True, ignore_result=True, acks_late=True, reject_on_worker_lost=False)
def run_node(self: Task, **message: Any) -> None:
    """Run one node of an execution."""
    try:
        if (self.request.get(FORMAT_HEADER) or FORMAT) > FORMAT:
            raise GivenBack("the message was written by a newer release")
        _continue_execution(worker_engine(self.app), HopMessage(**message), self.request.id)
    except GivenBack as reason:
        if outage_behind(reason) is None:
            _tell_once(message.get("execution_id"), str(reason))
            time.sleep(REST)
        raise NodeGivenBack(str(reason), requeue=True) from None


def _continue_execution(engine: Engine, message: HopMessage, task_id: str) -> None:
    """Wait out the outage of a server for a while; raises `GivenBack` for what takes longer.

    A mistake of the engine's own counts like a process that dies of its node, so that recovery tries it
    again, but not for ever. Celery logs it.
    """
    began = time.monotonic()
    back_off = BackOff(first=0.5, longest=5.0)
    while True:
        try:
            with outages.told("run nodes"):
                engine.executor.continue_execution(message, task_id)
        except GivenBack as reason:
            pause = back_off.pause()
            if outage_behind(reason) is None or time.monotonic() + pause > began + OUTAGE_PATIENCE:
                raise
        except Exception as error:
            error.add_note(f"in the hop of node {message.node_id} of execution {message.execution_id}")
            with suppress(WorkflowEngineError):
                engine.state.count_loss(message.execution_id, message.seq, f"{type(error).__name__}: {error}")
            raise
        else:
            return
        time.sleep(pause)


@functools.lru_cache(maxsize=1000)
def _tell_once(execution_id: str | None, reason: str) -> None:
    log.warning("Gave back a node of execution %s: %s", execution_id, reason)


@celeryd_init.connect(weak=False)
def _prepare_worker(instance: Any, **_: Any) -> None:
    # By signal, so that a team's own app needs nothing but the `include` of this module.
    instance.app.steps["worker"].update((Timekeeper, Liveness, ConsumptionWatch))
    instance.app.steps["consumer"].update((ReconnectionPause, Handover, Reserve))
    quieten()
    # Before the pool forks, or the first node of every process would wait for these imports.
    load_node_types(get_settings().imports)
