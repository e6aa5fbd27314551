"""Executions that lost their message or their worker are found, and nothing else is taken for one of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from fleet_in_process import Broker, Workers, line

from workflow_engine import ExecutionStatus, NodeStatus, Settings, WorkflowClient
from workflow_engine.dispatch import Backlog, CeleryDispatcher, HopMessage, producer_app
from workflow_engine.engine import Engine
from workflow_engine.recovery import Recovery
from workflow_engine.walk import Walk

Sql = Callable[..., list[tuple[Any, ...]]]


def one() -> int:
    return 1


def two() -> int:
    return 2


@pytest.fixture
def stand_still(sql: Sql) -> Callable[..., None]:
    """Lets seconds pass in which executions do not move."""

    def by(seconds: float, *executions: str) -> None:
        earlier = ", ".join(
            f"{time} = {time} - interval '{seconds} seconds'" for time in ("updated_at", "recovered_at")
        )
        where = f"WHERE id IN ({', '.join(f'{id!r}' for id in executions)})" if executions else ""
        sql(f"UPDATE executions SET {earlier} {where}")

    return by


@pytest.fixture
def look(engine: Engine, redis_client: redis.Redis) -> Callable[[], int]:
    """Plays a worker whose turn it is to look."""

    def look() -> int:
        redis_client.delete(engine.settings.turn_key("recovery"))
        return Recovery(engine).look_for_stalled()

    return look


@pytest.fixture
def execution(client: WorkflowClient, broker: Broker) -> str:
    """An execution that has begun, and whose message is lost."""
    client.deploy(line(one, two))
    execution = client.start("line").id
    broker.queue.clear()
    return execution


def test_an_execution_whose_message_was_lost_goes_on(
    client: WorkflowClient,
    workers: Workers,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    stand_still(31)

    assert look() == 1
    workers.drain()

    assert client.get(execution).result == 2


def test_lost_messages_in_the_middle_are_no_losses_of_processes(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    for _ in range(5):
        stand_still(31)
        assert look() == 1
        broker.queue.clear()
    assert sql("SELECT losses, recoveries FROM executions") == [(0, 5)]

    stand_still(31)
    look()
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_an_execution_that_moved_a_moment_ago_is_left_alone(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(20)

    assert look() == 0
    assert not broker.queue


def test_an_execution_that_was_just_brought_back_is_given_time(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(31)

    assert [look(), look()] == [1, 0]
    assert len(broker.queue) == 1


def test_an_execution_whose_second_message_was_lost_too_is_soon_brought_back_again(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(31)
    brought_back = []
    for seconds in (0, 6, 6, 6, 6, 6, 6, 6):
        stand_still(seconds)
        brought_back.append(look())
        broker.queue.clear()

    assert brought_back == [1, 1, 0, 1, 0, 0, 0, 1]


def test_a_node_that_runs_for_long_is_left_alone(
    engine: Engine, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(3600)
    claim = engine.locks.acquire_lock(execution, "task")
    assert claim is not None

    assert look() == 0

    engine.locks.release_lock(claim)
    assert look() == 1


def test_executions_behind_a_long_queue_are_not_taken_for_lost(
    client: WorkflowClient, broker: Broker, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    client.deploy(line(one, two))
    started = [client.start("line").id for _ in range(20)]
    lost = started[7]
    broker.queue = deque(each for each in broker.queue if each.message.execution_id != lost)

    # The whole fleet is busy with something else for ten minutes.
    stand_still(600)
    broker.grow_old(600)
    assert look() == 0

    # The queue moves on, by more than messages may overtake each other.
    stand_still(10, lost)
    assert look() == 1
    assert broker.messages[-1].execution_id == lost


def test_where_queues_cannot_be_looked_into_it_is_tried_ever_more_seldom(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    broker.shows_its_queues = False
    brought_back = []
    for _ in range(16):
        stand_still(31)
        brought_back.append(look())

    assert brought_back == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]


def test_a_start_that_never_published_is_executed(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    client.deploy(line(one, two))
    broker.is_away = True
    execution = client.start("line").id
    broker.is_away = False
    stand_still(31)

    look()
    workers.drain()

    assert client.get(execution).result == 2


@pytest.mark.parametrize("status", ["pause", "cancel"])
def test_what_does_not_move_because_an_operator_said_so_is_left_alone(
    client: WorkflowClient,
    execution: str,
    status: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    getattr(client, status)(execution)
    stand_still(3600)

    assert look() == 0


def _die_with_a_node(engine: Engine, message: HopMessage, redis_client: redis.Redis) -> None:
    """What is left of a worker that was killed while it ran a node, once its lock has expired."""
    plan = engine.plans.get(message.workflow, message.version)
    claim = engine.locks.new_claim(message.execution_id, "a task")
    engine.cache.enter(claim, message.node_id, message.seq, plan.needs(message.node_id))
    snapshot = engine.state.load_snapshot(message.execution_id)
    assert snapshot is not None
    engine.cache.cache_context(claim, snapshot, Walk.start(plan.graph, snapshot.trigger_node_id).to_json())
    redis_client.delete(engine.settings.lock_key(message.execution_id))


def test_a_worker_that_died_with_a_node_is_counted_and_the_node_fails_after_too_many(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    redis_client: redis.Redis,
) -> None:
    client.deploy(line(one, two))
    execution = client.start("line").id
    for _ in range(engine.settings.max_recoveries + 1):
        engine.executor.resume_execution(execution)
        _die_with_a_node(engine, broker.take(), redis_client)
        broker.queue.clear()
        stand_still(31)
        assert look() == 1

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert re.search(r"was lost 4 times, the last on .+, which began to run it at 20", failed.error or "")
    assert [row.status for row in client.journal(execution)] == [NodeStatus.COMPLETED, NodeStatus.FAILED]


def test_only_one_worker_looks_at_a_time(
    engine: Engine, second_engine: Engine, broker: Broker, execution: str, stand_still: Callable[..., None]
) -> None:
    stand_still(31)

    assert Recovery(engine).look_for_stalled() == 1
    stand_still(31)
    assert Recovery(second_engine).look_for_stalled() == 0


def test_what_a_redis_that_lost_its_memory_held_is_brought_back_sooner(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    redis_client: redis.Redis,
) -> None:
    def let_redis_remember_for(seconds: float) -> None:
        since = redis_client.time()[0] - round(seconds)
        redis_client.set(engine.settings.memory_key, since, ex=60)

    # Who runs a node may not have taken its lock again.
    stand_still(20)
    redis_client.flushdb()
    assert look() == 0
    let_redis_remember_for(engine.settings.lock_expiry / 3)
    assert look() == 0

    # What has moved since it was wiped has a message again.
    moved = client.start("line").id
    stand_still(14, moved)
    broker.queue.clear()
    let_redis_remember_for(15)
    assert look() == 1
    assert broker.messages[0].execution_id == execution


def test_one_execution_that_cannot_be_read_does_not_keep_others(
    client: WorkflowClient,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    client.start("line")
    sql(f"UPDATE executions SET format = 99 WHERE id = '{execution}'")
    stand_still(31)

    assert look() == 1


@pytest.fixture
def celery_engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine.assemble(settings, dispatcher=CeleryDispatcher(producer_app(settings)))
    yield engine
    engine.state.engine.dispose()


def test_the_age_of_a_queue_is_read_from_its_oldest_message(
    celery_engine: Engine, redis_client: redis.Redis, sql: Sql
) -> None:
    client = WorkflowClient(engine=celery_engine)
    client.deploy(line(one, two))
    queue, priority = celery_engine.settings.queue, celery_engine.settings.node_priority
    assert celery_engine.dispatcher.oldest(queue, priority) is Backlog.NONE

    client.start("line")
    client.start("line")

    (created,) = sql("SELECT created_at FROM executions ORDER BY id LIMIT 1")[0]
    assert celery_engine.dispatcher.oldest(queue, priority) == created
    assert celery_engine.dispatcher.oldest(queue, 0) is Backlog.NONE
    for key in redis_client.keys(f"{queue}*"):
        redis_client.rpush(key, *[b'{"headers": {}}'] * 60)
    assert celery_engine.dispatcher.oldest(queue, priority) is Backlog.UNKNOWN
