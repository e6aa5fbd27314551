"""Messages in quorum queues of RabbitMQ, contexts on one Redis."""

from __future__ import annotations

from typing import Any, Self

from faults.topologies.topology import Topology, flush
from support.rabbitmq import RabbitQueues
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.embedded.rabbitmq import EmbeddedRabbit

QUEUE = "workflow"


class OverRabbit(Topology):
    """One node of RabbitMQ and one Redis."""

    app = "faults.quorum_queues"

    def __init__(self) -> None:
        self._redis = EmbeddedRedis()
        self._rabbit = EmbeddedRabbit()
        self._queues = RabbitQueues(self._rabbit)

    @property
    def settings(self) -> dict[str, Any]:
        return {"redis_url": self._redis.url, "broker_url": self._rabbit.url}

    def __enter__(self) -> Self:
        self._redis.start()
        try:
            self._rabbit.__enter__()
        except BaseException:
            self._redis.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._rabbit.stop()
        self._redis.stop()

    def renew(self) -> None:
        self._redis.restart()
        self._queues.delete(QUEUE)

    def flush(self) -> None:
        flush(self._redis)

    def restart_empty(self) -> None:
        self._redis.kill()
        self._redis.restart()

    def fail_over(self) -> None:
        """Kill the broker, and start it on what is on its disk."""
        assert self._queues.type_of(QUEUE) == "quorum"
        self._rabbit.kill()
        self._rabbit.start()
