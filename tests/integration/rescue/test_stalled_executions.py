"""Executions that lost their message or their worker are found, and nothing else is taken for one of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, NodeStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.broker.dispatcher import Backlog, CeleryDispatcher, producer_app
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.walk import Walk
from workflow_engine.maintenance import recovery as recovery_module
from workflow_engine.maintenance.recovery import TURN, Recovery
from workflow_engine.redis.keys import Keys

Sql = Callable[..., list[tuple[Any, ...]]]


def one() -> int:
    return 1


def two() -> int:
    return 2


COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'executions'
"""


def not_called(*_: Any) -> Any:
    raise AssertionError("definitions are read")


@pytest.fixture
def stand_still(sql: Sql) -> Callable[..., None]:
    """Return a function that lets seconds pass in which executions do not move."""

    def by(seconds: float, *executions: str) -> None:
        earlier = ", ".join(
            f"{time} = {time} - interval '{seconds} seconds'" for time in ("updated_at", "recovered_at")
        )
        where = f"WHERE id IN ({', '.join(f'{id!r}' for id in executions)})" if executions else ""
        sql(f"UPDATE executions SET {earlier} {where}")

    return by


@pytest.fixture
def look(engine: Engine, redis_client: redis.Redis) -> Callable[[], int]:
    """Play a worker whose turn it is to look."""

    def look() -> int:
        redis_client.delete(Keys.of(engine.settings).lease(TURN))
        recovery = Recovery(engine)
        rescued = recovery.rescue_stalled()
        while recovery.is_looking:
            rescued += recovery.rescue_stalled()
        return rescued

    return look


@pytest.fixture
def execution(client: WorkflowClient, broker: Broker) -> str:
    """Return an execution that has begun, and whose message is lost."""
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
    assert sql("SELECT crashes, recoveries FROM executions") == [(None, 5)]

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


def test_an_execution_that_was_just_rescued_is_given_time(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(31)

    assert [look(), look()] == [1, 0]
    assert len(broker.queue) == 1


def test_an_execution_whose_second_message_was_lost_too_is_soon_rescued_again(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(31)
    rescued = []
    for seconds in (0, 6, 6, 6, 6, 6, 6, 6):
        stand_still(seconds)
        rescued.append(look())
        broker.queue.clear()

    assert rescued == [1, 1, 0, 1, 0, 0, 0, 1]


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


@pytest.fixture
def gpu_or_plain(client: WorkflowClient) -> None:
    """Return a workflow with a branch on a queue of its own, and one on the default queue."""
    flow = WorkflowBuilder("render")
    start = flow.trigger("start")
    is_heavy = flow.condition("isHeavy", expression="{{ start.gpu }}")
    start >> is_heavy
    is_heavy["true"] >> calling(flow, one, queue="gpu")
    is_heavy["false"] >> calling(flow, two)
    client.deploy(flow.build())


@pytest.mark.usefixtures("gpu_or_plain")
def test_a_message_in_a_queue_that_no_worker_serves_keeps_no_other_execution_from_being_rescued(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    heavy, plain = (client.start("render", {"gpu": gpu}).id for gpu in (True, False))
    workers.hop()
    workers.hop()
    queued = next(each for each in broker.queue if each.message.execution_id == heavy)
    assert queued.queue == "gpu"
    broker.queue = deque([queued])
    stand_still(3600)
    broker.grow_old(3600)

    assert look() == 1

    assert [each.message.execution_id for each in broker.queue] == [heavy, plain]
    broker.queue.rotate(-1)
    workers.hop()
    assert client.get(plain).result == {"two": 2}


@pytest.mark.usefixtures("gpu_or_plain")
def test_an_execution_that_was_run_again_is_looked_for_in_the_queue_of_the_node_that_is_due_now(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    execution = client.start("render", {"gpu": True}).id
    workers.drain()
    client.control.rerun(execution, "one")
    (queued,) = broker.queue
    assert queued.queue == "gpu"
    stand_still(3600)
    broker.grow_old(3600)

    assert look() == 0
    broker.queue.clear()
    assert look() == 1


def test_a_slow_queue_of_one_priority_does_not_delay_the_rescue_in_another(
    client: WorkflowClient, broker: Broker, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    client.deploy(line(one, two))
    for _ in range(5):
        client.start("line", priority=9)
    slow = deque(broker.queue)
    broker.queue.clear()
    urgent = client.start("line", priority=1).id
    broker.queue = slow
    stand_still(600)
    broker.grow_old(600)

    assert look() == 1
    assert broker.messages[-1].execution_id == urgent


def test_a_look_at_many_executions_lets_the_timekeeper_do_its_other_work(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    stand_still: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery_module, "SLICE", 0.0)
    client.deploy(line(one, two))
    started = {client.start("line").id for _ in range(5)}
    broker.queue.clear()
    stand_still(31)
    recovery = Recovery(engine)

    looks = [recovery.rescue_stalled()]
    while recovery.is_looking:
        looks.append(recovery.rescue_stalled())

    assert (sum(looks), max(looks)) == (5, 1)
    assert {message.execution_id for message in broker.messages} == started


def test_queued_executions_of_large_workflows_are_told_apart_by_postgres(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    sql: Sql,
    stand_still: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For any number of queued executions, and any workflow: Postgres returns no row of them."""
    flow = WorkflowBuilder("large")
    last: Any = flow.trigger("start")
    for number in range(300):
        last = last >> flow.function(f"step{number}", 1, queue=f"queue{number % 7}")
    client.deploy(flow.build())
    original = client.start("large").id
    columns = ", ".join(name for (name,) in sql(COLUMNS) if name != "id")
    sql(
        f"INSERT INTO executions (id, {columns}) SELECT gen_random_uuid(), {columns} "
        f"FROM executions CROSS JOIN generate_series(1, 12000) WHERE id = '{original}'"
    )
    stand_still(600)
    broker.grow_old(600)
    monkeypatch.setattr(engine.workflows, "get", not_called)

    pages = list(engine.stalled.pages(30, 5, Recovery(engine)._front_of))

    assert pages == [[], [], []]


def test_where_queues_cannot_be_looked_into_rescues_become_rarer(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    broker.shows_its_queues = False
    rescued = []
    for _ in range(16):
        stand_still(31)
        rescued.append(look())

    assert rescued == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]


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
def test_an_execution_that_an_operator_stopped_is_left_alone(
    client: WorkflowClient,
    execution: str,
    status: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    getattr(client.control, status)(execution)
    stand_still(3600)

    assert look() == 0


def _die_with_a_node(engine: Engine, message: HopMessage, redis_client: redis.Redis) -> None:
    """Leave what a worker leaves that was killed while it ran a node, once its lock has expired."""
    plan = engine.workflows.get(message.workflow, message.version)
    claim = engine.locks.new_claim(message.execution_id, "a task", message.node_id)
    engine.cache.enter(claim, message.node_id, message.seq, plan.needs(message.node_id))
    snapshot = engine.state.load_snapshot(message.execution_id)
    assert snapshot is not None
    engine.cache.cache_context(claim, snapshot, Walk.start(plan.graph, snapshot.trigger_node_id).to_json())
    redis_client.delete(Keys.of(engine.settings).lock(message.execution_id))


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
    assert re.search(r"was lost 4 times, most recently on .+, which started it at 20", failed.error or "")
    assert [row.status for row in client.journal(execution)] == [NodeStatus.COMPLETED, NodeStatus.FAILED]


def test_only_one_worker_looks_at_a_time(
    engine: Engine, second_engine: Engine, broker: Broker, execution: str, stand_still: Callable[..., None]
) -> None:
    stand_still(31)

    assert Recovery(engine).rescue_stalled() == 1
    stand_still(31)
    assert Recovery(second_engine).rescue_stalled() == 0


def test_executions_are_rescued_sooner_after_redis_lost_its_data(
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
        redis_client.set(Keys.of(engine.settings).data_age, since, ex=60)

    # A worker that runs a node may not have taken its lock again.
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


def test_one_execution_that_cannot_be_read_does_not_hold_up_others(
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
    engine.database.dispose()


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
