"""Everything that a node does to itself or to its process ends as its failure, and disturbs no other."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import NodeStatus, WorkflowBuilder

MAX_RECOVERIES = 3  # the default


@pytest.mark.parametrize(
    ("function", "arguments", "error_type", "error"),
    [
        ("test.raises", {"message": "the card was declined"}, "ValueError", "the card was declined"),
        ("test.not_json", {}, "InvalidValue", "output.receipt.lines[0]: "),
        ("test.too_large", {}, "InvalidValue", "output"),
    ],
    ids=["raises", "returns-no-json", "returns-2-mb"],
)
def test_a_node_that_does_wrong_fails_its_execution_with_a_clear_error(
    fleet: Fleet, function: str, arguments: dict[str, str], error_type: str, error: str
) -> None:
    flow = WorkflowBuilder("does-wrong")
    wrong = flow.python("wrong", function, arguments=arguments)
    flow.trigger("begin") >> wrong >> flow.function("never", "{{ 1 }}")
    fleet.client.deploy(flow.build())

    execution = fleet.failed(fleet.start("does-wrong"))

    assert error in execution.error
    assert execution.error_details["nodeId"] == "wrong"
    assert execution.error_details["type"] == error_type
    journal = fleet.journal(execution.id)
    assert [(row.node_id, row.status) for row in journal] == [
        ("begin", NodeStatus.COMPLETED),
        ("wrong", NodeStatus.FAILED),
    ]
    assert journal[1].error == execution.error
    assert fleet.keys_of(execution.id) == []


def test_an_execution_goes_on_at_once_after_its_process_was_killed(fleet: Fleet) -> None:
    flow = WorkflowBuilder("killed-once")
    first = flow.python("first", "test.gated", arguments={"value": "{{ begin.order }}"})
    flow.trigger("begin") >> first >> flow.python("last", "test.echo", arguments={"value": "{{ first }}"})
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("killed-once", {"order": 42})
    victim = fleet.begun(execution_id, "first").process

    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    again = fleet.begun(execution_id, "first", times=2)

    assert time.monotonic() - killed_at < 2
    assert again.process != victim
    assert again.key == f"{execution_id}:first:1"
    assert {run.key for run in fleet.runs(execution_id, "first")} == {again.key}
    fleet.open_gate(execution_id, "first")
    assert fleet.completed(execution_id).result == 42
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "last"]


def test_a_node_that_kills_its_process_each_time_fails_and_disturbs_nobody(fleet: Fleet) -> None:
    deadly = WorkflowBuilder("deadly")
    deadly.trigger("begin") >> deadly.python("poison", "test.kills_its_process")
    fleet.client.deploy(deadly.build())
    harmless = WorkflowBuilder("harmless")
    harmless.trigger("begin") >> harmless.python("only", "test.echo", arguments={"value": "{{ begin.n }}"})
    fleet.client.deploy(harmless.build())

    deadly_id = fleet.start("deadly")
    others = []
    while not fleet.client.get(deadly_id).is_finished:
        others.append(fleet.completed(fleet.start("harmless", {"n": len(others)}), timeout=5).result)
    execution = fleet.failed(deadly_id)

    assert others == list(range(len(others)))
    assert others
    assert execution.error_details["type"] == "WORKER_LOST"
    assert "look for a crash" in execution.error
    assert len(fleet.runs(deadly_id)) == MAX_RECOVERIES + 1
    assert {run.key for run in fleet.runs(deadly_id)} == {f"{deadly_id}:poison:1"}
    assert fleet.keys_of(deadly_id) == []
    poll(lambda: all(len(worker.pool_pids) == 2 for worker in fleet.workers), "the pools are whole again")
