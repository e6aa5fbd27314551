"""What has to be asked of every node of a cluster, and of a single Redis once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from workflow_engine.redis.cluster.client import ClusterClient

SLOTS = 16_384
"""The slots of a cluster, over which its keys are spread."""


@dataclass(frozen=True)
class ClusterLook:
    """A cluster as one of its nodes describes it."""

    slots_served: int
    without_replica: list[str]
    """The places of the primaries that have no replica."""


def look_at_cluster(client: redis.Redis) -> ClusterLook:
    """Return what the client knows of its cluster, which it asks when it connects."""
    slots = _slots(client)
    alone = {nodes[0].name for nodes in slots.values() if len(nodes) == 1}
    return ClusterLook(len(slots), sorted(alone))


def primaries_of(client: redis.Redis) -> list[redis.Redis]:
    """Return a client for each node that has keys, by their places; of a single Redis, its own client."""
    if not isinstance(client, ClusterClient):
        return [client]
    routed = client.routed
    nodes = {nodes[0].name: nodes[0] for nodes in _slots(client).values()}
    return [routed.get_redis_connection(node) for _, node in sorted(nodes.items())]


def key_on_each(client: redis.Redis, name: str) -> Mapping[str, str]:
    """Return a key for each node that has keys, by their places: the name and a tag.

    A node's key stays the same while the node has the same slots. That of a single Redis is the name.
    """
    if not isinstance(client, ClusterClient):
        return {"": name}
    slots = _slots(client)
    missing = {nodes[0].name for nodes in slots.values()}
    keys: dict[str, str] = {}
    for number in itertools.count():
        if len(keys) == len(missing):
            break
        key = f"{name}:{{{number}}}"
        if nodes := slots.get(client.routed.keyslot(key)):
            keys.setdefault(nodes[0].name, key)
    return dict(sorted(keys.items()))


def _slots(client: redis.Redis) -> Mapping[int, Any]:
    """Return the nodes of each slot, its primary first."""
    assert isinstance(client, ClusterClient)
    slots: Mapping[int, Any] = client.routed.nodes_manager.slots_cache
    return slots


def time_at(client: redis.Redis, key: str) -> float:
    """Return the time, in seconds since 1970, of the server that has this key."""
    ask: Callable[[], Any] = client.time
    if isinstance(client, ClusterClient):
        routed = client.routed
        ask = routed.get_redis_connection(routed.get_node_from_key(key)).time
    seconds, microseconds = ask()
    return float(seconds + microseconds / 1e6)
