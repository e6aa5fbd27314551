"""The keys in a test's Redis that belong to executions."""

from __future__ import annotations

import redis

PRESENCE = b"presence"
"""The end of the name of the key that says which processes are connected."""


def keys_in(client: redis.Redis) -> list[bytes]:
    """Return all keys in the client's database, except that of the connected processes; sorted."""
    return sorted(key for key in client.scan_iter(count=1000) if not key.endswith(PRESENCE))
