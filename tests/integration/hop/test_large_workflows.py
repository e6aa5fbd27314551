"""Workflows may be as long, wide and deep as they come; each is walked hop by hop to its end."""

from __future__ import annotations

from support.broker import Workers
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.definition.built_nodes import Branch, BuiltNode


def test_a_thousand_nodes_in_a_row_complete(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("long")
    last = flow.trigger("start")
    for number in range(1000):
        count = f"{{{{ {last.id}.count + 1 }}}}"
        last = last >> flow.function(f"step{number}", {"count": count, "text": "x" * 1000})
    client.deploy(flow.build())
    execution = client.start("long", {"count": 0}).id

    assert workers.drain() == 1000

    finished = client.get(execution)
    assert finished.status is ExecutionStatus.COMPLETED
    assert finished.result["count"] == 1000
    assert finished.nodes_executed == len(client.journal(execution)) - 1 == 1000


def test_five_hundred_branches_join(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("wide")
    branches = [flow.function(f"branch{number}", number) for number in range(500)]
    flow.trigger("start") >> branches >> flow.merge("joined")
    client.deploy(flow.build())
    execution = client.start("wide").id

    assert workers.drain() == 501

    assert client.get(execution).result == {f"branch{number}": number for number in range(500)}
    path = client.context(execution).metadata["executionPath"]
    assert path == ["start", *(f"branch{number}" for number in range(500)), "joined"]


def test_a_merge_deep_below_two_hundred_conditions_is_reached(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("deep")
    end = flow.merge("end", strategy="first")
    way: BuiltNode | Branch = flow.trigger("start")
    for number in range(200):
        condition = flow.condition(f"above{number}", expression=f"{{{{ start.level > {number} }}}}")
        way >> condition
        condition["false"] >> end
        way = condition["true"]
    way >> flow.function("bottom", "reached") >> end
    client.deploy(flow.build())
    to_the_bottom, half_way = client.start("deep", {"level": 200}).id, client.start("deep", {"level": 100}).id

    workers.drain()

    assert client.get(to_the_bottom).result == "reached"
    assert client.get(half_way).result is False
    assert client.get(to_the_bottom).nodes_executed == 202
    assert client.get(half_way).nodes_executed == 102
