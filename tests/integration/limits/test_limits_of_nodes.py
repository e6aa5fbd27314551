"""An attempt of a node with limits holds its slots while it runs; without one it waits without a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.polling import poll
from workflow_engine import (
    ExecutionStatus,
    NodeInterrupted,
    WorkflowBuilder,
    WorkflowClient,
    failure,
    node,
    success,
    waiting,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.states import SlotStatus

ONE: list[dict[str, Any]] = [{"key": "one", "concurrency": 1}]


def flow(work: Callable[..., Any], limits: Any = ONE, **options: Any) -> WorkflowBuilder:
    settings = options.pop("settings", None)
    builder = WorkflowBuilder("limited", settings=settings)
    name = node("test.limited")(work)
    builder.trigger("begin") >> builder.python("work", name, limits=limits, **options)
    return builder


class Gate:
    """A node that runs until it is let go."""

    def __init__(self) -> None:
        self.is_running = threading.Event()
        self.may_end = threading.Event()
        self.runs = 0

    def __call__(self) -> str:
        self.runs += 1
        self.is_running.set()
        self.may_end.wait(20)
        return "done"


@pytest.fixture
def running(client: WorkflowClient, broker: Broker, second_engine: Engine) -> Any:
    """Return a function that runs the oldest message in a thread until it has begun."""
    threads: list[threading.Thread] = []
    gates: list[Gate] = []

    def run(gate: Gate) -> threading.Thread:
        gates.append(gate)
        gate.is_running.clear()
        thread = threading.Thread(target=second_engine.executor.continue_execution, args=(broker.take(),))
        thread.start()
        threads.append(thread)
        assert gate.is_running.wait(10)
        return thread

    yield run
    for gate in gates:
        gate.may_end.set()
    for thread in threads:
        thread.join(10)


def held_and_waiting(client: WorkflowClient, key: str = "one") -> tuple[int, int]:
    use = client.control.limits.get(key)
    return (use.held, use.waiting) if use is not None else (0, 0)


def test_without_a_slot_a_node_waits_as_a_row_and_is_woken_in_the_order_of_arrival(
    client: WorkflowClient, broker: Broker, workers: Workers, running: Any
) -> None:
    gate = Gate()
    client.deploy(flow(gate).build())
    ids = [client.start("limited").id for _ in range(4)]
    thread = running(gate)

    workers.drain()
    assert held_and_waiting(client) == (1, 3)
    assert [client.get(each).status.value for each in ids] == ["PENDING", *["WAITING"] * 3]
    (slot,) = client.control.limits.standing(ids[2])
    assert (slot.node_id, slot.status, slot.position, slot.holders) == (
        "work",
        SlotStatus.LIMITED,
        2,
        (ids[0],),
    )

    gate.may_end.set()
    thread.join(10)
    order = []
    while broker.queue:
        assert len(broker.queue) == 1, "one slot wakes one node"
        order.append(workers.hop().execution_id)
    assert order == ids[1:]
    assert gate.runs == 4
    assert held_and_waiting(client) == (0, 0)


def test_a_slot_is_free_between_the_attempts_of_a_retry(
    client: WorkflowClient, workers: Workers, wake_due: Any, time_passes: Callable[[float], None]
) -> None:
    attempts: list[int] = []

    def flaky() -> Any:
        attempts.append(held_and_waiting(client)[0])
        return failure("BUSY", "later") if len(attempts) == 1 else success("done")

    client.deploy(flow(flaky, retry={"maxAttempts": 2, "waitDuration": 60_000}).build())
    execution = client.start("limited").id
    workers.drain()
    assert held_and_waiting(client) == (0, 0)

    time_passes(61)
    wake_due()
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert attempts == [1, 1]


def test_an_attempt_that_waits_for_something_else_keeps_its_slot(
    client: WorkflowClient, workers: Workers, wake_due: Any, time_passes: Callable[[float], None]
) -> None:
    client.deploy(flow(lambda: waiting(seconds=60)).build())
    first, second = (client.start("limited").id for _ in range(2))
    workers.drain()
    assert held_and_waiting(client) == (1, 1)

    client.control.cancel(first)
    workers.drain()
    assert held_and_waiting(client) == (1, 0)
    assert [slot.status for slot in client.control.limits.standing(second)] == [SlotStatus.HELD]
    client.control.cancel(second)
    assert held_and_waiting(client) == (0, 0)


@pytest.mark.parametrize("end", ["is interrupted", "dies"])
def test_a_slot_whose_owner_is_gone_is_free_once_its_lease_has_ended(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    sql: Callable[..., Any],
    tick: Callable[[], float],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    def die(commit: Any) -> Any:
        raise SystemExit

    def gone() -> Any:
        if end == "dies":
            monkeypatch.setattr(engine.state, "update_execution", die)
            return "never committed"
        raise NodeInterrupted("told to")

    client.deploy(flow(gone).build())
    lost = client.start("limited").id
    message = broker.take()
    if end == "dies":
        with pytest.raises(SystemExit):
            engine.executor.continue_execution(message)
        monkeypatch.undo()
    else:
        engine.executor.continue_execution(message)
        assert broker.take().execution_id == lost  # it would run again
    node("test.limited")(lambda: "done")
    waiter = client.start("limited").id
    workers.hop()
    assert held_and_waiting(client) == (1, 1)

    assert tick() <= 1
    assert held_and_waiting(client) == (1, 1), "the lease has not ended"
    ((left,),) = sql(
        "SELECT extract(epoch FROM leased_until - now())::float FROM limit_slots WHERE status = 'HELD'"
    )
    assert left <= 3.5
    sql("UPDATE limit_slots SET leased_until = now() WHERE status = 'HELD'")
    tick()

    workers.drain()
    assert client.get(waiter).status is ExecutionStatus.COMPLETED


def test_the_lease_of_a_node_that_runs_is_renewed_beside_it(
    client: WorkflowClient, running: Any, sql: Callable[..., Any]
) -> None:
    gate = Gate()
    client.deploy(flow(gate).build())
    client.start("limited")
    running(gate)
    until = sql("SELECT leased_until FROM limit_slots")

    poll(lambda: sql("SELECT leased_until FROM limit_slots") > until, "the lease is renewed")


def test_a_node_that_was_woken_and_lost_its_slot_keeps_its_place_in_line(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    sql: Callable[..., Any],
    tick: Callable[[], float],
    running: Any,
) -> None:
    gate = Gate()
    client.deploy(flow(gate).build())
    ids = [client.start("limited").id for _ in range(3)]
    thread = running(gate)
    workers.drain()
    gate.may_end.set()
    thread.join(10)
    lost = broker.take()
    assert lost.execution_id == ids[1]

    sql("UPDATE limit_slots SET leased_until = now() WHERE status = 'HELD'")
    tick()
    assert [message.execution_id for message in broker.messages] == [ids[1]]
    workers.drain()
    assert {client.get(each).status for each in ids} == {ExecutionStatus.COMPLETED}
    assert gate.runs == 3


def test_a_lost_message_of_a_woken_node_is_sent_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    running: Any,
    wake_due: Any,
    time_passes: Callable[[float], None],
) -> None:
    gate = Gate()
    client.deploy(flow(gate).build())
    ids = [client.start("limited").id for _ in range(2)]
    thread = running(gate)
    workers.drain()
    gate.may_end.set()
    thread.join(10)
    broker.queue.clear()

    time_passes(31)
    assert wake_due() == ["work"]
    workers.drain()
    assert client.get(ids[1]).status is ExecutionStatus.COMPLETED


def test_a_rerun_frees_what_its_superseded_nodes_hold(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(flow(lambda: waiting(seconds=60)).build())
    execution = client.start("limited").id
    workers.drain()
    assert held_and_waiting(client) == (1, 0)

    client.control.rerun(execution, "work")

    assert held_and_waiting(client) == (0, 0)
    workers.drain()
    assert held_and_waiting(client) == (1, 0)


def test_a_node_that_stood_in_line_when_its_execution_failed_stands_in_line_after_a_retry(
    client: WorkflowClient, broker: Broker, workers: Workers, wake_due: Any, running: Any
) -> None:
    gate, results = Gate(), [failure("BROKEN", "once"), success("repaired")]
    builder = WorkflowBuilder("limited", settings={"concurrency": 2})
    begin = builder.trigger("begin")
    begin >> builder.python("work", node("test.limited")(gate), limits=ONE)
    begin >> builder.python("breaks", node("test.breaks")(lambda: results.pop(0)))
    client.deploy(builder.build())
    other = flow(gate)
    other._frame["id"] = other.id = "other"
    client.deploy(other.build())
    client.start("other")
    thread = running(gate)
    execution = client.start("limited").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    assert held_and_waiting(client) == (1, 0)

    client.control.retry(execution)
    wake_due()
    workers.drain()
    assert held_and_waiting(client) == (1, 1)
    gate.may_end.set()
    thread.join(10)
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("given", [{"hops": "inline"}, {"concurrency": 3}, {}], ids=str)
def test_branches_take_turns_whatever_the_settings(
    client: WorkflowClient, broker: Broker, workers: Workers, given: dict[str, Any]
) -> None:
    seen: list[int] = []

    def look() -> str:
        seen.append(held_and_waiting(client)[0])
        return "done"

    builder = WorkflowBuilder("limited", settings=given)
    begin, name = builder.trigger("begin"), node("test.look")(look)
    for number in range(4):
        begin >> builder.python(
            f"branch{number}", name, limits=[{"key": "k:{{ begin.k }}", "concurrency": 1}]
        )
    client.deploy(builder.build())

    execution = client.start("limited", {"k": 7}).id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert seen == [] or held_and_waiting(client, "k:7") == (0, 0)
    assert len(seen) == 4


def test_a_node_needs_no_second_slot_of_a_key_that_its_execution_holds(
    client: WorkflowClient, workers: Workers
) -> None:
    builder = WorkflowBuilder("limited", limits=ONE)
    builder.trigger("begin") >> builder.function("work", "{{ 1 }}", limits=ONE)
    client.deploy(builder.build())

    execution = client.start("limited").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_key_that_cannot_be_evaluated_fails_its_node(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(flow(lambda: "done", [{"key": "{{ begin.k }}", "concurrency": 1}]).build())

    missing, wrong = client.start("limited").id, client.start("limited", {"k": [1]}).id
    workers.drain()

    assert "limits[0].key" in str(client.get(missing).error)
    assert "a key is a text of 1 to 200 characters or a whole number" in str(client.get(wrong).error)
