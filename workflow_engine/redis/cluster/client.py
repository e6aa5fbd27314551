"""ClusterClient: the commands of a single Redis, each sent to the node that has its key.

redis-py knows which node has which slot, and follows keys that move to another. Its client connects while it
is built, and keeps locks that a fork would copy. So each process builds one of its own, at the first use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.redis.cluster.pipeline import ClusterPipeline
from workflow_engine.redis.periodic_call import call_in_children

_of_parents: list[object] = []
"""The clients of parent processes: a child that freed one could wait for a lock that its parent held."""


class ClusterClient(redis.Redis):
    """A client of one cluster; its own pool, which leads to no node, is never used.

    `register` is called with redis-py's client once in each process, before its first command is sent.
    """

    def __init__(
        self,
        address: RedisAddress,
        arguments: dict[str, Any],
        retries: int,
        register: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__()
        self._address = address
        self._arguments = arguments
        self._retries = retries
        self._register = register
        self._routed: redis.RedisCluster | None = None
        self._connecting = threading.RLock()
        call_in_children(self._forget_parent)

    @property
    def routed(self) -> redis.RedisCluster:
        """redis-py's client. Raises `RedisClusterException` if none of the known nodes responds."""
        routed = self._routed
        if routed is None:
            with self._connecting:
                routed = self._routed
                if routed is None:
                    routed = self._connect()
                    if self._register is not None:
                        self._register(routed)
                    self._routed = routed
        return routed

    def _connect(self) -> redis.RedisCluster:
        return redis.RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._address.nodes],
            # A node that is lost without a replacement costs its own slots, and no others.
            require_full_coverage=False,
            retry=Retry(NoBackoff(), self._retries),
            **self._arguments,
        )

    def execute_command(self, *args: Any, **options: Any) -> Any:
        routed = self.routed
        try:
            return routed.execute_command(*args, **options)
        except RedisClusterException:
            self.start_again(routed)
            raise

    def start_again(self, routed: redis.RedisCluster) -> None:
        """Begin with the nodes of the URL again, since all that were found later may be gone."""
        with self._connecting:
            if self._routed is routed:
                self._routed = None

    def mget(self, keys: Any, *args: Any) -> Any:
        """Return the values of keys, on any nodes."""
        pipeline = self.pipeline(transaction=False)
        for key in [*keys, *args]:
            pipeline.get(key)
        return pipeline.execute()

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> ClusterPipeline:
        """Return a pipeline; the keys of a transaction have to be in one slot."""
        return ClusterPipeline(self, self._retries, transaction)

    def pubsub(self, **options: Any) -> Any:
        return self.routed.pubsub(**options)

    def close(self) -> None:
        super().close()
        routed, self._routed = getattr(self, "_routed", None), None
        if routed is not None:
            routed.close()

    def _forget_parent(self) -> None:
        _of_parents.append(self._routed)
        self._routed = None
        self._connecting = threading.RLock()
