"""Contexts and messages behind Sentinel."""

from __future__ import annotations

from typing import Any, Self

from faults.topologies.topology import Topology, flush
from support.redis_sentinel import EmbeddedSentinels


class BehindSentinels(Topology):
    """A Redis with a replica and three sentinels, for everything."""

    def __init__(self) -> None:
        self._servers = EmbeddedSentinels()

    @property
    def settings(self) -> dict[str, Any]:
        return {"redis_url": self._servers.url}

    def __enter__(self) -> Self:
        self._servers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.stop()

    def renew(self) -> None:
        self._servers.restart()
        self._servers.settle()
        self.flush()

    def flush(self) -> None:
        flush(self._servers.primary())

    def restart_empty(self) -> None:
        """Restart the primary at once, before the sentinels miss it; the replica is emptied by it."""
        primary = self._servers.primary()
        primary.kill()
        primary.restart()

    def fail_over(self) -> None:
        former = self._servers.kill_primary()
        self._servers.wait_for_failover(former)
        self._servers.restart()
        self._servers.settle()
