"""An execution whose message is queued, or held by a worker, is told from one whose message is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu import Queue

from support.broker import Broker, Workers
from support.rescues import one, two
from support.workflows import calling, line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.broker import dispatcher as dispatcher_module
from workflow_engine.broker.dispatcher import Backlog, CeleryDispatcher, producer_app
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.maintenance.queued_messages import QueuedMessages
from workflow_engine.maintenance.recovery import Recovery

HOUR = 3600.0

Sql = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.usefixtures("redis_has_kept_its_data")

COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'executions'
"""


def not_called(*_: Any) -> Any:
    raise AssertionError("definitions are read")


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


@pytest.mark.parametrize("is_put_back", [False, True])
def test_a_message_that_left_a_long_queue_during_the_look_is_not_sent_again(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    stand_still: Callable[..., None],
    is_put_back: bool,
) -> None:
    client.deploy(line(one, two))
    served = client.start("line").id
    stand_still(32)
    broker.grow_old(32)
    client.start("line")
    stand_still(31)
    broker.grow_old(31)
    taken = broker.queue.popleft()
    recovery = Recovery(engine)

    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, True)
    if is_put_back:
        broker.queue.appendleft(taken)
    else:
        engine.executor.continue_execution(taken.message)
    time.sleep(recovery.seconds_until_look)
    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, False)

    ids = [message.execution_id for message in broker.messages]
    assert ids.count(served) == 1, "the message, or that of the next node"


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
