"""A worker that is connected but consumes nothing ends itself; one that has a reason not to is left alone."""

from __future__ import annotations

import time

from support.deaf_worker import FORGETS, STANDS_STILL
from support.fleet import Fleet
from support.polling import poll
from support.worker_processes import Worker
from workflow_engine import WorkflowBuilder
from workflow_engine.broker.dispatcher import producer_app

STALL_TIMEOUT = 2.0
POLLING = 1.5
"""Seconds after which the last poll of a deaf worker has ended; until then Redis may send it a message."""


def test_a_worker_that_forgets_to_poll_ends_itself_once_its_running_node_has(own_fleet: Fleet) -> None:
    fleet = own_fleet
    deaf = impatient_worker(fleet, concurrency=2)
    running = start(fleet, "running")
    fleet.begun(running, "only")

    (fleet.folder / FORGETS).touch()
    time.sleep(POLLING)
    waiting = start(fleet, "waiting")

    poll(lambda: deaf.lines("CRITICAL", "consumes nothing", "messages wait in workflow"), "it says so")
    fleet.open_gate(running, "only")
    assert deaf.container.wait(timeout=10) == 1
    assert fleet.completed(running).result == "done"
    (fleet.folder / FORGETS).unlink()
    deaf.container.start()  # as its supervisor does
    fleet.open_gate(waiting, "only")
    assert fleet.completed(waiting).result == "done"


def test_a_worker_whose_event_loop_stands_still_ends_itself(own_fleet: Fleet) -> None:
    fleet = own_fleet
    deaf = impatient_worker(fleet, concurrency=1)
    (fleet.folder / STANDS_STILL).touch()
    time.sleep(POLLING)
    start(fleet, "waiting")

    assert deaf.container.wait(timeout=25) == 1
    assert deaf.lines("Event loop is blocked; exiting immediately.")


def test_a_worker_that_is_busy_or_taken_off_the_queue_is_left_alone(own_fleet: Fleet) -> None:
    fleet = own_fleet
    worker = impatient_worker(fleet, concurrency=1)
    running, waiting = start(fleet, "running"), start(fleet, "waiting")
    fleet.begun(running, "only")
    time.sleep(2 * STALL_TIMEOUT)

    control = producer_app(fleet.settings).control
    assert control.cancel_consumer(fleet.settings.queue, reply=True, limit=1, timeout=10)
    fleet.open_gate(running, "only")
    fleet.completed(running)
    time.sleep(2 * STALL_TIMEOUT)

    assert worker.lines("consumes nothing") == []
    control.add_consumer(fleet.settings.queue, reply=True, limit=1, timeout=10)
    fleet.open_gate(waiting, "only")
    assert fleet.completed(waiting).result == "done"


def impatient_worker(fleet: Fleet, concurrency: int) -> Worker:
    worker = fleet.add_worker(
        "deaf",
        app="support.deaf_worker",
        concurrency=concurrency,
        WORKFLOW_ENGINE_CONSUMER_STALL_TIMEOUT=str(STALL_TIMEOUT),
    )
    worker.ready()
    return worker


def start(fleet: Fleet, workflow_id: str) -> str:
    """Start an execution whose only node ends when its gate is opened."""
    flow = WorkflowBuilder(workflow_id)
    flow.trigger("begin") >> flow.python("only", "test.gated", arguments={"value": "done"})
    fleet.client.deploy(flow.build())
    return fleet.start(workflow_id)
