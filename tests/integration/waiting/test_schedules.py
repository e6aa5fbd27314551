"""Each due time of a schedule starts one execution, though workers look, die or deploy in between."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.command_line import run, run_json
from workflow_engine import WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.maintenance.schedules import Schedules
from workflow_engine.postgres.due_times import DueTimes
from workflow_engine.postgres.workflows.triggers import LEASE

Sql = Callable[..., list[tuple[Any, ...]]]

EVERY_MINUTE = {"cron": "* * * * *"}
EVERY_YEAR = {"cron": "0 0 1 1 *"}
"""A schedule whose next time but one is not due before the test is over."""
STARTS = "SELECT trigger_data->>'scheduledFor' FROM executions ORDER BY 1"


@pytest.fixture
def schedules(engine: Engine) -> Schedules:
    return Schedules(engine.triggers, grace=engine.settings.schedule_grace)


@pytest.fixture
def due_times(engine: Engine) -> DueTimes:
    return engine.due_times


@pytest.fixture
def deploy(client: WorkflowClient) -> Callable[..., None]:
    """Return a function that deploys a workflow with a trigger `tick` of this config."""

    def deploy(config: dict[str, Any] | None, *, workflow: str = "report", answer: Any = 1) -> None:
        flow = WorkflowBuilder(workflow)
        end = flow.function("answer", answer)
        flow.trigger("asked") >> end
        if config is not None:
            flow.trigger("tick", sub_type="scheduler", config=config) >> end
        client.deploy(flow.build())

    return deploy


@pytest.fixture
def start(client: WorkflowClient) -> Callable[..., object]:
    """Return a function that starts an execution as the timekeeper does."""
    return starter(client)


def starter(client: WorkflowClient) -> Callable[..., object]:
    def start(workflow_id: str, trigger: str, data: dict[str, Any], key: str, queue: str) -> object:
        return client.start(workflow_id, data, trigger=trigger, idempotency_key=key, queue=queue)

    return start


@pytest.fixture
def the_fleet_was_away(sql: Sql) -> Callable[[timedelta], datetime]:
    """Set the next due time of every schedule back to a full minute in the past, and return that minute."""

    def put_back(ago: timedelta) -> datetime:
        (row,) = sql(
            "UPDATE triggers SET next_due = date_trunc('minute', now() - %s), claimed_until = NULL "
            "WHERE next_due IS NOT NULL RETURNING next_due",
            ago,
        )
        return row[0]

    return put_back


def minutes(first: datetime, count: int) -> list[tuple[str]]:
    times = [first.astimezone(UTC) + timedelta(minutes=number) for number in range(count)]
    return [(f"{time:%Y-%m-%dT%H:%M:%SZ}",) for time in times]


def next_due_times(sql: Sql) -> list[Any]:
    return [row[0] for row in sql("SELECT next_due FROM triggers WHERE sub_type = 'scheduler'")]


def database_time(sql: Sql) -> datetime:
    return sql("SELECT now()")[0][0]


# -- firing ----------------------------------------------------------------------------------------------


def test_a_due_time_starts_an_execution_that_knows_it(
    deploy: Any, schedules: Schedules, start: Any, the_fleet_was_away: Any, sql: Sql, client: WorkflowClient
) -> None:
    deploy({**EVERY_YEAR, "data": {"kind": "daily"}})
    following = next_due_times(sql)
    due = the_fleet_was_away(timedelta(0))

    assert schedules.fire_due(start) == 1

    (execution,) = client.list("report")
    assert execution.trigger_node_id == "tick"
    ((scheduled_for,),) = minutes(due, 1)
    assert sql("SELECT trigger_data FROM executions") == [({"scheduledFor": scheduled_for, "kind": "daily"},)]
    (trigger_id,) = sql("SELECT id::text FROM triggers WHERE node_id = 'tick'")[0]
    assert sql("SELECT key FROM idempotency_keys") == [(f"{trigger_id}:{scheduled_for}",)]
    assert next_due_times(sql) == following


def test_what_is_not_due_yet_starts_nothing(
    engine: Engine, deploy: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    deploy({"cron": "0 0 1 1 *"})

    assert schedules.fire_due(start) == 0
    assert engine.triggers.claim_due() == []
    assert sql("SELECT count(*) FROM executions") == [(0,)]


def test_three_workers_at_once_fire_each_due_time_once(
    deploy: Any, new_engine: Callable[..., Engine], the_fleet_was_away: Any, sql: Sql
) -> None:
    for number in range(4):
        deploy({**EVERY_MINUTE, "catchUp": "all"}, workflow=f"report-{number}")
    due = sql("UPDATE triggers SET next_due = date_trunc('minute', now()) - interval '5 min' "
              "WHERE next_due IS NOT NULL RETURNING next_due")[0][0]  # fmt: skip
    together, fired = threading.Barrier(3), []

    def work(engine: Engine) -> None:
        schedules, start = (
            Schedules(engine.triggers, grace=engine.settings.schedule_grace),
            starter(WorkflowClient(engine=engine)),
        )
        together.wait()
        for _ in range(3):
            fired.append(schedules.fire_due(start))

    threads = [threading.Thread(target=work, args=(new_engine(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    started = sql("SELECT workflow_id, trigger_data->>'scheduledFor', count(*) FROM executions GROUP BY 1, 2")
    assert {count for _, _, count in started} == {1}
    assert {(workflow, time) for workflow, time, _ in started} >= {
        (f"report-{number}", time) for number in range(4) for (time,) in minutes(due, 6)
    }
    assert sum(fired) == len(started), "nobody started what another had started"


# -- missed times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("catch_up", "made_up"), [("skip", 0), ("latest", 1), ("all", 3)])
def test_times_missed_in_an_outage_are_made_up_as_configured(
    deploy: Any,
    schedules: Schedules,
    start: Any,
    sql: Sql,
    catch_up: str,
    made_up: int,
) -> None:
    # Daily, at an hour that is twelve hours away: nothing comes due while the test runs.
    hour = (database_time(sql) + timedelta(hours=12)).astimezone(UTC).hour
    deploy({"cron": f"0 {hour} * * *", "catchUp": catch_up})
    (following,) = next_due_times(sql)
    missed = [following - timedelta(days=days) for days in (3, 2, 1)]
    sql("UPDATE triggers SET next_due = %s WHERE next_due IS NOT NULL", missed[0])

    assert schedules.fire_due(start) == made_up

    assert sql(STARTS) == [(f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",) for time in missed[3 - made_up :]]
    assert next_due_times(sql) == [following]
    assert schedules.fire_due(start) == 0


def test_a_schedule_that_has_ended_is_never_due_again(
    deploy: Any, schedules: Schedules, due_times: DueTimes, start: Any, the_fleet_was_away: Any, sql: Sql
) -> None:
    end = (database_time(sql) + timedelta(hours=1)).isoformat()
    deploy({**EVERY_MINUTE, "end": end})
    due = the_fleet_was_away(timedelta(0))
    sql("UPDATE triggers SET config = config || %s::jsonb WHERE node_id = 'tick'",
        json.dumps({"end": due.isoformat()}))  # fmt: skip

    assert schedules.fire_due(start) == 1
    assert next_due_times(sql) == [None]
    assert due_times.next().schedule == math.inf


# -- crashes and refusals --------------------------------------------------------------------------------


def test_a_worker_that_dies_between_the_start_and_the_next_time_causes_no_second_execution(
    deploy: Any, schedules: Schedules, start: Any, the_fleet_was_away: Any, sql: Sql
) -> None:
    deploy({**EVERY_MINUTE, "catchUp": "all"})
    due = the_fleet_was_away(timedelta(0))

    class Killed(BaseException):
        pass

    def start_and_die(*arguments: Any) -> None:
        start(*arguments)
        raise Killed

    with pytest.raises(Killed):
        schedules.fire_due(start_and_die)
    assert next_due_times(sql) == [due], "it is still due"
    assert schedules.fire_due(start) == 0, "for as long as the dead one's lease lasts"

    sql("UPDATE triggers SET claimed_until = claimed_until - make_interval(secs => %s)", LEASE)
    schedules.fire_due(start)

    assert sql(STARTS)[0] == minutes(due, 1)[0]
    assert sql("SELECT count(*), count(DISTINCT trigger_data) FROM executions") in ([(1, 1)], [(2, 2)])
    assert next_due_times(sql)[0] > due


def test_a_slow_worker_whose_lease_is_over_does_not_turn_the_schedule_back(
    deploy: Any, schedules: Schedules, start: Any, the_fleet_was_away: Any, sql: Sql
) -> None:
    deploy({**EVERY_MINUTE, "catchUp": "all"})
    due = the_fleet_was_away(timedelta(minutes=2))

    def slow_start(*arguments: Any) -> None:
        start(*arguments)
        sql("UPDATE triggers SET claimed_until = NULL")
        schedules.fire_due(start)

    schedules.fire_due(slow_start, limit=1)

    assert sql(STARTS)[:3] == minutes(due, 3)
    assert sql("SELECT count(*) - count(DISTINCT trigger_data) FROM executions") == [(0,)]
    assert next_due_times(sql)[0] > due + timedelta(minutes=2)


def test_while_a_server_is_away_nothing_is_passed_over(
    deploy: Any, schedules: Schedules, the_fleet_was_away: Any, sql: Sql
) -> None:
    deploy(EVERY_MINUTE)
    due = the_fleet_was_away(timedelta(0))

    def away(*_: Any) -> None:
        raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        schedules.fire_due(away)
    assert next_due_times(sql) == [due]


def test_a_trigger_that_cannot_be_fired_does_not_hold_up_the_others(
    deploy: Any, schedules: Schedules, start: Any, log_lines: Callable[[], list[str]], sql: Sql
) -> None:
    deploy(EVERY_YEAR, workflow="broken")
    deploy(EVERY_YEAR, workflow="sound")
    sql(
        "UPDATE triggers SET config = jsonb_build_object('cron', 'what') "
        "WHERE workflow_id = 'broken' AND node_id = 'tick'"
    )
    sql("UPDATE triggers SET next_due = now() - interval '1 s' WHERE next_due IS NOT NULL")

    assert schedules.fire_due(start) == 1

    assert sql("SELECT workflow_id FROM executions") == [("sound",)]
    assert any("tick of broken could not be fired" in line for line in log_lines())


def test_a_start_that_is_refused_for_good_is_logged_and_passed(
    deploy: Any, schedules: Schedules, start: Any, log_lines: Callable[[], list[str]], sql: Sql
) -> None:
    deploy(EVERY_MINUTE)
    sql("UPDATE triggers SET next_due = now() - interval '1 s' WHERE next_due IS NOT NULL")

    def refused(workflow_id: str, _trigger: str, *others: Any) -> None:
        start(workflow_id, "nowhere", *others)

    assert schedules.fire_due(refused) == 0

    assert any("has no trigger 'nowhere'" in line for line in log_lines())
    assert next_due_times(sql)[0] > database_time(sql)


# -- deploying -------------------------------------------------------------------------------------------


def test_deploying_sets_the_first_due_time_by_the_database_clock(
    deploy: Any, due_times: DueTimes, sql: Sql
) -> None:
    before = database_time(sql)
    deploy(EVERY_MINUTE)

    (due,) = next_due_times(sql)
    assert timedelta(0) < due - before <= timedelta(seconds=61)
    assert due.second == 0
    assert due_times.next().schedule == pytest.approx((due - database_time(sql)).total_seconds(), abs=1)


def test_a_deployment_that_leaves_the_schedule_alone_keeps_its_next_due_time(
    deploy: Any, the_fleet_was_away: Any, sql: Sql
) -> None:
    deploy(EVERY_MINUTE)
    due = the_fleet_was_away(timedelta(hours=1))

    deploy({**EVERY_MINUTE, "catchUp": "all", "data": {"a": 1}}, answer=2)
    assert next_due_times(sql) == [due]

    deploy({**EVERY_MINUTE, "timezone": "Europe/Berlin"}, answer=3)
    assert next_due_times(sql)[0] > database_time(sql) - timedelta(seconds=1)


def test_a_schedule_that_was_taken_out_rests_and_makes_up_for_nothing_when_it_comes_back(
    deploy: Any, the_fleet_was_away: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    deploy({**EVERY_MINUTE, "catchUp": "all"})
    the_fleet_was_away(timedelta(hours=1))

    deploy(None)
    assert next_due_times(sql) == [None]
    assert schedules.fire_due(start) == 0

    deploy({**EVERY_MINUTE, "catchUp": "all"})
    assert next_due_times(sql)[0] > database_time(sql) - timedelta(seconds=1)


# -- the list ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("commands_use_the_servers")
def test_the_command_line_lists_what_is_scheduled(deploy: Any, sql: Sql) -> None:
    nothing = run("schedules")
    deploy({"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "catchUp": "latest"})
    deploy({"cron": "0 0 1 1 *", "end": "2020-01-01"}, workflow="over")

    table = run("schedules")
    listed = run_json("schedules")["schedules"]

    assert "No deployed workflow has a schedule" in nothing.stdout
    assert table.exit_code == 0
    for part in ("0 9 * * MON-FRI", "Europe/Berlin", "latest", "report", "tick", "UTC", "ended"):
        assert part in table.stdout
    (due,) = sql("SELECT next_due FROM triggers WHERE workflow_id = 'report' AND node_id = 'tick'")[0]
    assert listed == [
        {
            "workflowId": "over",
            "nodeId": "tick",
            "cron": "0 0 1 1 *",
            "timezone": "UTC",
            "catchUp": "skip",
            "nextDue": None,
            "state": "ACTIVE",
            "stateReason": None,
            "workflowState": "ACTIVE",
            "at": None,
        },
        {
            "workflowId": "report",
            "nodeId": "tick",
            "cron": "0 9 * * MON-FRI",
            "timezone": "Europe/Berlin",
            "catchUp": "latest",
            "nextDue": f"{due.astimezone(UTC):%Y-%m-%dT%H:%M:%S.000Z}",
            "state": "ACTIVE",
            "stateReason": None,
            "workflowState": "ACTIVE",
            "at": None,
        },
    ]


LET_IT_PASS = """
UPDATE triggers SET next_due = now() - interval '3 days',
    config = config || jsonb_build_object('at', (now() - interval '3 days')::text)
WHERE next_due IS NOT NULL
"""


def test_a_single_time_fires_once_also_after_an_outage_and_a_new_deploy(
    deploy: Callable[..., None],
    schedules: Schedules,
    start: Callable[..., object],
    client: WorkflowClient,
    sql: Sql,
) -> None:
    at = {"at": "2099-06-01T08:00", "timezone": "Europe/Berlin"}
    deploy(at)
    (shown,) = client.schedules()
    assert (shown.cron, shown.at, shown.catch_up) == (None, "2099-06-01T08:00", "latest")
    assert sql("SELECT next_due FROM triggers WHERE sub_type = 'scheduler'") == [
        (datetime(2099, 6, 1, 6, tzinfo=UTC),)
    ]
    assert schedules.fire_due(start) == 0

    sql(LET_IT_PASS)
    assert [schedules.fire_due(start), schedules.fire_due(start)] == [1, 0]
    assert len(sql(STARTS)) == 1
    assert sql("SELECT next_due FROM triggers WHERE sub_type = 'scheduler'") == [(None,)]


def test_a_single_time_that_has_passed_or_is_to_be_skipped_fires_nothing(
    deploy: Callable[..., None], schedules: Schedules, start: Callable[..., object], sql: Sql
) -> None:
    deploy({"at": "2001-06-01T08:00Z"}, workflow="passed")
    deploy({"at": "2099-06-01T08:00Z", "catchUp": "skip"})
    sql(LET_IT_PASS)

    assert schedules.fire_due(start) == 0
    assert sql("SELECT count(*) FROM triggers WHERE next_due IS NOT NULL") == [(0,)]
