"""What Celery's events say about a node: Flower shows, finds and groups tasks by these fields."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from fleet import Fleet, poll

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
        poll(lambda: [e["type"] for e in received].count("task-succeeded") == 2, 5, "both tasks have ended")

    tasks = [event for event in received if event["type"] == "task-received"]
    assert [task["name"] for task in tasks] == ["order-fulfilment/charge", "order-fulfilment/done"]
    for task in tasks:
        assert f"'execution_id': '{execution_id}'" in task["kwargs"]
        assert task["root_id"] == execution_id
    assert tasks[0]["uuid"] != tasks[1]["uuid"]


@contextmanager
def events_of(fleet: Fleet) -> Iterator[list[dict[str, Any]]]:
    """Collects the events of the fleet's tasks, as Flower does."""
    received: list[dict[str, Any]] = []
    app = Celery("monitor", broker=fleet.settings.redis_url, set_as_current=False)
    connection = app.connection_for_read()
    receiver = app.events.Receiver(connection, handlers={"*": received.append})
    listener = threading.Thread(target=receiver.capture, daemon=True)
    listener.start()
    try:
        poll(lambda: received, 10, "the monitor hears the worker's heartbeat")
        yield received
    finally:
        receiver.should_stop = True
        listener.join(5)
        connection.close()
        app.close()
