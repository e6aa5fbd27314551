"""Queues of RabbitMQ that are on the disks of most of its nodes, as docs/scaling.md describes them."""

from __future__ import annotations

from kombu.entity import Queue


def quorum_queue(name: str) -> Queue:
    """Return a queue for the setting `task_queues`."""
    arguments = {"x-queue-type": "quorum"}
    # kombu has no type information
    return Queue(name, durable=True, queue_arguments=arguments)  # type: ignore[no-untyped-call]
