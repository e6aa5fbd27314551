"""A message that meets the lock of a worker that has just committed is not forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis.keys import Keys


def works() -> int:
    return 1


def last() -> int:
    return 2


def as_it_leaves(
    monkeypatch: pytest.MonkeyPatch, worker: Engine, how: str, happens: Callable[[], Any]
) -> list[bool]:
    """Run an action after a worker has committed a node and before it unlocks the execution."""
    leave, happened = getattr(worker.cache, how), []

    def late(*arguments: Any, **options: Any) -> Any:
        if not happened:
            happened.append(True)
            happens()
        return leave(*arguments, **options)

    monkeypatch.setattr(worker.cache, how, late)
    return happened


def test_an_execution_resumed_while_the_worker_that_met_the_pause_is_leaving_goes_on(
    client: WorkflowClient,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pauses() -> None:
        client.control.pause(execution_id)

    client.deploy(line(pauses, last))
    execution_id = client.start("line").id
    happened = as_it_leaves(
        monkeypatch, second_engine, "discard", lambda: client.control.resume(execution_id)
    )

    second_engine.executor.continue_execution(broker.take())
    workers.drain()

    assert happened
    assert client.get(execution_id).status is ExecutionStatus.COMPLETED


def test_a_node_that_is_woken_while_a_worker_is_leaving_goes_on(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = WorkflowBuilder("beside")
    begin = flow.trigger("begin")
    begin >> flow.wait_events("hear", ["paid"])
    begin >> calling(flow, works)
    client.deploy(flow.build())
    execution_id = client.start("beside").id
    engine.executor.continue_execution(broker.take())
    assert [message.node_id for message in broker.messages] == ["works"]

    def is_woken() -> None:
        client.send_event(execution_id=execution_id, name="paid")
        engine.executor.continue_execution(broker.take())

    message = broker.take()
    happened = as_it_leaves(monkeypatch, second_engine, "update_context", is_woken)
    second_engine.executor.continue_execution(message)
    workers.drain()

    assert happened
    assert client.get(execution_id).status is ExecutionStatus.COMPLETED


def test_a_late_message_that_meets_a_lock_leaves_nothing_in_redis(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    redis_client: redis.Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.deploy(line(works, last))
    execution_id = client.start("line").id
    message = broker.take()
    held = second_engine.locks.acquire_lock(execution_id)
    assert held is not None
    mark_contended = engine.locks.mark_contended

    def mark_too_late(execution_id: str, place: str) -> None:
        second_engine.locks.release_lock(held)
        second_engine.executor.continue_execution(message)
        mark_contended(execution_id, place)

    monkeypatch.setattr(engine.locks, "mark_contended", mark_too_late)
    engine.executor.continue_execution(message)

    assert {each.node_id for each in broker.messages} == {"last"}
    assert not redis_client.exists(Keys.of(settings).contended(execution_id))
