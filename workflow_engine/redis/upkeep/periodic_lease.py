"""PeriodicLease: periodic work of the whole fleet that one worker does at a time."""

from __future__ import annotations

import redis

from workflow_engine.redis.client import redis_errors
from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings


class PeriodicLease:
    """Leases of this fleet, each a key that expires.

    If Redis loses one, its work is done once too often, which must be harmless.
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._keys = Keys.of(settings)

    def take(self, work: str, seconds: float) -> bool:
        """Take the lease of a kind of work for some seconds. Return False if another worker has it.

        Raises `CacheUnavailable`.
        """
        with redis_errors():
            return bool(
                self._client.set(self._keys.lease(work), 1, nx=True, px=max(1, round(seconds * 1000)))
            )

    def extend(self, work: str, seconds: float) -> None:
        """Keep a lease that was taken for some seconds from now on. Raises `CacheUnavailable`."""
        with redis_errors():
            self._client.set(self._keys.lease(work), 1, px=max(1, round(seconds * 1000)))
