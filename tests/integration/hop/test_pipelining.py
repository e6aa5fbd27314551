"""A worker that has its next message leaves a node and enters that one together; nothing is lost by it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.nodes.line_of_three import WHOLE_JOURNAL, first, journal, second, third
from support.polling import poll
from support.pool_process import PoolProcess
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.redis.keys import Keys

EITHER_BROKER = pytest.mark.parametrize(
    "queues", ["with the contexts", "elsewhere"], indirect=True, ids="messages {}".format
)


@pytest.fixture
def client(process: PoolProcess) -> WorkflowClient:
    return WorkflowClient(engine=process.engine)


@pytest.fixture
def begun(client: WorkflowClient, process: PoolProcess) -> list[str]:
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


@EITHER_BROKER
def test_executions_side_by_side_walk_to_their_ends(
    client: WorkflowClient, process: PoolProcess, begun: list[str]
) -> None:
    process.drain()

    assert all(is_completed(client, execution) for execution in begun)
    assert not any(process.engine.locks.is_locked(execution) for execution in begun)


@EITHER_BROKER
@pytest.mark.parametrize("node_id", ["second", "third"], ids=["in the middle", "at the end"])
def test_leaving_a_node_and_entering_the_next_message_s_is_one_round_trip(
    client: WorkflowClient,
    process: PoolProcess,
    redis_client: redis.Redis,
    begun: list[str],
    node_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process.drain()  # from now on it knows that its nodes are brief
    for _ in range(4):
        client.start("line")
    now, then = process.take(), process.take()
    while then.message.node_id != node_id:
        process.serve(now)
        now, then = then, process.take()
    # On a slow machine a thread would leave the node, by a call of its own.
    monkeypatch.setattr("workflow_engine.engine.overlap.LONGEST_AWAITED", 60.0)
    before = len(client.journal(now.message.execution_id))
    process.serve(now, then)
    poll(lambda: len(client.journal(now.message.execution_id)) > before, "its commit has been made")
    lock = Keys.of(process.engine.settings).lock(then.message.execution_id)
    poll(lambda: redis_client.exists(lock), "the calls that were sent ahead have arrived")
    client.start("line")
    further = process.take()

    with process.wire.recorded() as traffic:
        process.serve(then, further)
        poll(lambda: traffic.requests[1:], "both calls have arrived")

    assert traffic.names == ["EVALSHA", "EVALSHA"]
    assert traffic.round_trips == 1


@pytest.mark.parametrize("queues", ["elsewhere"], indirect=True)
def test_a_message_for_a_broker_elsewhere_is_sent_once_the_node_before_is_left(
    client: WorkflowClient, process: PoolProcess, begun: list[str]
) -> None:
    process.drain()
    execution = client.start("line").id
    client.start("line")
    now, then = process.take(), process.take()
    process.serve(now, then)

    process.serve(then)

    following = process.take()
    assert following.message.execution_id == execution
    assert not process.engine.locks.is_locked(execution), "or the message would be dropped"


@pytest.mark.parametrize("flushed", [False, True], ids=["a connection", "the scripts"])
def test_a_worker_that_loses_both_replies_with_something_repeats_both_calls(
    client: WorkflowClient,
    process: PoolProcess,
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
    client: WorkflowClient, process: PoolProcess, other: PoolProcess, begun: list[str]
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


@EITHER_BROKER
def test_a_process_that_is_killed_with_a_node_to_leave_and_the_next_one_entered_delays_both_and_no_more(
    client: WorkflowClient, process: PoolProcess, other: PoolProcess, begun: list[str]
) -> None:
    now, then = process.take(), process.take()
    if os.fork() == 0:
        process.serve(now, then)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    locks = other.engine.locks
    poll(lambda: locks.value_of(then.message.execution_id), "its last call has arrived")

    for execution in begun:
        value = locks.value_of(execution)
        assert value is not None
        assert locks.free(execution, value), "as the takeover does"
        assert other.engine.executor.resume_execution(execution)
    other.drain()

    assert all(is_completed(client, execution) for execution in begun)


def test_a_worker_that_serves_another_message_than_the_one_in_sight_gives_up_the_latter_s_node(
    client: WorkflowClient, process: PoolProcess, other: PoolProcess, begun: list[str]
) -> None:
    now, then = process.take(), process.take()
    process.serve(now, then)

    process.serve(process.take())
    other.serve(then)
    other.drain()

    assert all(is_completed(client, execution) for execution in begun)


def test_a_message_that_comes_twice_and_is_in_sight_is_dropped(
    client: WorkflowClient, process: PoolProcess, begun: list[str]
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
    client: WorkflowClient, process: PoolProcess, other: PoolProcess, monkeypatch: pytest.MonkeyPatch
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
    leave = process.engine.cache.send_ahead

    def is_woken(*arguments: Any) -> Any:
        if not sent:
            WorkflowClient(engine=other.engine).send_event(execution_id=beside, name="paid")
            other.serve(other.take())
            sent.append(True)
        return leave(*arguments)

    monkeypatch.setattr(process.engine.cache, "send_ahead", is_woken)
    process.drain()

    assert sent
    assert client.get(beside).status is ExecutionStatus.COMPLETED
    assert is_completed(client, begun)


@pytest.mark.parametrize("acts", ["pause", "cancel"])
def test_an_operator_who_acts_on_a_node_that_is_in_sight_is_obeyed(
    client: WorkflowClient, process: PoolProcess, begun: list[str], acts: str
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
