"""A team's Celery app, loaded by its name as Celery's own command line does.

With it the command line uses what the team has configured: its broker and the options of its transport,
Django's settings, and the node types that its task modules register.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.utils import find_app

from workflow_engine.addresses.redis import SCHEMES as REDIS_SCHEMES
from workflow_engine.errors import AppUnusable
from workflow_engine.nodes.module_imports import import_failure, search_current_directory


def load_app(name: str) -> Celery:
    """Return the app of `shop`, `shop.celery` or `shop.celery:app`, with its settings read.

    Raises `AppUnusable`.
    """
    search_current_directory()
    try:
        app: Any = find_app(name)
        if not isinstance(app, Celery):
            raise AppUnusable(
                name, f"it is a {type(app).__name__}, not a Celery app; name it `module:attribute`"
            )
        _ = app.conf.broker_url  # Celery reads the settings at the first access
    except AppUnusable:
        raise
    except (Exception, SystemExit) as error:
        raise AppUnusable(name, import_failure(error)) from error
    return app


def redis_of_broker(app: Celery) -> str | None:
    """Return the URL of the Redis that an app has as its broker; None if it has another, or several."""
    url = app.conf.broker_write_url or app.conf.broker_url
    if not isinstance(url, str) or ";" in url:
        return None
    return url if url.partition("://")[0] in REDIS_SCHEMES else None


def load_tasks(app: Celery) -> None:
    """Import the modules with an app's tasks, and set up Django if it is used, as a worker does.

    Raises `AppUnusable`.
    """
    try:
        app.loader.import_default_modules()
    except (Exception, SystemExit) as error:
        raise AppUnusable(str(app.main), import_failure(error)) from error
