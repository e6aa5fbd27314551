"""The engine's Celery task: every node execution is one. All it does is hand over to the engine."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject
from celery.signals import celeryd_init

from workers.timekeeper import Timekeeper
from workflow_engine.dispatch import FORMAT_HEADER, TASK_NAME, HopMessage
from workflow_engine.engine import worker_engine
from workflow_engine.errors import GivenBack
from workflow_engine.execution_records import FORMAT
from workflow_engine.nodes import load_node_types
from workflow_engine.settings import get_settings

log = logging.getLogger(__name__)

BACK_OFF = 1.0
"""Seconds a process rests before it gives a message back, so that one message does not spin."""


@shared_task(name=TASK_NAME, bind=True, ignore_result=True, acks_late=True, reject_on_worker_lost=False)
def run_node(self: Task, **message: Any) -> None:
    """Run one node of an execution."""
    try:
        if (self.request.get(FORMAT_HEADER) or FORMAT) > FORMAT:
            raise GivenBack("the message was written by a newer release")
        worker_engine(self.app).executor.continue_execution(HopMessage(**message), self.request.id)
    except GivenBack as reason:
        log.warning("Gave back a node of execution %s: %s", message.get("execution_id"), reason)
        time.sleep(BACK_OFF)
        raise Reject(str(reason), requeue=True) from reason


@celeryd_init.connect(weak=False)
def _prepare_worker(instance: Any, **_: Any) -> None:
    # By signal, so that a team's own app needs nothing but the `include` of this module.
    instance.app.steps["worker"].add(Timekeeper)
    # Before the pool forks, or the first node of every process would wait for these imports.
    load_node_types(get_settings().imports)
