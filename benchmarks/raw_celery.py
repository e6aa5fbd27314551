"""Celery as it comes, which the engine is held against: tasks that do nothing, and no setting touched.

Workers are told their broker by Celery's own variables of the environment. The end of a chain is told
through a named pipe, which costs the raw side a microsecond and no message.
"""

from __future__ import annotations

import functools
import os

from celery import Celery, shared_task

ENDINGS_VARIABLE = "BENCHMARK_ENDINGS"
"""The path of the pipe."""


def connected_to(broker: str | None = None, backend: str | None = None) -> Celery:
    """An app with Celery's defaults and these servers; for workers, those that the environment names."""
    return Celery("raw_celery", broker=broker, backend=backend, set_as_current=False)


@shared_task(name="raw_celery.no_op")  # type: ignore[untyped-decorator]  # celery has no type information
def no_op() -> None:
    """Does nothing."""


@shared_task(name="raw_celery.last")  # type: ignore[untyped-decorator]  # celery has no type information
def last() -> None:
    """Does nothing either, and is the last of its chain."""
    os.write(_endings(), b".")


@functools.cache
def _endings() -> int:
    return os.open(os.environ[ENDINGS_VARIABLE], os.O_WRONLY)


app = connected_to()
