"""A caller that waits for an execution costs few round trips: those after its end delay the result."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from support.broker import Broker, Workers
from support.polling import poll
from support.wire import Wire, read_postgres_messages
from support.workflows import calling
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis.keys import Keys

Wait = Callable[[str], None]


def greet() -> str:
    return "hello"


@pytest.fixture
def postgres(settings: Settings) -> Iterator[Wire]:
    """Return the wire over which the waiting caller reaches Postgres."""
    wire = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
    yield wire
    wire.close()


@pytest.fixture
def caller(settings: Settings, broker: Broker, postgres: Wire) -> Iterator[WorkflowClient]:
    """Return a caller in a process of its own, after it has waited once."""
    url = postgres.url.replace("postgresql:", "postgresql+psycopg2:")
    engine = Engine.assemble(settings.model_copy(update={"database_url": url}), dispatcher=broker)
    yield WorkflowClient(engine=engine)
    engine.database.dispose()


@pytest.fixture
def start(client: WorkflowClient) -> Callable[[], str]:
    flow = WorkflowBuilder("one-node")
    flow.trigger("begin") >> calling(flow, greet)
    client.deploy(flow.build())
    return lambda: client.start("one-node").id


@pytest.fixture
def wait(caller: WorkflowClient, settings: Settings, workers: Workers, redis_client: redis.Redis) -> Wait:
    """Return a function that waits for an execution, which runs once the caller has subscribed."""

    def wait(execution: str) -> None:
        results: list[object] = []
        waiting = threading.Thread(target=lambda: results.append(caller.wait(execution, timeout=60).result))
        waiting.start()
        channel = Keys.of(settings).finished(execution)
        poll(lambda: redis_client.pubsub_numsub(channel)[0][1] == 1, "the caller has subscribed")
        workers.drain()
        waiting.join(60)
        assert results == ["hello"]

    return wait


@pytest.fixture
def subscribers(redis_client: redis.Redis) -> Callable[[], set[str]]:
    """Return a function that returns the subscribed connections, without those of other tests."""

    def all_of_them() -> set[str]:
        return {each["id"] for each in redis_client.client_list(_type="pubsub")}

    others = all_of_them()
    return lambda: all_of_them() - others


def test_a_caller_that_waits_again_opens_no_further_connection(
    start: Callable[[], str], wait: Wait, subscribers: Callable[[], set[str]]
) -> None:
    wait(start())
    before = subscribers()

    for _ in range(3):
        wait(start())

    assert subscribers() == before
    assert len(before) == 1


def test_a_wait_is_one_round_trip_to_postgres_before_the_end_and_one_after_it(
    start: Callable[[], str], wait: Wait, postgres: Wire
) -> None:
    wait(start())  # reads the definition, too
    execution = start()

    with postgres.recorded() as recorded:
        wait(execution)

    assert recorded.round_trips == 2


def test_a_caller_is_woken_although_its_connection_has_ended_since_its_last_wait(
    start: Callable[[], str],
    wait: Wait,
    subscribers: Callable[[], set[str]],
    redis_client: redis.Redis,
) -> None:
    wait(start())
    (before,) = subscribers()
    redis_client.client_kill_filter(_id=before)

    wait(start())

    assert len(subscribers()) == 1
    assert before not in subscribers()


def test_the_end_of_another_execution_wakes_no_caller(engine: Engine, redis_client: redis.Redis) -> None:
    cache, keys, ends = engine.cache, Keys.of(engine.settings), []
    with cache.finished_signal("first"):
        cache.announce_finished("first", "COMPLETED")  # which this caller does not wait for

    def wait_for_second() -> None:
        with cache.finished_signal("second") as wait_for_signal:
            wait_for_signal(60)
            ends.append(announced.is_set())

    announced = threading.Event()
    waiting = threading.Thread(target=wait_for_second)
    waiting.start()
    poll(lambda: redis_client.pubsub_numsub(keys.finished("second"))[0][1] == 1, "it has subscribed")
    assert redis_client.pubsub_numsub(keys.finished("first"))[0][1] == 0
    announced.set()
    cache.announce_finished("second", "COMPLETED")
    waiting.join(50)

    assert ends == [True]


def test_a_forked_process_waits_on_a_connection_of_its_own(
    start: Callable[[], str], wait: Wait, caller: WorkflowClient, subscribers: Callable[[], set[str]]
) -> None:
    wait(start())
    before = subscribers()

    child = os.fork()
    if child == 0:
        try:
            with caller._engine.cache.finished_signal("of the child"):
                poll(lambda: len(subscribers()) == 2, "the child has subscribed")
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    poll(lambda: subscribers() == before, "that of the child has ended")
    wait(start())
    assert subscribers() == before
