"""An object has one order of keys, wherever it is read from: Redis, Postgres, an event, a node."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import NodeExecutionResult, WorkflowBuilder, WorkflowClient, success
from workflow_engine.execution.context import ExecutionContext

ADDRESS = {"street": "High Street 1", "zip": "SW1A", "city": "London", "Z": 1, "é": {"b": 1, "aa": 2}}
"""Redis keeps this order by default, and jsonb changes it to Z, é, zip, city, street."""

IN_ORDER = ["Z", "city", "street", "zip", "é"]

AS_TEXT = '{"Z":1,"city":"London","street":"High Street 1","zip":"SW1A","é":{"aa":2,"b":1}}'


def read_everywhere(flow: WorkflowBuilder, seen: list[Any]) -> None:
    """Return a workflow that reads the same object from every place that a node can read."""

    def produces() -> NodeExecutionResult:
        return success({"address": ADDRESS, "list": [ADDRESS]}, variables={"home": ADDRESS})

    def looks(context: ExecutionContext, given: Any, config: Any) -> Any:
        outputs = context.node_outputs
        seen.append(
            [
                list(given),
                list(config),
                list(context.trigger_data["address"]),
                list(outputs["produces"]["list"][0]),
                list(context.variables["home"]),
                list(context.variables["preset"]),
                list(context.metadata),
            ]
        )
        return None

    looking = {"given": "{{ produces.address }}", "config": ADDRESS}
    texts = flow.function(
        "texts",
        {
            "trigger": "{{ start.address | list | join(',') }}",
            "output": "{{ produces.address | list | join(',') }}",
            "nested": "{{ produces.list[0] | tojson }}",
            "variable": "{{ home | items | map('first') | join(',') }}",
            "preset": "{{ preset | list | join(',') }}",
            "first": "{{ _trigger.address | first }}",
            "metadata": "{{ _metadata | list | join(',') }}",
            "literal": "{{ {'zip': 1, 'city': 2, ('str' ~ 'eet'): 3} | list | join(',') }}",
            "text": "address: {{ start.address }}",
        },
    )
    first = flow.trigger("start") >> calling(flow, produces)
    first >> texts >> calling(flow, looks, arguments=looking)


TEXTS = {
    "trigger": ",".join(IN_ORDER),
    "output": ",".join(IN_ORDER),
    "nested": AS_TEXT,
    "variable": ",".join(IN_ORDER),
    "preset": ",".join(IN_ORDER),
    "first": "Z",
    "metadata": "executionPath,startedAt",
    "literal": "city,street,zip",
    "text": f"address: {AS_TEXT}",
}


@pytest.mark.parametrize("hops", ["spread", "inline"])
@pytest.mark.parametrize("is_flushed", [False, True])
def test_what_a_node_reads_has_the_same_order_with_and_without_redis(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    redis_client: redis.Redis,
    hops: str,
    is_flushed: bool,
) -> None:
    seen: list[Any] = []
    flow = WorkflowBuilder("orders", variables={"preset": ADDRESS}, settings={"hops": hops})
    read_everywhere(flow, seen)
    client.deploy(flow.build())

    execution = client.start("orders", {"address": ADDRESS}).id
    while broker.queue:
        if is_flushed:
            redis_client.flushdb()
        workers.hop()

    journal = {row.node_id: row for row in client.journal(execution)}
    assert journal["texts"].output_data == TEXTS
    assert seen == [[*[IN_ORDER] * 6, ["executionPath", "startedAt"]]]


def test_what_a_client_reads_has_that_order_too(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis
) -> None:
    flow = WorkflowBuilder("orders")
    flow.trigger("start") >> flow.function("echo", "{{ start }}")
    client.deploy(flow.build())
    execution = client.start("orders", ADDRESS).id

    workers.hop()

    assert list(client.get(execution).result) == IN_ORDER
    assert [list(row.output_data) for row in client.journal(execution)] == [IN_ORDER] * 2


@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_context_lists_its_outputs_by_node_id(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis, is_flushed: bool
) -> None:
    def zebra() -> dict[str, Any]:
        return ADDRESS

    def ape() -> dict[str, Any]:
        return ADDRESS

    flow = WorkflowBuilder("orders")
    pause = flow.delay("pause", duration=1, unit="hours")
    flow.trigger("start") >> calling(flow, zebra) >> calling(flow, ape) >> pause
    client.deploy(flow.build())
    execution = client.start("orders", ADDRESS).id
    workers.drain()
    if is_flushed:
        redis_client.flushdb()

    context = client.context(execution).to_dict()

    assert list(context["nodeOutputs"]) == ["ape", "start", "zebra"]
    assert [list(output) for output in context["nodeOutputs"].values()] == [IN_ORDER] * 3
    assert list(context["metadata"]) == ["executionPath", "startedAt"]


def test_the_payload_of_an_event_has_that_order(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("orders")
    wait = flow.wait_events(
        "wait", ["paid"], correlation_id="A", output={"order": "{{ events.paid | list | join(',') }}"}
    )
    flow.trigger("start") >> wait
    client.deploy(flow.build())
    execution = client.start("orders").id
    workers.drain()

    client.send_event("A", "paid", ADDRESS)
    workers.drain()

    assert client.get(execution).result == {"order": ",".join(IN_ORDER)}


def test_an_output_fetched_while_the_node_runs_has_that_order(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis
) -> None:
    seen: list[Any] = []

    def fetches(context: ExecutionContext) -> None:
        seen.append(list(context.node_outputs["start"]))
        redis_client.flushdb()
        seen.append(list(context.node_outputs["middle"]))

    flow = WorkflowBuilder("orders")
    middle = flow.function("middle", "{{ start }}")
    flow.trigger("start") >> middle >> calling(flow, fetches)
    client.deploy(flow.build())
    client.start("orders", ADDRESS)
    workers.drain()

    assert seen == [IN_ORDER, IN_ORDER]
