"""What lost its message when Redis lost its data is rescued sooner, and what is queued is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from support.broker import Broker
from support.redis_keys import let_redis_remember
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.recovery import LOCKING_AGAIN, SETTLING, TURN, Recovery
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import renewal_interval

pytestmark = pytest.mark.usefixtures("redis_has_kept_its_data")


def test_an_execution_that_was_rescued_often_is_rescued_as_soon_as_any_after_redis_lost_its_data(
    engine: Engine, broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    for _ in range(8):
        stand_still(31)
        assert look() == 1
        broker.queue.clear()
    stand_still(5)
    assert look() == 0

    let_redis_remember(engine.settings, 2.7)
    assert look() == 1


def test_executions_are_rescued_sooner_after_redis_lost_its_data(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    redis_client: redis.Redis,
) -> None:
    # A worker that runs a node may not have taken its lock again.
    stand_still(3600)
    redis_client.flushdb()
    assert look() == 0
    let_redis_remember(engine.settings, 0.5)
    assert look() == 0

    # What has moved since it was wiped has a message again.
    moved = client.start("line").id
    stand_still(1.5, moved)
    broker.queue.clear()
    let_redis_remember(engine.settings, 2.7)
    assert look() == 1
    assert broker.messages[0].execution_id == execution


def test_what_redis_has_lost_is_not_taken_for_queued_behind_messages_from_after_the_loss(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    stand_still(4.5, execution)
    client.start("line")
    stand_still(0.5)
    broker.grow_old(0.5)
    assert look() == 0, "messages overtake each other"

    let_redis_remember(engine.settings, 2.7)
    assert look() == 1
    assert broker.messages[-1].execution_id == execution


def test_after_a_loss_what_moved_just_before_it_is_told_from_what_is_queued(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    queued = client.start("line").id
    stand_still(20.1)
    broker.grow_old(20)
    let_redis_remember(engine.settings, 20)

    assert look() == 1

    assert [message.execution_id for message in broker.messages] == [queued, execution]


def test_after_a_loss_of_more_than_is_listed_the_oldest_message_decides(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    client.start("line")
    broker.lists_at_most = 0
    stand_still(20.1)
    broker.grow_old(20)
    let_redis_remember(engine.settings, 20)

    assert look() == 0, f"{execution} moved within the second in which the loss was noticed"
    stand_still(5, execution)
    assert look() == 1


def test_after_a_loss_the_next_look_comes_as_soon_as_locks_had_time_to_be_taken_again(
    engine: Engine, second_engine: Engine, redis_client: redis.Redis
) -> None:
    redis_client.flushdb()
    recovery, other = Recovery(engine), Recovery(second_engine)

    assert (recovery.rescue_stalled(), other.rescue_stalled()) == (0, 0)

    first = renewal_interval(engine.settings.lock_expiry) + LOCKING_AGAIN - SETTLING
    assert first - 0.5 < recovery.seconds_until_look < first + 0.1
    assert redis_client.pttl(Keys.of(engine.settings).lease(TURN)) > 1000 * (first - 0.5), "no other looks"


def test_after_a_loss_what_seems_lost_is_examined_again_when_locks_had_time_to_be_taken_again(
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    redis_client: redis.Redis,
) -> None:
    stand_still(3600)
    redis_client.flushdb()
    began, recovery = time.monotonic(), Recovery(engine)
    engine.data_age.seconds()
    while not recovery.is_looking:
        recovery.rescue_stalled()
        time.sleep(min(0.01, recovery.seconds_until_look))
    assert not broker.queue
    claim = engine.locks.acquire_lock(execution, "task")
    assert claim is not None
    time.sleep(recovery.seconds_until_look)

    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, False), "its node runs"
    assert time.monotonic() - began >= renewal_interval(engine.settings.lock_expiry) + LOCKING_AGAIN - 0.01
