"""WorkerHeartbeats: what each running worker reports about itself every few seconds.

A worker that is asked over its broker replies within a second, if it is well. Programs that must not wait for
that read the last report here. It expires soon after the worker has died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import redis

from workflow_engine.redis.client import redis_errors
from workflow_engine.redis.cluster.nodes import time_at
from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings

INTERVAL = 5.0
"""Seconds between two heartbeats of a worker."""

EXPIRY = 3 * INTERVAL
"""Seconds without a heartbeat after which a worker counts as gone."""


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A worker as it reported itself."""

    name: str
    """Celery's name for it: `celery@host`."""
    instance: str
    """The host, as the holders of locks name it."""
    process: int
    """Its main process."""
    release: str
    format: int
    """The newest form of messages, contexts and rows that it reads."""
    queues: tuple[str, ...]
    """Those that it consumes."""
    cancelled: tuple[str, ...]
    """Those that it consumed until an operator told it to stop."""
    node_types: frozenset[str]
    functions: frozenset[str]
    pool: str
    concurrency: int
    """Nodes that it runs at a time."""
    running: int
    """Nodes that it runs now."""
    life: str = ""
    """The life of its main process, by which `presence` knows whether it is still connected."""
    outages: Mapping[str, float] = field(default_factory=dict)
    """The servers that it cannot reach, each with the seconds since it noticed."""

    def knows(self, code: str) -> bool:
        """Return whether the worker has the code of this node type or function."""
        return code in self.node_types or code in self.functions


class WorkerHeartbeats:
    """The heartbeats of one installation's workers. Methods raise `CacheUnavailable` while Redis is away."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._keys = Keys.of(settings)

    def beat(self, heartbeat: WorkerHeartbeat) -> None:
        """Store a worker's report in place of its last one."""
        expiry_ms = round(EXPIRY * 1000)
        with redis_errors():
            seconds = int(time_at(self._client, self._keys.workers))
            pipeline = self._client.pipeline()
            pipeline.set(self._keys.worker(heartbeat.name), _encoded(heartbeat), px=expiry_ms)
            pipeline.zadd(self._keys.workers, {heartbeat.name: seconds})
            pipeline.zremrangebyscore(self._keys.workers, "-inf", seconds - EXPIRY)
            pipeline.pexpire(self._keys.workers, expiry_ms)
            pipeline.execute()

    def remove(self, name: str) -> None:
        """Remove the report of a worker that has ended."""
        with redis_errors():
            pipeline = self._client.pipeline()
            pipeline.delete(self._keys.worker(name))
            pipeline.zrem(self._keys.workers, name)
            pipeline.execute()

    def all(self) -> list[WorkerHeartbeat]:
        """Return the last reports of all workers that are alive, by name."""
        with redis_errors():
            names: Any = self._client.zrange(self._keys.workers, 0, -1)
            if not names:
                return []
            values: Any = self._client.mget([self._keys.worker(name.decode()) for name in names])
        found = [_decoded(value) for value in values if value is not None]
        return sorted((each for each in found if each is not None), key=lambda each: each.name)


def _encoded(heartbeat: WorkerHeartbeat) -> bytes:
    return orjson.dumps(asdict(heartbeat), default=sorted)


def _decoded(value: bytes) -> WorkerHeartbeat | None:
    """Return a report; None for one of a form that this release does not know."""
    try:
        content = orjson.loads(value)
        known = {name: content[name] for name in WorkerHeartbeat.__dataclass_fields__ if name in content}
        return WorkerHeartbeat(
            **{
                **known,
                "queues": tuple(known["queues"]),
                "cancelled": tuple(known["cancelled"]),
                "node_types": frozenset(known["node_types"]),
                "functions": frozenset(known["functions"]),
            }
        )
    except (ValueError, KeyError, TypeError):
        return None
