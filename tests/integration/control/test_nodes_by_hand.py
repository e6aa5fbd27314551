"""An operator gives a node its result, or changes one; the execution goes on as if the node had done it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.nodes.breakable import broken, first, second, third
from support.workflows import line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import (
    IllegalMove,
    IllegalNodeMove,
    InvalidValue,
    NodeNotFound,
    TriggerDataInvalid,
)
from workflow_engine.execution.states import WaitStatus

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def failed(client: WorkflowClient, workers: Workers) -> str:
    """Return an execution of three nodes whose second one has failed."""
    client.deploy(line(first, second, third))
    execution = client.start("line").id
    broken.add("second")
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    return execution


def waiting_flow() -> WorkflowBuilder:
    flow = WorkflowBuilder("waits", variables={"currency": "EUR"})
    start = flow.trigger("start", schema={"type": "object", "required": ["n"]})
    paid = start >> flow.wait_events("paid", correlation_id="{{ 'order' }}", events=["paid"])
    paid >> flow.function("ship", expression="{{ [paid, currency, start.n] }}")
    return flow


@pytest.fixture
def waits(client: WorkflowClient, workers: Workers) -> str:
    client.deploy(waiting_flow().build())
    execution = client.start("waits", {"n": 1}).id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.WAITING
    return execution


def row_of(client: WorkflowClient, execution: str, node: str) -> Any:
    rows = [each for each in client.journal(execution) if each.node_id == node]
    return [each for each in rows if each.superseded_by is None][-1]


def test_a_skipped_failure_lets_the_execution_go_on_with_the_output_given(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    move = client.control.skip(failed, "second", output={"by": "hand"}, actor="ada", reason="paid in cash")

    assert (move.status_before, move.status) == (ExecutionStatus.FAILED, ExecutionStatus.RUNNING)
    row = row_of(client, failed, "second")
    assert (row.status, row.output_data, row.worker) == (NodeStatus.COMPLETED, {"by": "hand"}, "operator ada")
    assert workers.drain() == 1, "only the third node runs"
    assert client.get(failed).status is ExecutionStatus.COMPLETED
    (event,) = client.control.audit(failed)
    assert (event.type, event.actor, event.reason) == ("NODE_SKIPPED", "ada", "paid in cash")
    assert event.payload == {"nodeId": "second"}


def test_a_skipped_last_node_completes_its_execution(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    client.control.skip(failed, "second")
    move = client.control.skip(failed, "third", output=7)

    assert move.status is ExecutionStatus.COMPLETED
    execution = client.get(failed)
    assert (execution.status, execution.result) == (ExecutionStatus.COMPLETED, 7)
    rows = len(client.journal(failed))
    workers.drain()
    assert len(client.journal(failed)) == rows, "its message finds nothing to do"


def test_a_node_that_has_not_begun_is_skipped_and_its_message_finds_nothing_to_do(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line(first, second, third))
    execution = client.start("line").id

    assert client.control.skip(execution, "first").status is ExecutionStatus.RUNNING
    client.control.pause(execution)
    assert client.control.skip(execution, "second").status is ExecutionStatus.PAUSED
    client.control.resume(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    workers_of = [row.worker for row in client.journal(execution)]
    assert workers_of[1:3] == ["operator", "operator"]


def test_a_stuck_wait_is_completed_by_hand(client: WorkflowClient, workers: Workers, waits: str) -> None:
    move = client.control.complete(waits, "paid", {"paid": {"amount": 42}}, actor="ada", reason="by phone")

    assert (move.status_before, move.status) == (ExecutionStatus.WAITING, ExecutionStatus.RUNNING)
    workers.drain()
    assert client.get(waits).result == [{"paid": {"amount": 42}}, "EUR", 1]
    (wait,) = [row.wait for row in client.journal(waits) if row.wait]
    assert wait.status is WaitStatus.COMPLETED
    assert client.send_event("order", "paid").woken == (), "nothing waits any more"
    assert [each.type for each in client.control.audit(waits)] == ["NODE_COMPLETED"]


def test_a_wait_is_skipped_and_a_retry_is_not_waited_for(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("retries")
    call = flow.python("call", "test.second", retry={"maxAttempts": 9, "waitDuration": 3_600_000})
    flow.trigger("start") >> call
    client.deploy(line(first, second, third))
    client.deploy(flow.build())
    execution = client.start("retries").id
    broken.add("second")
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.WAITING

    client.control.skip(execution, "call", output="later")

    assert client.get(execution).result == "later"


def test_children_of_a_wait_that_is_completed_by_hand_are_cancelled(
    client: WorkflowClient, workers: Workers, waits: str
) -> None:
    parent = WorkflowBuilder("parent")
    parent.trigger("start") >> parent.sub_workflow("child", "waits", data={"n": 2})
    client.deploy(parent.build())
    execution = client.start("parent").id
    workers.drain()
    (child,) = client.children(execution)

    client.control.complete(execution, "child", "enough")

    assert client.get(execution).result == "enough"
    assert client.get(child.id).status is ExecutionStatus.CANCELLED


def test_a_child_that_is_helped_by_hand_wakes_its_parent(
    client: WorkflowClient, workers: Workers, waits: str
) -> None:
    parent = WorkflowBuilder("parent")
    parent.trigger("start") >> parent.sub_workflow("child", "waits", data={"n": 2})
    client.deploy(parent.build())
    execution = client.start("parent").id
    workers.drain()
    (child,) = client.children(execution)

    client.control.complete(child.id, "paid", "yes")
    workers.drain()

    assert client.get(execution).result == ["yes", "EUR", 2]


def test_the_way_out_of_a_node_with_several_is_named(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("chooses")
    start = flow.trigger("start")
    choice = start >> flow.condition("choice", expression="{{ 1 / 0 > 1 }}")
    choice["true"] >> flow.function("yes", expression="yes")
    choice["false"] >> flow.function("no", expression="no")
    client.deploy(flow.build())
    execution = client.start("chooses").id
    workers.drain()

    with pytest.raises(InvalidValue, match=r"handle: 'choice' has several ways out, true, false; name"):
        client.control.skip(execution, "choice", output=False)
    with pytest.raises(InvalidValue, match=r"no edge leaves .* from 'maybe'; its ways out are true, f"):
        client.control.skip(execution, "choice", output=False, handle="maybe")
    client.control.skip(execution, "choice", output=False, handle="false")
    workers.drain()

    assert client.get(execution).result == {"no": "no"}


def test_siblings_of_a_skipped_node_keep_their_results(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("wide", settings={"concurrency": 3})
    start = flow.trigger("start")
    join = flow.merge("join")
    start >> flow.function("left", expression="l") >> join
    start >> flow.wait_events("right", correlation_id="{{ 'wide' }}", events=["go"]) >> join
    client.deploy(flow.build())
    execution = client.start("wide").id
    workers.drain()

    client.control.complete(execution, "right", "r")
    workers.drain()

    assert client.get(execution).result == {"left": "l", "right": "r"}


def test_an_output_is_corrected_before_a_retry(client: WorkflowClient, workers: Workers, failed: str) -> None:
    before = row_of(client, failed, "first").output_data

    move = client.control.set_output(failed, "first", {"corrected": True}, actor="ada", reason="typo")

    assert (move.status_before, move.status) == (ExecutionStatus.FAILED, ExecutionStatus.FAILED)
    assert row_of(client, failed, "first").output_data == {"corrected": True}
    (event,) = client.control.audit(failed)
    assert (event.type, event.payload) == ("OUTPUT_SET", {"nodeId": "first", "before": before})
    broken.clear()
    client.control.retry(failed)
    workers.drain()
    assert client.context(failed).node_outputs["first"] == {"corrected": True}
    assert client.get(failed).status is ExecutionStatus.COMPLETED


def test_the_trigger_data_is_corrected_before_a_rerun_if_its_schema_allows_it(
    client: WorkflowClient, workers: Workers, waits: str, sql: Sql
) -> None:
    client.control.complete(waits, "paid", 1)
    workers.drain()
    with pytest.raises(TriggerDataInvalid):
        client.control.set_output(waits, "start", {})

    client.control.set_output(waits, "start", {"n": 5})
    client.control.rerun(waits, "ship")
    workers.drain()

    assert client.get(waits).result == [1, "EUR", 5]
    assert sql("SELECT trigger_data FROM executions WHERE id = %s", waits) == [({"n": 5},)]


def test_a_variable_has_its_new_value_wherever_the_execution_goes_on(
    client: WorkflowClient, workers: Workers, engine: Engine
) -> None:
    flow = WorkflowBuilder("varies", variables={"currency": "EUR"})
    start = flow.trigger("start")
    one = start >> flow.set("one", variables={"currency": "CHF", "note": "set"})
    one >> flow.function("two", expression="{{ [currency, note] }}")
    client.deploy(flow.build())
    execution = client.start("varies").id
    workers.drain()
    assert client.get(execution).result == ["CHF", "set"]

    client.control.set_variable(execution, "currency", "USD", actor="ada")
    client.control.rerun(execution, "two")
    workers.drain()
    assert client.get(execution).result == ["USD", "set"]
    assert client.context(execution).variables == {"currency": "USD", "note": "set"}
    event = client.control.audit(execution)[0]
    assert event.payload == {"name": "currency", "before": {"1": "EUR", "2": "CHF"}}

    client.control.rerun(execution, "one")
    workers.drain()
    assert client.get(execution).result == ["CHF", "set"], "a node sets it again"
    client.control.set_variable(execution, "another", [1])
    assert client.context(execution).variables["another"] == [1]


def test_a_paused_execution_is_amended_and_a_result_that_follows_counts(
    client: WorkflowClient, workers: Workers, waits: str, engine: Engine
) -> None:
    client.control.pause(waits)
    client.control.set_variable(waits, "currency", "USD")
    client.control.set_output(waits, "start", {"n": 3})
    client.send_event("order", "paid", 42)
    client.control.resume(waits)
    workers.drain()

    assert client.get(waits).result == [{"paid": 42}, "USD", 3]


def test_what_is_not_possible_is_refused_with_what_is(
    client: WorkflowClient, workers: Workers, waits: str, failed: str
) -> None:
    control = client.control
    for operate, error, message in [
        (lambda: control.skip(failed, "third"), IllegalNodeMove, "only 'second' can be"),
        (
            lambda: control.skip(failed, "nothing"),
            NodeNotFound,
            "has start, first, second, third",
        ),
        (
            lambda: control.complete(failed, "second"),
            IllegalMove,
            "complete is possible only from",
        ),
        (lambda: control.skip(waits, "start"), IllegalNodeMove, "it is done or not reached; paid waiting"),
        (lambda: control.skip(waits, "ship"), IllegalNodeMove, "it is done or not reached"),
        (lambda: control.set_output(waits, "start", {"n": 1}), IllegalMove, "possible only from PAUSED"),
        (lambda: control.set_variable(waits, "n", 1), IllegalMove, "possible only from PAUSED"),
        (lambda: control.set_output(failed, "third", 1), IllegalNodeMove, "it has not completed; skip it"),
        (lambda: control.set_variable(failed, "_n", 1), InvalidValue, "does not start with _"),
        (lambda: control.set_variable(failed, "first", 1), InvalidValue, "is not that of a node"),
        (lambda: control.skip(failed, "second", output={1}), InvalidValue, "output: "),
        (
            lambda: control.skip(failed, "second", output="x" * 2_000_000),
            InvalidValue,
            "2,000,002 bytes",
        ),
    ]:
        with pytest.raises(error, match=message):
            operate()
    assert control.audit(waits) == control.audit(failed) == []


def test_the_command_line_helps_nodes_by_hand(
    client: WorkflowClient, workers: Workers, waits: str, failed: str, commands_use_the_servers: None
) -> None:
    set_output = run("set-output", failed, "--node", "first", "--output", '{"a": 1}', "--reason", "typo")
    assert set_output.output == f"OUTPUT_SET {failed}: was FAILED, is FAILED\n"
    assert run("set-variable", failed, "--set", "region=north").exit_code == 0
    assert client.context(failed).variables == {"region": "north"}
    skipped = run_json("skip", "--node", "second", "--status", "FAILED", "--output", "7", "--yes")
    assert [each["executionId"] for each in skipped["moved"]] == [failed]
    assert run("complete", waits, "--node", "paid", "--output", '"by phone"').exit_code == 0
    assert row_of(client, waits, "paid").output_data == "by phone"
    assert row_of(client, failed, "second").output_data == 7
    history = run("events", failed).output
    for part in ("OUTPUT_SET", "VARIABLE_SET", "NODE_SKIPPED", "typo"):
        assert part in history
    refused = run("skip", waits, "--node", "paid")
    assert (refused.exit_code, "it is done or not reached; ship due" in refused.output) == (1, True)
