"""`workflow-engine explain` says why an execution does not move, and what stands still."""

from __future__ import annotations

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.workflows import line
from workflow_engine import WorkflowBuilder, WorkflowClient
from workflow_engine.execution.ids import new_execution_id

HOSTILE = "\x1b[2J\x07<script>alert(1)</script>\u202e" + "x" * 5_000


def one() -> int:
    return 1


@pytest.fixture
def waiting(client: WorkflowClient, workers: Workers) -> str:
    """Return an execution that waits for an event."""
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.wait_events("hear", ["paid"], correlation_id="order-{{ placed.id }}")
    client.deploy(flow.build())
    execution = client.start("orders", {"id": 7}).id
    workers.drain()
    return execution


def test_the_code_comes_first_then_the_evidence_and_the_command(waiting: str) -> None:
    shown = run("explain", waiting).stdout

    assert shown.startswith("WAITING_EVENTS  Node hear waits for the event paid with the correlation id")
    assert "correlationId  order-7" in shown
    assert "workflow-engine send-event paid --correlation-id order-7" in shown


def test_as_json_it_is_one_document(waiting: str) -> None:
    value = run_json("explain", waiting)

    assert (value["code"], value["executionId"], value["nodeId"]) == ("WAITING_EVENTS", waiting, "hear")
    assert value["evidence"]["events"] == ["paid"]
    assert value["command"].startswith("workflow-engine send-event")
    assert value["unasked"] == []


def test_all_groups_what_is_open(client: WorkflowClient, waiting: str) -> None:
    client.deploy(line(one))
    started = client.start("line").id

    shown = run("explain", "--all").stdout
    value = run_json("explain", "--all")

    assert "WAITING_EVENTS  1  Nodes wait for events." in shown
    assert "NO_WORKER  1  No worker consumes their queue." in shown
    assert "2 open executions." in shown
    assert {group["code"]: group["oldest"] for group in value["groups"]} == {
        "WAITING_EVENTS": [waiting],
        "NO_WORKER": [started],
    }


def test_without_open_executions_it_says_so(client: WorkflowClient) -> None:
    assert run("explain", "--all").stdout == "No execution is open.\n"


def test_it_explains_one_execution_or_all_of_them(waiting: str) -> None:
    assert run("explain").exit_code == 2
    assert run("explain", waiting, "--all").exit_code == 2
    assert run("explain", new_execution_id()).exit_code == 1
    assert run_json("explain", "nonsense", status=1)["error"]["type"] == "ExecutionNotFound"


def test_show_points_at_the_explanation_of_a_node_that_should_run(
    client: WorkflowClient, waiting: str
) -> None:
    client.deploy(line(one))
    due = client.start("line").id

    assert f"workflow-engine explain {due}" in run("show", due).stdout
    assert "workflow-engine explain" not in run("show", waiting).stdout


def test_text_from_data_reaches_a_terminal_without_control_characters(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.wait_events("hear", ["paid"], correlation_id="{{ placed.id }}")
    client.deploy(flow.build())

    def fails() -> None:
        raise ValueError(HOSTILE)

    client.deploy(line(fails, id="failing", retry={"maxAttempts": 2, "waitDuration": 3_600_000}))
    client.deploy(line(one))
    waits = client.start("orders", {"id": HOSTILE[:400]}).id
    retries = client.start("failing").id
    paused = client.start("line", queue=HOSTILE[:40]).id
    workers.drain()
    queued = client.start("line", queue=HOSTILE[:40]).id
    client.control.pause(queued, actor=HOSTILE, reason=HOSTILE)

    for execution in (waits, retries, paused, queued):
        shown = run("explain", execution).stdout
        assert not [each for each in shown if not each.isprintable() and each != "\n"]
        assert len(shown) < 4_000
    assert "\x1b" not in run("explain", "--all").stdout
    assert "\x1b" not in run("explain", waits, "--json").stdout
