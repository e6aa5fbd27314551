"""The engine's workers with one of their levers taken out: `celery -A benchmarks.without:kept_client worker`.

Celery's command line takes the lever's name for an attribute of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

SETTINGS: Mapping[str, Mapping[str, Any]] = {"kept_client": {"broker_transport": None}}
"""Celery's settings without each lever."""


def __getattr__(name: str) -> Celery:
    if name not in SETTINGS:
        raise AttributeError(f"module {__name__!r} has no lever {name!r}")
    app = Celery("workers", include=["workers.tasks"])
    app.config_from_object("celeryconfig")
    app.conf.update(SETTINGS[name])
    return app
