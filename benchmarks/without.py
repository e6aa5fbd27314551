"""The engine's workers with one of their levers taken out: `celery -A benchmarks.without:kept_client worker`.

Celery's command line takes the lever's name for an attribute of this module. What is told here is only what
can be taken out of a real worker from outside; what the engine is built around is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
from celery import Celery

from workers.handover import Handover
from workers.reserve import Reserve
from workflow_engine import redis_connection
from workflow_engine.dispatch import TASK_NAME, CeleryDispatcher, Dispatch, task_headers


@dataclass(frozen=True)
class Lever:
    """How a worker goes without it: by Celery's settings, by its command line, or by other code."""

    name: str
    """As the table of figures has it: what a worker without it has instead."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of Celery; those that are dicts change but the keys they have."""
    options: Sequence[str] = ()
    prepare: Callable[[], None] = lambda: None
    """Called in the worker before its pool forks."""


def _send_task_for_every_message() -> None:
    """Publish as `apply_async` does: the same message, put together anew by Celery's app."""

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
    """Leave a node with one call of Redis, and publish the next with another."""
    CeleryDispatcher.queued = lambda *_: None  # type: ignore[method-assign]


def _lend_connections() -> None:
    """Take a connection to Redis out of redis-py's pool for each command, and put it back."""
    redis_connection.Client.execute_command = redis.Redis.execute_command  # type: ignore[method-assign]


def _wait_for_the_loop() -> None:
    """Hand a task over when the event loop comes to it."""
    Handover.register_with_event_loop = lambda *_: None  # type: ignore[method-assign]


def _reserve_nothing() -> None:
    """Ask the broker for a message when a process is free."""
    Reserve.include_if = lambda *_: False  # type: ignore[method-assign]


LEVERS: Mapping[str, Lever] = {
    "leave_and_send": Lever("a publish of its own for each message", prepare=_publish_apart),
    "held_producer": Lever("app.send_task for each message", prepare=_send_task_for_every_message),
    "no_ack_emulation": Lever(
        "acknowledgement emulation, Celery's default",
        settings={"broker_transport_options": {"ack_emulation": True}},
    ),
    "kept_client": Lever("kombu's own transport", settings={"broker_transport": None}),
    "kept_connection": Lever("connections lent from redis-py's pool", prepare=_lend_connections),
    "handover": Lever(
        "tasks handed over by Celery's event loop, none in reserve", prepare=_wait_for_the_loop
    ),
    "reserve": Lever("no message in reserve", prepare=_reserve_nothing),
    "no_rate_limits": Lever("rate limits, Celery's default", settings={"worker_disable_rate_limits": False}),
    "few_log_lines": Lever("log level INFO", options=["--loglevel", "INFO"]),
    "no_task_events": Lever("task events, as Flower switches them on", options=["--task-events"]),
}
"""By the name that the command line knows. A new one is an entry here and nothing else."""


def __getattr__(name: str) -> Celery:
    if name not in LEVERS:
        raise AttributeError(f"module {__name__!r} has no lever {name!r}")
    lever = LEVERS[name]
    app = Celery("workers", include=["workers.tasks"])
    app.config_from_object("celeryconfig")
    for setting, value in lever.settings.items():
        app.conf[setting] = {**app.conf[setting], **value} if isinstance(value, Mapping) else value
    lever.prepare()
    return app
