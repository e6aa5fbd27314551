"""Topology: the servers besides Postgres, all of which may lose their data at any moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import redis

from workflow_engine.embedded import EmbeddedRedis


class Topology(ABC):
    """Servers for contexts and messages, from `with` on until its end."""

    app = "workflow_engine.worker"
    """The Celery app of the workers."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The engine's settings that lead to these servers."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def renew(self) -> None:
        """Make them whole and empty, regardless of what broke."""

    @abstractmethod
    def flush(self) -> None:
        """Lose all contexts, locks and, where Redis has them, messages."""

    @abstractmethod
    def restart_empty(self) -> None:
        """Kill a server and start it with empty memory."""

    def fail_over(self) -> None:
        """Kill a server for good, and return once another has taken its place; then bring it back."""
        raise NotImplementedError(f"{type(self).__name__} has no replicas")


class OneRedis(Topology):
    """One Redis for everything."""

    def __init__(self) -> None:
        self.redis = EmbeddedRedis()

    @property
    def settings(self) -> dict[str, Any]:
        return {"redis_url": self.redis.url}

    def __enter__(self) -> Self:
        self.redis.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.stop()

    def renew(self) -> None:
        self.redis.restart()

    def flush(self) -> None:
        flush(self.redis)

    def restart_empty(self) -> None:
        self.redis.kill()
        self.redis.restart()


def flush(server: EmbeddedRedis) -> None:
    """Remove everything from one Redis."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
