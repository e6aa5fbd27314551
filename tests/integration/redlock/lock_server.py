"""One of several Redis servers that hold the locks, and how a test loses it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

import redis

from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.errors import CacheUnavailable, GivenBack

EXPIRY = 5.0
"""Seconds that a lock lasts unless it is renewed."""


class LockServer:
    """One of several Redis servers, which can be lost in every way."""

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
        """It accepts connections and answers nothing, as if the network to it were cut."""
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
    try:
        step()
    except (CacheUnavailable, GivenBack):
        return False
    return True


def until(is_so: Callable[[], bool]) -> None:
    """Waits for what takes a moment: a server that was silent is left alone for a second."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
