"""Whoever meets the lock of an execution held by a worker that has committed already is not forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from fleet_in_process import Broker, Workers, calling, line

from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine import Engine


def works() -> int:
    return 1


def last() -> int:
    return 2


def as_it_leaves(
    monkeypatch: pytest.MonkeyPatch, worker: Engine, how: str, happens: Callable[[], Any]
) -> list[bool]:
    """Let something happen while a worker has committed a node and not yet unlocked its execution."""
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
        client.pause(execution_id)

    client.deploy(line(pauses, last))
    execution_id = client.start("line").id
    happened = as_it_leaves(monkeypatch, second_engine, "discard", lambda: client.resume(execution_id))

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


def test_whoever_has_met_a_lock_in_vain_with_a_late_message_leaves_nothing_in_redis(
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
    knock = engine.cache.knock

    def knock_too_late(execution_id: str) -> None:
        second_engine.locks.release_lock(held)
        second_engine.executor.continue_execution(message)
        knock(execution_id)

    monkeypatch.setattr(engine.cache, "knock", knock_too_late)
    engine.executor.continue_execution(message)

    assert {each.node_id for each in broker.messages} == {"last"}
    assert not redis_client.exists(settings.knock_key(execution_id))
