"""The lock of an execution has one holder at a time, which renews it, and expires without one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import redis

from support.locks import EXECUTION, KEY
from support.polling import poll
from workflow_engine import Settings
from workflow_engine.errors import CacheUnavailable
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import DistributedLockService, Holder

SHORT = 0.6
"""Seconds a lock lasts here unless it is renewed."""


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, lock_expiry=SHORT)


def test_a_lock_is_held_by_one_at_a_time(
    locks: DistributedLockService, others: DistributedLockService
) -> None:
    mine = locks.acquire_lock(EXECUTION)
    assert mine is not None
    assert others.acquire_lock(EXECUTION) is None
    assert locks.acquire_lock(EXECUTION) is None, "nor twice by one process"
    assert locks.is_locked(EXECUTION)
    assert others.is_locked(EXECUTION)

    assert locks.release_lock(mine).was_ours

    assert not others.is_locked(EXECUTION)
    theirs = others.acquire_lock(EXECUTION)
    assert theirs is not None
    assert others.is_locked_by_me(theirs)
    assert not locks.is_locked_by_me(mine)
    others.release_lock(theirs)


def test_no_claim_releases_the_lock_of_another(
    locks: DistributedLockService, others: DistributedLockService, redis_client: redis.Redis
) -> None:
    mine = locks.acquire_lock(EXECUTION)
    assert mine is not None
    redis_client.delete(KEY)
    theirs = others.acquire_lock(EXECUTION)
    assert theirs is not None

    assert not locks.release_lock(mine).was_ours

    assert others.is_locked_by_me(theirs)
    others.release_lock(theirs)
    assert not others.release_lock(theirs).was_ours, "and none twice"


def test_the_value_of_a_lock_says_who_holds_it_and_since_when(
    locks: DistributedLockService, redis_client: redis.Redis
) -> None:
    claim = locks.acquire_lock(EXECUTION, task_id="task-1")
    assert claim is not None

    value = redis_client.get(KEY)
    assert value == claim.value
    assert json.loads(claim.value).keys() == {"token", "instance", "process", "life", "task", "since", "node"}
    (holder,) = locks.holders(EXECUTION)
    assert (holder.token, holder.task_id) == (claim.token, "task-1")
    assert (holder.instance, holder.process) == (socket.gethostname(), os.getpid())
    assert datetime.now(UTC) - datetime.fromisoformat(holder.since) < timedelta(seconds=5)
    locks.release_lock(claim)
    assert locks.holders(EXECUTION) == []


def test_a_value_that_the_engine_did_not_write_names_no_holder(
    locks: DistributedLockService, redis_client: redis.Redis
) -> None:
    for value in (b"no json", b"[]", b"1", b'{"token": 1}'):
        redis_client.set(KEY, value, px=5000)

        assert Holder.from_value(value) is None
        assert locks.holders(EXECUTION) == []
        assert locks.acquire_lock(EXECUTION) is None


def test_a_lock_is_renewed_for_as_long_as_it_is_held(
    locks: DistributedLockService, others: DistributedLockService
) -> None:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None

    time.sleep(2 * SHORT)

    assert locks.is_locked_by_me(claim)
    assert others.acquire_lock(EXECUTION) is None
    locks.release_lock(claim)


def test_a_lock_that_is_not_renewed_expires(
    locks: DistributedLockService, others: DistributedLockService
) -> None:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    locks.stop_renewing(claim)

    time.sleep(1.2 * SHORT)

    theirs = others.acquire_lock(EXECUTION)
    assert theirs is not None
    others.release_lock(theirs)


def test_a_lock_that_a_wiped_redis_lost_is_taken_again(
    locks: DistributedLockService, redis_client: redis.Redis
) -> None:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    redis_client.flushdb()

    locks.renew()

    assert locks.is_locked_by_me(claim)
    assert redis_client.pttl(KEY) > 0
    locks.release_lock(claim)


def test_a_process_that_holds_a_lock_notices_that_redis_has_lost_its_data(
    locks: DistributedLockService, redis_client: redis.Redis, settings: Settings
) -> None:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    age = Keys.of(settings).data_age
    poll(lambda: redis_client.exists(age), "the age of the data is known without a look at executions")
    redis_client.flushdb()

    poll(lambda: redis_client.exists(age), "the age of the data counts from the next renewal")
    locks.release_lock(claim)


def test_a_lock_that_another_claim_has_taken_is_left_to_it(
    locks: DistributedLockService, others: DistributedLockService, redis_client: redis.Redis
) -> None:
    mine = locks.acquire_lock(EXECUTION)
    assert mine is not None
    redis_client.flushdb()
    theirs = others.acquire_lock(EXECUTION)
    assert theirs is not None

    locks.renew()
    assert others.is_locked_by_me(theirs)
    others.release_lock(theirs)
    locks.renew()

    assert not locks.is_locked(EXECUTION), "a lock that was lost once is not taken again behind them"


def test_a_lock_that_was_released_is_not_taken_again_by_a_renewal_that_was_on_its_way(
    locks: DistributedLockService, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way, released = threading.Event(), threading.Event()
    execute = redis.client.Pipeline.execute

    def execute_slowly(pipeline: redis.client.Pipeline) -> list[object]:
        on_its_way.set()
        released.wait(0.3)
        return execute(pipeline)

    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    monkeypatch.setattr(redis.client.Pipeline, "execute", execute_slowly)
    renewal = threading.Thread(target=locks.renew)
    renewal.start()
    assert on_its_way.wait(30)
    locks.release_lock(claim)
    released.set()
    renewal.join()

    assert not locks.is_locked(EXECUTION)


def test_a_forked_process_does_not_keep_the_locks_of_its_parent(
    locks: DistributedLockService, redis_client: redis.Redis
) -> None:
    claim = locks.acquire_lock(EXECUTION)
    assert claim is not None
    if (child := os.fork()) == 0:
        try:
            locks.renew()
            own = locks.acquire_lock("another")
            os._exit(0 if own is not None and locks.release_lock(own).was_ours else 1)
        finally:
            os._exit(2)
    locks.stop_renewing(claim)
    redis_client.delete(KEY)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0, "a child has locks of its own"
    assert not locks.is_locked(EXECUTION)


def test_a_child_renews_its_own_locks(locks: DistributedLockService) -> None:
    parents = locks.acquire_lock("of-the-parent")
    assert parents is not None
    if (child := os.fork()) == 0:
        try:
            claim = locks.acquire_lock(EXECUTION)
            time.sleep(1.5 * SHORT)
            os._exit(0 if claim is not None and locks.is_locked_by_me(claim) else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    locks.release_lock(parents)

    assert os.waitstatus_to_exitcode(status) == 0


def test_locks_of_two_teams_on_one_redis_never_meet(
    settings: Settings, redis_client: redis.Redis, connect_locks: Callable[[Settings], DistributedLockService]
) -> None:
    teams = [
        connect_locks(settings.model_copy(update={"key_prefix": prefix})) for prefix in ("team-a:", "team-b:")
    ]

    claims = [team.acquire_lock(EXECUTION) for team in teams]

    assert sorted(redis_client.scan_iter()) == [f"team-a:{KEY}".encode(), f"team-b:{KEY}".encode()]
    for team, claim in zip(teams, claims, strict=True):
        assert claim is not None
        assert team.release_lock(claim).was_ours


def test_a_redis_that_cannot_be_reached_is_not_taken_for_a_lock_that_is_held(
    connect_locks: Callable[[Settings], DistributedLockService],
) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.2)
    cut_off = connect_locks(settings)

    for operation in (cut_off.acquire_lock, cut_off.is_locked, cut_off.holders):
        with pytest.raises(CacheUnavailable):
            operation(EXECUTION)
