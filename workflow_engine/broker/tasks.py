"""The tasks of a team's Celery app, as nodes of type `action/celery-task` need them: names and routes.

A task's route is asked for when a message is sent, by the process that sends it, as Celery itself does. So a
producer needs the app's `task_routes`, but not the code of the task.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, current_app
from celery.app.routes import Router
from kombu.entity import Queue
from kombu.utils.functional import maybe_evaluate

from workflow_engine.execution.messages import Route
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of an app; None stands for the app that is current when they are asked for."""

    def __init__(self, app: Celery | None = None) -> None:
        self._app = app

    @property
    def names(self) -> frozenset[str]:
        """The names of the tasks that are registered here."""
        return frozenset(self._present_app.tasks)

    def route(self, name: str) -> Route:
        """Return the queue and priority that Celery would give to a task; its default queue does not count.

        The options of a task that is registered here take precedence over `task_routes`, as in Celery.
        """
        app = self._present_app
        try:
            task = app.tasks.get(name)
            options = {name: getattr(task, name, None) for name in ("queue", "priority")}
            options = {name: value for name, value in options.items() if value is not None}
            router: Router = app.amqp.router
            found = router.lookup_route(name, (), {}, options, task) if router.routes else None
            by_route = {"queue": found} if isinstance(found, str) else dict(found or {})
        except Exception as error:  # noqa: BLE001 - routers are a team's code
            log.warning(
                "Cannot route task %s; its nodes go to the queue of their execution: %r",
                name,
                error,
                extra=log_fields(LogEvent.TASK_NOT_ROUTED, error=error),
            )
            return Route()
        chosen = {**by_route, **options}
        return Route(_name_of(chosen.get("queue")), _priority(chosen.get("priority")))

    @property
    def _present_app(self) -> Any:
        return self._app if self._app is not None else current_app


def _name_of(queue: Any) -> str | None:
    queue = maybe_evaluate(queue)
    return queue.name if isinstance(queue, Queue) else queue or None


def _priority(value: Any) -> int | None:
    return min(9, max(0, int(value))) if value is not None else None
