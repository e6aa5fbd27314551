"""What children cost: calls to Postgres and messages, the same for each however many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.parents import body, function, line, loop
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.postgres.database import Database

Sql = Callable[..., Any]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements that the engine sends from now on."""
    sent: list[str] = []
    rows = Database.rows

    def counted(self: Database, statement: str, **parameters: Any) -> Any:
        sent.append(statement)
        return rows(self, statement, **parameters)

    monkeypatch.setattr(Database, "rows", counted)
    return sent


def test_a_child_of_one_node_costs_two_calls_to_postgres_and_one_message(
    client: WorkflowClient, workers: Workers, calls: list[str]
) -> None:
    items = "{{ range(start.n) | list }}"
    client.deploy(
        line("parent", loop("each", items=items, concurrency=4, body=body(function("one", "{{ 1 }}"))))
    )
    client.start("parent", {"n": 2})
    workers.drain()

    costs, messages = [], []
    for count in (10, 30):
        execution = client.start("parent", {"n": count}).id
        calls.clear()
        messages.append(workers.drain())
        costs.append(len(calls))
        assert client.get(execution).status is ExecutionStatus.COMPLETED

    assert costs[1] - costs[0] == 2 * 20, (
        "its context is built, and its only node ends it and starts the next"
    )
    assert messages == [10 + 2, 30 + 2]


def test_a_batch_divides_what_its_items_cost(
    client: WorkflowClient, workers: Workers, calls: list[str]
) -> None:
    batched = loop("each", items=list(range(100)), batch=50, body=body(function("one", "{{ item }}")))
    client.deploy(line("parent", batched))
    execution = client.start("parent").id

    assert workers.drain() == 2 + 2
    assert client.get(execution).result == list(range(100))


def test_no_more_messages_of_a_loop_are_queued_than_it_may_run(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    wide = loop(
        "each", items="{{ range(10000) | list }}", concurrency=5, body=body(function("one", "{{ 1 }}"))
    )
    client.deploy(line("wide", wide))
    client.deploy(line("small", function("one", "{{ 1 }}")))
    client.start("wide")
    most = 0
    for _ in range(30):
        workers.hop()
        most = max(most, len(workers.broker.queue))

    small = client.start("small").id
    hops = 0
    while client.get(small).status is not ExecutionStatus.COMPLETED:
        workers.hop()
        hops += 1

    assert most == 5
    assert hops <= 5 + 1
