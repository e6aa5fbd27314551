"""Workers that report themselves in Redis, and serve a real broker's queues when the test says so."""

from __future__ import annotations

import base64
import json
from typing import Any

import redis

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.records import FORMAT
from workflow_engine.nodes.registry import registry
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat, WorkerHeartbeats

QUEUES = ("workflow", "reports")


class ReportedWorkers:
    """Workers that report themselves, and serve the queues when the test says so."""

    def __init__(self, engine: Engine, client: redis.Redis) -> None:
        self._engine = engine
        self._redis = client
        self._heartbeats = WorkerHeartbeats(client, engine.settings)

    def live(self, name: str = "w1@shop", queues: tuple[str, ...] = ("workflow",), **others: Any) -> None:
        """Let a worker report itself, as it does every few seconds."""
        known: dict[str, Any] = {
            "instance": "shop",
            "process": 1,
            "release": "0.1.0",
            "format": FORMAT,
            "cancelled": (),
            "node_types": frozenset(registry.runnable),
            "functions": frozenset(registry.functions),
            "pool": "prefork",
            "concurrency": 2,
            "running": 0,
        }
        self._heartbeats.beat(WorkerHeartbeat(name=name, queues=queues, **{**known, **others}))

    def take(self) -> HopMessage | None:
        """Take the next message of all queues."""
        for queue in QUEUES:
            for key in sorted(self._redis.keys(f"{queue}*")):
                if (content := self._redis.rpop(key)) is not None:
                    message = json.loads(content)
                    assert message["headers"]["task"] == TASK_NAME
                    return HopMessage.of(json.loads(base64.b64decode(message["body"]))[1])
        return None

    def serve(self) -> None:
        """Serve messages until there are none."""
        while (message := self.take()) is not None:
            self._engine.executor.continue_execution(message, "task-1")

    def lose_messages(self) -> None:
        """Remove every message from the broker."""
        for queue in QUEUES:
            for key in self._redis.keys(f"{queue}*"):
                self._redis.delete(key)
