"""The lock under test, and one of several Redis servers that may hold it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import redis

from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.errors import CacheUnavailable, Requeue

EXECUTION = "01890000-0000-7000-8000-000000000001"
KEY = f"lock:execution:{EXECUTION}"

EXPIRY = 5.0
"""Seconds that a lock lasts unless it is renewed."""


class LockServer:
    """A Redis that can be lost in every way."""

    def __init__(self) -> None:
        self._server = EmbeddedRedis().start()
        self.url = self._server.url
        self.client = redis.Redis.from_url(self.url)
        self.is_down = False

    def kill(self) -> None:
        self._server.kill()
        self.is_down = True

    def restart_empty(self) -> None:
        self._server.restart()
        self.is_down = False

    def freeze(self) -> None:
        """Let it accept connections and reply to nothing, as if the network to it were cut."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def recover(self) -> None:
        if self.is_down:
            self.restart_empty()
        self.thaw()
        self.client.config_set("maxmemory", 0)
        self.client.flushall()

    def stop(self) -> None:
        self.client.close()
        self._server.stop()


def urls_of(servers: Sequence[LockServer]) -> tuple[str, ...]:
    return tuple(server.url for server in servers)


def does(step: Callable[[], object]) -> bool:
    """Return whether a step finds the servers that it needs."""
    try:
        step()
    except (CacheUnavailable, Requeue):
        return False
    return True
