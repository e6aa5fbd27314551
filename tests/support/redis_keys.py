"""The keys in a test's Redis, and for how long it has kept them."""

from __future__ import annotations

import redis

from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings

PRESENCE = b"presence"
"""The end of the name of the key that says which processes are connected."""


def keys_in(client: redis.Redis) -> list[bytes]:
    """Return all keys in the client's database, except that of the connected processes; sorted."""
    return sorted(key for key in client.scan_iter(count=1000) if not key.endswith(PRESENCE))


def let_redis_remember(settings: Settings, seconds: float = 3600) -> None:
    """Let Redis have kept its data for that long, as the workers of these settings know it."""
    with redis.Redis.from_url(settings.redis_url) as client:
        since = round((client.time()[0] - seconds) * 1000)
        client.set(Keys.of(settings).data_age, since, ex=60)
