"""The commands that help, quoted so that a shell takes each value as it is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

WORKER_APP = "workflow_engine.worker"
"""The Celery app of workers without one of their own."""


def cli(*words: str) -> str:
    """Return a call of the engine's command line."""
    return shlex.join(["workflow-engine", *words])


def send_event(name: str, *options: str) -> str:
    """Return the command that sends an event."""
    # A name that looks like an option has to follow the end of all options.
    return (
        cli("send-event", *options, "--", name) if name.startswith("-") else cli("send-event", name, *options)
    )


def worker(queue: str) -> str:
    """Return the command that starts a worker for a queue."""
    return shlex.join(["celery", "-A", WORKER_APP, "worker", "-Q", queue])


def add_consumer(queue: str, workers: Sequence[str]) -> str:
    """Return the command that lets workers consume a queue again."""
    return shlex.join(["celery", "-A", WORKER_APP, "control", "-d", ",".join(workers), "add_consumer", queue])
