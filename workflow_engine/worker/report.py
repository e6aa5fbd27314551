"""The remote control command by which a worker reports its node types, its release and its limits.

`workflow-engine doctor` sends it; `celery inspect workflow_engine_report` does as well.
"""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celery.concurrency import ALIASES
from celery.worker.control import inspect_command

from workflow_engine import DISTRIBUTION
from workflow_engine.broker.inspection import REPORT_COMMAND
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.execution.records import FORMAT
from workflow_engine.nodes.registry import registry
from workflow_engine.settings import get_settings
from workflow_engine.worker.celery_internals.compatibility import changes_met

WITH_PASSWORDS = frozenset({"database_url", "redis_url", "lock_urls", "broker_url"})


@inspect_command(name=REPORT_COMMAND)
def report(state: Any, **_: Any) -> dict[str, Any]:
    """Return node types, functions, release, pool and limits of the engine in this worker."""
    worker, task = state.consumer.controller, state.app.tasks.get(TASK_NAME)
    return {
        "release": release(),
        "format": FORMAT,
        "node_types": list(registry.runnable),
        "functions": list(registry.functions),
        "pool": pool_name(worker.pool_cls),
        "concurrency": worker.concurrency,
        # Celery looks for them in the same order.
        "time_limit": getattr(task, "time_limit", None) or worker.time_limit,
        "soft_time_limit": getattr(task, "soft_time_limit", None) or worker.soft_time_limit,
        "uses_celery_internals": state.consumer.pipes is not None,
        "changed_internals": changes_met(state.consumer),
        "settings": get_settings().model_dump(mode="json", exclude=set(WITH_PASSWORDS)),
        "clock": time.time(),
    }


def pool_name(pool: type) -> str:
    """Return the name under which `celery worker --pool` knows the class, or the class itself."""
    place = f"{pool.__module__}:{pool.__qualname__}"
    return next((alias for alias, known in ALIASES.items() if known == place), place)


def release() -> str:
    """Return the release of the engine."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
