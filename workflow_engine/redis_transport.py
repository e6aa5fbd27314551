"""kombu's Redis transport, keeping its client: kombu builds a new client object for every single command.

Building one takes about as long as the command's round trip on the same machine. Everything that matters to
the broker is untouched: connections, their pool, what happens when they break.
"""

from __future__ import annotations

from typing import Any

from kombu.connection import resolve_aliases
from kombu.transport import redis

from workflow_engine.settings import KEEPING_TRANSPORT

# So that logs and `celery inspect` call the broker redis://… as ever.
resolve_aliases[KEEPING_TRANSPORT] = "redis"


class Channel(redis.Channel):
    """A channel whose commands share one client, for as long as the pool behind it is the same."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # waits for messages on a connection that it has for itself
            return super()._create_client(asynchronous=True)
        # kombu replaces the pool after a fork and when the channel closes; a client goes with its pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept


class Transport(redis.Transport):
    """What Celery's `broker_transport` names."""

    Channel = Channel
