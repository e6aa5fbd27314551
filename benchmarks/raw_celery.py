"""Plain Celery, with which the engine is compared: the same tasks, and default settings.

Workers find their broker in Celery's own environment variables. The last task of a chain signals its end
through a named pipe, which costs the raw side a microsecond and no message.
"""

from __future__ import annotations

import functools
import os
import time

from celery import Celery, shared_task

from benchmarks.quorum_queues import quorum_queue
from benchmarks.work import fib as number

ENDINGS_VARIABLE = "BENCHMARK_ENDINGS"
"""The path of the pipe."""
BROKER_VARIABLE = "CELERY_BROKER_URL"


def connected_to(broker: str | None = None, backend: str | None = None) -> Celery:
    """Return an app with Celery's defaults and these servers; for workers, those of the environment.

    Its queue is a quorum queue if the broker is RabbitMQ.
    """
    app = Celery("raw_celery", broker=broker, backend=backend, set_as_current=False)
    if (broker or os.environ.get(BROKER_VARIABLE, "")).startswith("amqp"):
        app.conf.task_queues = [quorum_queue(app.conf.task_default_queue)]
    return app


# celery has no type information
@shared_task(name="raw_celery.no_op")  # type: ignore[untyped-decorator]
def no_op(is_last: bool = False) -> None:
    """Do nothing."""
    _signal_end(is_last)


@shared_task(name="raw_celery.no_op_acknowledged_late", acks_late=True)  # type: ignore[untyped-decorator]
def no_op_acknowledged_late(is_last: bool = False) -> None:
    """Do nothing; if its process dies meanwhile, another serves the message, as with the engine's task."""
    _signal_end(is_last)


@shared_task(name="raw_celery.fib")  # type: ignore[untyped-decorator]
def fib(n: int, is_last: bool = False) -> int:
    """Compute a Fibonacci number."""
    result = number(n)
    _signal_end(is_last)
    return result


@shared_task(name="raw_celery.outside")  # type: ignore[untyped-decorator]
def outside(seconds: float, is_last: bool = False) -> None:
    """Wait for something outside."""
    time.sleep(seconds)
    _signal_end(is_last)


def _signal_end(is_last: bool) -> None:
    if is_last:
        os.write(_endings(), b".")


@functools.cache
def _endings() -> int:
    return os.open(os.environ[ENDINGS_VARIABLE], os.O_WRONLY)


app = connected_to()
