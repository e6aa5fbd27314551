"""Celery's events carry the fields by which Flower shows, finds and groups the tasks of nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from support.fleet import BOTH_WAYS, Fleet
from support.json_lines import lines_of
from support.nodes.recorded import SIGNALS
from support.polling import poll
from workflow_engine import WorkflowBuilder


def test_events_name_the_node_and_lead_to_its_execution(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.add_worker("eventful", "-E").ready()
    flow = WorkflowBuilder("order-fulfilment")
    flow.trigger("placed") >> flow.python("charge", "test.echo") >> flow.function("done", "{{ 1 }}")
    fleet.client.deploy(flow.build())

    with events_of(fleet) as received:
        execution_id = fleet.start("order-fulfilment")
        fleet.completed(execution_id)
        poll(lambda: [e["type"] for e in received].count("task-succeeded") == 2, "both tasks have ended")

    tasks = [event for event in received if event["type"] == "task-received"]
    assert [task["name"] for task in tasks] == ["order-fulfilment/charge", "order-fulfilment/done"]
    for task in tasks:
        assert f"'execution_id': '{execution_id}'" in task["kwargs"]
        assert task["root_id"] == execution_id
    assert tasks[0]["uuid"] != tasks[1]["uuid"]


@BOTH_WAYS
def test_a_failed_node_is_a_failed_task_with_its_exception_and_traceback(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.add_worker("eventful", "-E").ready()
    flow = WorkflowBuilder("order-fulfilment")
    wrong = {
        "divides": ("test.divides", {"by": 0}),
        "declines": ("test.declines", {}),
        "says-no": ("test.says_no", {}),
        "rejects": ("test.rejects_its_message", {}),
    }
    last = flow.trigger("placed")
    for name, (function, arguments) in wrong.items():
        last = last >> flow.python(name, function, arguments=arguments, on_error="continue")
    last >> flow.python("ends-it", "test.raises", arguments={"message": "no more"})
    fleet.client.deploy(flow.build())

    with events_of(fleet) as received:
        execution_id = fleet.start("order-fulfilment")
        fleet.failed(execution_id)
        events = poll(lambda: ended(received, 5), "all tasks have ended")

    assert {name: (event["type"], event["exception"]) for name, event in events.items()} == {
        "divides": ("task-failed", "ZeroDivisionError('division by zero')"),
        "declines": ("task-failed", "NodeFailed('Declined: 402 card expired')"),
        "says-no": ("task-failed", "NodeFailed('OUT_OF_STOCK: none left')"),
        "rejects": ("task-failed", "NodeFailed(\"Reject: ('again', True)\")"),
        "ends-it": ("task-failed", "ValueError('no more')"),
    }
    assert "return 1 / by" in events["divides"]["traceback"]
    assert "raise Declined(402" in events["declines"]["traceback"]
    signals = {each["node_id"]: each for each in lines_of(fleet.folder / SIGNALS)}
    assert {name: (each["signal"], each["error"]) for name, each in signals.items()} == {
        name: ("task_failure", event["exception"]) for name, event in events.items()
    }
    assert signals["divides"]["traceback"] == events["divides"]["traceback"]
    assert all(fleet.runs(execution_id, name) == [] for name in wrong)
    assert fleet.tasks(execution_id) == 5, "nothing was put back or sent again"
    assert fleet.lines("order-fulfilment/divides", "raised unexpected: ZeroDivisionError")


def test_an_attempt_that_is_repeated_is_a_retried_task_and_a_wait_is_told_apart(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.add_worker("eventful", "-E").ready()
    flow = WorkflowBuilder("order-fulfilment")
    retry = {"maxAttempts": 2, "waitDuration": 50}
    charge = flow.python("charge", "test.succeeds_at_last", arguments={"attempt": 2}, retry=retry)
    (
        flow.trigger("placed")
        >> charge
        >> flow.python("rests", "test.waits_for_seconds", arguments={"seconds": 0.05})
    )
    fleet.client.deploy(flow.build())

    with events_of(fleet) as received:
        execution_id = fleet.start("order-fulfilment")
        fleet.completed(execution_id)
        fleet.deliver(execution_id, "order-fulfilment", "rests", seq=2)
        tasks = poll(lambda: ends(received, 5), "all tasks have ended")

    error = "ConnectionError('attempt 1 is not the one that succeeds')"
    assert [(task["type"], task.get("exception") or task["result"]) for task in tasks] == [
        ("task-retried", error),
        ("task-succeeded", "'COMPLETED'"),
        ("task-succeeded", "'WAITING'"),
        ("task-succeeded", "'COMPLETED'"),
        ("task-succeeded", "'DROPPED: the execution is COMPLETED'"),
    ]
    assert "raise ConnectionError" in tasks[0]["traceback"]
    (signal,) = lines_of(fleet.folder / SIGNALS)
    assert (signal["signal"], signal["error"]) == ("task_retry", error)
    assert fleet.tasks(execution_id) == 5
    assert fleet.lines("order-fulfilment/charge", f"retry: Retry in 0.05s: {error}")


def ends(received: list[dict[str, Any]], times: int) -> list[dict[str, Any]]:
    """Return the events of tasks' ends, in the order of arrival, once there are `times` of them."""
    ends = ("task-succeeded", "task-failed", "task-retried", "task-rejected")
    found = [event for event in received if event["type"] in ends]
    return found if len(found) >= times else []


def ended(received: list[dict[str, Any]], times: int) -> dict[str, dict[str, Any]]:
    """Return the same events by node."""
    names = {event["uuid"]: event["name"] for event in received if event["type"] == "task-received"}
    return {names[event["uuid"]].partition("/")[2]: event for event in ends(received, times)}


@contextmanager
def events_of(fleet: Fleet) -> Iterator[list[dict[str, Any]]]:
    """Collect the events of the fleet's tasks, as Flower does."""
    received: list[dict[str, Any]] = []
    app = Celery("monitor", broker=fleet.settings.redis_url, set_as_current=False)
    connection = app.connection_for_read()
    receiver = app.events.Receiver(connection, handlers={"*": received.append})
    listener = threading.Thread(target=receiver.capture, daemon=True)
    listener.start()
    try:
        poll(lambda: received, "the monitor hears the worker's heartbeat")
        yield received
    finally:
        receiver.should_stop = True
        listener.join(5)
        connection.close()
        app.close()
