"""Celery as it comes, which the engine is held against: the same tasks, and no setting touched.

Workers are told their broker by Celery's own variables of the environment. The end of a chain is told
through a named pipe, which costs the raw side a microsecond and no message.
"""

from __future__ import annotations

import functools
import os
import time

from celery import Celery, shared_task

from benchmarks.work import fib as number

ENDINGS_VARIABLE = "BENCHMARK_ENDINGS"
"""The path of the pipe."""


def connected_to(broker: str | None = None, backend: str | None = None) -> Celery:
    """An app with Celery's defaults and these servers; for workers, those that the environment names."""
    return Celery("raw_celery", broker=broker, backend=backend, set_as_current=False)


# celery has no type information
@shared_task(name="raw_celery.no_op")  # type: ignore[untyped-decorator]
def no_op(is_last: bool = False) -> None:
    """Does nothing."""
    _tell_of_the(is_last)


@shared_task(name="raw_celery.fib")  # type: ignore[untyped-decorator]
def fib(n: int, is_last: bool = False) -> int:
    """Computes."""
    result = number(n)
    _tell_of_the(is_last)
    return result


@shared_task(name="raw_celery.outside")  # type: ignore[untyped-decorator]
def outside(seconds: float, is_last: bool = False) -> None:
    """Waits for something outside."""
    time.sleep(seconds)
    _tell_of_the(is_last)


def _tell_of_the(is_last: bool) -> None:
    if is_last:
        os.write(_endings(), b".")


@functools.cache
def _endings() -> int:
    return os.open(os.environ[ENDINGS_VARIABLE], os.O_WRONLY)


app = connected_to()
