"""The Celery app of the engine's workers over RabbitMQ."""

from __future__ import annotations

from benchmarks.quorum_queues import quorum_queue
from workflow_engine.worker.app import app

__all__ = ["app"]

app.conf.task_queues = [quorum_queue(app.conf.task_default_queue)]
