"""Where locks are kept: beside the contexts in the one Redis, or in a quorum of several independent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import redis

from workflow_engine.redis.client import load_script, redis_errors
from workflow_engine.redis.redlock import Quorum, QuorumMember
from workflow_engine.settings import Settings

TIMEOUT_SHARE = 1 / 50
SHORTEST_TIMEOUT = 0.05
"""Seconds to wait for one of several servers, at least; otherwise the share of the expiry above."""


class LockServers(Protocol):
    """Keeps locks by key. Every method raises `CacheUnavailable` if the holder of a lock is unknown."""

    @property
    def keeps_contexts(self) -> bool:
        """True if the contexts are on the same server, so that one script serves both."""

    def acquire(self, key: str, value: bytes) -> bytes:
        """Take a lock unless another claim holds it. Return the claim that holds it now.

        Safe to run again.
        """

    def renew(self, locks: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Renew locks given as key and value, and retake those that are free.

        Return False for each that another claim is known to hold.
        """

    def release(self, key: str, value: bytes) -> bool:
        """Release a lock. Return True if it was held by this value."""

    def values_of(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value that holds each of these locks, or None if it is free."""

    def seconds_left(self, keys: Sequence[str]) -> list[float]:
        """Return the seconds until each of these locks expires unless it is renewed; 0 if it is free."""


def connect_lock_servers(beside: redis.Redis, settings: Settings) -> LockServers:
    """Return the servers that the settings name. `beside` is the client of the contexts' Redis."""
    expiry_ms = round(settings.lock_expiry * 1000)
    if not settings.lock_urls:
        return OneServer(beside, expiry_ms)
    timeout = min(settings.redis_timeout, max(SHORTEST_TIMEOUT, settings.lock_expiry * TIMEOUT_SHARE))
    return Quorum([QuorumMember(address, timeout) for address in settings.lock_addresses], expiry_ms)


class OneServer:
    """Locks beside the contexts."""

    keeps_contexts = True

    def __init__(self, client: redis.Redis, expiry_ms: int) -> None:
        self._client = client
        self._expiry_ms = expiry_ms
        self._take = load_script(client, "acquire_lock")
        self._release = load_script(client, "free_lock")

    def acquire(self, key: str, value: bytes) -> bytes:
        with redis_errors():
            holder: bytes = self._take(keys=[key], args=[value, self._expiry_ms])
        return holder

    def renew(self, locks: Sequence[tuple[str, bytes]]) -> list[bool]:
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for key, value in locks:
                self._take(keys=[key], args=[value, self._expiry_ms], client=pipeline)
            holders = pipeline.execute()
        return [holder == value for holder, (_, value) in zip(holders, locks, strict=True)]

    def release(self, key: str, value: bytes) -> bool:
        with redis_errors():
            return bool(self._release(keys=[key], args=[value]))

    def values_of(self, keys: Sequence[str]) -> list[bytes | None]:
        with redis_errors():
            values: Any = self._client.mget(keys)
        return list(values)

    def seconds_left(self, keys: Sequence[str]) -> list[float]:
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.pttl(key)
            return [max(0, left) / 1000 for left in pipeline.execute()]
