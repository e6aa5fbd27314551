"""What one hop costs, counted on the wires to Postgres, to Redis and to the broker."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from wire import Traffic, Wire, read_postgres_messages, read_redis_commands

from workflow_engine import Settings, Workflow, WorkflowBuilder, WorkflowClient
from workflow_engine.dispatch import HopMessage
from workflow_engine.engine import Engine


@dataclass
class Wires:
    postgres: Wire
    redis: Wire
    broker: Wire


@dataclass
class Cost:
    """What one hop sent over each wire."""

    postgres: Traffic
    redis: Traffic
    broker: Traffic
    envelope: bytes
    """The message that went to the broker, as it stands in the queue."""


@pytest.fixture
def wires(settings: Settings) -> Iterator[Wires]:
    database_url = settings.database_url.replace("+psycopg2", "")
    wires = Wires(
        Wire(database_url, read_postgres_messages),
        Wire(settings.redis_url, read_redis_commands),
        Wire(settings.redis_url, read_redis_commands),
    )
    yield wires
    for wire in (wires.postgres, wires.redis, wires.broker):
        wire.close()


@pytest.fixture
def engine(settings: Settings, wires: Wires) -> Iterator[Engine]:
    """A worker that reaches each server over a wire, and publishes with Celery."""
    engine = Engine.assemble(
        settings.model_copy(
            update={
                "database_url": wires.postgres.url.replace("postgresql:", "postgresql+psycopg2:"),
                "redis_url": wires.redis.url,
                "broker_url": wires.broker.url,
            }
        )
    )
    yield engine
    engine.state.engine.dispose()


class Hops:
    """Takes the messages from the broker's queue and serves them."""

    def __init__(self, engine: Engine, broker: redis.Redis, wires: Wires) -> None:
        self._engine = engine
        self._broker = broker
        self._wires = wires

    def run(self, count: int) -> None:
        for _ in range(count):
            self._engine.executor.continue_execution(self._next_message())

    def measured(self) -> Cost:
        message = self._next_message()
        wires = self._wires
        with (
            wires.postgres.recorded() as postgres,
            wires.redis.recorded() as cache,
            wires.broker.recorded() as broker,
        ):
            self._engine.executor.continue_execution(message)
        return Cost(postgres, cache, broker, self._broker.lindex(self._queue(), 0))

    def _next_message(self) -> HopMessage:
        envelope = json.loads(self._broker.rpop(self._queue()))
        _, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
        return HopMessage(**kwargs)

    def _queue(self) -> bytes:
        (queue,) = (key for key in self._broker.scan_iter() if self._broker.type(key) == b"list")
        return queue


@pytest.fixture
def hops(engine: Engine, redis_client: redis.Redis, wires: Wires) -> Hops:
    return Hops(engine, redis_client, wires)


def sequence(nodes: int, output: int) -> Workflow:
    """Nodes in a row with outputs of `output` bytes, of which each reads the one before."""
    flow = WorkflowBuilder("sequence")
    last = flow.trigger("start")
    for number in range(nodes):
        expression = {"text": "x" * output, "before": f"{{{{ {last.id} is defined }}}}"}
        last = last >> flow.function(f"node{number}", expression)
    return flow.build()


@pytest.mark.parametrize("output", [10, 100_000], ids="outputs of {} bytes".format)
@pytest.mark.parametrize("nodes", [10, 1000], ids="{} nodes".format)
def test_a_hop_is_two_calls_of_redis_one_round_trip_of_postgres_and_one_publish(
    engine: Engine, hops: Hops, nodes: int, output: int
) -> None:
    client = WorkflowClient(engine=engine)
    client.deploy(sequence(nodes, output))
    client.start("sequence", {"orderId": 1})
    hops.run(nodes - 2)

    cost = hops.measured()

    assert cost.redis.names == ["EVALSHA", "EVALSHA"]
    assert cost.redis.round_trips == 2
    assert [request[:1] for request in cost.postgres.requests] == [b"Q"]
    assert cost.postgres.round_trips == 1
    assert cost.broker.names == ["LPUSH"]
    assert cost.broker.round_trips == 1


def test_x(engine, hops):
    client = WorkflowClient(engine=engine)
    client.deploy(sequence(10, 10))
    client.start("sequence", {"orderId": 1})
    hops.run(3)
    cost = hops.measured()
    print(cost)
    print(len(cost.envelope))
