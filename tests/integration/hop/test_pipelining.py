"""A worker that has its next message leaves a node and enters that one together; nothing is lost by it."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis

from support.nodes.line_of_three import WHOLE_JOURNAL, first, journal, second, third
from support.polling import poll
from support.wire import Wire, read_redis_commands
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage, NextMessage
from workflow_engine.redis.keys import Keys


class Process:
    """A process of a worker, which takes its messages from the Redis of the contexts."""

    def __init__(self, settings: Settings, queues: redis.Redis) -> None:
        self._queues = queues
        self.wire = Wire(settings.redis_url, read_redis_commands)
        self.engine = Engine.assemble(settings.model_copy(update={"redis_url": self.wire.url}))

    def take(self) -> NextMessage:
        """Return the message that waits longest; one that was sent ahead may still be under way."""
        return cast(NextMessage, poll(self._take, "a message waits"))

    def _take(self) -> NextMessage | None:
        queues = sorted(self._queues.scan_iter(_type="list", count=100))  # one for each priority
        if not queues:
            return None
        envelope = self._queues.rpop(queues[0])
        assert isinstance(envelope, bytes)
        message = json.loads(envelope)
        _, body, _ = json.loads(base64.b64decode(message["body"]))
        return NextMessage(HopMessage(**body), message["headers"]["id"])

    def serve(self, now: NextMessage, then: NextMessage | None = None) -> None:
        """Serve a message, with the one that is served after it in sight."""
        self.engine.executor.continue_execution(*now, look_ahead=lambda: then)

    def drain(self) -> None:
        """Serve all messages, each with the next one in sight, until there are none."""
        now, then = self._take(), None
        while now is not None:
            then = self._take()
            self.serve(now, then)
            now = then or self._take()

    def close(self) -> None:
        self.engine.locks.stop_all_renewing()
        self.engine.database.dispose()
        self.wire.close()


@pytest.fixture
def process(settings: Settings, redis_client: redis.Redis) -> Iterator[Process]:
    process = Process(settings, redis_client)
    yield process
    process.close()


@pytest.fixture
def other(settings: Settings, redis_client: redis.Redis) -> Iterator[Process]:
    """Yield a process of another worker."""
    process = Process(settings, redis_client)
    yield process
    process.close()


@pytest.fixture
def client(process: Process) -> WorkflowClient:
    return WorkflowClient(engine=process.engine)


@pytest.fixture
def begun(client: WorkflowClient, process: Process) -> list[str]:
    """Return the ids of two executions of three nodes, whose second nodes are due."""
    client.deploy(line(first, second, third))
    executions = [client.start("line").id for _ in range(2)]
    for _ in executions:
        process.serve(process.take())
    return executions


def is_completed(client: WorkflowClient, execution: str) -> bool:
    return client.get(execution).status is ExecutionStatus.COMPLETED and (
        journal(client, execution) == WHOLE_JOURNAL
    )


def test_executions_side_by_side_walk_to_their_ends(
    client: WorkflowClient, process: Process, begun: list[str]
) -> None:
    process.drain()

    assert all(is_completed(client, execution) for execution in begun)
    assert not any(process.engine.locks.is_locked(execution) for execution in begun)


@pytest.mark.parametrize("node_id", ["second", "third"], ids=["in the middle", "at the end"])
def test_leaving_a_node_and_entering_the_next_message_s_is_one_round_trip(
    client: WorkflowClient,
    process: Process,
    redis_client: redis.Redis,
    begun: list[str],
    node_id: str,
) -> None:
    for _ in begun:
        client.start("line")
    now, then = process.take(), process.take()
    while then.message.node_id != node_id:
        process.serve(now, then)
        now, then = then, process.take()
    process.serve(now, then)
    lock = Keys.of(process.engine.settings).lock(then.message.execution_id)
    poll(lambda: redis_client.exists(lock), "the calls that were sent ahead have arrived")

    with process.wire.recorded() as traffic:
        process.serve(then, process.take())
        poll(lambda: traffic.requests[1:], "both calls have arrived")

    assert traffic.names == ["EVALSHA", "EVALSHA"]
    assert traffic.round_trips == 1


@pytest.mark.parametrize("flushed", [False, True], ids=["a connection", "the scripts"])
def test_a_worker_that_loses_both_replies_with_something_repeats_both_calls(
    client: WorkflowClient,
    process: Process,
    redis_client: redis.Redis,
    begun: list[str],
    flushed: bool,
) -> None:
    now, then = process.take(), process.take()
    if flushed:
        redis_client.script_flush()
    process.serve(now, then)
    process.wire.hang_up()
    process.serve(then)
    process.drain()

    assert all(is_completed(client, execution) for execution in begun)


def test_a_message_that_is_not_served_after_all_leaves_its_node_to_others(
    client: WorkflowClient, process: Process, other: Process, begun: list[str]
) -> None:
    now, then = process.take(), process.take()
    process.serve(now, then)
    assert process.engine.locks.is_locked(then.message.execution_id)

    process.engine.executor.settle()

    assert not process.engine.locks.is_locked(then.message.execution_id)
    assert process.engine.cache.abandoned_run(then.message.execution_id) is None
    other.serve(then)
    other.drain()
    assert all(is_completed(client, execution) for execution in begun)


def test_a_process_that_is_killed_with_the_next_node_entered_delays_that_node_and_no_more(
    client: WorkflowClient, process: Process, other: Process, begun: list[str]
) -> None:
    now, then = process.take(), process.take()
    entered = then.message.execution_id
    if os.fork() == 0:
        process.serve(now, then)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    locks = other.engine.locks
    value = poll(lambda: locks.value_of(entered), "the lock is held by the process that is dead")

    assert locks.free(entered, value), "as the takeover does"
    assert other.engine.executor.resume_execution(entered)
    other.drain()

    assert all(is_completed(client, execution) for execution in begun)


def test_a_worker_that_serves_another_message_than_the_one_in_sight_gives_up_the_latter_s_node(
    client: WorkflowClient, process: Process, other: Process, begun: list[str]
) -> None:
    now, then = process.take(), process.take()
    process.serve(now, then)

    process.serve(process.take())
    other.serve(then)
    other.drain()

    assert all(is_completed(client, execution) for execution in begun)


def test_a_message_that_comes_twice_and_is_in_sight_is_dropped(
    client: WorkflowClient, process: Process, begun: list[str]
) -> None:
    now = process.take()
    process.serve(now, now)
    process.serve(now)
    process.drain()

    assert all(is_completed(client, execution) for execution in begun)


def works() -> int:
    return 1


def last() -> int:
    return 2


def test_a_node_that_is_woken_while_a_worker_leaves_with_the_next_message_in_sight_goes_on(
    client: WorkflowClient, process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = WorkflowBuilder("beside")
    begin = flow.trigger("begin")
    begin >> flow.wait_events("hear", ["paid"])
    begin >> calling(flow, works) >> calling(flow, last)
    client.deploy(flow.build())
    client.deploy(line(first, second, third))
    beside, begun = client.start("beside").id, client.start("line").id
    hear, to_first = process.take(), process.take()
    process.serve(hear)
    process.serve(to_first)
    sent: list[bool] = []
    leave = process.engine.cache.leave_and_enter

    def is_woken(*arguments: Any) -> Any:
        if not sent:
            WorkflowClient(engine=other.engine).send_event(execution_id=beside, name="paid")
            other.serve(other.take())
            sent.append(True)
        return leave(*arguments)

    monkeypatch.setattr(process.engine.cache, "leave_and_enter", is_woken)
    process.drain()

    assert sent
    assert client.get(beside).status is ExecutionStatus.COMPLETED
    assert is_completed(client, begun)


@pytest.mark.parametrize("acts", ["pause", "cancel"])
def test_an_operator_who_acts_on_a_node_that_is_in_sight_is_obeyed(
    client: WorkflowClient, process: Process, begun: list[str], acts: str
) -> None:
    now, then = process.take(), process.take()
    process.serve(now, then)
    move: Callable[[str], Any] = getattr(client.control, acts)
    move(then.message.execution_id)

    process.serve(then)
    process.drain()

    expected = ExecutionStatus.PAUSED if acts == "pause" else ExecutionStatus.CANCELLED
    assert client.get(then.message.execution_id).status is expected
    assert is_completed(client, now.message.execution_id)
