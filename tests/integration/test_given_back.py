"""What is not the fault of a node gives its message back: code that is not here, a server that is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from fleet_in_process import Broker, line

from workflow_engine import ExecutionContext, ExecutionStatus, Settings, WorkflowClient, node
from workflow_engine.definition import Edge, Node, Workflow
from workflow_engine.engine import Engine
from workflow_engine.errors import DatabaseUnavailable, GivenBack

UNKNOWN = "test.not_deployed_here"


@pytest.fixture(params=["function", "node type"])
def unknown_code(request: pytest.FixtureRequest, engine: Engine, client: WorkflowClient) -> str:
    """The id of an execution whose node needs code that this worker does not have."""
    missing = (
        Node(id="missing", type="action", sub_type="python", config={"function": UNKNOWN})
        if request.param == "function"
        else Node(id="missing", type="action", sub_type=UNKNOWN)
    )
    start = Node(id="start", type="trigger", sub_type="manual")
    workflow = Workflow(id="newer", nodes=(start, missing), edges=(Edge(source="start", target="missing"),))
    engine.deployments.deploy(workflow)
    return client.start("newer").id


def test_a_node_whose_code_is_not_here_waits_for_a_newer_worker(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    unknown_code: str,
    redis_client: redis.Redis,
    settings: Settings,
) -> None:
    message = broker.take()
    for _ in range(2):
        with pytest.raises(GivenBack, match="node 'missing' waits for a newer worker"):
            engine.executor.continue_execution(message)

    assert client.get(unknown_code).status is ExecutionStatus.PENDING
    assert not engine.locks.is_locked(unknown_code)
    assert not redis_client.hexists(settings.context_key(unknown_code), "mark")


def test_a_node_whose_code_never_comes_fails(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, unknown_code: str
) -> None:
    out_of_patience = new_engine(unknown_type_patience=0)

    out_of_patience.executor.continue_execution(broker.take())

    failed = client.get(unknown_code)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error_details == {"nodeId": "missing", "type": "UNKNOWN_NODE_TYPE"}
    assert failed.error is not None
    assert "not_deployed_here" in failed.error


def test_a_node_that_waited_for_newer_code_runs_once_it_is_there(
    client: WorkflowClient, new_engine: Callable[..., Engine], engine: Engine, broker: Broker
) -> None:
    missing = Node(id="missing", type="action", sub_type="python", config={"function": "test.arrives_later"})
    start = Node(id="start", type="trigger", sub_type="manual")
    engine.deployments.deploy(
        Workflow(id="newer", nodes=(start, missing), edges=(Edge(source="start", target="missing"),))
    )
    execution = client.start("newer").id
    message = broker.take()
    with pytest.raises(GivenBack):
        engine.executor.continue_execution(message)

    @node("test.arrives_later")
    def arrives_later() -> str:
        return "here"

    new_engine().executor.continue_execution(message)
    assert client.get(execution).result == "here"


def test_an_output_that_cannot_be_fetched_is_not_the_nodes_failure(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def quiet() -> str:
        return "said"

    def reads(context: ExecutionContext) -> str:
        redis_client.flushdb()
        return str(context.node_outputs["quiet"])

    client.deploy(line(quiet, reads))
    execution = client.start("line").id
    engine.executor.continue_execution(broker.take())
    message = broker.take()

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("Postgres is away")

    with monkeypatch.context() as outage:
        outage.setattr(engine.state, "load_output", away)
        with pytest.raises(GivenBack, match="Postgres is away"):
            engine.executor.continue_execution(message)

    engine.executor.continue_execution(message)
    assert client.get(execution).result == "said"
