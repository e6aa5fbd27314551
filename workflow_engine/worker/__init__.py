"""The engine's Celery worker: `celery -A workflow_engine.worker worker` runs nodes.

In reading order: tasks (the task that every node is), task_outcome (how its end is reported to Celery),
report (the worker's report on itself), steps (bootsteps), celery_internals, log_filters, log_format,
configuration (Celery's settings, with their reasons), app (the ready-made Celery app).

A team with a Celery app of its own adds `workflow_engine.worker.tasks` to its `include` instead. That must
not create a second app in its processes, so this package makes one only for Celery's command line.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Celery looks for an attribute `app` or `celery`; `app` is our module of that name.
    if name == "celery":
        from workflow_engine.worker.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
