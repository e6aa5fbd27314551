"""DataAge: for how long Redis has kept its data, as far as this fleet has been asking."""

from __future__ import annotations

import redis

from workflow_engine.redis.client import load_script, redis_errors
from workflow_engine.redis.cluster.nodes import key_on_each
from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings


class DataAge:
    """The age of the data in Redis; it begins at zero after a restart that lost the data.

    In a cluster each node has an age of its own, and the least of them counts.
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._key = Keys.of(settings).data_age
        self._expiry_ms = round(settings.context_expiry * 1000)
        self._script = load_script(client, "data_age")

    def seconds(self) -> float:
        """Return the age in seconds. Raises `CacheUnavailable`."""
        with redis_errors():
            keys = key_on_each(self._client, self._key)
            return (
                min(float(self._script(keys=[key], args=[self._expiry_ms])) for key in keys.values()) / 1000
            )
