"""Turns: work that the whole fleet shares, and that one worker does at a time, every so many seconds.

A turn is a key that expires. If Redis forgets it, the work is done once too often, which must be harmless.
"""

from __future__ import annotations

import redis

from workflow_engine.redis_connection import redis_errors
from workflow_engine.settings import Settings


class Turns:
    """Turns of this fleet. Methods may raise `CacheUnavailable`."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def take(self, work: str, seconds: float) -> bool:
        """Whether it is our turn; then it is nobody's for so many seconds."""
        with redis_errors():
            return bool(
                self._client.set(self._settings.turn_key(work), 1, nx=True, px=max(1, round(seconds * 1000)))
            )
