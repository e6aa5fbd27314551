"""A Celery app whose queue is a quorum queue of RabbitMQ, as docs/scaling.md describes it."""

from __future__ import annotations

from kombu import Queue

from workflow_engine.worker.app import app

__all__ = ["app"]

app.conf.task_queues = [
    Queue(app.conf.task_default_queue, durable=True, queue_arguments={"x-queue-type": "quorum"})
]
