"""While a node runs, others see its progress and may interrupt it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import redis

from support.broker import Broker, Workers
from support.command_line import run
from support.redis_keys import keys_in
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.redis.lock import Holder

LONG = 30.0
"""Seconds that no node here may run: one that does was not interrupted."""


def run_one_node(broker: Broker, worker: Engine) -> None:
    """Run a node as a worker does, in a task of its own."""
    worker.executor.continue_execution(broker.take(), "task-1")


@pytest.fixture
def operator(second_engine: Engine) -> WorkflowClient:
    return WorkflowClient(engine=second_engine)


def test_cancelling_interrupts_a_running_node_and_says_so(
    client: WorkflowClient,
    operator: WorkflowClient,
    broker: Broker,
    engine: Engine,
    redis_client: redis.Redis,
) -> None:
    moves = []

    def cancelled_meanwhile(context: ExecutionContext) -> None:
        moves.append(operator.control.cancel(context.execution_id, actor="ann"))
        time.sleep(LONG)

    client.deploy(line(cancelled_meanwhile))
    execution = client.start("line").id
    started = time.monotonic()

    run_one_node(broker, engine)

    assert time.monotonic() - started < LONG / 2
    assert client.get(execution).status is ExecutionStatus.CANCELLED
    (move,) = moves
    assert move.holders
    assert move.interrupted == move.holders
    assert [(event.type, event.name) for event in client.control.audit(execution)] == [
        ("CANCELLED", None),
        ("INTERRUPTED", "cancelled_meanwhile"),
    ]
    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert not keys_in(redis_client)
    assert not broker.queue


def test_a_node_that_asks_may_end_in_good_order(
    client: WorkflowClient, operator: WorkflowClient, broker: Broker, engine: Engine
) -> None:
    asked: list[bool] = []

    def asks(context: ExecutionContext) -> str:
        asked.append(context.cancelled())
        operator.control.cancel(context.execution_id)
        deadline = time.monotonic() + LONG
        try:
            while time.monotonic() < deadline and not context.cancelled():
                time.sleep(0.01)
        finally:
            asked.append(context.cancelled())
        return "cleaned up"

    client.deploy(line(asks))
    execution = client.start("line").id

    run_one_node(broker, engine)

    assert asked == [False, True]
    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert len(client.journal(execution)) == 1


def test_rerunning_an_execution_interrupts_the_node_that_runs_for_nothing(
    client: WorkflowClient, operator: WorkflowClient, broker: Broker, engine: Engine, workers: Workers
) -> None:
    visits: list[str] = []

    def charge(context: ExecutionContext) -> str:
        visits.append(context.idempotency_key)
        if len(visits) == 1:
            operator.control.rerun(context.execution_id, "charge")
            time.sleep(LONG)
        return "charged"

    def order() -> None: ...

    client.deploy(line(order, charge))
    execution = client.start("line").id
    workers.hop()

    run_one_node(broker, engine)
    workers.drain()

    assert client.get(execution).result == "charged"
    assert len(visits) == 2


def test_an_execution_past_its_timeout_interrupts_the_node_that_overran_it(
    client: WorkflowClient,
    second_engine: Engine,
    broker: Broker,
    engine: Engine,
    sql: Callable[..., list[tuple[object, ...]]],
) -> None:
    def dawdles(context: ExecutionContext) -> None:
        sql("UPDATE executions SET expires_at = now()")
        Timekeeping(second_engine).round()
        time.sleep(LONG)

    flow = WorkflowBuilder("hurried", settings={"timeout": 3600})
    flow.trigger("start") >> calling(flow, dawdles)
    client.deploy(flow.build())
    execution = client.start("hurried").id
    started = time.monotonic()

    run_one_node(broker, engine)

    assert time.monotonic() - started < LONG / 2
    assert client.get(execution).error_details == {"type": "EXECUTION_TIMEOUT"}
    assert [event.type for event in client.control.audit(execution)] == ["TIMED_OUT", "INTERRUPTED"]


def test_a_node_interrupted_for_no_good_reason_runs_again_and_that_is_no_attempt(
    client: WorkflowClient, second_engine: Engine, broker: Broker, engine: Engine, workers: Workers
) -> None:
    attempts: list[int] = []

    def charge(context: ExecutionContext) -> str:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            (holder,) = second_engine.locks.holders(context.execution_id)
            second_engine.cache.remove_from_cache(context.execution_id)
            second_engine.running_nodes.interrupt(context.execution_id, holder)
            time.sleep(LONG)
        return "charged"

    client.deploy(line(charge))
    execution = client.start("line").id

    run_one_node(broker, engine)
    workers.drain()

    assert attempts == [1, 1]
    assert client.get(execution).result == "charged"
    assert [row.status for row in client.journal(execution)] == [NodeStatus.COMPLETED] * 2


def test_an_interruption_meant_for_a_node_that_has_ended_hits_no_other(
    client: WorkflowClient, second_engine: Engine, broker: Broker, engine: Engine, workers: Workers
) -> None:
    holders: list[Holder] = []

    def first(context: ExecutionContext) -> None:
        holders.extend(second_engine.locks.holders(context.execution_id))

    def second(context: ExecutionContext) -> str:
        second_engine.running_nodes.interrupt(context.execution_id, holders[0])
        engine.running_nodes.look()
        return "not interrupted"

    client.deploy(line(first, second))
    execution = client.start("line").id

    workers.drain()

    assert client.get(execution).result == "not interrupted"


@pytest.mark.usefixtures("commands_use_the_servers")
def test_show_prints_the_progress_of_a_running_node(
    client: WorkflowClient, broker: Broker, engine: Engine, workers: Workers
) -> None:
    shown: list[str] = []

    def imports_rows(context: ExecutionContext) -> str:
        for done in (100, 400):
            context.report_progress(done / 1000, f"row {done} of 1000")
        engine.running_nodes.look()
        shown.append(run("show", context.execution_id).stdout)
        shown.append(run("show", context.execution_id, "--json").stdout)
        return "done"

    client.deploy(line(imports_rows))
    execution = client.start("line").id
    run_one_node(broker, engine)

    drawn, as_json = shown
    assert "40% · row 400 of 1000" in drawn
    nodes = {node["id"]: node for node in json.loads(as_json)["nodes"]}
    assert nodes["imports_rows"]["progress"]["fraction"] == 0.4
    assert client.get(execution).result == "done"
    assert "row 400" not in run("show", execution).stdout


def test_progress_does_not_spoil_the_context(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    workers: Workers,
    sql: Callable[..., list[tuple[object, ...]]],
) -> None:
    def reports(context: ExecutionContext) -> int:
        context.report_progress(message="half of it")
        engine.running_nodes.look()
        engine.running_nodes.look()
        return 7

    flow = WorkflowBuilder("spoiled")
    flow.trigger("start") >> calling(flow, reports) >> flow.function("reads", "{{ reports }}")
    client.deploy(flow.build())
    execution = client.start("spoiled").id
    run_one_node(broker, engine)
    # If the cached context were not believed any more, the next node would read Postgres.
    sql("UPDATE node_executions SET output_data = '8' WHERE node_id = 'reports'")

    workers.drain()

    assert client.get(execution).result == 7


@pytest.mark.parametrize("fraction", [-0.1, 1.01, 40])
def test_progress_that_is_no_fraction_is_refused(
    client: WorkflowClient, broker: Broker, workers: Workers, fraction: float
) -> None:
    def reports(context: ExecutionContext) -> None:
        context.report_progress(fraction)

    client.deploy(line(reports))
    execution = client.start("line").id
    workers.drain()

    assert "from 0 to 1" in (client.get(execution).error or "")
