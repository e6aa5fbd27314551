"""Operators control executions from the command line, one by one and in whole lists."""

from __future__ import annotations

import getpass
from collections.abc import Callable

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient

Sql = Callable[..., list[tuple[object, ...]]]
UNKNOWN = "0199c8a0-0000-7000-8000-000000000000"


@pytest.fixture
def start(client: WorkflowClient) -> Callable[[str], str]:
    """Return a function that starts an execution of a workflow whose node `divide` fails."""

    def start(workflow: str = "shop") -> str:
        flow = WorkflowBuilder(workflow)
        flow.trigger("placed") >> flow.function("divide", "{{ 1 // 0 }}") >> flow.function("done", "{{ 1 }}")
        client.deploy(flow.build())
        return client.start(workflow).id

    return start


def status_of(client: WorkflowClient, *executions: str) -> list[ExecutionStatus]:
    return [client.get(execution).status for execution in executions]


def test_every_move_is_reported_and_is_in_the_history_with_who_and_why(
    start: Callable[..., str], workers: Workers
) -> None:
    execution = start()

    paused = run("pause", execution, "--reason", "the shop is being moved")
    resumed = run("resume", execution, "--actor", "ada")
    workers.drain()
    retried = run("retry", execution)
    rerun = run("rerun", execution, "--from", "placed")
    cancelled = run("cancel", execution)
    history = run("events", execution)

    assert paused.stdout == f"PAUSED {execution}: was PENDING, is PAUSED\n"
    assert resumed.stdout == f"RESUMED {execution}: was PAUSED, is PENDING\n"
    assert retried.stdout == f"RETRIED {execution}: was FAILED, is RUNNING\n"
    assert rerun.stdout == f"RERUN {execution}: was RUNNING, is RUNNING\n"
    assert cancelled.stdout == f"CANCELLED {execution}: was RUNNING, is CANCELLED\n"
    lines = [line.split("UTC", 1)[1].split() for line in history.stdout.splitlines()[1:]]
    assert [line[:3] for line in lines] == [
        ["1", "placed", "COMPLETED"],
        ["1", "PAUSED", getpass.getuser()],
        ["1", "RESUMED", "ada"],
        ["2", "divide", "FAILED"],
        ["3", "RETRIED", getpass.getuser()],
        ["4", "RERUN", getpass.getuser()],
        ["4", "CANCELLED", getpass.getuser()],
    ]
    assert "the shop is being moved" in history.stdout
    assert "superseded by 3" in history.stdout


def test_the_history_is_available_as_json_too(start: Callable[..., str]) -> None:
    execution = start()
    run("pause", execution, "--reason", "stop")

    history = run_json("events", execution)["history"]

    assert [(entry["kind"], entry["seq"]) for entry in history] == [("node", 1), ("event", 1)]
    assert history[0]["nodeId"] == "placed"
    assert (history[1]["type"], history[1]["reason"]) == ("PAUSED", "stop")
    assert all(entry["at"].endswith("Z") for entry in history)


def test_a_move_that_is_not_possible_says_what_it_is_possible_from(start: Callable[..., str]) -> None:
    execution = start()

    result = run("resume", execution)

    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: execution {execution} is PENDING and resume is possible only from PAUSED\n"
    )
    assert run("pause", UNKNOWN).exit_code == 1
    assert run_json("pause", UNKNOWN, status=1)["error"]["type"] == "ExecutionNotFound"


def test_a_list_is_moved_after_a_confirmation_that_says_how_many(
    client: WorkflowClient, start: Callable[..., str]
) -> None:
    executions = [start(), start()]
    other = start("other")

    refused = run("cancel", "--workflow", "shop", stdin="n\n")
    assert (refused.exit_code, "Cancel 2 executions?" in refused.stderr) == (1, True)
    assert status_of(client, *executions) == [ExecutionStatus.PENDING] * 2

    done = run("cancel", "--workflow", "shop", stdin="y\n")
    assert done.exit_code == 0
    assert done.stdout.endswith("2 of 2 executions moved.\n")
    assert status_of(client, *executions, other) == [
        ExecutionStatus.CANCELLED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.PENDING,
    ]


def test_yes_asks_nothing_and_age_and_status_narrow_a_list_down(
    client: WorkflowClient, start: Callable[..., str], sql: Sql
) -> None:
    old, new = start(), start()
    sql("UPDATE executions SET created_at = now() - interval '4 hours' WHERE id = %s", old)

    moved = run_json("pause", "--status", "pending", "--older-than", "3h", "--yes")

    assert [move["executionId"] for move in moved["moved"]] == [old]
    assert moved["moved"][0]["statusBefore"] == "PENDING"
    assert status_of(client, old, new) == [ExecutionStatus.PAUSED, ExecutionStatus.PENDING]
    assert run("pause", "--older-than", "3h", "--yes").stdout == "0 of 0 executions moved.\n"


def test_one_that_is_refused_stops_none_of_the_others(
    client: WorkflowClient, start: Callable[..., str]
) -> None:
    first, last = start(), start()
    run("pause", first)

    answered = run_json("pause", first, UNKNOWN, last, status=1)

    assert [move["executionId"] for move in answered["moved"]] == [last]
    assert [(each["executionId"], each["type"]) for each in answered["refused"]] == [
        (first, "IllegalMove"),
        (UNKNOWN, "ExecutionNotFound"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause",), "name executions, or select them"),
        (("pause", UNKNOWN, "--workflow", "shop"), "not both"),
        (
            ("retry", "--status", "RUNNING"),
            "cannot retry an execution that is RUNNING, only",
        ),
        (("pause", "--older-than", "soon"), "soon is not a time span"),
        (("rerun", UNKNOWN), "Missing option '--from'"),
    ],
)
def test_an_ambiguous_command_line_is_refused(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_json_output_needs_yes_because_it_asks_nothing(
    client: WorkflowClient, start: Callable[..., str]
) -> None:
    execution = start()

    refused = run_json("cancel", "--workflow", "shop", status=2)

    assert "confirm with --yes" in refused["error"]["message"]
    assert status_of(client, execution) == [ExecutionStatus.PENDING]
