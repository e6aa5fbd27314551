"""A busy worker over RabbitMQ has messages before its processes ask, and keeps none from idle processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from support.fleet import Fleet
from support.polling import poll
from support.worker_processes import STOP_TIMEOUT
from workflow_engine import Settings, WorkflowBuilder
from workflow_engine.broker.backlogs import QuorumBacklog
from workflow_engine.embedded.rabbitmq import EmbeddedRabbit, rabbitmq_programs

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(rabbitmq_programs() is None, reason="this machine has no RabbitMQ"),
]

APP = "faults.quorum_queues"
PROCESSES = 2
TIMEOUT = 60.0

_numbers = itertools.count()


@pytest.fixture(scope="module")
def rabbit() -> Iterator[EmbeddedRabbit]:
    with EmbeddedRabbit() as rabbit:
        yield rabbit


@pytest.fixture
def queue(rabbit: EmbeddedRabbit) -> Queue:
    """Return a queue of this test alone."""
    name = f"orders{next(_numbers)}"
    return Queue(name, durable=True, queue_arguments={"x-queue-type": "quorum"})


class Worker:
    """A worker's main process that runs no messages: `requests` is what it took, by their ids."""

    def __init__(self, rabbit: EmbeddedRabbit, queue: Queue) -> None:
        self._queue = queue
        self._connection = Connection(rabbit.url)
        channel = self._connection.default_channel
        channel.basic_qos(0, PROCESSES, False)
        self.requests: list[Any] = []
        consumer = Consumer(channel, [queue], on_message=self.requests.append)
        consumer.consume()
        self.backlog = QuorumBacklog(consumer)

    @property
    def taken(self) -> list[str]:
        """The ids of the messages that it has taken."""
        self._drain()
        return [message.headers["id"] for message in self.requests]

    def has(self, *ids: str) -> None:
        """Wait until it has taken these, in this order, and no others."""
        poll(lambda: len(self.taken) >= len(ids), f"{ids} are taken")
        assert self.taken == list(ids)

    def publish(self, *ids: str) -> None:
        with self._connection.Producer(routing_key=self._queue.name, auto_declare=False) as producer:
            for name in ids:
                producer.publish(name, headers={"id": name}, correlation_id=name, delivery_mode=2)

    def close(self) -> None:
        self._connection.release()

    def _drain(self) -> None:
        while True:
            try:
                self._connection.drain_events(timeout=0.05)
            except TimeoutError:
                return


@pytest.fixture
def new_worker(rabbit: EmbeddedRabbit, queue: Queue) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(rabbit, queue))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def worker(new_worker: Callable[[], Worker]) -> Worker:
    return new_worker()


def test_a_busy_worker_takes_one_message_more_for_each_process(worker: Worker) -> None:
    worker.publish("a", "b", "c", "d", "e")
    worker.has("a", "b")

    worker.backlog.take_ahead(PROCESSES)

    worker.has("a", "b", "c", "d")


def test_a_message_that_an_idle_process_can_serve_is_taken_by_no_busy_worker(
    worker: Worker, new_worker: Callable[[], Worker]
) -> None:
    worker.publish("a", "b")
    worker.has("a", "b")
    worker.backlog.take_ahead(PROCESSES)
    idle = new_worker()

    worker.publish("c", "d", "e")

    idle.has("c", "d")
    worker.has("a", "b", "e")


def test_a_worker_that_is_no_longer_busy_takes_no_more(worker: Worker) -> None:
    worker.publish("a", "b", "c", "d", "e")
    worker.backlog.take_ahead(PROCESSES)
    worker.has("a", "b", "c", "d")

    worker.backlog.take_ahead(0)
    for message in worker.requests[2:]:
        message.ack()

    worker.has("a", "b", "c", "d")


def test_what_has_not_begun_goes_back_to_its_place_as_it_was(worker: Worker) -> None:
    worker.publish("a", "b", "c", "d")
    worker.backlog.take_ahead(PROCESSES)
    worker.has("a", "b", "c", "d")
    worker.backlog.take_ahead(0)
    worker.publish("e")

    worker.backlog.put_back(worker.requests[2], None)
    worker.requests[0].ack()

    worker.has("a", "b", "c", "d", "c")


def test_what_may_have_begun_comes_again_under_another_id_and_only_so(
    worker: Worker, new_worker: Callable[[], Worker]
) -> None:
    worker.publish("a", "b", "c")
    worker.backlog.take_ahead(PROCESSES)
    worker.has("a", "b", "c")
    worker.backlog.take_ahead(0)
    other = new_worker()

    worker.backlog.put_back(worker.requests[2], "another")

    other.has("another")
    assert other.requests[0].payload == "c"
    assert other.requests[0].properties["correlation_id"] == "another"
    worker.close()  # what it has not acknowledged goes to others
    poll(lambda: len(other.taken) > 1, "the rest is taken")
    for message in other.requests:
        message.ack()
    poll(lambda: len(other.taken) == 3, "the rest is taken")
    assert sorted(other.taken) == ["a", "another", "b"]


@pytest.fixture
def fleet(
    database_url: str, redis_url: str, rabbit: EmbeddedRabbit, queue: Queue, tmp_path: Path
) -> Iterator[Fleet]:
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        broker_url=rabbit.url,
        queue=queue.name,
        imports=("support.nodes.recorded",),
    )
    fleet = Fleet(settings, tmp_path)
    with Connection(rabbit.url) as connection:
        queue(connection.default_channel).declare()  # producers do not
    yield fleet
    fleet.kill()


def deploy(fleet: Fleet) -> None:
    """Deploy a workflow of short nodes and one with a node that lasts as long as its gate is shut."""
    short, long = WorkflowBuilder("short"), WorkflowBuilder("long")
    last = short.trigger("begin")
    for node in ("first", "second", "third"):
        last = last >> short.python(node, "test.echo")
    long.trigger("begin") >> long.python("only", "test.gated")
    for flow in (short, long):
        fleet.client.deploy(flow.build())


def test_a_short_node_that_was_written_behind_a_long_one_is_run_by_somebody_else(fleet: Fleet) -> None:
    deploy(fleet)
    before = [fleet.start("short") for _ in range(100)]
    long = fleet.start("long")
    after = [fleet.start("short") for _ in range(200)]
    fleet.add_workers("one", app=APP)
    fleet.begun(long, "only", timeout=TIMEOUT)

    for execution_id in [*before, *after]:
        fleet.completed(execution_id, timeout=TIMEOUT)

    fleet.open_gate(long, "only")
    fleet.completed(long, timeout=TIMEOUT)
    assert all(len(fleet.runs(execution_id)) == 3 for execution_id in after)


def test_a_worker_that_ends_in_the_middle_of_a_backlog_does_so_in_seconds_and_keeps_nothing(
    fleet: Fleet,
) -> None:
    deploy(fleet)
    executions = [fleet.start("short") for _ in range(300)]
    fleet.add_workers("leaving", app=APP)
    poll(lambda: len(fleet.journal(executions[50])) == 4, "the worker is busy", timeout=TIMEOUT)

    assert fleet.workers[0].terminate(STOP_TIMEOUT) == 0
    fleet.add_workers("following", app=APP)

    for execution_id in executions:
        fleet.completed(execution_id, timeout=TIMEOUT)
