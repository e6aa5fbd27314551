"""A server that is away is not the fault of a node: its message is requeued."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from support.broker import Broker
from support.workflows import line
from workflow_engine import ExecutionContext, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable, Requeue


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
        with pytest.raises(Requeue, match="Postgres is away"):
            engine.executor.continue_execution(message)

    engine.executor.continue_execution(message)
    assert client.get(execution).result == "said"
