"""The engine's workers with one of their levers removed: `celery -A benchmarks.without:kept_client worker`.

Celery's command line takes the lever's name for an attribute of this module. Only levers that can be removed
from a real worker from outside are here; those that the engine is built around are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
from celery import Celery

from workflow_engine.broker.dispatcher import CeleryDispatcher
from workflow_engine.broker.wire_format import TASK_NAME, task_headers
from workflow_engine.execution.messages import Dispatch
from workflow_engine.redis import client as redis_connection
from workflow_engine.worker.celery_internals.pool_writes import DirectPoolWrites
from workflow_engine.worker.celery_internals.prefetch import BacklogPrefetch


@dataclass(frozen=True)
class Lever:
    """How a worker does without it: by Celery's settings, by its command line, or by other code."""

    name: str
    """As in the table of figures: what a worker without it has instead."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of Celery; a dict changes only the keys that it has."""
    options: Sequence[str] = ()
    prepare: Callable[[], None] = lambda: None
    """Called in the worker before its pool forks."""


def _send_task_for_every_message() -> None:
    """Publish as `apply_async` does: the same message, rebuilt by Celery's app."""

    def publish(self: CeleryDispatcher, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            headers = task_headers(dispatch, "")
            self._app.send_task(
                TASK_NAME,
                kwargs=asdict(dispatch.message),
                queue=dispatch.queue,
                priority=dispatch.priority,
                shadow=headers["shadow"],
                root_id=headers["root_id"],
                kwargsrepr=headers["kwargsrepr"],
                ignore_result=True,
                headers={
                    name: value for name, value in headers.items() if name.startswith("workflow_engine")
                },
            )

    CeleryDispatcher.publish = publish  # type: ignore[method-assign]
    _publish_apart()


def _publish_apart() -> None:
    """Leave a node with one call to Redis, and publish the next with another."""
    CeleryDispatcher.queued = lambda *_: None  # type: ignore[method-assign]


def _lend_connections() -> None:
    """Take a connection to Redis out of redis-py's pool for each command, and put it back."""
    redis_connection.Client.execute_command = redis.Redis.execute_command  # type: ignore[method-assign]


def _wait_for_the_loop() -> None:
    """Write a task when the event loop comes to it."""
    DirectPoolWrites.include_if = lambda *_: False  # type: ignore[method-assign]


def _prefetch_nothing() -> None:
    """Ask the broker for a message when a process is free."""
    BacklogPrefetch.include_if = lambda *_: False  # type: ignore[method-assign]


LEVERS: Mapping[str, Lever] = {
    "leave_and_send": Lever("a publish of its own for each message", prepare=_publish_apart),
    "held_producer": Lever("app.send_task for each message", prepare=_send_task_for_every_message),
    "no_ack_emulation": Lever(
        "acknowledgement emulation, Celery's default",
        settings={"broker_transport_options": {"ack_emulation": True}},
    ),
    "kept_client": Lever("kombu's own transport", settings={"broker_transport": None}),
    "kept_connection": Lever("connections lent from redis-py's pool", prepare=_lend_connections),
    "direct_pool_writes": Lever(
        "tasks written by Celery's event loop, none prefetched", prepare=_wait_for_the_loop
    ),
    "backlog_prefetch": Lever("no message prefetched", prepare=_prefetch_nothing),
    "no_rate_limits": Lever("rate limits, Celery's default", settings={"worker_disable_rate_limits": False}),
    "few_log_lines": Lever("log level INFO", options=["--loglevel", "INFO"]),
    "no_task_events": Lever("task events, as Flower switches them on", options=["--task-events"]),
}
"""By their names on the command line. A new lever is one more entry here."""


def __getattr__(name: str) -> Celery:
    if name not in LEVERS:
        raise AttributeError(f"module {__name__!r} has no lever {name!r}")
    lever = LEVERS[name]
    app = Celery("workers", include=["workflow_engine.worker.tasks"])
    app.config_from_object("workflow_engine.worker.configuration")
    for setting, value in lever.settings.items():
        app.conf[setting] = {**app.conf[setting], **value} if isinstance(value, Mapping) else value
    lever.prepare()
    return app
