"""A dry run says in groups what an operation would do, changes nothing, and the operation then does that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.nodes.breakable import broken, first, second, third
from support.workflows import line
from workflow_engine import ExecutionFilter, ExecutionStatus, Operation, WorkflowBuilder, WorkflowClient

Sql = Callable[..., list[tuple[Any, ...]]]
TABLES = ("executions", "node_executions", "execution_wait_states", "execution_events")


@pytest.fixture
def executions(client: WorkflowClient, workers: Workers) -> dict[str, list[str]]:
    """Return executions by what happened to them."""
    client.deploy(line(first, second, third))
    waits = WorkflowBuilder("waits")
    waits.trigger("start") >> waits.wait_events("paid", correlation_id="{{ 'order' }}", events=["paid"])
    client.deploy(waits.build())
    completed = [client.start("line").id]
    workers.drain()
    broken.add("second")
    failed = [client.start("line", tags=["vip"]).id for _ in range(7)]
    workers.drain()
    broken.add("third")
    broken.discard("second")
    later = [client.start("line", tags=["vip"]).id]
    workers.drain()
    waiting = [client.start("waits").id for _ in range(2)]
    workers.drain()
    return {"completed": completed, "failed": failed, "later": later, "waiting": waiting}


@pytest.fixture
def stored(sql: Sql) -> Callable[[], list[Any]]:
    return lambda: [sql(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


def shown(
    client: WorkflowClient, operation: Operation, wanted: Any, **arguments: Any
) -> list[tuple[Any, ...]]:
    groups = client.control.dry_run(operation, wanted, **arguments)
    return [(each.count, each.workflow_id, each.status, each.effect, each.is_refused) for each in groups]


def test_a_dry_run_groups_what_would_happen_and_changes_nothing(
    client: WorkflowClient, executions: dict[str, list[str]], stored: Callable[[], list[Any]]
) -> None:
    before = stored()

    vip = ExecutionFilter(tags=["vip"])
    assert shown(client, Operation.RETRY, vip) == [
        (7, "line", "FAILED", "runs second; 1 journal row superseded", False),
        (1, "line", "FAILED", "runs third; 1 journal row superseded", False),
    ]
    assert shown(client, Operation.SKIP, vip, node="second", output=1) == [
        (7, "line", "FAILED", "second is done by hand, and it runs third", False),
        (
            1,
            "line",
            "FAILED",
            "cannot skip node 'second': only 'third' can be, whose failure ended the execution",
            True,
        ),
    ]
    assert shown(client, Operation.RERUN, ExecutionFilter("line"), from_node="third") == [
        (1, "line", "COMPLETED", "runs third; 1 journal row superseded", False),
        (1, "line", "FAILED", "runs third; 1 journal row superseded", False),
        (
            7,
            "line",
            "FAILED",
            "cannot rerun execution … from 'third', which it has not reached; it has reached "
            "start, first, second",
            True,
        ),
    ]
    everything = ExecutionFilter()
    assert shown(client, Operation.PAUSE, everything) == [
        (2, "waits", "WAITING", "starts no further node", False)
    ]
    assert shown(client, Operation.CANCEL, everything) == [
        (2, "waits", "WAITING", "ends, with its children", False)
    ]
    assert shown(client, Operation.COMPLETE, everything, node="paid", output=1) == [
        (2, "waits", "WAITING", "paid is done by hand, and it completes", False)
    ]
    assert shown(client, Operation.SET_VARIABLE, vip, name="region", value="north") == [
        (8, "line", "FAILED", "region has another value", False)
    ]
    assert shown(client, Operation.SET_OUTPUT, executions["later"], node="third", output=1) == [
        (1, "line", "FAILED", "cannot set-output node 'third': it has not completed; skip it instead", True)
    ]
    assert shown(client, Operation.RESUME, executions["waiting"][:1]) == [
        (1, "waits", "WAITING", "execution … is WAITING and resume is possible only from PAUSED", True)
    ]
    (group, _) = client.control.dry_run(Operation.RETRY, vip)
    assert group.examples == tuple(executions["failed"][:5])
    assert stored() == before


def test_an_operation_does_what_its_dry_run_said(
    client: WorkflowClient,
    workers: Workers,
    executions: dict[str, list[str]],
    stored: Callable[[], list[Any]],
    commands_use_the_servers: None,
) -> None:
    before = stored()
    arguments = ["skip", "--tag", "vip", "--node", "second", "--output", "1"]

    text = run(*arguments, "--dry-run").output
    groups = run_json(*arguments, "--dry-run")["dryRun"]

    assert stored() == before
    assert "      7  line version 1, FAILED: second is done by hand, and it runs third" in text
    assert "REFUSED: cannot skip node 'second'" in text
    assert text.endswith("skip would move 7 executions; nothing was changed.\n")
    assert [(each["count"], each["isRefused"]) for each in groups] == [(7, False), (1, True)]
    done = run_json(*arguments, "--yes", status=1)
    assert [each["executionId"] for each in done["moved"]] == executions["failed"]
    assert [each["executionId"] for each in done["refused"]] == executions["later"]


def test_bulk_operations_take_the_filters_of_lists(
    client: WorkflowClient, executions: dict[str, list[str]], commands_use_the_servers: None
) -> None:
    assert run_json("pause", "--workflow", "waits", "--since", "1h", "--yes")["refused"] == []
    assert {client.get(each).status for each in executions["waiting"]} == {ExecutionStatus.PAUSED}
    assert len(run_json("resume", "--status", "PAUSED", "--yes")["moved"]) == 2
    assert run_json("cancel", "--workflow", "waits", "--until", "1h", "--yes")["moved"] == []
    retried = run_json("retry", "--text", executions["later"][0], "--yes")["moved"]
    assert [each["executionId"] for each in retried] == executions["later"]
    both = run("cancel", executions["waiting"][0], "--tag", "vip", "--dry-run")
    assert (both.exit_code, "but not both" in both.output) == (2, True)
    nothing = run("cancel", "--dry-run", "--archived")
    assert (nothing.exit_code, "name executions, or select them" in nothing.output) == (2, True)
