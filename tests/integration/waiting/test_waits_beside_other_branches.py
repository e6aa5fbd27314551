"""A branch that waits keeps no other from going on, and is kept by none once its wait is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.nodes.patient import HOUR, before, cool_off, statuses, waits, wakes
from support.workflows import calling
from workflow_engine import (
    ExecutionStatus,
    NodeExecutionResult,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    waiting,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.execution.records import DueWait

TimePasses = Callable[[float], None]
WakeDue = Callable[[], list[str]]
Sql = Callable[..., Any]


def test_others_go_on_while_a_node_waits_and_a_join_waits_for_it(
    client: WorkflowClient,
    workers: Workers,
    time_passes: TimePasses,
    wake_due: WakeDue,
    redis_client: redis.Redis,
) -> None:
    flow = WorkflowBuilder("join")
    flow.trigger("start") >> [calling(flow, cool_off), calling(flow, before)] >> flow.merge("joined")
    client.deploy(flow.build())
    execution = client.start("join").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.WAITING
    assert statuses(client, execution) == [("cool_off", NodeStatus.WAITING), ("before", NodeStatus.COMPLETED)]
    redis_client.flushdb()
    time_passes(HOUR)
    wake_due()
    workers.drain()

    assert client.get(execution).result == {"cool_off": "time", "before": {"order": 42}}


def test_the_node_that_was_committed_last_is_the_current_one_wherever_one_asks(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    time_passes: TimePasses,
    wake_due: WakeDue,
    sql: Sql,
) -> None:
    flow = WorkflowBuilder("current")
    patient = calling(flow, cool_off)
    flow.trigger("start") >> [patient, calling(flow, before)]
    patient >> calling(flow, cool_off_again)
    client.deploy(flow.build())
    execution = client.start("current").id
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.hop()

    cached = engine.cache.load_context(execution).to_dict()
    ((in_view,),) = sql("SELECT context FROM execution_contexts")
    engine.cache.remove_from_cache(execution)

    assert cached["currentNodeId"] == "cool_off"
    assert cached == engine.cache.load_context(execution).to_dict() == in_view
    assert cached["metadata"]["executionPath"] == ["start", "cool_off", "before"]


def cool_off_again() -> NodeExecutionResult:
    return waiting(seconds=HOUR)


class LongNodes:
    """Nodes that run while the test acts in the middle of them."""

    def __init__(self) -> None:
        self.during: dict[str, Callable[[], None]] = {}

    def called(self, name: str) -> Callable[[], Any]:
        def node() -> str:
            self.during.get(name, lambda: None)()
            return name

        node.__name__ = name
        return node


@pytest.fixture
def long_nodes() -> LongNodes:
    return LongNodes()


def beside_long_nodes(client: WorkflowClient, long_nodes: LongNodes) -> str:
    """Start an execution in which one branch waits and another runs two nodes in a row."""
    flow = WorkflowBuilder("beside")
    long = calling(flow, long_nodes.called("long"))
    flow.trigger("start") >> [calling(flow, cool_off), long]
    long >> calling(flow, long_nodes.called("longer"))
    client.deploy(flow.build())
    return client.start("beside").id


def test_a_branch_that_was_woken_while_another_ran_goes_on_as_soon_as_that_has_committed(
    client: WorkflowClient,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    long_nodes: LongNodes,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    execution = beside_long_nodes(client, long_nodes)

    def wake_in_vain() -> None:
        time_passes(HOUR)
        assert wake_due() == ["cool_off"]
        second_engine.executor.continue_execution(broker.take())
        assert broker.messages == []

    long_nodes.during["long"] = wake_in_vain
    workers.hop()
    workers.hop()

    assert [message.node_id for message in broker.messages] == ["longer", "cool_off"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert len(wakes) == 2


def test_a_woken_branch_is_not_forgotten_when_the_next_node_takes_the_lock_first(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    long_nodes: LongNodes,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    execution = beside_long_nodes(client, long_nodes)

    def serve_wake_message() -> None:
        second_engine.executor.continue_execution(broker.take())
        assert broker.messages == []

    def wake_in_vain() -> None:
        time_passes(HOUR)
        wake_due()
        serve_wake_message()

    long_nodes.during = {"long": wake_in_vain, "longer": serve_wake_message}
    workers.hop()
    workers.hop()
    workers.hop()

    # Twice its message met the lock held; no claim has run out meanwhile.
    assert [message.node_id for message in broker.messages] == ["cool_off"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_message_for_a_wait_that_is_not_over_turns_away_no_message_for_a_node_that_is_due(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    long_nodes: LongNodes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execution = beside_long_nodes(client, long_nodes)
    workers.hop()
    (due,) = broker.messages
    broker.queue.clear()
    asked = engine.waits.woken

    def woken(execution_id: str, node_id: str) -> Any:
        second_engine.executor.continue_execution(due)  # it meets the lock, and is dropped
        return asked(execution_id, node_id)

    monkeypatch.setattr(engine.waits, "woken", woken)
    seq = client.get(execution).seq
    engine.publisher.wake([DueWait(execution, "beside", 1, "cool_off", seq, None)])
    engine.executor.continue_execution(broker.take())

    assert [message.node_id for message in broker.messages] == ["long"]


def test_what_is_due_goes_on_though_the_woken_nodes_cannot_be_read(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    long_nodes: LongNodes,
    time_passes: TimePasses,
    wake_due: WakeDue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(execution_id: str) -> list[str]:
        raise DatabaseUnavailable("Postgres is away")

    execution = beside_long_nodes(client, long_nodes)
    workers.hop()
    time_passes(HOUR)
    wake_due()
    for worker in (engine, second_engine):
        monkeypatch.setattr(worker.waits, "take_wake_request", away)
    workers.hop()

    assert [message.node_id for message in broker.messages] == ["cool_off", "longer"]
    assert client.get(execution).status is ExecutionStatus.RUNNING


def test_the_failure_of_one_branch_cancels_the_waits_of_the_others(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue, sql: Sql
) -> None:
    def fails() -> None:
        raise ValueError("declined")

    flow = WorkflowBuilder("failing")
    flow.trigger("start") >> [calling(flow, cool_off), calling(flow, fails)]
    client.deploy(flow.build())
    execution = client.start("failing").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.FAILED
    assert waits(sql) == [("cool_off", "DELAY", "CANCELLED")]
    time_passes(HOUR)
    assert wake_due() == []


def test_a_merge_of_any_branch_cancels_the_waits_that_it_has_overtaken(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue, sql: Sql
) -> None:
    flow = WorkflowBuilder("race")
    flow.trigger("start") >> [calling(flow, cool_off), calling(flow, before)] >> flow.merge("won", join="any")
    client.deploy(flow.build())
    execution = client.start("race").id
    workers.drain()

    assert client.get(execution).result == {"order": 42}
    assert waits(sql) == [("cool_off", "DELAY", "CANCELLED")]
    time_passes(HOUR)
    assert wake_due() == []
    assert len(wakes) == 1
