"""A busy worker takes one message more for each process, and requeues it when it has to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import worker_shutting_down
from celery.worker import request as celery_request
from celery.worker import state
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from support.event_loop import turn_until
from workflow_engine import Settings
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.broker.internals import Internal
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.worker.celery_internals.compatibility import OWN_APP, PREFETCH
from workflow_engine.worker.celery_internals.pool_writes import Waiting
from workflow_engine.worker.celery_internals.prefetch import FAST, BacklogPrefetch

PROCESSES = 2
BUSY = FAST * PROCESSES


class Request:
    """As much of Celery's request as a prefetched message needs."""

    def __init__(self, message: Any, type_: str) -> None:
        self.id = message.payload
        self.type = type_
        self.message = message
        self.acknowledged = False
        self.events: list[str] = []

    def send_event(self, kind: str, **_: Any) -> None:
        self.events.append(kind)


class Worker:
    """A worker's main process that runs no messages: `requests` is what it took.

    As many as it has processes run, the others wait; they are its `pipes`, too.
    """

    writes_ahead = False
    is_written = True
    """True if what waits has been written into a pipe."""

    pipes: Any

    def __init__(self, connection: Connection, hub: Hub) -> None:
        self.hub = hub
        self.task = TASK_NAME
        self.requests: list[Request] = []
        self.in_hand: list[Request] = []
        self.endings: list[int] = []
        self._connection = connection
        self._channel = connection.default_channel
        self._channel.basic_qos(0, PROCESSES, False)
        connection.transport.register_with_event_loop(connection.connection, hub)
        self.connection_errors = connection.connection_errors
        self.task_consumer = Consumer(self._channel, Queue("orders"), on_message=self._receive)
        self.pool = SimpleNamespace(num_processes=PROCESSES)
        self.pipes = self
        self.controller = SimpleNamespace(
            semaphore=LaxBoundedSemaphore(PROCESSES),
            wait_for_soft_shutdown=lambda: self.endings.append(self.queued()),
            blueprint=SimpleNamespace(on_close=lambda: self.endings.append(self.queued())),
        )
        self.changed_internals: set[str] = set()
        self.looks: list[Any] = []

    def start(self) -> Worker:
        self.prefetch = BacklogPrefetch(self)
        self.prefetch.create(self)
        self.prefetch.register_with_event_loop(
            self, SimpleNamespace(call_repeatedly=lambda _, *look: self.looks.append(look))
        )
        self.task_consumer.consume()
        return self

    @property
    def running(self) -> list[str]:
        return [request.id for request in self.in_hand[:PROCESSES]]

    def waiting(self) -> list[Waiting]:
        return [Waiting(request, self.is_written) for request in self.in_hand[: PROCESSES - 1 : -1]]

    def withdraw(self, request: Request) -> None:
        self.in_hand.remove(request)

    def publish(self, *names: str) -> None:
        producer = self._connection.Producer(routing_key="orders", auto_declare=False)
        for name in names:
            producer.publish(name, headers={"id": name}, correlation_id=name)

    def look(self, begun: int) -> None:
        """Look after this number of nodes have begun since the last time."""
        state.all_total_count[0] += begun
        [(look, backlog)] = self.looks
        look(backlog)

    def finish(self) -> None:
        """End the node of the process that began first."""
        request = self.in_hand.pop(0)
        if not request.acknowledged:
            request.message.ack()
        state.task_ready(request)
        self.controller.semaphore.release()

    def take(self, number: int) -> None:
        turn_until(self.hub, lambda: len(self.requests) == number)

    def take_while_busy(self, *names: str) -> None:
        """Publish these, and take what there are processes and places for."""
        self.publish(*names)
        self.take(PROCESSES)
        self.look(begun=BUSY)
        self.take(min(len(names), 2 * PROCESSES))

    def take_what_there_is(self) -> list[str]:
        """Turn the loop until a request for more has come back empty, or there was none."""
        turn_until(self.hub, lambda: not self._channel._in_poll or not self._channel.qos.is_full)
        return [request.id for request in self.requests]

    def queued(self) -> int:
        return int(self._channel._size("orders"))

    def _receive(self, message: Any) -> None:
        request = Request(message, self.task)
        self.requests.append(request)
        state.task_reserved(request)
        self.controller.semaphore.acquire(self.in_hand.append, request)


@pytest.fixture
def new_worker(redis_url: str) -> Iterator[Worker]:
    app = producer_app(Settings(redis_url=redis_url))
    with app.connection_for_read() as connection, closing(Hub()) as hub:
        worker = Worker(connection, hub)
        yield worker
        # It gets the signal that workers end as long as Python keeps it.
        worker.in_hand.clear()
        state.reset_state()


@pytest.fixture
def worker(new_worker: Worker) -> Worker:
    return new_worker.start()


def test_a_busy_worker_takes_one_message_more_for_each_process(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c", "d", "e")
    worker.hub.run_once()

    assert worker.running == ["a", "b"]
    assert worker.queued() == 1


def test_what_a_busy_worker_prefetches_is_written_to_its_processes_at_once(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c", "d")

    assert worker.writes_ahead
    assert [waiting.request.id for waiting in worker.waiting()] == ["d", "c"]


def test_a_worker_whose_processes_do_not_answer_prefetches_nothing(worker: Worker) -> None:
    worker.publish("a", "b", "c")
    worker.take(PROCESSES)
    worker.look(begun=BUSY - 1)

    assert worker.take_what_there_is() == ["a", "b"]
    assert worker.queued() == 1


def test_where_no_message_waits_none_that_comes_later_is_prefetched(worker: Worker) -> None:
    worker.publish("a", "b")
    worker.take(PROCESSES)
    worker.look(begun=BUSY)
    worker.hub.run_once()
    assert worker.take_what_there_is() == ["a", "b"]

    worker.publish("c")
    assert worker.take_what_there_is() == ["a", "b"]
    assert worker.queued() == 1


def test_what_is_prefetched_goes_back_to_the_front_when_no_process_answers(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c", "d", "e")
    worker.look(begun=0)
    worker.look(begun=0)

    assert not worker.writes_ahead
    assert worker.queued() == 3
    assert [request.acknowledged for request in worker.requests] == [False, False, True, True]
    assert [request.events for request in worker.requests[2:]] == [["task-rejected"], ["task-rejected"]]
    for _ in range(2 * PROCESSES):
        worker.finish()
    worker.take(6)
    assert worker.running == ["c", "d"]
    # The first ones may yet run, and a message that comes twice is taken for one whose process has died.
    assert len({request.message.properties["correlation_id"] for request in worker.requests}) == 6
    assert len({request.message.delivery_tag for request in worker.requests}) == 6


def test_what_waits_behind_a_long_node_goes_back_although_other_processes_answer(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c", "d", "e")
    worker.look(begun=BUSY)
    assert worker.queued() == 1
    worker.look(begun=BUSY)

    assert [request.acknowledged for request in worker.requests[:4]] == [False, False, True, True]
    assert worker.writes_ahead


def test_a_message_goes_back_once(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c")
    for _ in range(3):
        worker.look(begun=0)

    assert worker.queued() == 1


@pytest.mark.parametrize("task", [TASK_NAME, "orders.ship"])
def test_what_has_not_been_written_goes_back_as_it_was_and_does_not_run_here(
    worker: Worker, task: str
) -> None:
    worker.task, worker.is_written = task, False
    worker.take_while_busy("a", "b", "c")
    worker.look(begun=0)
    worker.look(begun=0)

    assert worker.running == ["a", "b"]
    assert worker.waiting() == []
    worker.finish()
    worker.take(4)
    assert worker.running == ["b", "c"]
    assert worker.requests[3].message.properties["correlation_id"] == "c"


def test_a_task_of_a_teams_own_that_has_been_written_stays_as_it_must_not_run_twice(worker: Worker) -> None:
    worker.task = "orders.ship"
    worker.take_while_busy("a", "b", "c")
    worker.look(begun=0)
    worker.look(begun=0)

    assert worker.queued() == 0
    assert not worker.requests[2].acknowledged


def test_a_broker_that_takes_nothing_back_leaves_it_with_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.take_while_busy("a", "b", "c")
    channel = worker.task_consumer.channel
    monkeypatch.setattr(channel, "_q_for_pri", lambda *_: "not-a-list")
    with channel.conn_or_acquire() as client:
        client.set("not-a-list", "", ex=60)
    worker.look(begun=0)
    worker.look(begun=0)
    monkeypatch.undo()

    assert not worker.requests[2].acknowledged
    assert worker.queued() == 0


def test_a_worker_that_gets_a_signal_to_end_puts_back_what_it_prefetched_at_once(worker: Worker) -> None:
    worker.take_while_busy("a", "b", "c")

    worker_shutting_down.send(sender="worker", sig="SIGTERM", how="Warm", exitcode=0)

    assert worker.queued() == 1
    assert worker.requests[2].acknowledged


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda worker: worker.controller.wait_for_soft_shutdown(), id="soft"),
        pytest.param(lambda worker: worker.controller.blueprint.on_close(), id="warm or cold"),
    ],
)
def test_a_worker_that_is_to_end_puts_back_what_it_prefetched_before_it_waits_for_its_nodes(
    worker: Worker, end: Callable[[Worker], None]
) -> None:
    worker.take_while_busy("a", "b", "c")

    end(worker)

    assert worker.endings == [1]
    assert worker.running == ["a", "b"]


@pytest.mark.parametrize(("multiplier", "is_included"), [(1, True), (0, False), (4, False)])
def test_a_team_that_has_celery_prefetch_keeps_that(multiplier: int, is_included: bool) -> None:
    app = producer_app(Settings())
    app.conf.update(worker_prefetch_multiplier=multiplier, **{OWN_APP: True})
    consumer = SimpleNamespace(
        app=app,
        pool=SimpleNamespace(uses_semaphore=True),
        controller=SimpleNamespace(use_eventloop=True),
    )

    assert BacklogPrefetch(consumer).include_if(consumer) is is_included


@pytest.mark.parametrize("internal", PREFETCH, ids=lambda internal: f"{internal.of}.{internal.name}")
def test_a_worker_whose_celery_lacks_what_it_takes_prefetches_nothing_and_says_so(
    new_worker: Worker,
    internal: Internal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = {
        "WorkController": new_worker.controller,
        "Blueprint": new_worker.controller.blueprint,
        "LaxBoundedSemaphore": new_worker.controller.semaphore,
        "Request": celery_request.Request,
        "state": state,
    }[internal.of]
    with monkeypatch.context() as patch:
        patch.delattr(owner if internal.name in vars(owner) else type(owner), internal.name)
        new_worker.start()

    [line] = caplog.messages
    assert f"{internal.of}.{internal.name} is missing" in line
    assert "No message is taken from a backlog early" in line
    assert new_worker.looks == []
    assert new_worker.controller.semaphore.value == PROCESSES


def test_a_worker_that_does_not_write_to_its_pool_by_itself_prefetches_nothing(new_worker: Worker) -> None:
    new_worker.pipes = None
    new_worker.start()

    for look, backlog in new_worker.looks:
        look(backlog)
    assert new_worker.task_consumer.channel.backlog_prefetch == 0
    assert new_worker.controller.semaphore.value == PROCESSES


def test_a_worker_prefetches_although_its_pipes_come_after_its_first_connection(new_worker: Worker) -> None:
    pipes, new_worker.pipes = new_worker.pipes, None
    new_worker.start()
    new_worker.pipes = pipes

    for look, backlog in new_worker.looks:
        look(backlog)

    assert new_worker.controller.semaphore.value == 2 * PROCESSES
