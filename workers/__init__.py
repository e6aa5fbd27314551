"""The Celery side of the engine: `celery -A workers worker` runs nodes.

A team with a Celery app of its own adds `workers.tasks` to its `include` instead. That must not create
a second app in its processes, so this package makes one only when Celery's command line asks for it.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Celery looks for an attribute `app` or `celery`; `app` is our module of that name.
    if name == "celery":
        from workers.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
