"""Schedules are fired by the workers themselves, once per due time."""

from __future__ import annotations

from datetime import UTC, datetime

from fleet import Fleet, poll

from workflow_engine import WorkflowBuilder
from workflow_engine.database import autocommit

YEARLY = {"cron": "0 0 1 1 *", "timezone": "Europe/Berlin"}


def test_a_due_time_starts_one_execution_although_every_worker_looks_for_it(fleet: Fleet) -> None:
    flow = WorkflowBuilder("scheduled")
    begin = flow.trigger("newYear", sub_type="scheduler", config=YEARLY)
    begin >> flow.python("greet", "test.echo", arguments={"value": "{{ newYear.scheduledFor }}"})
    fleet.client.deploy(flow.build())
    (schedule,) = [each for each in fleet.client.schedules() if each.workflow_id == "scheduled"]
    assert schedule.next_due > datetime.now(UTC)

    with autocommit(fleet.engine.state.engine) as connection:
        connection.exec_driver_sql(
            "UPDATE triggers SET next_due = now() WHERE workflow_id = 'scheduled' AND node_id = 'newYear'"
        )
    poll(lambda: fleet.client.list("scheduled"), 10, "the schedule has started an execution")

    poll(
        lambda: [each for each in fleet.client.schedules() if each.next_due > datetime.now(UTC)],
        10,
        "the schedule has moved on to its next time",
    )
    (execution,) = fleet.client.list("scheduled")
    assert fleet.completed(execution.id).result == execution_time(fleet, execution.id)
    assert len(fleet.client.list("scheduled")) == 1


def execution_time(fleet: Fleet, execution_id: str) -> object:
    return fleet.client.context(execution_id).node_outputs["newYear"]["scheduledFor"]
