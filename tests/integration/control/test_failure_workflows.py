"""`onFailure` starts another workflow once for each failed execution, in the transaction of its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import ExecutionStatus, Workflow, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

Sql = Callable[..., list[tuple[Any, ...]]]


def declines() -> None:
    raise ValueError("no money")


def nap() -> Any:
    return waiting(seconds=3600)


def failing(
    *steps: Callable[..., Any],
    id: str = "payment",
    on_failure: dict[str, Any] | None = None,
    **frame: Any,
) -> Workflow:
    flow = WorkflowBuilder(id, on_failure=on_failure or {"workflow": "alert"}, **frame)
    last = flow.trigger("paid")
    for step in steps or (declines,):
        last = last >> calling(flow, step)
    return flow.build()


def alert(id: str = "alert", **trigger: Any) -> Workflow:
    flow = WorkflowBuilder(id)
    flow.trigger("raised", **trigger) >> flow.function("text", "{{ _trigger }}")
    return flow.build()


def handlers(client: WorkflowClient, workflow: str = "alert") -> list[Any]:
    return [client.get(each.id) for each in client.list(workflow)]


def test_a_failed_execution_starts_the_workflow_with_what_has_failed(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(alert())
    client.deploy(failing())
    failed = client.start("payment").id

    workers.drain()

    assert client.get(failed).status is ExecutionStatus.FAILED
    (handler,) = handlers(client)
    assert handler.status is ExecutionStatus.COMPLETED
    assert handler.result == {
        "execution": {"id": failed, "workflowId": "payment", "version": 1},
        "node": {"id": "declines", "type": "action", "subType": "python"},
        "error": {"type": "ValueError", "message": "no money", "attempt": 1, "details": {}},
    }
    (event,) = client.control.audit(failed)
    assert (event.type, event.reason) == ("ON_FAILURE_STARTED", f"execution {handler.id}")


def test_its_data_reads_the_failure_the_trigger_and_variables(
    client: WorkflowClient, workers: Workers
) -> None:
    data = {"text": "{{ _trigger.order }} {{ currency }}: {{ _failure.error.message }}", "paid": "{{ paid }}"}
    client.deploy(alert())
    client.deploy(failing(on_failure={"workflow": "alert", "data": data}, variables={"currency": "EUR"}))
    client.start("payment", {"order": 7})

    workers.drain()

    assert [each.result for each in handlers(client)] == [{"text": "7 EUR: no money", "paid": {"order": 7}}]


def test_an_end_that_is_repeated_because_its_reply_was_lost_starts_it_once(
    client: WorkflowClient, workers: Workers, engine: Engine, second_engine: Engine
) -> None:
    client.deploy(alert())
    client.deploy(failing())
    failed = client.start("payment").id
    for each in (engine, second_engine):
        commit = each.state.update_execution
        each.state.update_execution = lambda given, commit=commit: (commit(given), commit(given))[1]  # type: ignore[method-assign]

    workers.drain()

    assert client.get(failed).status is ExecutionStatus.FAILED
    assert len(handlers(client)) == 1


def test_it_is_started_although_its_message_is_lost(
    client: WorkflowClient, workers: Workers, broker: Broker, engine: Engine
) -> None:
    client.deploy(alert())
    client.deploy(failing())
    client.start("payment")
    workers.hop()
    broker.queue.clear()

    (handler,) = handlers(client)
    assert handler.status is ExecutionStatus.PENDING
    engine.executor.resume_execution(handler.id)
    workers.drain()

    assert client.get(handler.id).status is ExecutionStatus.COMPLETED


def test_an_execution_past_its_timeout_starts_it_as_well(
    client: WorkflowClient, workers: Workers, engine: Engine, sql: Sql
) -> None:
    client.deploy(alert())
    client.deploy(failing(nap, settings={"timeout": 60}))
    failed = client.start("payment").id
    workers.drain()
    sql("UPDATE executions SET expires_at = now() - interval '1 second' WHERE id = %s", failed)

    timekeeping = Timekeeping(engine)
    timekeeping.round()
    timekeeping.round()
    workers.drain()

    assert client.get(failed).status is ExecutionStatus.FAILED
    (handler,) = handlers(client)
    assert handler.result["node"] is None
    assert handler.result["error"]["type"] == "EXECUTION_TIMEOUT"


def test_each_failure_after_a_retry_starts_it_again_and_a_cancel_does_not(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(alert())
    client.deploy(failing())
    failed = client.start("payment").id
    workers.drain()
    client.control.retry(failed)
    workers.drain()
    client.control.cancel(client.start("payment").id)
    workers.drain()

    assert len(handlers(client)) == 2


def test_there_are_no_chains(client: WorkflowClient, workers: Workers) -> None:
    """Two that handle each other, and one that starts the other as a child."""
    client.deploy(failing(id="first", on_failure={"workflow": "second"}))
    flow = WorkflowBuilder("second", on_failure={"workflow": "first"})
    flow.trigger("raised") >> flow.sub_workflow("again", "first")
    client.deploy(flow.build())
    client.start("first")

    workers.drain()

    (second,) = handlers(client, "second")
    assert second.status is ExecutionStatus.FAILED
    assert len(client.list("first")) == 1  # children are listed under their parents
    assert len(client.children(second.id)) == 1


@pytest.mark.parametrize(
    ("on_failure", "reason"),
    [
        ({"workflow": "nothing"}, "nothing"),
        ({"workflow": "alert", "data": {}}, "text"),
        ({"workflow": "alert", "data": {"text": "{{ _trigger.missing }}"}}, "missing"),
    ],
)
def test_what_cannot_start_is_said_in_the_history_and_the_execution_fails_all_the_same(
    client: WorkflowClient, workers: Workers, on_failure: dict[str, Any], reason: str
) -> None:
    client.deploy(alert(schema={"type": "object", "required": ["text"]}))
    client.deploy(failing(on_failure=on_failure))
    failed = client.start("payment").id

    workers.drain()

    assert client.get(failed).status is ExecutionStatus.FAILED
    (event,) = client.control.audit(failed)
    assert event.type == "ON_FAILURE_REFUSED"
    assert reason in (event.reason or "")
    assert handlers(client) == []


def test_a_child_that_fails_starts_that_of_its_own_workflow_and_its_parent_goes_on(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(alert())
    client.deploy(failing())
    flow = WorkflowBuilder("parent")
    flow.trigger("start") >> flow.sub_workflow("pay", "payment", on_error="continue")
    client.deploy(flow.build())
    parent = client.start("parent").id

    workers.drain()

    assert client.get(parent).status is ExecutionStatus.COMPLETED
    assert len(handlers(client)) == 1
