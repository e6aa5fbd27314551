"""An execution context has one JSON form wherever it is kept, and gives nodes values of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import ExecutionContext, ExecutionStatus, WorkflowBuilder, WorkflowClient, success
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]
INPUT = {"orderId": 42, "items": [1, 2.5, "drei", None, True]}


# -- one form ------------------------------------------------------------------------------------------


def test_the_context_is_the_same_in_redis_in_postgres_and_in_sql(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, sql: Sql
) -> None:
    def charge() -> Any:
        return success({"receipt": "r-1", "amount": 12.50, "big": 2**60}, variables={"paid": True})

    def fails() -> None:
        raise ValueError("boom")

    flow = WorkflowBuilder("fulfilment", variables={"currency": "EUR", "paid": False})
    risky = calling(flow, fails, on_error="continue")
    placed = flow.trigger("orderPlaced")
    placed >> calling(flow, charge) >> risky >> flow.function("empty", None) >> flow.function("coolOff", 1)
    client.deploy(flow.build())
    execution = client.start("fulfilment", {"orderId": 42}, variables={"note": "ä"}).id
    ids = sql("SELECT id::text, created_at FROM triggers")
    compared = 0
    while broker.queue:
        workers.hop()
        cached = client.context(execution).to_dict()
        (in_sql,) = sql("SELECT context FROM execution_contexts WHERE execution_id = %s", execution)[0]
        engine.cache.remove_from_cache(execution)
        rebuilt = client.context(execution).to_dict()
        assert cached == rebuilt == in_sql
        assert list(cached) == [
            "executionId",
            "workflowId",
            "triggerId",
            "triggerNodeId",
            "currentNodeId",
            "nodeOutputs",
            "variables",
            "metadata",
        ]
        compared += 1

    started_at = cached["metadata"].pop("startedAt")
    assert compared == 4
    assert cached == {
        "executionId": execution,
        "workflowId": "fulfilment",
        "triggerId": ids[0][0],
        "triggerNodeId": "orderPlaced",
        "currentNodeId": "coolOff",
        "nodeOutputs": {
            "orderPlaced": {"orderId": 42},
            "charge": {"receipt": "r-1", "amount": 12.5, "big": 2**60},
            "fails": {"error": {"type": "ValueError", "message": "boom", "attempt": 1, "details": {}}},
            "empty": None,
            "coolOff": 1,
        },
        "variables": {"currency": "EUR", "paid": True, "note": "ä"},
        "metadata": {"executionPath": ["orderPlaced", "charge", "fails", "empty", "coolOff"]},
    }
    assert started_at.endswith("Z")


def test_what_a_finished_execution_keeps_of_its_context_is_all_but_the_journal(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("short", variables={"currency": "EUR"})
    flow.trigger("start") >> flow.function("end", {"much": "text"})
    client.deploy(flow.build())
    execution = client.start("short").id
    workers.drain()

    (kept,) = sql("SELECT context FROM executions")[0]
    assert kept.keys() == {
        "executionId",
        "workflowId",
        "triggerId",
        "triggerNodeId",
        "currentNodeId",
        "variables",
        "metadata",
    }
    assert (kept["executionId"], kept["currentNodeId"]) == (execution, "end")
    assert kept["metadata"].keys() == {"startedAt"}


def test_a_context_is_persisted_only_while_its_fence_holds(
    client: WorkflowClient, engine: Engine, sql: Sql
) -> None:
    flow = WorkflowBuilder("short", variables={"currency": "EUR"})
    flow.trigger("start") >> flow.function("end", 1)
    client.deploy(flow.build())
    execution = client.start("short").id
    snapshot = engine.state.load_snapshot(execution)
    assert snapshot is not None
    context = client.context(execution)
    context.variables = {"currency": "CHF"}

    assert engine.cache.persist_context(context, snapshot.fence)
    assert sql("SELECT context -> 'variables', context ? 'nodeOutputs' FROM executions") == [
        ({"currency": "CHF"}, False)
    ]
    assert not engine.cache.persist_context(context, str(uuid.uuid4()))


# -- what a node reads ---------------------------------------------------------------------------------


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
