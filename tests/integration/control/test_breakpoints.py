"""An execution is paused before a node with a breakpoint, and runs the node once it is resumed."""

from __future__ import annotations

from typing import Any

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.nodes.breakable import first, second, third
from support.workflows import line
from workflow_engine import (
    ExecutionFilter,
    ExecutionStatus,
    InvalidValue,
    NodeNotFound,
    Operation,
    WorkflowBuilder,
    WorkflowClient,
)
from workflow_engine.errors import IllegalMove, WorkflowNotFound


@pytest.fixture(params=["spread", "inline"])
def flow(client: WorkflowClient, request: pytest.FixtureRequest) -> str:
    client.deploy(line(first, second, third, settings={"hops": request.param}))
    return "line"


def done(client: WorkflowClient, execution: str) -> list[str]:
    return [row.node_id for row in client.journal(execution) if row.superseded_by is None]


def test_an_execution_stops_before_the_node_and_goes_on_with_it(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    execution = client.start(flow).id
    move = client.control.pause_before(execution, "third", actor="ada", reason="look at it")
    assert (move.status_before, move.status) == (ExecutionStatus.PENDING, ExecutionStatus.PENDING)
    assert client.get(execution).breakpoints == ("third",)

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert done(client, execution) == ["start", "first", "second"]
    history = [(each.type, each.actor, each.reason) for each in client.control.audit(execution)]
    assert history == [
        ("BREAKPOINT_SET", "ada", "look at it"),
        ("PAUSED", "breakpoint", "breakpoint before third"),
    ]
    client.control.resume(execution)
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_each_visit_stops_until_the_breakpoints_are_cleared(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    execution = client.start(flow).id
    client.control.pause_before(execution, "second")
    workers.drain()
    client.control.rerun(execution, "first")
    client.control.resume(execution)
    workers.drain()
    assert (client.get(execution).status, done(client, execution)) == (
        ExecutionStatus.PAUSED,
        ["start", "first"],
    )

    client.control.rerun(execution, "first")
    client.control.clear_breakpoints(execution)
    client.control.resume(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.get(execution).breakpoints == ()


def test_a_node_that_is_due_already_pauses_the_execution_now(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    execution = client.start(flow).id

    move = client.control.pause_before(execution, "first")

    assert move.status is ExecutionStatus.PAUSED
    workers.drain()
    assert done(client, execution) == ["start"]


def test_a_breakpoint_of_a_workflow_holds_for_what_runs_and_for_what_starts(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    running = client.start(flow).id
    workflows = client.control.workflows
    assert workflows.pause_before(flow, "second", actor="ada") == ("second",)
    assert workflows.pause_before(flow, "first") == ("second", "first")
    started = client.start(flow).id
    assert client.get(started).status is ExecutionStatus.PAUSED
    assert client.workflows()[0].breakpoints == ["second", "first"]

    workers.drain()

    assert (client.get(running).status, done(client, running)) == (ExecutionStatus.PAUSED, ["start", "first"])
    assert done(client, started) == ["start"]
    (event,) = client.control.audit(started)
    assert (event.type, event.reason) == ("PAUSED", "breakpoint before first")
    workflows.clear_breakpoints(flow)
    for each in (running, started):
        client.control.resume(each)
    later = client.start(flow).id
    workers.drain()
    assert {client.get(each).status for each in (running, started, later)} == {ExecutionStatus.COMPLETED}
    assert [each.type for each in workflows.audit(flow)] == [
        "BREAKPOINT_SET",
        "BREAKPOINT_SET",
        "BREAKPOINTS_CLEARED",
    ]


def test_the_time_of_one_that_is_paused_at_its_start_stands_still(client: WorkflowClient, sql: Any) -> None:
    client.deploy(line(first, settings={"timeout": 60}))
    client.control.workflows.pause_before("line", "first")

    execution = client.start("line").id

    assert sql("SELECT expires_at, timeout_left FROM executions WHERE id = %s", execution) == [(None, 60.0)]


def test_a_child_stops_at_the_breakpoints_of_its_own_workflow(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    parent = WorkflowBuilder("parent")
    parent.trigger("start") >> parent.sub_workflow("child", flow)
    client.deploy(parent.build())
    client.control.workflows.pause_before(flow, "first")
    execution = client.start("parent").id
    workers.drain()

    (child,) = client.children(execution)
    assert (child.status, child.breakpoints) == (ExecutionStatus.PAUSED, ("first",))
    client.control.resume(child.id)
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_join_of_nodes_at_the_same_time_is_stopped_at(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("wide", settings={"concurrency": 3})
    start, join = flow.trigger("start"), flow.merge("join")
    for name in ("a", "b", "c"):
        start >> flow.function(name, expression=name) >> join
    join >> flow.function("last", expression="{{ join }}")
    client.deploy(flow.build())
    execution = client.start("wide").id
    client.control.pause_before(execution, "join")

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert sorted(done(client, execution)) == ["a", "b", "c", "start"]
    client.control.resume(execution)
    workers.drain()
    assert client.get(execution).result == {"a": "a", "b": "b", "c": "c"}


def test_a_skip_stops_at_the_next_breakpoint_too(client: WorkflowClient, workers: Workers, flow: str) -> None:
    execution = client.start(flow).id
    client.control.pause_before(execution, "second")

    assert client.control.skip(execution, "first").status is ExecutionStatus.PAUSED


def test_what_is_not_possible_is_refused(client: WorkflowClient, workers: Workers, flow: str) -> None:
    execution = client.start(flow).id
    with pytest.raises(NodeNotFound, match="its workflow has start, first, second, third"):
        client.control.pause_before(execution, "fourth")
    with pytest.raises(InvalidValue, match="has no node 'fourth'; it has start, first, second, third"):
        client.control.workflows.pause_before(flow, "fourth")
    with pytest.raises(WorkflowNotFound):
        client.control.workflows.clear_breakpoints("nothing")
    workers.drain()
    with pytest.raises(IllegalMove):
        client.control.pause_before(execution, "second")
    with pytest.raises(IllegalMove):
        client.control.clear_breakpoints(execution)


def test_the_command_line_sets_and_clears_breakpoints(
    client: WorkflowClient, flow: str, commands_use_the_servers: None
) -> None:
    execution = client.start(flow, tags=["vip"]).id
    set_for_one = run("pause", execution, "--before", "third")
    assert set_for_one.output == f"BREAKPOINT_SET {execution}: was PENDING, is PENDING\n"
    assert "breakpoint before third" in run("show", execution).output
    groups = run_json("pause", "--tag", "vip", "--before", "third", "--dry-run")["dryRun"]
    assert [(each["count"], each["effect"]) for each in groups] == [(1, "is paused when third becomes due")]
    assert client.control.dry_run(Operation.CLEAR_BREAKPOINTS, ExecutionFilter(flow))[0].count == 1
    assert run("breakpoints", "clear", "--execution", execution).exit_code == 0
    assert client.get(execution).breakpoints == ()
    assert run("breakpoints", "set", flow, "second").output == f"{flow} is paused before second\n"
    assert client.get(execution).breakpoints == ("second",)
    assert run("breakpoints", "clear", flow).exit_code == 0
    assert client.get(execution).breakpoints == ()
    assert run("breakpoints", "clear").exit_code == 2
