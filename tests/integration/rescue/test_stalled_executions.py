"""Executions that lost their message or their worker are found, and nothing else is taken for one of them."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu import Queue

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, NodeStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.broker import dispatcher as dispatcher_module
from workflow_engine.broker.dispatcher import Backlog, CeleryDispatcher, producer_app
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.publisher import AHEAD_OF_THE_QUEUE
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.execution.walk import Walk
from workflow_engine.maintenance import recovery as recovery_module
from workflow_engine.maintenance.queued_messages import QueuedMessages
from workflow_engine.maintenance.recovery import LOCKING_AGAIN, SETTLING, TURN, Recovery
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import renewal_interval

HOUR = 3600.0

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


@pytest.fixture(autouse=True)
def _redis_has_kept_its_data(settings: Settings) -> None:
    let_redis_remember(settings)


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
        return rescue(engine)

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
    stand_still(2)

    assert look() == 0
    assert not broker.queue


def test_an_execution_that_was_just_rescued_is_given_time(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(4)

    assert [look(), look()] == [1, 0]
    assert len(broker.queue) == 1


def test_an_execution_whose_second_message_was_lost_too_is_soon_rescued_again(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(4)
    rescued = []
    for seconds in (0, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6):
        stand_still(seconds)
        rescued.append(look())
        broker.queue.clear()

    assert rescued == [1, 1, 1, 1, 0, 1, 0, 0]


def test_an_execution_that_was_rescued_often_is_rescued_as_soon_as_any_after_redis_lost_its_data(
    engine: Engine, broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    for _ in range(6):
        stand_still(31)
        assert look() == 1
        broker.queue.clear()
    stand_still(5)
    assert look() == 0

    let_redis_remember(engine.settings, 2.7)
    assert look() == 1


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


def test_a_message_that_a_worker_holds_behind_others_is_not_lost_for_as_long_as_it_may_be_alive(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(20)
    broker.held_by_workers = None  # so many that they are not searched
    assert look() == 0
    broker.held_by_workers = frozenset({execution})
    assert look() == 0

    stand_still(11)
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
        time.sleep(recovery.seconds_until_look)
        looks.append(recovery.rescue_stalled())

    assert (sum(looks), max(looks)) == (5, 1)
    assert {message.execution_id for message in broker.messages} == started


def test_a_message_that_left_a_long_queue_during_the_look_is_not_sent_again(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    stand_still: Callable[..., None],
) -> None:
    client.deploy(line(one, two))
    served, _ = client.start("line").id, client.start("line")
    stand_still(32, served)
    stand_still(31)
    broker.grow_old(31)
    taken = broker.take()
    recovery = Recovery(engine)

    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, True)
    engine.executor.continue_execution(taken)
    time.sleep(recovery.seconds_until_look)
    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, False)

    assert [message.execution_id for message in broker.messages].count(served) == 1, "of the next node"


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

    pages = list(engine.stalled.pages(30, 5, QueuedMessages(engine.dispatcher, HOUR).front))

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
    engine.locks.stop_all_renewing()
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

    assert rescue(engine) == 1
    stand_still(31)
    assert rescue(second_engine) == 0


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
    let_redis_remember(engine.settings, 1)
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


def test_those_that_have_stood_for_longest_are_rescued_first(
    client: WorkflowClient,
    broker: Broker,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    client.deploy(line(one, two))
    started = [client.start("line").id for _ in range(3)]
    broker.queue.clear()
    for seconds, execution in zip((50, 90, 70), started, strict=True):
        stand_still(seconds, execution)

    assert look() == 3
    assert [message.execution_id for message in broker.messages] == [started[1], started[2], started[0]]

    # A rescue that is lost makes no execution younger.
    broker.queue.clear()
    stand_still(31)
    assert look() == 3
    assert broker.messages[0].execution_id == started[1]


def test_after_a_loss_the_next_look_comes_as_soon_as_locks_had_time_to_be_taken_again(
    engine: Engine, second_engine: Engine, redis_client: redis.Redis
) -> None:
    redis_client.flushdb()
    recovery, other = Recovery(engine), Recovery(second_engine)

    assert (recovery.rescue_stalled(), other.rescue_stalled()) == (0, 0)

    settled = renewal_interval(engine.settings.lock_expiry) + LOCKING_AGAIN
    assert settled - 0.5 < recovery.seconds_until_look < settled + 0.1
    assert redis_client.pttl(Keys.of(engine.settings).lease(TURN)) > 1000 * (settled - 0.5), "no other looks"


def test_a_wake_that_redis_has_lost_is_not_taken_for_queued_either(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER.replace("10", "5") + "RETURNING id")
    client.start("later")
    broker.grow_old(0.5)
    assert (look(), wake_due()) == (0, [])

    let_redis_remember(engine.settings, 2.7)
    assert (look(), wake_due()) == (1, ["coolOff"])


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
def woken(
    client: WorkflowClient,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> str:
    """Return an execution of which a node was woken; its message is the only one that is queued."""
    flow = WorkflowBuilder("later")
    flow.trigger("begin") >> flow.delay("coolOff", duration=1, unit="hours") >> calling(flow, two)
    client.deploy(flow.build())
    execution = client.start("later").id
    workers.drain()
    time_passes(3600)
    assert wake_due() == ["coolOff"]
    return execution


WOKEN_EARLIER = """
UPDATE execution_wait_states SET details = details
    || jsonb_build_object('wokenAt', (details->>'wokenAt')::timestamptz - interval '10 seconds')
"""


def test_a_message_that_woke_a_node_and_was_lost_is_sent_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    assert (look(), wake_due()) == (0, []), "it may be on its way"

    sql(WOKEN_EARLIER + "RETURNING id")
    assert (look(), wake_due()) == (1, ["coolOff"])

    workers.drain()
    assert client.get(woken).result == 2


def test_a_wake_that_is_lost_again_and_again_is_soon_sent_again_ahead_of_the_queue(
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    again = []
    for seconds in (3.5, 1.6, 1.6, 1.6, 1.6):
        assert broker.queue.pop().message.execution_id == woken
        sql(WOKEN_EARLIER.replace("10", str(seconds)) + "RETURNING id")
        again.append((look(), wake_due()))
        if broker.queue:
            assert broker.queue[-1].priority == AHEAD_OF_THE_QUEUE < engine.settings.node_priority
        else:
            break

    assert again == [(1, ["coolOff"])] * 4 + [(0, [])]


def test_a_woken_node_whose_second_message_is_queued_ahead_is_not_woken_a_third_time(
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER + "RETURNING id")
    assert (look(), wake_due()) == (1, ["coolOff"])

    sql(WOKEN_EARLIER + "RETURNING id")
    broker.grow_old(10)

    assert (look(), wake_due()) == (0, [])
    assert [message.execution_id for message in broker.messages] == [woken]


def test_a_timekeeper_that_found_a_lost_wake_sends_it_again_without_a_pause(
    engine: Engine, broker: Broker, woken: str, redis_client: redis.Redis, sql: Sql
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER + "RETURNING id")
    redis_client.delete(Keys.of(engine.settings).lease(TURN))
    timekeeping = Timekeeping(engine)

    settling = timekeeping.round()
    assert settling <= SETTLING
    time.sleep(settling)
    assert timekeeping.round() == 0.0
    timekeeping.round()

    assert [message.execution_id for message in broker.messages] == [woken]


def test_a_node_that_was_woken_and_is_queued_or_runs_or_is_in_a_queue_that_is_not_shown_is_not_woken_again(
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    sql(WOKEN_EARLIER + "RETURNING id")
    broker.grow_old(10)
    assert (look(), wake_due()) == (0, []), "queued"

    broker.queue.clear()
    claim = engine.locks.acquire_lock(woken, "a task")
    assert claim is not None
    assert (look(), wake_due()) == (0, []), "it runs"
    engine.locks.release_lock(claim)

    broker.shows_its_queues = False
    assert (look(), wake_due()) == (0, []), "nobody knows"
    broker.shows_its_queues, broker.held_by_workers = True, frozenset({woken})
    assert (look(), wake_due()) == (0, []), "a worker has taken it"
    broker.held_by_workers = frozenset()
    assert look() == 1


@pytest.fixture
def celery_engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine.assemble(settings, dispatcher=CeleryDispatcher(producer_app(settings)))
    yield engine
    engine.database.dispose()


def test_the_age_of_a_queue_is_read_from_its_oldest_message_and_its_executions_from_all_of_them(
    celery_engine: Engine, redis_client: redis.Redis, sql: Sql, monkeypatch: pytest.MonkeyPatch
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
    executions = {id for (id,) in sql("SELECT id::text FROM executions")}
    assert celery_engine.dispatcher.executions_in(queue, priority) == executions
    assert celery_engine.dispatcher.executions_in(queue, 0) == set()
    for key in redis_client.keys(f"{queue}*"):
        redis_client.rpush(key, *[b'{"headers": {}}'] * 60)
    assert celery_engine.dispatcher.oldest(queue, priority) is Backlog.UNKNOWN
    assert celery_engine.dispatcher.executions_in(queue, priority) == executions
    monkeypatch.setattr(dispatcher_module, "LISTED_AT_MOST", 61)
    assert celery_engine.dispatcher.executions_in(queue, priority) is None


def test_messages_that_workers_have_taken_are_known_if_the_broker_keeps_them_and_they_are_not_too_many(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = producer_app(settings)
    dispatcher = CeleryDispatcher(app)
    assert dispatcher.taken() is None
    app = producer_app(settings)
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "ack_emulation": True}
    dispatcher = CeleryDispatcher(app)
    assert dispatcher.taken() == set()
    for execution in ("taken", "queued"):
        message = HopMessage(execution, "line", 1, "one", 1)
        dispatcher.publish([Dispatch(message, settings.queue, settings.node_priority)])

    with app.connection_for_read() as connection:
        consumer = connection.Consumer([Queue(settings.queue)], auto_declare=False)
        consumer.register_callback(lambda *_: None)
        consumer.qos(prefetch_count=1)
        consumer.consume()
        connection.drain_events(timeout=5)
        redis_client.hset("unacked", "foreign", b"no json")

        assert dispatcher.taken() == {"taken"}
        monkeypatch.setattr(dispatcher_module, "TAKEN_AT_MOST", 1)
        assert dispatcher.taken() is None
        app.conf.worker_prefetch_multiplier = 1
        assert dispatcher.taken() == (), "each is begun at once"
        consumer.cancel()
