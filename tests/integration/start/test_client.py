"""Producers start executions, follow them and read what they did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import (
    ExecutionNotFound,
    ExecutionStatus,
    IdempotencyConflict,
    IllegalMove,
    InvalidValue,
    NodeStatus,
    TriggerDataInvalid,
    WaitTimeout,
    WorkflowBuilder,
    WorkflowClient,
    WorkflowNotFound,
    success,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import NotFound
from workflow_engine.execution.states import Operation

NOBODY = "01890000-0000-7000-8000-000000000001"


@pytest.fixture
def orders(client: WorkflowClient) -> str:
    """Return the id of a workflow with one node, which returns everything that it was started with."""
    flow = WorkflowBuilder("orders", variables={"currency": "EUR", "country": "DE"})
    seen = {"data": "{{ _trigger }}", "currency": "{{ currency }}", "note": "{{ note | default('none') }}"}
    flow.trigger("placed") >> flow.function("seen", seen)
    client.deploy(flow.build())
    return "orders"


# -- start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [{"orderId": 42}, [1, 2], "text", 0, False, None, {"deep": [{"a": None}]}], ids=str
)
def test_an_execution_starts_with_any_json(
    client: WorkflowClient, workers: Workers, orders: str, data: Any
) -> None:
    execution = client.start(orders, data).id
    workers.drain()

    assert client.get(execution).result["data"] == data


def test_an_execution_starts_with_an_empty_object_if_nothing_is_given(
    client: WorkflowClient, workers: Workers, orders: str
) -> None:
    execution = client.start(orders).id
    workers.drain()

    assert client.get(execution).result["data"] == {}


def test_null_is_data_that_a_schema_may_ask_for(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("nothing")
    flow.trigger("placed", schema={"type": "null"}) >> flow.function("seen", "{{ placed is none }}")
    client.deploy(flow.build())

    execution = client.start("nothing", None).id
    workers.drain()

    assert client.get(execution).result is True
    with pytest.raises(TriggerDataInvalid):
        client.start("nothing")


@pytest.mark.parametrize("node_id", ["1st", "3fa85f64-5717-4562-b3fc-2c963f66afa6", "7"])
def test_a_node_id_may_begin_with_a_digit(client: WorkflowClient, workers: Workers, node_id: str) -> None:
    flow = WorkflowBuilder("digits")
    first = flow.trigger("start") >> flow.function(node_id, {"a": 1})
    first >> flow.function("after", f"{{{{ _nodeOutputs['{node_id}'].a }}}}")
    client.deploy(flow.build())
    execution = client.start("digits").id
    workers.drain()

    assert client.get(execution).result == 1
    assert client.context(execution).node_outputs[node_id] == {"a": 1}


def test_variables_of_a_start_override_those_of_the_workflow_and_add_to_them(
    client: WorkflowClient, workers: Workers, orders: str
) -> None:
    execution = client.start(orders, variables={"currency": "CHF", "note": "fragile"}).id
    workers.drain()

    assert client.get(execution).result == {"data": {}, "currency": "CHF", "note": "fragile"}
    assert client.context(execution).variables == {"currency": "CHF", "country": "DE", "note": "fragile"}


def test_data_that_the_schema_refuses_stores_nothing_and_every_problem_is_reported(
    client: WorkflowClient, broker: Broker, sql: Callable[..., Any]
) -> None:
    flow = WorkflowBuilder("checked")
    schema = {"type": "object", "required": ["orderId", "items"], "properties": {"items": {"type": "array"}}}
    flow.trigger("placed", schema=schema) >> flow.function("end", 1)
    client.deploy(flow.build())

    with pytest.raises(TriggerDataInvalid) as refusal:
        client.start("checked", {"items": "none"}, idempotency_key="order-1")

    assert {problem.path for problem in refusal.value.problems} == {"data", "data.items"}
    assert sql("SELECT (SELECT count(*) FROM executions), (SELECT count(*) FROM idempotency_keys)") == [
        (0, 0)
    ]
    assert broker.messages == []


def test_the_size_of_the_data_is_checked_before_its_schema(client: WorkflowClient) -> None:
    flow = WorkflowBuilder("checked")
    flow.trigger("placed", schema={"type": "object"}) >> flow.function("end", 1)
    client.deploy(flow.build())

    with pytest.raises(InvalidValue, match="bytes of JSON are more than"):
        client.start("checked", ["x" * 2_000_000])


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"data": {"a": float("nan")}}, "data.a"),
        ({"data": {"a": {1, 2}}}, "data.a"),
        ({"data": "x" * 2_000_000}, "data"),
        ({"variables": {"_secrets": 1}}, "variables._secrets"),
        ({"variables": {"seen": 1}}, "variables.seen"),
        ({"variables": {"a": {1: 2}}}, "variables.a"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_start_with_what_cannot_be_stored_stores_nothing(
    client: WorkflowClient, broker: Broker, orders: str, arguments: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidValue) as refusal:
        client.start(orders, **arguments)

    assert refusal.value.path.startswith(path)
    assert client.count() == {}
    assert broker.messages == []


def test_a_workflow_with_several_triggers_is_started_from_the_one_that_is_named(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("several")
    joined = flow.merge("joined", strategy="first")
    flow.trigger("byHand") >> flow.function("left", "from the left") >> joined
    flow.trigger("byCall", sub_type="api-call") >> flow.function("right", "from the right") >> joined
    client.deploy(flow.build())

    execution = client.start("several", trigger="byCall").id
    workers.drain()

    assert client.get(execution).result == "from the right"
    assert [row.node_id for row in client.journal(execution)] == ["byCall", "right", "joined"]
    with pytest.raises(WorkflowNotFound, match="name one of them: byHand, byCall"):
        client.start("several")
    with pytest.raises(WorkflowNotFound, match="no trigger 'left'; its triggers are byHand, byCall"):
        client.start("several", trigger="left")


def test_an_execution_of_an_earlier_version_can_be_started(client: WorkflowClient, workers: Workers) -> None:
    for answer in ("old", "new"):
        flow = WorkflowBuilder("versions")
        flow.trigger("start") >> flow.function("end", answer)
        client.deploy(flow.build())

    execution = client.start("versions", version=1).id
    workers.drain()

    assert (client.get(execution).version, client.get(execution).result) == (1, "old")
    with pytest.raises(WorkflowNotFound, match="'versions' has no version 3"):
        client.start("versions", version=3)
    with pytest.raises(WorkflowNotFound, match="'nothing' is not deployed"):
        client.start("nothing")


def test_an_idempotency_key_used_twice_returns_the_first_execution(
    client: WorkflowClient, broker: Broker, workers: Workers, orders: str
) -> None:
    first = client.start(orders, {"orderId": 1}, idempotency_key="order-1")
    workers.drain()
    again = client.start(orders, {"orderId": 1}, idempotency_key="order-1")

    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    assert broker.messages == []
    with pytest.raises(IdempotencyConflict):
        client.start(orders, {"orderId": 2}, idempotency_key="order-1")
    with pytest.raises(IdempotencyConflict):
        client.start(orders, {"orderId": 1}, variables={"currency": "CHF"}, idempotency_key="order-1")
    assert client.start(orders, {"orderId": 1}, idempotency_key="order-2").is_new
    assert client.get(first.id).idempotency_key == "order-1"


def test_a_start_repeated_because_its_message_was_lost_sends_it_again(
    client: WorkflowClient, broker: Broker, workers: Workers, orders: str
) -> None:
    first = client.start(orders, {"orderId": 1}, idempotency_key="order-1")
    broker.queue.clear()

    client.start(orders, {"orderId": 1}, idempotency_key="order-1")
    workers.drain()

    assert client.get(first.id).status is ExecutionStatus.COMPLETED


def test_a_workflow_that_is_but_a_trigger_is_completed_at_once(
    client: WorkflowClient, broker: Broker
) -> None:
    flow = WorkflowBuilder("only")
    flow.trigger("start")
    client.deploy(flow.build())

    execution = client.start("only", {"orderId": 1}).id

    finished = client.wait(execution, timeout=1)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, {"orderId": 1})
    assert broker.messages == []


# -- reading -------------------------------------------------------------------------------------------


def test_the_newest_executions_are_listed_first_page_by_page(
    client: WorkflowClient, workers: Workers, orders: str
) -> None:
    started = [client.start(orders).id for _ in range(5)]
    workers.drain()
    started.append(client.start(orders).id)

    first_page = client.list(limit=2)
    second_page = client.list(limit=2, before=first_page[-1].id)

    assert [each.id for each in [*first_page, *second_page]] == started[:1:-1]
    assert [each.id for each in client.list(statuses=[ExecutionStatus.PENDING])] == started[-1:]
    assert len(client.list(orders)) == 6
    assert client.list("nothing") == []
    assert client.count() == {ExecutionStatus.COMPLETED: 5, ExecutionStatus.PENDING: 1}
    assert client.count("nothing") == {}


def test_executions_are_listed_by_the_names_of_statuses_too(client: WorkflowClient, orders: str) -> None:
    execution = client.start(orders).id

    assert [each.id for each in client.list(statuses=["PENDING", ExecutionStatus.FAILED])] == [execution]
    assert client.list(statuses=["FAILED"]) == []
    assert client.control.candidates(Operation.CANCEL, statuses=["PENDING"]) == [execution]
    for wrong in (["LOST"], ["failed"], "FAILED"):
        with pytest.raises(InvalidValue, match=r"^statuses: "):
            client.list(statuses=wrong)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_text_that_postgres_cannot_hold_is_no_bare_error_of_the_driver(
    client: WorkflowClient, orders: str, text: str
) -> None:
    execution = client.start(orders).id
    asks: list[Callable[[], Any]] = [
        lambda: client.start(text),
        lambda: client.start(orders, trigger=text),
        lambda: client.start(orders, idempotency_key=text),
        lambda: client.list(text),
        lambda: client.count(text),
        lambda: client.workflow(text),
        lambda: client.get(text),
        lambda: client.journal(text),
        lambda: client.control.cancel(execution, actor=text),
        lambda: client.control.cancel(execution, reason=text),
        lambda: client.control.rerun(execution, text),
        lambda: client.control.candidates(Operation.CANCEL, workflow_id=text),
        lambda: client.send_event("A", text),
        lambda: client.send_event(text, "paid"),
        lambda: client.send_event("A", "paid", actor=text),
        lambda: client.send_event("A", "paid", event_id=text),
        lambda: client.send_event("A", "paid", text),
    ]
    for ask in asks:
        with pytest.raises((InvalidValue, NotFound, IllegalMove)):
            ask()
    assert client.get(execution).status is ExecutionStatus.PENDING


def test_the_journal_shows_what_each_node_did(client: WorkflowClient, workers: Workers) -> None:
    def charge(amount: int) -> Any:
        return success({"receipt": "r-1"}, variables={"paid": True})

    flow = WorkflowBuilder("paying")
    flow.trigger("placed", label="Order placed") >> calling(
        flow, charge, arguments={"amount": "{{ placed.amount }}"}, label="Charge the card"
    )
    client.deploy(flow.build())
    execution = client.start("paying", {"amount": 7}).id
    workers.drain()

    trigger, row = client.journal(execution)
    assert (trigger.seq, trigger.node_id, trigger.label) == (1, "placed", "Order placed")
    assert (trigger.output_data, trigger.worker) == ({"amount": 7}, None)
    assert (row.seq, row.node_id, row.label, row.type, row.sub_type) == (
        2,
        "charge",
        "Charge the card",
        "action",
        "python",
    )
    assert (row.status, row.visit, row.attempt, row.handles) == (NodeStatus.COMPLETED, 1, 1, ("",))
    assert row.input_data == {"function": "test.charge", "arguments": {"amount": 7}}
    assert (row.output_data, row.variables) == ({"receipt": "r-1"}, {"paid": True})
    assert row.worker is not None
    assert row.completed_at is not None
    assert row.started_at <= row.completed_at
    assert row.duration_ms is not None


def test_every_question_about_what_does_not_exist_is_refused(client: WorkflowClient) -> None:
    for ask in (client.get, client.journal, client.context, client.wait):
        for nothing in (NOBODY, "no uuid", "", "'; DROP TABLE executions; --"):
            with pytest.raises(ExecutionNotFound) as refusal:
                ask(nothing)
            assert refusal.value.execution_id == nothing


# -- results -------------------------------------------------------------------------------------------


def branching() -> WorkflowBuilder:
    flow = WorkflowBuilder("branching")
    large = flow.condition("large", expression="{{ start.amount > 100 }}")
    flow.trigger("start") >> large
    large["true"] >> flow.function("approve", "to be approved")
    large["false"] >> flow.function("ship", None)
    return flow


def test_the_result_of_several_ends_is_the_outputs_of_those_that_ran(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(branching().build())
    large, small = client.start("branching", {"amount": 500}).id, client.start("branching", {"amount": 5}).id
    workers.drain()

    assert client.get(large).result == {"approve": "to be approved"}
    assert client.get(small).result == {"ship": None}


def test_the_result_of_one_end_that_did_not_run_is_null(client: WorkflowClient, workers: Workers) -> None:
    flow = WorkflowBuilder("one-end")
    large = flow.condition("large", expression="{{ start.amount > 100 }}")
    flow.trigger("start") >> large
    large["true"] >> flow.function("approve", "to be approved")
    client.deploy(flow.build())
    execution = client.start("one-end", {"amount": 5}).id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.get(execution).result is None


# -- wait ----------------------------------------------------------------------------------------------


@contextmanager
def in_background(work: Callable[[], Any], after: float) -> Iterator[None]:
    timer = threading.Timer(after, work)
    timer.start()
    yield
    timer.join()


@pytest.mark.parametrize("is_failing", [False, True], ids=["completed", "failed"])
def test_waiting_ends_as_soon_as_the_execution_does(
    client: WorkflowClient, workers: Workers, is_failing: bool
) -> None:
    flow = WorkflowBuilder("waited")
    flow.trigger("start") >> flow.function("end", "{{ nobody.x }}" if is_failing else "done")
    client.deploy(flow.build())
    execution = client.start("waited").id

    with in_background(workers.drain, after=0.3):
        started = time.monotonic()
        finished = client.wait(execution, timeout=10)
        waited = time.monotonic() - started

    assert finished.status is (ExecutionStatus.FAILED if is_failing else ExecutionStatus.COMPLETED)
    assert finished.result == (None if is_failing else "done")
    assert waited < 2, "Redis did not wake it; Postgres is asked only every 5 s"


def test_waiting_for_what_has_ended_takes_no_time(
    client: WorkflowClient, workers: Workers, orders: str
) -> None:
    execution = client.start(orders).id
    workers.drain()

    started = time.monotonic()
    assert client.wait(execution).status is ExecutionStatus.COMPLETED
    assert time.monotonic() - started < 1


def test_waiting_ends_when_its_time_is_over(client: WorkflowClient, orders: str) -> None:
    execution = client.start(orders).id

    started = time.monotonic()
    with pytest.raises(WaitTimeout) as timeout:
        client.wait(execution, timeout=0.2)

    assert 0.15 < time.monotonic() - started < 2
    assert (timeout.value.execution_id, timeout.value.status) == (execution, "PENDING")
    with pytest.raises(WaitTimeout):
        client.wait(execution, timeout=0)


def test_waiting_works_while_redis_is_away(
    client: WorkflowClient, new_engine: Callable[..., Engine], workers: Workers, orders: str
) -> None:
    execution = client.start(orders).id
    cut_off = WorkflowClient(engine=new_engine(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.2))

    with in_background(workers.drain, after=0.3):
        assert cut_off.wait(execution, timeout=15).status is ExecutionStatus.COMPLETED


def test_many_threads_may_share_a_client(
    client: WorkflowClient, broker: Broker, workers: Workers, orders: str
) -> None:
    started: list[str] = []
    threads = [
        threading.Thread(target=lambda: started.extend(client.start(orders).id for _ in range(5)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    workers.drain()

    assert len(set(started)) == 30
    assert client.count() == {ExecutionStatus.COMPLETED: 30}
