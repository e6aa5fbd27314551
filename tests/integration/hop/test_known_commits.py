"""Nodes that run at the same time in one process tell each other what they have committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from support.broker import Broker, Workers
from support.statements import Sent, recorded_statements
from support.workflows import calling
from workflow_engine import ExecutionStatus, Workflow, WorkflowBuilder, WorkflowClient, success
from workflow_engine.engine.assembly import Engine

Serve = Callable[[], None]


def fan_out(*branches: Callable[..., Any]) -> Workflow:
    """Return a workflow whose branches run at the same time, and a merge of all of them."""
    flow = WorkflowBuilder("fan", settings={"concurrency": len(branches)})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for branch in branches:
        start >> calling(flow, branch) >> merge
    return flow.build()


@pytest.fixture
def serve(engine: Engine, broker: Broker) -> Serve:
    """Return a function that serves the next message in this process, while a node of it runs."""
    return lambda: void(engine.executor.continue_execution(broker.take()))


@pytest.fixture
def serve_elsewhere(second_engine: Engine, broker: Broker) -> Serve:
    """Return a function that has another process serve the next message."""
    return lambda: void(second_engine.executor.continue_execution(broker.take()))


def void(_: object) -> None: ...


def b() -> Any:
    return success("b", variables={"by_b": 1, "last": "b"})


def c() -> Any:
    return success("c", variables={"by_c": 2, "last": "c"})


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    return recorded_statements(monkeypatch)


def commits_in(statements: list[Sent]) -> dict[str, dict[str, Any]]:
    """Return the document of the last commit of each node."""
    documents = [each.parameters for each in statements if "commit_node" in each.statement]
    found = [orjson.loads(next(iter(each.values()))) for each in documents]
    flat = [one for each in found for one in (each if isinstance(each, list) else [each])]
    return {document["node_id"]: document for document in flat}


def test_a_node_commits_on_top_of_what_its_process_has_committed_since_it_began(
    client: WorkflowClient, workers: Workers, serve: Serve, statements: list[Sent]
) -> None:
    def outer() -> Any:
        serve()
        serve()
        return success("outer", variables={"by_outer": 3})

    client.deploy(fan_out(outer, b, c))
    execution = client.start("fan").id
    workers.drain()

    assert commits_in(statements)["outer"]["shared_since"] == 3, "the trigger, b and c"
    assert client.get(execution).result == {"outer": "outer", "b": "b", "c": "c"}
    assert [row.node_id for row in client.journal(execution)] == ["start", "b", "c", "outer", "joined"]
    assert client.context(execution).variables == {"by_b": 1, "by_c": 2, "by_outer": 3, "last": "c"}


def test_commits_of_another_process_in_between_are_asked_for(
    client: WorkflowClient, workers: Workers, serve: Serve, serve_elsewhere: Serve, statements: list[Sent]
) -> None:
    def outer() -> str:
        serve_elsewhere()
        serve()
        return "outer"

    client.deploy(fan_out(outer, b, c))
    execution = client.start("fan").id
    workers.drain()

    assert commits_in(statements)["outer"]["shared_since"] == 1
    assert client.get(execution).result == {"outer": "outer", "b": "b", "c": "c"}
    assert client.context(execution).variables == {"by_b": 1, "by_c": 2, "last": "c"}


def test_commits_since_a_retry_do_not_make_a_result_from_before_it_count(
    client: WorkflowClient, workers: Workers, serve: Serve
) -> None:
    runs: list[str] = []
    started: list[str] = []

    def outer() -> str:
        runs.append("outer")
        if len(runs) == 1:
            serve()  # fails, which ends the execution
            client.control.retry(started[0])
            while len(runs) < 3:
                serve()
        return f"run {runs.count('outer')}"

    def fails_once() -> str:
        runs.append("fails_once")
        if runs.count("fails_once") == 1:
            raise ValueError("once")
        return "recovered"

    client.deploy(fan_out(outer, fails_once))
    started.append(client.start("fan").id)
    workers.drain()

    found = client.get(started[0])
    assert found.status is ExecutionStatus.COMPLETED
    assert runs.count("outer") == 2, "the first one ended after the execution had been reopened"
    assert found.result == {"outer": "run 2", "fails_once": "recovered"}
