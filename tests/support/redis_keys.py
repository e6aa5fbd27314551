"""The keys in a test's Redis, and for how long it has kept them."""

from __future__ import annotations

import redis

from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings

OF_THE_FLEET = (b"presence", b"data-age")
"""The ends of the names of the keys that say which processes are connected, and how old the data is."""


def keys_in(client: redis.Redis) -> list[bytes]:
    """Return the keys of executions in the client's database, not those of the fleet; sorted."""
    return sorted(key for key in client.scan_iter(count=1000) if not key.endswith(OF_THE_FLEET))


def let_redis_remember(settings: Settings, seconds: float = 3600) -> None:
    """Let Redis have kept its data for that long, as the workers of these settings know it."""
    with redis.Redis.from_url(settings.redis_url) as client:
        since = round((client.time()[0] - seconds) * 1000)
        client.set(Keys.of(settings).data_age, since, ex=60)
