"""What the engine logs about an execution names it in fields, and the node and its place in the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import BrokerUnavailable, CacheUnavailable, DatabaseUnavailable
from workflow_engine.execution.records import CommitResult, NodeCommit
from workflow_engine.maintenance.recovery import LostNode, Recovery
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.outages import outages
from workflow_engine.telemetry.log_events import current_log_context

Logged = Callable[[], list[dict[str, Any]]]
FIELDS = (
    "event", "execution_id", "workflow", "node_id", "seq",
    "service", "error_type", "needs", "operation", "task_id", "times_lost", "idle_seconds",
)  # fmt: skip

during: dict[str, Callable[[], object]] = {}
"""The actions, each while the node of its name runs."""


def first() -> object:
    return during.get("first", lambda: None)()


def second() -> object:
    return during.get("second", lambda: None)()


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    during.clear()
    outages.reset()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Return a function that returns the fields of the lines logged since its last call."""
    caplog.set_level(logging.INFO, "workflow_engine")

    def fields() -> list[dict[str, Any]]:
        own = [vars(record) for record in caplog.records if record.name.startswith("workflow_engine")]
        caplog.clear()
        return [{name: line[name] for name in FIELDS if name in line} for line in own]

    return fields


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return an execution of two nodes, just started."""
    client.deploy(line(first, second))
    return client.start("line").id


def about(execution: str, event: str, node_id: str, seq: int, **more: object) -> dict[str, object]:
    ids = {"execution_id": execution, "workflow": "line", "node_id": node_id, "seq": seq}
    return {"event": event, **ids, **more}


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_dropped_message(engine: Engine, workers: Workers, execution: str, logged: Logged) -> None:
    late = workers.hop()

    engine.executor.continue_execution(late)

    assert logged() == [about(execution, "message_dropped", "first", 1)]


def test_a_refused_result(engine: Engine, workers: Workers, execution: str, logged: Logged) -> None:
    during["second"] = lambda: engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

    workers.drain()

    assert logged() == [about(execution, "commit_refused", "second", 2)]


def test_a_refused_result_of_a_later_node_of_an_inline_run(
    client: WorkflowClient, engine: Engine, workers: Workers, logged: Logged
) -> None:
    client.deploy(line(first, second, settings={"hops": "inline"}))
    execution = client.start("line").id
    during["second"] = lambda: engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

    workers.hop()

    assert logged() == [about(execution, "commit_refused", "second", 2)]


@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_what_a_node_s_own_code_logs(client: WorkflowClient, workers: Workers, hops: str) -> None:
    seen: list[dict[str, object]] = []
    for name in ("first", "second"):
        during[name] = lambda: seen.append(dict(current_log_context()))
    client.deploy(line(first, second, settings={"hops": hops}))
    execution = client.start("line").id

    workers.drain()

    ids = {"execution_id": execution, "workflow": "line"}
    assert seen == [{**ids, "node_id": "first", "seq": 1}, {**ids, "node_id": "second", "seq": 2}]
    assert current_log_context() == {}


def test_an_outage_that_a_commit_meets(
    engine: Engine, workers: Workers, execution: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = engine.state.update_execution
    attempts = iter([raising(DatabaseUnavailable("Postgres is away"))])

    def fail_once(node: NodeCommit) -> CommitResult:
        return next(attempts, commit)(node)

    monkeypatch.setattr(engine.state, "update_execution", fail_once)

    workers.hop()

    [began, *_] = logged()
    assert began == about(
        execution, "outage_began", "first", 1, service="postgres", error_type="DatabaseUnavailable"
    )


def test_a_message_that_the_broker_does_not_take(
    engine: Engine, broker: Broker, execution: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = broker.take()
    monkeypatch.setattr(engine.dispatcher, "publish", raising(BrokerUnavailable("the broker is away")))
    monkeypatch.setattr("workflow_engine.engine.steps.departure.PUBLISH_TIMEOUT", 0)

    engine.executor.continue_execution(message)

    [began] = logged()
    assert began == about(
        execution, "outage_began", "first", 1, service="broker", error_type="BrokerUnavailable"
    )


def test_a_node_whose_code_is_missing(
    client: WorkflowClient, engine: Engine, broker: Broker, logged: Logged
) -> None:
    needs = "test.logged_as_missing"
    flow = WorkflowBuilder("line")
    flow.trigger("start") >> flow.python("first", needs)
    engine.deployments.deploy(flow.build())
    execution = client.start("line").id

    engine.executor.continue_execution(broker.take())

    assert logged() == [about(execution, "code_missing", "first", 1, needs=needs)]


def test_a_lost_process(engine: Engine, broker: Broker, execution: str, logged: Logged) -> None:
    Timekeeping(engine).recover(LostNode(broker.take(), "4e5f", "signal 9 (SIGKILL)"))

    assert logged() == [about(execution, "process_lost", "first", 1, task_id="4e5f", times_lost=1)]


def test_a_lost_process_whose_execution_cannot_be_recovered(
    engine: Engine, broker: Broker, execution: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recovery, "process_lost", raising(CacheUnavailable("Redis is away")))

    Timekeeping(engine).recover(LostNode(broker.take(), "4e5f", "signal 9 (SIGKILL)"))

    assert logged() == [about(execution, "recovery_failed", "first", 1, error_type="CacheUnavailable")]


def test_an_execution_that_is_rescued(
    engine: Engine, broker: Broker, execution: str, logged: Logged, sql: Callable[..., Any]
) -> None:
    broker.queue.clear()
    sql("UPDATE executions SET updated_at = updated_at - interval '31 seconds'")

    let_redis_remember(engine.settings)
    rescue(engine)

    [rescued] = logged()
    assert rescued.pop("idle_seconds") >= 31
    assert rescued == {"event": "execution_rescued", "execution_id": execution, "workflow": "line"}


def test_a_move_that_reaches_no_worker(
    client: WorkflowClient, engine: Engine, execution: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.cache, "remove_from_cache", raising(CacheUnavailable("Redis is away")))

    client.control.cancel(execution)

    assert logged() == [
        {
            "event": "move_not_announced",
            "execution_id": execution,
            "operation": "cancel",
            "error_type": "CacheUnavailable",
        }
    ]
