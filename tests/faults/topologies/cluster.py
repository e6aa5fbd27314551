"""Contexts on a Redis Cluster, messages beside it."""

from __future__ import annotations

import itertools
from typing import Any, Self

from faults.topologies.topology import Topology, flush
from support.polling import poll
from support.redis_cluster import PRIMARIES, EmbeddedCluster
from workflow_engine.embedded import EmbeddedRedis

TAKEN_OVER_WITHIN = 60.0
"""Seconds that are enough for a replica, on a crowded machine."""


class BesideACluster(Topology):
    """Three nodes with a replica each, and one more Redis that is the broker."""

    def __init__(self) -> None:
        self._cluster = EmbeddedCluster(replicas=1)
        self._broker = EmbeddedRedis()
        self._turns = itertools.count()

    @property
    def settings(self) -> dict[str, Any]:
        return {"redis_url": self._cluster.url, "broker_url": self._broker.url}

    def __enter__(self) -> Self:
        self._broker.start()
        try:
            self._cluster.__enter__()
        except BaseException:
            self._broker.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.stop()
        self._broker.stop()

    def renew(self) -> None:
        self._cluster.restart()
        self._cluster.flush()
        self._broker.restart()

    def flush(self) -> None:
        self._cluster.flush()
        flush(self._broker)

    def restart_empty(self) -> None:
        """Restart a node at once, before its replica takes its place and is emptied by it."""
        node = self._next()
        node.kill()
        node.restart()

    def fail_over(self) -> None:
        self._cluster.kill(self._next())
        poll(lambda: len(self._cluster.primaries()) == PRIMARIES, "a replica took over", TAKEN_OVER_WITHIN)
        self._cluster.restart()

    def _next(self) -> Any:
        return self._cluster.primaries()[next(self._turns) % PRIMARIES]
