"""What the Celery task makes of a hop that did not succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from celery.exceptions import Reject
from fleet_in_process import Broker, line

from workers import tasks
from workflow_engine import WorkflowClient
from workflow_engine.dispatch import HopMessage
from workflow_engine.engine import Engine
from workflow_engine.errors import CacheUnavailable, GivenBack


@pytest.fixture
def message(client: WorkflowClient, broker: Broker) -> HopMessage:
    """The message for the first node of an execution."""

    def only() -> int:
        return 1

    client.deploy(line(only))
    client.start("line")
    return broker.take()


@pytest.fixture
def deliver(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[HopMessage], Any]:
    """Calls the task as a pool process does, without waiting where it would."""
    monkeypatch.setattr(tasks, "worker_engine", lambda app: engine)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: None)
    return lambda message: tasks.run_node(**asdict(message))


def failing(times: int, error: Exception, then: Callable[..., Any]) -> Callable[..., Any]:
    """A hop that fails so often before it is what it was."""
    failures = iter([error] * times)

    def hop(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return then(*arguments)

    return hop


def given_back_for(cause: Exception | None) -> GivenBack:
    reason = GivenBack("not now")
    reason.__cause__ = cause
    return reason


def test_a_short_outage_is_waited_for_with_the_message_in_hand(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    client: WorkflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outage = given_back_for(CacheUnavailable("Redis is away"))
    hop = failing(3, outage, engine.executor.continue_execution)
    monkeypatch.setattr(engine.executor, "continue_execution", hop)

    deliver(message)

    assert client.get(message.execution_id).result == 1


@pytest.mark.parametrize("cause", [CacheUnavailable("Redis is away"), None], ids=["outage", "other reason"])
def test_what_cannot_be_served_is_put_back_into_the_queue(
    cause: Exception | None,
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "OUTAGE_PATIENCE", 0)
    hop = failing(1, given_back_for(cause), engine.executor.continue_execution)
    monkeypatch.setattr(engine.executor, "continue_execution", hop)

    with pytest.raises(Reject) as rejection:
        deliver(message)

    assert rejection.value.requeue


def test_a_mistake_of_the_engine_counts_as_a_loss_and_keeps_its_error(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    sql: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine.executor, "continue_execution", failing(2, KeyError("walk"), print))

    for _ in range(2):
        with pytest.raises(KeyError) as mistake:
            deliver(message)

    assert message.execution_id in mistake.value.__notes__[-1]
    assert sql("SELECT losses, losses_seq FROM executions") == [(2, message.seq)]
