"""Schedules are fired by the workers themselves, once per due time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder
from workflow_engine.postgres.workflows.triggers import ScheduledTrigger

YEARLY = {"cron": "0 0 1 1 *", "timezone": "Europe/Berlin"}


def test_a_due_time_starts_one_execution_although_every_worker_looks_for_it(fleet: Fleet) -> None:
    flow = WorkflowBuilder("scheduled")
    begin = flow.trigger("newYear", sub_type="scheduler", config=YEARLY)
    begin >> flow.python("greet", "test.echo", arguments={"value": "{{ newYear.scheduledFor }}"})
    fleet.client.deploy(flow.build())
    (schedule,) = [each for each in fleet.client.schedules() if each.workflow_id == "scheduled"]
    assert schedule.next_due > datetime.now(UTC)

    fleet.engine.database.rows(
        "UPDATE triggers SET next_due = now() WHERE workflow_id = 'scheduled' AND node_id = 'newYear'"
    )
    poll(lambda: fleet.client.list("scheduled"), "the schedule has started an execution")

    poll(
        lambda: [each for each in fleet.client.schedules() if each.next_due > datetime.now(UTC)],
        "the schedule has moved on to its next time",
        timeout=10,
    )
    (execution,) = fleet.client.list("scheduled")
    assert fleet.completed(execution.id).result == execution_time(fleet, execution.id)
    assert len(fleet.client.list("scheduled")) == 1


def test_after_an_outage_of_the_whole_fleet_each_schedule_makes_up_what_it_is_configured_to(
    own_fleet: Fleet,
) -> None:
    # Daily, at an hour that is twelve hours away: no other time falls due during the test.
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    made_up = {"skip": 0, "latest": 1, "all": 3}
    for catch_up in made_up:
        flow = WorkflowBuilder(catch_up)
        tick = flow.trigger(
            "tick", sub_type="scheduler", config={"cron": f"0 {hour} * * *", "catchUp": catch_up}
        )
        tick >> flow.python("tell", "test.echo", arguments={"value": "{{ tick.scheduledFor }}"})
        own_fleet.client.deploy(flow.build())
    own_fleet.add_workers("one", "two", "three", concurrency=1)
    following = own_fleet.client.schedules()[0].next_due
    assert following is not None

    for worker in own_fleet.workers:
        worker.freeze()
    three_days_pass(own_fleet)
    for worker in own_fleet.workers:
        worker.thaw()

    poll(lambda: not overdue(own_fleet), "every schedule has moved on to its next time")
    assert {schedule.next_due for schedule in own_fleet.client.schedules()} == {following}
    for catch_up, count in made_up.items():
        times = [following - timedelta(days=days) for days in range(1, count + 1)]
        results = [own_fleet.completed(execution.id).result for execution in own_fleet.client.list(catch_up)]
        assert sorted(results) == sorted(f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for time in times)


def three_days_pass(fleet: Fleet) -> None:
    fleet.engine.database.rows("UPDATE triggers SET next_due = next_due - interval '3 days'")


def overdue(fleet: Fleet) -> list[ScheduledTrigger]:
    now = datetime.now(UTC)
    return [each for each in fleet.client.schedules() if each.next_due is not None and each.next_due <= now]


def execution_time(fleet: Fleet, execution_id: str) -> object:
    return fleet.client.context(execution_id).node_outputs["newYear"]["scheduledFor"]
