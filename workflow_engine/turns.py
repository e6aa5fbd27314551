"""Turns: work that the whole fleet shares, and that one worker does at a time, every so many seconds.

A turn is a key that expires. If Redis forgets it, the work is done once too often, which must be harmless.
But that Redis has forgotten something, and when, is worth knowing.
"""

from __future__ import annotations

import redis

from workflow_engine.redis_connection import load_script, redis_errors
from workflow_engine.settings import Settings


class Turns:
    """Turns of this fleet. Methods may raise `CacheUnavailable`."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._remember = load_script(client, "remember")

    def take(self, work: str, seconds: float) -> bool:
        """Whether it is our turn; then it is nobody's for so many seconds."""
        with redis_errors():
            return bool(
                self._client.set(self._settings.turn_key(work), 1, nx=True, px=max(1, round(seconds * 1000)))
            )

    def seconds_remembered(self) -> float:
        """For how long Redis has kept all it was told, as far as this fleet has seen; in whole seconds."""
        with redis_errors():
            return float(
                self._remember(
                    keys=[self._settings.memory_key], args=[round(self._settings.context_expiry * 1000)]
                )
            )
