"""Three timekeepers, a process each, fire what came due while all were away and the clocks changed.

The clocks of Europe/Berlin went from 2:00 to 3:00 on 2024-03-31 and from 3:00 back to 2:00 on 2024-10-27.
Each schedule is put back to its first time; `end` keeps it within these days, whenever the test is run.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from multiprocessing.synchronize import Barrier
from typing import Any

from support.broker import Broker
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

TIMEKEEPERS = 3
ROUNDS = 10
MEETING_TIMEOUT = 30.0

DUE = {
    # A fixed time of day that is left out fires right after the gap; one that comes twice, the first time.
    ("30 2 * * *", "2024-03-30", "2024-04-01T23:00"): [
        "2024-03-30T01:30:00Z",
        "2024-03-31T01:00:00Z",
        "2024-04-01T00:30:00Z",
    ],
    ("30 2 * * *", "2024-10-26", "2024-10-28T23:00"): [
        "2024-10-26T00:30:00Z",
        "2024-10-27T00:30:00Z",
        "2024-10-28T01:30:00Z",
    ],
    # One that the change leaves alone keeps its time of day, 23 or 25 hours after the last.
    ("0 9 * * *", "2024-03-30", "2024-03-31T23:00"): ["2024-03-30T08:00:00Z", "2024-03-31T07:00:00Z"],
    ("0 9 * * *", "2024-10-26", "2024-10-27T23:00"): ["2024-10-26T07:00:00Z", "2024-10-27T08:00:00Z"],
    # An interval goes by the time that passes: it skips no time, and an hour that comes twice has them all.
    ("*/30 * * * *", "2024-03-31T01:00", "2024-03-31T03:30"): [
        "2024-03-31T00:00:00Z",
        "2024-03-31T00:30:00Z",
        "2024-03-31T01:00:00Z",
        "2024-03-31T01:30:00Z",
    ],
    ("*/30 * * * *", "2024-10-27T01:30", "2024-10-27T03:00"): [
        "2024-10-26T23:30:00Z",
        "2024-10-27T00:00:00Z",
        "2024-10-27T00:30:00Z",
        "2024-10-27T01:00:00Z",
        "2024-10-27T01:30:00Z",
        "2024-10-27T02:00:00Z",
    ],
}
"""All due times, in UTC, by cron expression, beginning and end, both in Berlin."""

MADE_UP = {"all": slice(None), "latest": slice(-1, None), "skip": slice(0)}
"""Which of the missed times are made up."""


def test_three_timekeepers_fire_each_time_once_over_a_change_of_the_clocks(
    settings: Settings, client: WorkflowClient, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    expected: list[tuple[str, str, int]] = []
    for number, ((cron, start, end), due) in enumerate(DUE.items()):
        for catch_up, made_up in MADE_UP.items():
            workflow_id = f"{catch_up}-{number}"
            config = {"cron": cron, "timezone": "Europe/Berlin", "start": start, "end": end}
            deploy_schedule(client, workflow_id, {**config, "catchUp": catch_up})
            came_due(sql, workflow_id, due[0])
            expected += [(workflow_id, time, 1) for time in due[made_up]]

    together = multiprocessing.get_context("spawn")
    arguments = (together.Barrier(TIMEKEEPERS),)
    with ProcessPoolExecutor(TIMEKEEPERS, together, initializer=_meet_at, initargs=arguments) as processes:
        timekeepers = [processes.submit(_keep_time, settings) for _ in range(TIMEKEEPERS)]
        published = [timekeeper.result() for timekeeper in timekeepers]

    started = sql("SELECT workflow_id, trigger_data->>'scheduledFor', count(*) FROM executions GROUP BY 1, 2")
    assert sorted(started) == sorted(expected)
    assert sum(published) == len(expected), "each with one message"
    assert sql("SELECT count(*) FROM triggers WHERE next_due IS NOT NULL") == [(0,)], "all have ended"


def deploy_schedule(client: WorkflowClient, workflow_id: str, config: dict[str, Any]) -> None:
    flow = WorkflowBuilder(workflow_id)
    flow.trigger("tick", sub_type="scheduler", config=config) >> flow.function("answer", 1)
    client.deploy(flow.build())


def came_due(sql: Callable[..., Any], workflow_id: str, first: str) -> None:
    """Return whether all schedules came due, as if the fleet had been away from this due time on."""
    time = datetime.fromisoformat(first)
    sql("UPDATE triggers SET next_due = %s WHERE workflow_id = %s", time, workflow_id)


# -- in the three processes --------------------------------------------------------------------------------

_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603  # a barrier can only be handed over while the process begins
    _barrier = barrier


def _keep_time(settings: Settings) -> int:
    """Run a worker's timekeeper at the same time as the others, and return the number of its messages."""
    broker = Broker()
    timekeeping = Timekeeping(Engine.assemble(settings, dispatcher=broker))
    for _ in range(ROUNDS):
        _barrier.wait(MEETING_TIMEOUT)
        timekeeping.round()
    return len(broker.messages)
