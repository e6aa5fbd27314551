"""`workflow-engine limits` shows who waits for what, and changes the numbers while executions run."""

from __future__ import annotations

import json

import pytest

from support.broker import Broker
from support.command_line import run
from workflow_engine import WorkflowBuilder, WorkflowClient

pytestmark = pytest.mark.usefixtures("commands_use_the_servers")


@pytest.fixture
def executions(client: WorkflowClient) -> list[str]:
    """Start four executions of one tenant, of which one may run at a time."""
    flow = WorkflowBuilder("limited", limits=[{"key": "tenant:{{ begin.tenant }}", "concurrency": 1}])
    flow.trigger("begin") >> flow.function("work", 1)
    client.deploy(flow.build())
    return [client.start("limited", {"tenant": "a"}).id for _ in range(4)]


def test_a_number_that_is_set_is_in_force_at_once_until_it_is_reset(
    client: WorkflowClient, broker: Broker, executions: list[str]
) -> None:
    assert len(broker.queue) == 1

    result = run("limits", "set", "tenant:a", "--concurrency", "3", "--reason", "import", "--actor", "ada")

    assert result.stdout == "tenant:a: 3 at a time; 3 held, 1 waiting.\n"
    shown = json.loads(run("limits", "list", "--json").stdout)["limits"]
    assert [(each["key"], each["concurrency"], each["held"], each["waiting"]) for each in shown] == [
        ("tenant:a", 3, 3, 1)
    ]
    assert "ada: import" in run("limits", "list").stdout
    assert run("limits", "reset", "tenant:a").stdout == "tenant:a is as definitions say again.\n"
    assert run("limits", "reset", "tenant:a").exit_code == 1
    client.control.cancel(executions[0])
    assert json.loads(run("limits", "list", "--json").stdout)["limits"][0]["held"] == 2, "none is granted"


def test_a_rate_may_be_set_for_a_key_that_nobody_uses_yet(client: WorkflowClient) -> None:
    assert run("limits", "list").stdout.startswith("No execution holds or awaits a slot")

    assert run("limits", "set", "api", "--rate", "10/min").stdout == "api: 10/min; 0 held, 0 waiting.\n"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "Nothing to set: give --concurrency, --rate or both."),
        (["--rate", "fast"], "'fast' is no rate; write a whole number, a slash and one of s, second, min"),
        (["--concurrency", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: list[str], problem: str) -> None:
    result = run("limits", "set", "api", *options)

    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())


def test_show_says_what_an_execution_waits_for(executions: list[str]) -> None:
    shown = run("show", executions[2]).stdout

    assert "Limit tenant:a, number 2 in line since " in shown
    assert "1 of 1 held" in shown
    assert "Limit tenant:a, held since " in run("show", executions[0]).stdout
