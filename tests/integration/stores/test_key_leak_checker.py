"""The check after every test that used Redis finds what the engine left, and only that."""

from __future__ import annotations

from collections.abc import Iterator

import kombu
import pytest
import redis

from support.key_leak_checker import keys_that_never_expire
from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
        client.flushdb()  # the leaks made here on purpose are not to be found by the check after this test


def test_keys_with_an_expiry_are_no_leak(client: redis.Redis) -> None:
    settings = Settings()
    client.set(Keys.of(settings).lock("e1"), "token", px=30_000)
    client.hset(Keys.of(settings).context("e1"), "seq", "1")
    client.expire(Keys.of(settings).context("e1"), 86_400)

    assert keys_that_never_expire(client) == []


@pytest.mark.parametrize("prefix", ["", "team-a:"])
def test_every_key_of_the_engine_without_an_expiry_is_named(client: redis.Redis, prefix: str) -> None:
    settings = Settings(key_prefix=prefix)
    client.hset(Keys.of(settings).context("e1"), "seq", "1")
    client.set(Keys.of(settings).lock("e1"), "token")
    client.rpush(Keys.of(settings).lock("e1") + ":waiting", "a list is no excuse")
    client.set(f"{prefix}something-new", "1")

    leaked = keys_that_never_expire(client)

    assert leaked == sorted(
        [
            f"{prefix}execution:context:e1",
            f"{prefix}lock:execution:e1",
            f"{prefix}lock:execution:e1:waiting",
            f"{prefix}something-new",
        ]
    )


@pytest.mark.parametrize("prefix", ["", "team-a:"])
def test_what_kombu_keeps_is_no_leak(client: redis.Redis, redis_url: str, prefix: str) -> None:
    options = {"global_keyprefix": prefix}
    with kombu.Connection(redis_url, transport_options=options) as connection:
        queue = connection.SimpleQueue("workflow")
        queue.put({"waiting": 1})
        queue.put({"unacknowledged": 1}, priority=9)
        queue.get(timeout=5)
        kept = {key.decode() for key in client.scan_iter()}

    assert {f"{prefix}_kombu.binding.workflow", f"{prefix}unacked"} <= kept
    assert keys_that_never_expire(client) == []
