"""Workers of all releases agree on names of keys; in a cluster those of an execution share a slot."""

from __future__ import annotations

from redis.crc import key_slot

from workflow_engine import Settings
from workflow_engine.redis.keys import Keys

EXECUTION = "01890000-0000-7000-8000-000000000001"


def of_one_execution(keys: Keys) -> list[str]:
    return [
        keys.context(EXECUTION),
        *(keys.lock(EXECUTION, place) for place in ("", "ship")),
        *(keys.contended(EXECUTION, place) for place in ("", "ship")),
        keys.in_hand(EXECUTION),
        keys.turned_away(EXECUTION),
        keys.run(EXECUTION, "ship"),
    ]


def test_a_single_redis_has_the_names_that_workers_of_earlier_releases_use() -> None:
    keys = Keys.of(Settings(redis_url="redis://cache", key_prefix="shop:"))

    assert of_one_execution(keys) == [
        f"shop:execution:context:{EXECUTION}",
        f"shop:lock:execution:{EXECUTION}",
        f"shop:lock:execution:{EXECUTION}:ship",
        f"shop:lock:contended:{EXECUTION}",
        f"shop:lock:contended:{EXECUTION}:ship",
        f"shop:execution:in-hand:{EXECUTION}",
        f"shop:execution:turned-away:{EXECUTION}",
        f"shop:execution:node:{EXECUTION}:ship",
    ]
    assert (keys.workers, keys.worker("celery@one")) == ("shop:workers", "shop:worker:celery@one")


def test_in_a_cluster_the_keys_that_one_script_uses_are_in_one_slot() -> None:
    keys = Keys.of(Settings(redis_url="rediss+cluster://cache", key_prefix="shop:"))

    assert keys.lock(EXECUTION, "ship") == f"shop:lock:execution:{{{EXECUTION}}}:ship"
    assert len({key_slot(key.encode()) for key in of_one_execution(keys)}) == 1
    assert key_slot(keys.workers.encode()) == key_slot(keys.worker("celery@one").encode())
