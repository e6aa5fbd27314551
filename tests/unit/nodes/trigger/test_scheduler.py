"""The scheduler trigger fires the due times that its config asks for, in their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.node_runs import problems, run
from workflow_engine.maintenance.schedules import time_to_fire
from workflow_engine.nodes.results import success
from workflow_engine.nodes.trigger.scheduler import NODE_TYPE, SchedulerConfig

NINE = {"cron": "0 9 * * *"}
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
GRACE = timedelta(seconds=60)


def config(**given: Any) -> SchedulerConfig:
    return SchedulerConfig.model_validate({"cron": "0 * * * *", **given})


@pytest.mark.parametrize(
    "given",
    [
        NINE,
        {**NINE, "timezone": "Europe/Berlin", "start": "2026-01-01", "end": "2026-12-31T23:59:59+01:00"},
        {**NINE, "catchUp": "all", "data": {"report": "daily"}, "schema": {"required": ["report"]}},
        {"at": "2026-12-24T18:00", "timezone": "Europe/Berlin", "catchUp": "skip"},
        {**NINE, "schema": {"required": ["scheduledFor"]}, "description": "every morning"},
    ],
)
def test_a_sound_schedule_has_no_problems(given: dict[str, Any]) -> None:
    assert problems(NODE_TYPE, given) == []


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({}, "", "give either `cron`, for times that return, or `at`, for a single one"),
        ({**NINE, "at": "2026-01-01T08:00"}, "", "give either `cron`"),
        ({"at": "soon"}, "at", "'soon' is not a time in ISO 8601"),
        (
            {"at": "2026-01-01", "end": "2026-01-02"},
            "",
            "`at` is a single time, so `start` and `end` have no",
        ),
        ({"cron": "0 25 * * *"}, "cron", "the hour of '0 25 * * *' is invalid; write minute, hour"),
        ({"cron": "{{ when }}"}, "cron", "may not be an expression"),
        ({"cron": "@daily"}, "cron", "does not have five fields"),
        ({**NINE, "timezone": "Europe/Berln"}, "timezone", "'Europe/Berln' is no time zone"),
        ({**NINE, "start": "soon"}, "start", "'soon' is not a time in ISO 8601"),
        ({**NINE, "end": "2026-13-01"}, "end", "is not a time in ISO 8601"),
        ({**NINE, "start": "2026-02-01", "end": "2026-01-01"}, "", "it ends, 2026-01-01, before it starts"),
        ({**NINE, "catchUp": "some"}, "catchUp", "must be 'skip', 'latest' or 'all', not 'some'"),
        ({**NINE, "data": {"day": "{{ now() }}"}}, "data", "contains an expression, which is not evaluated"),
        ({**NINE, "data": {"scheduledFor": 1}}, "data", "'scheduledFor' is set by the engine"),
        (
            {**NINE, "schema": {"required": ["id"]}},
            "",
            "`schema` rejects the data that it starts with: data: 'id'",
        ),
        ({**NINE, "timezon": "UTC"}, "timezon", "did you mean 'timezone'?"),
    ],
)
def test_a_schedule_that_could_not_work_is_refused(given: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems(NODE_TYPE, given)

    assert problem.path == path
    assert message in problem.message


def test_its_output_is_the_data_it_was_started_with() -> None:
    assert run(NODE_TYPE, NINE, {"placed": {"scheduledFor": "2026-06-01T09:00:00Z"}}) == success(
        {"scheduledFor": "2026-06-01T09:00:00Z"}
    )


@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
def test_a_time_that_has_just_come_is_fired_under_every_policy_for_missed_ones(catch_up: str) -> None:
    assert time_to_fire(config(catchUp=catch_up), NOON, NOON + timedelta(seconds=3), GRACE) == NOON


@pytest.mark.parametrize(
    ("catch_up", "hours"),
    [
        ("skip", [13]),
        ("latest", [12, 13]),
        ("all", [9, 10, 11, 12, 13]),
    ],
)
def test_missed_times_are_passed_over_or_made_up_as_configured(catch_up: str, hours: list[int]) -> None:
    plan, now = config(catchUp=catch_up), NOON + timedelta(minutes=20)
    found = [time_to_fire(plan, NOON - timedelta(hours=3), now, GRACE)]
    while found[-1] is not None and found[-1] <= now:
        following = plan.schedule.next_after(found[-1])
        assert following is not None
        found.append(time_to_fire(plan, following, now, GRACE))

    assert [due.hour for due in found if due is not None] == hours


def test_a_time_within_the_grace_is_fired_even_if_those_before_it_are_passed_over() -> None:
    now = NOON + timedelta(seconds=40)

    assert time_to_fire(config(), NOON - timedelta(hours=3), now, GRACE) == NOON


def test_a_schedule_that_ended_during_an_outage_is_over() -> None:
    ended = config(end="2026-06-01T10:30:00Z")
    first, now = NOON - timedelta(hours=3), NOON

    assert time_to_fire(ended, first, now, GRACE) is None
    assert time_to_fire(ended.model_copy(update={"catch_up": "latest"}), first, now, GRACE) == NOON.replace(
        hour=10
    )
