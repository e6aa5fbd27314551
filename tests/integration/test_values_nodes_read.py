"""What a node reads of its execution: fetched when it is read, and a copy of its own."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from fleet_in_process import Workers, calling

from workflow_engine import ExecutionContext, ExecutionStatus, WorkflowBuilder, WorkflowClient, success

INPUT = {"orderId": 42, "items": [1, 2.5, "drei", None, True]}


@pytest.mark.parametrize("wiped", [False, True], ids=["Redis is there", "Redis was wiped"])
def test_an_output_that_no_config_names_is_fetched_when_python_reads_it(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis, wiped: bool
) -> None:
    seen: dict[str, Any] = {}

    def produces() -> Any:
        return {"nested": [1, {"deep": "value"}]}

    def fails() -> Any:
        raise RuntimeError("boom")

    def reads(context: ExecutionContext) -> None:
        if wiped:
            redis_client.flushdb()
        outputs = context.node_outputs
        seen["output"] = outputs["produces"]
        seen["failure"] = outputs["fails"]["error"]["type"]
        seen["trigger"] = context.trigger_data
        seen["path"] = context.metadata["executionPath"]
        seen["present"] = {name: name in outputs for name in ("produces", "skipped", "nobody", "reads")}

    flow = WorkflowBuilder("lazy")
    check = flow.condition("check", expression="{{ false }}")
    risky = calling(flow, fails, on_error="continue")
    flow.trigger("start") >> calling(flow, produces) >> risky >> check
    check["true"] >> flow.function("skipped", 1)
    check["false"] >> calling(flow, reads)
    client.deploy(flow.build())
    execution = client.start("lazy", INPUT).id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert seen == {
        "output": {"nested": [1, {"deep": "value"}]},
        "failure": "RuntimeError",
        "trigger": INPUT,
        "path": ["start", "produces", "fails", "check"],
        "present": {"produces": True, "skipped": False, "nobody": False, "reads": False},
    }


def test_what_a_node_does_to_the_values_it_was_given_is_not_kept(
    client: WorkflowClient, workers: Workers
) -> None:
    def spoils(order: dict[str, Any], context: ExecutionContext) -> Any:
        order["items"].append("spoilt")
        context.node_outputs["start"]["items"].append("spoilt")
        context.variables["shared"].append("spoilt")  # a variable of its own for the whole execution
        return success(order, variables={"own": 1})

    flow = WorkflowBuilder("spoils", variables={"shared": []})
    reads = flow.function("reads", "{{ [start['items'], shared, own, _trigger['items']] }}")
    flow.trigger("start") >> calling(flow, spoils, arguments={"order": "{{ start }}"}) >> reads
    client.deploy(flow.build())
    execution = client.start("spoils", {"items": []}).id
    workers.drain()

    assert client.get(execution).result == [[], [], 1, []]
    assert client.context(execution).variables == {"shared": [], "own": 1}
    assert client.journal(execution)[1].input_data == {
        "function": "test.spoils",
        "arguments": {"order": {"items": []}},
    }
