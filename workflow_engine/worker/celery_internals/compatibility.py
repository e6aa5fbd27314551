"""Decides whether this package is used: by the app or the setting, and by the attributes that Celery has.

The tables name every private attribute that the package uses; its docstring gives the reasons. A part that
misses one leaves Celery's own code in place.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import billiard
import billiard.pool
import celery
import kombu
from celery import Celery
from celery.worker import request, state

from workflow_engine.addresses.broker import KEEPING_TRANSPORT
from workflow_engine.broker.internals import Internal, a, anything, callable_with, changes, having
from workflow_engine.broker.redis_transport import changes_of_kombu
from workflow_engine.settings import get_settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

OWN_APP = "workflow_engine_celery_internals"
"""The Celery setting in `worker/configuration.py` that marks the app as the engine's own."""

POOL_WRITES = (
    Internal("TaskPool", "_pool", anything),
    Internal("TaskPool", "flush", callable_with()),
    Internal("AsynPool", "flush", callable_with()),
    Internal("AsynPool", "on_poll_start", callable_with()),
    Internal("AsynPool", "outbound_buffer", a(deque)),
    Internal("AsynPool", "_quick_put", callable_with("task")),
    Internal("AsynPool", "_mark_worker_as_available", callable_with("pipe")),
    Internal("AsynPool", "_all_inqueues", a(set)),
    Internal("AsynPool", "_busy_workers", a(set)),
    Internal("AsynPool", "_active_writes", a(set)),
    Internal("AsynPool", "_cache", a(dict)),
    Internal("AsynPool", "_putlock", having("release")),
    Internal("ApplyResult", "_accepted", a(bool)),
    Internal("ApplyResult", "_accept_callback", anything),
    Internal("ApplyResult", "_write_to", anything),
    Internal("ApplyResult", "discard", callable_with()),
    Internal("Worker", "inqW_fd", a(int)),
    Internal("Hub", "on_tick", a(set)),
    Internal("Hub", "consolidate", a(set)),
    Internal("Hub", "consolidate_callback", callable_with("pipes")),
)
"""The attributes that `pool_writes` uses."""

PREFETCH = (
    Internal("WorkController", "wait_for_soft_shutdown", callable_with()),
    Internal("Blueprint", "on_close", callable_with()),
    Internal("LaxBoundedSemaphore", "grow", callable_with("number")),
    Internal("LaxBoundedSemaphore", "initial_value", a(int)),
    Internal("Request", "acknowledged", a(bool)),
    Internal("state", "all_total_count", a(list)),
    Internal("state", "task_ready", callable_with("request")),
)
"""The attributes that `prefetch` uses beyond `pool_writes`, without which it does nothing."""


LOOKAHEAD = (
    Internal("Process", "_target", having("workloop")),
    Internal("Worker", "inq", anything),
    Internal("SimpleQueue", "_reader", having("fileno")),
    Internal("Worker", "wait_for_job", callable_with()),
)
"""The attributes that `lookahead` uses in a process of the pool."""


def is_turned_on(app: Celery) -> bool:
    """Return whether the app or the setting turns this package on."""
    setting = get_settings().celery_internals
    return setting if setting is not None else bool(app.conf.get(OWN_APP))


def is_wanted(consumer: Any) -> bool:
    """Return whether this package is turned on, and the pool can use it."""
    # Without the event loop the pool `prefork` writes in a thread of its own; other pools write nothing.
    can_use = consumer.pool.uses_semaphore and consumer.controller.use_eventloop
    return is_turned_on(consumer.app) and bool(can_use)


def changes_for_pool_writes(consumer: Any, hub: Any) -> list[str]:
    """Return the changes to attributes that `pool_writes` uses, in a consumer whose pool has started."""
    pool = getattr(consumer.pool, "_pool", None)
    owners = {
        "TaskPool": consumer.pool,
        "AsynPool": pool,
        "ApplyResult": _job(),
        "Worker": next(iter(getattr(pool, "_pool", ())), None),
        "Hub": hub,
    }
    return changes(POOL_WRITES, owners)


def changes_for_prefetch(consumer: Any) -> list[str]:
    """Return the changes to attributes that `prefetch` itself uses."""
    controller = consumer.controller
    owners = {
        "WorkController": controller,
        "Blueprint": getattr(controller, "blueprint", None),
        "LaxBoundedSemaphore": getattr(controller, "semaphore", None),
        "Request": getattr(request, "Request", None),
        "state": state,
    }
    return changes(PREFETCH, owners)


def changes_for_lookahead(process: object) -> list[str]:
    """Return the changes to attributes that `lookahead` uses, in a process of the pool."""
    loop = getattr(process, "_target", None)
    owners = {"Process": process, "Worker": loop, "SimpleQueue": getattr(loop, "inq", None)}
    return changes(LOOKAHEAD, owners)


def changes_met(consumer: Any) -> list[str]:
    """Return all changes that kept this worker from using Celery's and kombu's private parts."""
    is_asked_of_kombu = consumer.app.conf.broker_transport == KEEPING_TRANSPORT
    return sorted(consumer.changed_internals) + (changes_of_kombu() if is_asked_of_kombu else [])


def _job() -> object:
    """Return a job as a pool makes it, without a pool; None where that is impossible."""
    try:
        return billiard.pool.ApplyResult({}, None)
    except (AttributeError, TypeError):
        return None


def warn(consumer: Any, changed: Sequence[str], what_follows: str) -> None:
    """Log the changes and what follows in one line; not again with the next connection."""
    if consumer.changed_internals.issuperset(changed):
        return
    consumer.changed_internals.update(changed)
    log_changes(changed, what_follows)


def log_changes(changed: Sequence[str], what_follows: str) -> None:
    """Log the changes and what follows in one line."""
    log.warning(
        "Celery %s, billiard %s and kombu %s are not those that this release supports: %s. %s. Nodes still "
        "run, short ones more slowly.",
        celery.__version__,
        billiard.__version__,
        kombu.__version__,
        "; ".join(changed),
        what_follows,
        extra=log_fields(
            LogEvent.INTERNALS_CHANGED,
            celery=celery.__version__,
            billiard=billiard.__version__,
            kombu=kombu.__version__,
            changed="; ".join(changed),
        ),
    )
