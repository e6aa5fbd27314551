"""Fleet heartbeat: a thread that reports this worker to the others in Redis, every few seconds.

`explain` and the pages read there which queues are consumed, and which workers have the code of a node. They
need not ask the worker then, which may be busy or on its way out. Nothing else depends on it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown
from celery.worker import state

from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.records import FORMAT
from workflow_engine.nodes.registry import registry
from workflow_engine.outages import outages
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.presence import Introduction, life_of_this_process
from workflow_engine.redis.worker_heartbeats import INTERVAL, WorkerHeartbeat, WorkerHeartbeats
from workflow_engine.settings import get_settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields
from workflow_engine.worker.report import pool_name, release
from workflow_engine.worker.steps.consumption_watch import consumed_queues
from workflow_engine.worker.steps.preparation import Preparation

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the queues that the worker consumes; a change is reported at once."""


class FleetHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Starts the thread with the worker; it ends with the process."""

    requires = {"celery.worker.components:Pool", Preparation}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._has_ended = threading.Event()

    def start(self, worker: Any) -> None:
        settings = get_settings()
        heartbeats = WorkerHeartbeats(connect_redis(settings, introduce=Introduction(settings)), settings)
        report = partial(self._beat, heartbeats, ConsumedQueues(worker), worker)
        self._thread = threading.Thread(target=report, name="fleet-heartbeat", daemon=True)
        self._thread.start()
        worker_shutdown.connect(self._finish)

    def _beat(self, heartbeats: WorkerHeartbeats, queues: ConsumedQueues, worker: Any) -> None:
        last = -INTERVAL
        while not self._has_ended.wait(LOOK):
            try:
                has_changed = queues.look()
                if queues.known and (has_changed or time.monotonic() - last > INTERVAL):
                    self._report(heartbeats, queues, worker)
                    last = time.monotonic()
            except CacheUnavailable:
                # The timekeeper says that Redis is away.
                self._has_ended.wait(INTERVAL)
            except Exception as error:
                log.exception(
                    "A round of %s failed; continuing",
                    "fleet-heartbeat",
                    extra=log_fields(LogEvent.PERIODIC_CALL_FAILED, call="fleet-heartbeat", error=error),
                )
                self._has_ended.wait(INTERVAL)
        with suppress(CacheUnavailable):
            heartbeats.remove(worker.hostname)

    def _report(self, heartbeats: WorkerHeartbeats, queues: ConsumedQueues, worker: Any) -> None:
        heartbeats.beat(
            WorkerHeartbeat(
                name=worker.hostname,
                instance=socket.gethostname(),
                process=os.getpid(),
                release=release(),
                format=FORMAT,
                queues=tuple(sorted(queues.consumed)),
                cancelled=tuple(sorted(queues.cancelled)),
                node_types=frozenset(registry.runnable),
                functions=frozenset(registry.functions),
                pool=pool_name(worker.pool_cls),
                concurrency=worker.concurrency,
                running=len(state.active_requests),
                life=life_of_this_process(),
                outages=outages.current(),
            )
        )

    def _finish(self, **_: Any) -> None:
        self._has_ended.set()
        self._thread.join(2)


class ConsumedQueues:
    """The queues that a worker consumes, and those that it was told to stop consuming."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.consumed: frozenset[str] = frozenset()
        self.known: frozenset[str] = frozenset()
        """All that it has consumed since its start."""

    @property
    def cancelled(self) -> frozenset[str]:
        return self.known - self.consumed

    def look(self) -> bool:
        """Return whether the worker consumes other queues than at the last look.

        While it connects to its broker, those that it consumed before count.
        """
        consumer = getattr(self._worker, "consumer", None)
        if consumer is None or getattr(consumer, "task_consumer", None) is None:
            return False
        before = self.consumed
        self.consumed = frozenset(consumed_queues(self._worker))
        self.known |= self.consumed
        return self.consumed != before
