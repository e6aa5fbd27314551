"""`calls` runs a task once for each of them in one node, and keeps each value before the next call begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from celery import chord

from support import shop
from support.broker import Broker, Workers
from support.parents import line, loop
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient, durable
from workflow_engine.broker.wire_format import task_body
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]


def run(client: WorkflowClient, workers: Workers, task: Any, calls: Any, **options: Any) -> str:
    """Start a workflow with a node of these calls, serve its messages, and return the execution's id."""
    flow = WorkflowBuilder("calls")
    flow.trigger("start") >> flow.celery_task("task", task, calls=calls, **options)
    client.deploy(flow.build())
    execution = client.start("calls").id
    workers.drain()
    return execution


def each(*values: Any) -> list[dict[str, Any]]:
    return [{"args": [value]} for value in values]


def test_the_output_has_the_value_of_each_call_in_order(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    calls = [{"args": [1]}, {"args": [2], "kwargs": {"b": 3}}, {}]
    execution = run(client, workers, shop.echo, calls, args=["first"], kwargs={"a": 1})

    assert client.get(execution).result == [
        {"args": ["first", 1], "kwargs": {"a": 1}},
        {"args": ["first", 2], "kwargs": {"a": 1, "b": 3}},
        {"args": ["first"], "kwargs": {"a": 1}},
    ]
    assert sql("SELECT * FROM node_parts") == []


def test_no_calls_are_done_at_once(client: WorkflowClient, workers: Workers) -> None:
    assert client.get(run(client, workers, shop.echo, [])).result == []


def test_each_call_has_a_key_of_its_own(client: WorkflowClient, workers: Workers) -> None:
    execution = run(client, workers, shop.about, each(1, 2))

    ids = [value["id"] for value in client.get(execution).result]
    assert ids == [f"{execution}:task:1:0", f"{execution}:task:1:1"]


def test_a_failure_says_which_call_it_was_and_a_retry_goes_on_with_it(
    client: WorkflowClient, workers: Workers
) -> None:
    shop.calls.append("rejects")  # so that the first call does not reject
    calls = [*({"args": [1, False]} for _ in range(2)), {"args": [4, False]}, {"args": [0]}]
    execution = run(client, workers, shop.rejects, calls)
    assert client.get(execution).error_details["details"]["part"] == 2
    assert shop.calls.count("rejects") == 4

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert shop.calls.count("rejects") == 6


def test_each_call_counts_its_own_retries(
    client: WorkflowClient,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], Any],
) -> None:
    execution = run(client, workers, shop.charge, [{"args": [2]}, {"args": [0]}, {"args": [1]}])
    for _ in range(3):
        time_passes(8)
        wake_due()
        workers.drain()

    assert client.get(execution).result == ["charged after 2", "charged after 0", "charged after 1"]
    statuses = [row.status for row in client.journal(execution) if row.node_id == "task"]
    assert statuses == [*[NodeStatus.RETRYING] * 3, NodeStatus.COMPLETED]


def test_each_call_has_the_time_limit_for_itself(client: WorkflowClient, workers: Workers) -> None:
    execution = run(client, workers, shop.nap, each(0.6, 0.6, 0.6), timeout=1.5)
    assert client.get(execution).result == [0.6, 0.6, 0.6]

    too_long = run(client, workers, shop.nap, each(0, 30), timeout=1)
    assert client.get(too_long).error_details["type"] == "TIMEOUT"
    assert client.get(too_long).error_details["details"]["part"] == 1


def test_a_worker_that_was_overtaken_keeps_nothing(
    client: WorkflowClient, workers: Workers, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution is cancelled while the first call runs."""

    def cancels(number: int) -> int:
        client.control.cancel(sql("SELECT id::text FROM executions")[0][0])
        return number

    monkeypatch.setattr(shop, "on_count", cancels)
    execution = run(client, workers, shop.counted, each(1, 2))

    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert sql("SELECT * FROM node_parts") == []


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ("{{ 5 }}", "calls: must be a list, not 5"),
        ([1], "calls[0]: must be {args, kwargs}, not 1"),
        ([{"args": 1}], "calls[0]: `args` must be a list"),
        ([{}, {"arg": []}], "calls[1]: must be {args, kwargs}"),
    ],
)
def test_calls_that_are_none_fail_the_node_with_their_path(
    client: WorkflowClient, workers: Workers, calls: Any, message: str
) -> None:
    execution = client.get(run(client, workers, shop.echo, calls))

    assert execution.status is ExecutionStatus.FAILED
    assert str(execution.error).startswith(message)


# -- in a loop that finds out itself how many a child gets -------------------------------------------------


def batches(items: Any, **config: Any) -> dict[str, Any]:
    body = {
        "nodes": [
            {
                "id": "run",
                "type": "action",
                "subType": "celery-task",
                "config": {"task": "shop.counted", "calls": "{{ item }}"},
            }
        ]
    }
    return loop("all", items=items, body=body, batch="auto", **config)


def test_a_child_gets_as_many_items_as_take_a_fraction_of_a_second(
    client: WorkflowClient, workers: Workers
) -> None:
    items = each(*range(200))
    client.deploy(line("parent", batches(items, concurrency=4)))
    execution = client.start("parent").id
    workers.drain()

    assert client.get(execution).result == list(range(200))
    assert len(shop.calls) == 200
    children = client.children(execution, limit=500)
    assert 8 <= len(children) < 100
    row = next(row for row in client.journal(execution) if row.wait is not None)
    assert row.wait.children == len(children)


def test_slow_items_have_a_child_each(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(number: int) -> int:
        return int(shop.nap.run(0.3)) + number

    monkeypatch.setattr(shop, "on_count", slow)
    client.deploy(line("parent", batches(each(*range(5)), concurrency=1)))
    execution = client.start("parent").id
    workers.drain()

    assert client.get(execution).result == list(range(5))
    assert len(client.children(execution)) == 5


def test_a_retry_of_a_loop_goes_on_with_the_call_that_failed(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(number: int) -> int:
        if number == 33 and shop.calls.count(("counted", 33)) == 1:
            raise shop.Declined("not this one")
        return number

    monkeypatch.setattr(shop, "on_count", picky)
    client.deploy(line("parent", batches(each(*range(60)), concurrency=2)))
    execution = client.start("parent").id
    workers.drain()
    failed = client.get(execution)
    assert (failed.status, failed.error_details["type"]) == (ExecutionStatus.FAILED, "CHILD_FAILED")

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).result == list(range(60))
    assert sorted(number for _, number in shop.calls) == sorted([*range(60), 33])


def test_a_number_of_tolerated_children_needs_a_known_number_of_children(client: WorkflowClient) -> None:
    with pytest.raises(Exception, match="`tolerate` counts children"):
        client.deploy(line("parent", batches([], tolerate=3)))


def test_ten_thousand_members_keep_their_order(
    client: WorkflowClient, engine: Engine, broker: Broker
) -> None:
    """A message stays short, and the children are few."""

    broker: Broker = engine.dispatcher  # type: ignore[assignment]
    workers = Workers(broker, engine)
    header = [shop.counted.s(number) for number in range(10_000)]
    execution = durable(chord(header, shop.same.s()), client=client).start()
    longest = 0
    while broker.queue:
        longest = max(longest, len(orjson.dumps(task_body(broker.queue[0].message))))
        workers.hop()

    assert client.get(execution.id).result == list(range(10_000))
    assert len(shop.calls) == 10_000
    assert longest < 1_000
